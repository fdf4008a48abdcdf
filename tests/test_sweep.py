"""Sweeps: what a grid says, what is refused before anything starts, what a record holds, and what survives a death."""

import contextlib
import csv
import errno
import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import nbformat
import psutil
import pytest

from lorabook.__main__ import main
from lorabook.page import lists
from lorabook.sweep import SweepError, engine, grid, notebook, results, workers

slow = pytest.mark.slow
CLAIM = "rushka.eq-119"  # its band is [0, 0.5]
DEFAULTS = {"n": 4, "rank": 2, "scale": 0.5, "kind": "trace", "seed": 0, "sizes": [0.1, 1.0]}
GUARD = """
from lorabook.page import parameters

parameters.check(
    globals(), n=(int, 2, 64), rank=(int, 1, "n"), share=(float, 0.0, 9.0), seed=(int, 0, 99), wait=(float, 0.0, 60.0),
    diary=tuple([diary]),
)
if share == 9:
    raise parameters.ParameterError("share must not be 9.")
"""
WORK = """
import os, signal, time
from lorabook.page import claims

if diary:
    with open(diary, "a") as file:
        file.write(f"{rank} {seed}\\n")
time.sleep(wait)
if rank == 13:
    raise ValueError("thirteen\\nis no rank")
if rank == 14:
    os.kill(os.getpid(), signal.SIGKILL)
claims.check("rushka.eq-119", value=share * rank / n + seed / 1000, probe=2.0)
"""


