"""Algorithm 1: its two readings, its limit, and the sharp error around it."""

import math

import pytest
import torch

from lorabook import device, flow, linalg, rushka

f64 = torch.float64
VARIANTS = [(1, 1.0), (1, 0.0), (1, 0.5), (3, 1.0), (2, 0.3)]


def problem(seed, m=4, n=3, r=2):
    source = device.generator(seed)
    W0, B0, A0 = (device.normal(shape, source, "cpu") for shape in ((m, n), (m, r), (r, n)))
    return rushka.frobenius_gradients(W0), B0 / 2, A0 / 2, W0


def slope(steps, errors):
    return math.log(errors[0] / errors[-1]) / math.log(steps[0] / steps[-1])


# The updates


def test_at_mixing_one_both_factors_move_from_the_old_point():
    (gB, gA), B, A, _ = problem(0)
    found = rushka.descend(gB, gA, B, A, 0.1, 3)
    for _ in range(3):
        B, A = B - 0.1 * gB(B, A), A - 0.1 * gA(B, A)
    assert torch.equal(found[0], B) and torch.equal(found[1], A)


def test_at_mixing_zero_the_second_factor_sees_the_first_ones_step():
    (gB, gA), B, A, _ = problem(1)
    found = rushka.descend(gB, gA, B, A, 0.1, 3, mixing=0.0)
    for _ in range(3):
        B = B - 0.1 * gB(B, A)
        A = A - 0.1 * gA(B, A)
    # 0 * old + 1 * new is the new value exactly
    assert torch.equal(found[0], B) and torch.equal(found[1], A)


@pytest.mark.parametrize("inner, mixing", VARIANTS)
def test_equations_4_and_5_written_out(inner, mixing):
    """B_k = B_0 - step sum_j grad_B(B_j, A_0), A_k = A_0 - step sum_j grad_A(mixed B, A_j)."""
    (gB, gA), B0, A0, _ = problem(2)
    found = rushka.descend(gB, gA, B0, A0, 0.05, 1, inner, mixing)
    path = [B0]
    for _ in range(inner):
        path.append(B0 - 0.05 * sum(gB(B, A0) for B in path))
    mixed, line = mixing * B0 + (1 - mixing) * path[-1], [A0]
    for _ in range(inner):
        line.append(A0 - 0.05 * sum(gA(mixed, A) for A in line))
    # sums in another order: rounding
    assert (found[0] - path[-1]).abs().max() < 1e-14 and (found[1] - line[-1]).abs().max() < 1e-14


def test_no_iteration_is_the_start_and_the_start_is_left_alone():
    (gB, gA), B0, A0, _ = problem(3)
    before = B0.clone(), A0.clone()
    B, A = rushka.descend(gB, gA, B0, A0, 0.1, 0)
    assert torch.equal(B, B0) and torch.equal(A, A0)
    rushka.descend(gB, gA, B0, A0, 0.1, 5, 2, 0.5)
    assert torch.equal(B0, before[0]) and torch.equal(A0, before[1])


def test_iterations_compose_but_only_with_the_right_mixture():
    (gB, gA), B0, A0, _ = problem(4)
    run = lambda B, A, count, **options: rushka.descend(gB, gA, B, A, 0.1, count, 2, 0.5, **options)
    assert torch.equal(run(*run(B0, A0, 2), 3)[1], run(B0, A0, 5)[1])
    # the printed algorithm remembers its average, which a restart forgets
    printed = run(*run(B0, A0, 2, as_printed=True), 3, as_printed=True)[1]
    assert (printed - run(B0, A0, 5, as_printed=True)[1]).abs().max() > 1e-3


# As printed


def test_as_printed_the_average_is_frozen_at_mixing_one():
    (gB, gA), B0, A0, _ = problem(5)
    zero = torch.zeros_like(B0)
    B, A = rushka.descend(gB, gA, zero, A0, 0.05, 200, as_printed=True)
    # gradient_A at B* = 0 is 0: A never moves, B does
    assert torch.equal(A, A0) and B.norm() > 0.1
    assert (rushka.descend(gB, gA, zero, A0, 0.05, 200)[1] - A0).norm() > 0.1


@pytest.mark.parametrize("mixing", [0.0, 0.3, 0.7])
def test_the_printed_line_is_an_exponential_average(mixing):
    (gB, gA), B0, A0, _ = problem(6)
    found = rushka.descend(gB, gA, B0, A0, 0.05, 6, mixing=mixing, as_printed=True)
    B, A, seen = B0, A0, [B0]
    for k in range(1, 7):
        B = B - 0.05 * gB(B, A)
        seen.append(B)
        weights = [mixing**k] + [(1 - mixing) * mixing ** (k - j) for j in range(1, k + 1)]
        A = A - 0.05 * gA(sum(w * x for w, x in zip(weights, seen)), A)
    # the same sum in another order: rounding
    assert (found[0] - B).abs().max() < 1e-14 and (found[1] - A).abs().max() < 1e-14


