"""LoRA-One's start: what a sketch of the gradients keeps, and what it takes beside other ways to the same factors.

    python -m benchmarks.start accuracy     gradients of real tasks: share of the exact start's first-order fall
    python -m benchmarks.start time         seconds and memory, all methods side by side

accuracy: all-MiniLM-L6-v2, the 36 linear layers of its blocks, four tasks with data of their own.  A setting is tried
on every layer with one draw.  One sweep is the single view of Tropp et al. 2017 with widths k and l = 2 k + 1, or that
of 2019 with a core of l x l; two sweeps are the package's.

time: every method runs in processes of its own, one thread; seconds are of the processor, over those of the plain sweep
of the same turn: forward and backward of the same batches with the covered weights asking for gradients.  Three methods
have three turns, of which the median, the least and the most are given, the others one.  Memory is the rise of the
process's peak over what two batches, forward and backward without gradients of weights, had needed.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import resource
import sys
import time
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

RANK, SIZES = 8, (8, 64, 1024)
LENGTH, BATCH = 48, 32
COVERED = r".*layers?\.\d+\..*(query|key|value|dense|_proj)"


# ---------------------------------------------------------------- models and tasks


def minilm(kind: str = "SequenceClassification"):
    from safetensors.torch import load_file
    from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

    from lorabook.inputs import minilm as pinned

    path = pinned.locate()
    torch.manual_seed(0)
    config = BertConfig(**json.loads((path.parent / "config.json").read_text()), num_labels=2)
    model = (BertForMaskedLM if kind == "MaskedLM" else BertForSequenceClassification)(config)
    model.bert.load_state_dict(load_file(path), strict=False)
    return model.eval()


def batches(texts, labels) -> list[dict]:
    from lorabook.real_fine_tune.encoder import tokenize

    found = []
    for begin in range(0, len(texts), BATCH):
        tokens = tokenize(texts[begin : begin + BATCH], LENGTH)
        found.append(
            {
                "input_ids": tokens.ids,
                "attention_mask": tokens.mask.long(),
                "labels": labels[begin : begin + BATCH],
            }
        )
    return found


def pooled(model, batch):
    last = model.bert(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    return F.normalize((last * batch["attention_mask"][..., None]).sum(1), dim=-1)


def own_loss(model, batch):
    return model(**batch).loss, len(batch["labels"])


def random_head(texts, labels):
    """Film reviews, an untrained head."""
    return minilm(), batches(texts, labels), own_loss


def two_poles(texts, labels):
    """Product reviews, judged by the nearness to two sentences."""
    model = minilm()
    (poles,) = batches(["It was great.", "It was terrible."], torch.tensor([1, 0]))
    with torch.no_grad():
        great, terrible = pooled(model, poles)
    head = 8 * (great - terrible)

    def loss(model, batch):
        scores = pooled(model, batch) @ head
        return F.binary_cross_entropy_with_logits(scores, batch["labels"].float()), len(scores)

    return model, batches(texts, labels), loss


def two_halves(texts, labels):
    """Tweets: the halves of each should find each other among the others of the batch."""
    words = [text.split() for text in texts]
    halves = [
        [" ".join(one[: max(1, len(one) // 2)]) for one in words],
        [" ".join(one[len(one) // 2 :]) for one in words],
    ]

    def loss(model, batch):
        scores = 20 * pooled(model, batch[0]) @ pooled(model, batch[1]).mT
        return F.cross_entropy(scores, torch.arange(len(scores))), len(scores)

    return minilm(), list(zip(*(batches(half, labels) for half in halves))), loss


def masked_words(texts, labels):
    """Editorials: every seventh word is masked, and the word embeddings are the output weights."""
    source, data = torch.Generator().manual_seed(2), batches(texts, labels)
    for batch in data:
        hit = (torch.rand(batch["input_ids"].shape, generator=source) < 1 / 7) & (batch["attention_mask"] == 1)
        hit[0, 1] = True
        batch["labels"] = batch["input_ids"].masked_fill(~hit, -100)
        batch["input_ids"] = batch["input_ids"].masked_fill(hit, 103)
    return minilm("MaskedLM"), data, lambda model, batch: (model(**batch).loss, int((batch["labels"] != -100).sum()))


TASKS = {"movie": random_head, "amazon": two_poles, "tweets": two_halves, "nyt": masked_words}


def task(name: str, size: int):
    from lorabook.inputs import sentences

    all_of = sentences.load(name)
    order = torch.randperm(len(all_of.texts), generator=torch.Generator().manual_seed(1))[:size]
    return TASKS[name]([all_of.texts[i] for i in order], all_of.labels[order])


def covered(model) -> dict[str, nn.Parameter]:
    return {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(COVERED, name)
    }


def stored_gradients(model, data, loss) -> dict[str, torch.Tensor]:
    """The gradients of the covered weights, all held at once, as the released code holds them: a plain sweep."""
    chosen, total = covered(model), 0
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for weight in chosen.values():
        weight.requires_grad_(True)
    for batch in data:
        mean, items = loss(model, batch)
        (mean * items).backward()
        total += items
    return {name: weight.grad / total for name, weight in chosen.items()}


# ---------------------------------------------------------------- accuracy


def one_sweep(G, k, l, draw):
    """Tropp, Yurtsever, Udell & Cevher 2017: Q and C with Q C ~ G from ``G Omega`` and ``Psi G``."""
    Psi = draw(l, G.shape[0])
    Q = torch.linalg.qr(G @ draw(G.shape[1], k)).Q
    U, T = torch.linalg.qr(Psi @ Q)
    return Q, torch.linalg.solve_triangular(T, U.mT @ (Psi @ G), upper=True)


def one_sweep_core(G, k, l, draw):
    """The same authors 2019: also a core ``Phi G Psi``."""
    Phi, Psi = draw(l, G.shape[0]), draw(G.shape[1], l)
    Q, P = torch.linalg.qr(G @ draw(G.shape[1], k)).Q, torch.linalg.qr((draw(k, G.shape[0]) @ G).mT).Q
    core = torch.linalg.lstsq(Phi @ Q, Phi @ G @ Psi).solution
    return Q, torch.linalg.lstsq(Psi.mT @ P, core.mT).solution.mT @ P.mT


def two_sweeps(G, k, l, draw):
    Q = torch.linalg.qr(G @ draw(G.shape[1], k)).Q
    return Q, Q.mT @ G


SETTINGS = [(one_sweep, k, 2 * k + 1) for k in (32, 64, 96, 128)]
SETTINGS += [(one_sweep_core, k, 2 * k + 1) for k in (32, 64, 96)]
SETTINGS += [(two_sweeps, k, k) for k in (32, 48, 64, 96, 128)]


def share(G, Q, C, rank, best) -> float:
    """``<G, X> / <G, X*>``: X the best rank-r part of Q C, X* that of G."""
    U, s, Vh = torch.linalg.svd(C, full_matrices=False)
    return float(((Q @ U[:, :rank]).mT @ G * Vh[:rank] * s[:rank, None]).sum() / best)


def accuracy(rank: int = RANK) -> None:
    print(f"rank {rank}: share of the first-order fall, per cent: mean over the layers, worst layer")
    print("setting".ljust(32) + "".join(f"{name} {size}".rjust(14) for name in TASKS for size in SIZES))
    columns = []
    for name in TASKS:
        for size in SIZES:
            gradients = [G for G in stored_gradients(*task(name, size)).values() if bool(G.any())]
            column = []
            for method, k, l in SETTINGS:
                source, shares = torch.Generator().manual_seed(0), []
                draw = lambda *shape: torch.randn(*shape, generator=source)
                for G in gradients:
                    best = float(torch.linalg.svdvals(G)[:rank].square().sum())
                    shares.append(100 * share(G, *method(G, k, l, draw), rank, best))
                column.append(f"{sum(shares) / len(shares):.2f} {min(shares):.1f}")
            columns.append(column)
            print(f"({name} {size}: done)", file=sys.stderr, flush=True)
    for number, (method, k, l) in enumerate(SETTINGS):
        row = "".join(column[number].rjust(14) for column in columns)
        print(f"{method.__name__} {k} {l}".ljust(32) + row, flush=True)


# ---------------------------------------------------------------- time


def wide_llama():
    """Random weights of width 1,024, one block."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = dict(hidden_size=1024, intermediate_size=2816, num_hidden_layers=1, num_attention_heads=16)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=1000, num_key_value_heads=16, **sizes)).eval()
    ids = torch.randint(0, 1000, (16, 128), generator=torch.Generator().manual_seed(1))
    return model, [{"input_ids": part, "labels": part} for part in ids.split(4)], own_loss


