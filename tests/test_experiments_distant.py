"""Runs on workers: the same records as here, what exists is skipped, what failed is told and tried again."""

import json

import pytest

from lorabook.__main__ import main
from lorabook.experiments import ExperimentError, distant, points, run, settings
from lorabook.experiments.shelf import Shelf
from lorabook.sweep import SweepError, workers

distributed = pytest.importorskip("distributed")
GLUE = settings.load("glue")
VALUES = points.values(GLUE, rehearse=True)
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def scheduler():
    """A scheduler in this very process, with one worker."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


def two(**given):
    return [points.runs(GLUE, task=task, method="pretrained")[0] for task in ("cola", "mrpc")]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def faked(monkeypatch, failing=()):
    """Let a run be a line instead of a training."""
    done = []

    def record(one, values, out, shelf, say=None, execute=False):
        done.append(one.task)
        if one.task in failing:
            raise ExperimentError("There is no GPU here.")
        place = out / f"{one.name(values)}.json"
        place.write_text(json.dumps({"run": one.task}))
        return place

    monkeypatch.setattr(run, "record", record)
    return done


def test_a_run_is_a_point_and_what_has_a_record_is_skipped(scheduler, tmp_path, monkeypatch):
    done = faked(monkeypatch)
    for ran in (2, 0):
        tally = distant.sweep(two(), VALUES, tmp_path, Shelf(tmp_path), scheduler)
        assert (tally.total, tally.ran, tally.failed) == (2, ran, 0) and sorted(done) == ["cola", "mrpc"]
    assert {read(path)["run"] for path in tmp_path.glob("*.json")} == {"cola", "mrpc"}


def test_what_failed_is_told_and_tried_again_and_the_others_go_on(scheduler, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        done = faked(patch, failing=["cola"])
        tally = distant.sweep(two(), VALUES, tmp_path, Shelf(tmp_path), scheduler)
        assert tally.failed == 1 and tally.names[0].endswith(": There is no GPU here.") and "cola" in tally.names[0]
        assert sorted(done) == ["cola"] * (1 + distant.TRIES) + ["mrpc"]
    done = faked(monkeypatch)
    tally = distant.sweep(two(), VALUES, tmp_path, Shelf(tmp_path), scheduler)
    assert tally.failed == 0 and done == ["cola"]


def test_a_failed_record_is_none_for_a_run_here(tmp_path, monkeypatch):
    one = two()[0]
    name = one.name(VALUES)
    (tmp_path / f"{name}.json").write_text(json.dumps({"failure": "its worker died"}))
    monkeypatch.setitem(run.KINDS, "glue", lambda *_: {"found": 1})
    assert read(run.record(one, VALUES, tmp_path, Shelf(tmp_path)))["found"] == 1


def test_a_worker_with_other_code_is_refused(scheduler, tmp_path, monkeypatch):
    asked = iter([distant.made_of() | {"torch": "1.0"}])
    found = distant.made_of()
    monkeypatch.setattr(distant, "made_of", lambda: next(asked, found))
    with pytest.raises(SweepError, match=r"has torch .*, and the runs began with 1\.0"):
        distant.sweep(two(), VALUES, tmp_path, Shelf(tmp_path), scheduler)
    assert not list(tmp_path.glob("*.json"))


def test_a_scheduler_that_is_not_there_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(workers, "PATIENCE", 0.2)
    words = ["run", "glue", "--task", "cola", "--method", "pretrained", "--out", str(tmp_path)]
    assert main([*words, "--scheduler", "tcp://127.0.0.1:9"]) == 3
    assert "There is no scheduler at tcp://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.slow
def test_the_records_are_those_of_runs_here(scheduler, tmp_path, capsys):
    words = ["run", "glue", "--task", "cola", "--method", "lora", "--rehearse", "--out"]
    assert main([*words, str(tmp_path / "here")]) == 0
    assert main([*words, str(tmp_path / "there"), "--scheduler", scheduler]) == 0
    assert "1 of 1 points" in capsys.readouterr().err
    (here,), (there,) = (sorted((tmp_path / name).glob("*.json")) for name in ("here", "there"))
    assert here.name == there.name and not [path for path in there.parent.iterdir() if path.is_dir()]
    mine, theirs = read(here), read(there)
    assert all(mine[key] == theirs[key] for key in mine if key not in ("seconds", "peak_memory"))
