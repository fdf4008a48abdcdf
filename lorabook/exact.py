"""What the proofs of the chapters share: identities by computer algebra, and definiteness in exact fractions.

A *proof* here is a function that returns ``(holds, box)``: whether every step of the argument went through in exact
arithmetic or in balls, and for which parameters.  Its arguments are the hypotheses and constants of the statement;
with one of them changed it must not go through.  ``sympy`` and ``python-flint`` are asked for when a proof is run.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from types import ModuleType

from lorabook.checks import package

#: A proof: whether it goes through, and the box of parameters in words.
Proof = tuple[bool, str]


def algebra() -> ModuleType:
    """Computer algebra (sympy)."""
    return package("sympy", "book")


def balls() -> ModuleType:
    """Ball arithmetic at 120 bits (flint): a real number is an interval that certainly holds it."""
    flint = package("flint", "book", "python-flint")
    flint.ctx.prec = 120
    return flint


def vanishes(expression) -> bool:
    """Whether an expression is identically zero."""
    sympy = algebra()
    return sympy.simplify(sympy.expand(expression)) == 0


def covered(decide: Callable, *sides: tuple[float, float], finest: float = 1e-6) -> tuple[bool, int]:
    """Whether ``decide`` is true on a whole box, and in how many pieces that was seen.

    ``decide(*balls)`` is true or false where that holds on the whole of a piece and None where it cannot tell; such a
    piece is halved along its relatively longest side, down to ``finest`` of that side.
    """
    arb = balls().arb
    left, pieces = [sides], 0
    while left:
        piece = left.pop()
        pieces += 1
        answer = decide(*(arb(low).union(arb(high)) for low, high in piece))
        if answer:
            continue
        lengths = [(high - low) / (end - begin) for (low, high), (begin, end) in zip(piece, sides)]
        longest = lengths.index(max(lengths))
        if answer is False or lengths[longest] < finest:
            return False, pieces
        low, high = piece[longest]
        halves = (low, (low + high) / 2), ((low + high) / 2, high)
        left += [(*piece[:longest], half, *piece[longest + 1 :]) for half in halves]
    return True, pieces


def semidefinite(matrix: list[list[Fraction]]) -> tuple[bool, int]:
    """Whether a symmetric matrix of fractions is positive semidefinite, and how many pivots are zero.

    ``L D L^T`` with symmetric pivoting, in exact arithmetic.  The second number is the dimension of the kernel where
    the first is true.
    """
    a, left = [row[:] for row in matrix], list(range(len(matrix)))
    while left:
        pivot = max(left, key=lambda i: a[i][i])
        if a[pivot][pivot] < 0:
            return False, len(left)
        if a[pivot][pivot] == 0:  # then all that is left must vanish
            return all(a[i][j] == 0 for i in left for j in left), len(left)
        left.remove(pivot)
        for i in left:
            factor = a[i][pivot] / a[pivot][pivot]
            for j in left:
                a[i][j] -= factor * a[pivot][j]
    return True, 0
