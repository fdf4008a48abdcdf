"""Does a regular expression from a file match the whole of a name?  In bounded time, whatever the expression.

:mod:`re` tries one way after the other, and a file may hold an expression with exponentially many; :mod:`regex`, which
reads the same expressions, can be stopped.
"""

from __future__ import annotations

import regex

LONGEST, PATIENCE = 10**5, 1.0  # letters of an expression, seconds for one name


class Undecided(ValueError):
    """The expression is none, or would take too long."""


class Expression:
    """``re.fullmatch`` with one expression for many names.

    Raises:
        Undecided: here, or when a name is asked for.
    """

    def __init__(self, text: str):
        if len(text) > LONGEST:
            raise Undecided("The expression is too long.")
        try:
            self.pattern = regex.compile(text)
        except (regex.error, OverflowError, RecursionError, MemoryError):
            raise Undecided("The expression cannot be tried.") from None

    def fits(self, name: str) -> bool:
        """Whether the whole of ``name`` matches."""
        try:
            return self.pattern.fullmatch(name, timeout=PATIENCE) is not None
        except (TimeoutError, RecursionError, MemoryError):
            raise Undecided("The expression takes too long.") from None