def tiny(folder, parameters="", guard=GUARD, work=WORK):
    """A notebook with six parameters, whose one verdict follows from them; a cell of text stands between."""
    text = f'n = 16\nrank: int = 2  # of the factors\nshare = 1.0\nseed = 0\nwait = 0.0\ndiary = ""\n{parameters}'
    cells = [
        nbformat.v4.new_markdown_cell("# Tiny"),
        nbformat.v4.new_code_cell(text, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(guard),
        nbformat.v4.new_markdown_cell("It works."),
        nbformat.v4.new_code_cell(work),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "tiny.ipynb")
    return folder / "tiny.ipynb"


def points(text, defaults=DEFAULTS):
    return list(grid.parse(grid.yaml.load(text, grid._Loader), defaults))


# ---------------------------------------------------------------- the grid


def test_every_combination_of_a_cross_is_a_point_and_fixed_stands_in_each():
    found = points("fixed: {n: 8}\ncross: {rank: [1, 2], scale: [0.1, 0.2, 0.3]}\nseeds: 2")
    assert len(found) == 12 and all(point["n"] == 8 for point in found)
    assert {(point["rank"], point["scale"], point["seed"]) for point in found} == set(
        itertools.product([1, 2], [0.1, 0.2, 0.3], [0, 1])
    )


def test_what_is_zipped_stands_side_by_side_and_groups_are_crossed():
    found = points("zip: [{n: [8, 16], rank: [1, 2]}, {kind: [trace, frobenius]}]")
    assert [tuple(point.values()) for point in found] == [
        (8, 1, "trace"),
        (8, 1, "frobenius"),
        (16, 2, "trace"),
        (16, 2, "frobenius"),
    ]


def test_a_bare_mapping_of_lists_is_a_cross_and_an_empty_grid_the_defaults():
    assert points("rank: [1, 2]\nsizes: [[0.1], [0.2, 0.3]]") == points(
        "cross: {rank: [1, 2], sizes: [[0.1], [0.2, 0.3]]}"
    )
    assert points("") == [{}] and points("seeds: [2, 3]", {"seeds": 1}) == [{"seeds": 2}, {"seeds": 3}]


def test_a_range_of_logarithms_has_even_quotients_and_round_ends_and_whole_numbers_where_the_notebook_has_them():
    scales = [point["scale"] for point in points("scale: {log: [1e-4, 1, 9]}")]
    assert scales[::2] == [1e-4, 1e-3, 1e-2, 0.1, 1.0]
    assert all(later / sooner == pytest.approx(10**0.5) for sooner, later in itertools.pairwise(scales))
    assert [point["rank"] for point in points("rank: {log: [1, 64, 7]}")] == [1, 2, 4, 8, 16, 32, 64]
    assert [point["rank"] for point in points("rank: {log: [1, 4, 9]}")] == [1, 2, 3, 4]


def test_numbers_are_read_as_people_write_them_and_one_is_one():
    assert points("scale: [1e-4, 1E3, 2]") == [{"scale": 1e-4}, {"scale": 1000.0}, {"scale": 2.0}]
    assert type(points("scale: [2]")[0]["scale"]) is float and points("sizes: [[1, 2]]") == [{"sizes": [1.0, 2.0]}]


@pytest.mark.parametrize(
    "text, said",
    [
        ("ranks: [1, 2]", "it sets ranks, and the notebook knows only n, rank, scale, kind, seed, sizes"),
        ("fixed: {n: 8}\nrank: [1]", "it sets fixed, and|fixed is a list|rank"),
        (
            "fixed: {n: 8}\ncrss: {rank: [1]}",
            "it sets crss, fixed, and .* own parts are cross, fixed, resources",
        ),
        ("rank: 1", "rank is a list with at least one value; got 1"),
        ("rank: []", r"rank is a list with at least one value; got \[\]"),
        ("rank: [1, 2, 1]", "rank = 1 stands there twice"),
        ("rank: [1]\nrank: [2]", "line 1 sets a name twice"),
        ("fixed: {rank: 1}\ncross: {rank: [1]}", "rank is set in two places"),
        ("cross: {seed: [1]}\nseeds: 3", "seed is set in two places"),
        ("zip: [{n: [8, 16], rank: [1]}]", "these differ: n 2, rank 1"),
        ("zip: {n: [8]}", "zip is a list of mappings"),
        ("zip: [{}]", "none at all"),
        ("seeds: 0", "seeds is a whole number of at least 1; got 0"),
        ("seeds: 1.5", "seeds is a whole number of at least 1; got 1.5"),
        ("scale: {log: [0, 1, 3]}", "log takes two positive numbers and a count of at least 2"),
        ("scale: {log: [1, 2]}", "scale is a list or"),
        ("scale: {linear: [1, 2, 3]}", "scale is a list or"),
        ("resources: {GPU: 0}", "resources are positive numbers"),
        ("resources: [GPU]", "resources is a list of `name: ...`"),
        ("[1, 2]", "the grid is a list of `name: ...`"),
        ("a: b: c", "cannot be read: mapping values are not allowed here"),
    ],
)
def test_a_grid_that_is_wrong_is_refused_in_one_sentence(tmp_path, text, said):
    (tmp_path / "g.yml").write_text(text)
    with pytest.raises(SweepError, match=said) as refused:
        grid.read(tmp_path / "g.yml", DEFAULTS)
    assert str(refused.value).startswith(str(tmp_path / "g.yml")) and "\n" not in str(refused.value)


def test_seeds_need_a_parameter_seed_and_a_file_has_to_be_there(tmp_path):
    with pytest.raises(SweepError, match="it sets seed, and the notebook knows only n"):
        points("seeds: 3", {"n": 1})
    with pytest.raises(SweepError, match="cannot be read: No such file"):
        grid.read(tmp_path / "none.yml", DEFAULTS)


def test_a_million_points_take_no_memory():
    many = grid.parse({"cross": {"n": list(range(1000)), "rank": list(range(1000))}}, DEFAULTS)
    assert len(many) == 10**6
    tracemalloc.start()
    count = sum(1 for _ in itertools.islice(many, 50_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 50_000 and peak < 10**6  # the axes, and one point at a time


# ---------------------------------------------------------------- a notebook as a point


def test_a_point_is_held_against_the_notebooks_own_check(tmp_path):
    book = notebook.read(tiny(tmp_path))
    check = notebook.guard(book)
    check(book.defaults())
    check(book.defaults() | {"rank": 16})
    for changed, said in (
        ({"rank": 17}, "The point rank = 17 is refused: rank must lie between 1 and n = 16; got 17"),
        ({"share": "2"}, "share must be a finite number; got '2'"),
        ({"seed": 1.0}, "seed must be a whole number; got 1.0"),
        ({"share": 9.0}, "share must not be 9"),
    ):
        with pytest.raises(SweepError, match=said):
            check(book.defaults() | changed)


def test_a_check_that_needs_other_cells_is_refused_in_one_sentence(tmp_path):
    check = notebook.guard(book := notebook.read(tiny(tmp_path, guard="parameters.check(globals(), n=(int, 1, 2))")))
    with pytest.raises(SweepError, match="tiny cannot be checked: NameError: name 'parameters' is not defined"):
        check(book.defaults())


def test_without_a_check_values_have_the_types_of_the_defaults(tmp_path):
    check = notebook.guard(book := notebook.read(tiny(tmp_path, guard="x = 1")))
    check(book.defaults() | {"rank": 99})
    with pytest.raises(SweepError, match="rank is of type int in the notebook; got 'two'"):
        check(book.defaults() | {"rank": "two"})


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[1].glob("notebooks/*.ipynb")), ids=lambda path: path.stem
)
def test_every_notebook_of_the_book_passes_its_own_check(path):
    book = notebook.read(path)
    notebook.guard(book)(book.defaults())


@pytest.mark.parametrize(
    "text, said",
    [("{}", "is no notebook"), ("\0", "is no notebook"), ('{"cells": []}', "one cell tagged 'parameters'")],
)
def test_what_is_no_notebook_is_refused(tmp_path, text, said):
    (tmp_path / "x.ipynb").write_text(text)
    with pytest.raises(SweepError, match=said):
        notebook.read(tmp_path / "x.ipynb")
    with pytest.raises(SweepError, match="No such file"):
        notebook.read(tmp_path / "y.ipynb")
    with pytest.raises(SweepError, match="plain values only, and has: z = f()"):
        notebook.read(tiny(tmp_path, parameters="z = f()"))


def test_a_record_is_named_by_notebook_closure_parameters_and_versions(tmp_path, monkeypatch):
    book = notebook.read(tiny(tmp_path))
    made_of, defaults = notebook.identity(book), book.defaults()
    name = notebook.key(book, made_of, defaults)
    assert name.startswith("tiny-") and name == notebook.key(book, made_of, dict(reversed(defaults.items())))
    others = [notebook.key(book, made_of, defaults | {"rank": 3})]
    others += [notebook.key(book, made_of | {"torch": "1.0"}, defaults)]
    other = notebook.read(tiny(tmp_path, work="x = 1"))
    others += [notebook.key(other, notebook.identity(other), defaults)]
    reached = notebook._reach(book)
    assert "lorabook/page/claims.py" in reached and "data/claims/rushka.yml" in reached
    assert not any("/kim/" in file or "kim.yml" in file for file in reached)
    for file in reached:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes((notebook.closure.ROOT / file).read_bytes())
    monkeypatch.setattr(notebook.closure, "ROOT", tmp_path)
    assert notebook.identity(book) == made_of
    (tmp_path / "data/claims/rushka.yml").write_text("changed")
    others += [notebook.key(book, notebook.identity(book), defaults)]
    assert len({name, *others}) == 5
    with pytest.raises(
        notebook.OtherVersion, match=r"has lorabook 0.1.0 \(files \w+\), and the sweep began with 0.1.0 "
    ):
        notebook.same(book, made_of)


def test_a_change_of_prose_or_of_a_comment_among_the_parameters_names_no_other_record(tmp_path):
    first = notebook.read(tiny(tmp_path))
    second = notebook.read(tiny(tmp_path, parameters="# the same"))
    assert notebook.identity(first) == notebook.identity(second)


def test_a_run_gives_verdicts_with_numbers_that_are_not_rounded(tmp_path):
    book = notebook.read(tiny(tmp_path))
    said = notebook.run(book, book.defaults() | {"rank": 3, "share": 0.7}, notebook.identity(book))
    verdict = said["verdicts"][CLAIM]
    assert verdict["verdict"] == "holds in the range tested" and verdict["value"] == "0.131"
    assert verdict["numbers"] == {"value": 0.7 * 3 / 16, "probe": 2.0}
    assert said["peak_memory"] > 10**7 and 0 < said["seconds"] < 60 and said["device"] and said["python"]
    json.dumps(said, allow_nan=False)


def test_the_outputs_that_the_repository_holds_have_no_numbers_that_are_not_rounded(tmp_path, monkeypatch):
    import jupytext

    from tools import notebooks

    jupytext.write(nbformat.read(tiny(tmp_path), as_version=4), tmp_path / "tiny.md", fmt="md:myst")
    monkeypatch.chdir(tmp_path)
    notebooks.reference("tiny.md", "held.ipynb")
    notebooks.run("held.ipynb", "executed.ipynb")
    held, executed = (
        [
            output.metadata["lorabook"]
            for cell in nbformat.read(path, as_version=4).cells
            for output in cell.get("outputs", [])
            if "lorabook" in output.get("metadata", {})
        ]
        for path in ("held.ipynb", "executed.ipynb")
    )
    assert held == [{"id": CLAIM, "verdict": "holds in the range tested", "value": "0.125", "probe": "2"}]
    assert executed == [held[0] | {"numbers": {"value": 0.125, "probe": 2.0}}]


def test_a_cell_that_stops_and_a_kernel_that_dies_fail_the_point_in_one_sentence(tmp_path, monkeypatch):
    book = notebook.read(tiny(tmp_path))
    with pytest.raises(engine.PointError, match="^cell 5 stopped with ValueError: thirteen$"):
        notebook.run(book, book.defaults() | {"rank": 13}, notebook.identity(book))
    with pytest.raises(engine.PointError, match="its kernel died on .*, perhaps for want of memory"):
        notebook.run(book, book.defaults() | {"rank": 14}, notebook.identity(book))
    monkeypatch.setattr(notebook, "_CLOSING", "_point.nothing()")
    with pytest.raises(engine.PointError, match="^cell after the last stopped with AttributeError: .*'nothing'"):
        notebook.run(book, book.defaults(), notebook.identity(book))


# ---------------------------------------------------------------- the engine, with workers in this process


def work(k):
    if k == 13:
        raise engine.PointError("thirteen is no point")
    if k == 14:
        raise ZeroDivisionError("by none")
    if k == 15:
        raise SweepError("here has lorabook 2, and the sweep began with 1")
    return {"square": k * k}


def many(count, first=0):
    return lambda: ((f"p{k}", {"k": k}, (k,)) for k in range(first, first + count))


@pytest.fixture(scope="module")
def client():
    import distributed

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, resources={"GPU": 1}
    ) as cluster:
        with distributed.Client(cluster, set_as_default=False) as client:
            yield client


