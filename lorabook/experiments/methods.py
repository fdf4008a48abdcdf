"""The methods of the tables: what each makes of a pretrained model, and the optimiser that it brings.

    full         every weight, AdamW
    lora         PEFT's LoRA, AdamW
    lora_plus    the same with a larger rate for B (Hayou et al. 2024), PEFT's optimiser
    p_lora       the same with preconditioned forces (Zhang & Pilanci 2024)
    pissa        PEFT's start from the weights' own singular vectors (Meng et al. 2024)
    lora_ga      LoRA-GA's start as LoRA-One's code has it: B = c U_{r+1..2r}, A = c V_{1..r}^T with
                 c = m^{1/4} gamma^{-1/2}, and scale B A taken off the weight
    lora_one     LoRA-One's start as released, with or without preconditioned forces
    one_step     no training: one step along the gradient of a few examples, its size searched by their loss; or along
                 the gradient's best rank-r part in the adapted modules
    pretrained   no training and no step

PEFT has a LoRA-GA of its own, whose factors hold singular values, which those of the released code do not.

Source: the authors' code, commit 01bba05, run_exp.py and lora_plus.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lorabook import checks
from lorabook.adapters.full_gradient import reduced
from lorabook.adapters.preconditioned import PreconditionedAdamW
from lorabook.adapters.recipe import at
from lorabook.adapters.start import put_in, without_adapters
from lorabook.adapters.targets import targets
from lorabook.experiments import ExperimentError
from lorabook.experiments.points import ADAPTED, METHODS, STEPPED
from lorabook.linalg import truncate
from lorabook.lora_one.starts import lora_ga_init


@dataclass
class Ready:
    """A model that can be trained, or only be measured."""

    model: nn.Module
    optimizer: torch.optim.Optimizer | None = None  # None where the Trainer's own AdamW will do
    callbacks: list = field(default_factory=list)
    trains: bool = True
    notes: dict = field(default_factory=dict)  # what was found on the way, for the result


def ready(method: str, model: nn.Module, settings: Any, rank: int | None, rate: float, batches: Callable) -> Ready:
    """The model as the method starts it.

    Args:
        method: one of METHODS.
        model: the pretrained one; it is changed.
        settings: of the experiment, by name.
        rank: of the adapter, or of ``one_step_low_rank``.
        rate: the learning rate.
        batches: ``batches(examples)``, the first examples of the training set, each a batch of its own.

    Raises:
        ExperimentError: an unknown method.
        ValueError: as the start that is used.
    """
    if method not in METHODS:
        raise ExperimentError(f"There is no method {method!r}; there are {', '.join(METHODS)}.")
    if method in STEPPED:
        low = rank if method == "one_step_low_rank" else None
        return Ready(model, trains=False, notes=one_step(model, batches(settings["start_examples"]), settings, low))
    if method not in ADAPTED:
        return Ready(model, trains=method == "full")
    peft = checks.package("peft", "experiments")
    adapted = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=rank,
            lora_alpha=settings["alpha"],
            use_rslora=settings["rslora"],
            lora_dropout=settings["dropout"],
            target_modules=settings["modules"],
            init_lora_weights="pissa" if method == "pissa" else True,
        ),
    )
    found = Ready(adapted)
    decay = settings["weight_decay"]
    if method == "lora_plus":
        from peft.optimizers import create_loraplus_optimizer

        found.optimizer = create_loraplus_optimizer(
            adapted,
            torch.optim.AdamW,
            lr=rate,
            loraplus_lr_ratio=settings["lora_plus_ratio"],
            loraplus_weight_decay=decay,
        )
    if method == "lora_ga":
        lora_ga_(adapted, batches(settings["start_examples"]), settings["lora_ga_gamma"])
    if method.startswith("lora_one"):
        from lorabook.adapters.recipe import LoraOneCallback

        found.callbacks.append(
            LoraOneCallback(settings["gamma"], settings["start"], examples=settings["start_examples"])
        )
    if method == "p_lora" or method == "lora_one" and settings["preconditioned"]:
        found.optimizer = PreconditionedAdamW(adapted, rate, ridge=settings["ridge"], weight_decay=decay)
    return found


def lora_ga_(model: nn.Module, batches: list[dict], gamma: float) -> None:
    """LoRA-GA's start in place, as LoRA-One's released code has it: see the head of this page.

    Args:
        model: PEFT model with one LoRA adapter, on the pretrained weights.
        batches: each counts alike; the gradient is taken without dropout.
        gamma: > 0.

    Raises:
        ValueError: a module whose smaller dimension is below 2 r.
    """
    found = targets(model)

    def start(name: str, G: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        target = found[name]
        G = target.matrix(G).double()
        # the released code gives the leading directions to A; the slide, and the function, to B
        A, B = lora_ga_init(G.mT, target.B.shape[1], math.sqrt(len(G)) / gamma)
        return B.mT.to(target.B), A.mT.to(target.A), G[:1, 0]

    loss = lambda model, batch: model(**at(batch, next(model.parameters()).device)).loss
    with without_adapters(model):
        made = reduced(model, {name: target.weight for name, target in found.items()}, batches, start, loss=loss)
    put_in(model, None, found, made, True)


def one_step(model: nn.Module, batches: list[dict], settings: Any, rank: int | None = None) -> dict[str, Any]:
    """``W <- W - eta G`` in place, eta the one of ``step_sizes`` with the least mean loss over the batches.

    G is the mean of the batches' gradients, of every weight; with a rank, its best rank-r part in the adapted modules,
    and 0 elsewhere.  Everything is taken in training mode, as the released code does, with the same masks each time.

    Returns:
        ``step_size``, and ``losses`` by step size.
    """
    names = {f"{name}.weight" for name, _ in model.named_modules() if name.split(".")[-1] in settings["modules"]}
    weights = {name: one for name, one in model.named_parameters() if rank is None or name in names}
    model.train()

    def losses(backward: bool = False) -> float:
        with torch.random.fork_rng([one.index for one in {next(model.parameters()).device} if one.type == "cuda"]):
            torch.manual_seed(0)
            total = 0.0
            for batch in batches:
                loss = model(**at(batch, next(model.parameters()).device)).loss / len(batches)
                if backward:
                    loss.backward()
                total += float(loss.detach())
        return total

    losses(backward=True)
    step = {name: one.grad.detach().clone() for name, one in weights.items() if one.grad is not None}
    model.zero_grad(set_to_none=True)
    if rank is not None:
        step = {name: truncate(G.double(), rank).to(G.dtype) for name, G in step.items()}
    before = {name: weights[name].detach().clone() for name in step}

    @torch.no_grad()
    def move(eta: float) -> None:
        for name, G in step.items():
            weights[name].copy_(before[name] - eta * G)

    found = {}
    for eta in settings["step_sizes"]:
        move(eta)
        with torch.no_grad():
            found[eta] = losses()
    # a step that ends in no number is worse than any other
    best = min(found, key=lambda eta: found[eta] if math.isfinite(found[eta]) else math.inf)
    move(best)
    return {"step_size": best, "losses": [[eta, loss] for eta, loss in found.items()]}