def test_printed_and_right_agree_in_the_first_iteration_and_at_mixing_zero():
    (gB, gA), B0, A0, _ = problem(7)
    for count, mixing in ((1, 0.3), (9, 0.0)):
        both = [rushka.descend(gB, gA, B0, A0, 0.05, count, 2, mixing, as_printed=flag)[1] for flag in (True, False)]
        assert torch.equal(*both)


# The limit


@pytest.mark.parametrize("inner, mixing", VARIANTS)
def test_descent_tends_to_the_flow_at_first_order_and_to_the_sharp_error_at_second(inner, mixing):
    (gB, gA), B0, A0, W0 = problem(8)
    horizon = 1.2
    (B, A), (EB, EA) = (
        tuple(x[0, 0] for x in pair) for pair in rushka.descent_error(gB, gA, B0, A0, [horizon], [inner], [mixing])
    )
    oracle = flow.integrate(lambda state: (-gB(*state), -gA(*state)), (B0[None], A0[None]), [horizon]).states
    # both runs carry the integrator's error at rtol 1e-9
    assert (B - oracle[0][0, 0]).abs().max() < 1e-8
    steps, first, second = [], [], []
    for count in (50, 100, 200, 400):
        step = horizon / (inner * count)
        found = rushka.descend(gB, gA, B0, A0, step, count, inner, mixing)
        steps.append(step)
        first.append(math.hypot(float((found[0] - B).norm()), float((found[1] - A).norm())))
        second.append(math.hypot(float((found[0] - B - step * EB).norm()), float((found[1] - A - step * EA).norm())))
    # the next order shifts each slope by a few hundredths at these steps
    assert abs(slope(steps, first) - 1) < 0.1 and abs(slope(steps, second) - 2) < 0.1


def test_the_printed_average_misses_the_flow_at_mixing_one_however_small_the_step():
    (gB, gA), B0, A0, _ = problem(8)
    B, A = (x[0, 0] for x in flow.integrate(lambda s: (-gB(*s), -gA(*s)), (B0[None], A0[None]), [1.2]).states)
    misses = [
        float((rushka.descend(gB, gA, B0, A0, 1.2 / count, count, as_printed=True)[1] - A).norm())
        for count in (100, 400)
    ]
    # counter-probe: nothing is gained by a step four times smaller
    assert min(misses) > 0.1 and abs(misses[1] / misses[0] - 1) < 0.1


@pytest.mark.parametrize("seed", [0, 1])
def test_the_sharp_error_is_affine_in_k_and_in_the_tilt(seed):
    (gB, gA), B0, A0, _ = problem(seed)
    inner, mixing = (
        torch.tensor([1.0, 3.0, 1.0, 2.0, 5.0], dtype=f64),
        torch.tensor([1.0, 1.0, 0.0, 0.3, 0.8], dtype=f64),
    )
    states, errors = rushka.descent_error(gB, gA, B0, A0, [0.0, 0.5], inner, mixing)
    assert states[0].shape == errors[0].shape == (2, 5, 4, 2) and states[1].shape == (2, 5, 2, 3)
    design = torch.stack([torch.ones(5, dtype=f64), inner, (2 * mixing - 1) * inner], 1)
    weights = design[3:] @ torch.linalg.inv(design[:3])
    for E in errors:
        predicted = torch.einsum("vk,tk...->tv...", weights, E[:, :3])
        # the integrator's error at rtol 1e-9
        assert (predicted - E[:, 3:]).abs().max() < 1e-7 * E.abs().max()
        assert E[0].abs().max() == 0
    # the flow itself knows nothing of k and mixing, but the steps do: the integrator's error at rtol 1e-9
    assert (states[0] - states[0][:, :1]).abs().max() < 1e-8
    # one by one
    alone = rushka.descent_error(gB, gA, B0, A0, [0.0, 0.5], inner[3:4], mixing[3:4])[1]
    assert (alone[0][:, 0] - errors[0][:, 3]).abs().max() < 1e-8


def test_any_gradient_will_do_also_a_batch_and_a_loss_by_automatic_differentiation():
    source = device.generator(9)
    W0, B0, A0 = (device.normal(shape, source, "cpu") for shape in ((3, 5, 4), (3, 5, 2), (3, 2, 4)))
    loss = lambda B, A: (W0 - B @ A).square().sum() / 2
    automatic = torch.func.grad(loss, 0), torch.func.grad(loss, 1)
    many = rushka.descend(*automatic, B0, A0, 0.01, 20, 2, 0.5)
    for k in range(3):
        one = rushka.descend(*rushka.frobenius_gradients(W0[k]), B0[k], A0[k], 0.01, 20, 2, 0.5)
        # other sums, same numbers: rounding of forty steps
        assert (one[0] - many[0][k]).abs().max() < 1e-12 and (one[1] - many[1][k]).abs().max() < 1e-12


