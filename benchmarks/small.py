"""What LoRA-One's sketched start keeps on gradients of other architectures than all-MiniLM-L6-v2.

    python -m benchmarks.small

No pretrained weights of these are at hand, so each model is made here, at a width at which a sketch of the default
width is no whole gradient, and trained for 150 steps on data of the house: its gradients are no noise, and lower in
rank than those of a pretrained model.

    GPT-2, width 384, 2 blocks (Conv1D)     the next byte of film reviews
    T5, width 384, 1 + 1 blocks             the second half of a product review from its first half, as bytes
    ViT, width 384, 2 blocks                which digit, 8 x 8 pixels, in patches of 2 x 2

For each: the share of the exact start's first-order fall that ``lora_one_`` at its defaults keeps, mean and worst of
the layers, with the estimate of both that it gives, from the gradient over 8, 64 and 1,024 examples; and, to see that
something could be lost, the same for a sketch of width 16.
"""

from __future__ import annotations

import re
import time
import warnings

import torch
from torch import nn

RANK, SIZES, LENGTH, BATCH, STEPS = 8, (8, 64, 1024), 48, 16, 150


def bytes_of(texts, length: int) -> torch.Tensor:
    """(T, length) bytes as tokens 1 to 256, padded with 0."""
    rows = [list(text.encode()[:length]) for text in texts]
    return torch.tensor([[byte + 1 for byte in row] + [0] * (length - len(row)) for row in rows])


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    from lorabook.inputs import sentences

    ids = bytes_of(sentences.load("movie").texts, LENGTH)
    sizes = dict(vocab_size=257, n_positions=LENGTH, n_embd=384, n_layer=2, n_head=8)
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    batch = lambda some: {"input_ids": some, "labels": some.masked_fill(some == 0, -100)}
    return model, [batch(part) for part in ids.split(BATCH)]


def t5():
    from transformers import T5Config, T5ForConditionalGeneration

    from lorabook.inputs import sentences

    texts = sentences.load("amazon").texts
    first = bytes_of([text[: len(text) // 2] for text in texts], LENGTH)
    second = bytes_of([text[len(text) // 2 :] for text in texts], LENGTH)
    sizes = dict(vocab_size=257, d_model=384, d_ff=1536, d_kv=48, num_heads=8, num_layers=1)
    model = T5ForConditionalGeneration(T5Config(**sizes, pad_token_id=0, decoder_start_token_id=0, eos_token_id=0))
    batches = [
        {"input_ids": a, "attention_mask": (a != 0).long(), "labels": b.masked_fill(b == 0, -100)}
        for a, b in zip(first.split(BATCH), second.split(BATCH))
    ]
    return model, batches


def vit():
    from transformers import ViTConfig, ViTForImageClassification

    from lorabook.device import generator
    from lorabook.inputs import digits

    images, labels = digits.shuffled(generator(0), "cpu")
    sizes = dict(hidden_size=384, intermediate_size=1536, num_hidden_layers=2, num_attention_heads=8, num_labels=10)
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=2, num_channels=1))
    pictures = images.float().view(-1, 1, 8, 8)
    return model, [{"pixel_values": a, "labels": b} for a, b in zip(pictures.split(BATCH), labels.split(BATCH))]


def trained(make) -> tuple[nn.Module, list[dict], float, float]:
    """The model after its steps, its data, and the loss of the first and of the last twenty steps."""
    torch.manual_seed(0)
    model, batches = make()
    order = torch.randint(0, len(batches), (STEPS,), generator=torch.Generator().manual_seed(2)).tolist()
    optimiser, losses = torch.optim.AdamW(model.parameters(), lr=5e-4), []
    for place in order:
        optimiser.zero_grad()
        loss = model(**batches[place]).loss
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return model.eval(), batches, sum(losses[:20]) / 20, sum(losses[-20:]) / 20


def shares(model, batches) -> tuple[list[float], list[float], list[float]]:
    """``<G, X> / <G, X*>`` of every layer of the blocks, X the default start, X* the exact one; narrow; estimated."""
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    from lorabook.adapters import lora_one_
    from lorabook.adapters.targets import targets

    inner = [(name, module) for name, module in model.named_modules() if re.search(r"\.\d+\.", name)]
    covered = [name for name, module in inner if isinstance(module, (nn.Linear, Conv1D))]
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=covered)).eval()
    squares = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # modules whose gradient is 0
        for options in ({"passes": 1}, {"width": 16}, {}):
            started = lora_one_(adapted, batches, 1.0, **options)
            found = targets(adapted)
            squares.append([float((found[name].B @ found[name].A).detach().square().sum()) for name in started])
    adapted.unload()
    exact, narrow, default = squares
    # X is the best part of Q Q^T G, so that <G, X> is its square
    ratio = lambda some: [one / whole for one, whole in zip(some, exact, strict=True)]
    return ratio(default), ratio(narrow), list(started.kept.values())


def main() -> None:
    for name, make in (("ViT", vit), ("GPT-2", gpt2), ("T5", t5)):
        begun = time.process_time()
        model, batches, before, after = trained(make)
        print(f"{name}: loss {before:.2f} to {after:.2f}, {time.process_time() - begun:.0f} s", flush=True)
        for size in SIZES:
            said = [
                f"{100 * sum(some) / len(some):.2f} and {100 * min(some):.1f}"
                for some in shares(model, first(batches, size))
            ]
            print(f"  {size} examples: kept {said[0]} per cent, at width 16 {said[1]}; estimated {said[2]}", flush=True)


def first(batches, size: int) -> list[dict]:
    """The first examples, in two batches at least: one alone would be read exactly."""
    if size >= 2 * BATCH:
        return batches[: size // BATCH]
    halves = slice(0, size // 2), slice(size // 2, size)
    return [{key: value[part] for key, value in batches[0].items()} for part in halves]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
