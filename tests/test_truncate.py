"""What ``truncate`` writes is what PEFT reads: the best adapter of lower rank, with the scales that it had."""

import json
import os
import re

import pytest
import torch
from adapter_folders import (
    Attention,
    Mixture,
    Picture,
    adapted,
    bert,
    files,
    folder,
    gpt2,
    mixture_of_experts,
    moved,
    noise,
    pair,
)
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from lorabook import linalg
from lorabook.__main__ import main
from lorabook.adapters import AdapterError, inspect_folder, truncate_folder
from lorabook.adapters import truncate as module
from lorabook.adapters.folder import read
from lorabook.adapters.truncate import truncate

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
IDS = torch.arange(12).view(3, 4) % 10


def run(*arguments):
    """Exit code of the command line, also for argparse's own."""
    try:
        return main(["truncate", *map(str, arguments)])
    except SystemExit as stop:
        return stop.code


# ---------------------------------------------------------------- PEFT reads it


TEXT = {"r": 4, "lora_alpha": 6}
#: base model, what LoraConfig gets
KINDS = {
    "plain": (bert, {}),
    "rsLoRA": (bert, {"use_rslora": True}),
    "rank_pattern": (bert, {"rank_pattern": {"query": 6, r"layer\.1\.attention\.self\.value": 1}}),
    "alpha_pattern": (bert, {"alpha_pattern": {"value": 9}}),
    "both patterns under rsLoRA": (
        bert,
        {"rank_pattern": {"value": 3}, "alpha_pattern": {"layer.0.attention.self.query": 5}, "use_rslora": True},
    ),
    "all linear layers": (bert, {"target_modules": "all-linear"}),
    "one block": (bert, {"layers_to_transform": [1], "layers_pattern": "layer"}),
    "an expression for the modules": (bert, {"target_modules": r".*\.(query|dense)"}),
    "Conv1D": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "embeddings": (bert, {"target_modules": ["query", "word_embeddings"]}),
    "an embedding of its own rank": (
        bert,
        {"target_modules": ["query", "word_embeddings"], "rank_pattern": {"word_embeddings": 3}, "use_rslora": True},
    ),
    "a convolution": (Picture, {"target_modules": ["conv", "linear"], "task_type": None}),
    "a convolution of one point": (
        lambda: Picture(size=1),
        {"target_modules": ["conv", "linear"], "task_type": None, "use_rslora": True},
    ),
    "DoRA": (bert, {"use_dora": True}),
    "biases of the base": (bert, {"bias": "all"}),
    "biases of the adapted layers": (bert, {"bias": "lora_only"}),
    "biases of the adapter": (bert, {"lora_bias": True}),
    "modules_to_save": (bert, {"modules_to_save": ["LayerNorm"]}),
    "trainable tokens": (bert, {"trainable_token_indices": {"word_embeddings": [1, 3]}}),
    "bfloat16": (bert, {"dtype": torch.bfloat16}),
    "float16": (bert, {"dtype": torch.float16}),
    "float64": (bert, {"dtype": torch.float64}),
    "an orthogonal start": (bert, {"init_lora_weights": "orthogonal"}),
    "a gaussian start": (bert, {"init_lora_weights": "gaussian"}),
    "MiCA": (bert, {"init_lora_weights": "mica"}),
}


def lora_layers(model):
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    return {name.removeprefix("base_model.model."): layer for name, layer in found.items()}


def halves(layer):
    """B and A of a layer as matrices, in PEFT's own parameters."""
    if layer.lora_embedding_A:
        return layer.lora_embedding_B["default"].data, layer.lora_embedding_A["default"].data
    B, A = layer.lora_B["default"].weight.data, layer.lora_A["default"].weight.data
    return B.view(len(B), -1), A.view(len(A), -1)


def made(kind):
    base, options = KINDS[kind]
    return base, adapted(base(), **(TEXT | options))


