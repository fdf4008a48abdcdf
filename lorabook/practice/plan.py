"""Which arms are needed: written before any of them ran but for ``LATER``, in the order of their worth.

A family is a method at one rank.  Its rate is chosen on the validation sentences with the first seed, on a grid that
grows until the best is not at its edge; then it is judged on the test sentences, first with that seed and, once every
family is, with the next.  Which comparisons these judgements are for stands in ``COMPARISONS``; they share one level
(:mod:`lorabook.practice.tables`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lorabook.practice.arms import STILL, Arm

RATES = (1e-3, 3e-3)  # where every grid begins
LADDER = tuple(float(f"{10 ** (k / 2):.0e}") for k in range(-10, 1))  # 1e-5, 3e-5, ..., 1: a grid grows along it
#: Seeds of the judgement; the first chooses the rate.  Two were planned, from a pilot in which a seed moved the
#: difference of LoRA and LoRA-One's start by 0.2 points.  But an error from two seeds has hardly more than one degree
#: of freedom, and with 44 comparisons nearly all stayed open, whatever they were.  So three were added after a first
#: look at the table; families, rates, rule, margins and bands stayed as they were.
TESTS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Family:
    """What is tuned: an arm without its rate and seed."""

    method: str
    rank: int = 8
    task: str = "movie"
    ratio: float | None = None

    def arm(self, rate: float, seed: int = 0, **rest) -> Arm:
        return Arm(self.task, self.method, 0 if self.method == "full" else self.rank, rate, seed, self.ratio, **rest)


LORA, ONE, PLAIN, FULL = Family("LoRA"), Family("LoRA-One"), Family("LoRA-One, plain"), Family("full")
GA, PISSA, PLUS, P_LORA = map(Family, ("LoRA-GA", "PiSSA", "LoRA+", "P-LoRA"))
SIZE, DIRECTIONS = Family("size alone"), Family("directions alone")
TWEETS = tuple(replace(family, task="tweets") for family in (LORA, PLAIN, FULL))
NARROW = tuple(replace(family, rank=1) for family in (LORA, TWEETS[0]))
RANKS = tuple(Family("LoRA", rank) for rank in (64, 4, 16, 2))
#: Of rank 1 and 64 under alpha / r and alpha / sqrt(r), with the alpha for which rank 8 is LORA.  Under Adam and from
#: B = 0 a factor c before B A is the ratio c of the two rates.
SCALED = tuple(Family("LoRA", rank, ratio=(8 / rank) ** power) for rank in (1, 64) for power in (1.0, 0.5))

#: The pilot, on another draw of sentences: whether the rate fell to 0, and the arm.
PILOT_SPLIT = 1
PILOT = (
    *((falls, LORA.arm(3e-3, seed, tested=True)) for falls in (False, True) for seed in range(3)),
    *((False, FULL.arm(6e-4, seed, tested=True)) for seed in range(2)),
    (False, PLAIN.arm(1e-3, 0, tested=True)),
    *((True, PLAIN.arm(1e-3, seed, tested=True)) for seed in range(3)),
)

STAGES = (
    ("start and rank one", (LORA, PLAIN, FULL, NARROW[0])),
    ("no training", ()),
    ("untuned", ()),
    ("direction and size", (SIZE, DIRECTIONS)),
    ("rank 64", RANKS[:1]),
    ("bfloat16", ()),
    ("float8", ()),
    *((family.method, (family,)) for family in (ONE, PISSA, GA, PLUS, P_LORA)),
    ("alpha", SCALED),
    ("tweets", (*TWEETS, NARROW[1])),
    ("no training, tweets", ()),
    ("other ranks", RANKS[1:]),
    ("alpha, judged", ()),
)
ROUNDED = (LORA, PISSA, GA, PLAIN)
UNTUNED = 3e-4  # the rate of who does not tune, for LORA and PLAIN: between the usual 1e-4 and 1e-3
#: Stages without a rate to choose: the arms that are judged, from what is known.
FIXED = {
    "no training": lambda known: [Arm("movie", still, 0, 0.0, tested=True) for still in STILL],
    "no training, tweets": lambda known: [Arm("tweets", still, 0, 0.0, tested=True) for still in STILL],
    "untuned": lambda known: [f.arm(UNTUNED, seed, tested=True) for seed in TESTS for f in (LORA, PLAIN)],
    "bfloat16": lambda known: [arm for f in ROUNDED for arm in judged(f, known, "bfloat16")],
    "float8": lambda known: judged(PLAIN, known, "float8_e4m3fn"),
    "alpha, judged": lambda known: list(dict.fromkeys(taken_over(known) + judged(SCALED[0], known))),
}

#: Asked after the sweep had been looked at: the first because a reader saw the difference in the table, the second
#: because the plan had one seed for it.  They are counted with the planned ones.
LATER = (
    ("LoRA, rank 1, tweets", "LoRA, tweets"),
    ("LoRA, rank 1, alpha / r, rate of rank 8", "LoRA, rank 1, alpha / r"),
)
#: (first, second): is the first's accuracy, or its test loss, another than the second's?
COMPARISONS = (
    ("LoRA-One", "LoRA"),
    ("LoRA-One, plain", "LoRA"),
    ("LoRA-One, plain, untuned", "LoRA, untuned"),
    ("LoRA-GA", "LoRA"),
    ("PiSSA", "LoRA"),
    ("LoRA+", "LoRA"),
    ("P-LoRA", "LoRA"),
    ("full", "LoRA"),
    ("LoRA, rank 1", "full"),
    ("LoRA, rank 1", "LoRA"),
    ("LoRA, rank 64", "LoRA"),
    ("size alone", "LoRA"),
    ("size alone", "LoRA-One, plain"),
    ("directions alone", "LoRA"),
    ("LoRA-One, plain, tweets", "LoRA, tweets"),
    ("full, tweets", "LoRA, tweets"),
    ("LoRA, rank 1, tweets", "full, tweets"),
    *((f"{family.method}, bfloat16", family.method) for family in ROUNDED),
    ("LoRA-One, plain, float8", "LoRA-One, plain"),
    *LATER,
)


def sides(known: dict[Arm, dict]) -> dict[str, list[Arm]]:
    """The judged arms by the names that COMPARISONS uses."""
    every = [family for _, families in STAGES for family in families if family.ratio is None]
    named = {
        family.method + f", rank {family.rank}" * (family.rank != 8) + ", tweets" * (family.task == "tweets"): family
        for family in every
    }
    found = {name: judged(family, known) for name, family in named.items()}
    found |= {f"{f.method}, untuned": [f.arm(UNTUNED, seed, tested=True) for seed in TESTS] for f in (LORA, PLAIN)}
    found |= {f"{f.method}, bfloat16": judged(f, known, "bfloat16") for f in ROUNDED}
    found |= {"LoRA-One, plain, float8": judged(PLAIN, known, "float8_e4m3fn")}
    return found | dict(zip(LATER[1], (taken_over(known), judged(SCALED[0], known))))


def planned(known: dict[Arm, dict]) -> list[tuple[str, list[Arm], str, list[Arm]]]:
    """COMPARISONS with their arms, seed by seed."""
    found = sides(known)
    return [(first, found[first], second, found[second]) for first, second in COMPARISONS]


def losses(family: Family, known: dict[Arm, dict]) -> dict[float, float]:
    """Validation loss by rate, in rising order of rate, of the rates that were tried."""
    found = {rate: known.get(family.arm(rate), {}).get("validation") for rate in LADDER}
    return {rate: loss for rate, loss in found.items() if loss is not None}


def best(family: Family, known: dict[Arm, dict]) -> float | None:
    """The rate with the least validation loss; None while the grid is not finished."""
    return None if missing(family, known) else min(losses(family, known).items(), key=lambda pair: pair[1])[0]


def missing(family: Family, known: dict[Arm, dict]) -> list[Arm]:
    """Arms that the choice of the rate still needs."""
    found = losses(family, known)
    open_rates = [rate for rate in RATES if rate not in found]
    if not open_rates:
        rate = min(found.items(), key=lambda pair: pair[1])[0]
        place = LADDER.index(rate)
        around = LADDER[max(0, place - 1) : place + 2]
        open_rates = [rate for rate in around if rate not in found]
    return [family.arm(rate) for rate in open_rates]


def todo(known: dict[Arm, dict]) -> tuple[str, list[Arm]]:
    """The next arms that can be named, all of one stage; an empty list at the end."""
    for last in TESTS:
        for name, families in STAGES:
            if name in FIXED:
                arms = FIXED[name](known)
            else:
                arms = [arm for family in families for arm in missing(family, known)]
                if not arms and name != "alpha":  # of alpha only the validation losses are wanted
                    arms = [arm for family in families for arm in judged(family, known)]
            arms = [arm for arm in arms if arm not in known and arm.seed <= last]
            if arms:
                return name, arms
    return "", []


def judged(family: Family, known: dict[Arm, dict], rounded: str = "") -> list[Arm]:
    """The arms that are judged on the test sentences; [] while the rate is open."""
    rate = best(family, known)
    if rate is None or not math.isfinite(losses(family, known)[rate]):
        return []
    return [family.arm(rate, seed, rounded=rounded, tested=True) for seed in TESTS]


def taken_over(known: dict[Arm, dict]) -> list[Arm]:
    """Rank 1 under alpha / r at the best rate of rank 8, judged; [] while that rate is open."""
    rate = best(LORA, known)
    return [] if rate is None else [SCALED[0].arm(rate, seed, tested=True) for seed in TESTS]
