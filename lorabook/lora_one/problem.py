"""The regression that LoRA-One studies, its gradients, and the exact reduction to small dimensions.

Source: Zhang, Liu & Chen, slides; ICML 2025.  Labels ``Y = sigma(X (W + Delta))`` with a shift
``Delta`` (d, k) of rank r*, loss ``(1/2N) ||sigma(X (W + B A)) - Y||_F^2`` with sigma the identity or
ReLU.  The source writes ``A B`` where this book writes ``B A``.

With ``X = None`` the sums over samples become expectations over standard normal rows ("population").

Not here: where the factors start (starts.py) and how they move (dynamics.py).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorabook import checks
from lorabook.linalg import thin_svd


@dataclass(frozen=True)
class Regression:
    """Data and unknown of one fine-tuning problem, or of a batch of them.

    Args:
        X: (..., N, d) float64 rows, N >= d; None for the population of standard normal rows.
        W: (d, k) or (..., d, k) pretrained weights.
        shift: (..., d, k) Delta.
        activation: "linear" or "relu".
        noise: (..., N, k) added to the labels, or None.

    Raises:
        ValueError: shapes that do not fit or broadcast, NaN, N < d, an unknown activation, a zero shift.
    """

    X: Tensor | None
    W: Tensor
    shift: Tensor
    activation: str = "linear"
    noise: Tensor | None = None

    def __post_init__(self):
        d, k = checks.matrix(self.shift, "shift").shape[-2:]
        if checks.matrix(self.W, "W").shape[-2:] != (d, k):
            raise ValueError(
                f"W {tuple(self.W.shape)} and shift {tuple(self.shift.shape)} must have the same last two dimensions."
            )
        if self.activation not in ("linear", "relu"):
            raise ValueError(f"activation must be 'linear' or 'relu'; got {self.activation!r}.")
        if self.X is None:
            if self.noise is not None:
                raise ValueError("Label noise needs samples: give X.")
        else:
            N, columns = checks.matrix(self.X, "X").shape[-2:]
            if columns != d:
                raise ValueError(f"X {tuple(self.X.shape)} must have d = {d} columns, as shift has rows.")
            if N < d:
                raise ValueError(
                    f"The source assumes N > d; with N = {N} samples in d = {d} dimensions the shift is not determined."
                )
            if self.noise is not None and checks.matrix(self.noise, "noise").shape[-2:] != (N, k):
                raise ValueError(f"noise must have shape (..., {N}, {k}); got {tuple(self.noise.shape)}.")
        _ = self.lead  # refuses leading dimensions that do not fit
        if not checks.is_fake(self.shift) and not bool((self.shift != 0).flatten(-2).any(-1).all()):
            raise ValueError("The shift is zero: there is nothing to learn.")

    @functools.cached_property
    def lead(self) -> torch.Size:
        """Leading shape of the batch, () for one problem."""
        given = {"X": self.X, "W": self.W, "shift": self.shift, "noise": self.noise}
        return checks.batch(**{name: value.shape[:-2] for name, value in given.items() if value is not None})

    @functools.cached_property
    def covariance(self) -> Tensor:
        """Sigma = X^T X / N (..., d, d); the identity for the population."""
        if self.X is None:
            return torch.eye(self.shift.shape[-2], dtype=self.shift.dtype, device=self.shift.device)
        return self.X.mT @ self.X / self.X.shape[-2]

    @functools.cached_property
    def rank(self) -> int:
        """r*, the largest rank of the shifts: singular values above 1e-10 of the largest."""
        return self.directions[0].shape[-1]

    @functools.cached_property
    def directions(self) -> tuple[Tensor, Tensor]:
        """Orthonormal bases (..., d, r*) and (..., k, r*) of the column and row spaces of the shift."""
        U, _, Vh = thin_svd(self.shift)
        return U, Vh.mT

    @functools.cached_property
    def before(self) -> Tensor:
        """X W (..., N, k): what the pretrained layer gives."""
        return self.X @ self.W

    @functools.cached_property
    def labels(self) -> Tensor:
        """Y (..., N, k)."""
        Y = act(self.X @ (self.W + self.shift), self.activation)
        return Y if self.noise is None else Y + self.noise

    @functools.cached_property
    def pull(self) -> Tensor:
        """Constant part of the negative gradient, linear case: ``Sigma Delta + X^T noise / N`` (..., d, k)."""
        pull = self.covariance @ self.shift if self.X is not None else self.shift
        return pull if self.noise is None else pull + self.X.mT @ self.noise / self.X.shape[-2]


def act(Z: Tensor, activation: str) -> Tensor:
    """sigma(Z), entry by entry."""
    return Z.clamp(min=0.0) if activation == "relu" else Z


def check_problem(problem) -> None:
    if not isinstance(problem, Regression):
        raise ValueError(f"problem must be a Regression; got {type(problem).__name__}.")


def loss(problem: Regression, B: Tensor, A: Tensor) -> Tensor:
    """``(1/2N) ||sigma(X (W + B A)) - Y||_F^2`` (...), for problems with samples.

    Raises: ValueError on the population and on shapes that do not fit.
    """
    check_problem(problem)
    checks.factors(B, A, problem.shift, "shift")
    if problem.X is None:
        raise ValueError("The loss needs samples; the population has gradients only.")
    residual = act(problem.before + problem.X @ B @ A, problem.activation) - problem.labels
    return residual.square().sum((-2, -1)) / (2 * problem.X.shape[-2])


def loss_floor(problem: Regression, rank: int) -> Tensor:
    """Smallest linear loss (...) of a product of ``rank``: half the squared tail of ``Sigma^{1/2} Delta``."""
    values, basis = torch.linalg.eigh(problem.covariance)
    root = basis * values.clamp(min=0).sqrt()[..., None, :] @ basis.mT
    return torch.linalg.svdvals(root @ problem.shift)[..., rank:].square().sum(-1) / 2


def distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Relative distance (...) ``||found - wanted||_F / ||wanted||_F``."""
    return torch.linalg.matrix_norm(found - wanted) / torch.linalg.matrix_norm(wanted)