@pytest.fixture
def swept(client, monkeypatch, tmp_path):
    """Sweep the work above with workers in this process."""
    monkeypatch.setattr(engine, "cluster", lambda *_: contextlib.nullcontext(client))
    monkeypatch.setattr(engine, "TICK", 0.05)

    def swept(points, prove=dict, **options):
        lines = []
        tally = engine.sweep(engine.Work(work, prove, **options), points, tmp_path / "out", say=lines.append)
        return tally, lines

    swept.folder = tmp_path / "out"
    swept.records = lambda: {
        path.stem: json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("*.json"))
    }
    return swept


def test_every_point_has_a_record_and_what_exists_is_skipped(swept):
    tally, _ = swept(many(10))
    assert (tally.total, tally.recorded, tally.ran, tally.failed) == (10, 0, 10, 0)
    assert {record["k"]: record["square"] for record in swept.records().values()} == {k: k * k for k in range(10)}
    before = {path: path.stat().st_mtime_ns for path in swept.folder.iterdir()}
    tally, _ = swept(many(12))
    assert (tally.total, tally.recorded, tally.ran) == (12, 10, 2)
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(swept.records()) == 12


def test_a_point_that_fails_is_kept_and_named_and_the_rest_goes_on(swept):
    tally, _ = swept(many(3, first=12))
    assert (tally.ran, tally.failed) == (3, 2)
    assert sorted(tally.names) == ["p13: thirteen is no point", "p14: ZeroDivisionError: by none"]
    assert swept.records()["p13"]["failure"] == "thirteen is no point" and swept.records()["p12"]["square"] == 144
    tally, _ = swept(many(3, first=12))
    assert (tally.recorded, tally.ran, tally.failed) == (3, 0, 2)
    tally, _ = swept(many(3, first=12), retries=1)
    assert (tally.recorded, tally.ran, tally.failed) == (1, 2, 2)


