"""What PEFT merges to something else, or not at all: convolutions in groups, DoRA, parameters; each beside its run."""

import contextlib
import math

import pytest
import torch
from adapter_folders import Mixture, Picture, Tokens, Two, moved, noise
from peft import LoraConfig, PeftModel, get_peft_model

from lorabook import device
from lorabook.__main__ import main
from lorabook.adapters import AdapterError, check_merge

WEIGHTS = (0.7, -0.4)


@torch.no_grad()
def made(path, options, groups, size):
    """Adapters of a convolution in groups and of a linear layer, and PEFT's model with both."""
    for seed, (name, more) in enumerate(zip("ab", options)):
        config = {"r": 4, "lora_alpha": 6, "target_modules": ["conv", "linear"]} | more
        model = get_peft_model(Picture(groups, size), LoraConfig(**config))
        source = device.generator(seed)
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.copy_(device.normal(weight.shape, source, "cpu"))
        model.save_pretrained(path / name)
    model = PeftModel.from_pretrained(Picture(groups, size), path / "a", adapter_name="a")
    model.load_adapter(path / "b", "b")
    return model


@torch.no_grad()
def used(model, name, size):
    """The updates of both layers that are in use, float64."""
    model.set_adapter(name)
    model = model.double()
    conv, linear = model.base_model.model.conv, model.base_model.model.linear
    given = torch.eye(4 * size * size).double().view(-1, 4, size, size)
    out = (conv(given) - conv.base_layer(given)).flatten(1).mT
    given = torch.eye(8).double()
    return out, (linear(given) - linear.base_layer(given)).mT


CASES = {
    "two groups": (({}, {}), 2, 3),
    "pointwise": (({}, {}), 2, 1),
    "as many groups as channels": (({}, {}), 4, 3),
    "other ranks": (({"r": 2}, {"r": 6}), 2, 3),
    "ranks below that of the rest": (({"rank_pattern": {"conv": 2}}, {"rank_pattern": {"linear": 2}}), 2, 3),
    "of one alone": (({}, {"target_modules": ["linear"]}), 2, 3),
    "rsLoRA": (({"use_rslora": True}, {}), 2, 3),
}


@pytest.mark.parametrize("kind", ["linear", "cat"])
@pytest.mark.parametrize("case", CASES)
def test_a_merge_of_convolutions_in_groups_has_the_error_that_its_run_has(tmp_path, case, kind):
    options, groups, size = CASES[case]
    model = made(tmp_path, options, groups, size)
    merges = {one.kind: one for one in check_merge([tmp_path / "a", tmp_path / "b"], WEIGHTS)[1]}
    if kind == "linear" and "ranks" in case:
        assert math.isnan(merges[kind].error) and "the ranks differ" in merges[kind].trouble
        with pytest.raises((ValueError, RuntimeError), match="same r|equal size"):
            model.add_weighted_adapter(["a", "b"], list(WEIGHTS), "m", combination_type=kind)
        return
    model.add_weighted_adapter(["a", "b"], list(WEIGHTS), "m", combination_type=kind)
    M = used(model, "m", size)
    single = [used(model, name, size) for name in "ab"]
    S = [sum(weight * one[place] for weight, one in zip(WEIGHTS, single)) for place in range(2)]
    whole = math.hypot(*(float(one.norm()) for one in S))
    error = math.hypot(*(float((m - s).norm()) for m, s in zip(M, S))) / whole
    assert merges[kind].error == pytest.approx(error, abs=1e-5)  # PEFT merges in float32
    if kind == "cat" and case != "rsLoRA":
        assert error > 0.3 and float((M[1] - S[1]).norm()) < 1e-5 * whole
        assert merges[kind].worst == "conv" and "PEFT's merge is wrong in conv" in merges[kind].trouble


def test_svd_fails_on_convolutions_in_groups_and_a_rank_that_is_no_multiple_fails(tmp_path):
    model = made(tmp_path, ({}, {}), 2, 3)
    with pytest.raises(RuntimeError):
        model.add_weighted_adapter(["a", "b"], list(WEIGHTS), "m", combination_type="svd")
    svd = check_merge([tmp_path / "a", tmp_path / "b"], WEIGHTS)[1][2]
    assert math.isnan(svd.error) and svd.trouble == "PEFT fails on it, as conv is a convolution in groups"
    odd = {"r": 5, "rank_pattern": {"conv": 4}}
    model = made(tmp_path, (odd, {"r": 4}), 2, 3)
    with pytest.raises(ValueError, match="divisible"):
        model.add_weighted_adapter(["a", "b"], list(WEIGHTS), "m", combination_type="cat")
    cat = check_merge([tmp_path / "a", tmp_path / "b"], WEIGHTS)[1][1]
    assert math.isnan(cat.error) and "the rank R is no multiple of the 2 groups of conv" in cat.trouble


def test_a_single_convolution_in_groups_and_one_without_groups_are_merged_rightly(tmp_path):
    made(tmp_path, ({}, {}), 2, 3)
    linear = check_merge([tmp_path / "a"], [1.0])[1][0]
    assert linear.error < 1e-12 and not linear.trouble
    (tmp_path / "c").mkdir()
    made(tmp_path / "c", ({}, {}), 1, 3)
    _, cat, svd = check_merge([tmp_path / "c" / "a", tmp_path / "c" / "b"], WEIGHTS)[1]
    assert cat.error < 1e-12 and not cat.trouble and not svd.trouble


