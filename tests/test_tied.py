"""An adapted layer whose weight another layer has too: what PEFT's merge does to both, and what is said of it."""

import json

import pytest
import torch
from adapter_folders import adapted, run
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from lorabook.adapters import inspect_folder
from lorabook.adapters.against_base import AgainstBase, against_base
from lorabook.adapters.base_weights import BaseWeights
from lorabook.adapters.fits import misfits

pytestmark = pytest.mark.filterwarnings("ignore")
BOTH = "shares its weight with the output layer: a merge changes both"
WORDS = 13


def llama(kind=LlamaForCausalLM, **options):
    torch.manual_seed(0)
    sizes = {"vocab_size": WORDS, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
    return kind(LlamaConfig(**sizes | heads | options)).eval()


def gpt2(**options):
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_embd=8, n_layer=1, n_head=2, n_positions=9, **options)).eval()


def masked(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForMaskedLM(BertConfig(vocab_size=WORDS, **sizes, **options)).eval()


def t5():
    torch.manual_seed(0)
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=WORDS, **sizes)).eval()


def told(path, model):
    return " ".join(misfits(inspect_folder(path)[0], BaseWeights(model)))


@torch.no_grad()
def out(model):
    ids = {"input_ids": torch.arange(1, 7)[None]}
    return model(**ids, **({"decoder_input_ids": ids["input_ids"]} if model.config.is_encoder_decoder else {})).logits


def saved(tmp_path, model, **options):
    """A base and an adapter of it in their folders, with the outputs of the adapter in use and after a merge."""
    embeddings = options.pop("save_embedding_layers", False)
    model.save_pretrained(tmp_path / "b")
    made = adapted(model, size=1.0, **{"task_type": "CAUSAL_LM"} | options)
    made.save_pretrained(tmp_path / "a", save_embedding_layers=embeddings)
    used = out(made)
    return used, out(made.merge_and_unload())


@pytest.mark.parametrize(
    "make, options, tied",
    [
        (lambda: llama(tie_word_embeddings=True), {"target_modules": ["embed_tokens", "q_proj"]}, True),
        (lambda: llama(tie_word_embeddings=True), {"target_modules": ["embed_tokens"], "task_type": None}, True),
        (lambda: llama(tie_word_embeddings=False), {"target_modules": ["embed_tokens", "q_proj"]}, False),
        (
            lambda: llama(LlamaForSequenceClassification, tie_word_embeddings=True),
            {"target_modules": ["embed_tokens"], "task_type": "SEQ_CLS"},
            False,
        ),
        (gpt2, {"target_modules": ["wte", "c_attn"], "fan_in_fan_out": True}, True),
        (gpt2, {"target_modules": ["wpe", "c_attn"], "fan_in_fan_out": True}, False),
        (lambda: gpt2(tie_word_embeddings=False), {"target_modules": ["wte"]}, False),
        (masked, {"target_modules": ["word_embeddings", "query"], "task_type": None}, True),
        (lambda: masked(tie_word_embeddings=False), {"target_modules": ["word_embeddings"], "task_type": None}, False),
    ],
)
def test_a_merge_into_an_embedding_changes_the_output_layer_that_shares_its_weight(tmp_path, make, options, tied):
    """huggingface/peft 2018, from the embedding's side."""
    used, merged = saved(tmp_path, make(), **options)
    # float32
    assert torch.allclose(used, merged, rtol=1e-3, atol=1e-4) == (not tied)
    assert (BOTH in told(tmp_path / "a", tmp_path / "b")) == tied
    config = tmp_path / "b" / "config.json"
    said = json.loads(config.read_text())
    # a folder from before the key was written has the default of its family
    config.write_text(json.dumps({key: one for key, one in said.items() if key != "tie_word_embeddings"}))
    if said["model_type"] != "llama":
        assert (BOTH in told(tmp_path / "a", tmp_path / "b")) == tied
    config.unlink()
    assert (BOTH in told(tmp_path / "a", tmp_path / "b")) == tied


def test_two_layers_that_are_untied_before_a_merge_keep_their_outputs(tmp_path):
    model = llama(tie_word_embeddings=True)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    used, merged = saved(tmp_path, model, target_modules=["embed_tokens"])
    # float32
    assert torch.allclose(used, merged, rtol=1e-3, atol=1e-4) and not told(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    "options, alone",
    [
        ({"target_modules": ["embed_tokens"], "modules_to_save": ["lm_head"]}, True),
        ({"target_modules": ["lm_head"], "modules_to_save": ["embed_tokens"]}, True),
        ({"target_modules": ["embed_tokens"], "save_embedding_layers": True}, False),
        ({"target_modules": ["lm_head"], "save_embedding_layers": True}, False),
    ],
)
def test_a_layer_that_is_saved_whole_has_a_weight_of_its_own(tmp_path, options, alone):
    """Not so one whose base weight is stored along, as PEFT does with the embeddings that it adapts."""
    used, merged = saved(tmp_path, llama(tie_word_embeddings=True), **options)
    # float32
    assert torch.allclose(used, merged, rtol=1e-3, atol=1e-4) == alone
    assert ("a merge changes both" in told(tmp_path / "a", tmp_path / "b")) == (not alone)