def again(base, path, like):
    """PEFT's reading of a folder on a fresh base model, in the dtype of ``like``."""
    dtype = next(half.dtype for half in map(lambda layer: halves(layer)[0], lora_layers(like).values()))
    model = base()
    if {one.dtype for one in like.parameters()} == {dtype}:
        model = model.to(dtype)
    return PeftModel.from_pretrained(model, path, autocast_adapter_dtype=False).eval()


def outputs(model):
    with torch.no_grad():
        said = model(IDS)
    return getattr(said, "logits", said)


def deltas(model):
    """The updates in float64."""
    return {name: layer.double().get_delta_weight("default") for name, layer in lora_layers(model).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_when_nothing_is_cut_both_files_say_the_same_and_so_does_peft(tmp_path, kind):
    base, model = made(kind)
    model.save_pretrained(tmp_path / "a")
    adapter, found = truncate_folder(tmp_path / "a", tmp_path / "b", energy=1)
    assert all(one.kept == one.allowed and one.error == 0 for one in found)
    old, new = (load_file(tmp_path / name / WEIGHTS) for name in "ab")
    assert old.keys() == new.keys() and all(torch.equal(old[key], new[key]) for key in old)
    assert json.loads((tmp_path / "b" / CONFIG).read_text()) == adapter.config
    assert torch.equal(outputs(again(base, tmp_path / "b", model)), outputs(again(base, tmp_path / "a", model)))


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_of_lower_rank_than_its_factors_gives_the_same_outputs_from_smaller_ones(tmp_path, kind):
    base, model = made(kind)
    for layer in lora_layers(model).values():
        B, A = halves(layer)
        if B.shape[1] == A.shape[0]:
            A.copy_(A[:1] * torch.arange(1.0, len(A) + 1)[:, None].to(A))  # rows that are multiples of one
    model.save_pretrained(tmp_path / "a")
    adapter, found = truncate_folder(tmp_path / "a", tmp_path / "b", rank=1)
    new = again(base, tmp_path / "b", model)
    eps = max(torch.finfo(half.dtype).eps for half in load_file(tmp_path / "a" / WEIGHTS).values())
    # both factors are rounded once, after a decomposition in float64; and the network computes in its dtype
    assert all(one.kept == 1 and one.relative <= 2 * eps + 1e-14 for one in found)
    wanted = outputs(again(base, tmp_path / "a", model))
    assert torch.allclose(outputs(new), wanted, rtol=0, atol=50 * eps * float(wanted.abs().max()))
    # and the scales are those that the old ranks gave
    old = lora_layers(model)
    for name, layer in lora_layers(new).items():
        assert layer.scaling["default"] == pytest.approx(old[name].scaling["default"], rel=1e-14)
        assert layer.r["default"] == 1
    assert {one.name for one in inspect_folder(tmp_path / "b")[1]} == {one.name for one in found} == old.keys()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [{"rank": 2}, {"energy": 0.6}])
def test_peft_reads_the_best_update_of_the_new_rank_with_the_error_that_was_said(tmp_path, kind, share):
    base, model = made(kind)
    model.save_pretrained(tmp_path / "a")
    _, found = truncate_folder(tmp_path / "a", tmp_path / "b", **share)
    stored = [load_file(tmp_path / name / WEIGHTS) for name in "ab"]
    eps = max(torch.finfo(half.dtype).eps for half in stored[0].values())
    assert all(stored[0][key].dtype == stored[1][key].dtype for key in stored[0])
    old, new = (deltas(again(base, tmp_path / name, model)) for name in "ab")
    found = {one.name: one for one in found}
    assert any(one.kept < one.allowed for one in found.values())
    for name in old:
        X, Y = (one[name].flatten(1) for one in (old, new))
        said, s = found[name], torch.linalg.svdvals(X)
        assert said.norm == pytest.approx(float(X.norm()), rel=1e-12)
        assert said.error == pytest.approx(float((X - Y).norm()), abs=1e-12 * said.norm)
        best = float(s[said.kept :].norm())
        # no update of this rank is nearer; rounding of the factors adds little, at a right angle or nearly
        assert best - 1e-12 * said.norm <= said.error <= best + 2 * eps * said.norm
        if "rank" in share:
            assert said.kept == min(2, said.allowed)
        else:
            kept = s.square().cumsum(0) / s.square().sum()
            assert kept[said.kept - 1] >= 0.6 and (said.kept == 1 or kept[said.kept - 2] < 0.6)


