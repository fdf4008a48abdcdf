"""What two adapters hold beside their factors: told where the factors are the same and the models are not."""

import json
import math
import shutil

import pytest
import torch
from adapter_folders import Tokens, Two, folder, moved, noise, pair
from peft import PeftModel
from safetensors.torch import load_file, save_file

from lorabook.__main__ import main
from lorabook.adapters import compare_folders, inspect_folders
from lorabook.adapters.outside import PIECE, relative

WEIGHTS = "adapter_model.safetensors"
OPTIONS = {
    "head": (Two, {"target_modules": ["a"], "modules_to_save": ["b"]}, "b.weight"),
    "magnitudes": (Two, {"target_modules": ["a"], "use_dora": True}, "a.lora_magnitude_vector"),
    "bias": (Two, {"target_modules": ["a"], "bias": "lora_only"}, "a.base_layer.bias"),
    "lora_bias": (Two, {"target_modules": ["a"], "lora_bias": True}, "a.lora_B.bias"),
    "tokens": (
        Tokens,
        {"target_modules": ["linear"], "trainable_token_indices": {"emb": [1, 7]}},
        "emb.token_adapter.trainable_tokens_delta",
    ),
}


def said(*arguments):
    assert main([*map(str, arguments)]) == 0


def two(path, kind):
    """Two adapters of the same factors, the rest of the second with the other sign."""
    model, options, name = OPTIONS[kind]
    moved(model(), **options).save_pretrained(path / "a")
    shutil.copytree(path / "a", path / "b")
    weights = load_file(path / "a" / WEIGHTS)
    key = f"base_model.model.{name}"
    save_file(weights | {key: -weights[key]}, path / "b" / WEIGHTS)
    return path / "a", path / "b"


@pytest.mark.parametrize("kind", OPTIONS)
@torch.no_grad()
def test_models_with_the_same_factors_and_other_tensors_differ_and_both_commands_say_so(tmp_path, capsys, kind):
    model, _, name = OPTIONS[kind]
    a, b = two(tmp_path, kind)
    given = torch.tensor([[1, 7]]) if model is Tokens else noise(3, 4)
    outs = [PeftModel.from_pretrained(model(), path)(given) for path in (a, b)]
    assert float((outs[0] - outs[1]).norm()) > 0.1 * float(outs[0].norm())
    _, (found,) = compare_folders([a, b])
    assert found.total.relative < 1e-12
    assert found.outside.differ == {name: pytest.approx(2, rel=1e-12)} and found.outside.only == ([], [])
    sentence = f"1 tensor outside the factors differs: {name} (relative distance 2)."
    said("compare", a, b)
    assert f"\n{sentence}" in capsys.readouterr().out.replace("\n ", "")
    said("compare", a, b, "--json")
    assert json.loads(capsys.readouterr().out)["pairs"][0]["outside"]["differ"] == {name: pytest.approx(2)}
    said("inspect", a, b)
    assert f"from a to b: {sentence}" in " ".join(capsys.readouterr().out.split())
    said("inspect", a, b, "--json")
    beside = json.loads(capsys.readouterr().out)["outside"]
    assert beside[0] is None and list(beside[1]["differ"]) == [name]


@pytest.mark.parametrize("kind", OPTIONS)
def test_nothing_is_said_where_they_are_the_same(tmp_path, capsys, kind):
    a, _ = two(tmp_path, kind)
    _, (found,) = compare_folders([a, a])
    assert not found.outside.differ and found.outside.same == [OPTIONS[kind][2]]
    for command in ("compare", "inspect"):
        said(command, a, a)
        assert "outside the factors" not in capsys.readouterr().out


