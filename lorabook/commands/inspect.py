"""``lorabook inspect PATH [PATH ...]``: what saved adapters are, what they do to their base, whether training ended."""

from __future__ import annotations

from dataclasses import replace

from lorabook.commands.options import Progress, add_report, not_negative, positive


def add(commands) -> None:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "inspect",
        help="measure a saved PEFT LoRA adapter",
        description="Measure the update of every module of a saved PEFT LoRA adapter. Reads adapter_config.json and "
        "adapter_model.safetensors; runs no code from the folder, opens no pickle, uses no network.",
    )
    parser.add_argument("path", nargs="+", help="folder of the adapter; several, or a Trainer's output: how they move")
    add_report(parser, "the ranks by module, the sizes beside the base, or the norms of several adapters")
    base = parser.add_argument_group("base model", "what does X do to W0, and will a merge keep it?")
    base.add_argument("--model", metavar="FOLDER", help="base model: local safetensors files")
    text = "singular vectors that are looked at (default 10); 0 leaves out what takes long"
    base.add_argument("--top", type=not_negative(int), metavar="K", default=10, help=text)
    text = "a cosine below this makes an intruder dimension (default 0.5)"
    base.add_argument("--threshold", type=positive(float), metavar="T", default=0.5, help=text)
    text = "of these modules alone: ends of names, such as q_proj, or patterns with *"
    base.add_argument("--modules", metavar="NAME", nargs="+", default=[], help=text)
    certificate = parser.add_argument_group(
        "certificate", "with --model and both of these: is every module stationary, rank-saturated, or neither?"
    )
    for name, kind, value, default, text in (
        (
            "--data",
            str,
            "FILE.jsonl",
            None,
            'training set: {"text": ..., "label": 0}; for a causal model {"text": ...}, {"messages": [...]} or '
            '{"prompt": ..., "completion": ...}',
        ),
        ("--weight-decay", not_negative(float), "LAMBDA", None, "decay on the factors, as a penalty"),
        ("--batch-size", positive(int), "N", 16, "rows at once, as in training, for the noise (default 16)"),
        ("--max-length", positive(int), "N", None, "tokens of a sentence (default 128, or the model's positions)"),
        ("--tolerance", positive(float), "T", 0.01, "on slope, imbalance and excess (default 0.01)"),
        ("--passes", positive(int), "N", None, "passes over the data; fewer need more memory (default: the least)"),
    ):
        certificate.add_argument(name, type=kind, metavar=value, default=default, help=text)
    text = "the decay is AdamW's own and no penalty; may be 0"
    certificate.add_argument("--decoupled", action="store_true", help=text)
    parser.set_defaults(run=run, check=lambda options: _check(parser, options))


def _check(parser, options) -> None:
    """Options that do not go together stop here."""
    given = [options.data, options.weight_decay]
    if any(value is not None for value in given) and None in (options.model, *given):
        parser.error("the certificate needs --model, --data and --weight-decay together")
    if options.decoupled and options.data is None:
        parser.error("--decoupled belongs to the certificate: give --model, --data and --weight-decay too")
    if options.weight_decay == 0 and not options.decoupled:
        parser.error("argument --weight-decay: as a penalty it must be positive (for AdamW give --decoupled)")
    if options.modules and not options.model:
        parser.error("--modules chooses what stands beside the base: give --model too")
    if options.threshold > 1:
        parser.error("argument --threshold: a cosine is at most 1")


def run(options) -> str:
    """The report."""
    from lorabook.adapters import plots, report
    from lorabook.adapters.movement import expand, inspect_folders

    if options.plot:
        plots.plot_file(options.plot, options.overwrite)
    paths = expand(options.path)
    with Progress() as progress:
        series = inspect_folders(paths, progress)
        unjudged: list[dict[str, str]] = [{} for _ in series.adapters]
        verdicts = [_certified(*pair, options, progress) for pair in zip(series.adapters, unjudged)]
        bases: list = [None] * len(verdicts)
        if options.model:
            from lorabook.adapters.against_base import against_base
            from lorabook.adapters.base_weights import BaseWeights
            from lorabook.adapters.fits import misfits
            from lorabook.adapters.promises import beside

            chosen = {"top": options.top, "threshold": options.threshold, "only": options.modules}
            bases = against_base(series.adapters, options.model, progress=progress, **chosen)
            base = BaseWeights(options.model)
            told = [replace(one, notes=(*beside(one, base), *misfits(one, base))) for one in series.adapters]
            series = replace(series, adapters=tuple(told))
    one = len(paths) == 1
    if options.json and one:
        text = report.as_json(series.adapters[0], series.measured[0], verdicts[0], bases[0])
    elif options.json:
        text = report.series_json(series, verdicts, bases)
    else:
        tables = [
            report.as_text(adapter, measured, said, base, options.threshold, options.decoupled, left)
            for adapter, measured, said, base, left in zip(series.adapters, series.measured, verdicts, bases, unjudged)
        ]
        text = tables[0] if one else report.series_text(series)
        if options.model and not one:
            text = "\n\n".join([text, *(f"{a.folder}\n{table}" for a, table in zip(series.adapters, tables))])
    if options.plot and not one:
        plots.draw_series(options.plot, series, options.overwrite)
    elif options.plot and options.model:
        plots.draw_base(options.plot, bases[0], options.overwrite)
    elif options.plot:
        plots.draw_ranks(options.plot, series.measured[0], options.overwrite)
    return text


def _certified(adapter, left: dict[str, str], options, progress):
    """The certificate of one adapter, where there are data; ``left`` takes modules without a verdict."""
    if options.data is None:
        return None
    from lorabook.adapters.certify_folder import certify_folder
    from lorabook.adapters.inspect import read

    names = ("batch_size", "max_length", "tolerance", "passes", "decoupled")
    chosen = {name: getattr(options, name) for name in names} | {"left": left, "progress": progress}
    adapter = read(adapter.folder)
    return certify_folder(adapter, options.model, options.data, options.weight_decay, **chosen)