def negative_gradient(
    problem: Regression, B: Tensor | None = None, A: Tensor | None = None, masked: bool = True
) -> Tensor:
    """``J = -grad_W L(W + B A)`` (..., d, k), the one-step full gradient G where B and A are left out.

    ``masked=True`` is the gradient, ``(1/N) X^T [(Y - sigma(X W_t)) * sigma'(X W_t)]``.
    ``masked=False`` drops sigma' and is the source's J^GLM.  For the linear activation both are
    ``Sigma (Delta - B A)``.

    Args:
        B: (..., d, r).  A: (..., r, k).  Both or neither.

    Error: relative rounding.  Convention: sigma'(0) = 0.
    Raises: ValueError on one factor alone, shapes that do not fit, and, for the masked ReLU population, a zero column
        in ``W + B A``.
    """
    check_problem(problem)
    if (B is None) != (A is None):
        raise ValueError("Give both factors or neither.")
    if B is not None:
        checks.factors(B, A, problem.shift, "shift")
    if problem.X is None and problem.activation == "relu" and masked:
        _no_zero_column(problem.W if B is None else problem.W + B @ A)
    return _negative_gradient(problem, B, A, masked)


def _negative_gradient(problem, B, A, masked):
    """:func:`negative_gradient` without the checks of the public door."""
    if problem.activation == "linear":
        if B is None:
            return problem.pull
        return problem.pull - (B @ A if problem.X is None else problem.covariance @ B @ A)
    if problem.X is None:
        update = torch.zeros_like(problem.shift) if B is None else B @ A
        left = problem.shift - update
        return _mean_relu_gradient(problem.W + update, left) if masked else left / 2
    now = problem.before if B is None else problem.before + (problem.X @ B) @ A
    residual = problem.labels - now.clamp(min=0.0)
    if masked:
        residual = torch.where(now > 0, residual, 0.0)
    return problem.X.mT @ residual / problem.X.shape[-2]


def forces(problem: Regression, B: Tensor, A: Tensor, masked: bool = True) -> tuple[Tensor, Tensor]:
    """Minus the gradients of both factors, ``(J A^T, B^T J)``; unchecked: every step calls it."""
    J = _negative_gradient(problem, B, A, masked)
    return J @ A.mT, B.mT @ J


def mean_relu_gradient(W: Tensor, shift: Tensor) -> Tensor:
    """``E x [sigma(x^T (W + shift)) - sigma(x^T W)] * sigma'(x^T W)`` (..., d, k) for standard normal x.

    Column j is ``((pi - theta) w~ + sin(theta) ||w~|| w / ||w||) / (2 pi) - w / 2`` with
    ``w~ = w + shift_j`` and theta the angle between w and w~.

    Source: ours, from the arc-cosine kernel of Cho & Saul 2009; the source's ``Delta / 2`` is the mean of
    the GLM form only.  Holds when: no column of W is zero.
    Error: relative 1e-14, also for small angles (theta from the sine and the cosine).
    Raises: ValueError on shapes that differ, NaN, or a zero column in W.
    """
    if checks.matrix(W, "W").shape[-2:] != checks.matrix(shift, "shift").shape[-2:]:
        raise ValueError(f"W {tuple(W.shape)} and shift {tuple(shift.shape)} must have the same last two dimensions.")
    checks.batch(W=W.shape[:-2], shift=shift.shape[:-2])
    _no_zero_column(W)
    return _mean_relu_gradient(W, shift)


