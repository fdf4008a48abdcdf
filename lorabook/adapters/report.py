"""What was found in adapters, as a table of at most 100 columns and as JSON; :mod:`lorabook.adapters.plots` draws."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable
from dataclasses import asdict

from lorabook.adapters.against_base import AgainstBase
from lorabook.adapters.base_weights import QUANTISED_HERE, TAILS
from lorabook.adapters.certificate import LayerVerdict
from lorabook.adapters.dora import dora_notes
from lorabook.adapters.findings import findings
from lorabook.adapters.folder import Adapter
from lorabook.adapters.formats import bare
from lorabook.adapters.inspect import Measured
from lorabook.adapters.movement import Series
from lorabook.adapters.parts import counted, modules
from lorabook.adapters.peft_config import printable
from lorabook.adapters.replicated import original
from lorabook.adapters.tables import (
    WIDTH,
    brief,
    common_begin,
    dumped,
    elide,
    grouped,
    left_out,
    module_label,
    or_dash,
    span,
    spread,
    table,
    wrapped,
)

LEGEND = """\
rank: numerical rank of X = scale B A; r is what the factors allow.
stable: ||X||_F^2 / ||X||_2^2.  90%: singular values with 90 % of ||X||_F^2.  norm: ||X||_F.
imbalance: ||B'B - AA'|| / ||AA'||, 0 where training with decay as a penalty is stationary.
effective step: c^2 (||B||_2^2 + ||A||_2^2), by which SGD on the factors multiplies its rate on X."""
LEGEND_VERDICT = """\
excess: c ||dL/dW||_2 / decay; outside: of what stands outside the columns of B and the rows of A.
slope: gradient of the objective over its decay part, 0 where training is stationary.
noise: that gradient over its error in one pass of random batches; up to 1 it cannot be told from 0.
gap: no adapter lowers the objective by more, where the loss is convex in the layer (elsewhere the
verdict is local); share: the gap over the objective."""
LEGEND_DECOUPLED = """\
slope: change of the loss to first order, over the loss, if the factors moved by their own size.
noise: the factors' gradient over its error in one pass of random batches; up to 1 it is noise.
gap: no adapter of no larger nuclear norm lowers the loss by more, where it is convex in the layer.
new: what the best new direction of half the batches gains on the others, over its error.
excess: c ||dL/dW||_2 over AdamW's decay times the root mean square of its gradients."""
LEGEND_SHORT = """\
|X|/|W0|: of Frobenius norms.
lost: error of W0 + X rounded to the dtype of the base, over ||X||_F; inf on overflow."""
LEGEND_BASE = """\
|X|/|W0|: of Frobenius norms; spectral: of the largest singular values.
intruders: of the leading {top} left singular vectors of W0 + X, those whose cosine with each left
singular vector of W0 is below {threshold:g} (arXiv 2410.21228).
left, right: share of ||X||_F^2 in the leading {top} left and right singular vectors of W0.
lost: error of W0 + X rounded to the dtype of the base, over ||X||_F; inf on overflow."""
LEGEND_SERIES = """\
norm: ||X||_F of all modules; changed: ||X - X before||_F / ||X||_F.
stable, 90% and imbalance are medians over the modules."""


def as_text(
    adapter: Adapter,
    measured: list[Measured],
    verdicts: dict[str, LayerVerdict] | None = None,
    base: dict[str, AgainstBase | str] | None = None,
    threshold: float | None = None,
    decoupled: bool = False,
    unjudged: dict[str, str] | None = None,
) -> str:
    """The tables with what was left out and what it means; ``unjudged`` are modules without a verdict."""
    begin = common_begin([one.name for one in measured])
    lines = [*_head(adapter, measured)]
    if begin:
        lines.append(f"names begin with {elide(printable(begin), WIDTH - 17)}")
    header = ["module", "size", "r", "rank", "stable", "90%", "norm", "imbalance"]
    rows = []
    for one in measured:
        row = [module_label(one, begin), f"{one.shape[0]}x{one.shape[1]}", str(one.allowed), str(one.rank)]
        row += [f"{one.stable_rank:.1f}", str(one.energy_90), brief(one.norm), brief(one.imbalance)]
        rows.append(row)
    lines += ["", *table(header, rows, words={0}), "", LEGEND]
    if verdicts:
        lines += ["", *_verdict_lines(measured, verdicts, begin, decoupled)]
        lines += wrapped(list(grouped({name: f"no verdict, {why}" for name, why in (unjudged or {}).items()})))[1:]
    if base is not None:
        lines += ["", *_base_lines(adapter, measured, base, begin, threshold)]
    return "\n".join([*lines, *wrapped([*left_out(adapter), *_notes(adapter, measured)])])


