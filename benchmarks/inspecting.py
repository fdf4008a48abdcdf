"""`lorabook inspect` against reading a whole adapter at once and decomposing every product with torch.

    python -m benchmarks.inspecting

Each in a process of its own, one thread, after one unmeasured run that fills the disk cache; seconds of the processor,
imports included, and the ratio to the peer.  The peer loads the file with safetensors and takes the singular values of
every update: of the product B A itself, or where that is given after "thin", from thin QR decompositions as here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

PEER = """
import sys, torch
from safetensors.torch import load_file
torch.set_num_threads(1)
stored = load_file(sys.argv[1] + "/adapter_model.safetensors")
for key in stored:
    if key.endswith("lora_A.weight"):
        A, B = stored[key].double(), stored[key.replace("lora_A", "lora_B")].double()
        if sys.argv[2] == "thin":
            torch.linalg.svdvals(torch.linalg.qr(B).R @ torch.linalg.qr(A.mT).R.mT)
        else:
            torch.linalg.svdvals(B @ A)
"""


def adapter(folder: Path, shapes: dict[str, tuple[int, int]], rank: int) -> int:
    """An adapter with a module of each shape, float16; its bytes."""
    sizes = {}
    for name, (m, n) in shapes.items():
        sizes[f"base_model.model.{name}.lora_A.weight"] = (rank, n)
        sizes[f"base_model.model.{name}.lora_B.weight"] = (m, rank)
    header, end = {}, 0
    for key, (rows, columns) in sizes.items():
        header[key] = {"dtype": "F16", "shape": [rows, columns], "data_offsets": [end, end := end + 2 * rows * columns]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    source = torch.Generator().manual_seed(0)
    folder.mkdir()
    with (folder / "adapter_model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for rows, columns in sizes.values():
            stream.write((0.02 * torch.randn(rows, columns, generator=source)).half().numpy().tobytes())
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 16}))
    return end


def seven_billion() -> dict[str, tuple[int, int]]:
    """The linear layers of a Llama of 7B."""
    layers = [("self_attn", part, 4096, 4096) for part in ("q_proj", "k_proj", "v_proj", "o_proj")]
    layers += [("mlp", "gate_proj", 11008, 4096), ("mlp", "up_proj", 11008, 4096), ("mlp", "down_proj", 4096, 11008)]
    return {f"model.layers.{k}.{room}.{part}": (m, n) for k in range(32) for room, part, m, n in layers}


def small(number: int) -> dict[str, tuple[int, int]]:
    """Modules of 64 x 64, as many experts have."""
    return {f"model.layers.{k // 100}.mlp.experts.{k % 100}.up_proj": (64, 64) for k in range(number)}


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds of the processor and peak MiB."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    scratch = Path(tempfile.mkdtemp(prefix="lorabook-"))
    cases = {f"{number} modules of 64 x 64, rank 8": (small(number), 8, "product") for number in (1500, 3000, 6000)}
    cases["7B, 224 modules, rank 64"] = (seven_billion(), 64, "thin")
    try:
        for place, (label, (shapes, rank, kind)) in enumerate(cases.items()):
            folder = scratch / str(place)
            size = adapter(folder, shapes, rank)
            ours = [sys.executable, "-m", "lorabook", "inspect", str(folder)]
            peer = [sys.executable, "-c", PEER, str(folder), kind]
            for command in (ours, peer):
                measured(command)
            (mine, memory), (theirs, whole) = measured(ours), measured(peer)
            print(
                f"{label} ({size / 2**20:.0f} MiB): {mine:.1f} s and {memory:.0f} MiB; peer ({kind}) "
                f"{theirs:.1f} s and {whole:.0f} MiB; ratio {mine / theirs:.2f}",
                flush=True,
            )
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
