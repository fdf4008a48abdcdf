"""``adapter_config.json``: checked once, and PEFT's rule for the rank and alpha of a module.

PEFT tries the keys of ``rank_pattern`` and ``alpha_pattern`` in their order, as regular expressions on the end of a
module's name from a dot on; the first that matches counts.  EVA writes one key for every module, so keys without
operators are looked up (:class:`Patterns`) and only the others are tried.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

CONFIG = "adapter_config.json"
# bytes of the configuration; an entry of a factor, or alpha; expressions with operators in one pattern
LARGEST_FILE, LARGEST_NUMBER, MOST_EXPRESSIONS = 2**24, 1e100, 2000
MOST_STEPS = 5e9  # of a search that tries every way, which real names are far from
#: Switches under which nothing that is stored is the update of one weight matrix.
OTHER_KINDS = "use_qalora use_bdlora kasa_config monteclora_config arrow_config enable_lora".split()
#: Kinds that PEFT's convert_to_lora takes.
CONVERTIBLE = "C3A DELORA FOURIERFT GRALORA HIRA LOHA LOKR MISS RANDLORA SHIRA VBLORA VERA WAVEFT".split()
#: Starts that also change the base weights.
MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class AdapterError(ValueError):
    """An adapter folder that cannot be read, or is of another kind; one sentence says why."""


def load(path: Path) -> dict:
    """The object in a JSON file of a sensible size."""
    if path.stat().st_size > LARGEST_FILE:
        raise AdapterError(f"{path.name} is larger than {LARGEST_FILE} bytes, which no configuration needs.")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise AdapterError(f"{path.name} is not valid JSON; it may be truncated.") from None
    if not isinstance(config, dict):
        raise AdapterError(f"{path.name} does not name a kind of adapter (peft_type).")
    return config


def check(config: dict) -> None:
    """Raise AdapterError unless this is PEFT's configuration of a LoRA adapter whose factors mean something."""
    if not isinstance(config.get("peft_type"), str):
        raise AdapterError(f"{CONFIG} does not name a kind of adapter (peft_type).")
    kind = config["peft_type"]
    if kind != "LORA":
        more = ""
        if kind == "ADALORA":
            more = " alone: here a diagonal stands between them, and a count of ranks that the folder does not hold"
        elif kind in CONVERTIBLE:
            more = "; PEFT's convert_to_lora makes a LoRA adapter of it"
        raise AdapterError(f"The adapter is of the kind {printable(kind)}; only LORA has the factors B and A{more}.")
    for switch in OTHER_KINDS:
        if config.get(switch):
            raise AdapterError(f"The adapter sets {switch}, so its update is not scale * B A of one weight matrix.")
    if isinstance(config.get("r"), bool) or not isinstance(config.get("r"), int) or config["r"] < 1:
        raise AdapterError(f"The rank r must be a whole number above 0; {CONFIG} says {short(config.get('r'))}.")
    number(config.get("lora_alpha"), "lora_alpha")
    if not isinstance(config.get("use_rslora") or False, bool):
        raise AdapterError(f"use_rslora must be true or false; {CONFIG} says {short(config['use_rslora'])}.")
    for pattern, least in (("rank_pattern", "rank"), ("alpha_pattern", "alpha")):
        if not isinstance(config.get(pattern) or {}, dict):
            raise AdapterError(f"{pattern} must map module names to a {least}; {CONFIG} says {short(config[pattern])}.")
        for key, value in (config.get(pattern) or {}).items():
            number(value, f"{pattern} of {printable(key)}")
    targets = config.get("target_parameters") or []
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise AdapterError(f"target_parameters must be a list of names; {CONFIG} says {short(targets)}.")


