"""What PEFT does with an adapter's files where that is not what one would think: each sentence beside a run of PEFT."""

import json
import warnings

import pytest
import torch
from adapter_folders import Attention, Picture, Tokens, Two, folder, moved, noise, pair, run
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lorabook.__main__ import main
from lorabook.adapters import AdapterError, inspect_folder, truncate_folder
from lorabook.adapters.folder import read
from lorabook.adapters.peft_config import CONFIG
from lorabook.adapters.report import as_text

WEIGHTS = "adapter_model.safetensors"


def notes(path):
    return " ".join(inspect_folder(path)[0].notes)


# ---------------------------------------------------------------- attention


@torch.no_grad()
def test_the_second_projection_of_an_attention_counts_twice_in_use_and_in_a_merge(tmp_path):
    model, given = moved(Attention(), target_modules=["attn"]), noise(2, 5, 8)
    model.save_pretrained(tmp_path)
    state = get_peft_model_state_dict(model)
    once, twice = (Attention().added(state, times)(given) for times in (1, 2))
    used, merged = model(given), model.merge_and_unload()(given)
    for out in (used, merged):
        # float32
        torch.testing.assert_close(out, twice, rtol=1e-4, atol=1e-4)
        assert float((out - once).abs().max()) > 0.1
    assert "out_proj twice, in use and in a merge, so that the model has 2 X there: attn.base_layer.out_proj" in notes(
        tmp_path
    )


@torch.no_grad()
def test_a_projection_beside_an_adapted_attention_is_not_used(tmp_path):
    model, given = moved(Attention(), target_modules=["attn", "out_proj"]), noise(2, 5, 8)
    model.save_pretrained(tmp_path)
    before = model(given)
    dict(model.named_parameters())["base_model.model.attn.out_proj.lora_B.default.weight"].add_(1)
    assert torch.equal(model(given), before)
    assert "PEFT does not use the update of attn.out_proj" in notes(tmp_path)


def test_rank_and_alpha_of_both_projections_are_those_of_the_attention(tmp_path):
    patterns = {"rank_pattern": {"attn": 3, "out_proj": 5}, "alpha_pattern": {"attn": 9}}
    model = moved(Attention(), target_modules=["attn", "linear"], **patterns)
    model.save_pretrained(tmp_path)
    layers = {name: layer for name, layer in model.named_modules() if "default" in getattr(layer, "scaling", {})}
    found = inspect_folder(tmp_path)[1]
    assert len(found) == 3
    for one in found:
        layer = layers[f"base_model.model.{one.name}"]
        assert (one.allowed, one.scale) == (layer.r["default"], layer.scaling["default"])


# ---------------------------------------------------------------- convolutions


@pytest.mark.parametrize("groups, size", [(2, 3), (4, 3), (2, 1)])
@torch.no_grad()
def test_a_convolution_in_groups_is_measured_as_it_is_used(tmp_path, groups, size):
    """tiiuae/Falcon-H1 13: such adapters are trained, and a merge fails."""
    model = moved(Picture(groups, size), target_modules=["conv", "linear"], r=4)
    model.save_pretrained(tmp_path)
    layer, given = model.base_model.model.conv, noise(2, 4, 5, 5)
    X = (layer(torch.eye(4 * size * size).view(-1, 4, size, size)) - layer.base_layer.bias.view(1, -1, 1, 1)).flatten(1)
    X = X.mT - layer.base_layer(torch.eye(4 * size * size).view(-1, 4, size, size)).flatten(1).mT
    X = X + layer.base_layer.bias[:, None]
    # X is a convolution of all channels
    out = layer(given) - layer.base_layer(given)
    torch.testing.assert_close(out, nn.functional.conv2d(given, X.view(8, 4, size, size)), rtol=1e-4, atol=1e-4)
    one = {one.name: one for one in inspect_folder(tmp_path)[1]}["conv"]
    assert one.shape == (8, 4 * size * size) and one.kind == "convolution"
    # float32
    assert one.norm == pytest.approx(float(X.norm()), rel=1e-5)
    with pytest.raises(NotImplementedError, match="groups > 1"):
        model.merge_and_unload()
    assert f"conv is taken for a convolution in {groups} groups" in notes(tmp_path)
    with pytest.raises(AdapterError, match="is in groups"):
        read(tmp_path)


@pytest.mark.parametrize(
    "layer, fails",
    [
        (nn.Conv3d(3, 4, 1), True),
        (nn.Conv3d(3, 4, (1, 1, 2)), True),
        (nn.Conv3d(3, 4, (1, 2, 1)), False),
        (nn.Conv2d(3, 4, 1), False),
        (nn.Conv1d(3, 4, 1), False),
    ],
)
def test_a_merge_fails_on_a_pointwise_convolution_in_three_dimensions(tmp_path, layer, fails):
    """huggingface/peft 3768."""
    model = moved(nn.Sequential(layer), target_modules=["0"])
    model.save_pretrained(tmp_path)
    assert ("PEFT up to 0.21.2 fails to merge a Conv3d" in notes(tmp_path)) == fails
    if fails:
        with pytest.raises(RuntimeError):
            model.merge_and_unload()
    else:
        model.merge_and_unload()


