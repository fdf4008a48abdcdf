"""Several adapters: how the measures move from one to the next, with every difference that of the full products."""

import json

import pytest
import torch
from adapter_folders import files, folder, pair, run

from lorabook.adapters import AdapterError, inspect_folders
from lorabook.adapters.movement import distance, expand

f64 = torch.float64
NAMES = ["layers.0.q", "layers.0.v", "layers.1.q"]


def checkpoints(path, steps=(50, 100, 150), names=NAMES, size=lambda step: step / 50):
    """A Trainer's output: the factors grow with the steps, in directions that change."""
    path.mkdir(exist_ok=True)
    for step in steps:
        factors = {name: pair(8, 6, 2, seed=step + place) for place, name in enumerate(names)}
        factors = {name: (size(step) * B, A) for name, (B, A) in factors.items()}
        folder(path / f"checkpoint-{step}", factors, {"lora_alpha": 4}, dtype=f64)
    return path


def product(step, place):
    B, A = pair(8, 6, 2, seed=step + place)
    return 2 * step / 50 * B @ A


def test_every_change_is_that_of_the_full_products(tmp_path):
    series = inspect_folders(expand([checkpoints(tmp_path / "out")]))
    assert [adapter.folder.name for adapter in series.adapters] == ["checkpoint-50", "checkpoint-100", "checkpoint-150"]
    total = [[product(step, place) for place in range(3)] for step in (50, 100, 150)]
    for place, one in enumerate(series.moved):
        X = [products[place] for products in total]
        assert one.name == NAMES[place] and one.changes[0] is None
        # float64 all through
        assert one.norms == pytest.approx([float(x.norm()) for x in X], rel=1e-13)
        assert one.changes[1:] == pytest.approx([float((b - a).norm()) for a, b in zip(X, X[1:])], rel=1e-12)
    for k in (1, 2):
        change = torch.stack([b - a for a, b in zip(total[k - 1], total[k])]).norm()
        assert series.changed(k) == pytest.approx(float(change / torch.stack(total[k]).norm()), rel=1e-12)
        assert series.total(k) == pytest.approx(float(torch.stack(total[k]).norm()), rel=1e-12)


def test_a_distance_is_exact_where_both_are_nearly_the_same():
    B, A = pair(9, 7, 3)
    assert distance((2.0, B, A), (2.0, B, A)) < 1e-14 * float((B @ A).norm())
    near = B + 1e-9 * pair(9, 7, 3, seed=1)[0]
    # relative to the products, 1e-16: seven digits of the difference
    assert distance((1.0, B, A), (1.0, near, A)) == pytest.approx(float(((near - B) @ A).norm()), rel=1e-6)
    mix = torch.linalg.qr(pair(3, 3, 3)[0]).Q
    assert distance((1.0, B, A), (4.0, B @ mix / 2, mix.mT @ A / 2)) < 1e-14 * float((B @ A).norm())


def test_the_command_lists_all_checkpoints_in_their_order(tmp_path, capsys):
    path = checkpoints(tmp_path / "out")
    assert run(path) == 0
    out, err = capsys.readouterr()
    assert not err and max(map(len, out.splitlines())) <= 100
    places = [out.index(f"checkpoint-{step}") for step in (50, 100, 150)]
    assert places == sorted(places) and all(name.removeprefix("layers.") in out for name in NAMES)
    assert run(*(path / f"checkpoint-{step}" for step in (50, 100, 150))) == 0
    assert capsys.readouterr().out == out


def test_json_has_a_report_for_each_and_the_moves(tmp_path, capsys):
    assert run(checkpoints(tmp_path / "out"), "--json") == 0
    report = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert list(report) == ["format", "folders", "changed", "moves", "outside", "failed"]
    assert [len(one["modules"]) for one in report["folders"]] == [3, 3, 3] and report["changed"][0] is None
    assert list(report["moves"][0]) == ["name", "norms", "stable_ranks", "changes"]


def test_the_figure_of_several_is_one_file(tmp_path, capsys):
    path = checkpoints(tmp_path / "out")
    assert run(path, "--plot", tmp_path / "norms.svg") == 0
    text = (tmp_path / "norms.svg").read_text()
    assert text.startswith("<svg") and "currentColor" in text
    assert run(path, "--plot", tmp_path / "norms.svg") == 1
    assert "exists" in capsys.readouterr().err


def test_many_checkpoints_fit_the_page_and_are_in_the_order_of_their_steps(tmp_path, capsys):
    steps = [2000, 500, 10000, 1000, 50, 12000, 300, 9]
    path = checkpoints(tmp_path / "out", steps)
    assert [one.name for one in expand([path])] == [f"checkpoint-{step}" for step in sorted(steps)]
    assert run(path) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100 and all(f"checkpoint-{step} " in out for step in steps)


