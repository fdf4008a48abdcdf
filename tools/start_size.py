"""Make data/real_fine_tune/start_size.csv: the arms of lorabook/real_fine_tune/start_size.py, those that are missing.

    OMP_NUM_THREADS=1 python tools/start_size.py

Takes about four minutes on one core, on the CPU.  What stands in the file is kept; delete it to make all of it again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lorabook.device import DTYPE
from lorabook.inputs import minilm, published, sentences
from lorabook.real_fine_tune import start_size
from lorabook.real_fine_tune.encoder import Encoder
from lorabook.real_fine_tune.task import prepare


def main():
    name, parts, length, blocks, seed = (
        start_size.SETTING[key] for key in ("task", "parts", "length", "blocks", "seed")
    )
    network = Encoder(minilm.encoder(device="cpu"))
    tasks = prepare(network, sentences.split(sentences.load(name), parts, seed), blocks, length, "cpu")
    W, path = network.matrices(blocks).to(DTYPE), start_size.FOLDER / "start_size.csv"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text("size,rate,seed,validation,test\n", encoding="utf-8")
    there = {(row["size"], int(row["seed"])) for row in published.read("start_size", path.parent)}
    for k in range(start_size.SEEDS):
        for size in start_size.SIZES:
            if (size, k) in there:
                continue
            losses = start_size.arms(*tasks, W, size, start_size.RATES, k)
            with path.open("a", encoding="utf-8") as out:
                for rate, (chosen_by, compared_by) in zip(start_size.RATES, losses.tolist()):
                    print(f"{size:g},{rate:g},{k},{chosen_by:.5f},{compared_by:.5f}", file=out)
            print(f"seed {k}, size {size:g}: {losses[:, 0].tolist()}", flush=True)


if __name__ == "__main__":
    main()
