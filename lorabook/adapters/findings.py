"""What stands out among the modules of an adapter, in sentences: what never moved, and what is unlike its kind."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable

from lorabook.adapters.folder import Adapter
from lorabook.adapters.inspect import Measured
from lorabook.adapters.parts import BASE, FAULTY, REPLACED, counted, modules
from lorabook.adapters.peft_config import printable

# A module stands out whose norm is this many times, or this part of, the median of its kind, and as many robust
# deviations away; a module is nearly of rank 1 below the first number where most stand above the second.
TIMES, DEVIATIONS, SPIKE, BROAD = 3.0, 5.0, 1.2, 2.0
FEWEST = 5  # modules of a kind that can be compared with each other; fewer are compared with all


def findings(adapter: Adapter, measured: list[Measured]) -> list[str]:
    """Sentences about modules that never moved, that stand out in size, and that are nearly of rank 1."""
    dead, living = [one for one in measured if not one.largest], [one for one in measured if one.largest]
    said = []
    if dead:
        # training starts at B = 0, and imbalance is infinite for A = 0
        what = "B is 0" if all(math.isfinite(one.imbalance) for one in dead) else "a factor is 0"
        if not living:
            said.append(f"No module ever moved: {what} in all {len(dead)}, so {_nothing(adapter)}.")
        else:
            said.append(f"{len(dead)} of {len(measured)} modules never moved, {what}: {named(dead)}.")
    out = outlying(living)
    if out:
        words = ", ".join(f"{printable(one.name)} ({_times(ratio)})" for one, ratio in out[:5])
        more = f", and {len(out) - 5} more" if len(out) > 5 else ""
        said.append(
            f"{modules(len(out))} out of the line in ||X||, against the median of the kind (of all "
            f"modules, where a kind has fewer than {FEWEST}): {words}{more}."
        )
    spikes = [one for one in living if one.stable_rank < SPIKE and one.rank > 1]
    if living and statistics.median(one.stable_rank for one in living) > BROAD and spikes:
        said.append(f"{modules(len(spikes))} nearly of rank 1, unlike most: {named(spikes)}.")
    return said


def outlying(living: list[Measured]) -> list[tuple[Measured, float]]:
    """Modules whose norm is far from the median of those of their kind, with the ratio, the farthest first.

    A kind is the last word of a name without its numbers.  The deviation is robust: 1.48 times the median distance from
    the median of the logarithms, at least a tenth.
    """
    kinds: dict[str, list[Measured]] = defaultdict(list)
    for one in living:
        kinds[_kind(one.name)].append(one)
    found = []
    for group in kinds.values():
        among = group if len(group) >= FEWEST else living
        if len(among) < FEWEST:
            continue
        logs = [math.log(one.norm) for one in among]
        middle = statistics.median(logs)
        width = max(0.1, 1.4826 * statistics.median(abs(value - middle) for value in logs))
        for one in group:
            away = math.log(one.norm) - middle
            if abs(away) > max(math.log(TIMES), DEVIATIONS * width):
                found.append((one, math.exp(away)))
    return sorted(found, key=lambda pair: -abs(math.log(pair[1])))


def named(some: Iterable[Measured], most: int = 5) -> str:
    """The first names, and how many more there are."""
    names = [printable(one.name) for one in some]
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def _nothing(adapter: Adapter) -> str:
    """What does nothing where every update is 0; other tensors may change the model all the same."""
    known = {key for part in adapter.parts.values() for key in (part.key_A, part.key_B)}
    idle = (REPLACED, BASE, FAULTY)
    others = Counter(why for key, why in adapter.skipped.items() if key not in known and why not in idle)
    words = [f"{why} ({number})" for why, number in others.items()]
    for number, what in zip(counted(adapter.faults.values()), ("modules", "tensors")):
        words += [f"{what} that cannot be measured ({number})"] * bool(number)
    if not words:
        return "the adapter does nothing"
    return f"the low-rank part does nothing; the folder also holds {', '.join(words)}, which may change the model"


def _kind(name: str) -> str:
    words = [word for word in name.split("[")[0].split(".") if not word.isdecimal()]
    return words[-1] if words else ""


def _times(ratio: float) -> str:
    return f"{ratio:.3g} times" if ratio > 1 else f"1/{1 / ratio:.3g}"