def test_modules_that_come_and_go_and_change_their_shape_are_shown_where_they_are(tmp_path, capsys):
    folder(tmp_path / "a", {"x": pair(8, 6, 2), "y": pair(8, 6, 2)})
    folder(tmp_path / "b", {"x": pair(8, 6, 3, seed=1), "z": pair(8, 6, 3)})
    folder(tmp_path / "c", {"x": pair(9, 6, 3), "y": pair(8, 6, 3), "z": pair(8, 6, 3)})
    moved = {one.name: one for one in inspect_folders([tmp_path / name for name in "abc"]).moved}
    assert [value is None for value in moved["x"].changes] == [True, False, True]
    assert [value is None for value in moved["y"].norms] == [False, True, False]
    assert moved["y"].changes == (None, None, None) and moved["z"].changes[2] == pytest.approx(0, abs=1e-12)
    assert run(*(tmp_path / name for name in "abc")) == 0


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_shown(tmp_path, capsys):
    path = checkpoints(tmp_path / "out")
    weights = path / "checkpoint-100" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    assert run(path) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "2 adapters in" in out and "left out: " in out and "checkpoint-100: adapter_model.safetensors is not a" in out
    )


def test_a_module_that_is_no_number_in_one_folder_is_missing_there_alone(tmp_path, capsys):
    path = checkpoints(tmp_path / "out")
    B, A = pair(8, 6, 2)
    folder(path / "checkpoint-100", {name: (B * torch.nan if name == NAMES[1] else B, A) for name in NAMES})
    series = inspect_folders(expand([path]))
    moved = {one.name: one for one in series.moved}
    assert moved[NAMES[1]].norms[1] is None and moved[NAMES[1]].changes == (None, None, None)
    assert run(path) == 0
    assert "checkpoint-100: not measured, NaN or infinite (1): layers.0.v" in capsys.readouterr().out


def test_adapters_of_different_bases_are_told_apart(tmp_path, capsys):
    for name in "abc":
        folder(tmp_path / name, {"x": pair(8, 6, 2)}, {"base_model_name_or_path": "one" if name == "a" else "two"})
    assert run(tmp_path / "a", tmp_path / "b") == 0
    assert "the adapters name different base models: one, two." in capsys.readouterr().out
    assert run(tmp_path / "b", tmp_path / "c") == 0
    assert "different base models" not in capsys.readouterr().out


def test_when_none_can_be_read_one_line_names_each(tmp_path, capsys):
    before = files(tmp_path)
    assert run(tmp_path / "a", tmp_path / "b") == 1
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and f"{tmp_path / 'a'}." in err and f"{tmp_path / 'b'}." in err
    assert files(tmp_path) == before
    with pytest.raises(AdapterError):
        inspect_folders([tmp_path / "a"])


def test_a_folder_with_an_adapter_of_its_own_stands_for_itself(tmp_path, capsys):
    path = checkpoints(tmp_path / "out")
    folder(path, {"x": pair(8, 6, 2)})
    assert expand([path]) == [path]
    assert run(path) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "LoRA adapter with 1 module:" in out and "3 more adapters lie in it (checkpoint-50" in out


def test_named_adapters_are_compared_with_their_own_checkpoint_before(tmp_path, capsys):
    """DPO keeps a policy and a reference in every checkpoint; the reference never moves."""
    for step in (2, 10, 100):
        for name, factors in (("policy", pair(8, 6, 2, seed=step)), ("ref", pair(8, 6, 2))):
            room = tmp_path / "dpo" / f"checkpoint-{step}" / name
            room.parent.mkdir(parents=True, exist_ok=True)
            folder(room, {"layers.0.q": factors}, dtype=f64)
    series = inspect_folders(expand([tmp_path / "dpo"]))
    labels = [str(one.folder.relative_to(tmp_path / "dpo")) for one in series.adapters]
    assert labels == [f"checkpoint-{step}/{name}" for name in ("policy", "ref") for step in (2, 10, 100)]
    assert [series.changed(k) is None for k in range(6)] == [True, False, False, True, False, False]
    X = [B @ A for B, A in (pair(8, 6, 2, seed=step) for step in (2, 10, 100))]
    truth = [float((b - a).norm() / b.norm()) for a, b in zip(X, X[1:])]
    assert [series.changed(k) for k in (1, 2)] == pytest.approx(truth, rel=1e-12)  # float64 all through
    assert max(series.changed(4), series.changed(5)) < 1e-14
    assert run(tmp_path / "dpo") == 0
    out = capsys.readouterr().out
    assert "\nof policy\n" in out and "\nof ref\n" in out and "checkpoint-100/ref" in out
    assert [series.labels(places) for places in series.runs] == [
        (name, [f"checkpoint-{step}" for step in (2, 10, 100)]) for name in ("policy", "ref")
    ]
    assert run(*(tmp_path / "dpo" / f"checkpoint-{step}" for step in (2, 10, 100))) == 0
    assert capsys.readouterr().out == out


def test_two_runs_are_not_mixed(tmp_path):
    for name in "ab":
        checkpoints(tmp_path / name, (50, 100))
    series = inspect_folders(expand([tmp_path / "a", tmp_path / "b"]))
    assert series.runs == ((0, 1), (2, 3)) and series.changed(2) is None
    assert series.changed(1) == series.changed(3)
    last = inspect_folders([tmp_path / name / "checkpoint-100" for name in "ab"])  # one of each: side by side
    assert last.runs == ((0, 1),) and last.changed(1) < 1e-14