def experts(path, first, second, **options):
    """A model with adapted experts, and its folder."""
    options = {"r": 4, "lora_alpha": 6, "target_modules": ["query"]} | options
    targets = {"target_parameters": [f"experts.{first}", f"experts.{second}"]}
    model = adapted(Mixture(first, second), task_type=None, **targets, **options)
    model.save_pretrained(path)
    return model


def expert_deltas(model):
    """The update of every expert and of the linear layer, in float64."""
    found = []
    for layer in lora_layers(model).values():
        found += list(
            layer.double().get_delta_weight("default").view(-1, *layer.get_delta_weight("default").shape[-2:])
        )
    return found


@pytest.mark.parametrize("names", [("gate_up_proj", "down_proj"), ("first", "second")])
@pytest.mark.parametrize("share", [{"rank": 2}, {"energy": 0.8}, {"energy": 1.0}])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"rank_pattern": {"query": 2}, "lora_alpha": 3}])
def test_fused_experts_are_cut_one_by_one_to_a_common_rank(tmp_path, names, share, options):
    model = experts(tmp_path / "a", *names, **options)
    _, found = truncate_folder(tmp_path / "a", tmp_path / "b", **share)
    assert len(found) == 7 and {len(one.singular_values) for one in found} <= {2, 4}
    again = PeftModel.from_pretrained(Mixture(*names), tmp_path / "b").eval()
    old, new = expert_deltas(model), expert_deltas(again)
    errors = sorted(float((X - Y).norm()) for X, Y in zip(old, new))
    assert errors == pytest.approx(sorted(one.error for one in found), abs=1e-12 * max(one.norm for one in found))
    eps = torch.finfo(torch.float32).eps
    for X, Y in zip(old, new):
        rank = torch.linalg.matrix_rank(Y, rtol=1e-5)
        best = float(torch.linalg.svdvals(X)[rank:].norm())
        # float32 factors
        assert best * (1 - 1e-6) - 1e-9 <= float((X - Y).norm()) <= best + 2 * eps * float(X.norm())
    of_experts = {one.kept for one in found if one.kind == "expert"}
    assert len(of_experts) == 1 and (share == {"energy": 1.0}) == (of_experts == {4})
    # it can be cut once more
    truncate_folder(tmp_path / "b", tmp_path / "c", rank=1)
    PeftModel.from_pretrained(Mixture(*names), tmp_path / "c")


@pytest.mark.parametrize("share, ranks", [({"rank": 1}, {1}), ({"rank": 2}, {2}), ({"energy": 0.99}, {2, 3})])
def test_the_parameters_of_experts_have_ranks_and_scales_of_their_own(tmp_path, share, ranks):
    patterns = {"rank_pattern": {"experts.gate_up_proj": 3}, "alpha_pattern": {"experts.down_proj": 20}}
    old = experts(tmp_path / "a", "gate_up_proj", "down_proj", r=2, use_rslora=True, **patterns)
    _, found = truncate_folder(tmp_path / "a", tmp_path / "b", **share)
    new = PeftModel.from_pretrained(Mixture(), tmp_path / "b")
    assert {layer.r["default"] for layer in lora_layers(new).values()} == ranks
    for name, layer in lora_layers(new).items():
        assert layer.scaling["default"] == pytest.approx(lora_layers(old)[name].scaling["default"], rel=1e-14)
    errors = sorted(float((X - Y).norm().detach()) for X, Y in zip(expert_deltas(old), expert_deltas(new)))
    # float64, from the stored factors
    assert errors == pytest.approx(sorted(one.error for one in found), abs=1e-12 * max(one.norm for one in found))


