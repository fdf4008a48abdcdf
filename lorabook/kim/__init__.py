"""Kim, Kim & Ryu, *LoRA Training Provably Converges to a Low-Rank Global Minimum or It Fails Loudly*.

One file per idea:

- ``problem``: quadratic losses and the family in which everything is known;
- ``landscape``: the factored objective, its gradient, Hessian and stationary points;
- ``descent``: descent on the factors, many starts at once, each with a status;
- ``proximal``: the full problem with the nuclear norm;
- ``theorem``: Theorems 1, 2, 3, A.1, Corollary 1, and the proof inequality by inequality;
- ``constants``: restricted strong convexity and smoothness, exact, sampled and hunted;
- ``laboratory``: named instances and random problems;
- ``runs``: trap rates, and the theorem held against every point that many starts reach;
- ``lemmas``: Lemmas B.1 and B.2; ``proofs``: our own statements, proved by machine;
- ``decay``: Lemma 1, and AdamW;
- ``network``: a small real network; ``certificate``: of a checkpoint, and the way out of a trap.

What other programs call has a short name here; the rest is called by its module: ``kim.laboratory.instance``.

House letters: the update is ``B @ A``; the paper writes ``A B^T``.
"""

from lorabook.kim import (
    certificate,
    constants,
    decay,
    descent,
    laboratory,
    landscape,
    lemmas,
    network,
    problem,
    proximal,
    runs,
    theorem,
)
from lorabook.kim.descent import train
from lorabook.kim.landscape import stationarity
from lorabook.kim.problem import Quadratic, decoy_family
from lorabook.kim.proximal import prox_nuclear, proximal_gradient
from lorabook.kim.theorem import theorem_1

__all__ = [
    "Quadratic",
    "certificate",
    "constants",
    "decay",
    "decoy_family",
    "descent",
    "laboratory",
    "landscape",
    "lemmas",
    "network",
    "problem",
    "prox_nuclear",
    "proximal",
    "proximal_gradient",
    "runs",
    "stationarity",
    "theorem",
    "theorem_1",
    "train",
]
