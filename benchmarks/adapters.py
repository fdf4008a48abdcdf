"""LoRA-One's start against ways to the same factors on all-MiniLM-L6-v2.

    python -m benchmarks.adapters

Every method runs in a process of its own on the same model, sentences and targets, one thread; seconds are of the
processor.  Memory is the rise
of the process's peak over what a backward pass of one batch through the loaded model had needed.
"""

from __future__ import annotations

import ast
import json
import multiprocessing
import re
import resource
import sysconfig
import time
from pathlib import Path

import torch

RANK, ROWS, BATCH, LENGTH = 8, 64, 16, 32
CLASSES = 2


def sentences(count: int) -> list[tuple[str, int]]:
    """Sentences from the docstrings of Python's own library; the label says whether the first letter comes before M."""
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="ignore"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = (ast.get_docstring(node) or "").split("\n\n")[0]
                if 40 < len(text) < 160 and text not in (known for known, _ in found[-20:]):
                    found.append((" ".join(text.split()), int(text[0].upper() < "M")))
        if len(found) >= count:
            break
    return found[:count]


def setting():
    """The model with a head, and the batches."""
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertForSequenceClassification

    from lorabook.inputs import minilm

    path = minilm.locate()
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(**json.loads((path.parent / "config.json").read_text()), num_labels=CLASSES)
    )
    model.bert.load_state_dict(load_file(path), strict=False)
    tokenizer = Tokenizer.from_file(str(path.parent / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    rows, batches = sentences(ROWS), []
    for begin in range(0, len(rows), BATCH):
        coded = tokenizer.encode_batch([text for text, _ in rows[begin : begin + BATCH]])
        batches.append(
            {
                "input_ids": torch.tensor([one.ids for one in coded]),
                "attention_mask": torch.tensor([one.attention_mask for one in coded]),
                "labels": torch.tensor([label for _, label in rows[begin : begin + BATCH]]),
            }
        )
    return model.eval(), batches


def config(**options):
    from peft import LoraConfig

    # without the pooler, which stands outside the encoder, and the head
    return LoraConfig(r=RANK, lora_alpha=RANK, target_modules=r".*encoder\.layer\..*(query|key|value|dense)", **options)


def stored_gradients(model, batches):
    """The gradients of the targets, all held at once, as the released code holds them."""
    chosen = {
        name: module.weight
        for name, module in model.named_modules()
        if re.fullmatch(r".*encoder\.layer\..*(query|key|value|dense)", name)
    }
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for weight in chosen.values():
        weight.requires_grad_(True)
    for batch in batches:
        (model(**batch).loss / len(batches)).backward()
    return {name: weight.grad for name, weight in chosen.items()}


def decomposed(split):
    def method(model, batches):
        products = {}
        for name, gradient in stored_gradients(model, batches).items():
            U, s, V = split(-gradient)
            products[name] = (U[:, :RANK] * s[:RANK].sqrt(), s[:RANK, None].sqrt() * V[:, :RANK].mT)
        return products

    return method


def full(G):
    U, s, Vh = torch.linalg.svd(G, full_matrices=False)
    return U, s, Vh.mT


def ours(passes):
    def method(model, batches):
        from peft import get_peft_model

        from lorabook.adapters import lora_one_
        from lorabook.adapters.targets import targets

        model = get_peft_model(model, config())
        lora_one_(model, batches, 1.0, passes=passes)
        return {name: (target.B.detach(), target.A.detach()) for name, target in targets(model).items()}

    return method


def lora_ga(model, batches):
    from peft import LoraGAConfig, get_peft_model
    from peft.tuners.lora.loraga import preprocess_loraga

    chosen = config(init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig())

    def step():
        for batch in batches:
            model(**batch).loss.backward()

    preprocess_loraga(model, chosen, step)
    get_peft_model(model, chosen)
    return None


METHODS = {
    "stored gradients, full SVD": decomposed(full),
    "stored gradients, svd_lowrank(q = 4 r, niter = 4), released form": decomposed(
        lambda G: torch.svd_lowrank(G, q=4 * RANK, niter=4)
    ),
    "stored gradients, svd_lowrank(q = 512, niter = 16), released form": decomposed(
        lambda G: torch.svd_lowrank(G, q=min(512, *G.shape), niter=16)
    ),
    "PEFT's LoRA-GA preprocessing and start": lora_ga,
    "lora_one_, one pass": ours(1),
    "lora_one_, as many as one gradient's memory needs (default)": ours(None),
}


def work(name: str, answer) -> None:
    """One method in its own process: seconds, megabytes, factors."""
    torch.set_num_threads(1)
    import peft  # noqa: F401

    from lorabook import adapters  # noqa: F401

    model, batches = setting()
    for batch in batches[:2]:
        model(**batch).loss.backward(inputs=[model.bert.encoder.layer[0].attention.self.query.weight])
        model.zero_grad()
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    products = METHODS[name](model, batches)
    seconds, after = time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer.put(
        (
            seconds,
            (after - before) / 1024,
            None if products is None else {key: (B.numpy(), A.numpy()) for key, (B, A) in products.items()},
        )
    )


def starts() -> None:
    spawn = multiprocessing.get_context("spawn")
    exact = first = None
    for name in METHODS:
        answer = spawn.Queue()
        process = spawn.Process(target=work, args=(name, answer))
        process.start()
        seconds, megabytes, products = answer.get(timeout=600)
        process.join()
        error = ""
        if products:
            products = {
                key: torch.from_numpy(B).double() @ torch.from_numpy(A).double() for key, (B, A) in products.items()
            }
            if exact is None:
                exact, first = products, seconds
                size = sum(value.numel() for value in products.values()) * 4 / 2**20
                print(
                    f"{len(products)} weights with {size:.0f} MiB of gradients, largest "
                    f"{max(v.numel() for v in products.values()) * 4 / 2**20:.1f} MiB; "
                    f"{ROWS} sentences of {LENGTH} tokens, rank {RANK}"
                )
            errors = sorted(float((products[key] - exact[key]).norm() / exact[key].norm()) for key in exact)
            error = f"; product off by {errors[len(errors) // 2]:.0e} (median), {errors[-1]:.0e} (worst)"
        print(f"{name}: {seconds:.1f} s ({seconds / first:.2f} of the first), {megabytes:.0f} MiB{error}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    starts()
