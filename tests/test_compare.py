"""Two adapters, measured against each other: distances of updates that are never formed, and PEFT's merges."""

import json
import math
from contextlib import nullcontext

import pytest
import torch
from adapter_folders import Picture, adapted, bert, files, folder, pair
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn

from lorabook import device, linalg
from lorabook.__main__ import main
from lorabook.adapters import AdapterError, check_merge, compare_folders

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
f64 = torch.float64


def run(*arguments):
    """Exit code of the command line, also for argparse's own."""
    try:
        return main(["compare", *map(str, arguments)])
    except SystemExit as stop:
        return stop.code


# ---------------------------------------------------------------- measures


@pytest.mark.parametrize("m, n, r, q", [(40, 30, 5, 3), (6, 50, 6, 4), (30, 4, 8, 8)])
def test_the_measures_are_those_of_the_full_matrices(tmp_path, m, n, r, q):
    (B, A), (C, D) = pair(m, n, r, 1), pair(m, n, q, 2)
    folder(tmp_path / "a", {"x": (B, A)}, {"lora_alpha": 2 * r}, dtype=f64)
    folder(tmp_path / "b", {"x": (C, D)}, {"lora_alpha": 3, "use_rslora": True}, dtype=f64)
    _, (found,) = compare_folders([tmp_path / "a", tmp_path / "b"], energy=0.8)
    (one,) = found.modules
    X, Y = 2 * B @ A, 3 / math.sqrt(q) * C @ D
    # float64 all through
    assert one.norms == pytest.approx((float(X.norm()), float(Y.norm())), rel=1e-13)
    assert one.distance == pytest.approx(float((X - Y).norm()), rel=1e-13)
    assert one.relative == pytest.approx(float((X - Y).norm() / max(X.norm(), Y.norm())), rel=1e-13)
    assert one.ratio == pytest.approx(float(Y.norm() / X.norm()), rel=1e-13)
    assert one.cosine == pytest.approx(float((X * Y).sum() / X.norm() / Y.norm()), abs=1e-13)
    leading = []
    for M in (X, Y):
        U, s, Vh = torch.linalg.svd(M, full_matrices=False)
        k = int((s.square().cumsum(0) < 0.8 * s.square().sum()).sum()) + 1
        leading.append((U[:, :k], Vh[:k].mT, k))
    (P, R, k), (Q, S, l) = leading
    assert one.directions == (k, l)
    assert one.left == pytest.approx(float((P.mT @ Q).norm() ** 2) / min(k, l), abs=1e-12)
    assert one.right == pytest.approx(float((R.mT @ S).norm() ** 2) / min(k, l), abs=1e-12)
    # one module is all modules
    assert found.total.norms == pytest.approx(one.norms) and found.total.distance == pytest.approx(one.distance)
    assert found.total.cosine == pytest.approx(one.cosine) and found.total.left == pytest.approx(one.left)


def test_all_modules_together_are_one_block_diagonal_matrix(tmp_path):
    factors = [{f"l.{k}": pair(9 + k, 8, 3, seed + k) for k in range(3)} for seed in (0, 10)]
    for name, one in zip("ab", factors):
        folder(tmp_path / name, one, dtype=f64)
    _, (found,) = compare_folders([tmp_path / "a", tmp_path / "b"], energy=1.0)
    X, Y = (torch.block_diag(*(B @ A for B, A in one.values())) for one in factors)
    total = found.total
    assert total.distance == pytest.approx(float((X - Y).norm()), rel=1e-13)
    assert total.cosine == pytest.approx(float((X * Y).sum() / X.norm() / Y.norm()), abs=1e-13)
    P, Q = (linalg.thin_svd(M)[0] for M in (X, Y))
    assert total.directions == (9, 9) and total.left == pytest.approx(float((P.mT @ Q).norm() ** 2) / 9, rel=1e-12)


def test_an_adapter_is_at_no_distance_from_itself_and_from_its_other_factors(tmp_path):
    B, A = pair(20, 30, 4)
    turn = torch.linalg.qr(pair(4, 4, 4)[0]).Q * 7
    folder(tmp_path / "a", {"x": (B, A)}, dtype=f64)
    folder(tmp_path / "b", {"x": (B @ turn, torch.linalg.solve(turn, A))}, dtype=f64)
    _, (found,) = compare_folders([tmp_path / "a", tmp_path / "b"])
    (one,) = found.modules
    # rounding of float64
    assert one.relative < 1e-14 and one.ratio == pytest.approx(1, rel=1e-14)
    assert one.left == pytest.approx(1, rel=1e-12) and one.right == pytest.approx(1, rel=1e-12)


