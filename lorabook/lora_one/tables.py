"""The published tables as data: ranks by column, gaps, and what the numbers themselves allow.

The tables cannot be re-run here.  What can be checked is arithmetic: an accuracy from one run on n
examples is a whole number of n-ths, and a classifier that always gives the larger class has that class's
share.  "Consistent with" is all that such a check can say.

Data: :mod:`lorabook.inputs.published`.
"""

from __future__ import annotations

import math


def label(row: dict) -> str:
    """Method with its rank, as the tables write it."""
    return row["method"] + (f" r = {row['rank']:.0f}" if row["rank"] else "")


def best_methods(rows: list[dict], exclude=("Full", "Pre-trained", "One-step GD")) -> list[tuple]:
    """For every (dataset, rank): the methods with the highest mean, more than one where they tie."""
    cells = {}
    for row in rows:
        if row["method"] not in exclude:
            cells.setdefault((row["dataset"], row["rank"]), []).append(row)
    answers = []
    for (dataset, rank), found in sorted(cells.items()):
        top = max(row["mean"] for row in found)
        answers.append((dataset, rank, [row["method"] for row in found if row["mean"] == top]))
    return answers


def gaps(rows: list[dict], method: str, runs: int) -> list[tuple]:
    """Lead of ``method`` over the best other method of the same rank, in standard errors of the difference.

    Args:
        runs: number of runs behind each mean; the slides do not say, so the caller must.

    Returns:
        (dataset, rank, other method, difference, difference / sqrt((s1^2 + s2^2) / runs), the two means).
    """
    answers = []
    for row in rows:
        if row["method"] != method:
            continue
        cell = row["dataset"], row["rank"]
        others = [o for o in rows if (o["dataset"], o["rank"]) == cell and o["method"] != method]
        best = max(others, key=lambda o: o["mean"])
        difference, error = row["mean"] - best["mean"], math.sqrt((row["std"] ** 2 + best["std"] ** 2) / runs)
        answers.append((*cell, best["method"], difference, difference / error, (row["mean"], best["mean"])))
    return answers


def sampling_error(first: float, second: float, n: int) -> float:
    """Standard error, in points, of the difference of two accuracies in per cent, each over n examples of its own."""
    return 100 * math.sqrt(sum(p / 100 * (1 - p / 100) for p in (first, second)) / n)


def is_fraction(percent: float, n: int, decimals: int = 2) -> bool:
    """Whether ``percent``, rounded to ``decimals``, is a whole number of n-ths."""
    count = round(percent * n / 100)
    return any(round(100 * c / n, decimals) == round(percent, decimals) for c in (count - 1, count, count + 1))
