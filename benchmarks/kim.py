"""A trap-rate curve in one batch, against the same runs one by one in torch and with scipy's L-BFGS.

    python -m benchmarks.kim

Ratios are peer time per start over ours; one thread; the peers run a part of the starts.
"""

from __future__ import annotations

import time

import torch
from scipy.optimize import minimize

from lorabook import device, kim

SCALES = (0.01, 0.1, 0.3, 1.0, 2.0)


def drawn(problem, count: int):
    """Zero starts of five scales, ``count`` in all."""
    parts = [
        kim.descent.starts(problem, problem.rank, count // len(SCALES), scale, device.generator(0), "zero", "cpu")
        for scale in SCALES
    ]
    return tuple(torch.cat(part) for part in zip(*parts))


def lbfgs(problem, B, A) -> float:
    """Objective at which scipy's L-BFGS stops from one start."""
    m, r, n = *B.shape, A.shape[-1]

    def fun(w):
        w = torch.as_tensor(w)
        b, a = w[: m * r].reshape(m, r), w[m * r :].reshape(r, n)
        gB, gA = kim.landscape.factored_gradient(problem, b, a)
        return float(kim.landscape.objective(problem, b, a)), torch.cat([gB.flatten(), gA.flatten()]).numpy()

    start = torch.cat([B.flatten(), A.flatten()]).numpy()
    return minimize(
        fun, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 20000}
    ).fun


def main() -> None:
    """Print one block per instance."""
    torch.set_num_threads(1)
    for name in ("strict", "magnet", "degenerate"):
        problem = kim.laboratory.instance(name)
        optimum = float(kim.landscape.full_objective(problem, problem.solution))
        B, A = drawn(problem, 2000)
        begun = time.perf_counter()
        batch = kim.train(problem, B, A, steps=1500)
        ours = (time.perf_counter() - begun) / len(B)
        few = range(0, len(B), len(B) // 40)
        begun = time.perf_counter()
        alone = [kim.train(problem, B[k : k + 1], A[k : k + 1], steps=1500) for k in few]
        single = (time.perf_counter() - begun) / len(few)
        some = range(0, len(B), len(B) // 200)
        begun = time.perf_counter()
        theirs = [lbfgs(problem, B[k], A[k]) for k in some]
        scipy = (time.perf_counter() - begun) / len(some)
        same = sum(abs(float(run.objective[0] - batch.objective[k])) < 1e-6 for k, run in zip(few, alone))
        trapped = kim.runs.spurious(problem, batch, optimum)
        print(
            f"{name}: 2000 starts in {ours * len(B):.1f} s, {float(trapped.double().mean()):.3f} trapped, "
            f"{int((batch.status != kim.descent.DONE).sum())} not converged"
        )
        print(f"  one by one / batch = {single / ours:.0f} ({same} of {len(few)} ends equal)")
        print(
            f"  scipy L-BFGS / batch = {scipy / ours:.1f} (trapped "
            f"{sum(value > optimum + 1e-6 for value in theirs) / len(some):.3f}; it jumps between basins)"
        )


if __name__ == "__main__":
    main()