def test_overlaps_of_random_updates_are_what_chance_gives(tmp_path):
    for name, seed in (("a", 1), ("b", 1000)):
        factors = {f"l.{k}": pair(40, 60, 4, seed + k) for k in range(60)}
        folder(tmp_path / name, factors, dtype=f64)
    _, (found,) = compare_folders([tmp_path / "a", tmp_path / "b"], energy=1.0)
    left, right = found.total.chance
    assert (left, right) == pytest.approx((4 / 40, 4 / 60), rel=1e-13)
    # mean of 60 samples whose deviations are near 0.03 and 0.02
    assert found.total.left == pytest.approx(left, abs=0.015) and found.total.right == pytest.approx(right, abs=0.01)


def test_one_span_inside_another_has_overlap_1_on_its_side_alone(tmp_path):
    source = device.generator(3)
    U, V = linalg.random_orthonormal(40, 6, source, "cpu"), linalg.random_orthonormal(30, 6, source, "cpu")
    folder(tmp_path / "a", {"x": (U[:, :2], V[:, :2].mT)}, dtype=f64)
    folder(tmp_path / "b", {"x": (U[:, :3], V[:, 3:].mT)}, dtype=f64)
    _, (found,) = compare_folders([tmp_path / "a", tmp_path / "b"], energy=1.0)
    (one,) = found.modules
    assert one.left == pytest.approx(1, rel=1e-13) and one.right == pytest.approx(0, abs=1e-13)
    assert one.cosine == pytest.approx(0, abs=1e-13)


def test_a_module_of_one_adapter_alone_is_named_and_counts_as_zero_in_the_other(tmp_path, capsys):
    folder(tmp_path / "a", {"l.2": pair(9, 8, 2, 1), "l.10": pair(9, 8, 2, 2)})
    folder(tmp_path / "b", {"l.2": pair(9, 8, 2, 1), "l.11": pair(9, 8, 2, 3)})
    _, (found,) = compare_folders([tmp_path / "a", tmp_path / "b"])
    assert found.only == (["l.10"], ["l.11"]) and [one.name for one in found.modules] == ["l.2"]
    alone = [float((B @ A).norm()) for B, A in (pair(9, 8, 2, 2), pair(9, 8, 2, 3))]
    # the factors are stored in float32
    assert found.total.distance == pytest.approx(math.hypot(*alone), rel=1e-6)
    assert run(tmp_path / "a", tmp_path / "b") == 0
    out = capsys.readouterr().out
    assert "in 1 and not in 2 (1): l.10\n" in out and "in 2 and not in 1 (1): l.11" in out


def test_adapters_without_a_common_module_are_all_apart(tmp_path, capsys):
    folder(tmp_path / "a", {"x": pair(9, 8, 2)}), folder(tmp_path / "b", {"y": pair(9, 8, 2)})
    assert run(tmp_path / "a", tmp_path / "b") == 0
    out = capsys.readouterr().out
    assert "in 1 and not in 2 (1): x" in out and "1 and 2 have no module in common" in out and " nan" not in out


def test_an_untrained_adapter_has_no_directions(tmp_path, capsys):
    B, A = pair(9, 8, 2)
    folder(tmp_path / "a", {"x": (0 * B, A)}), folder(tmp_path / "b", {"x": (B, A)})
    _, (found,) = compare_folders([tmp_path / "a", tmp_path / "b"])
    (one,) = found.modules
    assert one.directions[0] == 0 and one.ratio == math.inf and one.relative == 1 and math.isnan(one.left)
    assert run(tmp_path / "a", tmp_path / "b") == 0 and "nan" not in capsys.readouterr().out
    assert run(tmp_path / "a", tmp_path / "a") == 0 and "nan" not in capsys.readouterr().out
    assert run(tmp_path / "a", tmp_path / "b", "--json") == 0
    report = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert report["pairs"][0]["modules"][0]["left"] is None