def test_progress_says_how_much_is_done_and_how_much_time_is_left(swept):
    _, lines = swept(many(300, first=100))
    assert any(" of 300 points, about " in line and line.endswith(" left") for line in lines)
    assert [engine.duration(seconds) for seconds in (0.2, 90, 150, 4000, 90000, 10**6)] == [
        "0 s",
        "90 s",
        "2.5 min",
        "67 min",
        "25 h",
        "12 days",
    ]


def test_a_worker_with_another_version_is_refused_with_both(swept):
    def other():
        raise notebook.OtherVersion("here has lorabook 0.0.9, and the sweep began with 0.1.0")

    with pytest.raises(
        SweepError, match="The worker inproc://.*: here has lorabook 0.0.9, and the sweep began with 0.1.0"
    ):
        swept(many(3), prove=other)
    assert swept.records() == {}
    with pytest.raises(SweepError, match="A worker stopped the sweep: here has lorabook 2"):
        swept(many(1, first=15))  # one that came later is found by its first point


def test_a_worker_that_cannot_import_the_package_is_refused(swept):
    def none():
        raise ModuleNotFoundError("No module named 'lorabook'")

    with pytest.raises(SweepError, match="has no lorabook like the one here .* install it there"):
        swept(many(3), prove=none)


def test_resources_are_those_that_a_worker_offers(swept):
    assert swept(many(2), resources={"GPU": 1})[0].ran == 2
    with pytest.raises(
        SweepError, match='No worker offers TPU=1: start them with `dask worker ... --resources "TPU=1"`'
    ):
        swept(many(4), resources={"TPU": 1})


def test_a_worker_with_two_threads_is_refused(monkeypatch):
    class Client:
        def scheduler_info(self, n_workers):
            return {"workers": {"tcp://a:1": {"nthreads": 2, "resources": {}}}}

    with pytest.raises(SweepError, match="The worker tcp://a:1 has 2 threads .* --nthreads 1"):
        workers.fit(Client(), dict, {})


