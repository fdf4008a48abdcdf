"""Kim, Kim & Ryu, *LoRA Training Provably Converges to a Low-Rank Global Minimum or It Fails Loudly*.

One file per idea:

- ``problem``: quadratic losses and the family in which everything is known;
- ``landscape``: the factored objective, its gradient, Hessian and stationary points;
- ``train``: descent on the factors, many starts at once, each with a status;
- ``proximal``: the full problem with the nuclear norm;
- ``theorem``: Theorems 1, 2, 3, A.1, Corollary 1, and the proof inequality by inequality;
- ``constants``: restricted strong convexity and smoothness, exact, sampled and hunted;
- ``laboratory``: named instances, random problems, trap rates;
- ``survey``: the theorem held against every point that many starts reach;
- ``lemmas``: Lemmas B.1 and B.2;
- ``decay``: Lemma 1, and AdamW;
- ``network``: a small real network; ``checkpoint``: a certificate, and the way out of a trap.

House letters: the update is ``B @ A``; the paper writes ``A B^T``.
"""

from lorabook.kim import checkpoint
from lorabook.kim.checkpoint import Certificate, append_pair, certificate, gap_to_full, restart_with_rank
from lorabook.kim.constants import convexity_quotient, exact_constants, hunt, monte_carlo, sample, smoothness_quotient
from lorabook.kim.decay import SGD, adam, one_step, rank_bound, stochastic_descent
from lorabook.kim.laboratory import (
    INSTANCES,
    Batch,
    Known,
    Rate,
    coupled,
    family_ratio,
    instance,
    random_batch,
    random_quadratic,
    spurious,
    tightest,
    trap_rate,
    trap_rates,
    wilson,
)
from lorabook.kim.landscape import Stationarity, factored_gradient, factored_hessian, full_objective, objective, stationarity
from lorabook.kim.lemmas import aligned_gap, orthogonal_part, shared_rotation
from lorabook.kim.network import Network, digits
from lorabook.kim.problem import DecoyFamily, Quadratic, decoy_family
from lorabook.kim.proximal import Proximal, numerical_rank, prox_nuclear, proximal_gradient, rank_path, redecayed, solve
from lorabook.kim.survey import Run, corollary_violations, late, points, slacks, survey, worst_norm_ratio, worst_ratio
from lorabook.kim.theorem import Spine, Theorem1, approximate_slack, bound, least_norm, several_slack, sharper_norm, spine, theorem_1
from lorabook.kim.train import DONE, SADDLE, UNCONVERGED, Trained, line_search, starts, train

__all__ = [
    "DONE",
    "INSTANCES",
    "SADDLE",
    "SGD",
    "UNCONVERGED",
    "Batch",
    "Certificate",
    "DecoyFamily",
    "Known",
    "Network",
    "Proximal",
    "Quadratic",
    "Rate",
    "Run",
    "Spine",
    "Stationarity",
    "Theorem1",
    "Trained",
    "adam",
    "aligned_gap",
    "append_pair",
    "approximate_slack",
    "bound",
    "certificate",
    "checkpoint",
    "convexity_quotient",
    "corollary_violations",
    "coupled",
    "decoy_family",
    "digits",
    "exact_constants",
    "factored_gradient",
    "factored_hessian",
    "family_ratio",
    "full_objective",
    "gap_to_full",
    "hunt",
    "instance",
    "late",
    "least_norm",
    "line_search",
    "monte_carlo",
    "numerical_rank",
    "objective",
    "one_step",
    "orthogonal_part",
    "points",
    "prox_nuclear",
    "proximal_gradient",
    "random_batch",
    "random_quadratic",
    "rank_bound",
    "rank_path",
    "redecayed",
    "restart_with_rank",
    "sample",
    "several_slack",
    "shared_rotation",
    "sharper_norm",
    "slacks",
    "smoothness_quotient",
    "solve",
    "spine",
    "spurious",
    "starts",
    "stationarity",
    "stochastic_descent",
    "survey",
    "theorem_1",
    "tightest",
    "train",
    "trap_rate",
    "trap_rates",
    "wilson",
    "worst_norm_ratio",
    "worst_ratio",
]