def test_several_adapters_are_compared_by_twos(tmp_path, capsys):
    B, A = pair(20, 30, 4)
    C, D = pair(20, 30, 4, 5)
    paths = [tmp_path / f"checkpoint-{step}" for step in (50, 100, 150)]
    for share, path in zip((0.2, 0.5, 1.0), paths):
        folder(path, {"x": (torch.cat([B, share * C], 1), torch.cat([A, D], 0))}, dtype=f64)
    _, pairs = compare_folders(paths)
    assert [(one.first, one.second) for one in pairs] == [(0, 1), (0, 2), (1, 2)]
    moved = float((C @ D).norm())
    assert [one.total.distance for one in pairs] == pytest.approx([0.3 * moved, 0.8 * moved, 0.5 * moved], rel=1e-12)
    assert run(*paths) == 0
    out = capsys.readouterr().out
    assert all(f"\n{one} " in out for one in ("1 and 2", "1 and 3", "2 and 3"))


def test_the_matrices_are_never_formed(tmp_path):
    source = torch.Generator().manual_seed(0)
    for name in "ab":
        # X would take 1.6 terabytes
        folder(
            tmp_path / name,
            {"x": (torch.randn(200_000, 2, generator=source), torch.randn(2, 1_000_000, generator=source))},
        )
    _, (found,) = compare_folders([tmp_path / "a", tmp_path / "b"])
    assert found.total.relative > 1


# ---------------------------------------------------------------- merges


def merged_by_peft(options, weights, kind):
    """Adapters on one base and what PEFT makes of them; their folders come from the first two."""
    torch.manual_seed(0)
    model = None
    for place, one in enumerate(options):
        one = {"target_modules": ["query", "value"], "r": 3, "lora_alpha": 5} | one
        name = f"a{place}"
        if model is None:
            base = Picture if "conv" in one["target_modules"] else bert
            model = get_peft_model(base(), LoraConfig(**one), adapter_name=name)
        else:
            model.add_adapter(name, LoraConfig(**one))
    source = device.generator(7)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = 0.3 * device.normal(weight.shape, source, "cpu").to(weight)
    names = [f"a{place}" for place in range(len(options))]
    model.base_model.add_weighted_adapter(names, list(weights), "merged", combination_type=kind)
    return model.eval(), names


def layers(model):
    return [layer for layer in model.modules() if isinstance(layer, LoraLayer)]


def update(layer, name):
    if name not in {**layer.lora_A, **layer.lora_embedding_A}:
        return torch.zeros(1)
    return layer.get_delta_weight(name).detach().double()


OPTIONS = {
    "plain": ({}, {"lora_alpha": 2}),
    "rsLoRA": ({"use_rslora": True}, {"use_rslora": True, "lora_alpha": 2}),
    "rsLoRA first": ({"use_rslora": True}, {}),
    "rsLoRA second": ({}, {"use_rslora": True}),
    "patterns": (
        {"rank_pattern": {"query": 4}, "alpha_pattern": {"value": 7}},
        {"rank_pattern": {"query": 4}, "r": 3, "use_rslora": True},
    ),
    "other modules": ({"target_modules": ["query"]}, {"target_modules": ["query", "key"]}),
    "embeddings": ({"target_modules": ["query", "word_embeddings"]},) * 2,
    "convolutions": ({"target_modules": ["conv", "linear"], "use_rslora": True},) * 2,
    "three embeddings": ({"target_modules": ["word_embeddings"]},) * 3,
    "three": ({}, {"lora_alpha": 1}, {"use_rslora": True}),
}