def test_a_full_disk_stops_the_sweep_with_one_sentence_and_leaves_no_half_record(swept, monkeypatch):
    replace = os.replace

    def full(source, target):
        if "p3" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SweepError, match="p3.json cannot be written: there is no space left on the disk"):
        swept(many(10))
    assert set(swept.records()) >= {"p0", "p1"} - {"p3"} and "p3" not in swept.records()
    assert [path for path in swept.folder.iterdir() if path.suffix != ".json"] == []
    monkeypatch.setattr(os, "replace", replace)
    swept(many(10))
    assert len(swept.records()) == 10


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SweepError, match="file/out cannot be written"):
        engine.sweep(engine.Work(work, dict), many(1), tmp_path / "file" / "out")
    with pytest.raises(SweepError, match="file is a file, and records need a folder"):
        engine.sweep(engine.Work(work, dict), many(1), tmp_path / "file")


def test_a_folder_that_takes_no_file_is_named_before_anything_runs(tmp_path, monkeypatch):
    def refused(dir):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(engine.tempfile, "TemporaryFile", refused)
    with pytest.raises(SweepError, match=f"{tmp_path} cannot be written: Permission denied"):
        engine.sweep(engine.Work(work, dict), lambda: pytest.fail("points were asked for"), tmp_path)


# ---------------------------------------------------------------- tables and maps


@pytest.fixture
def recorded(tmp_path):
    """Records of a sweep over rank and scale: it holds below a border, and one run failed."""
    folder = tmp_path / "records"
    folder.mkdir()
    made_of = {"lorabook": "0.1.0 (files 0)", "notebook": "0", "torch": "2", "numpy": "2", "scipy": "1"}

    def write(name, rank, scale, verdict, ended="2026-01-01T00:00:00+00:00", seed=0):
        parameters = {"n": 16, "rank": rank, "scale": scale, "sizes": [1, 2], "task": "movie", "seed": seed}
        said = {"verdict": verdict, "value": "1", "numbers": {"value": rank / 3, "probe": "inf"}}
        rest = {"verdicts": {CLAIM: said}, "device": "CPU", "seconds": 1.5} if verdict else {"failure": "no, no"}
        record = {"point": name, "notebook": "tiny", "parameters": parameters, "made_of": made_of, "ended": ended}
        (folder / f"{name}.json").write_text(json.dumps(record | rest))

    for rank, scale in itertools.product([1, 2, 4], [0.001, 0.1, 1.0]):
        write(f"{rank}-{scale}", rank, scale, "holds" if rank * scale < 1 else "fails as printed")
    write("again", 1, 0.1, "holds", ended="2026-02-01T00:00:00+00:00")
    write("old", 1, 0.1, "fails as printed", ended="2025-01-01T00:00:00+00:00")
    write("failed", 8, 1.0, "")
    write("seed", 4, 0.001, "fails as printed", seed=1)
    return folder


def test_a_table_has_parameters_verdicts_and_numbers(recorded, tmp_path):
    rows = list(csv.DictReader(io.StringIO(results.table(recorded))))
    assert len(rows) == 11  # nine, a failed one and another seed; of three with the same parameters the last
    assert list(rows[0])[:6] == ["n", "rank", "scale", "sizes", "task", "seed"]
    order = [(int(row["rank"]), float(row["scale"]), int(row["seed"])) for row in rows]
    assert order == sorted(order), "by size, not by letters"
    assert {(row["record.notebook"], row["record.cells"]) for row in rows} == {("tiny", "0")}
    row = next(row for row in rows if (row["rank"], row["scale"]) == ("4", "1.0"))
    assert row[CLAIM] == "fails as printed" and float(row[f"{CLAIM}.value"]) == 4 / 3
    assert row[f"{CLAIM}.probe"] == "inf" and row["sizes"] == "[1, 2]" and row["record.seconds"] == "1.5"
    failed = next(row for row in rows if row["rank"] == "8")
    assert failed["record.failure"] == "no, no" and failed[CLAIM] == ""
    assert results.table(recorded, tmp_path / "t.csv") == ""
    assert list(csv.DictReader((tmp_path / "t.csv").open())) == rows


def test_a_table_is_written_as_parquet(recorded, tmp_path):
    import pandas

    results.table(recorded, tmp_path / "t.parquet")
    frame = pandas.read_parquet(tmp_path / "t.parquet")
    assert len(frame) == 11 and frame[f"{CLAIM}.value"].dtype == float
    with pytest.raises(SweepError, match="ends in .csv or .parquet; got .*t.xls"):
        results.table(recorded, tmp_path / "t.xls")