def test_experts_of_several_ranks_are_refused_where_the_file_does_not_say_which_is_which(tmp_path):
    experts(tmp_path / "a", "first", "second", r=2, rank_pattern={"experts.first": 4})
    with pytest.raises(AdapterError, match="experts have different ranks, and the file does not say which is which"):
        truncate_folder(tmp_path / "a", tmp_path / "b", rank=1)
    assert not (tmp_path / "b").exists()


def test_peft_uses_the_pattern_of_experts_that_it_says_to_ignore(tmp_path, capsys):
    linear, parameters = ["q_proj", "k_proj", "v_proj"], ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    options = {"target_modules": linear, "target_parameters": parameters, "rank_pattern": dict.fromkeys(linear, 1)}
    old = adapted(mixture_of_experts(), r=4, lora_alpha=6, task_type=None, **options)
    old.save_pretrained(tmp_path / "a")
    assert main(["truncate", str(tmp_path / "a"), "--rank", "2", "--out", str(tmp_path / "b")]) == 0
    assert "experts' keys in rank_pattern and alpha_pattern were ignored" in " ".join(capsys.readouterr().out.split())
    config = json.loads((tmp_path / "b" / CONFIG).read_text())
    assert any("experts" in key for key in config["rank_pattern"])
    with pytest.warns(RuntimeWarning, match="rank_pattern keys did not match any targeted module and were ignored"):
        new = PeftModel.from_pretrained(mixture_of_experts(), tmp_path / "b")
    for name, layer in lora_layers(new).items():
        assert layer.r["default"] == (2 if "experts" in name else 1)
        assert layer.scaling["default"] == pytest.approx(lora_layers(old)[name].scaling["default"], rel=1e-14)
    assert main(["truncate", str(tmp_path / "a"), "--rank", "1"]) == 0
    assert "were ignored" not in capsys.readouterr().out


def test_experts_without_their_target_parameters_are_refused_because_peft_would_not_load_them(tmp_path, capsys):
    experts(tmp_path / "a", "gate_up_proj", "down_proj")
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    (tmp_path / "a" / CONFIG).write_text(json.dumps(config | {"target_parameters": None}))
    before = files(tmp_path)
    assert run(tmp_path / "a", "--rank", 2, "--out", tmp_path / "b") == 1
    assert "holds fused experts" in capsys.readouterr().err and files(tmp_path) == before


@pytest.mark.parametrize("share", [{"rank": 2}, {"energy": 0.5}])
def test_a_convolution_in_groups_stays_as_it_is_while_the_rest_is_cut(tmp_path, share):
    model = moved(Picture(2), target_modules=["conv", "linear"], r=4)
    model.save_pretrained(tmp_path / "a")
    found = {one.name: one for one in truncate_folder(tmp_path / "a", tmp_path / "b", **share)[1]}
    assert found["conv"].kept == 4 and not found["conv"].error and found["linear"].kept < 4
    again = PeftModel.from_pretrained(Picture(2), tmp_path / "b").eval()
    old, new = (one.base_model.model for one in (model, again))
    given = noise(2, 4, 5, 5)
    assert torch.equal(old.conv(given), new.conv(given))
    difference = old.linear.get_delta_weight("default") - new.linear.get_delta_weight("default")
    # float32
    assert found["linear"].error == pytest.approx(float(difference.detach().norm()), rel=1e-5)


@pytest.mark.parametrize("share", [{"rank": 1}, {"energy": 0.7}, {"energy": 0.95}])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"alpha_pattern": {"attn": 9}}])
def test_both_projections_of_an_attention_are_cut_to_the_rank_that_peft_gives_them(tmp_path, share, options):
    model = moved(Attention(), target_modules=["attn", "linear"], r=3, **options)
    model.save_pretrained(tmp_path / "a")
    found = {one.name: one for one in truncate_folder(tmp_path / "a", tmp_path / "b", **share)[1]}
    assert found["attn"].kept == found["attn.base_layer.out_proj"].kept
    again = PeftModel.from_pretrained(Attention(), tmp_path / "b").eval()
    for name, layer in lora_layers(model).items():
        difference = layer.get_delta_weight("default") - lora_layers(again)[name].get_delta_weight("default")
        # float32
        assert found[name].error == pytest.approx(float(difference.detach().norm()), rel=1e-4, abs=1e-4)


