"""Several processes that share a run: the same numbers as one process, at the same rows in a step."""

import json
import os
import subprocess
import sys

import pytest

from lorabook.experiments import ExperimentError, made, points, run, settings, together
from lorabook.experiments.shelf import Shelf, quiet

# without dropout, whose masks are drawn by each process
RUNS = (
    ("sst2", {"method": "proximal", "decay": 0.01}),
    ("llama", {"task": "gsm8k", "method": "lora_one"}),
    ("glue", {"task": "cola", "method": "lora_one"}),
)
CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_experiments_together as test
test.make(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def make(shelves, out):
    """The records of all runs."""
    quiet()
    for name, given in RUNS:
        experiment = settings.load(name)
        (one,) = points.runs(experiment, **given)
        values = points.values(experiment, rehearse=True) | {"batch": 4 if name == "llama" else 16}
        run.record(one, values | {"precision": "float32"}, out, Shelf(shelves / name))


@pytest.mark.slow
def test_two_processes_end_with_the_numbers_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("LORABOOK_DEVICE", "cpu")
    for name, _ in RUNS:
        made.shelf(tmp_path / name, settings.load(name))
    place = tmp_path / "glue" / settings.load("glue")["model"] / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"dropout_rate": 0.0}))
    make(tmp_path, tmp_path / "one")
    child = tmp_path / "child.py"
    child.write_text(CHILD.format(tests=os.path.dirname(__file__)))
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(child)]
    home = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*words, tmp_path, tmp_path / "two"], env=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = (sorted((tmp_path / name).glob("*.json")) for name in ("one", "two"))
    assert [path.name for path in ours] == [path.name for path in theirs] and len(ours) == len(RUNS)
    for here, there in zip(ours, theirs):
        mine, other = (json.loads(path.read_text(encoding="utf-8")) for path in (here, there))
        assert (mine.pop("processes"), other.pop("processes")) == (1, 2)
        for key in ("run", "settings", "data", "versions"):
            assert mine[key] == other[key]
        assert mine["model"]["trained"] == other["model"]["trained"]
        # float32, a handful of steps: sums are taken in another order
        for a, b in zip(mine["curve"], other["curve"], strict=True):
            assert a == pytest.approx(b, rel=1e-5, abs=1e-6), here.name
        assert len({entry["loss"] for entry in mine["curve"] if "loss" in entry}) > 3
        if "scores" in mine["predictions"]:
            assert mine["predictions"]["labels"] == other["predictions"]["labels"]
            for a, b in zip(mine["predictions"]["scores"], other["predictions"]["scores"], strict=True):
                assert a == pytest.approx(b, rel=1e-5, abs=1e-5)
        else:
            assert mine["predictions"] == other["predictions"]  # texts, in the order of the questions


def test_rows_are_divided_or_refused(monkeypatch):
    assert together.each(32) == 32 and together.count() == 1 and together.first()
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    assert together.each(32) == 8 and not together.first()
    with pytest.raises(ExperimentError, match="30 rows in a step cannot be divided among 4 processes"):
        together.each(30)


def test_parts_are_put_together_in_the_order_of_the_rows(monkeypatch):
    import accelerate.utils

    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(together, "_state", lambda: None)
    work = lambda rows: {"twice": [2 * one for one in rows], "same": rows}
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setattr(accelerate.utils, "gather_object", lambda found: parts.extend(found) or parts)
        found = together.spread(list("abcde"), work)
    assert found == work(list("abcde"))