def as_json(
    adapter: Adapter,
    measured: list[Measured],
    verdicts: dict[str, LayerVerdict] | None = None,
    base: dict[str, AgainstBase | str] | None = None,
) -> str:
    """One object; a number that is infinite becomes null, and so does what was not asked for.

    A merge that overflows is told from both by ``overflows``.
    """
    return dumped(_object(adapter, measured, verdicts, base))


def series_text(series: Series) -> str:
    """How the measures move from folder to folder, in all and module by module."""
    folders = [str(adapter.folder) for adapter in series.adapters]
    room = os.path.commonpath(folders) if len(folders) > 1 else ""
    short = [printable(os.path.relpath(folder, room) if room else folder) for folder in folders]
    header = ["adapter", "modules", "dead", "c", "norm", "changed", "stable", "90%", "imbalance"]
    rows = []
    for place, (label, found) in enumerate(zip(short, series.measured)):
        middle = lambda values: statistics.median(list(values))
        changed = series.changed(place)
        row = [label, str(len(found)), str(sum(not one.largest for one in found)), span(one.scale for one in found)]
        row += [brief(series.total(place)), "" if changed is None else brief(changed)]
        row += [f"{middle(one.stable_rank for one in found):.1f}", f"{middle(one.energy_90 for one in found):g}"]
        rows.append([*row, brief(middle(one.imbalance for one in found))])
    lines = [f"{len(folders)} adapters" + (f" in {elide(printable(room), WIDTH - 20)}" if room else ""), ""]
    lines += [*table(header, rows, words={0}), "", LEGEND_SERIES]
    for run in series.runs:
        lines += ["", *_run_lines(series, run)]
    lines += ["", "last change: ||X - X before||_F / ||X||_F of the last two."]
    bases = {printable(str(one.config.get("base_model_name_or_path") or "")) for one in series.adapters} - {""}
    more = [f"note: the adapters name different base models: {', '.join(sorted(bases))}."] if len(bases) > 1 else []
    more += series.beside(short)
    more += [
        f"{label}: {line}"
        for label, adapter, found in zip(short, series.adapters, series.measured)
        for line in (*left_out(adapter), *_notes(adapter, found))
    ]
    return "\n".join([*lines, *wrapped([*more, *(f"left out: {sentence}" for sentence in series.failed)])])