def test_an_adapter_with_another_start_than_plain_lora_is_truncated_after_its_conversion(tmp_path):
    torch.manual_seed(0)
    model = get_peft_model(bert(), LoraConfig(r=2, target_modules=["query"], init_lora_weights="pissa"))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data += 0.1 * torch.randn_like(weight)
    model.peft_config["default"].init_lora_weights = "pissa"
    model.save_pretrained(tmp_path / "raw")
    model.save_pretrained(tmp_path / "a", path_initial_model_for_weight_conversion=tmp_path / "start")
    with pytest.raises(AdapterError, match="The start pissa moves the base"):
        truncate_folder(tmp_path / "raw", tmp_path / "b", rank=1)
    _, found = truncate_folder(tmp_path / "a", tmp_path / "b", rank=3)
    assert {(one.allowed, one.kept) for one in found} == {(4, 3)}
    old, new = (deltas(again(bert, tmp_path / name, model)) for name in "ab")
    for one in found:
        assert float((old[one.name] - new[one.name]).norm()) == pytest.approx(one.error, rel=1e-6)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_that_moves_the_base_by_its_rank_is_refused(tmp_path, capsys, start):
    adapted(bert(), init_lora_weights=start).save_pretrained(tmp_path / "a")
    before = files(tmp_path)
    assert run(tmp_path / "a", "--rank", 1, "--out", tmp_path / "b") == 1
    out, err = capsys.readouterr()
    assert not out and f"The start {start} moves the base weights" in err and err.count("\n") == 1
    assert files(tmp_path) == before


# ---------------------------------------------------------------- the numbers


@pytest.mark.parametrize("m, n, r, k", [(40, 30, 5, 2), (6, 50, 6, 3), (3, 20, 8, 5), (50, 4, 8, 6)])
def test_the_error_is_that_of_the_best_matrix_of_this_rank(m, n, r, k):
    B, A = pair(m, n, r)
    new_B, new_A, said = truncate("x", B, A, -0.5, rank=k)
    X = -0.5 * B @ A
    best = linalg.truncate(X, min(k, m, n))
    # float64 all through
    assert torch.allclose(-0.5 * new_B @ new_A, best, rtol=0, atol=1e-13 * float(X.norm()))
    assert said.error == pytest.approx(float((X - best).norm()), abs=1e-13 * float(X.norm()))
    assert said.kept == min(k, m, n) == new_B.shape[1] == new_A.shape[0]
    # each step of the way down, without another decomposition
    assert said.left_out(1) == pytest.approx(float((X - linalg.truncate(X, 1)).norm()), rel=1e-12)
    assert float(linalg.balance(new_B, new_A).norm()) < 1e-12 * float((new_A @ new_A.mT).norm())


@pytest.mark.parametrize("share, kept", [(0.1, 1), (0.64, 1), (0.641, 2), (0.8, 2), (0.96, 3), (0.961, 4), (1.0, 4)])
def test_a_share_of_the_energy_keeps_the_fewest_directions_that_carry_it(share, kept):
    s = torch.tensor([4.0, 2.0, 2.0, 1.0], dtype=torch.float64)  # 16 + 4 + 4 + 1 = 25
    B, A = torch.eye(9, 4, dtype=torch.float64) * s, torch.eye(4, 7, dtype=torch.float64)
    assert truncate("x", B, A, 1.0, energy=share)[2].kept == kept


def test_directions_that_are_zero_are_left_out_by_the_whole_energy():
    B, A = pair(9, 7, 4)
    B[:, 3] = 0
    _, _, said = truncate("x", B, A, 1.0, energy=1.0)
    # rounding of float64
    assert said.kept == 3 and said.error < 1e-14 * said.norm


