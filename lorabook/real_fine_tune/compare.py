"""Comparisons on the same test sentences: differences with their errors, and what cannot be told apart.

One rule decides everywhere: two methods are told apart where their difference exceeds Student's two-sided 5 % point,
with the degrees of freedom that its error has.  For several pairs at once the level is divided by their number.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import scipy.stats
import torch
from torch import Tensor

LEVEL = 0.05  # chance of telling two equal methods apart


class Difference(NamedTuple):
    mean: float  # of the first minus that of the second
    error: float  # standard error, over sentences and over seeds
    freedom: float  # degrees of freedom of the error

    def reach(self, pairs: int = 1, power: float = 0.0) -> float:
        """Half the interval's width as one of ``pairs`` comparisons; with ``power``, the difference found so often."""
        more = float(scipy.stats.t.ppf(power, self.freedom)) if power else 0.0
        return (student(self.freedom, LEVEL / pairs) + more) * self.error

    def apart(self, pairs: int = 1) -> bool:
        """Whether it is told from 0, as one of ``pairs`` comparisons (Bonferroni)."""
        return abs(self.mean) > self.reach(pairs)

    def verdict(self, pairs: int, margin: float) -> str:
        """``better``, ``worse``, ``equal`` (the interval lies within the margin) or ``open``."""
        if self.apart(pairs):
            return "better" if self.mean > 0 else "worse"
        return "equal" if abs(self.mean) + self.reach(pairs) <= margin else "open"


def student(freedom: float, level: float = LEVEL) -> float:
    """Standard errors that a difference of mean 0 exceeds, to either side, with a chance of ``level``.

    Raises:
        ValueError: a level outside (0, 1), or no degree of freedom.
    """
    if not (0 < level < 1 and freedom > 0):
        raise ValueError(f"A level between 0 and 1 and some degrees of freedom are needed; got {level!r}, {freedom!r}.")
    return float(scipy.stats.t.isf(level / 2, freedom))


def average(values: Tensor) -> Difference:
    """Mean of (K, N) or (N) judgements or losses over K seeds and N sentences, with its error."""
    return _mean(values.double().reshape(-1, values.shape[-1]))


def paired(first: Tensor, second: Tensor) -> Difference:
    """Difference of two methods on the same sentences: of their accuracies, or of their losses.

    The error adds the spread over sentences of the seeds' mean and the spread over seeds, so that it is
    rather too large than too small; its degrees of freedom are Satterthwaite's (1946), between K - 1 and those of
    both together.  With one seed each it is McNemar's: (b + c - (b - c)^2 / N)^{1/2} / N up to
    a factor (N / (N - 1))^{1/2}, with b and c the sentences that only one method gets right.

    Args:
        first, second: judgements, bool, or losses (K, N) over the same K seeds, or (N) for a method without one.

    Raises:
        ValueError: other sentences, or numbers of seeds that do not fit.
    """
    try:
        first, second = torch.broadcast_tensors(first, second)
    except RuntimeError:
        raise ValueError(
            f"Judgements {tuple(first.shape)} and {tuple(second.shape)} are not of the same sentences and seeds."
        ) from None
    difference = first.double() - second.double()
    return _mean(difference.reshape(-1, difference.shape[-1]))


def over_seeds(first: Tensor, second: Tensor) -> Difference:
    """Difference of the mean losses (K) of two methods over the same K >= 2 seeds, paired; K - 1 degrees of freedom.

    Raises:
        ValueError: seeds that do not fit, or fewer than two.
    """
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ValueError(
            f"Losses of the same two or more seeds are needed; got {tuple(first.shape)}, {tuple(second.shape)}."
        )
    difference = first.double() - second.double()
    return Difference(float(difference.mean()), float(difference.std()) / len(first) ** 0.5, len(first) - 1)


def _mean(values: Tensor) -> Difference:
    seeds, sentences = values.shape
    if sentences < 2:
        raise ValueError("A standard error needs at least two sentences.")
    parts = [(float(values.mean(0).var()) / sentences, sentences - 1)]
    if seeds > 1:
        parts.append((float(values.mean(1).var()) / seeds, seeds - 1))
    variance, squares = sum(one for one, _ in parts), sum(one**2 / free for one, free in parts)
    # Satterthwaite's approximation; without any spread the sentences' own
    freedom = variance**2 / squares if squares > 0 else sentences - 1
    return Difference(float(values.mean()), math.sqrt(variance), freedom)


def best(losses: Tensor, rates) -> tuple[int, bool]:
    """Index of the least validation loss, and whether it lies at an edge of the grid ``rates``.

    Raises:
        ValueError: fewer than three rates, rates not rising, or a loss for each of them missing.
    """
    rates = [float(rate) for rate in rates]
    if len(rates) < 3 or rates != sorted(set(rates)) or tuple(losses.shape) != (len(rates),):
        raise ValueError(
            f"Three or more rising learning rates with one loss each are needed; got {len(rates)} and "
            f"{tuple(losses.shape)}."
        )
    if not bool(torch.isfinite(losses).all()):
        raise ValueError("A validation loss is NaN or infinite.")
    k = int(losses.argmin())
    return k, k in (0, len(rates) - 1)