def _run_lines(series: Series, run: tuple[int, ...]) -> Iterable[str]:
    """The modules of one run, from folder to folder."""
    title, short = series.labels(run)
    short = [printable(one) for one in short]
    rows, moved = [], [one for one in series.moved if any(one.norms[k] is not None for k in run)]
    begin = common_begin([one.name for one in moved])
    shown = spread(len(run), (WIDTH - 40) // (2 + min(14, max(map(len, short)))))
    if len(series.runs) > 1:
        yield f"of {elide(printable(title), WIDTH - 3)}"
    if begin:
        yield f"names begin with {elide(printable(begin), WIDTH - 17)}"
    header = ["||X||_F", *(elide(short[k], 14) for k in shown), "last change"]
    for one in moved:
        change, norm = one.changes[run[-1]], one.norms[run[-1]]
        last = change / norm if change is not None and norm else None
        row = [printable(one.name.removeprefix(begin)), *(or_dash(one.norms[run[k]]) for k in shown)]
        rows.append([*row, or_dash(last)])
    yield from table(header, rows, words={0})


def series_json(series: Series, verdicts: list[dict | None], bases: list[dict | None]) -> str:
    """One object with a report for each folder, and how the modules move."""
    reports = [
        {"folder": str(adapter.folder)} | _object(adapter, found, said, base)
        for adapter, found, said, base in zip(series.adapters, series.measured, verdicts, bases)
    ]
    changed = [series.changed(k) for k in range(len(reports))]
    whole = {"format": 1, "folders": reports, "changed": changed, "moves": [asdict(one) for one in series.moved]}
    outside = [one and asdict(one) for one in series.outside]
    return dumped(whole | {"outside": outside, "failed": list(series.failed)})


def _head(adapter: Adapter, measured: list[Measured]) -> Iterable[str]:
    config = adapter.config
    if "peft_type" in config and not adapter.strict.startswith("The format is"):
        scale = "alpha / sqrt(r)" if config.get("use_rslora") else "alpha / r"
        what = f"r {config['r']}, alpha {config['lora_alpha']:g}, c = {scale} = {span(one.scale for one in measured)}"
    else:
        what = f"r {span(one.allowed for one in measured)}, c {span(one.scale for one in measured)}"
    yield f"LoRA adapter with {modules(len(measured))}: {what}"
    base = printable(str(config.get("base_model_name_or_path") or "not named"))
    yield f"base model: {elide(base, WIDTH - 12)}"
    steps = [one.step for one in measured]
    middle = f", median {brief(statistics.median(steps))}" if len(steps) > 1 else ""
    yield f"effective step: {span(steps)}{middle}"


def _verdict_lines(measured, verdicts: dict[str, LayerVerdict], begin: str, decoupled: bool) -> Iterable[str]:
    header = ["module", "excess", "outside", "slope", "noise", "gap", "new" if decoupled else "share", "verdict"]
    rows = []
    for one in measured:
        said = verdicts.get(one.name)
        if said:
            cells = [said.excess, said.outside, said.slope, said.noise, said.gap]
            cells.append(said.new if decoupled else said.share)
            rows.append([module_label(one, begin), *map(or_dash, cells), said.verdict])
    yield from table(header, rows, words={0, 7})
    yield ""
    yield LEGEND_DECOUPLED if decoupled else LEGEND_VERDICT


def _base_lines(
    adapter: Adapter, measured, base: dict[str, AgainstBase | str], begin: str, threshold: float | None
) -> Iterable[str]:
    beside = {name: one for name, one in base.items() if isinstance(one, AgainstBase)}
    rows, top = [], max((one.examined for one in beside.values()), default=0)
    long = ["spectral", "intruders", "left", "right"] if top else []
    header = ["module", "|X|/|W0|", *long, "lost", "base in"]
    for one in measured:
        said = beside.get(one.name)
        if said:
            new = "-" if said.intruders is None else f"{said.intruders}/{said.examined}"
            of_top = [said.spectral_ratio, new, said.left, said.right] if top else []
            cells = [said.ratio, *of_top, said.lost]
            rows.append([module_label(one, begin), *(or_dash(cell) for cell in cells), said.dtype])
    yield from table(header, rows, words={0, len(header) - 1})
    yield ""
    yield LEGEND_BASE.format(top=top, threshold=threshold) if top else LEGEND_SHORT
    word = lambda why: "not measured beside the base" if QUANTISED_HERE in why else "no base weight"
    missing = {name: f"{word(why)}, {why}" for name, why in base.items() if isinstance(why, str)}
    yield from wrapped(list(grouped(missing)))[1:]
    yield from wrapped([f"note: {note}" for note in _base_notes(beside, adapter.config)])


def _base_notes(beside: dict[str, AgainstBase], config: dict) -> Iterable[str]:
    yield from dora_notes(beside)
    over = sum(one.overflows > 0 for one in beside.values())
    if over:
        yield (
            f"the merged weights of {over} of {modules(len(beside))} overflow the dtype of the base, to infinity: "
            "keep the adapter apart, or merge into float32."
        )
    gone = sum((one.lost or 0) > 0.5 and not one.overflows for one in beside.values())
    if gone:
        yield (
            f"a merge would lose more than half of X to rounding in {gone} of {modules(len(beside))}: keep the "
            "adapter apart, or merge into float32."
        )
    # the key of one expert stands for another name
    plain = {name: one.key for name, one in beside.items() if "[" not in name and not one.tied}
    named = {bare(original(name, config)[0]).replace(".base_layer", ""): key for name, key in plain.items()}
    other = [(name, key) for name, key in named.items() if key not in (f"{name}{tail}" for tail in TAILS)]
    if other:
        name, key = other[0]
        yield (
            f"the base's files name {modules(len(other))} otherwise, as {printable(key)} for {printable(name)}. "
            "transformers gives the weights of some classes other names on loading, those of vision-language models "
            "above all. Where it does not, the adapter belongs to a class that has, or lacks, a head, and PEFT finds "
            "no place for it in any other."
        )


def _notes(adapter: Adapter, measured: list[Measured]) -> Iterable[str]:
    if adapter.faults:
        number, rest = counted(adapter.faults.values())
        what = [f"{number} of {modules(number + len(measured))}"] * bool(number)
        what += [f"{rest} tensor{'s' * (rest != 1)} outside the factors"] * bool(rest)
        first = next(iter(adapter.faults.values())).sentence
        yield f"note: {' and '.join(what)} cannot be measured. {first}"
    yield from (f"note: {note}" for note in (*adapter.notes, *findings(adapter, measured)))


def _object(adapter: Adapter, measured, verdicts, base) -> dict:
    rows = []
    for one in measured:
        said, beside = (verdicts or {}).get(one.name), (base or {}).get(one.name)
        against = {"missing": beside} if isinstance(beside, str) else asdict(beside) if beside else None
        rows.append(asdict(one) | {"certificate": said._asdict() if said else None, "base": against})
    said = "base_model_name_or_path task_type r lora_alpha use_rslora init_lora_weights peft_version".split()
    known = {key for part in adapter.others.values() for key in (part.key_A, part.key_B)}
    return {
        "format": 1,
        "adapter": {key: adapter.config.get(key) for key in said},
        "modules": rows,
        "faults": [{"module": name, **fault._asdict()} for name, fault in adapter.faults.items()],
        "skipped": [{"key": key, "why": why} for key, why in adapter.skipped.items() if key not in known],
        "notes": [*adapter.notes, *findings(adapter, measured)],
    }