SETUPS = {
    "all-MiniLM-L6-v2, 128 film reviews": lambda: task("movie", 128),
    "a random Llama of width 1,024, one block, 16 texts of 128 tokens": wide_llama,
}


def plain_sweep(model, data, loss):
    stored_gradients(model, data, loss)


def decomposed(split):
    def method(model, data, loss):
        for G in stored_gradients(model, data, loss).values():
            split(-G)

    return method


def config(**options):
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=RANK, target_modules=COVERED, **options)


def ours(**options):
    def method(model, data, loss):
        from peft import get_peft_model

        from lorabook.adapters import lora_one_

        lora_one_(get_peft_model(model, config()), data, 1.0, loss=loss, **options)

    return method


def lora_ga(model, data, loss):
    from peft import LoraGAConfig, get_peft_model
    from peft.tuners.lora.loraga import preprocess_loraga

    chosen = config(init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig())
    preprocess_loraga(model, chosen, lambda: [loss(model, batch)[0].backward() for batch in data])
    get_peft_model(model, chosen)


METHODS = {
    "plain sweep": plain_sweep,
    "lora_one_": ours(),
    "lora_one_, exact=True": ours(exact=True),
    "lora_one_, passes=1": ours(passes=1),
    "PEFT's LoRA-GA": lora_ga,
    "stored gradients, full SVD": decomposed(lambda G: torch.linalg.svd(G, full_matrices=False)),
    "stored gradients, svd_lowrank(q = 512, niter = 16), released": decomposed(
        lambda G: torch.svd_lowrank(G, q=min(512, *G.shape), niter=16)
    ),
}


