"""One dynamics: what the four sources share, each with its own letters.

Three pages of mathematics, and the only rooms that know more than one source:

- ``early``: the linear phase, by one routine on all four problems, against each source's own dynamics;
- ``course``: what follows: one scalar exchange, six starts on one problem, and three races;
- ``angles``: when the gradient's direction is the target's, and by how much it is not.
"""

from lorabook.one_dynamics.angles import mean_sampled_sine_squared, relu_sine, sine, worst_direction, worst_sine
from lorabook.one_dynamics.course import (
    Race,
    adapter_race,
    factor_flow,
    learnt,
    minimum_race,
    regression_flow,
    regression_forces,
    six_starts,
    subspace_race,
)
from lorabook.one_dynamics.early import Early, landscape_early, linear, misfit, regression_early, trace_early, two_layer_early

__all__ = [
    "Early", "Race", "adapter_race", "factor_flow", "landscape_early", "learnt", "linear", "mean_sampled_sine_squared",
    "minimum_race", "misfit", "regression_early", "regression_flow", "regression_forces", "relu_sine", "sine", "six_starts",
    "subspace_race", "trace_early", "two_layer_early", "worst_direction", "worst_sine",
]
