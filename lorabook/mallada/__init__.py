"""Xu et al. as Mallada tells it: the two phases of LoRA on a two-layer linear network.

One idea per file:

- ``problem``: the objective, its gradient flow, and what a rank-one shift meets in the weights;
- ``planted``: random problems, and LoRA's starts on them;
- ``dynamics``: the linearised solution, the flow, the stiff tail, gradient descent, the invariants;
- ``observables``: singular triplets, alignment, imbalance and their exact speeds;
- ``scalar``: the growth phase in closed form, the losing adapter, the tangent kernel;
- ``selection``: the speed at which one adapter leaves the other behind;
- ``exponents``: powers of the start's size, measured, predicted and printed;
- ``network``: the stand-in for the talk's ViT; ``runs``: the experiments of the pages;
- ``proofs``: statements proved by machine.

House letters: ``sigma_W2`` of the talk is ``||W2^T u||`` here, and ``T_c = c log(1/alpha) / s1``.
"""

from lorabook.mallada import exponents
from lorabook.mallada.dynamics import descend, flow, invariants, linear_solution, stiff_flow
from lorabook.mallada.observables import (
    Observation,
    general_alignment,
    misalignment,
    observe,
    one_sided,
    printed_turn,
    right_turn,
    shares,
    speeds,
)
from lorabook.mallada.planted import generic, isotropic, starts
from lorabook.mallada.problem import (
    Factors,
    Mode,
    TwoLayer,
    growth_rates,
    loss,
    mode,
    terms,
    update,
    velocity,
)
from lorabook.mallada.scalar import half_time, losing_size, scalar_product, tangent_kernel
