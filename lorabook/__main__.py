"""``lorabook inspect PATH``: what a saved PEFT adapter is, and whether its training has ended.

``python -m lorabook`` is the same command.

Exit code 0: the report was printed.  1: something could not be read, one sentence on stderr.  2: wrong options.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import lorabook


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="lorabook", description="Tools of the lorabook package.")
    parser.add_argument("--version", action="version", version=f"lorabook {lorabook.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser(
        "inspect",
        help="measure a saved PEFT LoRA adapter",
        description="Measure the update of every module of a saved PEFT LoRA adapter. Reads adapter_config.json and "
        "adapter_model.safetensors; runs no code from the folder, opens no pickle, uses no network.",
    )
    inspect.add_argument("path", help="folder of the adapter")
    inspect.add_argument("--json", action="store_true", help="print JSON instead of a table")
    inspect.add_argument("--plot", metavar="FILE.svg", help="draw the ranks by module into this file")
    certificate = inspect.add_argument_group(
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
        ("--weight-decay", _positive(float), "LAMBDA", None, "decay on the factors, as a penalty"),
        ("--batch-size", _positive(int), "N", 16, "sentences at once (default 16)"),
        ("--max-length", _positive(int), "N", None, "tokens of a sentence (default 128, or the model's positions)"),
        ("--tolerance", _positive(float), "T", 0.01, "on slope, imbalance and excess (default 0.01)"),
        ("--passes", _positive(int), "N", None, "passes over the data; fewer need more memory (default: the least)"),
    ):
        certificate.add_argument(name, type=kind, metavar=value, default=default, help=text)
    options = parser.parse_args(arguments)
    given = [options.model, options.data, options.weight_decay]
    if any(value is not None for value in given) and None in given:
        parser.error("the certificate needs --model, --data and --weight-decay together")
    try:
        print(_inspect(options))
        return 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains again at exit
        return 0
    except (ValueError, OSError, ImportError) as error:
        print(f"lorabook: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def _inspect(options) -> str:
    from lorabook.adapters import report
    from lorabook.adapters.inspect import inspect_folder

    if options.plot:
        report.plot_file(options.plot)
    progress = _Progress()
    adapter, measured = inspect_folder(options.path, progress)
    verdicts = None
    if options.model:
        from lorabook.adapters.certify_folder import certify_folder

        chosen = {name: getattr(options, name) for name in ("batch_size", "max_length", "tolerance", "passes")}
        verdicts = certify_folder(
            adapter, options.model, options.data, options.weight_decay, **chosen, progress=progress
        )
    text = report.as_json(adapter, measured, verdicts) if options.json else report.as_text(adapter, measured, verdicts)
    if options.plot:
        report.write_plot(options.plot, measured)
    return text


class _Progress:
    """A line on stderr every two seconds, so that short work stays silent."""

    def __init__(self):
        self.last = time.monotonic()

    def __call__(self, line: str) -> None:
        if time.monotonic() - self.last >= 2:
            self.last = time.monotonic()
            print(line, file=sys.stderr, flush=True)


def _positive(kind: type):
    def read(text: str):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    read.__name__ = "positive number"
    return read


if __name__ == "__main__":
    sys.exit(main())
