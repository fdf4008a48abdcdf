"""Layers that ``layer_replication`` repeats: their weights are the base's own, each shared by all of its copies."""

import json

import pytest
import torch
from adapter_folders import adapted, run
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import BertConfig, BertForMaskedLM, FalconConfig, FalconModel, LlamaConfig, LlamaForCausalLM

from lorabook.adapters import inspect_folder
from lorabook.adapters.against_base import against_base
from lorabook.adapters.base_weights import BaseWeights
from lorabook.adapters.fits import misfits
from lorabook.adapters.replicated import original

pytestmark = pytest.mark.filterwarnings("ignore")
SIZES = {"vocab_size": 10, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2}


def llama():
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2, attention_bias=True))


def bert():
    return BertForMaskedLM(BertConfig(**SIZES))


def falcon():
    return FalconModel(FalconConfig(**SIZES, num_kv_heads=2))


def seeded(make):
    torch.manual_seed(0)
    return make().eval()


@torch.no_grad()
@pytest.mark.parametrize(
    "make, target", [(llama, "v_proj"), (bert, "value"), (falcon, "query_key_value"), (llama, "lm_head")]
)
@pytest.mark.parametrize("ranges", [[[0, 2], [1, 3]], [[0, 3], [0, 3]], [[0, 1], [1, 2], [2, 3]], [[2, 3], [0, 1]]])
def test_copies_stand_beside_the_layer_that_they_are_and_are_not_to_be_merged(tmp_path, capsys, make, target, ranges):
    seeded(make).save_pretrained(tmp_path / "b")
    made = adapted(seeded(make), size=1.0, target_modules=[target], task_type=None, layer_replication=ranges)
    made.save_pretrained(tmp_path / "a")
    adapter, _ = inspect_folder(tmp_path / "a")
    (found,) = against_base([adapter], tmp_path / "b")
    layers = {name: one for name, one in made.named_modules() if isinstance(one, LoraLayer)}
    weights = [id(one.get_base_layer().weight) for one in layers.values()]
    for name, layer in layers.items():
        one, W0 = found[name.removeprefix("base_model.model.")], layer.get_base_layer().weight
        # PEFT forms the product in float32
        assert one.ratio == pytest.approx(float(layer.get_delta_weight("default").norm() / W0.norm()), rel=1e-5)
        assert one.copies == weights.count(id(W0)) and (one.lost is None) == (one.copies > 1)
    given = {"input_ids": torch.arange(6)[None]}
    used = made(**given)[0]
    # float32
    same = torch.allclose(used, made.merge_and_unload()(**given)[0], rtol=1e-3, atol=1e-4)
    assert same == (len(set(weights)) == len(weights))
    assert run(tmp_path / "a", "--model", tmp_path / "b", "--top", 0) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "no base weight" not in said and "base's files name" not in said
    assert ("copies share the base's weights" in said) == (not same)


@torch.no_grad()
def test_one_copy_alone_changes_the_others_in_a_merge(tmp_path):
    options = {"target_modules": ["v_proj"], "task_type": "CAUSAL_LM", "layer_replication": [[0, 3], [0, 3]]}
    made = adapted(seeded(llama), size=1.0, layers_to_transform=[3], **options)
    made.save_pretrained(tmp_path / "a")
    seeded(llama).save_pretrained(tmp_path / "b")
    model = PeftModel.from_pretrained(seeded(llama), tmp_path / "a").eval()
    used, merged = model(torch.arange(6)[None]).logits, model.merge_and_unload()
    first, copy = (merged.model.layers[k].self_attn.v_proj.weight for k in (0, 3))
    assert torch.equal(first, copy) and not torch.equal(first, seeded(llama).model.layers[0].self_attn.v_proj.weight)
    assert not torch.allclose(used, merged(torch.arange(6)[None]).logits, atol=1e-3)
    said = misfits(inspect_folder(tmp_path / "a")[0], BaseWeights(tmp_path / "b"))
    assert "(model.layers.3.self_attn.v_proj): a merge puts the updates of all copies into one weight" in " ".join(said)


def test_a_copy_is_asked_for_its_bias_under_the_name_of_its_layer(tmp_path):
    options = {"target_modules": ["q_proj", "o_proj"], "task_type": "CAUSAL_LM", "layer_replication": [[0, 3], [1, 3]]}
    bare = lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2))
    for biased, make in ((True, llama), (False, bare)):
        path = tmp_path / str(biased)
        seeded(make).save_pretrained(path / "b")
        adapted(seeded(make), lora_bias=True, **options).save_pretrained(path / "a")
        said = " ".join(misfits(inspect_folder(path / "a")[0], BaseWeights(path / "b")))
        assert ("the base has none in 10 modules" in said) == (not biased)


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("model.layers.0.mlp", ("model.layers.0.mlp", 1)),
        ("model.layers.2.mlp.experts.1.up", ("model.layers.1.mlp.experts.1.up", 2)),
        ("h.3.mlp", ("h.2.mlp", 1)),
        ("bert.encoder.layer.1.output", ("bert.encoder.layer.1.output", 2)),
        ("model.layers.4.mlp", ("model.layers.4.mlp", 1)),
        ("lm_head", ("lm_head", 1)),
        ("heads.1.x", ("heads.1.x", 1)),
    ],
)
def test_names_of_layers_alone_are_those_of_copies(name, wanted):
    assert original(name, {"layer_replication": [[0, 2], [1, 3]]}) == wanted
    assert original(name, {}) == original(name, json.loads('{"layer_replication": null}')) == (name, 1)
