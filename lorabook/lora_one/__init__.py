"""Zhang, Liu & Chen, *LoRA-One* (slides; ICML 2025, arXiv 2502.01235).

One idea per file:

- ``problem``: the regression, its gradients, the exact reduction to small dimensions;
- ``starts``: where the factors start, and the published forms of Algorithm 1;
- ``dynamics``: descent, the linear phase, unequal steps;
- ``alignment``: what Theorems 3.1 and 3.2 measure, and its prediction;
- ``rates``: the linearised dynamics near the solution, and fits;
- ``peers``: methods under equal conditions;
- ``planted``: problems with a planted shift;
- ``toys``: the two small examples of the talk;
- ``tables``: what the published tables allow;
- ``runs``: the experiments of the pages; ``proofs``: statements proved by machine.

House letters: B (d, r), A (r, k), update ``B A``; the source writes A for B and B for A.
"""

from lorabook.lora_one import alignment, peers, planted, rates, runs, tables, toys
from lorabook.lora_one.dynamics import (
    Run,
    descend,
    largest_sine,
    leading_left,
    linear_phase,
    linear_residual,
    row_leak,
    trajectory,
)
from lorabook.lora_one.problem import (
    Regression,
    distance,
    forces,
    loss,
    loss_floor,
    mean_relu_gradient,
    negative_gradient,
    offset,
    reduced,
    relu_bias,
)
from lorabook.lora_one.starts import FORMS, algorithm_start, lora_ga_init, lora_init, pissa_init, spectral_init
