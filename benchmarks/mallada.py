"""The map of exponents in one batch against one trajectory at a time: ``python -m benchmarks.mallada``.

64 seeds x 5 sizes of the start x 3 ratios delta_w of a 2 x 4 x 2 problem, followed to T_1 with 20 output times,
on one thread.  The peers are scipy's DOP853 and torchdiffeq's dopri5, one trajectory at a time, as a reader would
write them: numpy arrays for scipy, torch tensors for torchdiffeq, factors measured in units of the start for all.
A tool's tolerance is lowered by halves of a decade until its achieved error, the largest over systems and times of
|state - reference| / |state|, is at most the target; the reference is DOP853 at rtol 1e-13.  The peers run
on a sample of the systems, and their time is scaled to all of them.  Times are processor times; the median
ratio over the rounds is printed.  Nothing here is asserted by a test.
"""

import argparse
import statistics
import time
from importlib.metadata import version

import numpy as np
import torch
from scipy.integrate import solve_ivp

from lorabook import device, mallada

SIZES, RANK = (2, 4, 2), 1
SCALES = torch.tensor([1e-6, 1e-7, 1e-8, 1e-9, 1e-10], dtype=torch.float64)
RATIOS = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
TIMES = torch.linspace(0.05, 1.0, 20, dtype=torch.float64)
TARGETS = (1e-6, 1e-8)  # the map is read to two digits


def draw(seeds):
    """All systems of the map: (ratio, scale, seed), flattened, and their clocks (S,)."""
    source = device.generator(0)
    base = mallada.isotropic(SIZES, source, 1.0, 2.0, 1.5, count=seeds, device="cpu")
    A1, A2 = mallada.starts(base, RANK, SCALES, source)
    lead = (len(RATIOS), len(SCALES), seeds)

    def flat(tensor):
        return tensor.expand(*lead, *tensor.shape[-2:]).reshape(-1, *tensor.shape[-2:])

    problem = mallada.TwoLayer(flat(RATIOS[:, None, None, None, None] * base.W1), flat(base.W2), flat(base.shift))
    return problem, flat(A1), flat(A2), (-SCALES.log() / 3.0)[:, None].expand(lead).reshape(-1)


def join(factors):
    """(T, S, D) state."""
    return torch.cat([part.flatten(2) for part in factors[:4]], 2)


def with_lorabook(problem, A1, A2, clock, rtol):
    """All systems in one batched solve."""
    return join(mallada.flow(problem, A1, A2, TIMES, rtol, clock))


def pieces(A1, A2, k):
    """Unit, start and shapes of system k."""
    (r, n), h, m = A1.shape[1:], A2.shape[2], SIZES[0]
    unit = float(torch.cat([A1[k].flatten(), A2[k].flatten()]).square().mean().sqrt())
    shapes = [(h, r), (r, n), (m, r), (r, h)]
    start = torch.cat(
        [
            torch.zeros(h * r, dtype=A1.dtype),
            A1[k].flatten() / unit,
            torch.zeros(m * r, dtype=A1.dtype),
            A2[k].flatten() / unit,
        ]
    )
    return unit, start, shapes


def with_scipy(problem, A1, A2, clock, rtol):
    """One trajectory at a time, in numpy."""
    answers = []
    for k in range(len(A1)):
        unit, start, shapes = pieces(A1, A2, k)
        W1, W2, shift = (part[k].numpy() for part in (problem.W1, problem.W2, problem.shift))
        cuts, gain, pace = np.cumsum([a * b for a, b in shapes])[:-1], unit**2, float(clock[k])

        def rate(_, y):
            B1, A1, B2, A2 = (part.reshape(shape) for part, shape in zip(np.split(y, cuts), shapes))
            P1, P2 = gain * (B1 @ A1), gain * (B2 @ A2)
            V1, V2 = W1 + P1, W2 + P2
            R = pace * (shift - W2 @ P1 - P2 @ V1)
            G1, G2 = V2.T @ R, R @ V1.T
            return np.concatenate([(G1 @ A1.T).ravel(), (B1.T @ G1).ravel(), (G2 @ A2.T).ravel(), (B2.T @ G2).ravel()])

        run = solve_ivp(rate, (0, 1), start.numpy(), "DOP853", TIMES.numpy(), rtol=rtol, atol=rtol)
        answers.append(torch.from_numpy(run.y.T.copy()) * unit)
    return torch.stack(answers, 1)


