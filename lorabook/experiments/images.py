"""CIFAR's pictures as a vision transformer takes them: read once, made large batch by batch.

    x = 2 resize(u / 255) - 1        u (N, 3, 32, 32) bytes, resize bilinear to the size of the model's pictures

which is what transformers' ViTImageProcessor does but for its rounding to bytes after the resize.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor

from lorabook import checks
from lorabook.experiments import ExperimentError

#: The column of the labels, how many there are, and the folder of the files on the Hub.
SETS = {"cifar10": ("label", 10, "plain_text"), "cifar100": ("fine_label", 100, "cifar100")}


def file(task: str, split: str) -> str:
    """The file of a split on the Hub; validation is the test split."""
    if task not in SETS:
        raise ExperimentError(f"There is no task {task!r}; there are {', '.join(SETS)}.")
    return f"{SETS[task][2]}/{'test' if split == 'validation' else split}-00000-of-00001.parquet"


class Pictures(torch.utils.data.Dataset):
    """Pictures (3, 32, 32) as bytes, with their labels.

    Args:
        rows: with ``img``, a mapping whose ``bytes`` are a PNG, and the column of the labels.
        task: one of SETS.

    Raises:
        ExperimentError: a picture that cannot be read.
    """

    def __init__(self, rows: list[dict], task: str):
        self.labels = [row[SETS[task][0]] for row in rows]
        self.pixels = torch.stack([_bytes(row["img"]["bytes"]) for row in rows])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> dict:
        return {"pixels": self.pixels[number], "labels": self.labels[number]}


def _bytes(png: bytes) -> Tensor:
    image = checks.package("PIL", "experiments", "pillow")
    import numpy as np
    from PIL import Image

    try:
        return torch.from_numpy(np.array(Image.open(io.BytesIO(png)).convert("RGB"))).permute(2, 0, 1)
    except image.UnidentifiedImageError:
        raise ExperimentError("A picture of the data set cannot be read.") from None


def picture_batch(size: int):
    """A collator: ``pixel_values`` (N, 3, size, size) float32 between -1 and 1, and ``labels`` (N,)."""

    def collate(rows: list[dict]) -> dict[str, Tensor]:
        pixels: Any = torch.stack([row["pixels"] for row in rows]).float() / 255
        large = torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
        return {"pixel_values": 2 * large - 1, "labels": torch.tensor([row["labels"] for row in rows])}

    return collate
