"""One dynamics: what the four sources share, each with its own letters.

Four pages of mathematics and their proofs, in a room that knows more than one source:

- ``early``: the linear phase, by one routine on all four problems, against each source's own dynamics;
- ``course``: what follows: one scalar exchange, and six starts on one problem;
- ``races``: which adapter, subspace or minimum is selected;
- ``angles``: when the gradient's direction is the target's, and by how much it is not;
- ``proofs``: these statements, proved by machine.
"""

from lorabook.one_dynamics.angles import (
    exact_relu_sine,
    mean_sampled_sine_squared,
    relu_sine,
    sampled_sine_squared,
    sine,
    square_root,
)
from lorabook.one_dynamics.course import factor_flow, landscape_flow, learnt, regression_flow, six_starts
from lorabook.one_dynamics.early import (
    Early,
    landscape_early,
    linear,
    misfit,
    regression_early,
    trace_early,
    two_layer_early,
)
from lorabook.one_dynamics.races import KINDS, Race, adapter_race, minimum_race, staged_race, subspace_race
