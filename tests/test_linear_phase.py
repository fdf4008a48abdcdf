"""The early-phase system: matrix exponentials, the integrator, plain iteration, and its symmetries."""

import math

import pytest
import torch

from lorabook import device, flow, linalg, linear_phase

f64 = torch.float64
SEEDS = (0, 1, 2)
SHAPES = [(5, 4, 2), (4, 6, 3), (3, 3, 1), (4, 4, 4)]


def problem(seed, m, n, r, batch=()):
    source = device.generator(seed)
    return tuple(device.normal((*batch, *shape), source, "cpu") for shape in ((m, n), (m, r), (r, n)))


def joined(G, B, A):
    """H = [[0, G], [G^T, 0]] and Z = [B; A^T]."""
    m, n = G.shape[-2:]
    H = torch.zeros(*G.shape[:-2], m + n, m + n, dtype=f64)
    H[..., :m, m:], H[..., m:, :m] = G, G.mT
    return H, torch.cat([B, A.mT], -2)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("m, n, r", SHAPES)
def test_the_solution_is_a_matrix_exponential(seed, m, n, r):
    G, B0, A0 = problem(seed, m, n, r, (3,))
    H, Z0 = joined(G, B0, A0)
    times = torch.tensor([0.0, 1e-6, 0.4, 2.0], dtype=f64)
    B, A = linear_phase.propagate(G, B0, A0, times)
    assert B.shape == (4, 3, m, r) and A.shape == (4, 3, r, n)
    wanted = torch.matrix_exp(times[:, None, None, None] * H) @ Z0
    found = torch.cat([B, A.mT], -2)
    # rounding relative to exp(s_1 t), of which matrix_exp has its share
    assert ((found - wanted).abs().amax((-2, -1)) / wanted.abs().amax((-2, -1))).max() < 1e-13


@pytest.mark.parametrize("seed", SEEDS)
def test_the_solution_agrees_with_the_integrator(seed):
    G, B0, A0 = problem(seed, 5, 3, 2, (4,))
    times = torch.tensor([0.5, 2.0], dtype=f64)
    states = flow.integrate(
        lambda state, G: (G @ state[1].mT, state[0].mT @ G), (B0, A0), times, parameters=(G,)
    ).states
    for found, wanted in zip(linear_phase.propagate(G, B0, A0, times), states):
        # the integrator's error at rtol 1e-10
        assert (found - wanted).abs().max() < 1e-8 * wanted.abs().max()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_derivative_in_time_is_the_system(seed):
    G, B0, A0 = problem(seed, 4, 5, 2)
    moved = [
        torch.func.jvp(
            lambda t: linear_phase.propagate(G, B0, A0, t)[k], (torch.ones(1, dtype=f64),), (torch.ones(1, dtype=f64),)
        )
        for k in (0, 1)
    ]
    (B, dB), (A, dA) = moved
    # automatic differentiation is exact to rounding
    assert (dB - G @ A.mT).abs().max() < 1e-12 * dB.abs().max() and (dA - B.mT @ G).abs().max() < 1e-12 * dA.abs().max()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rate", [1e-3, 0.3, 5.0])
def test_the_discrete_form_is_plain_gradient_descent(seed, rate):
    G, B0, A0 = problem(seed, 5, 4, 2, (2,))
    found = linear_phase.iterate(G, B0, A0, rate, [0, 1, 2, 9])
    B, A = B0, A0
    for k in range(10):
        if k in (0, 1, 2, 9):
            row = (0, 1, 2, 9).index(k)
            for one, other in ((found[0][row], B), (found[1][row], A)):
                # rounding of nine steps, relative to what they have grown to
                assert (one - other).abs().max() < 1e-13 * (B.abs().max() + A.abs().max())
        B, A = B + rate * G @ A.mT, A + rate * B.mT @ G


@pytest.mark.parametrize("seed", SEEDS)
def test_descent_tends_to_the_flow_at_first_order(seed):
    G, B0, A0 = problem(seed, 4, 4, 2)
    B = linear_phase.propagate(G, B0, A0, [1.0])[0]
    counts = [100, 200, 400, 800]
    errors = [float((linear_phase.iterate(G, B0, A0, 1 / k, [k])[0] - B).norm()) for k in counts]
    slope = math.log(errors[0] / errors[-1]) / math.log(8)
    # 1 in the limit; the second-order term at a step of 1/100 shifts it by a few hundredths
    assert abs(slope - 1) < 0.05


def test_at_time_zero_the_start_is_returned_exactly():
    G, B0, A0 = problem(0, 5, 4, 2)
    for B, A in (linear_phase.propagate(G, B0, A0, 0), linear_phase.iterate(G, B0, A0, 0.1, 0)):
        assert torch.equal(B[0], B0) and torch.equal(A[0], A0)


def test_what_g_cannot_see_stays_as_it_is():
    _, B0, A0 = problem(1, 5, 4, 2)
    B, A = linear_phase.propagate(torch.zeros(5, 4, dtype=f64), B0, A0, [1.0, 1e300])
    assert torch.equal(B[1], B0) and torch.equal(A[1], A0)
    u, v = torch.eye(5, 1, dtype=f64), torch.eye(4, 1, dtype=f64)
    B, A = linear_phase.propagate(3 * u @ v.mT, B0, A0, [2.0])
    # a rank-one G moves one row of B and one column of A; the rest stays to rounding
    assert (B[0, 1:] - B0[1:]).abs().max() < 1e-15 and (A[0][:, 1:] - A0[:, 1:]).abs().max() < 1e-15
    wanted = math.cosh(6) * B0[0] + math.sinh(6) * A0[:, 0]
    assert (B[0, 0] / wanted - 1).abs().max() < 1e-13


