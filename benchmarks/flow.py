"""Gradient flow against its peers, at equal achieved error: ``python -m benchmarks.flow``.

Random factorisations W0 = B A of 16 x 16, rank 4, over 10 units of flow time with 11 output times, on one
thread.  The rtol of every tool (atol = rtol / 100) is searched until the achieved error, the largest over
systems and times of |y - reference| / |y|, lies between half the target and the target; the reference is
scipy's DOP853 at rtol 1e-13.  Then all tools run in turn, several rounds; a ratio is taken within each round,
and its median printed.  Times are processor times, which on one thread are the wall times of a machine that
does nothing else.  Nothing here is asserted by a test.
"""

import argparse
import statistics
import time
from importlib.metadata import version

import numpy as np
import torch
from scipy.integrate import solve_ivp

from lorabook.flow import integrate

M, N, R = 16, 16, 4
TIMES = torch.linspace(0, 10, 11, dtype=torch.float64)
TARGETS = (1e-6, 1e-10)
ROUNDS = {1: 9, 64: 7, 512: 3}


def frobenius(B, A, W0):
    """Minus the gradient of |W0 - B A|^2 / 2."""
    residual = W0 - B @ A
    return residual @ A.mT, B.mT @ residual


def problem(S, seed=0):
    generator = torch.Generator().manual_seed(seed)
    B, A, W0 = (torch.randn(S, *s, generator=generator, dtype=torch.float64) / 4 for s in ((M, R), (R, N), (M, N)))
    return B, A, W0


def flat(B, A):
    return torch.cat((B.flatten(-2), A.flatten(-2)), -1)


def with_lorabook(B, A, W0, rtol):
    """Our integrator."""
    solution = integrate(lambda state, W0: frobenius(*state, W0), (B, A), TIMES, rtol, rtol / 100, (W0,))
    return flat(*solution.states), solution.evaluations


def with_scipy(B, A, W0, rtol):
    """A loop over the systems."""
    results, evaluations, k = [], 0, M * R
    for y0, W in zip(flat(B, A).numpy(), W0.numpy()):

        def velocity(_, y):
            B, A = y[:k].reshape(M, R), y[k:].reshape(R, N)
            residual = W - B @ A
            return np.concatenate(((residual @ A.T).ravel(), (B.T @ residual).ravel()))

        run = solve_ivp(velocity, (0, 10), y0, "DOP853", TIMES.numpy(), rtol=rtol, atol=rtol / 100)
        results.append(torch.from_numpy(run.y.T))
        evaluations = max(evaluations, run.nfev)
    return torch.stack(results, 1), evaluations


def with_torchdiffeq(B, A, W0, rtol):
    """One step size for the whole batch."""
    from torchdiffeq import odeint

    calls = 0

    def velocity(_, state):
        nonlocal calls
        calls += 1
        return frobenius(*state, W0)

    with torch.no_grad():
        states = odeint(velocity, (B, A), TIMES, rtol=rtol, atol=rtol / 100, method="dopri5")
    return flat(*states), calls


def with_torchode(method):
    """One step size per system."""

    def run(B, A, W0, rtol):
        import torchode

        calls, k = 0, M * R

        def velocity(_, y):
            nonlocal calls
            calls += 1
            return flat(*frobenius(y[:, :k].view(-1, M, R), y[:, k:].view(-1, R, N), W0))

        term = torchode.ODETerm(velocity)
        controller = torchode.IntegralController(atol=rtol / 100, rtol=rtol, term=term)
        solver = torchode.AutoDiffAdjoint(getattr(torchode, method)(term=term), controller)
        with torch.no_grad():
            start = torchode.InitialValueProblem(y0=flat(B, A), t_eval=TIMES.expand(len(B), -1))
            states = solver.solve(start).ys
        return states.transpose(0, 1), calls

    return run


TOOLS = {
    "lorabook.flow": with_lorabook,
    "torchdiffeq dopri5": with_torchdiffeq,
    "torchode Dopri5": with_torchode("Dopri5"),
    "torchode Tsit5": with_torchode("Tsit5"),
    "scipy DOP853, a loop": with_scipy,
}


def achieved(found, reference):
    return float(((found - reference).norm(dim=-1) / reference.norm(dim=-1)).max())


def matched(tool, data, reference, target):
    """(rtol, error, evaluations) of a tool with target / 2 <= error <= target, or the nearest found below."""
    rtol, best = target, None
    for _ in range(12):
        found, evaluations = tool(*data, rtol)
        error = achieved(found, reference)
        if error <= target and (best is None or error > best[1]):
            best = rtol, error, evaluations
        if target / 2 <= error <= target:
            break
        rtol = max(rtol * 0.75 * target / error, 1e-13)
    return best or (rtol, error, evaluations)


def timed(run, *arguments):
    begin = time.process_time()
    run(*arguments)
    return time.process_time() - begin


def evaluation_time(B, A, W0, calls=200):
    begin = time.process_time()
    for _ in range(calls):
        frobenius(B, A, W0)
    return (time.process_time() - begin) / calls


def available(data):
    """The tools that can be loaded; the others are named and left out."""
    tools = {}
    for name, tool in TOOLS.items():
        try:
            tool(*(part[:1] for part in data), 1e-3)
            tools[name] = tool
        except ImportError as missing:
            print(f"{name}: left out ({missing})")
    return tools


def main(sizes):
    torch.set_num_threads(1)
    names = ("torch", "scipy", "torchdiffeq", "torchode")
    print("threads 1;", ", ".join(f"{name} {_version(name)}" for name in names))
    tools = available(problem(1))
    for S in sizes:
        data = problem(S)
        reference, _ = with_scipy(*data, 1e-13)
        for target in TARGETS:
            settings = {name: matched(tool, data, reference, target) for name, tool in tools.items()}
            seconds, evaluation = {name: [] for name in tools}, []
            for _ in range(ROUNDS.get(S, 3)):
                evaluation.append(evaluation_time(*data))
                for name, tool in tools.items():
                    seconds[name].append(timed(tool, *data, settings[name][0]))
            _table(S, target, settings, seconds, evaluation)


def _version(name):
    try:
        return version(name)
    except ModuleNotFoundError:
        return "missing"


def _table(S, target, settings, seconds, evaluation):
    print(f"\n{S} systems, error at most {target:g}; one evaluation {statistics.median(evaluation) * 1e6:.0f} us")
    print(f"{'':22}{'rtol':>9}{'error':>9}{'calls':>7}{'ms':>10}{'ratio to ours':>15}{'to calls x one call':>21}")
    ours = seconds["lorabook.flow"]
    for name, (rtol, error, calls) in settings.items():
        ratio = statistics.median(mine / our for mine, our in zip(seconds[name], ours))
        # scipy calls its velocity for one system at a time: the ratio would compare unlike things
        bare = statistics.median(mine / (calls * one) for mine, one in zip(seconds[name], evaluation))
        overhead = f"{bare:21.2f}" if "scipy" not in name else f"{'':>21}"
        median = statistics.median(seconds[name]) * 1e3
        print(f"{name:22}{rtol:9.1e}{error:9.1e}{calls:7d}{median:10.1f}{ratio:15.2f}{overhead}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=int, default=[1, 64, 512], help="how many systems at once")
    main(parser.parse_args().sizes)
