"""``lorabook compare A B [C ...]``: saved adapters side by side, and whether one is the weighted sum of others."""

from __future__ import annotations

from lorabook.commands.options import Progress, add_report, share


def add(commands) -> None:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "compare",
        help="measure how far saved LoRA adapters are from each other",
        description="Distance, length and common directions of the updates of two adapters, module by module, or of "
        "every two of several. With --weights: what PEFT's add_weighted_adapter makes of them, against their weighted "
        "sum.",
    )
    parser.add_argument("paths", nargs="+", metavar="path", help="folders of the adapters")
    parser.add_argument(
        "--energy", type=share, default=0.9, metavar="E", help="share of ||X||_F^2 in the directions (default 0.9)"
    )
    parser.add_argument("--weights", type=float, nargs="+", metavar="W", help="one for each adapter")
    parser.add_argument("--merged", metavar="FOLDER", help="is this adapter the weighted sum?")
    parser.add_argument("--any-base", action="store_true", help="the base models are the same, whatever their names")
    add_report(parser, "distances and overlaps")
    parser.set_defaults(run=run, check=lambda options: _check(parser, options))


def _check(parser, options) -> None:
    """Options that do not go together stop here."""
    if options.merged and not options.weights:
        parser.error("--merged needs --weights, one for each adapter")
    if options.weights and len(options.weights) != len(options.paths):
        parser.error(f"--weights needs one for each adapter: {len(options.paths)}, not {len(options.weights)}")
    if len(options.paths) < 2 and not options.weights:
        parser.error("give two adapters or more")
    if options.plot and len(options.paths) < 2:
        parser.error("the figure needs two adapters or more")


def run(options) -> str:
    """The report."""
    from lorabook.adapters import answers, plots
    from lorabook.adapters.compare import compare_folders
    from lorabook.adapters.merges import check_merge

    if options.plot:
        plots.plot_file(options.plot, options.overwrite)
    progress, shared = Progress(), {"any_base": options.any_base}
    adapters, pairs, merges, checked = [], [], [], None
    if len(options.paths) > 1:
        adapters, pairs = compare_folders(options.paths, energy=options.energy, progress=progress, **shared)
    if options.weights:
        adapters, merges, checked = check_merge(
            options.paths, options.weights, options.merged, progress=progress, **shared
        )
    progress.close()
    if options.plot:
        plots.draw_pairs(options.plot, pairs, options.overwrite)
    if options.json:
        return answers.compared_json(adapters, pairs, options.energy, options.weights, merges, checked)
    parts = [answers.compared_text(adapters, pairs, options.energy)] if pairs else []
    if options.weights:
        parts.append(answers.merged_text(adapters, options.weights, merges, checked))
    return "\n\n".join(parts)
