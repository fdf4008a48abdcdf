"""Every public routine stays on the device of its tensors, on a machine that has no other device.

Routines whose loops do not look at data run on fake CUDA tensors, which know shapes and devices and refuse
to be mixed.  The others run for real under a guard against factories without a device and hidden transfers.
"""

import importlib
import inspect
import pkgutil

import pytest
import torch
from device_discipline import fake_gpu, no_hidden_host_transfers
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

import lorabook
from lorabook import checks, descent, device, flow, linalg, linear_phase, measure, riccati, rushka
from lorabook.inputs import digits, minilm
from lorabook.page import figures
from lorabook.rushka import printed, runs

f64 = torch.float64
#: Rooms without tensors, and routines that take and give none.
TEXT = {
    "exact",
    "inputs.published",
    "kim.proofs",
    "lora_one.proofs",
    "mallada.proofs",
    "one_dynamics.proofs",
    "page.cards",
    "page.claims",
    "page.correspondence",
    "page.grounds",
    "page.ledger",
    "page.letters",
    "page.lists",
    "page.plotted",
    "page.svg",
}
TEXT |= {"page.parameters", "rushka.proofs"}
TEXT |= {f"sweep.{name}" for name in ("closure", "engine", "grid", "kernels", "notebook", "results", "workers")}
NUMBERS = {
    "checks.batch",
    "checks.count",
    "checks.is_fake",
    "checks.positive",
    "checks.package",
    "device.default_device",
    "device.describe",
    "device.generator",
    "page.figures.family",
    "page.figures.floor",
    "page.figures.panel",
    "page.figures.row",
    "page.figures.strip",
    "page.figures.phases",
    "page.figures.table",
    "inputs.minilm.locate",
    "inputs.minilm.tokenizer_file",
    "inputs.minilm.weights_file",
    "inputs.sentences.locate",
    "inputs.sentences.load",
    "inputs.sentences.split",
    "rushka.runs.saddle_error",
    "rushka.trace.error_floor",
    "rushka.trace.largest_step",
    "measure.wilson",
    "rushka.trace.expected_squared_error",
}


def ones(*shape, on="cuda"):
    return torch.ones(shape, dtype=f64, device=on)


def trace_pair():
    return ones(3, 4, 2), ones(3, 2, 4)


def loss_gradients(home):
    return rushka.frobenius_gradients(ones(4, 4, on=home))