def test_every_system_may_have_its_own_step():
    source = device.generator(10)
    W0, B0, A0 = (device.normal(shape, source, "cpu") for shape in ((5, 4), (3, 5, 2), (3, 2, 4)))
    steps = torch.tensor([0.01, 0.02, 0.05], dtype=f64)
    many = rushka.descend(*rushka.frobenius_gradients(W0), B0, A0, steps[:, None, None], 20, 2, 0.5)
    for k in range(3):
        one = rushka.descend(*rushka.frobenius_gradients(W0), B0[k], A0[k], float(steps[k]), 20, 2, 0.5)
        # batched products, same numbers: rounding of forty steps
        assert (one[0] - many[0][k]).abs().max() < 1e-12 and (one[1] - many[1][k]).abs().max() < 1e-12
    steps[1] = 0
    with pytest.raises(ValueError, match="step must be positive and finite"):
        rushka.descend(*rushka.frobenius_gradients(W0), B0, A0, steps[:, None, None], 1)


@pytest.mark.parametrize("seed", [0, 1])
def test_descent_turns_with_its_problem(seed):
    (gB, gA), B0, A0, W0 = problem(seed)
    source = device.generator(seed + 70)
    U, V, Q = (linalg.random_orthonormal(k, k, source, "cpu") for k in (4, 3, 2))
    plain = rushka.descend(gB, gA, B0, A0, 0.05, 10, 2, 0.3)
    turned = rushka.descend(*rushka.frobenius_gradients(U @ W0 @ V.mT), U @ B0 @ Q, Q.mT @ A0 @ V.mT, 0.05, 10, 2, 0.3)
    # rounding of twenty steps
    assert (turned[0] - U @ plain[0] @ Q).abs().max() < 1e-13 and (
        turned[1] - Q.mT @ plain[1] @ V.mT
    ).abs().max() < 1e-13
    flipped = lambda mixing: rushka.descend(*rushka.frobenius_gradients(W0.mT), A0.mT, B0.mT, 0.05, 10, 2, mixing)[0].mT
    straight = rushka.descend(gB, gA, B0, A0, 0.05, 10, 2, 1.0)[1]
    # transposing exchanges the factors' turns: legal for simultaneous steps on one factor only at k = 1
    single = rushka.descend(gB, gA, B0, A0, 0.05, 10, 1, 1.0)
    single_flipped = rushka.descend(*rushka.frobenius_gradients(W0.mT), A0.mT, B0.mT, 0.05, 10, 1, 1.0)
    assert (single_flipped[0].mT - single[1]).abs().max() < 1e-13
    assert (flipped(0.0) - rushka.descend(gB, gA, B0, A0, 0.05, 10, 2, 0.0)[1]).abs().max() > 1e-3
    assert (flipped(1.0) - straight).abs().max() < 1e-13


# The public door


@pytest.mark.parametrize(
    "change, came",
    [
        ({"step": 0.0}, "step must be positive and finite; got 0.0"),
        ({"step": -0.1}, "got -0.1"),
        ({"step": math.nan}, "got nan"),
        ({"step": "0.1"}, "step must be positive and finite; got '0.1'"),
        ({"step": math.inf}, "got inf"),
        ({"iterations": -1}, "iterations must be a whole number >= 0; got -1"),
        ({"iterations": 2.5}, "iterations must be a whole number >= 0; got 2.5"),
        ({"iterations": True}, "got True"),
        ({"inner": 0}, "inner must be a whole number >= 1; got 0"),
        ({"inner": 1.0}, "inner must be a whole number >= 1; got 1.0"),
        ({"mixing": 1.1}, r"mixing must lie in \[0, 1\]; got 1.1"),
        ({"mixing": -0.1}, "got -0.1"),
        ({"mixing": math.nan}, "got nan"),
        ({"mixing": "1"}, r"mixing must lie in \[0, 1\]; got '1'"),
        ({"B0": torch.full((4, 2), math.nan, dtype=f64)}, "B has entries that are NaN"),
        ({"B0": torch.ones(4, 3, dtype=f64)}, "ranks 3 and 2 differ"),
        ({"B0": torch.ones(4, 2)}, "B must be a float64 tensor; got torch.float32"),
        ({"A0": torch.ones(2, 1, dtype=f64)}, "The rank 2 is above the smaller dimension 1"),
        ({"B0": torch.ones(3, 4, 2, dtype=f64), "A0": torch.ones(2, 2, 3, dtype=f64)}, r"B \(3,\), A \(2,\)"),
    ],
)
def test_a_bad_argument_gets_one_sentence(change, came):
    (gB, gA), B0, A0, _ = problem(0)
    with pytest.raises(ValueError, match=came) as raised:
        rushka.descend(**dict(gradient_B=gB, gradient_A=gA, B0=B0, A0=A0, step=0.1, iterations=2) | change)
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message


def test_a_flow_that_ends_early_is_not_passed_off_as_an_error():
    # the gradient of a logarithm: the factors shrink, and at time 1/2 there is no gradient any more
    ascent = (lambda B, A: 1 / B + 0 * A, lambda B, A: 0 * A.mT @ B + math.nan * (B < 0.5))
    one = torch.ones(1, 1, dtype=f64)
    with pytest.raises(RuntimeError, match="^The gradient flow does not reach the time 5.$"):
        rushka.descent_error(*ascent, one, one, [5.0], [1], [1.0])
    with pytest.raises(ValueError, match="increasing"):
        rushka.descent_error(*ascent, one, one, [2.0, 1.0], [1], [1.0])
