"""What several commands share: kinds of numbers, the options of a report, and progress on stderr."""

from __future__ import annotations

import re
import sys
import time


def positive(kind: type):
    """A kind of argument: a positive, finite number."""

    def read(text: str):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    read.__name__ = "positive number"
    return read


def not_negative(kind: type):
    """A kind of argument: a finite number that is 0 or more."""

    def read(text: str):
        value = kind(text)
        if not 0 <= value < float("inf"):
            raise ValueError
        return value

    read.__name__ = "number from 0 on"
    return read


def share(text: str) -> float:
    """A kind of argument: a share in (0, 1]."""
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError
    return value


def add_report(parser, drawn: str) -> None:
    """``--json``, ``--plot`` and ``--overwrite``; ``drawn`` says what the figure shows."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--plot", metavar="FILE.svg", help=f"draw {drawn} into this file")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of the figure if it exists")


class Progress:
    """Long work on stderr: a bar of tqdm on a terminal, else a line every two seconds; short work stays silent.

    Work of another kind begins anew.

    Both say how much time is left, if what is left goes on as what was done.
    """

    def __init__(self):
        self.begun = self.last = time.monotonic()
        self.bar = self.label = None
        self.kind = ""
        self.since: tuple[str, float, int] | None = None  # what is counted, from when on, and what was done then
        self.tqdm = None
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm

                self.tqdm = tqdm
            except ImportError:
                pass

    def __call__(self, line: str) -> None:
        now = time.monotonic()
        if self.tqdm and now - self.begun >= 2:
            self._draw(line)
        elif not self.tqdm:
            left, kind = self._left(line, now), re.sub(r"\d+", "", line)
            if kind != self.kind:  # what came before may have been silent for long
                self.kind, self.last = kind, now
            if now - self.last >= 2:
                self.last = now
                print(line + left, file=sys.stderr, flush=True)

    def _left(self, line: str, now: float) -> str:
        """The time that is left, from the pace since the first line of the same kind."""
        place = self._place(line)
        if not place:
            return ""
        done, total, label = place
        if self.since is None or self.since[0] != label:
            self.since = label, now, done
        _, begun, before = self.since
        if done <= before or done == total:
            return ""
        seconds = (now - begun) / (done - before) * (total - done)
        unit, size = next((one for one in (("h", 3600), ("min", 60)) if seconds >= 2 * one[1]), ("s", 1))
        return f", about {seconds / size:.0f} {unit} left"

    @staticmethod
    def _place(line: str) -> tuple[int, int, str] | None:
        place = re.fullmatch(r"(.*?)(\d+) of (\d+) (\w+)", line)
        return (int(place[2]), int(place[3]), place[1] + place[4]) if place else None

    def _draw(self, line: str) -> None:
        """A line ``3 of 12 modules`` is a bar's place; any other stands in front of it."""
        place = self._place(line)
        done, total, label = place or (0, None, line)
        if self.bar is None or self.bar.total != total or place and self.label != label:
            self.close()
            self.bar = self.tqdm(total=total, file=sys.stderr, leave=False)
        self.label = label
        self.bar.n = done
        self.bar.set_description_str(label)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
