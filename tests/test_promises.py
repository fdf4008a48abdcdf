"""What the configuration says beside what the file holds: each sentence beside a run of PEFT, and where it is none."""

import json
import random
import re
import warnings

import pytest
import torch
from adapter_folders import Mixture, Tokens, Two, bert, moved
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lorabook.__main__ import main
from lorabook.adapters import inspect_folder
from lorabook.adapters.expressions import Expression, Undecided
from lorabook.adapters.peft_config import CONFIG

WEIGHTS = "adapter_model.safetensors"
OF_UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp).*?(?:k_proj|v_proj|q_proj|o_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|k_proj|o_proj)))"
)


def notes(path):
    return " ".join(inspect_folder(path)[0].notes)


def llama(**options):
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False}
    return LlamaForCausalLM(LlamaConfig(**sizes | heads | options)).eval()


def saved(path, model, **options):
    moved(model, **options).save_pretrained(path)
    return path


def change(path, **settings):
    config = json.loads((path / CONFIG).read_text())
    (path / CONFIG).write_text(json.dumps(config | settings))


def drop(path, pattern):
    weights = {key: value for key, value in load_file(path / WEIGHTS).items() if not re.search(pattern, key)}
    save_file(weights, path / WEIGHTS)


def adapted_names(model):
    """The modules into which PEFT put factors."""
    found = (name for name, layer in model.named_modules() if hasattr(layer, "lora_A"))
    return {name.removeprefix("base_model.model.") for name in found}


# ---------------------------------------------------------------- modules


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("of") / "llama", llama(), target_modules=["q_proj", "v_proj"])


@pytest.mark.parametrize(
    "settings, left, why",
    [
        ({}, 0, ""),
        ({"target_modules": ["q_proj"]}, 2, "target_modules"),
        ({"target_modules": ["model.layers.1.self_attn.q_proj", "layers.0.self_attn.v_proj"]}, 2, "target_modules"),
        ({"target_modules": ["proj", "v_proj"]}, 2, "target_modules"),
        ({"target_modules": r".*layers\.1.*(q|v)_proj"}, 2, "target_modules"),
        ({"target_modules": r".*\.[qv]_proj"}, 0, ""),
        ({"target_modules": "v_proj|.*q_proj"}, 2, "target_modules"),
        ({"target_modules": OF_UNSLOTH}, 2, "target_modules"),
        ({"target_modules": r"^(?!.*layers\.0).*(?<=self_attn\.)[^k]_proj$"}, 2, "target_modules"),
        ({"target_modules": "all-linear"}, 0, ""),
        ({"target_modules": None}, 0, ""),
        ({"layers_to_transform": [1]}, 2, "layers_to_transform"),
        ({"layers_to_transform": 0}, 2, "layers_to_transform"),
        ({"layers_to_transform": [0, 1]}, 0, ""),
        ({"layers_to_transform": []}, 0, ""),
        ({"layers_to_transform": [1], "layers_pattern": ["h", "layers"]}, 2, "layers_to_transform"),
        ({"layers_to_transform": [0, 1], "layers_pattern": "l[a-z]+s"}, 0, ""),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, 3, "layers_to_transform and target_modules"),
        ({"target_modules": ["q_proj", "model.layers.0.self_attn.v_proj"], "layers_to_transform": [1]}, 2, ""),
        ({"exclude_modules": ["v_proj"]}, 2, "exclude_modules"),
        ({"exclude_modules": ["_proj"]}, 0, ""),
        ({"exclude_modules": r".*layers\.0\..*"}, 2, "exclude_modules"),
        ({"exclude_modules": r"layers\.0"}, 0, ""),
    ],
)
def test_modules_that_the_configuration_leaves_out_are_counted_as_peft_does(adapter, settings, left, why, tmp_path):
    config = json.loads((adapter / CONFIG).read_text())
    for name in (CONFIG, WEIGHTS):
        (tmp_path / name).write_bytes((adapter / name).read_bytes())
    (tmp_path / CONFIG).write_text(json.dumps(config | settings))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        known = adapted_names(PeftModel.from_pretrained(llama(), tmp_path))
    gone = sorted({one.name for one in inspect_folder(adapter)[1]} - known)
    assert len(gone) == left and not any(name in str(one.message) for one in said for name in gone)
    found = notes(tmp_path)
    assert ("PEFT leaves out" in found) == bool(left)
    if left:
        assert (
            f"PEFT leaves out {left} of 4 modules of the file, without a warning, as adapter_config.json says ("
            in found
        )
        assert all(name in found for name in gone) and why in found