def with_torchdiffeq(problem, A1, A2, clock, rtol):
    """One trajectory at a time, in torch."""
    from torchdiffeq import odeint

    answers = []
    for k in range(len(A1)):
        unit, start, shapes = pieces(A1, A2, k)
        W1, W2, shift = problem.W1[k], problem.W2[k], problem.shift[k]
        cuts = [a * b for a, b in shapes]

        def rate(_, y):
            state = [part.view(shape) for part, shape in zip(y.split(cuts), shapes)]
            return torch.cat([part.reshape(-1) for part in mallada.velocity(state, W1, W2, shift, unit**2, clock[k])])

        with torch.no_grad():
            times = torch.cat([TIMES.new_zeros(1), TIMES])
            answers.append(odeint(rate, start, times, rtol=rtol, atol=rtol, method="dopri5")[1:] * unit)
    return torch.stack(answers, 1)


def error(found, reference):
    return float(((found - reference).norm(dim=-1) / reference.norm(dim=-1)).max())


def tuned(tool, systems, reference, target):
    """The loosest tolerance, in half decades, at which the tool meets the target; and its error."""
    for exponent in np.arange(-6.0, -13.5, -0.5):
        reached = error(tool(*systems, 10.0**exponent), reference)
        if reached <= target:
            return 10.0**exponent, reached
    raise RuntimeError(f"{tool.__name__} does not reach {target:g}.")


def part_of(systems, pick):
    problem, A1, A2, clock = systems
    return mallada.TwoLayer(problem.W1[pick], problem.W2[pick], problem.shift[pick]), A1[pick], A2[pick], clock[pick]


def seconds(tool, systems, rtol):
    begun = time.process_time()
    tool(*systems, rtol)
    return time.process_time() - begun


def compare(everything, few, reference, target, rounds):
    """Tune every tool to the target, run them in turn, print times and ratios."""
    tools = {"lorabook, one batch": with_lorabook, "scipy DOP853": with_scipy, "torchdiffeq dopri5": with_torchdiffeq}
    chosen = {name: tuned(tool, few, reference, target) for name, tool in tools.items()}
    spent, total = {name: [] for name in tools}, len(everything[1])
    for _ in range(rounds):
        for name, tool in tools.items():
            whole = tool is with_lorabook
            once = seconds(tool, everything if whole else few, chosen[name][0])
            spent[name].append(once if whole else once * total / len(few[1]))
    ours = spent["lorabook, one batch"]
    print(f"error at most {target:g}")
    for name, times in spent.items():
        ratios = sorted(theirs / mine for theirs, mine in zip(times, ours))
        print(
            f"{name:>20}: rtol {chosen[name][0]:.1e}, error {chosen[name][1]:.1e}, {statistics.median(times):8.2f} s, "
            f"ratio {statistics.median(ratios):6.1f} [{ratios[0]:.1f}, {ratios[-1]:.1f}]",
            flush=True,
        )


def main(seeds=64, rounds=3, sample=12):
    torch.set_num_threads(1)
    everything = draw(seeds)
    total = len(everything[1])
    few = part_of(everything, torch.linspace(0, total - 1, sample).long())
    print(f"{total} systems of sizes {SIZES}, rank {RANK}; the peers on {sample} of them")
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "scipy", "torchdiffeq")), flush=True)
    reference = with_scipy(*few, 1e-13)
    for target in TARGETS:
        compare(everything, few, reference, target, rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=int, default=12)
    main(**vars(parser.parse_args()))
