"""AdamW on preconditioned forces, for the LoRA factors of a model.

With ``W = W0 + c B A`` (PEFT's scale c), B (m, r), A (r, n) and ``G = dL/dW``, the gradients ``c G A^T`` and
``c B^T G`` are replaced, before AdamW sees them, by

    c^{-2} (c G A^T) (A A^T + ridge I)^{-1}        for B
    c^{-2} (B^T B + ridge I)^{-1} (c B^T G)        for A

A small plain step along them moves c B A by ``G P_A + P_B G``, the gradient between the projections on A's rows and
B's columns: it depends neither on how the update is split into factors, nor on c.  AdamW, which acts entry by entry,
keeps the second property but for its epsilon, and not the first.

Both forces are taken at the same iterate; the authors' code moves A first.  PEFT's ``create_riemannian_optimizer``
has the same forces without ``c^{-2}`` and a default ridge of 1e-2.

Source: Zhang & Pilanci 2024; Tong, Ma & Chi 2021.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lorabook import checks

RATE = 2e-4  # of LoRA-One's released run
RIDGE = 1e-6  # of its configuration (prec_reg), and of Zhang & Pilanci's code


class Pair(NamedTuple):
    """The factors of one update; E experts side by side, which PEFT keeps in one pair, have E updates."""

    A: nn.Parameter  # (E r, n), expert after expert; of a convolution (r, n, ...)
    B: nn.Parameter  # (m, r E), the experts innermost; of a convolution (m, r, ...)
    scale: float  # c
    experts: int  # E, usually 1


class PreconditionedAdamW(torch.optim.AdamW):
    """AdamW whose steps on LoRA's factors follow the forces of this page; other parameters get plain AdamW.

    Every adapter of the model is covered, also one that is activated later if its factors are among the parameters.
    Gradient clipping and scaling come before: they act on the plain gradients, which are left as they were.

    Args:
        model: a PEFT model with LoRA, or any module with PEFT's LoRA layers inside.
        lr: the learning rate.
        ridge: > 0.  Large, the forces are the gradients; small, they are those of the best step.
        params: parameters or groups, as for any optimiser; default all that require gradients.  A group may carry a
            ridge of its own.
        weight_decay: decoupled, 0 as in the released run.
        options: the others of ``torch.optim.AdamW``.

    Raises:
        ValueError: no module, no LoRA factors in it or none that trains, factors that are split over devices or stored
            in float16, a scale of 0, a ridge that is not positive.

    Error:
        Gram matrices and their inverses are float64 (float32 where a device has no other).
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float | Tensor = RATE,
        *,
        ridge: float = RIDGE,
        params: Iterable | None = None,
        weight_decay: float = 0.0,
        **options: Any,
    ):
        checks.positive(ridge, "The ridge")
        self.pairs = pairs(model)
        factors = {id(factor) for pair in self.pairs.values() for factor in pair[:2]}
        wanted = [one for one in model.parameters() if one.requires_grad] if params is None else list(params)
        # torch has its own words for an empty list
        if wanted:
            super().__init__(wanted, lr, weight_decay=weight_decay, **options)
        if not wanted or not any(id(one) in factors for group in self.param_groups for one in group["params"]):
            raise ValueError(
                "No LoRA factor is among the parameters to train: PEFT loads adapters frozen unless is_trainable=True."
            )
        # not among the defaults before, which AdamW writes itself
        self.defaults["ridge"] = ridge
        for group in self.param_groups:
            checks.positive(group.setdefault("ridge", ridge), "The ridge")

    def step(self, closure: Callable | None = None):
        """One step of AdamW along the forces; the gradients are as they were afterwards."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        before = []
        try:
            for factor, force in self.forces():
                before.append((factor, factor.grad))
                factor.grad = force
            # torch wraps a class's step to call the hooks, which this class's own has called already
            bare = inspect.unwrap(torch.optim.AdamW.step, stop=lambda step: not getattr(step, "hooked", False))
            bare(self)
        finally:
            for factor, gradient in before:
                factor.grad = gradient
        return loss

    @torch.no_grad()
    def forces(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Every factor that has a gradient, with its preconditioned gradient, in the factor's shape and dtype."""
        ridges = {id(one): group["ridge"] for group in self.param_groups for one in group["params"]}
        todo: dict[tuple, list] = {}
        for pair in self.pairs.values():
            for own, other in ((pair.A, pair.B), (pair.B, pair.A)):
                if own.grad is not None and id(own) in ridges:
                    wide = other.to(torch.float32 if other.device.type == "mps" else torch.float64)
                    gram = _gram(wide, other is pair.B, pair.experts)
                    todo.setdefault((gram.shape[-1], gram.device), []).append((own, pair, gram, ridges[id(own)]))
        found = []
        for (rank, device), jobs in todo.items():
            grams = torch.cat([gram for _, _, gram, _ in jobs])
            ridge = torch.cat([gram.new_full((len(gram),), ridge) for _, _, gram, ridge in jobs])
            # a ridge below the rounding of the Gram matrix would not keep it positive
            least = rank * torch.finfo(grams.dtype).eps * grams.diagonal(dim1=-2, dim2=-1).sum(-1)
            eye = torch.eye(rank, dtype=grams.dtype, device=device)
            root = torch.linalg.cholesky_ex(grams + (ridge + least)[:, None, None] * eye).L
            inverses = torch.cholesky_inverse(root).split([len(gram) for _, _, gram, _ in jobs])
            for (own, pair, _, _), inverse in zip(jobs, inverses):
                inverse = (inverse / pair.scale**2).to(torch.promote_types(own.dtype, torch.float32))
                force = _applied(inverse, own.grad.to(inverse.dtype), own is pair.B, pair.experts)
                found.append((own, force.reshape(own.shape).to(own.dtype)))
        return found

    def __getstate__(self):
        return super().__getstate__() | {"pairs": self.pairs}

    def __setstate__(self, state):
        super().__setstate__(state)
        # the state of a plain AdamW is accepted: it has all but the ridge
        for group in self.param_groups:
            group.setdefault("ridge", self.defaults["ridge"])