@pytest.mark.parametrize("kind", ["linear", "cat", "svd"])
@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("weights", [(0.7, 0.3, 1.0), (1.0, -2.0, 0.5)])
def test_the_errors_of_the_merges_are_those_that_peft_makes(tmp_path, case, kind, weights):
    options = OPTIONS[case]
    weights = weights[: len(options)]
    model, names = merged_by_peft(options, weights, kind)
    model.save_pretrained(tmp_path)
    found = [tmp_path / name for name in names]
    unloadable = case == "patterns" and kind == "linear"
    if unloadable:  # PEFT writes ranks that its own configuration does not say
        with pytest.raises(AdapterError, match="have rank 3, but adapter_config.json says 4"):
            check_merge(found, weights, tmp_path / "merged")
        with pytest.raises(RuntimeError, match="size mismatch"):
            PeftModel.from_pretrained(bert(), tmp_path / "merged")
    _, merges, checked = check_merge(found, weights, None if unloadable else tmp_path / "merged")
    said = next(one for one in merges if one.kind == kind)
    assert ("PEFT cannot load what it saves" in said.trouble) == unloadable
    sums, made = [], []
    for layer in layers(model):
        sums.append(sum(weight * update(layer, name) for weight, name in zip(weights, names)))
        made.append(update(layer, "merged"))
    whole = math.hypot(*(float(one.norm()) for one in sums))
    error = math.hypot(*(float((M - S).norm()) for M, S in zip(made, sums))) / whole
    # PEFT computes in float32
    assert said.error == pytest.approx(error, abs=1e-5) and said.rank == model.peft_config["merged"].r
    factor = layers(model)[0].scaling["merged"]
    assert said.factor == pytest.approx(factor, rel=1e-12)
    plain = math.hypot(*(float((M / factor - S).norm()) for M, S in zip(made, sums))) / whole
    assert said.error_at_one == pytest.approx(plain, abs=1e-5)
    if unloadable:
        return
    assert checked.distance == pytest.approx(error, abs=1e-5)
    # the stored adapter is recognised: cat is the sum itself
    assert checked.same == {"cat": "sum", "linear": "linear", "svd": "svd"}[kind]
    assert checked.factor == ("1" if factor == pytest.approx(1) else "sqrt(R)")


@pytest.mark.parametrize("rslora", [False, True])
def test_the_weights_over_the_root_of_the_rank_undo_the_inherited_scale(tmp_path, rslora):
    options = ({"use_rslora": rslora}, {"use_rslora": rslora})
    share = math.sqrt(6) if rslora else 1.0
    model, names = merged_by_peft(options, (0.5 / share, 0.5 / share), "cat")
    model.save_pretrained(tmp_path)
    _, _, checked = check_merge([tmp_path / name for name in names], (0.5, 0.5), tmp_path / "merged")
    assert (checked.same, checked.factor) == ("sum", "1") and checked.distance < 1e-6


def test_a_single_adapter_at_weight_1_is_itself_in_every_kind_but_not_under_rslora(tmp_path):
    for name, rslora in (("a", False), ("b", True)):
        folder(tmp_path / name, {"x": pair(9, 8, 4)}, {"lora_alpha": 8, "use_rslora": rslora})
        _, merges, _ = check_merge([tmp_path / name], [1.0])
        # sqrt(4) times itself
        assert [one.error for one in merges] == pytest.approx([float(rslora)] * 3, abs=1e-12)
        assert [one.error_at_one for one in merges] == pytest.approx([0.0] * 3, abs=1e-12)


def test_a_merge_that_is_something_else_is_not_called_a_sum(tmp_path, capsys):
    for place, name in enumerate("abc"):
        folder(tmp_path / name, {"x": pair(9, 8, 2, place)})
    assert run(tmp_path / "a", tmp_path / "b", "--weights", 1, 1, "--merged", tmp_path / "c") == 0
    assert "is neither the weighted sum nor what PEFT's linear or svd gives" in capsys.readouterr().out


@pytest.mark.parametrize("off, same", [(1e-6, "sum"), (1e-2, "")])
def test_a_merge_that_is_nearly_the_sum_is_told_from_one_that_is_not(tmp_path, off, same):
    (B, A), (C, D) = pair(9, 8, 2, 1), pair(9, 8, 2, 2)
    folder(tmp_path / "a", {"x": (B, A)}, dtype=f64), folder(tmp_path / "b", {"x": (C, D)}, dtype=f64)
    both = torch.cat([B, C * (1 + off)], 1), torch.cat([A, D], 0)
    folder(tmp_path / "m", {"x": both}, dtype=f64)
    _, _, checked = check_merge([tmp_path / "a", tmp_path / "b"], [1.0, 1.0], tmp_path / "m")
    assert checked.same == same and checked.distances["x"] == pytest.approx(checked.distance, rel=1e-12)