#: Calls on fake CUDA tensors.
FAKE = {
    "checks.matrix": lambda: checks.matrix(ones(2, 2), "B"),
    "checks.finite": lambda: checks.finite(ones(2), "B"),
    "checks.factors": lambda: checks.factors(ones(3, 2), ones(2, 4), ones(3, 4)),
    "checks.sizes": lambda: checks.sizes(A0=ones(2)),
    "checks.number": lambda: [checks.number(value, "c", ones(1)) for value in (2.0, [1.0], ones(2, on="cpu"))],
    "checks.times": lambda: [checks.times(value, ones(1)) for value in (2.0, [0.0, 1.0], ones(2, on="cpu"), ones(2))],
    "checks.together": lambda: checks.together(1.0, ones(2), [3.0]),
    "device.tensor": lambda: device.tensor([1.0, 2.0], "cuda"),
    "device.normal": lambda: device.normal((2, 3), device.generator(0), "cuda"),
    "linalg.orthonormal": lambda: linalg.orthonormal(ones(3, 5, 2)),
    "linalg.random_orthonormal": lambda: linalg.random_orthonormal(5, 2, device.generator(0), "cuda"),
    "linalg.projector": lambda: linalg.projector(ones(5, 2)),
    "linalg.largest_sine": lambda: linalg.largest_sine(ones(5, 2), ones(5, 3)),
    "linalg.operator_norm": lambda: linalg.operator_norm(ones(5, 2)),
    "linalg.truncate": lambda: linalg.truncate(ones(5, 4), 2),
    "linalg.balance": lambda: linalg.balance(ones(5, 2), ones(2, 4)),
    "riccati.exchange": lambda: riccati.exchange(ones(3), ones(3), ones(3), ones(7, 1)),
    "riccati.mode_product": lambda: riccati.mode_product(ones(3), ones(3), ones(7, 1)),
    "riccati.time_to_residual": lambda: riccati.time_to_residual(ones(3), ones(3), ones(3)),
    "linear_phase.propagate": lambda: linear_phase.propagate(ones(3, 5, 4), ones(5, 2), ones(2, 4), [0.0, 1.0]),
    "linear_phase.iterate": lambda: linear_phase.iterate(ones(5, 4), ones(3, 5, 2), ones(2, 4), 0.1, [0, 1]),
    "measure.slope": lambda: measure.slope(ones(3, 5), ones(3, 5)),
    "measure.log_slope": lambda: measure.log_slope(ones(3, 5), ones(3, 5)),
    "measure.first_passage": lambda: [
        measure.first_passage(ones(5), ones(5, 3), level, *kind)
        for level in (1.0, ones(3))
        for kind in ((True,), (False, False))
    ],
    "rushka.algorithm.descend": lambda: [
        rushka.descend(*loss_gradients("cuda"), *trace_pair(), step, 3, 2, 0.5) for step in (0.1, ones(3, 1, 1))
    ],
    "rushka.trace.trace_gradients": lambda: [
        g(*trace_pair()) for c in (1.0, ones(3)) for g in rushka.trace_gradients(c)
    ],
    "rushka.trace.trace_flow": lambda: [
        rushka.trace_flow(c, *trace_pair(), [0.0, 1.0]) for c in (1.0, ones(3), ones(3, on="cpu"))
    ],
    "rushka.trace.trace_limit": lambda: [
        rushka.trace_limit(c, *trace_pair()) for c in (1.0, ones(3), ones(3, on="cpu"))
    ],
    "rushka.trace.full_rank_flow": lambda: [rushka.full_rank_flow(c, ones(3, 4, 4), [1.0]) for c in (1.0, ones(3))],
    "rushka.trace.time_to_residual": lambda: [rushka.time_to_residual(c, ones(3, 2, 4), 0.1) for c in (1.0, ones(3))],
    "rushka.trace.relative_error": lambda: rushka.relative_error(ones(3, 2, 4)),
    "rushka.low_rank.frobenius_gradients": lambda: [g(ones(4, 2), ones(2, 4)) for g in loss_gradients("cuda")],
    "rushka.low_rank.mode": lambda: [rushka.mode(ones(3), x0, [0.0, 1.0]) for x0 in (0.1, ones(3))],
    "rushka.low_rank.half_time": lambda: rushka.half_time(ones(3), 0.1),
    "rushka.low_rank.tail_sum": lambda: rushka.tail_sum(ones(3, 5, 4)),
    "rushka.low_rank.spectral_start": lambda: [rushka.spectral_start(ones(5, 4), ones(2), t) for t in (None, [0, 2])],
    "rushka.printed.scalars": lambda: printed.scalars(2.0, ones(2, 4), ones(5)),
    "rushka.printed.trace_flow": lambda: printed.trace_flow(2.0, ones(4, 2), ones(2, 4), ones(5)),
    "rushka.printed.limits": lambda: [printed.limits(2.0, ones(2, 4), misplaced) for misplaced in (True, False)],
    "rushka.printed.gradient_bound": lambda: printed.gradient_bound(ones(3), 1.0),
    "rushka.printed.lipschitz_constant": lambda: printed.lipschitz_constant(ones(3), 1.0),
}


def draw(*shape):
    return device.normal(shape, device.generator(sum(shape)), "cpu")


def step_by(rule):
    """Five steps of one rule, and the draws it takes."""
    forces = lambda B, A: (-B, -A)
    return lambda B, A: descent.descend(forces, B, A, 0.1, 0.1, 5, rule=rule), lambda: (draw(3, 4, 2), draw(3, 2, 4))


