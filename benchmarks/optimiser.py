"""What a step of PreconditionedAdamW costs beside PEFT's Riemannian optimiser and plain AdamW.

    python -m benchmarks.optimiser

Layers of two models' shapes, gradients drawn once, one thread of the CPU, or a GPU where there is one; the least of
several rounds, the optimisers in turn.  On the same steps, how far the two preconditioned runs end from each other.
"""

from __future__ import annotations

import copy
import time

import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_riemannian_optimizer
from torch import nn

from lorabook.adapters import PreconditionedAdamW
from lorabook.device import default_device, describe

ROUNDS, STEPS, RATE, RIDGE, EPSILON = 5, 3, 1e-4, 1e-2, 1e-8
# layers of one block: rows, columns, how many; blocks; rank
SHAPES = {
    "all-MiniLM-L6-v2, rank 8": ([(384, 384, 4), (1536, 384, 1), (384, 1536, 1)], 6, 8),
    "a quarter of a 7B model's blocks, rank 16": ([(4096, 4096, 4), (11008, 4096, 2), (4096, 11008, 1)], 8, 16),
    "the same, rank 64": ([(4096, 4096, 4), (11008, 4096, 2), (4096, 11008, 1)], 8, 64),
}


class Shell(nn.Module):
    """A linear layer's size without its weight, which no optimiser here looks at."""

    def __init__(self, rows: int, columns: int, rank: int):
        super().__init__()
        self.lora = get_peft_model(
            nn.Sequential(nn.Linear(columns, rows, bias=False, device="meta")),
            LoraConfig(r=rank, lora_alpha=rank, target_modules=["0"], init_lora_weights=False),
        )


def model(name: str, device) -> nn.Module:
    layers, blocks, rank = SHAPES[name]
    whole = nn.ModuleList(Shell(m, n, rank) for _ in range(blocks) for m, n, many in layers for _ in range(many))
    source = torch.Generator().manual_seed(0)
    for parameter_name, old in list(whole.named_parameters()):
        if old.requires_grad:
            home, _, last = parameter_name.rpartition(".")
            new = nn.Parameter((torch.randn(old.shape, generator=source) / old.shape[1] ** 0.5).to(device))
            new.grad = (torch.randn(old.shape, generator=source) / 100).to(device)
            setattr(whole.get_submodule(home), last, new)
    return whole


def optimiser(kind: str, whole: nn.Module):
    if kind == "AdamW":
        return torch.optim.AdamW(trained(whole), RATE, weight_decay=0.0)
    if kind == "PEFT's Riemannian AdamW":
        return create_riemannian_optimizer(whole, torch.optim.AdamW, lr=RATE, reg=RIDGE, eps=EPSILON, weight_decay=0.0)
    return PreconditionedAdamW(whole, RATE, ridge=RIDGE, eps=EPSILON)


def seconds(one, device, gradients) -> float:
    """Of a step, the mean of a few."""
    total = 0.0
    for _ in range(STEPS):
        for parameter, gradient in gradients:
            parameter.grad.copy_(gradient)  # theirs changes it
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        one.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        total += time.perf_counter() - begun
    return total / STEPS


def trained(whole: nn.Module) -> list[nn.Parameter]:
    return [one for one in whole.parameters() if one.requires_grad]


def main() -> None:
    torch.set_num_threads(1)
    device = default_device()
    print(describe(device).replace("float64", "float32"))
    for name in SHAPES:
        first = model(name, device)
        models = {kind: copy.deepcopy(first) for kind in ("AdamW", "PEFT's Riemannian AdamW", "PreconditionedAdamW")}
        made, gradients, least = {}, {}, {}
        for kind, whole in models.items():
            for one, source in zip(trained(whole), trained(first)):
                one.grad = source.grad.clone()
            made[kind] = optimiser(kind, whole)
            gradients[kind] = [(one, one.grad.clone()) for one in trained(whole)]
        for turn in range(ROUNDS + 1):
            for kind, one in made.items():
                took = seconds(one, device, gradients[kind])
                # the first round allocates
                least[kind] = min(took, least[kind]) if turn > 1 else took
        theirs, ours = (
            torch.cat([(one - before).flatten() for one, before in zip(trained(models[kind]), trained(first))])
            for kind in list(models)[1:]
        )
        apart = float((theirs - ours).norm() / theirs.norm())
        print(f"{name}, {len(gradients['AdamW'])} factors")
        for kind, took in least.items():
            print(f"  {kind}: {1000 * took:.1f} ms a step ({took / least['AdamW']:.1f} of AdamW)")
        print(f"  the two preconditioned runs end {apart:.0e} apart, relatively to their way", flush=True)


if __name__ == "__main__":
    with torch.no_grad():
        main()