def test_a_stored_merge_of_convolutions_in_groups_is_told_from_the_sum(tmp_path):
    model = made(tmp_path, ({}, {}), 2, 3)
    model.add_weighted_adapter(["a", "b"], list(WEIGHTS), "m", combination_type="cat")
    model.save_pretrained(tmp_path / "out", selected_adapters=["m"])
    _, (_, cat, _), checked = check_merge([tmp_path / "a", tmp_path / "b"], WEIGHTS, tmp_path / "out" / "m")
    assert checked.same == "" and checked.distance == pytest.approx(cat.error, abs=1e-6)
    assert checked.distances["linear"] < 1e-6 < checked.distances["conv"]


def test_the_command_measures_all_modules_and_says_where_the_merge_is_wrong(tmp_path, capsys):
    made(tmp_path, ({}, {}), 2, 3)
    assert main(["compare", *(str(tmp_path / name) for name in "ab"), "--weights", "0.5", "0.5"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "cat: PEFT's merge is wrong in conv, a convolution in groups, and PEFT says nothing" in out
    assert "svd: PEFT fails on it, as conv is a convolution in groups." in out


# ---------------------------------------------------------------- DoRA, parameters


@torch.no_grad()
def test_dora_is_merged_without_its_magnitudes_and_there_is_another_way(tmp_path):
    options, given = {"target_modules": ["a"], "use_dora": True}, noise(3, 4)
    for size, name in ((1.0, "a"), (0.5, "b")):
        model = moved(Two(), **options)
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.mul_(size)
        model.save_pretrained(tmp_path / name)
    model = PeftModel.from_pretrained(Two(), tmp_path / "a", adapter_name="a")
    model.load_adapter(tmp_path / "b", "b")
    model.add_weighted_adapter(["a", "b"], list(WEIGHTS), "m", combination_type="cat")
    layer, W0 = model.base_model.model.a, Two().a.weight
    assert torch.allclose(layer.lora_magnitude_vector["m"].weight, W0.norm(dim=1))
    base, outs = layer.base_layer(given), {}
    for name in "abm":
        model.set_adapter(name)
        outs[name] = layer(given) - base
    wanted = WEIGHTS[0] * outs["a"] + WEIGHTS[1] * outs["b"]
    assert float((outs["m"] - wanted).norm()) > 0.1 * float(wanted.norm())
    with pytest.raises(AdapterError, match="with the norms of the rows of W0 in place") as said:
        check_merge([tmp_path / "a", tmp_path / "b"], WEIGHTS)
    assert "merge each adapter into a base of its own (merge_and_unload), and add to one base what each" in str(
        said.value
    )
    new = Two()
    for name, weight in zip("ab", WEIGHTS):
        merged = PeftModel.from_pretrained(Two(), tmp_path / name).merge_and_unload()
        new.a.weight += weight * (merged.a.weight - W0)
    torch.testing.assert_close(new.a(given) - Two().a(given), wanted, rtol=1e-4, atol=1e-5)  # float32


@pytest.mark.parametrize("names", [["experts.gate_up_proj", "experts.down_proj"], ["query.weight"]])
def test_adapters_of_parameters_are_refused_by_peft_too(tmp_path, names):
    moved(Mixture(), target_modules=[], target_parameters=names).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(Mixture(), tmp_path, adapter_name="a")
    with pytest.raises(ValueError, match="does not support targeting nn.Parameter"):
        model.add_weighted_adapter(["a"], [1.0], "m", combination_type="linear")
    with pytest.raises(AdapterError, match="add_weighted_adapter refuses these. For the weighted sum, merge each"):
        check_merge([tmp_path], [1.0])


@pytest.mark.parametrize(
    "first, second", [("none", "none"), ("lora_only", "none"), ("none", "all"), ("all", "lora_only")]
)
def test_adapters_with_bias_are_refused_by_peft_too(tmp_path, capsys, first, second):
    for name, bias in (("a", first), ("b", second)):
        moved(Two(), target_modules=["a", "b"], bias=bias).save_pretrained(tmp_path / name)

    def merge():
        model = PeftModel.from_pretrained(Two(), tmp_path / "a", adapter_name="a")
        model.load_adapter(tmp_path / "b", adapter_name="b")
        model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "m", combination_type="linear")

    refused = first != "none"  # the merged adapter has the first one's configuration
    with pytest.raises(ValueError, match="only 1 adapter with bias") if refused else contextlib.nullcontext():
        merge()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--weights", "1", "1"]) == 0
    assert ("takes one adapter with bias at most" in " ".join(capsys.readouterr().out.split())) == refused


@torch.no_grad()
def test_trained_tokens_are_left_out_of_a_merge(tmp_path, capsys):
    for name in "ab":
        options = {"trainable_token_indices": {"emb": [1, 2]}}
        moved(Tokens(6), target_modules=["linear"], **options).save_pretrained(tmp_path / name)
    model = PeftModel.from_pretrained(Tokens(6), tmp_path / "a", adapter_name="a")
    model.load_adapter(tmp_path / "b", adapter_name="b")
    rows = lambda: model.base_model.model.emb(torch.tensor([1, 2]))
    trained = rows()
    model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "m", combination_type="linear")
    model.set_adapter("m")
    assert not torch.equal(rows(), trained)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--weights", "1", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("has trained tokens: PEFT leaves them out, and so does this table.") == 2