@pytest.mark.parametrize("dtype, same", [(torch.bfloat16, "sum"), (f64, "")])
def test_a_merge_of_low_precision_may_be_off_by_its_rounding(tmp_path, dtype, same):
    (B, A), (C, D) = pair(9, 8, 2, 1), pair(9, 8, 2, 2)
    folder(tmp_path / "a", {"x": (B, A)}, dtype=f64), folder(tmp_path / "b", {"x": (C, D)}, dtype=f64)
    both = torch.cat([0.3 * B, 0.7 * C], 1), torch.cat([A, D], 0)
    folder(tmp_path / "m", {"x": tuple(one.to(torch.bfloat16).to(f64) for one in both)}, dtype=dtype)
    assert check_merge([tmp_path / "a", tmp_path / "b"], [0.3, 0.7], tmp_path / "m")[2].same == same


def test_a_module_that_the_merge_lacks_or_has_too_many_is_at_a_distance(tmp_path):
    folder(tmp_path / "a", {"x": pair(9, 8, 2), "y": pair(9, 8, 2, 1)})
    folder(tmp_path / "m", {"x": pair(9, 8, 2), "z": pair(9, 8, 2, 2)})
    _, _, checked = check_merge([tmp_path / "a"], [1.0], tmp_path / "m")
    assert checked.distances == {"x": pytest.approx(0, abs=1e-12), "y": pytest.approx(1), "z": math.inf}
    assert checked.same == ""


@pytest.mark.parametrize(
    "options, why",
    [
        (({}, {"r": 2}), "linear: PEFT refuses it, as the ranks differ."),
        (({"rank_pattern": {"query": 5}, "r": 3}, {"rank_pattern": {"value": 5}, "r": 3}), "the ranks differ in "),
        (({"target_modules": ".*query"}, {}), "is a list in one adapter and an expression in another"),
        (({"modules_to_save": ["dense"]},) * 2, "is saved whole in more than one"),
        (({"task_type": "SEQ_CLS"},) * 2, "is saved whole in more than one"),
    ],
)
def test_what_peft_refuses_is_said_and_peft_refuses_it(tmp_path, capsys, options, why):
    with pytest.raises((ValueError, RuntimeError)):
        merged_by_peft(options, (1.0, 1.0), "linear")
    for name, one in zip("ab", options):
        adapted(bert(), **({"r": 3, "task_type": None} | one)).save_pretrained(tmp_path / name)
    assert run(tmp_path / "a", tmp_path / "b", "--weights", 1, 1) == 0
    assert why in " ".join(capsys.readouterr().out.split())


# ---------------------------------------------------------------- the command


@pytest.fixture
def two(tmp_path):
    """Folders of two adapters."""
    for name, seed in (("a", 0), ("b", 10)):
        factors = {f"model.layers.{layer}.{half}": pair(20, 30, 4, seed + layer) for layer in range(3) for half in "qv"}
        folder(tmp_path / name, factors, {"lora_alpha": 8, "use_rslora": True, "base_model_name_or_path": "org/base"})
    return tmp_path / "a", tmp_path / "b"


def test_the_tables_fit(two, capsys):
    assert run(*two, "--weights", 0.5, 0.5, "--merged", two[0]) == 0
    out, err = capsys.readouterr()
    assert not err and out.isascii() and max(map(len, out.splitlines())) <= 100
    assert "\nall " in out and "names begin with model.layers." in out
    assert "lets the merged one inherit it, with the scale sqrt(R)" in " ".join(out.split())


def test_json_has_every_pair_and_no_nan(two, capsys):
    assert run(*two, "--json", "--weights", 1, 1, "--merged", two[0]) == 0
    report = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert list(report) == ["format", "energy", "adapters", "pairs", "weights", "merges", "merged"]
    assert len(report["pairs"]) == 1 and len(report["pairs"][0]["modules"]) == 6
    assert [one["kind"] for one in report["merges"]] == ["linear", "cat", "svd"]


