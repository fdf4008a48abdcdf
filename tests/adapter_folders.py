"""Small base models, tokenizers, data and adapter folders for the tests of the commands."""

import json

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

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


def gpt2():
    torch.manual_seed(0)
    sizes = {"vocab_size": 10, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
    return GPT2ForSequenceClassification(GPT2Config(**sizes, pad_token_id=0, bos_token_id=0, eos_token_id=0))


class Picture(torch.nn.Module):
    """A convolution and a linear layer, on a picture made of the tokens."""

    def __init__(self, groups=1, size=3):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(4, 8, size, groups=groups)
        self.linear = torch.nn.Linear(8, 5)

    def forward(self, ids):
        pictures = torch.sin(torch.arange(4 * 25.0).view(1, 4, 5, 5) * (1 + ids.sum(1).view(-1, 1, 1, 1)))
        return self.linear(self.conv(pictures).mean((2, 3)))


class Attention(torch.nn.Module):
    """An nn.MultiheadAttention and a linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attn, self.linear = torch.nn.MultiheadAttention(8, 2, batch_first=True), torch.nn.Linear(8, 3)

    def forward(self, given):
        return self.linear(self.attn(given, given, given)[0])

    @torch.no_grad()
    def added(self, state, times):
        """The same with the updates that ``state`` holds of the attention, the second projection's so many times."""
        pre, scale = "base_model.model.attn", 2
        both = lambda name: scale * state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"]
        self.attn.in_proj_weight += both(pre)
        self.attn.out_proj.weight += times * both(f"{pre}.base_layer.out_proj")
        return self.eval()


class Two(torch.nn.Module):
    """Two linear layers, the second without a bias."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4, bias=False)

    def forward(self, given):
        return self.b(self.a(given))


class Tokens(torch.nn.Module):
    """An embedding and a linear layer."""

    def __init__(self, rows=8):
        super().__init__()
        torch.manual_seed(0)
        self.emb, self.linear = torch.nn.Embedding(rows, 4), torch.nn.Linear(4, 4)

    def forward(self, ids):
        return self.linear(self.emb(ids))


class Experts(torch.nn.Module):
    """Three experts with fused weights, as in transformers."""

    def __init__(self, first, second):
        super().__init__()
        self.names = first, second
        setattr(self, first, torch.nn.Parameter(torch.randn(3, 12, 8) / 3))
        setattr(self, second, torch.nn.Parameter(torch.randn(3, 8, 6) / 3))

    def forward(self, x):
        up, down = (getattr(self, name) for name in self.names)
        for expert in range(3):
            left, right = (x @ up[expert].mT).chunk(2, -1)
            x = x + (torch.tanh(left) * right) @ down[expert].mT
        return x


class Mixture(torch.nn.Module):
    """A linear layer and experts."""

    def __init__(self, first="gate_up_proj", second="down_proj"):
        super().__init__()
        torch.manual_seed(0)
        self.query = torch.nn.Linear(8, 8)
        self.experts = Experts(first, second)

    def forward(self, ids):
        return self.experts(self.query(torch.sin(ids.double() @ torch.arange(32.0).double().view(4, 8)).float()))


def mixture_of_experts():
    """Three experts, which transformers saves one by one."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 10, "hidden_size": 8, "intermediate_size": 12, "moe_intermediate_size": 6, "num_experts": 3}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, num_experts_per_tok=2, decoder_sparse_step=1))


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


def moved(model, **options):
    """A PEFT model of a plain module, all of whose factors are noise."""
    return adapted(model, size=1.0, **{"task_type": None} | options)


def noise(*shape):
    """An input."""
    return device.normal(shape, device.generator(5), "cpu").float()


def run(*arguments):
    """Exit code of the command line, also for argparse's own."""
    try:
        return main(["inspect", *map(str, arguments)])
    except SystemExit as stop:
        return stop.code


def files(path):
    return {entry: entry.lstat().st_mtime_ns for entry in path.rglob("*")}
