"""Closed forms of Rushka & Klabjan against the ways around them, in one run.

    python -m benchmarks.rushka

Ratios are peer time over ours; medians of interleaved repeats, one thread.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from scipy.integrate import solve_ivp

from lorabook import device, flow, linalg, measure, rushka


def clock(*routines, repeats: int = 5) -> list[float]:
    """Median seconds of each routine, interleaved."""
    seconds = [[] for _ in routines]
    for _ in range(repeats):
        for record, routine in zip(seconds, routines):
            begun = time.perf_counter()
            routine()
            record.append(time.perf_counter() - begun)
    return [statistics.median(record) for record in seconds]


def trace_times() -> None:
    """One trajectory at many times: closed form against DOP853 with dense output."""
    source = device.generator(0)
    A0, B0, c = 0.3 * device.normal((2, 8), source), torch.zeros(8, 2, dtype=device.DTYPE), 3.0
    times = torch.linspace(0, 3, 1_000_000, dtype=device.DTYPE)
    start = np.r_[B0.numpy().ravel(), A0.numpy().ravel()]

    def velocity(_, z):
        B, A = z[:16].reshape(8, 2), z[16:].reshape(2, 8)
        residual = c - np.sum(B * A.T)
        return np.r_[(residual * A.T).ravel(), (residual * B.T).ravel()]

    def peer():
        return solve_ivp(velocity, (0, 3), start, method="DOP853", rtol=1e-11, atol=1e-13, t_eval=times.numpy()).y

    ours, scipy = clock(lambda: rushka.trace_flow(c, B0, A0, times), peer, repeats=3)
    error = np.abs(rushka.trace_flow(c, B0, A0, times).A[-1].numpy().ravel() - peer()[16:, -1]).max()
    print(
        f"trace_flow, 1e6 times, 8 x 8, rank 2: {ours:.2f} s; scipy DOP853 / ours = {scipy / ours:.1f}; "
        f"difference {error:.0e}"
    )


def frobenius() -> None:
    """A balanced start on a 64 x 48 target: closed form against our own integrator."""
    source = device.generator(1)
    W0 = device.normal((64, 48), source) / 7
    A0, B0 = 0.1 * linalg.random_orthonormal(48, 6, source).mT.contiguous(), torch.zeros(64, 6, dtype=device.DTYPE)
    times = torch.linspace(0, 30, 31, dtype=device.DTYPE)
    gradient_B, gradient_A = rushka.frobenius_gradients(W0)

    def peer():
        B, A = flow.integrate(
            lambda z: (-gradient_B(*z), -gradient_A(*z)), (B0[None], A0[None]), times, rtol=1e-9
        ).states
        return (B @ A)[:, 0]

    ours, integrator = clock(lambda: rushka.frobenius_flow(W0, B0, A0, times), peer)
    error = measure.relative(rushka.frobenius_flow(W0, B0, A0, times), peer())
    print(
        f"frobenius_flow, 64 x 48, rank 6: {ours * 1e3:.1f} ms; integrator / ours = {integrator / ours:.1f}; "
        f"difference {error:.0e}"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    trace_times()
    frobenius()