def _no_zero_column(W):
    if not checks.is_fake(W) and not bool((W != 0).any(-2).all()):
        raise ValueError(
            "The weights have a zero column: its half-space, and with it the gradient's mean, is not defined."
        )


def _mean_relu_gradient(W, shift):
    size = torch.linalg.vector_norm(W, dim=-2, keepdim=True)
    unit, target = W / size, W + shift
    along = (unit * target).sum(-2, keepdim=True)
    # ||w~|| sin(theta), from the shift, so that a small angle is not a difference of large numbers
    across = torch.linalg.vector_norm(shift - unit * (unit * shift).sum(-2, keepdim=True), dim=-2, keepdim=True)
    theta = torch.atan2(across, along)
    # ((pi - theta) w~ - pi w + across w^) / 2 pi, with (pi - theta) w~ - pi w = (pi - theta) shift - theta w
    return ((math.pi - theta) * shift + (across - theta * size) * unit) / (2 * math.pi)


def relu_bias(W: Tensor, shift: Tensor) -> Tensor:
    """What the mask adds to ``shift / 2`` in the mean gradient, to second order in the shift (..., d, k).

    Column j is ``-(b^2 / (2 pi ||w||)) n`` with ``b n`` the part of ``shift_j`` across w, so that its relative size is
    ``||shift_j|| sin^2(psi) / (pi ||w||)``.  Source: ours, from :func:`mean_relu_gradient`.
    """
    size = torch.linalg.vector_norm(W, dim=-2, keepdim=True)
    across = shift - W * (W * shift).sum(-2, keepdim=True) / size**2
    return -torch.linalg.vector_norm(across, dim=-2, keepdim=True) * across / (2 * math.pi * size)


def offset(problem: Regression, B0: Tensor, A0: Tensor) -> Regression:
    """The same problem with ``B0 A0`` taken off W, so that the start leaves the function unchanged.

    What the factors must reach is then ``Delta + B0 A0``.
    """
    check_problem(problem)
    checks.factors(B0, A0, problem.shift, "shift")
    return replace(problem, W=problem.W - B0 @ A0, shift=problem.shift + B0 @ A0)


def reduced(problem: Regression, B0: Tensor, A0: Tensor) -> tuple[Regression, Tensor, Tensor, Tensor, Tensor]:
    """The linear problem in the smallest coordinates that its dynamics does not leave.

    Rows of A stay in the span of the rows of Delta and A0, whatever the data.  In the population the
    columns of B stay in the span of the columns of Delta and B0.  Gradient steps that act on the
    factors from outside (plain, imbalanced, preconditioned) commute with these coordinates.

    Returns:
        The small problem, ``B0``, ``A0`` in its coordinates, and the bases ``L (..., d, p)``, ``R (..., k, q)``:
        B is ``L B_small`` and A is ``A_small R^T``; errors ``||B A - Delta||_F`` and principal sines are unchanged.

    Raises:
        ValueError: a ReLU problem or noisy labels, for which this is not exact.
    """
    if problem.activation != "linear" or problem.noise is not None:
        raise ValueError("The reduction is exact for the linear model without label noise only.")
    columns, rows = problem.directions
    R = _joint_basis(rows, A0.mT)
    if problem.X is not None:
        small = replace(problem, W=problem.W @ R, shift=problem.shift @ R)
        # the covariance does not change: hand it on instead of forming it again
        small.__dict__["covariance"] = problem.covariance
        return small, B0, A0 @ R, torch.eye(B0.shape[-2], dtype=B0.dtype, device=B0.device), R
    L = _joint_basis(columns, B0)
    return replace(problem, W=L.mT @ problem.W @ R, shift=L.mT @ problem.shift @ R), L.mT @ B0, A0 @ R, L, R


def _joint_basis(first: Tensor, second: Tensor) -> Tensor:
    """Orthonormal columns (..., n, q) whose span holds both; a zero ``second`` adds nothing."""
    if not checks.is_fake(second) and not bool((second != 0).any()):
        return first
    lead = torch.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    both = torch.cat([first.expand(*lead, *first.shape[-2:]), second.expand(*lead, *second.shape[-2:])], -1)
    n, q = both.shape[-2:]
    if q >= n:
        return torch.eye(n, dtype=both.dtype, device=both.device).expand(*lead, n, n)
    return torch.linalg.qr(both).Q
