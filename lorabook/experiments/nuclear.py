"""Kim, Kim and Ryu's training: proximal SGD on the query and value matrices, and the factors that replace them.

    W <- W - eta G,   X = W - W0,   W <- W0 + prox_{eta lambda ||.||_*}(X)        after every step
    W = W0 + B A with SGD and weight decay lambda on both factors                 lambda / 2 (||A||^2 + ||B||^2)

Source: appendix C.1 and C.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lorabook import checks
from lorabook.device import generator, normal
from lorabook.experiments import ExperimentError
from lorabook.experiments.points import STARTS


def tuned(model: nn.Module, modules: list[str]) -> dict[str, nn.Parameter]:
    """The weights of the modules whose names end in one of these, by name; all others are frozen.

    Raises:
        ExperimentError: there are none.
    """
    ends = tuple(f".{one}" for one in modules)  # PEFT reads its target_modules so
    found = {f"{name}.weight": one.weight for name, one in model.named_modules() if f".{name}".endswith(ends)}
    if not found:
        raise ExperimentError(f"The model has no modules {', '.join(modules)}.")
    for one in model.parameters():
        one.requires_grad_(False)
    for one in found.values():
        one.requires_grad_(True)
    return found


class ProximalSGD:
    """torch's SGD, and the proximal map of the nuclear norm of the change after every step.

    Args:
        weights: matrices by name, at the pretrained values.
        rate: the learning rate; the proximal map takes the one of the step.
        decay: lambda >= 0; at 0 it is plain SGD.
        momentum: of SGD.
    """

    def __init__(self, weights: dict[str, nn.Parameter], rate: float, decay: float, momentum: float = 0.0):
        self.weights, self.decay = weights, decay
        self.before = {name: one.detach().clone() for name, one in weights.items()}
        self.optimizer = torch.optim.SGD(list(weights.values()), lr=rate, momentum=momentum)
        if decay > 0:
            self.optimizer.register_step_post_hook(self._proximal)

    @torch.no_grad()
    def _proximal(self, optimizer: Any, *_: Any) -> None:
        tau = optimizer.param_groups[0]["lr"] * self.decay
        for names in _by_shape(self.weights).values():
            X = torch.stack([self.weights[name] - self.before[name] for name in names]).double()
            for name, new in zip(names, shrunk(X, tau)):
                self.weights[name].copy_(self.before[name] + new.to(self.before[name].dtype))

    def values(self) -> dict[str, Tensor]:
        """The singular values of every change, descending, float64; 0 where the rounding of the weight can be all.

        A weight W that is rounded to its precision is off by at most ``eps / 2 ||W||_F`` in this norm.
        """
        found = {}
        for name, one in self.weights.items():
            s = torch.linalg.svdvals((one - self.before[name]).detach().double())
            rounding = torch.finfo(one.dtype).eps / 2 * float(one.detach().norm())
            found[name] = torch.where(s > rounding, s, 0.0)
        return found


def shrunk(X: Tensor, tau: float) -> Tensor:
    """:func:`lorabook.kim.proximal.prox_nuclear` from the eigenvectors of ``X^T X``: half its time.

    Args:
        X: (..., m, n) float64.  tau: > 0.

    Error: ``eps s_1 / tau``, relative to the largest singular value s_1: below float32's while ``tau > 1e-8 s_1``.
    """
    squares, V = torch.linalg.eigh(X.mT @ X)
    kept = (1 - tau / squares.clamp(min=tau**2).sqrt()).clamp(min=0)
    return X @ (V * kept[..., None, :]) @ V.mT


def _by_shape(weights: dict[str, nn.Parameter]) -> dict[torch.Size, list[str]]:
    """Names of weights that can be stacked."""
    found: dict[torch.Size, list[str]] = {}
    for name, one in weights.items():
        found.setdefault(one.shape, []).append(name)
    return found


def ranks(values: dict[str, Tensor], cut: float) -> dict[str, int]:
    """How many singular values are above ``cut`` times the largest of their matrix; 0 for the zero matrix."""
    return {name: int(((s > cut * s[0]) & (s > 0)).sum()) for name, s in values.items()}


def factored(model: nn.Module, settings: Any, rank: int, start: str, seed: int) -> nn.Module:
    """A PEFT model whose factors start as in appendix C.3.

    Args:
        model: the pretrained one.
        settings: of the experiment; ``starts`` and ``large_start`` are standard deviations of both factors.
        start: one of STARTS, or a standard deviation; ``zero`` is Kaiming uniform for A and 0 for B.
        seed: of the Gaussian starts.
    """
    number = start.replace(".", "").replace("e-", "").isdigit()
    if start not in STARTS and not number:
        raise ExperimentError(f"There is no start {start!r}; there are {', '.join(STARTS)}, or a size.")
    peft = checks.package("peft", "experiments")
    config = peft.LoraConfig(r=rank, lora_alpha=settings["alpha"] * rank, target_modules=settings["modules"])
    adapted = peft.get_peft_model(model, config)
    if start != "zero":
        named = lambda: settings["large_start"] if start == "large" else settings["starts"][int(start[-1]) - 1]
        size = float(start) if number else named()
        source = generator(seed)
        with torch.no_grad():
            for name, one in adapted.named_parameters():
                if "lora_" in name:
                    one.copy_(size * normal(tuple(one.shape), source, one.device))
    return adapted


def products(model: nn.Module) -> dict[str, Tensor]:
    """The singular values of every ``scale * B A`` of a PEFT model, descending, float64."""
    from lorabook.adapters.targets import targets

    with torch.no_grad():
        return {
            name: torch.linalg.svdvals(one.scale * one.B.double() @ one.A.double())
            for name, one in targets(model).items()
        }


class Course:
    """The ranks after every epoch, written into the Trainer's own history, which its checkpoints hold.

    Args:
        values: the singular values of every matrix by name.
        cut: of :func:`ranks`.
    """

    def __init__(self, values: Callable[[], dict[str, Tensor]], cut: float):
        self.values, self.cut = values, cut

    def callback(self) -> Any:
        """For a Trainer: an entry ``rank`` (the largest), ``first_value_rank`` and ``norm`` after every epoch."""

        def on_epoch_end(_, args, state, control, **others):
            values = self.values()
            found = ranks(values, self.cut)
            first = next((rank for name, rank in found.items() if "value" in name or "v_proj" in name), None)
            norm = float(sum((s**2).sum() for s in values.values()) ** 0.5)
            entry = {"rank": max(found.values()), "first_value_rank": first, "norm": norm}
            state.log_history.append({"epoch": state.epoch, "step": state.global_step, **entry})

        base = checks.package("transformers", "experiments").TrainerCallback
        return type("CourseCallback", (base,), {"on_epoch_end": on_epoch_end})()