def pairs(model: nn.Module, adapters: Iterable[str] | None = None) -> dict[str, Pair]:
    """The LoRA factors in a model, by layer and adapter; of all adapters, or of those named.

    Left out are pairs whose product is not ``B A``, as of grouped convolutions.

    Raises:
        ValueError: no module, no pairs, or pairs that cannot be used, as :class:`PreconditionedAdamW`.
    """
    LoraLayer = checks.package("peft", "real").tuners.lora.LoraLayer
    if not isinstance(model, nn.Module):
        raise ValueError(f"The PEFT model itself is needed, not its parameters; got {type(model).__name__}.")
    wanted = None if adapters is None else set(adapters)
    found = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        # the parts of a linear layer or convolution are modules, those of an embedding parameters; AdaLoRA, which puts
        # a diagonal between its factors, has parameters in the first place
        held = [
            (key, getattr(layer.lora_A[key], "weight", None), getattr(layer.lora_B[key], "weight", None))
            for key in layer.lora_A
        ] + [(key, layer.lora_embedding_A[key], layer.lora_embedding_B[key]) for key in layer.lora_embedding_A]
        for adapter, A, B in held:
            whole = isinstance(A, nn.Parameter) and isinstance(B, nn.Parameter)
            if not whole or (wanted is not None and adapter not in wanted):
                continue
            where, experts = f"{name} ({adapter})", int(getattr(layer, "num_experts", 1))
            if A.ndim < 2 or B.ndim < 2 or not A.numel() or not B.numel():
                raise ValueError(
                    f"The factors of {where} have shapes {tuple(A.shape)} and {tuple(B.shape)}: they are split over "
                    "devices (ZeRO-3, FSDP) and are needed whole; use ZeRO-2, DDP or one device."
                )
            if torch.float16 in (A.dtype, B.dtype):
                raise ValueError(
                    f"The factors of {where} are float16, which cannot hold the forces: let PEFT keep the adapter in "
                    "float32 (autocast_adapter_dtype=True)."
                )
            scale = float(layer.scaling[adapter])
            if scale == 0:
                raise ValueError(f"The adapter's scale at {where} is 0 (lora_alpha): its factors have no effect.")
            if _rows(A, False, experts).shape[1] == _rows(B, True, experts).shape[1]:
                found[where] = Pair(A, B, scale, experts)
    if not found:
        of = "" if wanted is None else f" of the adapter {' or '.join(sorted(wanted))}"
        raise ValueError(f"The model has no LoRA layer{of} with factors B and A: make it with peft.get_peft_model.")
    return found


def _rows(value: Tensor, is_B: bool, experts: int) -> Tensor:
    """A as (E, r, n), B as (E, r, m): the rank comes before the features."""
    flat = value.flatten(1)
    if is_B:
        return flat.reshape(len(flat), -1, experts).permute(2, 1, 0)
    return flat.reshape(experts, -1, flat.shape[1])


def _gram(factor: Tensor, is_B: bool, experts: int) -> Tensor:
    """``A A^T`` or ``B^T B`` (E, r, r); one matrix alone is left in its layout, which is faster."""
    if experts > 1:
        rows = _rows(factor, is_B, experts)
        return rows @ rows.mT
    flat = factor.flatten(1)
    return (flat.mT @ flat if is_B else flat @ flat.mT)[None]


def _applied(inverse: Tensor, gradient: Tensor, is_B: bool, experts: int) -> Tensor:
    """The symmetric ``inverse`` (E, r, r) on the rank of a factor's gradient."""
    if experts > 1:
        force = inverse @ _rows(gradient, is_B, experts)
        return force.permute(2, 1, 0) if is_B else force
    flat = gradient.flatten(1)
    return flat @ inverse[0] if is_B else inverse[0] @ flat
