"""One matrix of a classifier's last block, all others frozen: ``L(X)`` = loss at W0 + X, and factors run to their end.

It speaks the protocol of the problems of :mod:`lorabook.kim`, so that their sampling, their objective and their
certificate run on a transformer.  The loss is not convex in X.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lorabook import checks, kim


class OneMatrix:
    """The mean loss over a few batches as a function of the update X of one matrix of the last block.

    What lies below the block is computed once.  The network runs in its own precision.

    Args:
        model: a classifier of transformers with a stack of blocks ``base_model.encoder.layer``; it is copied.
        module: the end of the matrix's name in its last block, as ``query``.
        before: (m, n) the matrix at X = 0.
        batches: dicts of tensors, with ``labels``; each of their rows counts alike.
        lam: decay >= 0.
    """

    def __init__(self, model: Any, module: str, before: Tensor, batches: list[dict], lam: float = 0.0):
        self.lam, self.before = lam, before.double()
        self.shape = (before.shape[0], before.shape[1])
        self.M = torch.zeros_like(self.before)
        self.model = copy.deepcopy(model)
        self.model.eval().requires_grad_(False)
        self.model.set_attn_implementation("eager")  # the only one with a second derivative on every device
        stack = self.model.base_model.encoder.layer
        seen: list[Any] = []
        hook = stack[-2].register_forward_hook(lambda layer, given, out: seen.append(out))
        self.batches = [{key: one.to(before.device) for key, one in batch.items()} for batch in batches]
        with torch.no_grad():
            for batch in self.batches:
                self.model(**batch)
        hook.remove()
        self.below, self.given = seen, _Given()
        self.model.base_model.encoder.layer = nn.ModuleList([self.given, stack[-1]])
        (self.name,) = (name for name, _ in self.model.named_parameters() if name.endswith(f".{module}.weight"))
        self.rows = sum(len(batch["labels"]) for batch in batches)

    def _losses(self, X: Tensor):
        """For each batch its share of the mean loss at X (m, n)."""
        weights = {self.name: (self.before + X).to(next(self.model.parameters()).dtype)}
        for batch, below in zip(self.batches, self.below):
            self.given.out = below
            found = torch.func.functional_call(self.model, weights, kwargs=batch).loss
            yield found * (len(batch["labels"]) / self.rows)

    @torch.no_grad()
    def loss(self, X: Tensor) -> Tensor:
        """(...) for X (..., m, n)."""
        return self._each(lambda x: sum(one.double() for one in self._losses(x)), X)

    def gradient(self, X: Tensor) -> Tensor:
        """(..., m, n) gradient of the loss, without the decay, float64."""

        def one(x: Tensor) -> Tensor:
            x = x.detach().requires_grad_()
            return torch.stack([torch.autograd.grad(loss, x)[0] for loss in self._losses(x)]).sum(0)

        with torch.enable_grad():
            return self._each(one, X)

    @torch.enable_grad()
    def hessian(self, X: Tensor, Z: Tensor) -> Tensor:
        """Hessian at X (m, n) applied to Z (m, n), float64."""
        X, total = X.detach().requires_grad_(), torch.zeros_like(X)
        for loss in self._losses(X):
            (slope,) = torch.autograd.grad(loss, X, create_graph=True)
            total += torch.autograd.grad((slope * Z).sum(), X)[0]
        return total

    def curvature(self, X: Tensor, Z: Tensor) -> Tensor:
        """``<Z, Hess L(X) Z>`` (...) for X, Z (..., m, n)."""
        pairs = zip(X.reshape(-1, *self.shape), Z.reshape(-1, *self.shape), strict=True)
        return torch.stack([(z * self.hessian(x, z)).sum() for x, z in pairs]).reshape(X.shape[:-2])

    def _each(self, function: Callable, X: Tensor) -> Tensor:
        found = torch.stack([function(x) for x in X.reshape(-1, *self.shape)])
        return found.reshape((*X.shape[:-2], *found.shape[1:]))


class _Given(nn.Module):
    """A block whose output is known."""

    out: Any = None

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.out


def settle(problem: OneMatrix, B: Tensor, A: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Factors after ``steps`` steps of L-BFGS on :func:`lorabook.kim.landscape.objective`, which never rises.

    Args:
        B: (m, r), A: (r, n) float64.

    Source: Liu & Nocedal 1989, with a line search by Wolfe's strong conditions; Nocedal & Wright 2006, chapter 7.
    """
    checks.factors(B, A)
    B, A = B.clone().requires_grad_(), A.clone().requires_grad_()
    checks.count(steps, "steps", 1)
    exact: dict[str, Any] = dict(tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe")
    optimiser = torch.optim.LBFGS([B, A], max_iter=steps, max_eval=3 * steps, history_size=20, **exact)

    @torch.no_grad()
    def closure():
        B.grad, A.grad = kim.landscape.factored_gradient(problem, B, A)
        return kim.landscape.objective(problem, B, A)

    optimiser.step(closure)
    return B.detach(), A.detach()
