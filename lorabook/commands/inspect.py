"""``lorabook inspect PATH [PATH ...]``: what saved adapters are, what they do to their base, whether training ended."""

from __future__ import annotations

from lorabook.commands.options import Progress, add_report, positive


def add(commands) -> None:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "inspect",
        help="measure a saved PEFT LoRA adapter",
        description="Measure the update of every module of a saved PEFT LoRA adapter. Reads adapter_config.json and "
        "adapter_model.safetensors; runs no code from the folder, opens no pickle, uses no network.",
    )
    parser.add_argument("path", help="folder of the adapter")
    add_report(parser, "the ranks by module")
    certificate = parser.add_argument_group(
        "certificate", "with these three: is every module stationary, rank-saturated, or neither?"
    )
    for name, kind, value, default, text in (
        ("--model", str, "FOLDER", None, "base model: local safetensors files that transformers loads"),
        (
            "--data",
            str,
            "FILE.jsonl",
            None,
            'training set: {"text": ..., "label": 0}; for a causal model {"text": ...}',
        ),
        ("--weight-decay", positive(float), "LAMBDA", None, "decay on the factors, as a penalty"),
        ("--batch-size", positive(int), "N", 16, "sentences at once (default 16)"),
        ("--max-length", positive(int), "N", None, "tokens of a sentence (default 128, or the model's positions)"),
        ("--tolerance", positive(float), "T", 0.01, "on slope, imbalance and excess (default 0.01)"),
        ("--passes", positive(int), "N", None, "passes over the data; fewer need more memory (default: the least)"),
    ):
        certificate.add_argument(name, type=kind, metavar=value, default=default, help=text)
    parser.set_defaults(run=run, check=lambda options: _check(parser, options))


def _check(parser, options) -> None:
    """Options that do not go together stop here."""
    given = [options.model, options.data, options.weight_decay]
    if any(value is not None for value in given) and None in given:
        parser.error("the certificate needs --model, --data and --weight-decay together")


def run(options) -> str:
    """The report."""
    from lorabook.adapters import report
    from lorabook.adapters.inspect import inspect_folder

    if options.plot:
        report.plot_file(options.plot, options.overwrite)
    progress = Progress()
    adapter, measured = inspect_folder(options.path, progress)
    verdicts = None
    if options.model:
        from lorabook.adapters.certify_folder import certify_folder

        chosen = {name: getattr(options, name) for name in ("batch_size", "max_length", "tolerance", "passes")}
        verdicts = certify_folder(
            adapter, options.model, options.data, options.weight_decay, **chosen, progress=progress
        )
    progress.close()
    text = report.as_json(adapter, measured, verdicts) if options.json else report.as_text(adapter, measured, verdicts)
    if options.plot:
        report.write_plot(options.plot, measured, options.overwrite)
    return text