OFTEN = ("plain sweep", "lora_one_", "PEFT's LoRA-GA")  # repeated; the others are run once


def work(setup: str, name: str, answer) -> None:
    """One method in its own process: seconds and megabytes."""
    torch.set_num_threads(1)
    import peft  # noqa: F401

    from lorabook import adapters  # noqa: F401

    model, data, loss = SETUPS[setup]()
    for batch in data[:2]:
        inputs = next(iter(covered(model).values()))
        loss(model, batch)[0].backward(inputs=[inputs])
        model.zero_grad()
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    METHODS[name](model, data, loss)
    seconds, after = time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer.put((seconds, (after - before) / 1024))


def times(repeats: int = 3) -> None:
    spawn = multiprocessing.get_context("spawn")
    for setup in SETUPS:
        taken = {name: [] for name in METHODS}
        for turn in range(repeats):  # in turns, so that a machine that slows down does so for all
            for name in METHODS if turn == 0 else OFTEN:
                answer = spawn.Queue()
                process = spawn.Process(target=work, args=(setup, name, answer))
                process.start()
                taken[name].append(answer.get(timeout=1800))
                process.join()
        plain = [seconds for seconds, _ in taken["plain sweep"]]
        print(f"{setup}, rank {RANK}: a plain sweep takes {median(plain):.1f} s ({min(plain):.1f} to {max(plain):.1f})")
        for name, runs in taken.items():
            ratios = sorted(seconds / unit for (seconds, _), unit in zip(runs, plain))
            spread = f" ({ratios[0]:.2f} to {ratios[-1]:.2f})" if len(ratios) > 1 else ""
            print(
                f"  {name}: {median(ratios):.2f}{spread} plain sweeps, {median(mb for _, mb in runs):.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["accuracy"]:
        accuracy(*map(int, sys.argv[2:3]))
    elif sys.argv[1:2] == ["time"]:
        times()
    else:
        sys.exit("python -m benchmarks.start accuracy [rank] | time")