# ---------------------------------------------------------------- biases, tokens, whole tensors


@pytest.mark.parametrize("safe", [False, True])
def test_a_bias_that_the_base_lacks_stops_a_merge_half_way_and_every_command_says_so(tmp_path, capsys, safe):
    model = moved(Two(), target_modules=["a", "b"], lora_bias=True)
    model.save_pretrained(tmp_path / "a")
    before = Two().a.weight
    with pytest.raises(RuntimeError, match="because the base layer has no bias"):
        model.merge_and_unload(safe_merge=safe)
    assert not torch.equal(model.base_model.model.a.weight, before)
    path = str(tmp_path / "a")
    for command in (["inspect", path], ["truncate", path, "--rank", "1"], ["compare", path, path]):
        assert main(command) == 0
        assert "2 modules have biases of their own (lora_bias)" in " ".join(capsys.readouterr().out.split())


def test_rows_and_indices_of_tokens_that_differ_are_said_and_peft_loads_none(tmp_path):
    model = moved(Tokens(), target_modules=["linear"], trainable_token_indices={"emb": [1, 7]})
    model.save_pretrained(tmp_path)
    assert "trainable" not in notes(tmp_path) and "rows of emb" not in notes(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    for rows, word in (([1], "2 rows of emb are stored, but adapter_config.json names 1"), ([1, -1], "has -1 for emb")):
        (tmp_path / CONFIG).write_text(json.dumps(config | {"trainable_token_indices": {"emb": rows}}))
        assert word in notes(tmp_path)
        with pytest.raises((RuntimeError, IndexError)):
            PeftModel.from_pretrained(Tokens(), tmp_path)(torch.tensor([1]))


def test_what_is_saved_whole_has_its_size(tmp_path):
    made = folder(
        tmp_path / "a", {"q": pair(50, 50, 5)}, more={"base_model.model.head.weight": torch.ones(30, 100).half()}
    )
    assert "1 tensor is saved whole, 0.006 MB beside 0.002 MB of factors." in notes(made)


def test_a_task_with_a_head_that_is_not_saved_is_said_and_peft_takes_any_head(tmp_path):
    """huggingface/peft 577 and 876: no part of the model has one of the names that PEFT looks for."""
    moved(Two(), target_modules=["a"], task_type="SEQ_CLS").save_pretrained(tmp_path)
    assert not any(key.endswith(".b.weight") for key in load_file(tmp_path / WEIGHTS))
    assert "The task is SEQ_CLS, but no head is saved" in notes(tmp_path)
    moved(Two(), target_modules=["a"], task_type="SEQ_CLS", modules_to_save=["b"]).save_pretrained(tmp_path)
    assert "no head is saved" not in notes(tmp_path)


# ---------------------------------------------------------------- names


def test_keys_of_patterns_that_count_for_no_module_are_named_and_peft_warns_of_those_without_a_name(tmp_path):
    ranks = {"zz": 3, "a": 1, "b": 2, "x.a": 4, "a|q": 3}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moved(Two(), target_modules=["a", "b"], rank_pattern=ranks, alpha_pattern={"nope": 3}).save_pretrained(tmp_path)
    told = " ".join(str(one.message) for one in caught)
    assert "ignored: ['x.a', 'zz']" in told and "ignored: ['nope']" in told
    assert "3 of 5 keys of rank_pattern count for no module here (a|q, x.a, zz)" in notes(tmp_path)
    assert "1 of 1 keys of alpha_pattern count for no module here (nope)" in notes(tmp_path)


def test_keys_of_a_pattern_that_are_sorted_on_saving_can_change_the_scale(tmp_path):
    trained = moved(
        nn.Sequential(Two()), target_modules=["0.b", "0.a"], alpha_pattern={"0.b": 8, "a": 6, "0.a": 4, "b": 2}
    )
    trained.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(nn.Sequential(Two()), tmp_path)
    scales = [
        [getattr(model.base_model.model[0], name).scaling["default"] for name in "ab"] for model in (trained, loaded)
    ]
    assert scales == [[3, 4], [2, 4]]
    assert [one.scale for one in inspect_folder(tmp_path)[1]] == scales[1]
    assert "Several keys of alpha_pattern fit 0.a, 0.b. PEFT takes the first, and sorts them" in notes(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_keys_of_a_model_that_was_adapted_twice_are_said_to_be_dead_and_peft_loads_none(tmp_path):
    model = moved(get_peft_model(Two(), LoraConfig(r=2, target_modules=["a"])), target_modules=["b"])
    model.save_pretrained(tmp_path)
    given, again = noise(3, 4), PeftModel.from_pretrained(Two(), tmp_path)
    assert torch.equal(again(given), Two()(given))
    assert [one.name for one in inspect_folder(tmp_path)[1]] == ["a", "b"]
    assert "4 of 4 keys have base_model.model. twice" in notes(tmp_path)
    with pytest.raises(AdapterError, match="twice"):
        truncate_folder(tmp_path, rank=1)


def test_factors_among_all_weights_under_another_prefix_are_found(tmp_path, capsys):
    """huggingface/sentence-transformers 3402."""
    model = moved(Two(), target_modules=["a"])
    model.peft_config["default"].save_pretrained(tmp_path)
    save_file(
        {f"0.auto_model.{key}": value for key, value in model.state_dict().items()}, tmp_path / "model.safetensors"
    )
    adapter, found = inspect_folder(tmp_path)
    layer = model.base_model.model.a
    # float32
    assert [one.name for one in found] == ["a"]
    assert found[0].norm == pytest.approx(float(layer.get_delta_weight("default").norm()), rel=1e-5)
    assert set(adapter.skipped.values()) == {"the base model's own, stored along"}
    assert "2 of 5 keys do not begin with base_model.model." in notes(tmp_path) and "saved whole" not in notes(tmp_path)
    (tmp_path / CONFIG).unlink()
    assert run(tmp_path) == 1
    assert "write one for the factors in model.safetensors" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("whole", [True, False])
def test_keys_of_a_compiled_part_are_loaded_where_it_is_compiled_again(tmp_path, whole):
    def make(compiled):
        inner = torch.compile(Two(), backend="eager") if compiled else Two()
        torch.manual_seed(1)
        return inner if whole else nn.Sequential(inner, nn.Linear(4, 4))

    model, given = moved(make(True), target_modules=["a"]), noise(2, 4)
    model.save_pretrained(tmp_path)
    assert "2 of 2 keys carry _orig_mod inside" in notes(tmp_path) and "adapter is dead" not in notes(tmp_path)
    used, same, plain = (
        PeftModel.from_pretrained(make(compiled), tmp_path)(given) if compiled is not None else model(given)
        for compiled in (None, True, False)
    )
    assert torch.equal(used, same) and torch.equal(plain, make(False)(given)) and not torch.equal(used, plain)
    with pytest.raises(AdapterError, match="compiled in the same place"):
        read(tmp_path)
    # in front of PEFT's own prefix it leads nowhere
    weights = {f"_orig_mod.{key}": value for key, value in load_file(tmp_path / WEIGHTS).items()}
    save_file(weights, tmp_path / WEIGHTS)
    assert torch.equal(PeftModel.from_pretrained(make(True), tmp_path)(given), make(True)(given))
    assert "so the adapter is dead there" in notes(tmp_path)


# ---------------------------------------------------------------- when it acts


def llama(**options):
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False}
    return LlamaForCausalLM(LlamaConfig(**sizes | heads | options)).eval()


@torch.no_grad()
def test_an_activated_adapter_acts_from_the_invocation_on(tmp_path):
    options = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", "alora_invocation_tokens": [3, 4]}
    model, ids = moved(llama(), **options), torch.arange(6)[None]
    model.save_pretrained(tmp_path / "a")
    apart = (model(ids).logits - llama()(ids).logits).abs().amax(-1)[0]
    assert not apart[:3].any() and apart[3:].all()
    with pytest.raises(NotImplementedError):
        model.merge_and_unload()
    assert "aLoRA: X acts on the tokens from the invocation on" in notes(tmp_path / "a")
    with pytest.raises(AdapterError, match="alora_invocation_tokens"):
        read(tmp_path / "a")
    truncate_folder(tmp_path / "a", tmp_path / "b", rank=1)
    assert PeftModel.from_pretrained(llama(), tmp_path / "b").peft_config["default"].r == 1


@torch.no_grad()
def test_a_merged_model_beside_its_adapter_counts_the_update_twice(tmp_path):
    """huggingface/peft 1381."""
    model, ids = moved(llama(), target_modules=["v_proj"], task_type="CAUSAL_LM"), torch.arange(6)[None]
    model.save_pretrained(tmp_path)
    assert "A whole model" not in notes(tmp_path)
    twice = llama()
    X = model.base_model.model.model.layers[0].self_attn.v_proj.get_delta_weight("default")
    twice.model.layers[0].self_attn.v_proj.weight += 2 * X
    once = model(ids).logits
    model.merge_and_unload().save_pretrained(tmp_path)
    found = AutoModelForCausalLM.from_pretrained(tmp_path).eval()(ids).logits
    # float32
    torch.testing.assert_close(found, twice(ids).logits, rtol=1e-4, atol=1e-5)
    assert float((found - once).abs().max()) > 1e-3
    assert "X counts twice if it was merged before" in as_text(*inspect_folder(tmp_path)).replace("\n ", "")


def test_keys_that_peft_does_not_load_are_warned_of_by_one_way_of_loading_alone(tmp_path):
    model = moved(Two(), target_modules=["a"])
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    for rename in (lambda key: f"_orig_mod.{key}", lambda key: key[6:], lambda key: f"base_model.model.{key}"):
        save_file({rename(key): value for key, value in weights.items()}, tmp_path / WEIGHTS)
        with pytest.warns(UserWarning, match="missing adapter keys"):
            PeftModel.from_pretrained(Two(), tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.load_adapter(tmp_path, "default", is_trainable=True)  # what Trainer does
        assert "PeftModel.from_pretrained warns of missing keys, a Trainer that resumes does not" in notes(tmp_path)
