"""Whatever can be measured in a folder is, the rest has its reason; a format of another trainer is read, and named."""

import json
import math
import random
import re
import struct

import pytest
import torch
from adapter_folders import adapted, bert, files, folder, pair, run
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, LoraConfig, PeftModel, PeftType, convert_to_lora, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn

from lorabook import device
from lorabook.adapters import AdapterError, inspect_folder, truncate_folder
from lorabook.adapters.folder import read
from lorabook.adapters.inspect import measure
from lorabook.adapters.peft_config import CONVERTIBLE, Patterns, pattern

f64 = torch.float64
ATTENTION = [f"model.layers.{k}.self_attn.q_proj" for k in range(6)]


def plain(path, names=ATTENTION, config=None, change=None, **more):
    """A folder with one module of rank 4 for each name; ``change`` edits the tensors by key."""
    factors = {name: pair(12, 8, 4, seed) for seed, name in enumerate(names)}
    folder(path, factors, {"lora_alpha": 8} | (config or {}), **more)
    if change:
        rewritten(path, change)
    return path


def rewritten(path, change):
    weights = path / "adapter_model.safetensors"
    tensors = load_file(weights)
    changed = change(tensors)
    save_file(tensors if changed is None else changed, weights)


def said(path, capsys):
    """What the command prints, its lines joined, and that its table fits."""
    assert run(path) == 0
    out, err = capsys.readouterr()
    assert not err and max(map(len, out.splitlines())) <= 100
    return " ".join(out.split())


def refused(path, capsys):
    before = files(path)
    assert run(path) == 1
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.endswith(".\n") and len(err) < 500 and files(path) == before
    return err


# ---------------------------------------------------------------- what stops nothing


@pytest.mark.parametrize("half", "AB")
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_one_entry_that_is_no_number_leaves_the_other_modules_measured(tmp_path, capsys, half, value, dtype):
    key = f"base_model.model.{ATTENTION[3]}.lora_{half}.weight"

    def broken(tensors):
        tensors[key][0, 1] = value

    path = plain(tmp_path / "a", change=broken, dtype=dtype)
    adapter, found = inspect_folder(path)
    assert [one.name for one in found] == ATTENTION[:3] + ATTENTION[4:] and list(adapter.faults) == [ATTENTION[3]]
    out = said(path, capsys)
    assert "1 of 6 modules cannot be measured" in out and "(1 of 80)" in out
    assert f"not measured, NaN or infinite (1): {ATTENTION[3]}" in out
    with pytest.raises(AdapterError, match="NaN, infinite"):
        list(read(path).factors())


def test_when_nothing_is_a_number_one_sentence_says_so(tmp_path, capsys):
    path = plain(tmp_path / "a", change=lambda tensors: {key: value * torch.nan for key, value in tensors.items()})
    assert "have entries that are NaN" in refused(path, capsys)


@pytest.mark.parametrize("shape", [(0,), (0, 0), (4, 0)])
def test_empty_tensors_are_those_of_a_partitioned_save(tmp_path, capsys, shape):
    path = plain(tmp_path / "a", change=lambda tensors: {key: torch.zeros(shape) for key in tensors})
    sentence = refused(path, capsys)
    assert "factors of 6 modules are empty tensors" in sentence and "ZeRO-3" in sentence and "gathered" in sentence
    assert "convolution" not in sentence

    def some(tensors):
        for half in "AB":
            tensors[f"base_model.model.{ATTENTION[1]}.lora_{half}.weight"] = torch.zeros(shape)

    out = said(plain(tmp_path / "b", change=some), capsys)
    assert "with 5 modules" in out and "1 of 6 modules cannot be measured" in out and "ZeRO-3" in out


def test_modules_that_never_moved_are_named(tmp_path, capsys):
    def still(part):
        def change(tensors):
            for key, value in tensors.items():
                if "lora_B" in key and part in key:
                    value.zero_()

        return change

    names = [f"layers.{k}.{part}" for k in range(2) for part in ("q_proj", "v_proj")]
    out = said(plain(tmp_path / "half", names, change=still("v_proj")), capsys)
    assert "2 of 4 modules never moved, B is 0: layers.0.v_proj, layers.1.v_proj" in out
    out = said(plain(tmp_path / "all", names, change=still("")), capsys)
    assert "No module ever moved: B is 0 in all 4, so the adapter does nothing" in out
    assert "never moved" not in said(plain(tmp_path / "none", names), capsys)


def test_a_module_far_out_of_the_line_is_named_and_others_are_not(tmp_path, capsys):
    def large(tensors):
        tensors[f"base_model.model.{ATTENTION[2]}.lora_B.weight"] *= 50

    out = said(plain(tmp_path / "a", change=large), capsys)
    assert "1 module out of the line in ||X||" in out and f"{ATTENTION[2]} (" in out
    assert "out of the line" not in said(plain(tmp_path / "b"), capsys)


def test_a_module_of_nearly_rank_one_among_broad_ones_is_named(tmp_path, capsys):
    factors = {}
    for seed, name in enumerate(ATTENTION):
        U, V = torch.linalg.qr(pair(20, 20, 4, seed)[0]).Q, torch.linalg.qr(pair(20, 20, 4, seed + 9)[0]).Q
        s = torch.ones(4, dtype=f64)
        if seed == 4:
            s[1:] = 0.05
        factors[name] = (U * s, V.mT)
    out = said(folder(tmp_path / "a", factors), capsys)
    assert f"1 module nearly of rank 1, unlike most: {ATTENTION[4]}." in out


