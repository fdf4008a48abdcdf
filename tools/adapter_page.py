"""The page book/adapter.md, run from top to bottom: what its blocks print, and what they draw.

    python -m tools.adapter_page           says where the page and a run differ
    python -m tools.adapter_page --write   puts what was printed and drawn into the page

A ```python block is executed, all of them in one namespace and one empty folder.  Of a ```sh block before a ```text
block each line is a command of lorabook.  A ```text block holds what the block before it prints.  A drawing named on
the page is a file that a command wrote with --plot, or is drawn here from what the Python blocks left behind.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path

from lorabook.__main__ import main as command
from lorabook.page import figures

PAGE = Path("book/adapter.md")
BLOCK = re.compile(r"^```(python|sh|text)\n(.*?)^```$", re.M | re.S)
DRAWING = re.compile(r"^```\{drawing\} (\S+)$", re.M)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
NAME = re.compile(r' id="[^"]*"|url\(#[^)]*\)|(?:xlink:)?href="#[^"]*"')
NEAR = 1.0  # points of a drawing; processors differ in the last digits of what is drawn
ROUNDING = 2.0**-23  # of float32; of a printed number below it processors agree in its size alone


def run(text: str) -> tuple[list[str], dict[str, str]]:
    """What each text block should hold, and the drawings by name, from a run of the page in an empty folder."""
    blocks = list(BLOCK.finditer(text))
    names: dict = {"__name__": "__main__"}
    printed, here = [], os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for block, following in zip(blocks, [*blocks[1:], None]):
                kind, code = block[1], block[2]
                shown = following is not None and following[1] == "text"
                out = io.StringIO()
                with contextlib.redirect_stdout(out):
                    if kind == "python":
                        line = text[: block.start(2)].count("\n")
                        exec(compile("\n" * line + code, PAGE.name, "exec"), names)
                    elif kind == "sh" and shown:
                        for line in code.splitlines():
                            asked = shlex.split(line)
                            if asked.pop(0) != "lorabook" or command(asked):
                                raise SystemExit(f"The page's command does not run: {line}")
                if shown:
                    printed.append(out.getvalue())
            drawings = {name: Path(name).name for name in DRAWING.findall(text)}
            found = {
                name: DRAWN[name](names) if name in DRAWN else Path(file).read_text(encoding="utf-8")
                for name, file in drawings.items()
            }
        finally:
            os.chdir(here)
    return printed, found


def shown(text: str) -> list[str]:
    """What the text blocks of the page hold."""
    return [block[2] for block in BLOCK.finditer(text) if block[1] == "text"]


def same(first: str, second: str) -> bool:
    """Whether two printed texts say the same; of what is rounding alone only that it is there."""
    tiny = lambda number: "#" * len(number[0]) if 0 < abs(float(number[0])) < ROUNDING else number[0]
    return NUMBER.sub(tiny, first) == NUMBER.sub(tiny, second)


def differ(first: str, second: str) -> bool:
    """Whether two drawings show different things: another text, or a point that is elsewhere."""
    first, second = NAME.sub("", first), NAME.sub("", second)
    numbers = [[float(one) for one in NUMBER.findall(text)] for text in (first, second)]
    return (
        NUMBER.sub("#", first) != NUMBER.sub("#", second)
        or len(numbers[0]) != len(numbers[1])
        or any(abs(one - other) > NEAR for one, other in zip(*numbers))
    )


# ---------------------------------------------------------------- what no command draws


def drawn(ax) -> str:
    return figures.row(ax, caption="-", alt=["-"]).drawings[0]


def stuck(names) -> str:
    both = names["train"](names["adapted"](rank=4), len(names["losses_stuck"]))
    ax = figures.panel("step", "training loss", width=7.0, height=3.2)
    figures.curves(
        ax, range(len(both)), [names["losses_stuck"], both], ["one module trains", "both modules train"], "kim"
    )
    return drawn(ax)


def objectives(names) -> str:
    found = names["objectives"]
    ax = figures.panel("rank", "loss with decay", width=7.0, height=3.2, xticks=list(found))
    figures.curves(ax, list(found), [list(found.values())], [""], "kim")
    return drawn(ax)


def done(names) -> str:
    """Excess and slope along the run that the page looks at a few times."""
    model, at, seen = names["adapted"](rank=4), 0, []
    steps = [round(10 ** (k / 4)) for k in range(15)]
    for step in steps:
        names["train"](model, step - at)
        at = step
        said = names["certify"](model, names["batches"], names["decay"], loss=names["loss"])
        seen.append([value for one in said.values() for value in (one.excess - 1, one.slope)])
    labels = [f"{what}, module {name}" for name in said for what in ("excess - 1", "slope")]
    ax = figures.panel("step", "", width=7.0, height=3.6, xscale="log", yscale="log")
    figures.curves(ax, steps, list(zip(*seen)), labels, "kim")
    ax.axhline(1e-2, color=figures.GREY, linestyle=":", linewidth=1.2, label="tolerance")
    ax.legend(loc="lower left")
    return drawn(ax)


def starts(names) -> str:
    ax = figures.panel("step", "training loss", width=7.0, height=3.2)
    curves = [names["plain"], names["starts"][4.0]]
    figures.curves(ax, range(len(curves[0])), curves, ["PEFT's start", "LoRA-One's, gamma 4"], "lora_one")
    return drawn(ax)


def recipe(names) -> str:
    ax = figures.panel("step", "loss on sentences\nnot trained on", width=7.0, height=3.2)
    curves = list(names["curves"].values())
    figures.curves(ax, list(curves[0]), [list(curve.values()) for curve in curves], list(names["curves"]), "lora_one")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return drawn(ax)


DRAWN = {f"figures/{one.__name__}.svg": one for one in (stuck, objectives, done, starts, recipe)}


def main(arguments: list[str]) -> int:
    text = PAGE.read_text(encoding="utf-8")
    printed, drawings = run(text)
    if len(printed) != len(shown(text)):
        sys.exit("A text block stands behind no block that prints.")
    pairs = list(zip(shown(text), printed))
    index = iter(was if same(was, now) else now for was, now in pairs)
    new = BLOCK.sub(lambda block: f"```text\n{next(index)}```" if block[1] == "text" else block[0], text)
    stale = [
        name
        for name, drawing in drawings.items()
        if not (PAGE.parent / name).is_file() or differ((PAGE.parent / name).read_text(encoding="utf-8"), drawing)
    ]
    if "--write" in arguments:
        PAGE.write_text(new, encoding="utf-8")
        for name in stale:
            (PAGE.parent / name).parent.mkdir(exist_ok=True)
            (PAGE.parent / name).write_text(drawings[name], encoding="utf-8")
        print("written:", ", ".join([*["what is printed"] * (new != text), *stale]) or "nothing")
        return 0
    for was, now in pairs:
        if not same(was, now):
            print(f"The page shows\n{was}\nand the run prints\n{now}")
    for name in stale:
        print(f"The drawing {name} is not what the run draws.")
    return int(new != text or bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
