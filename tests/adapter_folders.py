"""Small base models, tokenizers, data and adapter folders for the tests of the command ``inspect``."""

import json

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from lorabook import device
from lorabook.__main__ import main

WORDS = ["[PAD]", "[UNK]", "good", "bad", "film", "plot", "the", "a", "dull", "fine"]
ROWS = [("the good film", 1), ("a bad plot", 0), ("dull film", 0), ("fine plot a film", 1), ("the dull plot", 0)]


def folder(path, factors, config=None, dtype=torch.float32, more=None):
    """An adapter folder from {module: (B, A)}."""
    path.mkdir(exist_ok=True)
    tensors = dict(more or {})
    for name, (B, A) in factors.items():
        tensors |= {
            f"base_model.model.{name}.lora_B.weight": B.to(dtype).contiguous(),
            f"base_model.model.{name}.lora_A.weight": A.to(dtype).contiguous(),
        }
    save_file(tensors, path / "adapter_model.safetensors")
    rank = next(iter(factors.values()))[1].shape[0] if factors else 1
    (path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank} | (config or {}))
    )
    return path


def pair(m, n, r, seed=0):
    source = device.generator(seed)
    return device.normal((m, r), source), device.normal((r, n), source)


def bert(labels=2, **options):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 16,
    }
    return BertForSequenceClassification(BertConfig(**(sizes | options), num_labels=labels))


def tokenizer(path=None):
    coder = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    coder.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=coder, pad_token="[PAD]", unk_token="[UNK]")
    if path:
        made.save_pretrained(path)
    return made


def base(path, model):
    """A folder with a base model and its tokenizer."""
    model.save_pretrained(path)
    tokenizer(path)
    return path


def rows(path, given=ROWS):
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in given))
    return path


def adapted(model, size=0.1, dtype=None, **options):
    """A PEFT model with every trained weight moved by noise, so that nothing is zero."""
    model = get_peft_model(
        model,
        LoraConfig(
            **({"r": 2, "lora_alpha": 4, "target_modules": ["query", "value"], "task_type": "SEQ_CLS"} | options)
        ),
    )
    source = device.generator(1)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data.add_(size * device.normal(weight.shape, source, "cpu").to(weight))
    return (model.to(dtype) if dtype else model).eval()


def run(*arguments):
    """Exit code of the command line, also for argparse's own."""
    try:
        return main(["inspect", *map(str, arguments)])
    except SystemExit as stop:
        return stop.code


def files(path):
    return {entry: entry.lstat().st_mtime_ns for entry in path.rglob("*")}