def test_factors_in_eight_bits_are_measured_as_they_are(tmp_path, capsys):
    factors = {"x": pair(12, 8, 4)}
    for dtype, word in ((torch.float8_e4m3fn, "F8_E4M3"), (torch.float8_e5m2, "F8_E5M2")):
        path = folder(tmp_path / word, factors, dtype=dtype)
        (found,) = inspect_folder(path)[1]
        exact = measure("x", *(factor.to(dtype).double() for factor in factors["x"]), 1.0)
        # float64 of the same stored numbers
        assert found.norm == pytest.approx(exact.norm, rel=1e-13)
        assert word in said(path, capsys)
        with pytest.raises(AdapterError, match=word):
            read(path)


@pytest.mark.parametrize("dtype, word", [(torch.int8, "I8"), (torch.uint8, "U8"), (torch.bool, "BOOL")])
def test_factors_that_are_whole_numbers_are_left_out_by_name(tmp_path, capsys, dtype, word):
    def whole(tensors):
        key = f"base_model.model.{ATTENTION[0]}.lora_A.weight"
        tensors[key] = tensors[key].to(dtype)

    out = said(plain(tmp_path / "a", change=whole), capsys)
    assert f"not measured, stored as {word} (1)" in out and "with 5 modules" in out


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda t, key: t.pop(key("A")), "one factor alone (1)"),
        (lambda t, key: t.pop(key("B")), "one factor alone (1)"),
        (lambda t, key: t.update({key("A"): torch.ones(3, 8)}), "factors that do not multiply (1)"),
        (lambda t, key: t.update({key("A"): torch.ones(8)}), "factors that do not multiply (1)"),
        (
            lambda t, key: t.update({key("A"): torch.ones(6, 8), key("B"): torch.ones(12, 6)}),
            "of another rank than adapter_config.json says (1)",
        ),
        (
            lambda t, key: t.update({key("A").replace("A.", "A.other."): torch.ones(4, 8)}),
            "several adapters in one file (1)",
        ),
    ],
)
def test_one_module_that_is_wrong_stops_none_of_the_others(tmp_path, capsys, change, reason):
    key = lambda half: f"base_model.model.{ATTENTION[2]}.lora_{half}.weight"

    def edit(tensors):
        change(tensors, key)

    path = plain(tmp_path / "a", change=edit)
    out = said(path, capsys)
    assert "with 5 modules" in out and f"not measured, {reason}: {ATTENTION[2]}" in out
    with pytest.raises(AdapterError, match=re.escape(ATTENTION[2])):
        read(path)


def test_a_rank_that_is_not_the_configuration_s_is_said(tmp_path, capsys):
    path = folder(tmp_path / "a", {name: pair(12, 8, 8) for name in ATTENTION[:2]}, {"r": 4})
    assert "have rank 8, but adapter_config.json says 4; nor can the other module be" in refused(path, capsys)


# ---------------------------------------------------------------- kinds of modules