def test_a_map_says_where_the_claim_holds_by_colour_and_by_shape(recorded, tmp_path):
    said = results.verdicts(results.records(recorded), "rank", "scale", CLAIM)
    assert said[(4, 1.0)] == "fails as printed" and said[(1, 0.1)] == "holds"
    assert said[(4, 0.001)] == "differs from run to run" and said[(8, 1.0)] == "the run failed"
    assert results.draw(recorded, "rank", "scale", CLAIM, tmp_path / "m.svg") == ""
    drawing = (tmp_path / "m.svg").read_text()
    ElementTree.fromstring(drawing)
    for word, (colour, _) in results.LOOKS.items():
        assert (colour.lower() in drawing.lower()) == (word in said.values() or colour == "#888888"), word
    assert len({shape for _, shape in results.LOOKS.values()}) == len(results.LOOKS)


def test_the_predicted_border_is_dashed_where_the_claim_list_gives_one(recorded, tmp_path, monkeypatch):
    import dataclasses

    claim = lists.find(CLAIM)

    def drawn(border, x="rank", y="scale"):
        monkeypatch.setattr(lists, "find", lambda name: dataclasses.replace(claim, border=border))
        note = results.draw(recorded, x, y, CLAIM, tmp_path / "m.svg")
        return note, "stroke-dasharray" in (tmp_path / "m.svg").read_text()

    assert drawn("") == ("", False)
    assert drawn("rank * scale - n / 16") == ("", True)
    assert drawn("log(rank * scale)", "scale", "rank") == ("", True)
    assert drawn("rank - 100") == ("The border rank - 100 = 0 lies outside this map.", False)
    assert drawn("rank - seed - 2") == (
        "The border rank - seed - 2 = 0 is not drawn: seed takes several values besides.",
        False,
    )


def test_a_border_is_arithmetic():
    assert results.border("sqrt(n) - 2 ** rank")({"n": 16, "rank": 1}) == 2
    for expression in ("__import__('os')", "n.real", "[n]", "open(n)", "lambda: n"):
        with pytest.raises(SweepError, match="which is no arithmetic"):
            results.border(expression)


def test_every_border_of_a_claim_list_is_one_of_its_notebooks_parameters(root):
    import ast

    texts = {path: path.read_text() for path in root.glob("notebooks/*.ipynb")}
    for claim in (claim for source in lists.sources() for claim in lists.load(source).values() if claim.border):
        path = next(path for path, text in texts.items() if claim.id in text)
        results.border(claim.border)(notebook.read(path).defaults())
        used = {node.id for node in ast.walk(ast.parse(claim.border)) if isinstance(node, ast.Name)}
        assert used - results.FUNCTIONS <= set(notebook.read(path).defaults()), claim.id


@pytest.mark.parametrize(
    "x, y, claim, out, said",
    [
        ("rank", "scale", "kim.none", "m.svg", f"No record has a verdict on kim.none; they have {CLAIM}"),
        ("ranks", "scale", CLAIM, "m.svg", "ranks is no parameter; these are n, rank, scale"),
        ("rank", "rank", CLAIM, "m.svg", "A map needs two parameters; got rank twice"),
        ("rank", "sizes", CLAIM, "m.svg", "rank and sizes need single values"),
        ("rank", "scale", CLAIM, "m.png", "a name that ends in .svg"),
    ],
)
def test_a_map_that_cannot_be_drawn_is_refused(recorded, tmp_path, x, y, claim, out, said):
    with pytest.raises(SweepError, match=said):
        results.draw(recorded, x, y, claim, tmp_path / out)


def test_a_folder_without_records_and_a_broken_record_are_named(recorded, tmp_path):
    with pytest.raises(SweepError, match="nowhere holds no record"):
        results.records(tmp_path / "nowhere")
    (recorded / "cut.json").write_text('{"notebook": "tiny"')
    with pytest.raises(SweepError, match="cut.json is no record of a sweep"):
        results.records(recorded)


# ---------------------------------------------------------------- the command


def sweep(folder, text, *options, book=None):
    """The exit code of `lorabook sweep` in this process."""
    (folder / "g.yml").write_text(text)
    return main(["sweep", str(book or tiny(folder)), str(folder / "g.yml"), "--out", str(folder / "out"), *options])


