"""Cost of descent against the dimension, with and without the exact reduction; of a sweep in one batch and one by one.

Run with ``python -m benchmarks.lora_one``.  Times are those of the processor, not of the clock, so that other
work on the machine counts little.  Ratios within one run are what counts; nothing is asserted.
"""

import os
import time

import torch

from lorabook import descent, device, linalg, lora_one

STEPS, RANK, SHIFT_RANK = 50, 8, 4


def timed(call, repeats=3):
    """Shortest processor time of a few runs, in seconds."""
    best = float("inf")
    for _ in range(repeats):
        begun = time.process_time()
        call()
        best = min(best, time.process_time() - begun)
    return best


def population(d, draws):
    """A population problem of dimension d = k and a Gaussian start."""
    U, V = linalg.random_orthonormal(d, SHIFT_RANK, draws), linalg.random_orthonormal(d, SHIFT_RANK, draws)
    problem = lora_one.Regression(None, torch.zeros(d, d, dtype=device.DTYPE, device=U.device), U @ V.mT)
    return problem, *lora_one.lora_init((d, d), RANK, 0.01, draws)


def full(problem, B0, A0):
    """The same steps on d x k matrices."""

    def forces(B, A):
        J = problem.shift - B @ A
        return J @ A.mT, B.mT @ J

    return descent.descend(forces, B0, A0, 0.1, 0.1, STEPS)


def main():
    draws = device.generator(0)
    lora_one.reduced(*population(32, draws))  # the first call loads the linear algebra
    print(
        f"{device.describe()}; load {os.getloadavg()[0]:.1f}; {STEPS} steps, rank {RANK}, r* = {SHIFT_RANK}, population"
    )
    print(
        "    d   reduction, ms   reduced steps, ms   full steps, ms   full / (reduction + reduced)   distance of "
        "the products"
    )
    for d in (64, 128, 256, 512, 1024, 2048, 4096):
        problem, B0, A0 = population(d, draws)
        repeats = 3 if d <= 1024 else 1
        # the reduction is made once per problem and start; descent itself is timed without it
        begun = time.process_time()
        small, b, a, L, R = lora_one.reduced(problem, B0, A0)
        once = time.process_time() - begun
        short, long = timed(lambda: full(small, b, a), repeats), timed(lambda: full(problem, B0, A0), repeats)
        one, other = full(small, b, a), full(problem, B0, A0)
        wanted = other.B @ other.A
        gap = float(torch.linalg.matrix_norm((L @ one.B) @ (one.A @ R.mT) - wanted) / torch.linalg.matrix_norm(wanted))
        print(
            f"{d:5d} {1e3 * once:15.1f} {1e3 * short:19.1f} {1e3 * long:16.1f} {long / (once + short):30.1f} "
            f"{gap:26.1e}"
        )
    problem = lora_one.planted.planted(100, 100, 1600, lora_one.planted.spectrum(SHIFT_RANK, 1.0), 20, seed=1)
    B0, A0 = lora_one.lora_init((20, 100, 100), RANK, 0.1, draws)
    batch = timed(lambda: lora_one.descend(problem, B0, A0, 1 / 64, 1 / 64, 100, every=10))
    loop = timed(
        lambda: [
            lora_one.descend(lora_one.planted.single(problem, s), B0[s], A0[s], 1 / 64, 1 / 64, 100, every=10)
            for s in range(20)
        ]
    )
    print(
        f"twenty problems of Figure 1, 100 steps: one batch {1e3 * batch:.0f} ms, one by one {1e3 * loop:.0f} "
        f"ms, ratio {loop / batch:.1f}"
    )


if __name__ == "__main__":
    main()
