"""The certificate of a saved adapter is that of PEFT's own model, or one sentence says why there is none."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from adapter_folders import ROWS, WORDS, adapted, base, bert, files, rows, run, tokenizer
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from lorabook.adapters import certify

TASKS = {"SEQ_CLS": AutoModelForSequenceClassification, "CAUSAL_LM": AutoModelForCausalLM}


def llama(tied=False):
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=32,
            tie_word_embeddings=tied,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
        )
    )


def gpt2():
    torch.manual_seed(0)
    return GPT2ForSequenceClassification(
        GPT2Config(
            vocab_size=len(WORDS),
            n_embd=16,
            n_layer=1,
            n_head=2,
            n_positions=16,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def home(path, model=None, **options):
    """``base``, ``adapter`` and ``data.jsonl`` under ``path``."""
    model = bert() if model is None else model
    base(path / "base", model.bert if hasattr(model, "bert") else model)
    adapted(model, **options).save_pretrained(path / "adapter")
    rows(path / "data.jsonl")
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return home(tmp_path_factory.mktemp("plain"))


def command(path, *more, data=None, model=None, adapter=None):
    return run(
        adapter or path / "adapter",
        "--model",
        model or path / "base",
        "--data",
        data or path / "data.jsonl",
        "--weight-decay",
        "0.1",
        "--batch-size",
        "2",
        *more,
    )


def said(capsys, path, *more, **places):
    """The certificates by module."""
    capsys.readouterr()
    assert command(path, "--json", *more, **places) == 0
    report = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    return {one["name"]: one["certificate"] for one in report["modules"]}


def refusal(capsys, path, **places):
    """The one sentence; nothing is printed and nothing written."""
    capsys.readouterr()
    before = files(path)
    assert command(path, "--plot", path / "ranks.svg", **places) == 1
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.endswith(".\n") and len(err) < 400 and files(path) == before
    return err


def batches(task):
    coder = tokenizer()
    for given in (ROWS[:2], ROWS[2:4], ROWS[4:]):
        batch = dict(coder([text for text, _ in given], padding=True, return_tensors="pt"))
        labels = (
            torch.tensor([label for _, label in given])
            if task == "SEQ_CLS"
            else batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        )
        yield batch | {"labels": labels}


# ---------------------------------------------------------------- what is certified


@pytest.mark.parametrize(
    "model, options",
    [
        (bert, {}),
        (
            bert,
            {
                "r": 3,
                "rank_pattern": {"query": 2},
                "alpha_pattern": {"value": 9},
                "use_rslora": True,
                "target_modules": ["query", "value", "dense"],
            },
        ),
        (bert, {"bias": "all"}),
        (bert, {"bias": "lora_only"}),
        (bert, {"bias": "all", "modules_to_save": ["classifier", "LayerNorm"]}),
        (bert, {"dtype": torch.bfloat16}),
        (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
        (llama, {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}),
        (
            llama,
            {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"], "task_type": "CAUSAL_LM"},
        ),
        (lambda: llama(tied=True), {"target_modules": ["q_proj", "lm_head"], "task_type": "CAUSAL_LM"}),
        (
            lambda: llama(tied=True),
            {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "task_type": "CAUSAL_LM"},
        ),
        (
            lambda: llama(tied=True),
            {
                "target_modules": ["q_proj"],
                "modules_to_save": ["embed_tokens"],
                "ensure_weight_tying": True,
                "task_type": "CAUSAL_LM",
            },
        ),
    ],
)
def test_the_certificate_of_a_folder_is_that_of_the_model_that_peft_loads(tmp_path, capsys, model, options):
    path, task = home(tmp_path, model(), **options), options.get("task_type", "SEQ_CLS")
    found = said(capsys, path)
    torch.manual_seed(5)  # of the head that the folder of the base model lacks
    loaded = TASKS[task].from_pretrained(path / "base", dtype=torch.float32)
    if "lm_head" in options.get("target_modules", ()):
        # the gradient that the adapter of a tied head feels is that of the head alone
        loaded.lm_head.weight = nn.Parameter(loaded.lm_head.weight.detach().clone())
    peft = PeftModel.from_pretrained(loaded, path / "adapter").eval()
    wanted = certify(peft, list(batches(task)), 0.1)
    assert found.keys() == wanted.keys()
    for name, one in wanted.items():
        # float32 through two layers; the update is added to the weight here and beside it there
        assert found[name]["excess"] == pytest.approx(one.excess, rel=1e-4) and found[name]["slope"] == pytest.approx(
            one.slope, rel=1e-4
        )
        assert (
            found[name]["imbalance"] == pytest.approx(one.imbalance, rel=1e-6) and found[name]["verdict"] == one.verdict
        )


def test_a_causal_model_that_judges_needs_no_padding_of_its_own(tmp_path, capsys):
    options = {"target_modules": ["q_proj"]}
    path = home(tmp_path, LlamaForSequenceClassification(llama().config), **options)
    wanted = said(capsys, path)
    for name, key, value in (("config.json", "pad_token_id", None), ("tokenizer_config.json", "pad_token", None)):
        config = json.loads((path / "base" / name).read_text())
        (path / "base" / name).write_text(
            json.dumps(config | {key: value, "eos_token": "[PAD]"} if "token" in name else config | {key: value})
        )
    assert said(capsys, path) == wanted


def test_the_side_that_a_tokenizer_pads_on_and_the_size_of_a_batch_change_nothing(tmp_path, capsys):
    path = home(tmp_path, llama(), target_modules=["q_proj"], task_type="CAUSAL_LM")
    wanted = said(capsys, path)
    config = json.loads((path / "base" / "tokenizer_config.json").read_text())
    (path / "base" / "tokenizer_config.json").write_text(json.dumps(config | {"padding_side": "left"}))
    for size in (1, 2, 5):
        found = said(capsys, path, "--batch-size", size)
        for name, one in wanted.items():
            # float32 sums in another order; padding on the left moves them by a tenth
            assert found[name]["excess"] == pytest.approx(one["excess"], rel=1e-5) and found[name][
                "slope"
            ] == pytest.approx(one["slope"], rel=1e-5)


def test_the_table_with_verdicts_fits(plain, capsys):
    assert command(plain) == 0
    out = capsys.readouterr().out
    assert "not stationary" in out and max(map(len, out.splitlines())) <= 100


def test_a_head_of_another_size_in_the_base_model_is_replaced(plain, tmp_path, capsys):
    wanted = said(capsys, plain)
    for labels in (2, 3):
        assert said(capsys, plain, model=base(tmp_path / f"{labels}", bert(labels))) == wanted


def test_a_base_model_in_several_files_is_the_same(plain, tmp_path, capsys):
    bert().bert.save_pretrained(tmp_path, max_shard_size="4KB")
    tokenizer(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1 and said(capsys, plain, model=tmp_path) == said(
        capsys, plain
    )
    next(tmp_path.glob("model-*.safetensors")).unlink()
    assert "cannot be loaded as a base model" in refusal(capsys, plain, model=tmp_path)


def test_passes_trade_memory_for_time_and_not_the_result(plain, capsys):
    wanted = said(capsys, plain)
    for passes in ("1", "2", "99"):
        for name, one in said(capsys, plain, "--passes", passes).items():
            # the order of a float32 sum
            assert one["slope"] == pytest.approx(wanted[name]["slope"], rel=1e-5) and one["excess"] == pytest.approx(
                wanted[name]["excess"], rel=1e-4
            )


def test_a_byte_order_mark_blank_lines_and_other_line_ends_change_nothing(plain, tmp_path, capsys):
    text, wanted = (plain / "data.jsonl").read_bytes(), said(capsys, plain)
    for number, other in enumerate(
        (b"\xef\xbb\xbf" + text, text.replace(b"\n", b"\n\n  \n"), text.replace(b"\n", b"\r\n"), text.rstrip(b"\n"))
    ):
        (tmp_path / f"{number}.jsonl").write_bytes(other)
        assert said(capsys, plain, data=tmp_path / f"{number}.jsonl") == wanted


def test_a_text_is_cut_at_the_positions_that_the_model_has(plain, tmp_path, capsys):
    long = said(capsys, plain, data=rows(tmp_path / "long.jsonl", [("good film " * 5000, 1), ("dull plot", 0)]))
    assert long == said(capsys, plain, data=rows(tmp_path / "cut.jsonl", [("good film " * 8, 1), ("dull plot", 0)]))
    assert long == said(capsys, plain, "--max-length", "16", data=tmp_path / "long.jsonl")
    assert long != said(capsys, plain, "--max-length", "8", data=tmp_path / "long.jsonl")


def test_the_output_is_plain_text_for_a_file(plain, tmp_path):
    with (tmp_path / "out.txt").open("w") as out:
        command = [
            sys.executable,
            "-m",
            "lorabook",
            "inspect",
            plain / "adapter",
            "--model",
            plain / "base",
            "--data",
            plain / "data.jsonl",
            "--weight-decay",
            "0.1",
        ]
        done = subprocess.run(
            command, stdout=out, stderr=subprocess.PIPE, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
    text = (tmp_path / "out.txt").read_text()
    # after two seconds a line about progress may appear
    assert (
        done.returncode == 0
        and "verdict" in text
        and "\x1b" not in text
        and not re.sub(r"(pass \d+ of \d+|noise), batch \d+\n", "", done.stderr)
    )


def test_under_adamw_the_table_says_what_a_new_direction_gains(plain, capsys):
    places = [plain / "adapter", "--model", plain / "base", "--data", plain / "data.jsonl", "--weight-decay", "0"]
    assert run(*places, "--decoupled", "--batch-size", "1") == 0
    out = capsys.readouterr().out
    assert "what the best new direction of half the batches gains" in out and max(map(len, out.splitlines())) <= 100
    assert run(*places) == 2 and "for AdamW give --decoupled" in capsys.readouterr().err
    assert run(plain / "adapter", "--decoupled") == 2


def test_a_bound_on_the_gap_comes_with_every_verdict(plain, capsys):
    for one in said(capsys, plain).values():
        assert 0 < one["share"] <= 1 and one["gap"] > 0 and one["noise"] > 0 and one["new"] is None


# ---------------------------------------------------------------- conversations

TEMPLATE = (
    "{% for one in messages %}{% if one['role'] not in ['user', 'assistant'] %}{{ raise_exception('no such role') }}"
    "{% endif %}{{ 'the ' if one['role'] == 'user' else 'a ' }}{{ one['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}a {% endif %}"
)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """A causal model whose tokenizer has a chat template."""
    path = home(tmp_path_factory.mktemp("chat"), llama(), target_modules=["q_proj"], task_type="CAUSAL_LM")
    config = json.loads((path / "base" / "tokenizer_config.json").read_text())
    config |= {"chat_template": TEMPLATE, "eos_token": "dull"}
    (path / "base" / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def message(role, content):
    return {"role": role, "content": content}


def test_messages_are_read_with_the_chat_template(chat, tmp_path, capsys):
    talk = [message("user", "good film"), message("assistant", "fine")]
    rows = [{"messages": talk}, {"messages": [message("user", "plot")]}]
    found = said(capsys, chat, data=jsonl(tmp_path / "chat.jsonl", *rows))
    wanted = said(
        capsys, chat, data=jsonl(tmp_path / "text.jsonl", {"text": "the good film a fine "}, {"text": "the plot "})
    )
    assert found == wanted


def test_of_a_prompt_and_its_completion_only_the_completion_counts(chat, tmp_path, capsys):
    plain = [{"prompt": "the good", "completion": " film a plot"}, {"prompt": "bad", "completion": " film"}]
    talk = [{"prompt": [message("user", "good")], "completion": [message("assistant", "fine film")]}]
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(chat / "base", dtype=torch.float32), chat / "adapter"
    ).eval()
    coder = tokenizer()
    for given, texts, silent in (
        (plain, ["the good film a plot dull", "bad film dull"], [2, 1]),
        (talk, ["the good a fine film"], [3]),
    ):
        batch = dict(coder(texts, padding=True, return_tensors="pt"))
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        for row, number in zip(labels, silent):
            row[:number] = -100
        wanted = certify(model, [batch | {"labels": labels}], 0.1)
        found = said(capsys, chat, data=jsonl(tmp_path / "rows.jsonl", *given))
        for name, one in wanted.items():
            # float32 through two layers
            assert found[name]["excess"] == pytest.approx(one.excess, rel=1e-4), given


def test_messages_without_a_chat_template_are_refused_with_what_to_do(tmp_path, capsys):
    path = home(tmp_path, llama(), target_modules=["q_proj"], task_type="CAUSAL_LM")
    data = jsonl(tmp_path / "chat.jsonl", {"messages": [message("user", "good")]})
    assert 'has no chat template: write each line as {"text": ...}' in refusal(capsys, path, data=data)


@pytest.mark.parametrize(
    "row, sentence",
    [
        ({"messages": []}, "needs messages of the form"),
        ({"messages": "hello"}, "needs messages of the form"),
        ({"messages": [{"role": "user"}]}, "needs messages of the form"),
        ({"messages": [message("user", [{"type": "image"}])]}, "needs messages of the form"),
        ({"messages": [message("user", "good")], "tools": [{}]}, "has tools, which are not read"),
        (
            {"messages": [message("wizard", "good")]},
            "The chat template cannot write a conversation of the data (no such",
        ),
        ({"prompt": "good"}, "needs a prompt and a completion"),
        ({"prompt": "good", "completion": [message("assistant", "film")]}, "needs a prompt and a completion"),
        ({"prompt": [message("user", "good")], "completion": "film"}, "needs a prompt and a completion"),
        ({"prompt": "good", "completion": " "}, "needs a prompt and a completion"),
        ({"completion": "film"}, "has no text"),
        ({"conversations": [{"from": "human", "value": "good"}]}, "has no text"),
    ],
)
def test_a_conversation_that_cannot_be_read_gets_one_sentence(chat, tmp_path, capsys, row, sentence):
    assert sentence in refusal(capsys, chat, data=jsonl(tmp_path / "rows.jsonl", row))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "is empty"),
        ("\n  \n\n", "is empty"),
        ('{"text": "a film"}\n', "Line 1 of the data needs a label"),
        ('{"text": "a film", "label": 1}\n{"te', "Line 2 of the data is not JSON"),
        ('{"text": "a film", "label": 7}\n', "must lie between 0 and 1; got 7 to 7"),
        ('{"text": "a film", "label": -1}\n', "needs a label"),
        (f'{{"text": "a", "label": {10**30}}}\n', "needs a label"),
        ('{"label": 1}\n', "Line 1 of the data has no text"),
        ('{"text": 5, "label": 1}\n', "has no text"),
        ('{"text": ["a"], "label": 1}\n', "has no text"),
        ('{"text": " ", "label": 1}\n', "has no text"),
        ('["a", 1]\n', "has no text"),
        ('{"text": "a", "label": true}\n', "needs a label"),
        ('{"text": "a", "label": "1"}\n', "needs a label"),
        ('{"text": "a", "label": 1.0}\n', "needs a label"),
        ("text,label\na,1\n", "Line 1 of the data is not JSON"),
        ("[" * 100000 + "\n", "Line 1 of the data is not JSON"),
        (
            '{"text": "a", "label": 1}\n{"text": "' + "film " * 2**18 + '", "label": 1}\n',
            "Line 2 of the data is longer than 1048576 characters",
        ),
        ('{"text": "caf\xe9", "label": 1}\n'.encode("latin-1"), "is not text in UTF-8"),
        ('{"text": "a", "label": 1}\n'.encode("utf-16"), "is not text in UTF-8"),
        (bytes(range(256)), "is not text in UTF-8"),
    ],
)
def test_bad_data_gets_one_sentence(plain, tmp_path, capsys, text, sentence):
    (tmp_path / "data.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert sentence in refusal(capsys, plain, data=tmp_path / "data.jsonl")


def test_data_that_are_not_a_file_are_named(plain, tmp_path, capsys):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for data in (tmp_path, tmp_path / "nowhere", tmp_path / "circle"):
        assert "There is no data file" in refusal(capsys, plain, data=data)


def test_a_length_beyond_the_positions_is_refused(plain, capsys):
    assert command(plain, "--max-length", "17") == 1
    out, err = capsys.readouterr()
    assert not out and err == "lorabook: The length 17 is more than the 16 positions of the base model.\n"


@pytest.mark.parametrize(
    "option, value", [("--passes", "0"), ("--passes", "1.5"), ("--max-length", "-1"), ("--tolerance", "nan")]
)
def test_wrong_numbers_are_exit_code_2(plain, capsys, option, value):
    assert command(plain, option, value) == 2
    out, err = capsys.readouterr()
    assert not out and f"argument {option}: invalid positive number value: '{value}'" in err


@pytest.mark.parametrize(
    "model, options, sentence",
    [
        (
            bert,
            {"init_lora_weights": "olora"},
            "The start olora changed the base weights, and the folder does not hold them",
        ),
        (bert, {"init_lora_weights": "pissa"}, "The start pissa changed the base weights"),
        (bert, {"lora_bias": True}, "(bias of an adapter) cannot be put into the model"),
        (bert, {"task_type": None}, "needs an adapter of the task SEQ_CLS or CAUSAL_LM; this one says none"),
        (
            bert,
            {"task_type": "QUESTION_ANS"},
            "such as question answering, use certify(model, batches, weight_decay, loss",
        ),
        (
            llama,
            {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "alora_invocation_tokens": [1]},
            "sets alora_invocation_tokens",
        ),
        (
            llama,
            {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "layer_replication": [[0, 2], [1, 2]]},
            "sets layer_replication",
        ),
        (
            llama,
            {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "trainable_token_indices": [1]},
            "(rows of an embedding) cannot be put into the model",
        ),
        (
            llama,
            {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "embed_tokens"]},
            "(factors of an embedding) cannot be put into the model",
        ),
    ],
)
def test_an_adapter_that_cannot_be_put_into_the_model_gets_one_sentence(tmp_path, capsys, model, options, sentence):
    assert sentence in refusal(capsys, home(tmp_path, model(), **options))


def quantised(path):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))


def without_tokens_to_pad(path):
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(
        json.dumps({key: value for key, value in config.items() if key not in ("pad_token", "eos_token")})
    )


def pickled(path):
    torch.save({}, path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


def broken(path):
    weights = load_file(path / "model.safetensors")
    save_file(
        {name: value * torch.nan for name, value in weights.items()},
        path / "model.safetensors",
        metadata={"format": "pt"},
    )


@pytest.mark.parametrize(
    "model, change, sentence",
    [
        (lambda: bert().bert, lambda path: (path / "config.json").unlink(), "has no config.json"),
        (lambda: bert().bert, lambda path: (path / "tokenizer.json").unlink(), "has no tokenizer"),
        (lambda: bert().bert, lambda path: (path / "config.json").write_text("{"), "cannot be loaded as a base model"),
        (
            lambda: bert().bert,
            lambda path: os.truncate(path / "model.safetensors", 5000),
            "cannot be loaded as a base model",
        ),
        (lambda: bert().bert, pickled, "cannot be loaded as a base model"),
        (lambda: bert().bert, quantised, "cannot be loaded as a base model (its weights are quantised)"),
        (lambda: bert().bert, without_tokens_to_pad, "has no token to pad with"),
        (lambda: bert().bert, broken, "The loss of batch 1 must be one finite number; got nan"),
        (lambda: bert(vocab_size=5).bert, lambda path: None, "positions of batch 1 must lie between 0 and 4"),
        (
            lambda: bert(hidden_size=8).bert,
            lambda path: None,
            "classifier.weight is (2, 16) in the adapter and (2, 8) in the base model",
        ),
        (lambda: bert(num_hidden_layers=1).bert, lambda path: None, "has no module bert.encoder.layer.1"),
    ],
)
def test_a_base_model_that_does_not_fit_gets_one_sentence(plain, tmp_path, capsys, model, change, sentence):
    change(base(tmp_path, model()))
    assert sentence in refusal(capsys, plain, model=tmp_path)


def test_a_head_that_nobody_has_is_missed(plain, tmp_path, capsys):
    weights = load_file(plain / "adapter" / "adapter_model.safetensors")
    for part, labels in (("classifier", 2), ("classifier.bias", 3)):
        path = tmp_path / part
        path.mkdir()
        (path / "adapter_config.json").write_text((plain / "adapter" / "adapter_config.json").read_text())
        save_file(
            {name: value for name, value in weights.items() if part not in name}, path / "adapter_model.safetensors"
        )
        model = base(tmp_path / f"{labels}", bert(labels)) if labels == 3 else plain / "base"
        assert "Neither the base model nor the adapter has weights that fit classifier.bias" in refusal(
            capsys, plain, adapter=path, model=model
        )


def test_code_that_comes_with_a_base_model_does_not_run(plain, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer(tmp_path / "base")
    config = {
        "architectures": ["Mine"],
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForSequenceClassification": "mine.Mine"},
    }
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "mine.py").write_text("import os\nos.mkdir('executed')\nclass Mine: pass\n")
    assert (
        "cannot be loaded as a base model" in refusal(capsys, plain, model=tmp_path / "base")
        and not (tmp_path / "executed").exists()
    )


def test_a_base_without_the_tokens_that_were_added_is_to_be_resized(tmp_path, capsys):
    """huggingface/peft 1457: the embeddings were resized and saved whole."""
    grown = llama()
    grown.resize_token_embeddings(len(WORDS) + 3)
    path = home(tmp_path, grown, task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    llama().save_pretrained(path / "base")
    assert "resize its embeddings to 13 tokens and save it" in refusal(capsys, path)


@pytest.mark.parametrize("begin, words", [("", "but model.layers.0"), ("other.", "so it is of another model")])
def test_an_adapter_of_the_model_without_its_head_is_told_from_one_of_another_model(tmp_path, capsys, begin, words):
    """huggingface/peft 1579."""
    path = home(tmp_path, llama(), task_type="CAUSAL_LM", target_modules=["q_proj"])
    weights = path / "adapter" / "adapter_model.safetensors"
    prefix = "base_model.model.model."
    renamed = {f"base_model.model.{begin}{key.removeprefix(prefix)}": one for key, one in load_file(weights).items()}
    if "other" in begin:
        renamed = {key.replace("layers", "blocks"): one for key, one in renamed.items()}
    save_file(renamed, weights)
    assert words in refusal(capsys, path)