@pytest.mark.parametrize(
    "text, said",
    [
        ("ranks: [1]", "it sets ranks, and the notebook knows only n, rank, share, seed, wait, diary"),
        ("rank: [2, 40]", "The point rank = 40 is refused: rank must lie between 1 and n = 16; got 40."),
        ("share: [0.5, two]", "share must be a finite number; got 'two'"),
    ],
)
def test_a_grid_that_the_notebook_refuses_starts_nothing(tmp_path, capsys, text, said):
    assert sweep(tmp_path, text) == 1
    caught = capsys.readouterr().err
    assert said in caught and caught.startswith("lorabook: ") and caught.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_scheduler_that_is_not_there_is_exit_code_3(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    assert sweep(tmp_path, "rank: [1, 2]", "--scheduler", "tcp://127.0.0.1:9") == 3
    caught = capsys.readouterr().err
    assert caught.startswith("lorabook: There is no scheduler at tcp://127.0.0.1:9: start one with `dask scheduler`.")
    assert "0 of 2 points are recorded" in caught and caught.count("\n") == 1


@pytest.mark.parametrize("address", ["tcp://127.0.0.1", "nonsense", "http://127.0.0.1:8786", "tcp://127.0.0.1:port"])
def test_what_is_no_address_is_said_at_once(tmp_path, capsys, address):
    assert sweep(tmp_path, "rank: [1]", "--scheduler", address) == 1
    caught = capsys.readouterr().err
    assert caught == f"lorabook: {address!r} is no address of a scheduler, such as tcp://host:8786.\n"


def test_more_points_than_ten_thousand_are_counted_and_timed_first(tmp_path, capsys, monkeypatch):
    def one(work, named, folder, workers, scheduler, limit, say):
        assert limit == 1
        name, head, _ = next(iter(named()))
        folder.mkdir()
        engine.write(engine.place(folder, name), json.dumps({**head, "seconds": 9.0}))

    monkeypatch.setattr(engine, "sweep", one)
    assert sweep(tmp_path, "seeds: 100\ncross: {share: {log: [0.01, 1, 101]}}") == 1
    said = "These are 10,100 points. One took 9 s, so all take about 25 h on one worker, and the Nth part of that on N."
    assert f"{said} Say --yes to start." in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [["--workers", "0"], ["--workers", "x"], ["--retries", "-1"], ["--workers", "2", "--scheduler", "tcp://a:1"]],
)
def test_wrong_options_are_exit_code_2(tmp_path, capsys, options):
    with pytest.raises(SystemExit) as stop:
        sweep(tmp_path, "", *options)
    assert stop.value.code == 2


def environment(root):
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])}


def lorabook(root, folder, *arguments):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "lorabook", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment(root), start_new_session=True, **pipes)


def found(folder):
    """What the records of a folder say: numbers by parameters, or the failure."""
    numbers = {}
    for record in results.records(folder):
        where = record["parameters"]["rank"], record["parameters"]["seed"]
        numbers[where] = record.get("failure") or record["verdicts"][CLAIM]["numbers"]
    return numbers


def test_a_sweep_on_two_processes_fills_the_folder_and_says_what_failed(root, tmp_path):
    tiny(tmp_path)
    (tmp_path / "g.yml").write_text("rank: [1, 2, 13]")
    with socket.socket() as other:
        with contextlib.suppress(OSError):  # it is taken
            other.bind(("127.0.0.1", 8787))  # where Dask would listen, as beside another sweep
        other.listen()
        process = lorabook(root, tmp_path, "sweep", "tiny.ipynb", "g.yml", "--out", "out", "--workers", 2)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "8787" not in errors, errors
    assert "3 of 3 points, 1 failed: out\nfailed: tiny-" in errors
    assert "cell 5 stopped with ValueError: thirteen\n" in errors and "Traceback" not in errors
    said = found(tmp_path / "out")
    assert said[13, 0].startswith("cell 5") and said[2, 0] == {"value": 0.125, "probe": 2.0}
    assert main(["table", str(tmp_path / "out"), "--out", str(tmp_path / "t.csv")]) == 0
    assert (
        main("map --x rank --y seed --claim".split() + [CLAIM, str(tmp_path / "out"), "--out", f"{tmp_path}/m.svg"])
        == 0
    )
    assert (tmp_path / "m.svg").exists() and len((tmp_path / "t.csv").read_text().splitlines()) == 4


# ---------------------------------------------------------------- deaths


GRID = "fixed: {{wait: 1.0, diary: {diary}}}\ncross: {{rank: [1, 2, 3, 4, 5]}}\nseeds: 3"
POINTS = set(itertools.product([1, 2, 3, 4, 5], [0, 1, 2]))


