"""The first cell's guard: a bad parameter stops the run there, with one sentence.

Papermill sets whatever name it is given and only warns about unknown ones; this guard refuses them.
"""

from __future__ import annotations

import ast
import math
from types import ModuleType
from typing import Any

#: Names that a fresh IPython kernel brings along.
_KERNEL = {"In", "Out", "exit", "quit", "open", "get_ipython"}


class ParameterError(ValueError):
    """A parameter that is unknown, of the wrong type or out of range."""


def check(namespace: dict, **declared) -> None:
    """Hold the notebook's parameters against what it declares.

    Args:
        namespace: ``globals()`` of the notebook, in the cell right after the parameters.
        **declared: one entry per parameter: ``(int, low, high)``, ``(float, low, high)``, or a tuple of
            the allowed strings.  An edge may be the name of another parameter.  A list of numbers is
            declared as ``[int, low, high]``: each element is held against the range.

    Raises:
        ParameterError: an unknown name, a wrong type, or a value out of range.
    """
    for name, value in namespace.items():
        ours = not name.startswith("_") and name not in _KERNEL and not isinstance(value, ModuleType)
        if ours and name not in declared:
            raise ParameterError(f"Unknown parameter {name!r}; this notebook takes {', '.join(declared)}.")
    for name, rule in declared.items():
        if name not in namespace:
            raise ParameterError(f"The parameter {name!r} is declared but not set.")
        value = namespace[name]
        if isinstance(rule, list):
            if not isinstance(value, (list, tuple)) or not value:
                raise ParameterError(f"{name} must be a list of numbers; got {value!r}.")
            for element in value:
                _number(f"each of {name}", element, tuple(rule), namespace)
        elif isinstance(rule[0], str):
            if value not in rule:
                raise ParameterError(f"{name} must be one of {', '.join(rule)}; got {value!r}.")
        else:
            _number(name, value, rule, namespace)


def _number(name: str, value, rule: tuple, namespace: dict) -> None:
    kind, low, high = rule
    finite = not isinstance(value, float) or math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not finite:
        raise ParameterError(f"{name} must be a {'whole ' if kind is int else 'finite '}number; got {value!r}.")
    edges = [(edge, namespace.get(edge) if isinstance(edge, str) else edge) for edge in (low, high)]
    for edge, number in edges:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise ParameterError(f"{edge}, which bounds {name}, must be a number; got {number!r}.")
    if not edges[0][1] <= value <= edges[1][1]:
        said = " and ".join(f"{edge} = {number}" if isinstance(edge, str) else f"{number}" for edge, number in edges)
        raise ParameterError(f"{name} must lie between {said}; got {value!r}.")


def literals(source: str) -> dict:
    """The names that a cell sets to plain values; ValueError for anything else."""
    values = {}
    node: Any
    for node in ast.parse(source).body:
        targets: list[Any] = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        try:
            values.update({target.id: ast.literal_eval(node.value) for target in targets})
        except (ValueError, TypeError, AttributeError):
            raise ValueError(
                f"the parameters cell may set names to plain values only, and has: {ast.unparse(node)}"
            ) from None
    return values
