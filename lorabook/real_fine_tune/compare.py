"""Comparisons on the same test sentences: differences with their errors, and what cannot be told apart."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from lorabook import checks

APART = 2.0  # standard errors from which two methods count as told apart


class Difference(NamedTuple):
    mean: float  # of the first minus that of the second
    error: float  # standard error, over sentences and over seeds

    @property
    def separate(self) -> bool:
        return self.beyond(APART)

    def beyond(self, errors: float) -> bool:
        """Whether it is more than so many standard errors away from 0."""
        return abs(self.mean) > errors * self.error


def threshold(pairs: int, level: float = 0.05) -> float:
    """Standard errors that any of ``pairs`` normal differences of mean 0 exceeds with a chance of at most ``level``.

    Bonferroni's correction: each pair may exceed them with a chance of ``level / pairs``.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1; got {level!r}.")
    return NormalDist().inv_cdf(1 - level / (2 * checks.count(pairs, "pairs", 1)))


def average(values: Tensor) -> Difference:
    """Mean of (K, N) or (N) judgements or losses over K seeds and N sentences, with its error."""
    return _mean(values.double().reshape(-1, values.shape[-1]))


def paired(first: Tensor, second: Tensor) -> Difference:
    """Difference of two methods on the same sentences: of their accuracies, or of their losses.

    The error adds the spread over sentences of the seeds' mean and the spread over seeds, so that it is
    rather too large than too small.  With one seed each it is McNemar's: (b + c - (b - c)^2 / N)^{1/2} / N up to
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


def _mean(values: Tensor) -> Difference:
    seeds, sentences = values.shape
    if sentences < 2:
        raise ValueError("A standard error needs at least two sentences.")
    variance = values.mean(0).var() / sentences
    if seeds > 1:
        variance = variance + values.mean(1).var() / seeds
    return Difference(float(values.mean()), float(variance.sqrt()))


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