#: Calls on real tensors, made before the guard is up.
GUARDED = {
    "descent.descend": step_by(descent.plain),
    "descent.plain": step_by(descent.plain),
    "descent.preconditioned": step_by(descent.preconditioned(0.1)),
    "descent.momentum": step_by(descent.momentum(0.5)),
    "descent.decayed": step_by(descent.decayed(0.1)),
    "descent.signed": step_by(descent.signed),
    "descent.adam": step_by(descent.adam()),
    "linalg.thin_svd": (linalg.thin_svd, lambda: (draw(80, 70),)),
    "checks.finite": (lambda x: checks.finite(x, "B"), lambda: (draw(3),)),
    "checks.sizes": (lambda x: checks.sizes(A0=x), lambda: (draw(3),)),
    "checks.factors": (checks.factors, lambda: (draw(3, 2), draw(2, 4), draw(3, 4))),
    "flow.integrate": (lambda y: flow.integrate(lambda y: -y, y, [1.0]), lambda: (draw(2, 3),)),
    "measure.relative": (measure.relative, lambda: (draw(3), draw(3))),
    "riccati.balanced_factors": (
        riccati.balanced_factors,
        lambda: (torch.diag(draw(4)), draw(4, 2), draw(3).abs().cumsum(0)),
    ),
    "linear_phase.iterate": (
        lambda *x: linear_phase.iterate(*x, 0.1, [0, 3]),
        lambda: (draw(5, 4), draw(5, 2), draw(2, 4)),
    ),
    "rushka.trace.trace_flow": (
        lambda B, A: rushka.trace_flow(1.0, B, A, [0.0, 1.0]),
        lambda: (draw(4, 2), draw(2, 4)),
    ),
    "rushka.trace.time_to_residual": (lambda A: rushka.time_to_residual(1.0, A, 0.1), lambda: (draw(2, 4),)),
    "rushka.trace.relative_error": (rushka.relative_error, lambda: (draw(2, 4),)),
    "rushka.low_rank.mode": (lambda s: rushka.mode(s, 0.1, [0.0, 1.0]), lambda: (draw(3).abs(),)),
    "rushka.low_rank.half_time": (lambda s: rushka.half_time(s, 0.1), lambda: (draw(3).abs(),)),
    "rushka.low_rank.spectral_start": (lambda W, x: rushka.spectral_start(W, x, [0, 2]), lambda: (draw(5, 4), draw(2))),
    "rushka.low_rank.frobenius_flow": (
        lambda *x: rushka.frobenius_flow(*x, [0.0, 1.0]),
        lambda: (draw(3, 5, 4), draw(3, 5, 1), draw(1, 4)),
    ),
    "rushka.runs.follow": (
        lambda B, A: runs.follow(loss_gradients("cpu"), B, A, [0.1]),
        lambda: (draw(2, 4, 2), draw(2, 2, 4)),
    ),
    "rushka.runs.largest_errors": (
        lambda B, A: runs.largest_errors(loss_gradients("cpu"), B, A, 0.1, (64,), [(1, 0.5)]),
        lambda: (draw(2, 4, 2), draw(2, 2, 4)),
    ),
    "rushka.runs.local_errors": (
        lambda B, A: runs.local_errors(loss_gradients("cpu"), B, A, 0.1, 4),
        lambda: (draw(4, 2), draw(2, 4)),
    ),
    "rushka.runs.interpolant_misfit": (
        lambda B, A: runs.interpolant_misfit(loss_gradients("cpu"), B, A, 0.1, True),
        lambda: (draw(4, 2), draw(2, 4)),
    ),
    "rushka.runs.converging_steps": (lambda: runs.converging_steps(2.0, 1.0, 4, 3, 0), lambda: ()),
    "rushka.algorithm.descent_error": (
        lambda W0, B, A: rushka.descent_error(*rushka.frobenius_gradients(W0), B, A, [0.3], [1, 2], [1.0, 0.0]),
        lambda: (draw(4, 3), draw(4, 2), draw(2, 3)),
    ),
}
#: Drawing is the one place where data has to leave its device: by .cpu(), where everybody can see it.
DRAWN = {
    "page.figures.curves": lambda ax, x: figures.curves(ax, x, x[None], ["a"], "rushka", x[None]),
    "page.figures.curves of a list": lambda ax, x: figures.curves(ax, x, [x, x], ["a", "b"], "rushka", [x, x]),
    "page.figures.scatter": lambda ax, x: figures.scatter(ax, x[None], x[None], ["a"], "rushka"),
    "page.figures.by_source": lambda ax, x: figures.by_source(
        ax, x, {"kim": x, "rushka": x}, {"kim": "a", "rushka": "b"}
    ),
    "page.figures.by_source with its own abscissae": lambda ax, x: figures.by_source(
        ax, {"kim": x}, {"kim": x}, {"kim": "a"}
    ),
    "page.figures.reference": lambda ax, x: figures.reference(ax, x, x, "a"),
    "page.figures.spread": lambda ax, x: figures.spread(ax, x, x[:, None] + x, "rushka", "a"),
    "page.figures.bands": lambda ax, x: figures.bands(ax, x, (x[:, None] + x)[None], ["a"], "rushka"),
    "page.figures.bars": lambda ax, x: figures.bars(ax, list("abcde"), x, "rushka"),
    "page.figures.intervals": lambda ax, x: figures.intervals(ax, list("abcde"), x, x, "rushka"),
    "page.figures.heat": lambda ax, x: figures.heat(
        ax, list("abcde"), list("abcde"), x[:, None] * x, [list("abcde")] * 5, "rushka", (0.1, 1.0)
    ),
    "page.figures.stream": lambda ax, x: figures.stream(
        ax, torch.linspace(0, 1, 5), torch.linspace(0, 1, 5), x[:, None] * x, x[:, None] + x
    ),
    "page.figures.rates": lambda ax, x: figures.rates(ax, x, x[None], x[None] / 2, x[None] * 2, ["a"], "rushka"),
    "page.figures.contours": lambda ax, x: figures.contours(ax, x, x, x[:, None] * x, {}, "rushka"),
}
MOVED = {
    "inputs.minilm.encoder": lambda: minilm.encoder(device="meta"),
    "inputs.digits.split": lambda: digits.split(device="meta"),
    "inputs.digits.shuffled": lambda: digits.shuffled(device.generator(0), "meta"),
}


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [found for part in value for found in tensors(part)] if isinstance(value, (tuple, list)) else []


