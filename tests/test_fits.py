"""What PEFT cannot load into a base, cannot merge with it or does not use in it: each sentence beside a run of PEFT."""

import pytest
import torch
from adapter_folders import Attention, Picture, Tokens, Two, adapted, moved, noise, run
from peft import PeftModel
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from lorabook.adapters import inspect_folder
from lorabook.adapters.against_base import against_base
from lorabook.adapters.base_weights import BaseWeights
from lorabook.adapters.fits import misfits


def base(path, model):
    """The weights of a plain model, in a folder."""
    path.mkdir()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path / "model.safetensors")
    return path


def told(path, model):
    return " ".join(misfits(inspect_folder(path)[0], BaseWeights(model)))


def test_both_projections_of_an_attention_stand_beside_their_weights(tmp_path, capsys):
    moved(Attention(), target_modules=["attn"]).save_pretrained(tmp_path / "a")
    adapter, measured = inspect_folder(tmp_path / "a")
    (found,) = against_base([adapter], base(tmp_path / "b", Attention()))
    own = Attention().attn
    for one, weight in zip(measured, (own.in_proj_weight, own.out_proj.weight)):
        # the stored numbers, in float64
        assert found[one.name].ratio == pytest.approx(one.norm / float(weight.double().norm()), rel=1e-12)
    assert not told(tmp_path / "a", tmp_path / "b")
    assert run(tmp_path / "a", "--model", tmp_path / "b") == 0
    assert "otherwise" not in capsys.readouterr().out
    base(tmp_path / "c", nn.ModuleDict({"tower": Attention()}))
    assert run(tmp_path / "a", "--model", tmp_path / "c") == 0
    assert "as tower.attn.in_proj_weight for attn" in " ".join(capsys.readouterr().out.split())


@torch.no_grad()
def test_a_projection_that_is_never_called_is_not_in_use_but_merged(tmp_path, capsys):
    """huggingface/peft 761, helicalAI/helical 405."""
    model, given = moved(Attention(), target_modules=["out_proj", "linear"]), noise(2, 5, 8)
    model.save_pretrained(tmp_path / "a")
    B = model.base_model.model.attn.out_proj.lora_B["default"].weight
    with torch.enable_grad():
        model(given).sum().backward()
    used = model(given)
    assert B.grad is None
    B.add_(1)
    assert torch.equal(model(given), used)
    assert float((model.merge_and_unload()(given) - used).abs().max()) > 0.1
    base(tmp_path / "b", Attention())
    assert "never calls its out_proj" in told(tmp_path / "a", tmp_path / "b")
    assert run(tmp_path / "a", "--model", tmp_path / "b") == 0
    assert "though a merge adds it: attn.out_proj." in " ".join(capsys.readouterr().out.split())


def test_layers_whose_base_has_no_bias_are_named(tmp_path):
    moved(Two(), target_modules=["a", "b"], lora_bias=True).save_pretrained(tmp_path / "a")
    assert "none in 1 module: PEFT cannot merge b." in told(tmp_path / "a", base(tmp_path / "b", Two()))
    model = moved(Two(), target_modules=["a"], lora_bias=True)
    model.save_pretrained(tmp_path / "c")
    assert not told(tmp_path / "c", tmp_path / "b")
    model.merge_and_unload()


@pytest.mark.parametrize("options", [{"trainable_token_indices": {"emb": [1, 7]}}, {"modules_to_save": ["emb"]}])
def test_rows_that_the_base_lacks_are_said_and_peft_does_not_load_them(tmp_path, options):
    """huggingface/peft 1300 and 1932: the vocabulary was enlarged for the training."""
    moved(Tokens(8), target_modules=["linear"], **options).save_pretrained(tmp_path / "a")
    small = told(tmp_path / "a", base(tmp_path / "b", Tokens(6)))
    assert "emb" in small and "PEFT cannot load" in small and "resize_token_embeddings" in small
    with pytest.raises((IndexError, RuntimeError)):
        PeftModel.from_pretrained(Tokens(6), tmp_path / "a")
    assert not told(tmp_path / "a", base(tmp_path / "c", Tokens(8)))
    PeftModel.from_pretrained(Tokens(8), tmp_path / "a")


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_the_bias_of_an_output_layer_that_shares_trained_tokens_is_left_out_until_a_merge(tmp_path, tied):
    """huggingface/peft 3649."""
    config = BertConfig(
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        tie_word_embeddings=tied,
    )
    model, given = BertForMaskedLM(config).eval(), torch.tensor([[1, 2, 3]])
    model.get_output_embeddings().bias.normal_()
    model.save_pretrained(tmp_path / "b")
    plain = model(given).logits
    options = {"trainable_token_indices": {"word_embeddings": [4]}}
    model = adapted(model, target_modules=["query"], task_type=None, **options).eval()
    model.save_pretrained(tmp_path / "a")
    others = torch.arange(11) != 4
    as_before = lambda logits: torch.allclose(logits[..., others], plain[..., others], atol=1e-6)
    assert as_before(model(given).logits) == (not tied)
    assert ("PEFT up to 0.21.2 leaves out its bias" in told(tmp_path / "a", tmp_path / "b")) == tied
    assert as_before(model.merge_and_unload()(given).logits)


def test_a_base_whose_convolution_is_in_groups_has_no_weight_for_an_update_across_them(tmp_path):
    adapted(Picture(2), target_modules=["conv", "linear"], task_type=None, r=4).save_pretrained(tmp_path / "a")
    (found,) = against_base([inspect_folder(tmp_path / "a")[0]], base(tmp_path / "b", Picture(2)))
    assert found["conv"] == "the base's convolution is in 2 groups, across which X reaches"
    assert not isinstance(found["linear"], str)
    adapted(nn.Sequential(nn.Conv1d(4, 6, 2)), target_modules=["0"], task_type=None).save_pretrained(tmp_path / "c")
    (found,) = against_base(
        [inspect_folder(tmp_path / "c")[0]], base(tmp_path / "d", nn.Sequential(nn.Conv1d(4, 6, 2)))
    )
    assert not isinstance(found["0"], str)


@torch.no_grad()
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_a_weight_that_the_adapter_brings_stands_in_the_place_of_the_bases(tmp_path, factor):
    """PEFT saves the weight of an output layer beside its factors, and puts it into any base."""
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=11)
    model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False))
    model.save_pretrained(tmp_path / "b")
    model.lm_head.weight.mul_(factor)
    own = model.lm_head.weight.clone()
    moved(model, target_modules=["q_proj", "lm_head"]).save_pretrained(tmp_path / "a")
    said = told(tmp_path / "a", tmp_path / "b")
    assert ("brings a weight of lm_head of its own" in said) == (factor != 1)
    assert ("(relative distance 0.67)" in said) == (factor != 1)  # 2 of 3
    loaded = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tmp_path / "b"), tmp_path / "a")
    assert torch.equal(loaded.base_model.model.lm_head.base_layer.weight, own)