@pytest.mark.parametrize("seed", SEEDS)
def test_rotations_units_and_transposes(seed):
    G, B0, A0 = problem(seed, 5, 4, 2)
    source = device.generator(seed + 30)
    U, V, Q = (linalg.random_orthonormal(k, k, source, "cpu") for k in (5, 4, 2))
    times = torch.tensor([0.5, 1.5], dtype=f64)
    B, A = linear_phase.propagate(G, B0, A0, times)
    turned = linear_phase.propagate(U @ G @ V.mT, U @ B0 @ Q, Q.mT @ A0 @ V.mT, times)
    flipped = linear_phase.propagate(G.mT, A0.mT, B0.mT, times)
    faster = linear_phase.propagate(16 * G, B0, A0, times / 16)
    scale = max(B.abs().max(), A.abs().max())
    for one, other in (
        (turned[0], U @ B @ Q),
        (turned[1], Q.mT @ A @ V.mT),
        (flipped[0], A.mT),
        (flipped[1], B.mT),
        (faster[0], B),
        (faster[1], A),
    ):
        # rounding of one more singular value decomposition
        assert (one - other).abs().max() < 1e-13 * scale


def test_many_systems_at_once_equal_one_by_one():
    G, B0, A0 = problem(3, 4, 5, 2, (6,))
    B, A = linear_phase.propagate(G, B0, A0, [2.0, 0.1])
    for k in range(6):
        one = linear_phase.propagate(G[k], B0[k], A0[k], [2.0, 0.1])
        # the same operations: rounding at most
        assert (one[0] - B[:, k]).abs().max() < 1e-13 * B.abs().max() and (
            one[1] - A[:, k]
        ).abs().max() < 1e-13 * A.abs().max()
    shared, _ = linear_phase.propagate(G[0], B0, A0[0], [2.0])
    assert shared.shape == (1, 6, 4, 2)


def test_a_time_out_of_range_spoils_neither_other_times_nor_other_systems():
    G, B0, A0 = problem(4, 4, 3, 2, (2,))
    G = G / torch.linalg.svdvals(G)[:, :1, None] * torch.tensor([1.0, 1e-3], dtype=f64)[:, None, None]
    B, A = linear_phase.propagate(G, B0 * 0, A0, [1.0, 1000.0])
    assert B[0].isfinite().all() and B[1, 1].isfinite().all()
    # exp(1000) is no float64: what comes is infinite or NaN, never a number
    assert not B[1, 0].isfinite().any() and not A[1, 0].isfinite().any()


def test_the_first_order_flow_of_a_loss_is_this_system_and_a_large_start_is_not():
    G, B0, A0 = problem(5, 4, 4, 2)

    def distance(scale):
        """The Frobenius flow at W0 = G from a start of this size, against the system, relative."""
        start = (scale * B0[None], scale * A0[None])
        velocity = lambda state: ((G - state[0] @ state[1]) @ state[1].mT, state[0].mT @ (G - state[0] @ state[1]))
        true = flow.integrate(velocity, start, [1.0]).states[0][0, 0]
        return float((linear_phase.propagate(G, *(x[0] for x in start), 1.0)[0][0] - true).norm() / true.norm())

    # what is left out is quadratic in the start
    assert distance(1e-4) < 1e-5 and 50 < distance(1e-2) / distance(1e-3) < 200
    assert distance(1.0) > 0.1


GOOD = problem(0, 5, 4, 2)


@pytest.mark.parametrize(
    "change, came",
    [
        ({"G": GOOD[0].mT}, r"^G \(4, 5\) and the update B A \(5, 4\)"),
        ({"G": GOOD[0] * math.nan}, "^G has entries that are NaN"),
        ({"B0": GOOD[1].float()}, "B must be a float64 tensor; got torch.float32"),
        ({"A0": GOOD[2][:1]}, "ranks 2 and 1 differ"),
        (
            {"B0": torch.ones(5, 5, dtype=f64), "A0": torch.ones(5, 4, dtype=f64)},
            "The rank 5 is above the smaller dimension 4",
        ),
        ({"B0": GOOD[1].expand(2, 5, 2), "A0": GOOD[2].expand(3, 2, 4)}, r"B \(2,\), A \(3,\)"),
        ({"last": [-1.0]}, "must not be negative; the smallest is -1"),
        ({"last": [math.nan]}, "NaN or infinite"),
    ],
)
@pytest.mark.parametrize("routine", ["propagate", "iterate"])
def test_a_bad_argument_gets_one_sentence(routine, change, came):
    arguments = (
        dict(zip(("G", "B0", "A0"), GOOD))
        | ({"learning_rate": 0.1} if routine == "iterate" else {})
        | {"last": [1.0]}
        | change
    )
    with pytest.raises(ValueError, match=came) as raised:
        getattr(linear_phase, routine)(*arguments.values())
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_learning_rate_is_positive_and_finite(rate):
    with pytest.raises(ValueError, match=f"learning_rate must be positive and finite; got {rate!r}."):
        linear_phase.iterate(*GOOD, rate, [1])


def test_steps_are_whole_and_called_steps():
    with pytest.raises(ValueError, match="^steps must be whole numbers; got 0.5.$"):
        linear_phase.iterate(*GOOD, 0.1, [1, 0.5])
    with pytest.raises(ValueError, match="^steps must not be negative"):
        linear_phase.iterate(*GOOD, 0.1, [-1])