def test_an_update_of_zero_keeps_one_direction_and_has_no_error(tmp_path):
    B, A = pair(8, 9, 3)
    folder(tmp_path / "a", {"x": (0 * B, A), "y": (B, A)})
    _, found = truncate_folder(tmp_path / "a", tmp_path / "b", energy=0.9)
    assert (found[0].kept, found[0].error, found[0].relative) == (1, 0.0, 0.0)
    assert read(tmp_path / "b").parts["x"].rank == 1
    # and that it can still be trained
    assert float(load_file(tmp_path / "b" / WEIGHTS)["base_model.model.x.lora_A.weight"].norm()) > 0


def test_a_direction_without_update_can_still_be_trained():
    B, A = pair(9, 7, 5)
    B[:, 2:] = 0
    new_B, new_A, said = truncate("x", B, A, 1.0, rank=4)
    # rounding of float64
    assert said.error < 1e-14 * said.norm and not new_B[:, 2:].any()
    assert new_A.norm(dim=1)[2:].tolist() == pytest.approx([float(new_A[0].norm())] * 2, rel=1e-12)


def test_numbers_whose_squares_are_no_numbers_are_cut_all_the_same():
    B, A = pair(8, 9, 3)
    usual = truncate("x", B, A, 1.0, rank=2)[2]
    for size in (1e-99, 1e99):
        said = truncate("x", size * B, size * A, 1.0, rank=2)[2]
        # rounding of float64
        assert said.relative == pytest.approx(usual.relative, rel=1e-12) and said.norm > 0


def test_the_matrix_is_never_formed():
    source = torch.Generator().manual_seed(0)
    # X would take 1.6 terabytes
    B, A = torch.randn(200_000, 3, generator=source), torch.randn(3, 1_000_000, generator=source)
    assert truncate("x", B, A, 1.0, rank=2)[2].kept == 2


def test_every_module_has_the_pattern_of_its_own_name_alone(tmp_path):
    """PEFT tries a pattern on the ends of names: ``q`` would take ``a.q`` too, and a name may be no expression."""
    names = ["q", "a.q", "b.a.q", "a.b(c", "a.b+", "z"]
    folder(
        tmp_path / "a",
        {name: pair(9, 8, rank, rank) for rank, name in enumerate(names, 2)},
        {"r": 5, "rank_pattern": {f"^{re.escape(name)}": rank for rank, name in enumerate(names, 2)}},
    )
    _, found = truncate_folder(tmp_path / "a", tmp_path / "b", rank=4)
    assert [one.kept for one in sorted(found, key=lambda one: names.index(one.name))] == [2, 3, 4, 4, 4, 4]
    config = json.loads((tmp_path / "b" / CONFIG).read_text())
    assert config["r"] == 4 and config["rank_pattern"] == {"^q": 2, "^a.q": 3}
    # the reader finds every rank and scale where it belongs
    old, new = (read(tmp_path / name).parts for name in "ab")
    assert all(new[name].scale == pytest.approx(old[name].scale, rel=1e-14) for name in names)


