"""A small real network on real data: one hidden layer's update, with gradient and Hessian in closed form.

A network with two hidden layers of tanh learns to read handwritten digits.  It is then given digits in
mirror writing: first its head alone is trained (linear probing, appendix C.1), then the update X of
its second hidden layer, by LoRA or in full.  Everything but X is frozen, so the problem is ``L(X)`` =
mean cross-entropy, with ``shape (width, features)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorabook.device import DTYPE, generator, normal
from lorabook.inputs import digits
from lorabook.kim.problem import decay


@dataclass(frozen=True)
class DigitNetwork:
    """``L(X)`` = mean cross-entropy of ``head tanh((W0 + X) h + bias) + offset`` over the samples h."""

    features: Tensor  # (N, n) what the first layer hands on
    labels: Tensor  # (N,) int64
    W0: Tensor  # (m, n)
    bias: Tensor  # (m,)
    head: Tensor  # (classes, m)
    offset: Tensor  # (classes,)
    lam: float
    test_features: Tensor
    test_labels: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of X."""
        return tuple(self.W0.shape)

    @property
    def M(self) -> Tensor:
        """A zero update, which gives solvers their shape and device."""
        return torch.zeros_like(self.W0)

    def _logits(self, X, features):
        T = torch.tanh(features @ (self.W0 + X).mT + self.bias)
        return T, T @ self.head.mT + self.offset

    def loss(self, X: Tensor) -> Tensor:
        """Mean cross-entropy (...) at X (..., m, n)."""
        logits = self._logits(X, self.features)[1]
        rows = torch.arange(len(self.labels), device=X.device)
        return (torch.logsumexp(logits, -1) - logits[..., rows, self.labels]).mean(-1)

    def _errors(self, X):
        T, logits = self._logits(X, self.features)
        p = torch.softmax(logits, -1)
        return T, p, p - torch.nn.functional.one_hot(self.labels, len(self.head)).to(p.dtype)

    def gradient(self, X: Tensor) -> Tensor:
        """dL/dX, (..., m, n)."""
        T, _, e = self._errors(X)
        return ((e @ self.head) * (1 - T**2)).mT @ self.features / len(self.features)

    def hessian(self, X: Tensor) -> Tensor:
        """Second derivative (..., m n, m n), rows and columns in row-major order of X."""
        T, p, e = self._errors(X)
        slope = 1 - T**2
        J = slope[..., None, :] * self.head  # (..., N, classes, m)
        mean = (p[..., None] * J).sum(-2)
        K = J.mT @ (p[..., None] * J) - mean[..., :, None] * mean[..., None, :]
        K = K - torch.diag_embed(2 * T * slope * (e @ self.head))
        N, n = self.features.shape
        outer = (self.features[:, :, None] * self.features[:, None, :]).reshape(N, n * n)
        m = K.shape[-1]
        H = K.reshape(*K.shape[:-2], m * m).mT @ outer / N  # (..., m m, n n)
        return H.reshape(*X.shape[:-2], m, m, n, n).transpose(-3, -2).reshape(*X.shape[:-2], m * n, m * n)

    def curvature(self, X: Tensor, Z: Tensor) -> Tensor:
        """``<Z, Hess L(X) Z>`` (...) without building the Hessian."""
        T, p, e = self._errors(X)
        slope, move = 1 - T**2, self.features @ Z.mT
        J = (slope * move) @ self.head.mT
        spread = (p * J**2).sum(-1) - (p * J).sum(-1) ** 2
        return (spread - (2 * T * slope * (e @ self.head) * move**2).sum(-1)).mean(-1)

    def smoothness(self) -> float:
        """A bound on the Hessian's norm that holds at every X.

        The softmax's covariance has norm at most 1/2, |tanh''| is at most 4 / (3 sqrt 3), and an error
        has l1 norm at most 2.
        """
        spread = float(torch.linalg.matrix_norm(self.features, 2)) ** 2 / len(self.features)
        top = float(torch.linalg.matrix_norm(self.head, 2)) ** 2
        widest = float((self.head.amax(0) - self.head.amin(0)).max())
        return spread * (top / 2 + 0.77 * widest)

    def accuracy(self, X: Tensor) -> Tensor:
        """Share of the test digits that are recognised, (...)."""
        guess = self._logits(X, self.test_features)[1].argmax(-1)
        return (guess == self.test_labels).to(DTYPE).mean(-1)


def pretrained(
    width: int = 16,
    features: int = 24,
    samples: int = 300,
    lam: float = 1e-2,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> DigitNetwork:
    """Pretrain on half of the digits, mirror the other half, probe a new head on ``samples`` of them, freeze all but X.

    Args:
        width, features: rows and columns of the layer that is tuned.
        samples: number of mirrored digits to tune on; the rest of their half is for testing.
        lam: weight decay of the tuning.

    Returns:
        :class:`DigitNetwork`.  The same on every processor: all draws are made on the CPU, and rounding errors, which
        grow a hundredfold in some 20 iterations of pretraining, are still near 1e-10 after 50, where it stops and the
        weights are rounded to three decimals.

    Raises:
        ValueError: fewer than 20 or more than 800 samples, or a layer narrower than 4.
    """
    if not 20 <= samples <= 800 or min(width, features) < 4:
        raise ValueError(
            f"The network needs 20 to 800 samples and a layer of at least 4 x 4; got {samples} and {width} x "
            f"{features}."
        )
    source = generator(seed)
    images, labels = digits.shuffled(source, device)
    pixels = images.reshape(-1, 64)
    half = len(labels) // 2
    W1, W2, W3 = (
        normal(size, source, device) / size[1] ** 0.5 for size in ((features, 64), (width, features), (10, width))
    )
    b1, b2, b3 = (torch.zeros(size, dtype=DTYPE, device=device) for size in (features, width, 10))

    def forward(x, W1, b1, W2, b2, W3, b3):
        return torch.tanh(torch.tanh(x @ W1.mT + b1) @ W2.mT + b2) @ W3.mT + b3

    W1, b1, W2, b2, *_ = _fit(lambda *w: forward(pixels[:half], *w), labels[:half], (W1, b1, W2, b2, W3, b3), 50)
    mirrored = images[half:].flip(2).reshape(-1, 64)
    handed_on, labels = torch.tanh(mirrored @ W1.mT + b1), labels[half:]
    top = torch.tanh(handed_on[:samples] @ W2.mT + b2)
    head, offset = _fit(lambda W, b: top @ W.mT + b, labels[:samples], (torch.zeros_like(W3), torch.zeros_like(b3)))
    tuned, held_out = ((handed_on[part], labels[part]) for part in (slice(samples), slice(samples, None)))
    return DigitNetwork(*tuned, W2, b2, head, offset, decay(lam), *held_out)


def _fit(model, labels, weights, iterations: int = 300, penalty: float = 1e-3):
    """Weights that lower cross-entropy plus a small penalty, by L-BFGS, rounded to three decimals."""
    weights = [w.clone().requires_grad_() for w in weights]
    optimiser = torch.optim.LBFGS(
        weights,
        max_iter=iterations,
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
    )

    def closure():
        optimiser.zero_grad()
        size = sum(w.square().sum() for w in weights)
        value = torch.nn.functional.cross_entropy(model(*weights), labels) + penalty / 2 * size
        value.backward()
        return value

    optimiser.step(closure)
    return [w.detach().round(decimals=3) for w in weights]
