"""Kim, Kim and Ryu's five starts on one matrix of MiniLM, taken to their end: half a minute for each.

The last value matrix, W0 + B A with factors of rank 8, on a few sentences, under a head that was trained before.
"""

from __future__ import annotations

import warnings

import torch

from lorabook import checks, kim
from lorabook.device import default_device, generator
from lorabook.experiments import ExperimentError
from lorabook.experiments.minilm_settings import Here, split, values
from lorabook.experiments.minilm_tables import read
from lorabook.experiments.one_matrix import OneMatrix, settle
from lorabook.experiments.points import STARTS
from lorabook.experiments.shelf import quiet

STEPS = {"soon": 6, "late": 200}  # of L-BFGS
ROWS = 32  # sentences, the first ones
CUT = 1e-2  # of the rank


def problem(device=None) -> OneMatrix:
    """The loss of the last value matrix, under the head of the table ``head``.

    Raises:
        ImportError: transformers is not installed.
        WeightsError, SentencesError: the weights or sentences are not there.
    """
    with warnings.catch_warnings(action="ignore"):  # that a notebook has no widgets
        transformers = checks.package("transformers", "experiments")
    quiet()
    device = default_device() if device is None else device
    here = Here()
    model = here.pretrained(transformers.AutoModelForSequenceClassification, "", None, num_labels=2)
    told = torch.tensor([[row["negative"], row["positive"]] for row in read("head")])
    model.classifier.load_state_dict({"weight": told[:-1].mT, "bias": told[-1]})
    model.to(device, torch.float64)  # in float32 rounding decides what a line search takes, and so all that follows
    rows = split("train")[:ROWS]
    tokenizer = here.pretrained(transformers.AutoTokenizer, "", None)
    batch = dict(tokenizer([row["sentence"] for row in rows], padding=True, return_tensors="pt"))
    batch["labels"] = torch.tensor([row["label"] for row in rows])
    before = model.base_model.encoder.layer[-1].attention.self.value.weight.detach().clone()
    return OneMatrix(model, "value", before, [batch], values()["factored_decay"])


def course(problem: OneMatrix, start: str) -> list[dict]:
    """Where factors are after the numbers of STEPS, from one of ``lorabook.experiments.points.STARTS``.

    Returns:
        for each ``start``, ``when``, ``steps``; ``objective``, ``rank``, ``norm``; ``slope`` and ``excess``, which the
        certificate of :mod:`lorabook.kim` says.

    Raises:
        ExperimentError: an unknown start.
    """
    if start not in STARTS:
        raise ExperimentError(f"There is no start {start!r}; there are {', '.join(STARTS)}.")
    settings, n = values(), problem.shape[1]
    sizes = dict(zip(("small_1", "small_2", "small_3"), settings["starts"]), large=settings["large_start"])
    kind, size = ("gaussian", sizes[start]) if start in sizes else ("zero", n**-0.5)
    rank, source = settings["ranks"][0], generator(settings["seeds"][0])
    B, A = (one[0] for one in kim.descent.starts(problem, rank, 1, size, source, kind, problem.M.device))
    found, done = [], 0
    for when, steps in STEPS.items():
        B, A = settle(problem, B, A, steps - done)
        done, X = steps, B @ A
        said = kim.certificate.certify(B, A, problem.gradient(X), problem.lam)
        found.append(
            {
                "start": start,
                "when": when,
                "steps": steps,
                "objective": float(kim.landscape.objective(problem, B, A)),
                "rank": int(kim.proximal.numerical_rank(X, CUT)),
                "norm": float(X.norm()),
                "slope": said.slope,
                "excess": said.excess,
            }
        )
    return found
