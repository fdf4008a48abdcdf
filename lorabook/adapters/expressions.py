"""Does a regular expression from a file match the whole of a name?  In bounded time, whatever the expression.

:mod:`re` tries one way after the other, and a file may hold an expression with exponentially many.  Here all ways are
gone at once: what is known of a part of the expression is the set of places that it can lead to from a set of places,
as the bits of a number.
"""

from __future__ import annotations

import re
from typing import Any

LONGEST, MOST_STEPS = 10**5, 10**6


class Undecided(ValueError):
    """The expression is none, has a part that is not known here, or would take too long."""


class Expression:
    """``re.fullmatch`` with one expression for many names.

    Raises:
        Undecided: here, or when a name is asked for.
    """

    def __init__(self, text: str):
        try:
            from re import _parser  # type: ignore[attr-defined]

            parsed = _parser.parse(text) if len(text) <= LONGEST else None
        except (re.error, OverflowError, RecursionError, ImportError):
            parsed = None
        if parsed is None or parsed.state.flags != re.UNICODE:
            raise Undecided("The expression cannot be tried.")
        self.parsed, self.steps = parsed, 0

    def fits(self, name: str) -> bool:
        """Whether the whole of ``name`` matches."""
        if "\n" in name:
            raise Undecided("The name has several lines.")
        try:
            return bool(_Walk(self, name).along(self.parsed, 1) >> len(name) & 1)
        except RecursionError:
            raise Undecided("The expression is nested too deeply.") from None


class _Walk:
    """Sets of places in one name; bit p stands for the place before letter p."""

    def __init__(self, expression: Expression, name: str):
        self.expression, self.name = expression, name
        self.whole = 2 ** (len(name) + 1) - 1
        self.known: dict[int, int] = {}
        words = [False, *(bool(re.match(r"\w", letter)) for letter in name), False]
        self.edges = sum(1 << p for p in range(len(name) + 1) if words[p] != words[p + 1])

    def along(self, parts, places: int) -> int:
        for part in parts:
            if not places:
                break
            self.expression.steps += 1
            if self.expression.steps > MOST_STEPS:
                raise Undecided("The expression takes too long.")
            places = self.step(part, places)
        return places

    def step(self, part, places: int) -> int:
        kind: str = str(part[0])
        what: Any = part[1]
        if kind in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            if id(part) not in self.known:
                self.known[id(part)] = sum(1 << p for p, letter in enumerate(self.name) if _is(kind, what, letter))
            return (places & self.known[id(part)]) << 1
        if kind == "SUBPATTERN" and not what[1] and not what[2]:
            return self.along(what[3], places)
        if kind == "BRANCH":
            found = 0
            for way in what[1]:
                found |= self.along(way, places)
            return found
        if kind in ("MAX_REPEAT", "MIN_REPEAT"):
            return self.repeated(what[0], what[1], what[2], places)
        if kind == "AT":
            return places & self.at(str(what))
        if kind in ("ASSERT", "ASSERT_NOT"):
            side, inner = what
            seen = sum(1 << p for p in range(len(self.name) + 1) if places >> p & 1 and self.sees(inner, side, p))
            return seen if kind == "ASSERT" else places & ~seen
        raise Undecided(f"The expression has a part that is not known: {kind}.")

    def repeated(self, least: int, most, inner, places: int) -> int:
        for _ in range(least):
            after = self.along(inner, places)
            if after == places:  # so it stays
                break
            places = after
        found, count = places, least
        while places and count < int(most):
            places = self.along(inner, places) & ~found
            found, count = found | places, count + 1
        return found

    def sees(self, inner, side: int, place: int) -> bool:
        if side > 0:
            return self.along(inner, 1 << place) > 0
        begin = place - inner.getwidth()[0]
        return begin >= 0 and bool(self.along(inner, 1 << begin) >> place & 1)

    def at(self, where: str) -> int:
        if where in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
            return 1
        if where in ("AT_END", "AT_END_STRING"):
            return 1 << len(self.name)
        if where in ("AT_BOUNDARY", "AT_NON_BOUNDARY"):
            return self.edges if where == "AT_BOUNDARY" else self.whole & ~self.edges
        raise Undecided(f"The expression has a part that is not known: {where}.")


def _is(kind: str, what, letter: str) -> bool:
    """Whether one letter is what a part of the expression stands for."""
    if kind == "ANY":
        return True
    if kind in ("LITERAL", "NOT_LITERAL"):
        return (ord(letter) == what) == (kind == "LITERAL")
    found, wanted = False, True
    for inner, value in what:
        inner = str(inner)
        if inner == "NEGATE":
            wanted = False
        elif inner == "LITERAL":
            found = found or ord(letter) == value
        elif inner == "RANGE":
            found = found or value[0] <= ord(letter) <= value[1]
        else:
            found = found or bool(re.match(_category(str(value)), letter))
    return found == wanted


def _category(name: str) -> str:
    known = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w", "NOT_DIGIT": r"\D", "NOT_SPACE": r"\S", "NOT_WORD": r"\W"}
    if name.removeprefix("CATEGORY_") not in known:
        raise Undecided(f"The expression has a part that is not known: {name}.")
    return known[name.removeprefix("CATEGORY_")]