def test_the_figure_is_one_svg_file_for_two_and_for_several(two, tmp_path):
    for number, paths in enumerate((two, (*two, two[0]))):
        figure = tmp_path / f"{number}.svg"
        assert run(*paths, "--plot", figure) == 0 and figure.read_text().startswith("<svg")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["x"],
        ["x", "y", "--weights", "1"],
        ["x", "y", "--merged", "z"],
        ["x", "y", "--energy", "0"],
        ["x", "--weights", "1", "--plot", "f.svg"],
    ],
)
def test_wrong_options_are_exit_code_2(arguments, capsys):
    assert run(*arguments) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("weights", [[0.0, 1.0], [math.nan, 1.0], [math.inf, 1.0], [1.0]])
def test_weights_that_are_no_numbers_or_too_few_are_refused(two, weights):
    with pytest.raises(ValueError, match="one weight for each"):
        check_merge(two, weights)


def test_names_of_one_base_may_differ_by_their_folder(two, tmp_path):
    config = json.loads((two[1] / CONFIG).read_text())
    (two[1] / CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": "/models/Base/"}))
    assert compare_folders(two)[1][0].total.distance > 0


def test_adapters_of_different_bases_are_compared_only_when_asked(two, capsys):
    config = json.loads((two[1] / CONFIG).read_text())
    (two[1] / CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": "org/other\x1b[31m"}))
    for options in ([], ["--weights", 1, 1]):
        assert run(*two, *options) == 1
        out, err = capsys.readouterr()
        assert not out and "was trained on org/base and" in err and err.count("\n") == 1 and "\x1b" not in err
    assert run(*two, "--any-base") == 0


@pytest.mark.parametrize("kind", ["shape", "missing", "cut short", "other kind", "a file"])
def test_bad_input_gets_one_sentence(two, tmp_path, capsys, kind):
    weights, name = two[1] / WEIGHTS, "base_model.model.model.layers.1.q.lora_A.weight"
    if kind == "shape":
        save_file(load_file(weights) | {name: torch.ones(4, 31)}, weights)
        sentence = "The update of model.layers.1.q is (20, 30) in"
    elif kind == "missing":
        two, sentence = (two[0], tmp_path / "c"), "There is no folder"
    elif kind == "cut short":
        weights.write_bytes(weights.read_bytes()[:-7])
        sentence = "not a whole safetensors file"
    elif kind == "other kind":
        (two[1] / CONFIG).write_text(json.dumps({"peft_type": "IA3"}))
        sentence = "IA3"
    else:
        two, sentence = (two[0], weights), "give the folder"
    before = files(tmp_path)
    assert run(*two, "--plot", tmp_path / "f.svg", "--weights", 1, 1) == 1
    out, err = capsys.readouterr()
    assert not out and sentence in err and err.count("\n") == 1 and err.endswith(".\n") and files(tmp_path) == before


@pytest.mark.parametrize("place", [0, 1])
def test_a_module_with_nan_is_named_and_the_others_are_compared(two, tmp_path, capsys, place):
    weights, name = two[place] / WEIGHTS, "base_model.model.model.layers.1.q.lora_A.weight"
    save_file(load_file(weights) | {name: torch.full((4, 30), torch.nan)}, weights)
    assert run(*two) == 0
    out = capsys.readouterr().out
    assert "not compared, model.layers.1.q: The factors" in out and "1.v" in out and " nan" not in out
    _, (found,) = compare_folders(two)
    assert len(found.modules) == 5 and found.only == ([], []) and list(found.faults) == ["model.layers.1.q"]
    assert run(*two, "--weights", 1, 1) == 1  # a sum of what is not known is not known
    assert "NaN" in capsys.readouterr().err


def test_adapters_in_another_trainers_format_are_compared_and_not_merged(tmp_path):
    for seed, name in enumerate("ab"):
        B, A = pair(5, 6, 2, seed)
        stored = {"lora_unet_q.lora_down.weight": A, "lora_unet_q.lora_up.weight": B}
        (tmp_path / name).mkdir()
        save_file(stored | {"lora_unet_q.alpha": torch.tensor(4.0)}, tmp_path / name / "last.safetensors")
    _, (found,) = compare_folders([tmp_path / "a", tmp_path / "b"])
    wanted = 2 * (pair(5, 6, 2, 0)[0] @ pair(5, 6, 2, 0)[1] - pair(5, 6, 2, 1)[0] @ pair(5, 6, 2, 1)[1])
    assert found.total.distance == pytest.approx(float(wanted.norm()), rel=1e-13)
    with pytest.raises(AdapterError, match="kohya"):
        check_merge([tmp_path / "a"], [1.0])


def test_embeddings_convolutions_experts_and_the_direction_of_dora_are_compared(tmp_path):
    more = lambda seed: {
        "base_model.model.e.lora_embedding_A": pair(2, 30, 1, seed)[0] @ pair(2, 30, 1, seed)[1],
        "base_model.model.e.lora_embedding_B": pair(7, 2, 2, seed)[0],
        "base_model.model.c.lora_A.weight": pair(2, 27, 2, seed)[1].reshape(2, 3, 3, 3),
        "base_model.model.c.lora_B.weight": pair(4, 2, 2, seed)[0].reshape(4, 2, 1, 1),
        "base_model.model.mlp.experts.lora_A.weight": pair(6, 5, 6, seed)[1],
        "base_model.model.mlp.experts.lora_B.weight": pair(8, 6, 6, seed)[0],
    }
    for seed, name in enumerate("ab"):
        folder(tmp_path / name, {"x": pair(5, 6, 2, seed)}, {"target_parameters": ["experts.up"]}, more=more(seed))
    _, (found,) = compare_folders([tmp_path / "a", tmp_path / "b"], energy=1.0)
    sizes = {one.name: one.shape for one in found.modules}
    experts = {f"mlp.experts.up[{place}]": (8, 5) for place in range(3)}
    assert sizes == {"c": (4, 27), "e": (30, 7), "x": (5, 6)} | experts
    with pytest.raises(AdapterError, match="target_parameters"):
        check_merge([tmp_path / "a"], [1.0])


def test_adapters_that_peft_saved_are_compared_as_peft_applies_them(tmp_path):
    models = [adapted(bert(), use_rslora=rslora, r=rank) for rslora, rank in ((False, 2), (True, 4))]
    for name, model in zip("ab", models):
        model.save_pretrained(tmp_path / name)
    _, (found,) = compare_folders([tmp_path / "a", tmp_path / "b"])
    deltas = [[layer.double().get_delta_weight("default") for layer in layers(model)] for model in models]
    wanted = math.hypot(*(float((X - Y).norm()) for X, Y in zip(*deltas)))
    # float64 all through
    assert found.total.distance == pytest.approx(wanted, rel=1e-12)


def test_a_moved_base_is_noted(tmp_path, capsys):
    for name in "ab":
        folder(tmp_path / name, {"x": pair(9, 8, 2)}, {"init_lora_weights": "pissa"})
    assert run(tmp_path / "a", tmp_path / "b") == 0
    assert "note: The start pissa may have changed the base weights too" in capsys.readouterr().out


def test_peft_loads_the_merged_folder_that_was_checked(tmp_path):
    model, names = merged_by_peft(OPTIONS["plain"], (0.5, 0.5), "svd")
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(bert(), tmp_path / "merged")
    for old, new in zip(layers(model), layers(again)):
        assert torch.allclose(update(old, "merged"), update(new, "default"))
    with pytest.raises(AdapterError):
        check_merge([tmp_path / "nowhere"], [1.0])


@pytest.mark.parametrize(("layer", "fails"), [(nn.Conv1d, True), (nn.Conv2d, False), (nn.Conv3d, True)])
def test_svd_has_no_error_where_peft_fails_on_a_convolution(tmp_path, layer, fails):
    """PEFT flattens convolutions in two dimensions alone (its issue 3769)."""
    base = lambda: nn.Sequential(layer(4, 6, 3))
    for name in "ab":
        model = get_peft_model(base(), LoraConfig(r=2, target_modules=["0"], init_lora_weights=False))
        model.save_pretrained(tmp_path / name)
    model = PeftModel.from_pretrained(base(), tmp_path / "a", adapter_name="a")
    model.load_adapter(tmp_path / "b", "b")
    with pytest.raises(RuntimeError) if fails else nullcontext():
        model.add_weighted_adapter(["a", "b"], [0.7, 0.3], "m", combination_type="svd")
    merges = {one.kind: one for one in check_merge([tmp_path / "a", tmp_path / "b"], [0.7, 0.3])[1]}
    assert math.isnan(merges["svd"].error) == fails == bool(merges["svd"].trouble)
    assert merges["cat"].error < 1e-14 and not merges["linear"].trouble