def number(value, name: str) -> None:
    """Raise AdapterError unless ``value`` is a positive number that a scale can be."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < LARGEST_NUMBER:
        raise AdapterError(f"{name} must be a positive number below {LARGEST_NUMBER:g}; {CONFIG} says {short(value)}.")


class Patterns:
    """One of the two patterns, by PEFT's rule, in a time that does not grow with the number of plain keys.

    Raises:
        AdapterError: an expression that is none, or that could take very long.
    """

    def __init__(self, patterns: dict | None, name: str):
        self.keys, self.values = list(patterns or {}), list((patterns or {}).values())
        self.used: set[int] = set()
        self.torn: list[str] = []  # names that several plain keys fit, with different values
        self.expressions: list[tuple[int, re.Pattern, int]] = []
        # a plain key matches an end of its own length that agrees outside its bare dots, which stand for any letter
        self.plain: dict[tuple[int, tuple[int, ...]], dict[str, int]] = {}
        for place, key in enumerate(patterns or {}):
            literal = re.fullmatch(r"(?:[\w\-.]|\\\.)+", key)
            if literal:
                text = key.replace("\\.", "\0")
                dots = tuple(spot for spot, letter in enumerate(text) if letter == ".")
                self.plain.setdefault((len(text), dots), {}).setdefault(text.replace("\0", "."), place)
            else:
                self.expressions.append((place, *_expression(key, name)))
        if len(self.expressions) > MOST_EXPRESSIONS:
            raise AdapterError(f"{name} has more than {MOST_EXPRESSIONS} regular expressions.")
        self.name, self.steps = name, 0.0
        self.lengths: dict[int, list[tuple[int, ...]]] = {}
        for length, dots in self.plain:
            self.lengths.setdefault(length, []).append(dots)

    def of(self, name: str, default):
        """The value for the module ``name``."""
        places = [*self._looked_up(name)]
        if len({self.values[place] for place in places}) > 1:
            self.torn.append(name)
        first = min(places, default=len(self.values))
        for place, expression, repeated in self.expressions:
            if place > first:
                break
            self.steps += len(name) ** (repeated + 1) / math.factorial(repeated + 1)
            if self.steps > MOST_STEPS:
                raise AdapterError(f"{self.name} has expressions that could take too long on names as long as these.")
            if expression.match(name):
                first = place
                break
        if first == len(self.values):
            return default
        self.used.add(first)
        return self.values[first]

    def unused(self) -> list[str]:
        """The keys that were the first to match for none of the names that were looked up."""
        return [key for place, key in enumerate(self.keys) if place not in self.used]

    def _looked_up(self, name: str) -> Iterator[int]:
        starts = [0, *(place + 1 for place, letter in enumerate(name) if letter == ".")]
        for start in starts:
            end = name[start:]
            for dots in self.lengths.get(len(end), ()):
                letters = list(end)
                for dot in dots:
                    letters[dot] = "."
                place = self.plain[len(end), dots].get("".join(letters))
                if place is not None:
                    yield place


def pattern(patterns: dict | None, name: str, default):
    """:class:`Patterns` for a single name."""
    return Patterns(patterns, "The pattern").of(name, default)


def _expression(key: str, pattern: str) -> tuple[re.Pattern, int]:
    """Keys are regular expressions from a file: only those that end quickly are tried.

    A repeated group, or one repetition straight after another, could try exponentially many ways; each further
    repetition multiplies the time by the length of a name.  With each comes the number of repetitions.
    """
    plain = re.sub(r"\\[^0-9]|\[(?:\\.|[^\]\\])+\]", "x", key)  # an escaped letter or a set stands for one letter
    many = len(re.findall(r"[*+]|\{\d*,\d*\}", plain))
    known = re.fullmatch(r"[\w.\-^$|()\[\]\\*+?:{},/ =!<]*", key)
    if (
        len(key) > 1024
        or not known
        or many > 3
        or key.count("(") > 64
        or re.search(r"\)[*+{]|[*+?}][*+{]|\\[1-9]|\(\?[^:=!]|\{\d{3,}|,\d{3,}", plain)
    ):
        raise AdapterError(f"{pattern} has the expression {short(key)}, which is too involved to be tried safely.")
    try:
        return re.compile(rf"(.*\.)?({key})$"), many
    except (re.error, OverflowError, RecursionError):
        raise AdapterError(f"{pattern} has the expression {short(key)}, which is not a regular expression.") from None


def printable(text: str) -> str:
    """``text`` from a file without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def short(value) -> str:
    """A value of the configuration as it stands there."""
    return cut(json.dumps(value))


def cut(text: str) -> str:
    """At most 80 printable characters."""
    text = printable(text)
    return text if len(text) <= 80 else text[:77] + "..."