def test_the_patterns_stay_short_when_ranks_are_equal(tmp_path):
    folder(
        tmp_path / "a",
        {f"l.{k}.q": pair(9, 8, 4 + k % 2) for k in range(6)},
        {"r": 4, "rank_pattern": {rf"l\.{k}\.q": 5 for k in (1, 3, 5)}, "lora_alpha": 8},
    )
    truncate_folder(tmp_path / "a", tmp_path / "b", rank=2)
    config = json.loads((tmp_path / "b" / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (2, 4, {})
    assert config["alpha_pattern"] == {f"l.{k}.q": 16 / 5 for k in (1, 3, 5)}


# ---------------------------------------------------------------- the command


@pytest.fixture
def saved(tmp_path):
    """A folder with an adapter of rank 4."""
    factors = {f"model.layers.{layer}.{name}": pair(20, 30, 4, layer) for layer in range(3) for name in "qv"}
    return folder(tmp_path / "saved", factors, {"lora_alpha": 8})


def test_the_command_writes_the_folder_and_prints_a_table_that_fits(saved, tmp_path, capsys):
    assert run(saved, "--rank", 2, "--out", tmp_path / "small") == 0
    out, err = capsys.readouterr()
    assert not err and out.isascii() and max(map(len, out.splitlines())) <= 100
    assert "600 of 1200 numbers in the factors" in out and "\nall " in out and "names begin with model.layers." in out
    assert sorted(entry.name for entry in (tmp_path / "small").iterdir()) == [CONFIG, WEIGHTS]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["saved", "small"]


def test_without_a_folder_the_errors_are_shown_and_nothing_is_written(saved, tmp_path, capsys):
    before = files(tmp_path)
    assert run(saved, "--energy", 0.5) == 0
    assert "Nothing was written (no --out)." in capsys.readouterr().out and files(tmp_path) == before


def test_json_says_what_the_table_says(saved, tmp_path, capsys):
    assert run(saved, "--rank", 3, "--out", tmp_path / "small", "--json") == 0
    report = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert list(report) == ["format", "out", "total", "modules", "carried", "notes"]
    assert report["total"]["parameters"] == [1200, 900]
    one = report["modules"][0]
    assert one["kept"] == 3 and one["relative_error"] == pytest.approx(one["absolute_error"] / one["norm"], rel=1e-15)
    errors = [one["absolute_error"] for one in report["modules"]]
    assert "error" not in one and "error" not in report["total"]
    assert report["total"]["absolute_error"] == pytest.approx(sum(error**2 for error in errors) ** 0.5, rel=1e-14)


def test_the_figure_is_one_svg_file_and_replaces_none_unasked(saved, tmp_path, capsys):
    figure = tmp_path / "error.svg"
    assert run(saved, "--rank", 2, "--plot", figure) == 0 and figure.read_text().startswith("<svg")
    assert run(saved, "--rank", 2, "--out", tmp_path / "b", "--plot", figure) == 1
    assert "exists; give another name, or --overwrite" in capsys.readouterr().err and not (tmp_path / "b").exists()
    assert run(saved, "--rank", 2, "--plot", figure, "--overwrite") == 0


def test_what_is_carried_along_is_said(saved, tmp_path, capsys):
    save_file(
        load_file(saved / WEIGHTS) | {"base_model.model.head.weight": torch.ones(2, 3, dtype=torch.int8)},
        saved / WEIGHTS,
    )
    assert run(saved, "--rank", 2, "--out", tmp_path / "small") == 0
    assert "carried along as it is, saved whole, not as factors (1): head.weight" in capsys.readouterr().out
    head = load_file(tmp_path / "small" / WEIGHTS)["base_model.model.head.weight"]
    assert head.dtype == torch.int8 and head.shape == (2, 3)


@pytest.mark.parametrize(
    "arguments",
    [[], ["x"], ["x", "--rank", "0"], ["x", "--rank", "2", "--energy", "0.5"], ["x", "--energy", "1.5"]],
)
def test_wrong_options_are_exit_code_2(arguments, capsys):
    assert run(*arguments) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [{}, {"rank": 1, "energy": 0.5}, {"rank": 0}, {"energy": 0.0}, {"energy": 1.1}, {"energy": float("nan")}]
)
def test_the_function_takes_one_size_in_its_range(saved, tmp_path, wrong):
    with pytest.raises(ValueError):
        truncate_folder(saved, tmp_path / "small", **wrong)
    assert not (tmp_path / "small").exists()


# ---------------------------------------------------------------- bad input


def trouble(kind, saved, tmp_path):
    """What the folder and the options are like, and what the sentence must say."""
    out = tmp_path / "small"
    weights, config = saved / WEIGHTS, saved / CONFIG
    name = "base_model.model.model.layers.1.q.lora_A.weight"
    if kind == "rank above":
        return ["--rank", 9], "The rank 9 is above what is there: no module of the adapter has more than 4."
    if kind == "folder exists":
        out.mkdir()
        return ["--rank", 2], "small exists; give the name of a new folder."
    if kind == "file exists":
        out.write_text("mine")
        return ["--rank", 2], "small exists"
    if kind == "broken link exists":
        out.symlink_to(tmp_path / "nowhere")
        return ["--rank", 2], "small exists"
    if kind == "no place":
        return ["--rank", 2, "--out", tmp_path / "no" / "place"], "There is no folder"
    if kind == "itself":
        return ["--rank", 2, "--out", saved], "exists; give the name of a new folder."
    if kind == "cut short":
        weights.write_bytes(weights.read_bytes()[:-7])
        return ["--rank", 2], "not a whole safetensors file"
    if kind == "NaN":
        save_file(load_file(weights) | {name: torch.full((4, 30), torch.nan)}, weights)
        return ["--rank", 2], "NaN"
    if kind == "other kind":
        config.write_text(json.dumps({"peft_type": "IA3"}))
        return ["--rank", 2], "IA3"
    if kind == "shards":
        stored = load_file(weights)
        weights.unlink()
        for place in (0, 1):
            half = dict(list(sorted(stored.items()))[place * 6 : place * 6 + 6])
            save_file(half, saved / f"adapter_model-0000{place + 1}-of-00002.safetensors")
        return ["--rank", 2], "not in one adapter_model.safetensors"
    if kind == "prefix of a wrapper":
        save_file({f"_orig_mod.{key}": one for key, one in load_file(weights).items()}, weights)
        return ["--rank", 2], "so PEFT loads none of them"
    if kind == "prefix of a wrapper and DoRA":
        save_file({f"_orig_mod.{key}": one for key, one in load_file(weights).items()}, weights)
        config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
        return ["--rank", 2], ""
    if kind == "wrapper inside PEFT's prefix and DoRA":
        inside = {key.replace("base_model.model.", "base_model.model._orig_mod."): key for key in load_file(weights)}
        save_file({new: load_file(weights)[old] for new, old in inside.items()}, weights)
        config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
        return ["--rank", 2], ""
    if kind == "another trainer's":
        named = {
            key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): one
            for key, one in load_file(weights).items()
        }
        save_file(named, weights)
        return ["--rank", 2], "kohya"
    if kind == "no adapter":
        config.unlink()
        return ["--rank", 2], "has no adapter_config.json"
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "rank above",
        "folder exists",
        "file exists",
        "broken link exists",
        "no place",
        "itself",
        "cut short",
        "NaN",
        "other kind",
        "shards",
        "prefix of a wrapper",
        "prefix of a wrapper and DoRA",
        "wrapper inside PEFT's prefix and DoRA",
        "another trainer's",
        "no adapter",
    ],
)
def test_bad_input_gets_one_sentence_and_nothing_is_written(saved, tmp_path, capsys, kind):
    options, sentence = trouble(kind, saved, tmp_path)
    before = files(tmp_path)
    options = options if "--out" in options else [*options, "--out", tmp_path / "small"]
    assert run(saved, *options) == 1
    out, err = capsys.readouterr()
    assert not out and sentence in err and err.count("\n") == 1 and err.endswith(".\n") and len(err) < 400
    assert files(tmp_path) == before


@pytest.mark.parametrize("error, code", [(OSError(28, "No space left on device"), 1), (KeyboardInterrupt(), 130)])
def test_a_folder_that_fails_late_leaves_nothing_behind(saved, tmp_path, capsys, monkeypatch, error, code):
    def full(tensors, path, **_):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(module, "save_file", full)
    before = files(tmp_path)
    assert run(saved, "--rank", 2, "--out", tmp_path / "small") == code
    assert not capsys.readouterr().out and files(tmp_path) == before


def test_factors_that_their_dtype_cannot_hold_are_refused(tmp_path):
    B = torch.full((4, 2), 6e4, dtype=torch.float16)
    folder(tmp_path / "a", {"x": (B, B.mT)}, dtype=torch.float16)
    with pytest.raises(AdapterError, match="too large for torch.float16"):
        truncate_folder(tmp_path / "a", tmp_path / "b", rank=1)
    assert sorted(os.listdir(tmp_path)) == ["a"]