class Mixed(nn.Module):
    """An embedding, convolutions and linear layers."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.image, self.sound = nn.Conv2d(3, 8, 3), nn.Conv1d(6, 5, 2)
        self.head = nn.Linear(6, 7)


@pytest.mark.parametrize("rslora", [False, True])
def test_embeddings_and_convolutions_are_measured_as_peft_forms_them(tmp_path, capsys, rslora):
    targets = ["table", "image", "sound", "head"]
    model = get_peft_model(Mixed(), LoraConfig(r=2, lora_alpha=6, target_modules=targets, use_rslora=rslora))
    source = device.generator(3)
    for name, weight in model.named_parameters():
        if "lora" in name:
            weight.data.copy_(device.normal(weight.shape, source, "cpu"))
    model.save_pretrained(tmp_path)
    found = {one.name: one for one in inspect_folder(tmp_path)[1]}
    assert {name: one.kind for name, one in found.items()} == {
        "table": "embedding",
        "image": "convolution",
        "sound": "convolution",
        "head": "",
    }
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            one, X = (
                found[name.removeprefix("base_model.model.")],
                layer.get_delta_weight("default").detach().flatten(1),
            )
            assert one.shape == tuple(X.shape)
            # PEFT forms the product in float32
            assert one.norm == pytest.approx(float(X.double().norm()), rel=1e-6)
            assert one.largest == pytest.approx(float(torch.linalg.matrix_norm(X.double(), 2)), rel=1e-6)
    assert "table (embedding)" in said(tmp_path, capsys)


def test_an_untrained_embedding_has_never_moved(tmp_path, capsys):
    model = get_peft_model(Mixed(), LoraConfig(r=2, target_modules=["table", "head"]))
    model.save_pretrained(tmp_path)
    assert "No module ever moved: B is 0 in all 2" in said(tmp_path, capsys)


class Experts(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.zeros(count, 10, 6))
        self.down_proj = nn.Parameter(torch.zeros(count, 6, 5))


class Mixture(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.mlp = nn.Module()
        self.mlp.experts = Experts(count)
        self.q_proj = nn.Linear(6, 4)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("rslora", [False, True])
def test_fused_experts_are_measured_one_by_one(tmp_path, capsys, count, told, rslora):
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "use_rslora": rslora}
    model = get_peft_model(Mixture(count), LoraConfig(**options, target_parameters=parameters))
    source = device.generator(3)
    for name, weight in model.named_parameters():
        if "lora" in name:
            weight.data.copy_(device.normal(weight.shape, source, "cpu"))
    model.save_pretrained(tmp_path)
    if not told:
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        del config["target_parameters"]
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found = {one.name: one for one in inspect_folder(tmp_path)[1]}
    assert len(found) == 2 * count + 1
    for layer in model.modules():
        if type(layer).__name__ == "ParamWrapper" and count > 1:
            for expert, X in enumerate(layer.get_delta_weight("default").detach().double()):
                one = found[f"mlp.experts.{layer.parameter_name}[{expert}]"]
                # PEFT forms the product in float32
                assert one.norm == pytest.approx(float(X.norm()), rel=1e-6) and one.shape == tuple(X.shape)
                assert one.allowed == 4 and one.kind == "expert"
    out = said(tmp_path, capsys)
    assert ("though it has no target_parameters" in out) == (count > 1 and not told)
    with pytest.raises(AdapterError, match="target_parameters|fused experts") if told or count > 1 else contextless():
        read(tmp_path)


def test_rank_and_alpha_of_experts_follow_the_patterns_by_parameter(tmp_path):
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "target_parameters": parameters}
    patterns = {"rank_pattern": {"experts.down_proj": 2}, "alpha_pattern": {"gate_up_proj": 12, "q_proj": 1}}
    model = get_peft_model(Mixture(3), LoraConfig(**options, **patterns, init_lora_weights=False))
    model.save_pretrained(tmp_path)
    found = {one.name: one for one in inspect_folder(tmp_path)[1]}
    for layer in model.modules():
        if type(layer).__name__ == "ParamWrapper":
            one = found[f"mlp.experts.{layer.parameter_name}[2]"]
            assert (one.allowed, one.scale) == (layer.r["default"], layer.scaling["default"])
    assert found["mlp.experts.down_proj[0]"].allowed == 2 and found["q_proj"].scale == 0.25


def contextless():
    from contextlib import nullcontext

    return nullcontext()


def test_one_expert_that_is_no_number_leaves_the_others(tmp_path, capsys):
    factors = {"mlp.experts": pair(8, 6, 12)}
    path = folder(tmp_path / "a", factors, {"r": 4, "target_parameters": ["mlp.experts.w"]})

    def broken(tensors):
        tensors["base_model.model.mlp.experts.lora_A.weight"][5, 0] = torch.nan  # row 5 is of the second of three

    rewritten(path, broken)
    adapter, found = inspect_folder(path)
    assert [one.name for one in found] == ["mlp.experts.w[0]", "mlp.experts.w[2]"]
    assert list(adapter.faults) == ["mlp.experts.w[1]"] and "1 of 3 modules" in said(path, capsys)


def test_experts_that_are_stacked_are_measured_one_by_one(tmp_path):
    B, A = device.normal((3, 12, 4), device.generator(0), "cpu"), device.normal((3, 4, 8), device.generator(1), "cpu")
    more = {
        "base_model.model.mlp.experts.down_proj.lora_A.weight": A,
        "base_model.model.mlp.experts.down_proj.lora_B.weight": B,
    }
    found = inspect_folder(folder(tmp_path / "a", {"x": pair(5, 6, 4)}, {"r": 4, "lora_alpha": 8}, more=more))[1]
    norms = {one.name: one.norm for one in found}
    for expert in range(3):
        # float64 all through
        assert norms[f"mlp.experts.down_proj[{expert}]"] == pytest.approx(
            2 * float((B[expert] @ A[expert]).norm()), rel=1e-13
        )


def test_the_direction_part_of_dora_is_measured_and_said_to_be_that(tmp_path, capsys):
    model = get_peft_model(bert(), LoraConfig(r=2, target_modules=["query"], use_dora=True, init_lora_weights=False))
    model.save_pretrained(tmp_path)
    adapter, found = inspect_folder(tmp_path)
    assert {one.kind for one in found} == {"direction part (DoRA)"} and len(found) == 2
    out = said(tmp_path, capsys)
    assert "direction part, scale * B A" in out and "left out, magnitudes of DoRA (2)" in out
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"use_dora": False}))
    assert "direction part" in said(tmp_path, capsys)
    with pytest.raises(AdapterError, match="magnitude vectors"):
        read(tmp_path)


def test_a_direction_part_without_its_magnitudes_is_said_and_peft_leaves_those_of_the_base(tmp_path, capsys):
    """NVIDIA-NeMo/Megatron-Bridge 6031: an exporter left the magnitudes out."""
    adapted(bert(), target_modules=["query"], use_dora=True).save_pretrained(tmp_path)
    assert "no magnitudes" not in said(tmp_path, capsys)
    path = tmp_path / "adapter_model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if "magnitude" not in key}, path)
    assert "no magnitudes are stored for 2 modules" in said(tmp_path, capsys)
    with pytest.warns(UserWarning, match="missing adapter keys"):
        again = PeftModel.from_pretrained(bert(), tmp_path)
    layer = again.base_model.model.bert.encoder.layer[0].attention.self.query
    rows = layer.get_base_layer().weight.norm(dim=1)
    # float32
    assert torch.allclose(layer.lora_magnitude_vector["default"].weight, rows, rtol=1e-5)


# ---------------------------------------------------------------- what is saved whole


def whole(path, value):
    """An adapter of two sound modules, and a head that was saved whole."""
    return folder(path, {f"layers.{k}.q": pair(6, 5, 2, k) for k in range(2)}, more={"base_model.model.head": value})


def test_a_whole_weight_that_is_empty_is_a_partitioned_save_and_peft_cannot_load_it(tmp_path, capsys):
    """huggingface/peft 2450: the factors were gathered, what modules_to_save holds was not."""
    path = whole(tmp_path / "a", torch.zeros(0))
    out = said(path, capsys)
    assert "not measured, empty tensors, as ZeRO-3 leaves them" in out and "(1): head" in out
    assert len(inspect_folder(path)[1]) == 2
    for refusing in (read, lambda path: truncate_folder(path, tmp_path / "b", rank=1)):
        with pytest.raises(AdapterError, match="head is empty, of the shape"):
            refusing(path)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_whole_weight_that_is_no_number_is_said(tmp_path, capsys, value):
    head = torch.ones(4, 5)
    assert "cannot be measured" not in said(whole(tmp_path / "a", head), capsys)
    head[1, 2] = value
    assert "head has entries that are NaN or infinite (1 of 20)." in said(whole(tmp_path / "a", head), capsys)


def test_a_file_without_a_tensor_is_that_of_a_partitioned_save(tmp_path, capsys):
    """huggingface/trl 4416: 40 bytes."""
    assert "holds no tensor at all. Under ZeRO-3, save again" in refused(folder(tmp_path / "a", {}), capsys)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("LOHA", "convert_to_lora makes a LoRA adapter of it"),
        ("VERA", "convert_to_lora makes a LoRA adapter of it"),
        ("ADALORA", "a diagonal stands between them"),
        ("IA3", "only LORA has the factors B and A."),
    ],
)
def test_another_kind_of_adapter_is_named_with_what_can_be_done(tmp_path, capsys, kind, words):
    """huggingface/peft 1539."""
    assert words in refused(folder(tmp_path / "a", {"x": pair(5, 6, 2)}, {"peft_type": kind}), capsys)


def test_peft_converts_the_kinds_that_are_said_to_be_convertible_and_no_other_of_those_named():
    for kind in ("LOHA", "LOKR", "VERA", "OFT", "IA3", "ADALORA"):
        options = {"target_modules": ["0"]} | ({"feedforward_modules": []} if kind == "IA3" else {})
        options |= {"total_step": 10} if kind == "ADALORA" else {"oft_block_size": 4} if kind == "OFT" else {}
        made = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)](**options)
        model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 8)), made)
        if kind in CONVERTIBLE:
            assert convert_to_lora(model, rank=2)[0].r == 2
        else:
            with pytest.raises(TypeError, match="not support LoRA conversion"):
                convert_to_lora(model, rank=2)


def test_factors_of_a_grouped_convolution_in_the_first_releases_of_peft_are_named(tmp_path, capsys):
    """huggingface/peft 276: enable_lora adapted parts of a fused projection."""
    halves = {"A": torch.ones(4, 6), "B": torch.ones(8, 2, 1)}
    more = {f"base_model.model.x.lora_{half}.weight": value for half, value in halves.items()}
    config = {"r": 2, "lora_alpha": 2, "enable_lora": [True, False, True]}
    assert "sets enable_lora" in refused(folder(tmp_path / "a", {}, config, more=more), capsys)


# ---------------------------------------------------------------- PEFT's names


@pytest.mark.parametrize(
    "wrap",
    [
        lambda key: "_orig_mod." + key,
        lambda key: key.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda key: key.replace("layers.", "layers._checkpoint_wrapped_module."),
        lambda key: "_fsdp_wrapped_module." + key.replace("self_attn", "_fsdp_wrapped_module.self_attn"),
        lambda key: "module." + key,
    ],
)
def test_keys_of_a_wrapped_model_are_measured_and_said_to_be_dead(tmp_path, capsys, wrap):
    change = lambda tensors: {wrap(key): value for key, value in tensors.items()}
    path = plain(tmp_path / "a", change=change)
    assert [one.name for one in inspect_folder(path)[1]] == ATTENTION
    out = said(path, capsys)
    assert "12 of 12 keys carry" in out and "the prefix of a wrapper" in out


@pytest.mark.parametrize(
    "rename, dead",
    [
        (lambda key: key.removeprefix("base_model.model."), "4 of 4 keys do not begin with base_model.model."),
        (lambda key: key.removeprefix("base_model."), "4 of 4 keys do not begin with base_model.model."),
        (lambda key: "_orig_mod." + key, "4 of 4 keys carry the prefix of a wrapper"),
        (lambda key: key.replace(".weight", ".default.weight"), ""),
    ],
)
def test_keys_that_peft_does_not_load_are_said_to_be_dead_and_peft_agrees(tmp_path, capsys, rename, dead):
    model = get_peft_model(bert(), LoraConfig(r=2, target_modules=["query"], init_lora_weights=False))
    model.save_pretrained(tmp_path)
    # twice what the seed gives, so that weights which are not loaded differ
    weights = {key: 2 * value for key, value in load_file(tmp_path / "adapter_model.safetensors").items()}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    name = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_B"
    stored = weights[f"{name}.weight"]
    loaded = lambda: PeftModel.from_pretrained(bert(), tmp_path).state_dict()[f"{name}.default.weight"]
    assert torch.equal(loaded(), stored) and "PEFT loads none" not in said(tmp_path, capsys)
    save_file({rename(key): value for key, value in weights.items()}, tmp_path / "adapter_model.safetensors")
    assert torch.equal(loaded(), stored) == (not dead)
    out = said(tmp_path, capsys)
    assert dead in out and ("PEFT loads none" in out) == bool(dead)


def test_a_pattern_with_groups_is_read_as_peft_reads_it(tmp_path):
    factors = {name: pair(12, 8, 2 if k < 2 else 4) for k, name in enumerate(ATTENTION[:3])}
    for key in (
        r".*layers\.(?:0|1)\.self_attn\.q_proj",
        r"layers\.[01]\.self_attn\.q_proj",
        r"^model\.layers\.(0|1)\..*",
        r"layers\.\d{1,2}\.self_attn\.(?:q|k)_proj",
    ):
        given = {key: 2, r"layers\.2\.self_attn\.q_proj": 4}
        order = given if "{1,2}" not in key else dict(reversed(given.items()))
        path = folder(tmp_path / "a", factors, {"r": 4, "lora_alpha": 8, "rank_pattern": order})
        assert [one.allowed for one in inspect_folder(path)[1]] == [2, 2, 4], key


def test_patterns_are_looked_up_as_peft_tries_them():
    peft = lambda patterns, name: next(
        (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), None
    )
    patterns = {
        "a.b": 1,
        "b": 2,
        r"c\.b": 3,
        "x.y.b": 4,
        r"y\.\w+": 5,
        "q_proj": 6,
        "layers.1.q-proj": 7,
        r"layers\.\d+\.k": 8,
        "z.b|z.c": 9,
    }
    names = (
        "a.b b axb m.axb c.b m.c.b cxb x.y.b xzy.b y.b w.y.c q_proj m.q_proj mq_proj layers.1.q-proj layersx1.q-proj"
    )
    for name in [*names.split(), "layers.12.k", "m.layers.3.k", "z.c", "zz.b", "bz.b", "none"]:
        assert Patterns(patterns, "p").of(name, None) == peft(patterns, name) == pattern(patterns, name, None), name


@pytest.mark.parametrize(
    "key", ["(a+)+", "(a|a)*", "(?:a*)+b", "a**", r"(a)\1", "(?P<x>a)", "a{1,999}", "(?i:a)", "a*" * 600]
)
def test_an_expression_that_could_take_long_is_refused(tmp_path, capsys, key):
    path = folder(tmp_path / "a", {"x": pair(5, 6, 2)}, {"rank_pattern": {key: 2}})
    assert "too involved" in refused(path, capsys)


def test_expressions_on_long_names_end(tmp_path, capsys):
    names = {f"{'a' * 3000}.{k}": pair(5, 6, 2) for k in range(3)}
    path = folder(tmp_path / "a", names, {"rank_pattern": {".*a.*a.*b": 2}})
    assert "could take too long" in refused(path, capsys)


# ---------------------------------------------------------------- other trainers


def kohya(B, A, module="lora_unet_down_blocks_0_attn1_to_q"):
    return {f"{module}.lora_up.weight": B, f"{module}.lora_down.weight": A, f"{module}.alpha": torch.tensor(2.0)}


def old(B, A, middle=".lora"):
    module = "unet.down_blocks.0.attn1.to_q"
    return {f"{module}{middle}.up.weight": B, f"{module}{middle}.down.weight": A}


FORMATS = {
    # how the factors are stored, the scale for r = 4, and what the sentence must say
    "kohya": (kohya, 0.5, "kohya"),
    "kohya of a text encoder": (lambda B, A: kohya(B, A, "lora_te1_text_model_encoder_layers_0_mlp_fc1"), 0.5, "kohya"),
    "kohya of a transformer": (lambda B, A: kohya(B, A, "lora_transformer_blocks_0_to_q"), 0.5, "kohya"),
    "kohya without alpha": (lambda B, A: {k: v for k, v in kohya(B, A).items() if "alpha" not in k}, 1.0, "kohya"),
    "diffusers, old": (old, 1.0, "diffusers, before PEFT"),
    "diffusers, older": (lambda B, A: old(B, A, "_lora"), 1.0, "diffusers, before PEFT"),
    "diffusers, text encoder": (lambda B, A: old(B, A, ".lora_linear_layer"), 1.0, "diffusers, before PEFT"),
    "diffusers, new": (
        lambda B, A: {"transformer.b.to_q.lora_A.weight": A, "transformer.b.to_q.lora_B.weight": B},
        1.0,
        "diffusers",
    ),
    "ComfyUI": (
        lambda B, A: (
            {"diffusion_model.b.q.lora_A.weight": A, "diffusion_model.b.q.lora_B.weight": B}
            | {"diffusion_model.b.q.alpha": torch.tensor(2.0)}
        ),
        0.5,
        "diffusers",
    ),
    "MLX": (lambda B, A: {"model.q.lora_a": A.mT.contiguous(), "model.q.lora_b": B.mT.contiguous()}, 1.0, "MLX"),
    "torchtune": (lambda B, A: {"layers.0.q.lora_a.weight": A, "layers.0.q.lora_b.weight": B}, 1.0, "torchtune"),
    "XLabs": (
        lambda B, A: {
            "double_blocks.0.processor.qkv_lora1.down.weight": A,
            "double_blocks.0.processor.qkv_lora1.up.weight": B,
        },
        1.0,
        "XLabs (Flux)",
    ),
    "NeMo": (
        lambda B, A: {
            "model.decoder.layers.0.self_attention.linear_qkv.adapter.linear_in.weight": A,
            "model.decoder.layers.0.self_attention.linear_qkv.adapter.linear_out.weight": B,
        },
        1.0,
        "NeMo (Megatron)",
    ),
    "loralib": (lambda B, A: {"layers.0.q.lora_A": A, "layers.0.q.lora_B": B}, 1.0, "loralib"),
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["adapters.safetensors", "pytorch_lora_weights.safetensors", "my style.safetensors"])
def test_a_format_of_another_trainer_is_read_and_named(tmp_path, capsys, kind, name):
    B, A = pair(12, 8, 4)
    stored, scale, word = FORMATS[kind]
    save_file(stored(B, A), tmp_path / name)
    (found,) = inspect_folder(tmp_path)[1]
    # float64 all through
    assert found.norm == pytest.approx(scale * float((B @ A).norm()), rel=1e-13)
    assert found.shape == (12, 8) and found.allowed == 4
    out = said(tmp_path, capsys)
    assert f"The format is that of {word}" in out and said(tmp_path / name, capsys) == out
    with pytest.raises(AdapterError, match="not PEFT's"):
        read(tmp_path)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in ("diffusers, new", "ComfyUI")])
def test_a_format_of_another_trainer_under_peft_s_names_is_named(tmp_path, capsys, kind):
    path = folder(tmp_path / "a", {"x": pair(12, 8, 4)}, {"lora_alpha": 8})
    save_file(FORMATS[kind][0](*pair(12, 8, 4)), path / "adapter_model.safetensors")
    assert f"The format is that of {FORMATS[kind][2]}" in said(path, capsys)


@pytest.mark.parametrize(
    "parameters, scale",
    [
        ({"scale": 20.0}, 20.0),
        ({"rank": 4, "alpha": 8, "scale": 10.0}, 20.0),
        ({"rank": 4, "alpha": 8}, 2.0),
        ({}, 1.0),
        (None, 1.0),
    ],
)
def test_the_scale_of_mlx_is_that_of_its_configuration(tmp_path, parameters, scale):
    B, A = pair(12, 8, 4)
    save_file(FORMATS["MLX"][0](B, A), tmp_path / "adapters.safetensors")
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    adapter, (found,) = inspect_folder(tmp_path)
    assert found.scale == scale and any("measured with scale 1" in note for note in adapter.notes) == (scale == 1)


def test_rank_and_alpha_that_diffusers_writes_into_the_header_count(tmp_path):
    stored = FORMATS["diffusers, new"][0](*pair(12, 8, 4))
    said = {"transformer.r": 4, "transformer.lora_alpha": 8}
    for more, scale in (
        ({}, 2.0),
        ({"transformer.alpha_pattern": {"to_q": 12}}, 3.0),
        ({"transformer.use_rslora": True}, 4.0),
        ({"transformer.lora_alpha": "much"}, 1.0),
        ({"transformer.alpha_pattern": 3}, 2.0),
    ):
        text = {"lora_adapter_metadata": json.dumps(said | more)}
        save_file(stored, tmp_path / "pytorch_lora_weights.safetensors", metadata=text)
        assert inspect_folder(tmp_path)[1][0].scale == scale, more
    save_file(stored, tmp_path / "pytorch_lora_weights.safetensors", metadata={"lora_adapter_metadata": "[["})
    assert inspect_folder(tmp_path)[1][0].scale == 1.0


def test_a_convolution_and_magnitudes_of_kohya_are_told_apart(tmp_path, capsys):
    B, A = torch.ones(8, 4, 1, 1), device.normal((4, 3, 3, 3), device.generator(0), "cpu")
    tensors = kohya(B, A) | kohya(*pair(12, 8, 4), module="lora_unet_b") | {"lora_unet_b.dora_scale": torch.ones(12, 1)}
    third = kohya(torch.ones(8, 4, 1, 1), torch.ones(4, 3, 1, 1), "lora_unet_c")
    tensors |= third | {"lora_unet_c.lora_mid.weight": torch.ones(4, 4, 3, 3)}
    tensors |= kohya(*pair(12, 8, 4), module="lora_unet_d") | {"lora_unet_d.alpha": torch.tensor(torch.nan)}
    save_file(tensors, tmp_path / "x.safetensors")
    adapter, found = inspect_folder(tmp_path)
    kinds = {one.name: one.kind for one in found}
    assert kinds["lora_unet_down_blocks_0_attn1_to_q"] == "convolution"
    assert kinds["lora_unet_b"] == "direction part (DoRA)" and len(kinds) == 2
    assert "third factor" in adapter.faults["lora_unet_c"].sentence
    assert "alpha" in adapter.faults["lora_unet_d"].sentence


def test_a_bias_of_an_adapter_is_told_from_other_weights_in_every_format(tmp_path):
    """huggingface/diffusers: the adapters of Flux's Control have such biases, and norms."""
    more = {"transformer.x.to_q.lora_B.bias": torch.ones(12), "transformer.x.norm.weight": torch.ones(12)}
    save_file(FORMATS["diffusers, new"][0](*pair(12, 8, 4)) | more, tmp_path / "pytorch_lora_weights.safetensors")
    skipped = inspect_folder(tmp_path)[0].skipped
    assert [skipped[key] for key in more] == ["bias of an adapter", "not a pair of factors"]


