"""``lorabook truncate PATH --rank K --out FOLDER``: the same adapter at a lower rank."""

from __future__ import annotations

from lorabook.commands.options import Progress, add_report, positive, share


def add(commands) -> None:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "truncate",
        help="write a saved LoRA adapter at a lower rank",
        description="Cut the update of every module to its leading singular directions and write a folder that PEFT "
        "loads, with the error of every module. The scales stay what they were; what is not a factor is carried along.",
    )
    parser.add_argument("path", help="folder of the adapter")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--rank", type=positive(int), metavar="K", help="no module has more than this rank")
    size.add_argument("--energy", type=share, metavar="E", help="every module keeps this share of ||X||_F^2, up to 1")
    parser.add_argument("--out", metavar="FOLDER", help="a new folder; without it nothing is written")
    add_report(parser, "the error by rank")
    parser.set_defaults(run=run)


def run(options) -> str:
    """The report; the folder is written before."""
    from lorabook.adapters import answers, plots
    from lorabook.adapters.truncate import truncate_folder

    if options.plot:
        plots.plot_file(options.plot, options.overwrite)
    progress = Progress()
    adapter, found = truncate_folder(
        options.path, options.out, rank=options.rank, energy=options.energy, progress=progress
    )
    progress.close()
    if options.plot:
        plots.draw_error(options.plot, found, options.overwrite)
    return (answers.truncated_json if options.json else answers.truncated_text)(adapter, found, options.out)