@torch.no_grad()
def test_dora_on_both_layers_makes_one_change_after_the_other(tmp_path):
    options = {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True}
    saved(tmp_path, llama(tie_word_embeddings=True), **options)
    assert "a merge makes both changes to it, one after the other" in told(tmp_path / "a", tmp_path / "b")
    model = PeftModel.from_pretrained(llama(tie_word_embeddings=True), tmp_path / "a")
    W = llama(tie_word_embeddings=True).lm_head.weight
    for layer, dim in ((model.base_model.model.model.embed_tokens, 0), (model.base_model.model.lm_head, 1)):
        W = W + layer.get_delta_weight("default")
        m = layer.lora_magnitude_vector["default"].weight
        W = W * (m / W.norm(dim=dim)).unsqueeze(dim)
    # float32
    torch.testing.assert_close(model.merge_and_unload().lm_head.weight, W, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("same", [True, False])
def test_an_output_layer_that_is_stored_too_is_tied_where_it_is_equal(tmp_path, same):
    saved(tmp_path, llama(tie_word_embeddings=True), target_modules=["embed_tokens"])
    file = tmp_path / "b" / "model.safetensors"
    weights = load_file(file)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + (not same)
    save_file(weights, file, metadata={"format": "pt"})
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "b"), tmp_path / "a").eval()
    used = out(model)
    # float32
    assert torch.allclose(used, out(model.merge_and_unload()), rtol=1e-3, atol=1e-4) == (not same)
    assert (BOTH in told(tmp_path / "a", tmp_path / "b")) == same


def test_the_embeddings_of_an_encoder_and_a_decoder_and_the_output_layer_have_one_weight(tmp_path):
    options = {"target_modules": ["embed_tokens"], "task_type": "SEQ_2_SEQ_LM"}
    used, merged = saved(tmp_path, t5(), **options)
    assert float((used - merged).norm() / used.norm()) > 0.1
    said = told(tmp_path / "a", tmp_path / "b")
    assert "decoder.embed_tokens, encoder.embed_tokens share one weight (shared.weight), which is that of" in said
    assert "in use" not in said
    adapter, measured = inspect_folder(tmp_path / "a")
    (found,) = against_base([adapter], tmp_path / "b")
    W = load_file(tmp_path / "b" / "model.safetensors")["shared.weight"].double()
    for one in measured:
        # the stored numbers, in float64
        assert found[one.name].ratio == pytest.approx(one.norm / float(W.norm()), rel=1e-12)


def test_the_embedding_that_an_encoder_and_a_decoder_share_is_adapted_in_vain_and_merged(tmp_path):
    plain = out(t5())
    used, merged = saved(tmp_path, t5(), target_modules=["shared"], task_type="SEQ_2_SEQ_LM")
    # float32
    assert torch.allclose(used, plain, rtol=1e-4, atol=1e-4) and float((merged - used).norm() / used.norm()) > 0.1
    said = told(tmp_path / "a", tmp_path / "b")
    assert "PEFT's update there is not in use and gets no gradient, though a merge adds it to shared.weight" in said
    model = PeftModel.from_pretrained(t5(), tmp_path / "a", is_trainable=True)
    ids = torch.arange(1, 4)[None]
    assert not model(input_ids=ids, decoder_input_ids=ids).logits.requires_grad


@pytest.mark.parametrize("targets", [["lm_head", "q_proj"], ["embed_tokens", "lm_head", "q_proj"], ["embed_tokens"]])
@pytest.mark.parametrize("tied", [True, False])
def test_an_enlarged_vocabulary_needs_a_base_of_its_size(tmp_path, capsys, targets, tied):
    """huggingface/peft 1300, with factors in place of whole tensors."""
    llama(tie_word_embeddings=tied).save_pretrained(tmp_path / "b")
    model = llama(tie_word_embeddings=tied)
    model.resize_token_embeddings(WORDS + 3)
    made = adapted(model, size=1.0, target_modules=targets, task_type="CAUSAL_LM")
    made.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(llama(tie_word_embeddings=tied), tmp_path / "a")
    assert run(tmp_path / "a", "--model", tmp_path / "b") == (targets == ["embed_tokens"])
    streams = capsys.readouterr()
    assert max(map(len, streams.out.splitlines()), default=0) <= 100
    said = " ".join((streams.out + streams.err).split())
    whose = "the base's weight, tied to model.embed_tokens.weight," if tied else "the base's weight"
    if "lm_head" in targets:
        assert f"{whose} is (13, 8), the update (16, 8): resize the base first (resize_token_embeddings)" in said
    if "embed_tokens" in targets:
        assert "the base's weight is (13, 8), the update (16, 8): resize the base first" in said
    grown = llama(tie_word_embeddings=tied)
    grown.resize_token_embeddings(WORDS + 3)
    grown.save_pretrained(tmp_path / "c")
    PeftModel.from_pretrained(grown, tmp_path / "a")
    (found,) = against_base([inspect_folder(tmp_path / "a")[0]], tmp_path / "c")
    assert all(isinstance(one, AgainstBase) for one in found.values())