@pytest.mark.parametrize("name", FAKE)
def test_what_comes_from_a_gpu_stays_on_the_gpu(name):
    with fake_gpu():
        found = tensors(FAKE[name]())
    assert name in ("checks.finite", "checks.factors", "checks.sizes") or found
    for tensor in found:
        assert isinstance(tensor, FakeTensor) and tensor.device.type == "cuda" and tensor.dtype == f64


@pytest.mark.parametrize("name", GUARDED)
def test_no_tensor_is_made_elsewhere_and_none_is_moved(name):
    routine, arguments = GUARDED[name]
    arguments = arguments()
    with no_hidden_host_transfers():
        routine(*arguments)


class OnlyOpenTransfers(TorchFunctionMode):
    """.numpy() and .tolist() are legal on what .cpu() has given, and on nothing else."""

    def __init__(self):
        super().__init__()
        self.moved = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__):
            assert any(args[0] is tensor for tensor in self.moved), "a transfer without .cpu()"
        found = function(*args, **(kwargs or {}))
        if function is torch.Tensor.cpu:
            # .cpu() of a tensor on the CPU is that tensor itself: remember a new one
            found = found.view_as(found)
            self.moved.append(found)
        return found


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_fetches_its_data_openly_and_without_gradients(name):
    x = torch.linspace(0.1, 1, 5, dtype=f64).requires_grad_()
    with OnlyOpenTransfers() as seen:
        DRAWN[name](figures.panel("x", "y"), x)
    assert seen.moved


@pytest.mark.parametrize("name", MOVED)
def test_what_is_read_goes_where_it_is_wanted(name):
    found = MOVED[name]()
    found = tensors(tuple(found.values()) if isinstance(found, dict) else found)
    assert found and all(tensor.is_meta for tensor in found)


def test_the_fake_gpu_indexes_like_a_real_tensor():
    x = torch.arange(120).reshape(2, 3, 4, 5)
    for index in (
        0,
        -1,
        None,
        ...,
        slice(1, None),
        (..., None, None),
        (..., 0),
        (slice(None), 1),
        (0, ..., slice(None, 2), None),
        (..., slice(1, 3), slice(None)),
        (None, 1, ..., None, slice(0, 4, 2)),
        slice(0, 0),
    ):
        wanted = x[index].shape
        with fake_gpu():
            found = torch.zeros(2, 3, 4, 5, device="cuda")[index]
        assert found.shape == wanted and found.device.type == "cuda", index


def test_the_fake_gpu_refuses_a_tensor_of_the_cpu():
    with fake_gpu(), pytest.raises(Exception, match="[Dd]evice"):
        ones(2) + ones(2, on="cpu")


def public_routines():
    """Names of all functions of the shared rooms and of rushka, as <module>.<function>."""
    others = {
        "mallada",
        "lora_one",
        "kim",
        "maps",
        "one_dynamics",
        "real_fine_tune",
        "practice",
        "adapters",
        "commands",
        "experiments",
        "__main__",
    }  # their own tests look after them
    found = set()
    for info in pkgutil.walk_packages(lorabook.__path__, "lorabook."):
        name = info.name.removeprefix("lorabook.")
        if info.ispkg or name in TEXT or name.split(".")[0] in others:
            continue
        for label, value in vars(importlib.import_module(info.name)).items():
            if inspect.isfunction(value) and value.__module__ == info.name and not label.startswith("_"):
                found.add(f"{name}.{label}")
    return found


def test_every_public_routine_has_a_device_test():
    tested = NUMBERS | FAKE.keys() | GUARDED.keys() | {name.split()[0] for name in DRAWN} | MOVED.keys()
    missing, gone = public_routines() - tested, tested - public_routines()
    assert not missing, f"without a device test: {', '.join(sorted(missing))}"
    assert not gone, f"tested and no longer there: {', '.join(sorted(gone))}"


def test_everything_that_rushka_exports_is_among_them():
    routines = {name.rsplit(".", 1)[1] for name in public_routines() if name.startswith("rushka.")}
    exported = {name for name, value in vars(rushka).items() if inspect.isfunction(value)}
    assert "trace_flow" in exported and exported <= routines


@pytest.mark.parametrize("room", sorted(TEXT))
def test_rooms_without_tensors_do_not_know_torch(room):
    assert "torch" not in vars(importlib.import_module(f"lorabook.{room}"))