@pytest.mark.parametrize(
    "key, word", [("a.hada_w1_a", "LoHa"), ("a.lokr_w1", "LoKr"), ("a.oft_blocks", "OFT"), ("a.ia3_l", "IA3")]
)
def test_adapters_without_two_factors_are_named(tmp_path, capsys, key, word):
    save_file({key: torch.ones(2, 2)}, tmp_path / "x.safetensors")
    assert word in refused(tmp_path, capsys)


@pytest.mark.parametrize(
    "name, word",
    [
        ("adapters.npz", "MLX's old format"),
        ("lora.gguf", "llama.cpp"),
        ("adapter_0.pt", "a pickle file"),
        ("pytorch_model.bin", "a pickle file"),
        ("global_step12", "zero_to_fp32.py"),
        ("__0_0.distcp", "distributed checkpoint"),
        ("model.safetensors", "the weights of a whole model"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, capsys, name, word):
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "optimizer.pt").write_bytes(b"x")
    (tmp_path / "training_args.bin").write_bytes(b"x")
    assert word in refused(tmp_path, capsys)


def test_factors_among_all_weights_are_found(tmp_path, capsys):
    model = get_peft_model(bert(), LoraConfig(r=2, target_modules=["query"], init_lora_weights=False))
    model.peft_config["default"].save_pretrained(tmp_path)
    save_file(model.state_dict(), tmp_path / "model.safetensors")  # as a training loop saves all that it has
    assert len(inspect_folder(tmp_path)[1]) == 2
    assert "The factors are in model.safetensors among all weights" in said(tmp_path, capsys)


def test_a_pointer_in_place_of_the_weights_is_named(tmp_path, capsys):
    path = plain(tmp_path / "a")
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    (path / "adapter_model.safetensors").write_text(text)
    assert "is a pointer of Git LFS, not the file itself: run git lfs pull." in refused(path, capsys)


def test_several_files_without_a_name_of_their_own_are_listed(tmp_path, capsys):
    for name in "ab":
        save_file(kohya(*pair(12, 8, 4)), tmp_path / f"{name}.safetensors")
    assert "holds 2 safetensors files (a.safetensors, b.safetensors)" in refused(tmp_path, capsys)
    assert "kohya" in said(tmp_path / "a.safetensors", capsys)


# ---------------------------------------------------------------- parts


def parts(path, count=3, index=True):
    """An adapter in ``count`` parts, with a module in each."""
    whole = plain(path, ATTENTION[:count])
    weights = load_file(whole / "adapter_model.safetensors")
    (whole / "adapter_model.safetensors").unlink()
    place = {}
    for k in range(count):
        name = f"adapter_model-{k + 1:05}-of-{count:05}.safetensors"
        mine = {key: value for key, value in weights.items() if ATTENTION[k] in key}
        save_file(mine, whole / name)
        place |= dict.fromkeys(mine, name)
    if index:
        (whole / "adapter_model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))
    return whole


@pytest.mark.parametrize("index", [True, False])
def test_an_adapter_in_parts_is_read_and_a_missing_part_named(tmp_path, capsys, index):
    path = parts(tmp_path / "a", index=index)
    assert [one.name for one in inspect_folder(path)[1]] == ATTENTION[:3]
    assert "The adapter is in 3 parts; PEFT loads it only from one" in said(path, capsys)
    with pytest.raises(AdapterError, match="not in one adapter_model.safetensors"):
        read(path)
    (path / "adapter_model-00002-of-00003.safetensors").unlink()
    out = said(path, capsys)
    assert "1 of 3 parts missing (adapter_model-00002-of-00003.safetensors)" in out and "with 2 modules" in out


def test_an_index_whose_parts_are_all_gone_or_elsewhere_is_refused(tmp_path, capsys):
    path = parts(tmp_path / "a")
    for part in path.glob("*.safetensors"):
        part.unlink()
    assert "has none of the 3 parts" in refused(path, capsys)
    index = path / "adapter_model.safetensors.index.json"
    for text, sentence in (
        ('{"weight_map": {"a": "../x.safetensors"}}', "which is no file of its own folder"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "which is no file of its own folder"),
        ('{"weight_map": {"a": 3}}', "does not say which file"),
        ('{"weight_map": []}', "does not say which file"),
        ("{", "is not valid JSON"),
    ):
        index.write_text(text)
        assert sentence in refused(path, capsys)


def test_a_part_that_is_cut_off_is_refused(tmp_path, capsys):
    path = parts(tmp_path / "a")
    part = path / "adapter_model-00002-of-00003.safetensors"
    part.write_bytes(part.read_bytes()[:-7])
    assert "adapter_model-00002-of-00003.safetensors is not a whole safetensors file" in refused(path, capsys)


# ---------------------------------------------------------------- work


def test_a_file_is_opened_a_number_of_times_that_does_not_grow_with_the_modules(tmp_path, monkeypatch):
    from lorabook.adapters import folder as room

    times = []
    real = room.opened
    monkeypatch.setattr(room, "opened", lambda path: times.append(path) or real(path))
    counts = {}
    for number in (10, 200):
        path = folder(tmp_path / f"{number}", {f"layers.{k}.x": pair(4, 4, 2) for k in range(number)})
        times.clear()
        assert len(inspect_folder(path)[1]) == number
        counts[number] = len(times)
    assert counts[10] == counts[200] <= 3


def test_a_claim_of_many_entries_leaves_the_module_out(tmp_path, capsys):
    """A file with holes, whose header claims more than fits into memory."""
    good = pair(4, 4, 2)
    entries, body, end = {}, b"", 0
    for key, value in (("g.lora_A", good[1]), ("g.lora_B", good[0])):
        body += value.float().numpy().tobytes()
        shape = list(value.shape)
        entries[f"base_model.model.{key}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, len(body)]}
        end = len(body)
    for key, shape in (("x.lora_A", [2, 2**28]), ("x.lora_B", [4, 2])):
        size = 2 * math.prod(shape)
        entries[f"base_model.model.{key}.weight"] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries).encode()
    path = folder(tmp_path / "a", {"g": good})
    with (path / "adapter_model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text + body)
        stream.truncate(8 + len(text) + end)
    out = said(path, capsys)
    assert "with 1 module:" in out and "not measured, too large (1): x" in out


ENDS = (
    "lora_A.weight lora_A.weight lora_A.weight lora_embedding_A lora_a lora_down.weight alpha lora_magnitude_vector "
    "lora_B.bias weight lora_mid.weight lora_A"
).split()
SHAPES = [(), (0,), (3,), (2, 4), (4, 2), (6, 4), (2, 0), (2, 3, 3, 3), (4, 2, 1, 1), (3, 2, 4), (3, 4, 2), (2, 4, 1)]
TYPES = [torch.float32] * 6 + [torch.float16, torch.float64, torch.int8, torch.bool, torch.float8_e4m3fn]
VALUES = [
    None,
    0,
    -1,
    2,
    8,
    2.5,
    math.nan,
    math.inf,
    10**400,
    "2",
    [],
    {},
    {"a": 2},
    {"(a": 1},
    {".*x": 2},
    True,
    ["w"],
]
CONFIG_KEYS = (
    "r lora_alpha rank_pattern alpha_pattern use_rslora use_dora target_parameters init_lora_weights peft_type"
)


@pytest.mark.parametrize("seed", range(4))
def test_folders_by_chance_are_read_or_refused_in_one_sentence(tmp_path, capsys, seed):
    source, read_at_all = random.Random(seed), 0
    for number in range(40):
        path = tmp_path / f"{number}"
        path.mkdir()
        tensors = {}
        for _ in range(source.randint(1, 6)):
            begin = source.choice(["base_model.model.", "", "_orig_mod.", "base_model.", "lora_unet_"])
            name = begin + source.choice(["layers.0.q", "mlp.experts", "experts.base_layer", "x", "a\x1b[2Jb", "é"])
            end = source.choice(ENDS)
            for half, usual in (
                (end, (2, 4)),
                (end.replace("A", "B").replace("_a", "_b").replace("down", "up"), (4, 2)),
            ):
                shape = usual if source.random() < 0.9 else source.choice(SHAPES)
                value = torch.full(shape, source.choice([0.5, 1.0, 0.0, math.nan, 1e30]))
                tensors[f"{name}.{half}"] = value.to(source.choice(TYPES))
        weights = path / source.choice(["adapter_model"] * 4 + ["x", "model", "adapter_model-00001-of-00002"])
        weights = weights.with_suffix(".safetensors")
        save_file(tensors, weights)
        if source.random() < 0.1:
            whole = weights.read_bytes()
            place = source.randrange(len(whole))
            weights.write_bytes(whole[:place] + bytes([source.randrange(256)]) + whole[place + 1 :])
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
        for key in source.sample(CONFIG_KEYS.split(), source.choice([0, 0, 0, 1, 2])):
            config[key] = source.choice(VALUES)
        if source.random() < 0.9:
            (path / "adapter_config.json").write_text(json.dumps(config))
        before, code = files(path), run(path)
        out, err = capsys.readouterr()
        assert files(path) == before and code in (0, 1), (number, err)
        if code:
            assert not out and err.count("\n") == 1 and err.endswith(".\n") and "\x1b" not in err, (number, err)
        else:
            assert "\x1b" not in out and max(map(len, out.splitlines())) <= 100, (number, out)
        read_at_all += code == 0
    assert 5 < read_at_all < 35  # both happen