class Place:
    """A scheduler and three workers, processes that talk over TCP on this machine."""

    def __init__(self, root, folder):
        self.root, self.folder, self.processes = root, folder, {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        tiny(folder)
        (folder / "g.yml").write_text(GRID.format(diary=folder / "diary"))

    def start(self, name, kind, *arguments):
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{kind}", *map(str, arguments), "--no-dashboard"],
            cwd=self.folder,
            env=environment(self.root),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def up(self):
        self.start("scheduler", "scheduler", "--host", "127.0.0.1", "--port", self.port)
        for k in range(3):
            self.start(f"worker {k}", "worker", self.address, "--nthreads", 1, "--local-directory", self.folder)

    def kill(self, name):
        """As a machine that loses power: the process and all that it started."""
        process = self.processes.pop(name)
        family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def sweep(self, *options):
        return lorabook(self.root, self.folder, "sweep", "tiny.ipynb", "g.yml", "--out", "out", *options)

    def wait_for(self, count, seconds=60):
        """Until so many points are recorded."""
        end = time.monotonic() + seconds
        while len(list((self.folder / "out").glob("[!.]*.json"))) < count:
            assert time.monotonic() < end, "no progress"
            time.sleep(0.05)

    def runs(self):
        """How often each point was begun."""
        return Counter(tuple(map(int, line.split())) for line in (self.folder / "diary").read_text().splitlines())

    def is_whole(self, lost):
        """Every point is there once and equal to a serial run, and no more runs were lost than were under way."""
        paths = list((self.folder / "out").iterdir())
        assert len(paths) == len(POINTS) and all(path.suffix == ".json" for path in paths)
        book = notebook.read(self.folder / "tiny.ipynb")
        numbers = found(self.folder / "out")
        assert set(numbers) == POINTS == set(self.runs())
        assert sum(self.runs().values()) <= len(POINTS) + lost
        for rank, seed in list(POINTS)[::5]:  # three by their own run, all by the formula
            said = notebook.run(book, book.defaults() | {"rank": rank, "seed": seed}, notebook.identity(book))
            assert said["verdicts"][CLAIM]["numbers"] == numbers[rank, seed]
        assert all(one == {"value": rank / 16 + seed / 1000, "probe": 2.0} for (rank, seed), one in numbers.items())


@pytest.fixture
def grounds(root, tmp_path):
    place = Place(root, tmp_path)
    yield place
    for name in list(place.processes):
        place.kill(name)


def finished(process, code):
    said, errors = process.communicate(timeout=180)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    return errors


@slow
def test_when_a_worker_dies_in_the_middle_every_point_is_there_once(grounds):
    grounds.up()
    process = grounds.sweep("--scheduler", grounds.address)
    grounds.wait_for(4)
    grounds.kill("worker 1")
    errors = finished(process, 0)
    assert "15 of 15 points" in errors
    grounds.is_whole(lost=1)


@slow
def test_when_the_scheduler_dies_one_sentence_says_so_and_the_same_command_finishes_the_rest(grounds):
    grounds.up()
    process = grounds.sweep("--scheduler", grounds.address)
    grounds.wait_for(4)
    grounds.kill("scheduler")
    errors = finished(process, 3)
    last = errors.splitlines()[-1]
    assert last.startswith(f"lorabook: The scheduler at {grounds.address} is gone. ") and "the same command" in last
    assert 4 <= len(list((grounds.folder / "out").glob("[!.]*.json"))) < 15
    for k in range(3):
        grounds.kill(f"worker {k}")
    grounds.up()
    finished(grounds.sweep("--scheduler", grounds.address), 0)
    grounds.is_whole(lost=6)  # three workers, and a client that had not yet written what they had done


@slow
def test_when_the_client_is_killed_the_same_command_finishes_the_rest(grounds):
    grounds.up()
    process = grounds.sweep("--scheduler", grounds.address)
    grounds.wait_for(4)
    process.kill()
    process.wait()
    finished(grounds.sweep("--scheduler", grounds.address), 0)
    grounds.is_whole(lost=6)


@slow
@pytest.mark.parametrize("sign, code", [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_local_sweep_that_is_stopped_leaves_no_process_and_goes_on(grounds, sign, code):
    process = grounds.sweep("--workers", 2)
    grounds.wait_for(3)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, sign) if sign == signal.SIGINT else process.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    if code == 130:
        assert errors.splitlines()[-1].startswith("Stopped. ") and "Traceback" not in errors
    assert psutil.wait_procs(family, timeout=20)[1] == []
    assert "failure" not in " ".join(path.read_text() for path in (grounds.folder / "out").glob("*.json"))
    finished(grounds.sweep("--workers", 2), 0)
    grounds.is_whole(lost=4)


@slow
def test_a_worker_with_another_copy_of_the_package_is_refused_with_both(grounds, root, tmp_path):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(root / "lorabook", other / "lorabook")
    shutil.copytree(root / "data", other / "data")
    (other / "lorabook/page/claims.py").open("a").write("\n# another\n")
    grounds.start("scheduler", "scheduler", "--host", "127.0.0.1", "--port", grounds.port)
    grounds.root = other
    grounds.start("worker", "worker", grounds.address, "--nthreads", 1, "--local-directory", grounds.folder)
    grounds.root = root
    errors = finished(grounds.sweep("--scheduler", grounds.address), 1)
    assert "has lorabook 0.1.0 (files " in errors and "and the sweep began with 0.1.0 (files " in errors