def test_many_tensors_have_three_names_and_those_of_one_alone_are_told(tmp_path, capsys):
    rest = {f"base_model.model.head.{k}.weight": noise(3, 4) + k for k in range(5)}
    more = {"base_model.model.norm.weight": torch.ones(4)}
    for name, held in (("a", rest), ("b", {key: 1.5 * value for key, value in rest.items()} | more), ("c", rest)):
        folder(tmp_path / name, {"x": pair(8, 6, 2)}, more=held)
    said("compare", tmp_path / "a", tmp_path / "b")
    out = " ".join(capsys.readouterr().out.split())
    # a third of the longer
    assert "5 tensors outside the factors differ: head.0.weight (relative distance 0.33), head.1.weight" in out
    assert "head.2.weight (relative distance 0.33) and 2 more." in out
    assert "1 tensor outside the factors is in 2 and not in 1: norm.weight." in out
    said("compare", *(tmp_path / name for name in "abc"))
    out = " ".join(capsys.readouterr().out.split())
    assert "1 and 2: 5 tensors outside the factors differ" in out and "1 and 3: " not in out
    assert "2 and 3: 1 tensor outside the factors is in 2 and not in 3: norm.weight." in out


def test_other_shapes_and_entries_that_are_no_numbers_are_told(tmp_path, capsys):
    key = "base_model.model.head.weight"
    other = {"a": torch.ones(2, 3), "b": torch.ones(3, 3), "c": torch.full((2, 3), math.nan)}
    for name, value in other.items():
        folder(tmp_path / name, {"x": pair(8, 6, 2)}, more={key: value})
    said("compare", tmp_path / "a", tmp_path / "b")
    assert "head.weight (another shape)" in capsys.readouterr().out
    said("compare", tmp_path / "a", tmp_path / "c", "--json")
    assert json.loads(capsys.readouterr().out)["pairs"][0]["outside"]["differ"] == {"head.weight": None}
    said("compare", tmp_path / "a", tmp_path / "c")
    assert "head.weight (entries that are no numbers)" in capsys.readouterr().out
    assert compare_folders([tmp_path / "c", tmp_path / "c"])[1][0].outside.same == ["head.weight"]


def test_names_that_other_versions_of_peft_gave_are_the_same_names(tmp_path):
    whole, size = noise(3, 4), noise(8)
    new = {"base_model.model.head.weight": whole, "base_model.model.x.lora_magnitude_vector": size}
    old = {
        "base_model.model.head.modules_to_save.weight": whole,
        "base_model.model.head.original_module.weight": whole + 1,
        "base_model.model.x.lora_magnitude_vector.weight": size,
    }
    for name, more in (("a", new), ("b", old)):
        folder(tmp_path / name, {"x": pair(8, 6, 2)}, {"use_dora": True}, more=more)
    found = compare_folders([tmp_path / "a", tmp_path / "b"])[1][0].outside
    assert not found.differ and found.only == ([], []) and len(found.same) == 2


def test_runs_are_compared_each_with_its_own_folder_before(tmp_path):
    key = "base_model.model.head.weight"
    for run in "ab":
        for step in (1, 2):
            path = tmp_path / run / f"checkpoint-{step}"
            path.parent.mkdir(exist_ok=True)
            folder(path, {"x": pair(8, 6, 2)}, more={key: torch.ones(2) * (step if run == "a" else 1)})
    series = inspect_folders([tmp_path / run / f"checkpoint-{step}" for run in "ab" for step in (1, 2)])
    assert [one and one.differ for one in series.outside] == [None, {"head.weight": 0.5}, None, {}]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool])
def test_a_relative_distance_is_that_of_the_whole_tensor_in_pieces(dtype):
    a, b = (torch.randn(PIECE + 3, generator=torch.Generator().manual_seed(k)).mul(20).to(dtype) for k in (1, 2))
    x, y = a.double(), b.double()
    # float64 all through
    assert relative(a, b) == pytest.approx(float((x - y).norm() / max(x.norm(), y.norm())), rel=1e-12)
    assert relative(a, a) == 0 and relative(torch.zeros(0), torch.zeros(0)) == 0
    assert relative(torch.tensor([math.inf, 1]), torch.tensor([math.inf, 1])) == 0
    assert math.isnan(relative(torch.tensor([math.nan, 1]), torch.tensor([math.nan, 2])))
    assert relative(torch.tensor([1e200, 1], dtype=torch.float64), torch.zeros(2)) == 1