def test_every_command_says_which_modules_peft_leaves_out(adapter, tmp_path, capsys):
    for name in (CONFIG, WEIGHTS):
        (tmp_path / name).write_bytes((adapter / name).read_bytes())
    change(tmp_path, exclude_modules=["v_proj"])
    path = str(tmp_path)
    for command in (["inspect", path], ["truncate", path, "--rank", "1"], ["compare", path, path]):
        for more in ([], ["--json"]):
            assert main(command + more) == 0
            out = " ".join(capsys.readouterr().out.split())
            assert "PEFT leaves out 2 of 4 modules of the file" in out and "(exclude_modules)" in out
            assert "model.layers.0.self_attn.v_proj, model.layers.1.self_attn.v_proj" in out


def test_a_file_of_which_no_module_is_targeted_loads_nothing_or_fails(adapter, tmp_path):
    for name in (CONFIG, WEIGHTS):
        (tmp_path / name).write_bytes((adapter / name).read_bytes())
    change(tmp_path, target_modules=["k_proj"])
    ids, loaded = torch.arange(6)[None], PeftModel.from_pretrained(llama(), tmp_path)
    assert torch.equal(loaded(ids).logits, llama()(ids).logits)
    change(tmp_path, target_modules=["query"])
    with pytest.raises(ValueError, match="not found in the base model"):
        PeftModel.from_pretrained(llama(), tmp_path)
    assert "PEFT leaves out every module of the file, and fails where the base has no other" in notes(tmp_path)


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"target_modules": ".*q_proj", "layers_to_transform": [0]}, "layers_to_transform beside target_modules that"),
        ({"target_modules": ".*q_proj", "layers_pattern": "layers"}, "layers_pattern beside target_modules that are"),
        ({"layers_pattern": ["layers"]}, "layers_pattern without layers_to_transform"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(adapter, tmp_path, settings, word):
    for name in (CONFIG, WEIGHTS):
        (tmp_path / name).write_bytes((adapter / name).read_bytes())
    change(tmp_path, **settings)
    with pytest.raises(ValueError, match="layers_"):
        PeftModel.from_pretrained(llama(), tmp_path)
    assert f"{word}" in notes(tmp_path) and "PEFT refuses to load it" in notes(tmp_path)


def test_a_module_that_is_also_saved_whole_is_left_out(tmp_path):
    saved(tmp_path, Two(), target_modules=["a", "b"])
    change(tmp_path, task_type="SEQ_CLS", modules_to_save=["b"])
    weights = load_file(tmp_path / WEIGHTS)
    save_file(weights | {"base_model.model.b.weight": torch.ones(4, 4)}, tmp_path / WEIGHTS)
    assert adapted_names(PeftModel.from_pretrained(Two(), tmp_path)) == {"a"}
    assert "PEFT leaves out 1 of 2 modules of the file" in notes(tmp_path) and "(modules_to_save): b." in notes(
        tmp_path
    )


@pytest.mark.parametrize("settings, out", [({}, ""), ({"target_modules": []}, "query"), ({"target_modules": None}, "")])
def test_parameters_that_are_targeted_are_not_left_out(tmp_path, settings, out):
    names = ["experts.gate_up_proj", "experts.down_proj"]
    saved(tmp_path, Mixture(), target_modules=["query"], target_parameters=names)
    change(tmp_path, **settings)
    loaded = adapted_names(PeftModel.from_pretrained(Mixture(), tmp_path))
    assert {"experts", "experts.base_layer"} <= loaded
    assert ("PEFT leaves out" in notes(tmp_path)) == bool(out)
    assert out not in loaded if out else True


def test_experts_whose_parameter_has_another_name_are_left_out(tmp_path):
    names = ["experts.gate_up_proj", "experts.down_proj"]
    saved(tmp_path, Mixture(), target_modules=["query"], target_parameters=names)
    change(tmp_path, target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
    with pytest.warns(RuntimeWarning, match="no parameter was matched"):
        assert adapted_names(PeftModel.from_pretrained(Mixture(), tmp_path)) == {"query"}
    assert "PEFT leaves out 2 of 3 modules of the file" in notes(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("parts", [["q_proj", "embed_tokens"], ["lm_head"]])
def test_layers_that_share_a_weight_are_not_said_to_be_left_out(tmp_path, parts):
    tied = lambda: llama(tie_word_embeddings=True)
    saved(tmp_path, tied(), target_modules=parts, ensure_weight_tying=True)
    assert {one.name for one in inspect_folder(tmp_path)[1]} == adapted_names(
        PeftModel.from_pretrained(tied(), tmp_path)
    )
    assert "leaves out" not in notes(tmp_path)


EXPRESSIONS = [
    r".*layers\.1.*(q|v)_proj",
    OF_UNSLOTH,
    r"^(?!.*vision).*q_proj$",
    r"model\.layers\.(0|1[0-9]?)\.\w+\.[qv]_proj",
    r".*(?<=self_attn\.)q_proj",
    r".*(?<!mlp\.)[^k]_proj",
    r"(a+)+$",
    r"(a|aa)*b",
    r"a{2,3}b?",
    r"(?:ab){0,2}c*",
    r"\W*\w+",
    r"[^.\d]+\.?\d*",
    r"a*?b+?",
    r"(a*)*",
    r"(a?){3}b",
    r"x|",
    r"\Aab\Z",
    r"a\Bb\b",
    r"(?=ab)a.",
    r"",
    r"[\w.]{3,}",
]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_an_expression_fits_the_names_that_it_fits_in_python(text):
    names = ["model.layers.1.self_attn.q_proj", "model.layers.0.self_attn.v_proj", "model.layers.12.mlp.k_proj"]
    names += ["language.attn.q_proj", "vision.q_proj", "aaaab", "ababc", "x", ""]
    source = random.Random(0)
    names += ["".join(source.choice("abc.1_") for _ in range(source.randint(0, 6))) for _ in range(300)]
    known = Expression(text)
    assert [known.fits(name) for name in names] == [bool(re.fullmatch(text, name)) for name in names]


def test_an_expression_that_would_take_very_long_does_not_and_odd_ones_are_not_decided(adapter, tmp_path):
    for text in (r"((((a*)*)*)*)*b", r"(.*.*.*.*.*.*.*)*x", r"a{1000000}"):
        assert not Expression(text).fits("a" * 200)
    with pytest.raises(Undecided):
        Expression(r"(a|aa)+b").fits("a" * 200)
    for name in (CONFIG, WEIGHTS):
        (tmp_path / name).write_bytes((adapter / name).read_bytes())
    for text in ("(", "a" * 200001, "(" * 3000 + ")" * 3000):
        with pytest.raises(Undecided):
            Expression(text).fits("aa")
        change(tmp_path, target_modules=text)
        assert "leaves out" not in notes(tmp_path)
    for odd in (
        {"target_modules": [1, None]},
        {"target_modules": {}},
        {"exclude_modules": 3},
        {"modules_to_save": "x"},
    ):
        change(tmp_path, **{"target_modules": ["q_proj"]} | odd)
        inspect_folder(tmp_path)


# ---------------------------------------------------------------- whole modules


@pytest.mark.parametrize("module", ["lm_head", "norm"])
def test_a_module_that_is_not_saved_whole_as_promised_stops_peft(tmp_path, module):
    saved(tmp_path, llama(), target_modules=["q_proj"], modules_to_save=[module])
    assert "modules_to_save names" not in notes(tmp_path)
    PeftModel.from_pretrained(llama(), tmp_path)
    drop(tmp_path, rf"{module}\.weight")
    with pytest.raises(KeyError, match=module):
        PeftModel.from_pretrained(llama(), tmp_path)
    assert f"modules_to_save names {module}, of which nothing is in the file: PEFT fails" in notes(tmp_path)


def test_a_name_that_the_model_lacks_is_no_failure_and_the_sentence_says_on_what_it_depends(tmp_path):
    saved(tmp_path, Two(), target_modules=["a"])
    change(tmp_path, modules_to_save=["head"])
    PeftModel.from_pretrained(Two(), tmp_path)
    assert "PEFT fails to load the adapter (KeyError) into a model that has such a module" in notes(tmp_path)


@pytest.mark.parametrize("named", [None, ["pooler"]])
def test_usual_heads_that_a_model_lacks_are_not_missed(tmp_path, named):
    """A model has a classifier or a score, and PEFT names both."""
    saved(tmp_path, bert(), target_modules=["query"], task_type="SEQ_CLS", modules_to_save=named)
    assert {"classifier", "score"} <= set(json.loads((tmp_path / CONFIG).read_text())["modules_to_save"])
    assert "modules_to_save names" not in notes(tmp_path) and "no head is saved" not in notes(tmp_path)
    drop(tmp_path, r"classifier|pooler")
    with pytest.raises(KeyError, match="classifier|pooler"):
        PeftModel.from_pretrained(bert(), tmp_path)
    assert "no head is saved (modules_to_save): PEFT fails to load the adapter (KeyError) into a model" in notes(
        tmp_path
    )
    assert ("modules_to_save names pooler" in notes(tmp_path)) == bool(named)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("names", [["embed_tokens"], ["embed_tokens", "lm_head"], ["lm_head"]])
@pytest.mark.parametrize("ensured", [True, False])
def test_whole_modules_that_share_a_weight_are_not_missed(tmp_path, names, ensured):
    tied = lambda: llama(tie_word_embeddings=True)
    saved(tmp_path, tied(), target_modules=["q_proj"], modules_to_save=names, ensure_weight_tying=ensured)
    PeftModel.from_pretrained(tied(), tmp_path)
    assert "modules_to_save names" not in notes(tmp_path)


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    "given, name", [({"emb": [1, 2]}, "emb"), ({"emb": []}, "emb"), ([1, 2], "the embedding"), ([], "the embedding")]
)
def test_tokens_without_their_rows_stop_peft(tmp_path, given, name):
    saved(tmp_path, Tokens(), target_modules=["linear"], trainable_token_indices={"emb": [1, 2]})
    assert "names rows of" not in notes(tmp_path)
    drop(tmp_path, "trainable_tokens")
    if isinstance(given, list):
        saved(tmp_path, llama(), target_modules=["q_proj"])
    change(tmp_path, trainable_token_indices=given)
    with pytest.raises(KeyError, match="trainable_tokens_delta"):
        PeftModel.from_pretrained(llama() if isinstance(given, list) else Tokens(), tmp_path)
    assert f"trainable_token_indices names rows of {name}, of which none are in the file: PEFT fails" in notes(tmp_path)
    change(tmp_path, trainable_token_indices={})
    PeftModel.from_pretrained(llama() if isinstance(given, list) else Tokens(), tmp_path)
    assert "names rows of" not in notes(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "given",
    [[1, 2], {"embed_tokens": [1]}, {"embed_tokens": [1], "lm_head": [1]}, {"embed_tokens": [1], "lm_head": [2]}],
)
def test_tokens_of_layers_that_share_a_weight_are_not_missed(tmp_path, given):
    tied = lambda: llama(tie_word_embeddings=True)
    saved(tmp_path, tied(), target_modules=["q_proj"], trainable_token_indices=given)
    PeftModel.from_pretrained(tied(), tmp_path)
    assert "names rows of" not in notes(tmp_path)


# ---------------------------------------------------------------- biases


@pytest.mark.parametrize("kind", ["all", "lora_only"])
def test_biases_that_were_not_saved_are_those_of_the_base_and_peft_says_nothing(tmp_path, kind):
    """huggingface/peft 3306: 0.19.1 left them out."""
    saved(tmp_path, Two(), target_modules=["a"], bias=kind, modules_to_save=["b"])
    again = PeftModel.from_pretrained(Two(), tmp_path)
    assert not torch.equal(again.base_model.model.a.base_layer.bias, Two().a.bias)
    assert "no bias is in the file" not in notes(tmp_path)
    drop(tmp_path, r"bias$")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = PeftModel.from_pretrained(Two(), tmp_path)
    assert torch.equal(again.base_model.model.a.base_layer.bias, Two().a.bias)
    assert f"bias is {kind} in adapter_config.json, and no bias is in the file. Where " in notes(tmp_path)
    change(tmp_path, bias="none")
    assert "no bias is in the file" not in notes(tmp_path)


def test_the_bias_of_a_head_that_is_saved_whole_is_no_trained_bias_of_the_base(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4))
    saved(tmp_path, model, target_modules=["0"], bias="lora_only", modules_to_save=["1"])
    assert any(key.endswith("bias") for key in load_file(tmp_path / WEIGHTS))
    assert "Where the layers of the base have biases" in notes(tmp_path)


@pytest.mark.parametrize(
    "kind, targets, has",
    [("all", "q_proj", True), ("lora_only", "q_proj", True), ("lora_only", "up_proj", False), ("all", "q_proj", False)],
)
def test_a_base_that_is_given_decides_whether_biases_were_lost(tmp_path, capsys, kind, targets, has):
    make = lambda: llama(attention_bias=has or targets == "up_proj")
    make().save_pretrained(tmp_path / "base")
    saved(tmp_path / "a", make(), target_modules=[targets], bias=kind)
    stored = any(key.endswith("bias") for key in load_file(tmp_path / "a" / WEIGHTS))
    assert stored == has
    if has:
        drop(tmp_path / "a", r"bias$")
    assert "no bias is in the file. Where the" in notes(tmp_path / "a")
    assert main(["inspect", str(tmp_path / "a"), "--model", str(tmp_path / "base"), "--top", "0"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert ("no bias is in the file. As the" in out) == has == ("no bias is in the file" in out)


# ---------------------------------------------------------------- empty tensors


class Headed(Two):
    """Two adapted layers and a head."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)


@pytest.mark.parametrize(
    "which, count, word",
    [
        (r"\.a\.lora_A", 1, "1 of 2 modules cannot be measured"),
        (r"\.a\.lora_|head", 4, "1 of 2 modules and 2 tensors outside the factors cannot be measured"),
        (r"head\.weight", 1, "note: 1 tensor outside the factors cannot be measured"),
    ],
)
def test_empty_tensors_stop_peft_and_are_counted_apart_from_modules(tmp_path, capsys, which, count, word):
    """huggingface/peft 2500: the sizes of what ZeRO-3 left do not match."""
    saved(tmp_path, Headed(), target_modules=["a", "b"], modules_to_save=["head"])
    PeftModel.from_pretrained(Headed(), tmp_path)
    assert "are empty" not in notes(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    save_file(
        {key: torch.zeros(0) if re.search(which, key) else value for key, value in weights.items()}, tmp_path / WEIGHTS
    )
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(Headed(), tmp_path)
    with pytest.warns(UserWarning, match="were not initialized from the model checkpoint"):
        PeftModel.from_pretrained(Headed(), tmp_path, ignore_mismatched_sizes=True)
    assert main(["inspect", str(tmp_path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert word in out and f"{count} of 6 tensors are empty: PEFT fails to load the adapter (size mismatch)." in out
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert [one["factors"] for one in faults] == [not one["module"].startswith("head") for one in faults]


def test_when_all_is_empty_modules_are_counted_without_the_head(tmp_path, capsys):
    saved(tmp_path, Headed(), target_modules=["a", "b"], modules_to_save=["head"])
    weights = load_file(tmp_path / WEIGHTS)
    save_file({key: torch.zeros(0) for key in weights}, tmp_path / WEIGHTS)
    assert main(["inspect", str(tmp_path)]) == 1
    assert "The factors of 2 modules and 2 other tensors are empty tensors" in capsys.readouterr().err


def test_lists_of_names_are_cut_between_them(tmp_path, capsys):
    long = [f"model.layers.{k}.some_quite_long_block.feed_forward_projection" for k in range(9)]
    model = nn.ModuleDict({"a": Two()})
    saved(tmp_path, model, target_modules=["a.a"])
    weights = load_file(tmp_path / WEIGHTS)
    save_file(weights | {f"base_model.model.{name}.weight": torch.ones(2) for name in long}, tmp_path / WEIGHTS)
    for command in (["inspect"], ["truncate", "--rank", "1"]):
        assert main([command[0], str(tmp_path), *command[1:]]) == 0
        lines = capsys.readouterr().out.splitlines()
        out = " ".join(" ".join(lines).split())
        assert f"(9): {', '.join(f'{name}.weight' for name in long[:3])} and 6 more" in out and ".." not in out
        assert max(map(len, lines)) <= 100 and all(sum(name in line for line in lines) for name in long[:3])
