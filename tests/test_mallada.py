"""Xu et al.: the objective, its flow, the linearised solution, what is observed, the scalar phase, the exponents."""

import math

import numpy as np
import pytest
import torch
from device_discipline import no_hidden_host_transfers
from scipy.integrate import solve_ivp

from lorabook import device, mallada, rushka
from lorabook.inputs import digits
from lorabook.mallada import exponents, network, runs, selection

CPU = torch.device("cpu")


def problem_and_start(seed=0, sizes=(3, 5, 4), rank=2, scale=0.3, count=4, isotropic=True, ratio=0.6):
    draws = device.generator(seed)
    make = mallada.isotropic if isotropic else mallada.generic
    problem = make(sizes, draws, ratio, 1.7, 1.3, count=count, device=CPU)
    return problem, *mallada.starts(problem, rank, scale, draws)


def random_factors(problem, rank, seed=1):
    draws, (m, h), n = device.generator(seed), problem.W2.shape[-2:], problem.W1.shape[-1]
    shapes = ((h, rank), (rank, n), (m, rank), (rank, h))
    return mallada.Factors(*(device.normal((*problem.batch, *shape), draws, CPU) for shape in shapes))


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


# ------------------------------------------------------------------ the objective and its gradient flow


def test_update_is_the_product_of_the_changed_layers_minus_that_of_the_frozen_ones():
    problem, *_ = problem_and_start()
    f = random_factors(problem, 2)
    product = (problem.W2 + f.B2 @ f.A2) @ (problem.W1 + f.B1 @ f.A1) - problem.W2 @ problem.W1
    # entries near 10, so rounding of the product is below 1e-13
    torch.testing.assert_close(mallada.update(problem, f), product, rtol=0, atol=1e-12)
    torch.testing.assert_close(sum(mallada.terms(problem, f)), product, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_velocity_is_minus_the_gradient_of_the_loss(seed):
    problem, *_ = problem_and_start(seed)
    leaves = [part.clone().requires_grad_() for part in random_factors(problem, 2, seed)[:4]]
    gradients = torch.autograd.grad(mallada.loss(problem, mallada.Factors(*leaves)).sum(), leaves)
    ours = mallada.velocity([leaf.detach() for leaf in leaves], problem.W1, problem.W2, problem.shift)
    for gradient, velocity in zip(gradients, ours, strict=True):
        # two ways to the same products of entries near 10
        torch.testing.assert_close(velocity, -gradient, rtol=1e-12, atol=1e-11)


def test_velocity_is_the_difference_quotient_of_the_loss():
    problem, *_ = problem_and_start(count=1)
    f = random_factors(problem, 2)
    slopes = mallada.velocity(f[:4], problem.W1, problem.W2, problem.shift)
    direction = random_factors(problem, 2, seed=9)
    step = 1e-6
    ahead, behind = (
        mallada.loss(problem, mallada.Factors(*(x + s * step * d for x, d in zip(f[:4], direction[:4]))))
        for s in (1, -1)
    )
    along = -sum((v * d).sum() for v, d in zip(slopes, direction[:4]))
    # a central difference errs by step^2 times the third derivative, and by rounding / step
    torch.testing.assert_close((ahead - behind)[0] / (2 * step), along, rtol=1e-6, atol=0)


def test_a_small_update_keeps_its_digits():
    problem, *_ = problem_and_start()
    f = random_factors(problem, 2)
    tiny = mallada.Factors(*(1e-9 * part for part in f[:4]))
    first_order = problem.W2 @ tiny.B1 @ tiny.A1 + tiny.B2 @ tiny.A2 @ problem.W1
    # the third term is smaller by 1e-18; a difference of the two products would leave no digit of 1e-18
    torch.testing.assert_close(mallada.update(problem, tiny), first_order, rtol=1e-12, atol=0)


def test_rates_of_isotropic_weights_are_the_products_of_the_talk():
    problem, *_ = problem_and_start(ratio=0.6)
    s1, s2 = mallada.growth_rates(problem)
    # relative rounding
    torch.testing.assert_close(s1, torch.full_like(s1, 1.7 * 1.3), rtol=1e-12, atol=0)
    torch.testing.assert_close(s2, torch.full_like(s2, 1.7 * 1.3 * 0.6), rtol=1e-12, atol=0)


def test_rates_do_not_change_under_rotations_and_scale_with_the_shift():
    problem, *_ = problem_and_start(isotropic=False)
    Q = torch.linalg.qr(device.normal((3, 3), device.generator(5), CPU)).Q
    turned = mallada.TwoLayer(problem.W1, Q @ problem.W2, 2.0 * Q @ problem.shift)
    for before, after in zip(mallada.growth_rates(problem), mallada.growth_rates(turned), strict=True):
        # rounding of a singular value decomposition
        torch.testing.assert_close(after, 2 * before, rtol=1e-12, atol=0)


# ------------------------------------------------------------------ solutions


def test_flow_agrees_with_scipy():
    problem, A1, A2 = problem_and_start(count=1, scale=0.5)
    times = numbers(0.5, 2.0, 6.0)
    ours = mallada.flow(problem, A1, A2, times)
    W1, W2, shift = (part[0].numpy() for part in (problem.W1, problem.W2, problem.shift))
    shapes = [part.shape[2:] for part in ours[:4]]
    cuts = np.cumsum([math.prod(shape) for shape in shapes])[:-1]

    def rate(_, y):
        B1, A1, B2, A2 = (part.reshape(shape) for part, shape in zip(np.split(y, cuts), shapes))
        V2, V1 = W2 + B2 @ A2, W1 + B1 @ A1
        R = shift + W2 @ W1 - V2 @ V1
        return np.concatenate(
            [(V2.T @ R @ A1.T).ravel(), (B1.T @ V2.T @ R).ravel(), (R @ V1.T @ A2.T).ravel(), (B2.T @ R @ V1.T).ravel()]
        )

    start = np.concatenate(
        [np.zeros(shapes[0]).ravel(), A1[0].numpy().ravel(), np.zeros(shapes[2]).ravel(), A2[0].numpy().ravel()]
    )
    theirs = solve_ivp(rate, (0, 6), start, "DOP853", times.numpy(), rtol=1e-12, atol=1e-13).y.T
    mine = torch.cat([part[:, 0].flatten(1) for part in ours[:4]], 1)
    # our rtol of 1e-10 a step over about 150 steps
    np.testing.assert_allclose(mine.numpy(), theirs, rtol=0, atol=1e-8)


def test_invariants_are_conserved_along_the_flow():
    problem, A1, A2 = problem_and_start(scale=0.2)
    end = mallada.flow(problem, A1, A2, numbers(1.0, 10.0))
    for now, start in zip(mallada.invariants(end), (A1 @ A1.mT, A2 @ A2.mT), strict=True):
        # rtol 1e-10 a step, on factors of size 1
        torch.testing.assert_close(now, start.expand_as(now), rtol=0, atol=1e-8)


def test_invariants_drift_in_proportion_to_the_step_of_descent():
    problem, A1, A2 = problem_and_start(scale=0.2)
    counts = [100, 200, 400, 800]
    drifts = [
        max(
            float((now - start).norm())
            for now, start in zip(
                mallada.invariants(mallada.descend(problem, A1, A2, 3.0 / count, count)), (A1 @ A1.mT, A2 @ A2.mT)
            )
        )
        for count in counts
    ]
    slope = exponents.fit(1 / numbers(*counts), numbers(*drifts), 0)
    # first order; the next one is smaller by the step, 0.03 at most
    assert abs(slope - 1) < 0.05


@pytest.mark.parametrize("many", [0, 1])
def test_one_start_of_a_layer_serves_many_of_the_other(many):
    problem = mallada.isotropic((3, 4, 3), device.generator(0), 0.5, 1.0, 1.0, device="cpu")
    A = [device.normal((2, wide), device.generator(1), "cpu") for wide in (3, 4)]
    A[many] = torch.stack([A[many], 2 * A[many]])
    run = mallada.flow(problem, *A, [0.5])
    for k in range(2):
        alone = mallada.flow(problem, *(part[k] if i == many else part for i, part in enumerate(A)), [0.5])
        # two runs at rtol 1e-10, with steps of their own
        assert all(torch.allclose(both[:, k], one, atol=1e-8) for both, one in zip(run[:4], alone[:4]))


def test_many_systems_at_once_equal_one_by_one():
    problem, A1, A2 = problem_and_start()
    together = mallada.flow(problem, A1, A2, numbers(1.0, 4.0))
    for k in range(len(A1)):
        one = mallada.TwoLayer(problem.W1[k], problem.W2[k], problem.shift[k])
        alone = mallada.flow(one, A1[k], A2[k], numbers(1.0, 4.0))
        for left, right in zip(together[:4], alone[:4], strict=True):
            # the same steps; batched products may be summed in another order
            torch.testing.assert_close(left[:, k], right, rtol=1e-10, atol=1e-12)


def test_a_clock_of_its_own_for_each_system_gives_the_same_states():
    problem, A1, A2 = problem_and_start()
    clock = numbers(0.5, 1.0, 2.0, 3.0)
    by_clock = mallada.flow(problem, A1, A2, numbers(2.0), clock=clock)
    for k in range(4):
        direct = mallada.flow(problem, A1, A2, numbers(2.0 * float(clock[k])))
        # two runs at rtol 1e-10
        torch.testing.assert_close(by_clock.B1[0, k], direct.B1[0, k], rtol=0, atol=1e-8)


@pytest.mark.parametrize("isotropic", [True, False])
def test_linear_solution_is_the_closed_form_with_cosh_and_sinh(isotropic):
    problem, A1, A2 = problem_and_start(isotropic=isotropic)
    t = numbers(0.3, 1.1)
    seen = mallada.mode(problem)
    found = mallada.linear_solution(problem, A1, A2, t)
    for k in range(4):
        a0, b0 = A1[k] @ seen.v[k], A2[k] @ seen.q[k]
        for i, time in enumerate(t):
            x, y = seen.s1[k] * time, seen.s2[k] * time
            wanted = (
                torch.sinh(x) * torch.outer(seen.p[k], a0),
                A1[k] + (torch.cosh(x) - 1) * torch.outer(a0, seen.v[k]),
                torch.sinh(y) * torch.outer(seen.u[k], b0),
                A2[k] + (torch.cosh(y) - 1) * torch.outer(b0, seen.q[k]),
            )
            for part, want in zip(found[:4], wanted, strict=True):
                # the same matrix exponential by two ways; entries up to 10
                torch.testing.assert_close(part[i, k], want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_linear_solution_errs_by_the_third_power_of_the_start(rank):
    problem, _, _ = problem_and_start(isotropic=False)
    scales = numbers(1e-2, 1e-3, 1e-4)
    A1, A2 = mallada.starts(problem, rank, scales, device.generator(3))
    times = numbers(1.0)
    exact, linear = mallada.flow(problem, A1, A2, times, rtol=1e-13), mallada.linear_solution(problem, A1, A2, times)
    gap = (exact.B1 - linear.B1).norm(dim=(-2, -1))[0]
    # the next term is smaller by the square of the start, 0.01 at most with a constant of order 1
    assert (exponents.fit(scales, gap, 0) - 3).abs().max() < 0.05


def test_linear_solution_at_time_zero_is_the_start():
    problem, A1, A2 = problem_and_start()
    start = mallada.linear_solution(problem, A1, A2, numbers(0.0))
    assert torch.equal(start.A1[0], A1) and torch.equal(start.A2[0], A2)
    assert not start.B1.any() and not start.B2.any()


def test_flow_and_implicit_flow_agree():
    problem, A1, A2 = problem_and_start(count=1, sizes=(2, 3, 2), rank=1, scale=0.1)
    one = mallada.TwoLayer(problem.W1[0], problem.W2[0], problem.shift[0])
    times = numbers(1.0, 5.0, 40.0)
    left, right = mallada.flow(one, A1[0], A2[0], times), mallada.stiff_flow(one, A1[0], A2[0], times)
    for x, y in zip(left[:4], right[:4], strict=True):
        # two methods at rtol 1e-10
        torch.testing.assert_close(x, y, rtol=0, atol=1e-7)


# ------------------------------------------------------------------ what is observed


def test_misalignment_is_exact_down_to_a_tiny_angle():
    u, v = numbers(1.0, 0.0), numbers(0.0, 1.0)
    for angle in (1e-3, 1e-6, 1e-8):
        u1 = numbers(math.cos(angle), math.sin(angle))
        found = mallada.misalignment(u1, v, u, v)
        # 1 - cos of the joint vector is half of that of u1; the series is exact to angle^4
        assert float(found) == pytest.approx(angle**2 / 4, rel=1e-5)


def test_misalignment_ignores_a_joint_sign_and_sees_a_single_one():
    u, v = numbers(0.6, 0.8), numbers(0.0, 1.0)
    assert mallada.misalignment(-u, -v, u, v) == 0
    assert mallada.misalignment(-u, v, u, v) == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_observation_does_not_change_under_rotations(seed):
    problem, A1, A2 = problem_and_start(seed, isotropic=False)
    f = mallada.linear_solution(problem, A1, A2, numbers(1.0))
    draws = device.generator(seed + 10)
    P, Q, H = (torch.linalg.qr(device.normal((k, k), draws, CPU)).Q for k in (3, 4, 5))
    turned = mallada.TwoLayer(H @ problem.W1 @ Q.mT, P @ problem.W2 @ H.mT, P @ problem.shift @ Q.mT)
    moved = mallada.Factors(H @ f.B1, f.A1 @ Q.mT, P @ f.B2, f.A2 @ H.mT)
    for before, after in zip(mallada.observe(problem, f), mallada.observe(turned, moved), strict=True):
        # rounding of a singular value decomposition, relative to the largest singular value
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("seed", [0, 1])
def test_one_sided_misalignments_are_those_of_the_two_vectors(seed):
    problem, *_ = problem_and_start(seed, isotropic=False)
    f = random_factors(problem, 2, seed)
    left, right = mallada.one_sided(problem, f)
    U, _, Vh = torch.linalg.svd(mallada.update(problem, f))
    seen = mallada.mode(problem)
    # vectors of large angle, so 1 - |cos| loses nothing but rounding
    torch.testing.assert_close(left, 1 - (U[..., 0] * seen.u).sum(-1).abs(), rtol=0, atol=1e-13)
    torch.testing.assert_close(right, 1 - (Vh[..., 0, :] * seen.v).sum(-1).abs(), rtol=0, atol=1e-13)


def test_joint_misalignment_is_the_mean_of_the_one_sided_ones_once_the_signs_agree():
    problem, A1, A2 = problem_and_start(scale=1e-3, isotropic=False)
    late = mallada.flow(problem, A1, A2, numbers(2.0, 4.0))
    left, right = mallada.one_sided(problem, late)
    # the same sums in another order
    torch.testing.assert_close(mallada.observe(problem, late).misalignment, (left + right) / 2, rtol=1e-9, atol=1e-30)


def test_left_vector_is_aligned_at_once_for_isotropic_weights_and_only_the_right_one_turns():
    problem, A1, A2 = problem_and_start(scale=1e-4)
    left, right = mallada.one_sided(problem, mallada.linear_solution(problem, A1, A2, numbers(0.1, 2.0, 4.0)))
    # F = u x^T up to the product of the four factors, which is 1e-8 of it; the squared angle is below 1e-14
    assert left.max() < 1e-14
    assert (right[0] > 1e-3).all() and (right[2] < right[0] / 5).all()


def test_a_state_that_was_not_reached_is_observed_as_nan_and_its_neighbours_as_they_are():
    problem, A1, A2 = problem_and_start()
    whole = mallada.linear_solution(problem, A1, A2, numbers(1.0))
    holed = whole._replace(B1=whole.B1.clone())
    holed.B1[0, 1] = torch.nan
    for spoilt, kept in zip(mallada.observe(problem, holed), mallada.observe(problem, whole), strict=True):
        assert spoilt[0, 1].isnan().all() and torch.equal(spoilt[0, [0, 2, 3]], kept[0, [0, 2, 3]])


def test_observation_at_the_start_has_no_direction_and_no_imbalance():
    problem, A1, A2 = problem_and_start()
    seen = mallada.observe(problem, mallada.linear_solution(problem, A1, A2, numbers(0.0, 0.1)))
    assert seen.misalignment[0].isnan().all() and seen.imbalance[0].isnan().all()
    assert seen.misalignment[1].isfinite().all() and seen.imbalance[1].isfinite().all()
    assert (seen.norm[0] == 0).all()


def test_shares_sum_to_one_when_the_shift_is_learnt():
    problem, A1, A2 = problem_and_start(scale=0.1)
    end = mallada.flow(problem, A1, A2, numbers(40.0))
    # what is left of the loss after 40 units of time
    torch.testing.assert_close(
        mallada.shares(problem, end).sum(-1), torch.ones(1, 4, dtype=torch.float64), rtol=0, atol=1e-5
    )


def test_speeds_are_the_derivatives_of_what_is_observed():
    problem, A1, A2 = problem_and_start(scale=0.05)
    h, t = 1e-4, 1.5
    run = mallada.flow(problem, A1, A2, numbers(t - h, t, t + h), rtol=1e-13)
    seen = mallada.observe(problem, run)
    speed = mallada.speeds(problem, run)
    pairs = speed.pair_now
    # central differences err by h^2 times a third derivative of order 10, and by 1e-13 / h
    torch.testing.assert_close(
        speed.norm_squared[1], (seen.norm[2] ** 2 - seen.norm[0] ** 2) / (2 * h), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        speed.log_imbalance[1], (seen.imbalance[2].log() - seen.imbalance[0].log()) / (2 * h), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(speed.pair[1], (pairs[2] - pairs[0]) / (2 * h), rtol=0, atol=1e-6)


def test_singular_vectors_turn_as_the_corrected_law_says_and_not_as_printed():
    problem, A1, A2 = problem_and_start(scale=1e-4)
    times = numbers(0.2, 0.6, 1.2)
    speed = mallada.speeds(problem, mallada.flow(problem, A1, torch.zeros_like(A2), times))
    size = speed.pair.norm(dim=-1)
    right = (mallada.right_turn(problem, speed.pair_now, times) - speed.pair).norm(dim=-1) / size
    printed = (mallada.printed_turn(problem, speed.pair_now) - speed.pair).norm(dim=-1) / size
    # the linearised solution errs by the square of the start, relative
    assert right.max() < 1e-5
    assert printed[0].median() > 0.5


def test_general_alignment_is_zero_for_isotropic_weights_only():
    even, *_ = problem_and_start()
    uneven, *_ = problem_and_start(isotropic=False)
    # 1 - cos as a squared distance: rounding squared
    assert mallada.general_alignment(even).max() < 1e-28
    assert mallada.general_alignment(uneven).min() > 1e-4


# ------------------------------------------------------------------ the scalar phase


def test_scalar_product_solves_its_differential_equation():
    sigma, weight, a0 = 2.0, 1.5, 1e-4
    times = torch.linspace(0, 6, 13, dtype=torch.float64)
    found = mallada.scalar_product(times, sigma, weight, a0)

    def rate(_, y):
        gap = weight * (sigma - weight * y[0] * y[1])
        return [gap * y[1], gap * y[0]]

    b, a = solve_ivp(rate, (0, 6), [0.0, math.sqrt(a0)], "DOP853", times.numpy(), rtol=1e-12, atol=1e-14).y
    # the reference errs by 1e-12 a step
    np.testing.assert_allclose(found.numpy(), b * a, rtol=1e-9, atol=1e-13)


def test_scalar_product_is_a_mode_of_the_low_rank_problem_on_a_rescaled_clock():
    times = torch.linspace(0, 9, 10, dtype=torch.float64)
    ours = mallada.scalar_product(times, 2.0, 1.5, 1e-4)
    theirs = rushka.mode(numbers(2.0 / 1.5)[0], numbers(1e-2)[0], 1.5**2 * times)
    # one routine: rounding of the arguments
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_scalar_product_in_its_limits():
    found = mallada.scalar_product(numbers(0.0, 1e-6, 1e6), 2.0, 1.5, 1e-4)
    assert found[0] == 0
    # b = sigma sigma_w a0 t to first order, so the product is sigma sigma_w a0^2 t
    assert float(found[1]) == pytest.approx(2.0 * 1.5 * 1e-4 * 1e-6, rel=1e-5)
    assert float(found[2]) == pytest.approx(2.0 / 1.5, rel=1e-12)


def test_half_time_is_where_half_is_learnt_and_has_the_logarithmic_law():
    size = numbers(1e-2, 1e-5, 1e-8)
    t = mallada.half_time(2.0, 1.5, size)
    halves = torch.stack([mallada.scalar_product(t[k : k + 1], 2.0, 1.5, size[k])[0] for k in range(3)])
    # absolute 1e-15 in the exponent
    torch.testing.assert_close(halves, torch.full_like(halves, 2.0 / 1.5 / 2), rtol=1e-12, atol=0)
    law = torch.log(4 * 2.0 / (1.5 * size)) / (2 * 2.0 * 1.5)
    # the next term is of the order of the start's square over sigma
    torch.testing.assert_close(t, law, rtol=1e-3, atol=0)


def test_losing_adapter_stops_at_the_scale_of_its_formula_for_every_start():
    draws = device.generator(8)
    problem = mallada.isotropic((2, 4, 2), draws, 0.5, 2.0, 1.5, count=16, device=CPU)
    scales = numbers(1e-3, 1e-4, 1e-5)
    A1, A2 = mallada.starts(problem, 1, scales, draws)
    end = mallada.flow(problem, A1, A2, numbers(3.0), clock=-scales.log()[:, None] / 3.0)
    quotient = (end.B2[0] @ end.A2[0]).norm(dim=(-2, -1)) / mallada.losing_size(problem, A1, A2)
    # the factor is of order 1, and the same for every start up to the size of the losing adapter, 0.01
    assert quotient.median() > 0.3 and quotient.median() < 3
    assert (exponents.fit(scales, quotient, 0)).abs().median() < 0.02


def test_factor_of_the_losing_adapter_settles_with_the_start_and_grows_with_the_shift():
    scales, factor = numbers(1e-5, 1e-7, 1e-9), {}
    for sigma, weight in ((2.0, 1.5), (1.0, 0.5)):  # sigma / sigma_W2^2 = 0.89, where the page stands, and 4
        draws = device.generator(8)
        problem = mallada.isotropic((2, 4, 2), draws, 0.5, sigma, weight, count=16, device=CPU)
        A1, A2 = mallada.starts(problem, 1, scales, draws)
        end = mallada.flow(problem, A1, A2, numbers(3.0), rtol=1e-9, clock=-scales.log()[:, None] / (sigma * weight))
        quotient = (end.B2[0] @ end.A2[0]).norm(dim=(-2, -1)) / mallada.losing_size(problem, A1, A2)
        # alpha^(2 (1 - d)) = 1e-5 at the largest start, against exp(-4): what is left is 1 per cent or less
        assert exponents.fit(scales, quotient, 0).abs().median() < 0.01
        factor[sigma / weight**2] = float(quotient[-1].median())
    small, large = factor.values()
    # the factor is at most about e^k with k = sigma / sigma_W2^2; at k = 4 it must stand clear of order 1
    assert 0.5 < small < math.exp(0.89)
    assert math.exp(1.5) < large < math.exp(4)


def test_tangent_kernel_moves_the_update_as_the_flow_does():
    problem, *_ = problem_and_start()
    f = random_factors(problem, 2)
    dB1, dA1, dB2, dA2 = mallada.velocity(f[:4], problem.W1, problem.W2, problem.shift)
    direction = torch.func.jvp(
        lambda *parts: mallada.update(problem, mallada.Factors(*parts)), f[:4], (dB1, dA1, dB2, dA2)
    )[1]
    residual = (problem.shift - mallada.update(problem, f)).flatten(-2)
    ours = (mallada.tangent_kernel(problem, f) @ residual[..., None])[..., 0]
    # entries near 1e3: relative rounding
    torch.testing.assert_close(ours, direction.flatten(-2), rtol=1e-11, atol=1e-9)


# ------------------------------------------------------------------ exponents


def test_fit_finds_the_power_along_any_dimension():
    scales = numbers(1e-1, 1e-2, 1e-4)
    values = numbers(1.5, -2.0)[:, None].exp() * scales ** numbers(0.5, 3.0)[:, None]
    # rounding of logarithms
    torch.testing.assert_close(exponents.fit(scales, values, 1), numbers(0.5, 3.0), rtol=0, atol=1e-12)
    torch.testing.assert_close(exponents.fit(scales, values.mT, 0), numbers(0.5, 3.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_measured_exponents_at_half_time_are_the_predicted_ones(ratio):
    draws = device.generator(4)
    problem = mallada.isotropic((2, 4, 2), draws, ratio, 2.0, 1.5, count=24, device=CPU)
    scales = numbers(1e-6, 1e-8, 1e-10)
    A1, A2 = mallada.starts(problem, 1, scales, draws)
    clock = -scales.log()[:, None] / 3.0
    seen = mallada.observe(problem, mallada.flow(problem, A1, A2, numbers(0.5), clock=clock))
    wanted = exponents.predicted(numbers(0.5), numbers(ratio))
    for values, want in zip((seen.misalignment, seen.norm, seen.imbalance), wanted, strict=True):
        # corrections of the order of the start to the power c (1 - d), 0.06 at most; medians are closer
        assert abs(exponents.fit(scales, values[0], 0).median() - want) < 0.1


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_all_three_claims_hold_inside_the_window_and_one_fails_outside(ratio):
    d = numbers(ratio)
    low, high = exponents.window(d)
    wanted = exponents.printed(d)

    def holds(c):
        have = exponents.predicted(c, d)
        return (
            bool(have.misalignment >= wanted.misalignment)
            and bool(have.norm >= wanted.norm - 1e-12)
            and bool(have.imbalance <= wanted.imbalance + 1e-12)
        )

    assert holds(low) and holds(high) and holds((low + high) / 2)
    assert not holds(low - 0.01) and not holds(high + 0.01) and not holds(torch.ones_like(d))


def test_values_at_a_time_are_found_between_samples():
    times = torch.linspace(0, 4, 5, dtype=torch.float64)
    # linear data, so linear interpolation is exact
    assert exponents.at(times, 4 - times[:, None], numbers(0.25))[0] == 3.75


def test_every_column_has_its_own_time_and_its_own_values():
    times = torch.tensor([0.0, 1.0, 3.0, 4.0], dtype=torch.float64)
    values = device.normal((4, 2, 3), device.generator(0), "cpu")
    when = torch.tensor([[0.0, 0.3, 1.0], [2.5, 3.9, 4.0]], dtype=torch.float64)
    found = exponents.at(times, values, when)
    for i in range(2):
        for j in range(3):
            # numpy's interpolation, up to rounding of one line
            assert float(found[i, j]) == pytest.approx(np.interp(when[i, j], times, values[:, i, j]), abs=1e-14)


# ------------------------------------------------------------------ negative claims


def test_norm_at_the_printed_time_does_not_fall_with_the_start():
    draws = device.generator(6)
    problem = mallada.isotropic((2, 4, 2), draws, 0.5, 2.0, 1.5, count=16, device=CPU)
    scales = numbers(1e-3, 1e-5)
    A1, A2 = mallada.starts(problem, 1, scales, draws)
    clock = -scales.log()[:, None] / 3.0
    norm = mallada.observe(problem, mallada.flow(problem, A1, A2, numbers(1.0), clock=clock)).norm[0]
    # the printed theorem wants exponent 1 here
    assert exponents.fit(scales, norm, 0).abs().max() < 0.05


def test_layer_of_larger_norm_can_lose():
    W2 = torch.diag(numbers(0.5, 3.0))
    problem = mallada.TwoLayer(torch.eye(2, dtype=torch.float64), W2, torch.diag(numbers(1.0, 0.0)))
    A1, A2 = mallada.starts(problem, 1, 1e-4, device.generator(0))
    share = mallada.shares(problem, mallada.flow(problem, A1, A2, numbers(25.0)))[0]
    assert problem.W2.norm() > problem.W1.norm()
    # layer 2 takes nearly all, although W2 is larger
    assert share[0].abs() < 0.01 and share[1] > 0.98


# ------------------------------------------------------------------ the network


def test_digits_are_the_same_images_turned():
    upright, turned = digits.split(0, device=CPU), digits.split(1, device=CPU)
    assert torch.equal(upright.train_labels, turned.train_labels)
    assert torch.equal(upright.test.reshape(-1, 8, 8).rot90(1, (1, 2)).reshape(-1, 64), turned.test)


def test_cross_entropy_is_that_of_torch():
    logits, labels = device.normal((3, 7, 10), device.generator(0), CPU), torch.arange(7)
    wanted = torch.stack([torch.nn.functional.cross_entropy(part, labels) for part in logits])
    # rounding
    torch.testing.assert_close(network.cross_entropy(logits, labels), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("optimiser", list(network.OPTIMISERS))
def test_starts_trained_side_by_side_do_not_mix(optimiser):
    data = digits.split(1, device=CPU)
    frozen = network.pretrain(digits.split(0, device=CPU), 16, 0, steps=20)
    both = network.finetune(frozen, data, numbers(1e-3, 1e-1), 2, optimiser, 0.01, [0, 5], 2, 0)
    one = network.finetune(frozen, data, numbers(1e-1), 2, optimiser, 0.01, [0, 5], 2, 0)
    # the same draws and batches; sums may be taken in another order
    torch.testing.assert_close(both.train[:, 1:], one.train, rtol=1e-9, atol=0)
    # at step 0 every start has the loss of the frozen network
    torch.testing.assert_close(both.train[0], both.train[0, :1, :1].expand(2, 2), rtol=1e-12, atol=0)


# ------------------------------------------------------------------ bad input

eye = torch.eye(2, dtype=torch.float64)


def factors_of(problem):
    return random_factors(problem, 2)


def single(problem):
    return mallada.TwoLayer(problem.W1[0], problem.W2[0], problem.shift[0])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda p, A, B: mallada.TwoLayer(p.W1[..., :3, :], p.W2, p.shift), "do not multiply"),
        (lambda p, A, B: mallada.TwoLayer(p.W1, p.W2, p.shift.mT), "shift must have the shape"),
        (lambda p, A, B: mallada.TwoLayer(p.W1.float(), p.W2, p.shift), "W1 must be a float64 tensor"),
        (lambda p, A, B: mallada.TwoLayer(p.W1 * torch.nan, p.W2, p.shift), "W1 has entries that are NaN"),
        (lambda p, A, B: mallada.growth_rates(mallada.TwoLayer(eye, eye, eye)), "shift must have rank one"),
        (lambda p, A, B: mallada.growth_rates(mallada.TwoLayer(eye, eye, 0 * eye)), "shift is zero"),
        (lambda p, A, B: mallada.growth_rates(mallada.TwoLayer(0 * p.W1, 0 * p.W2, p.shift)), "are both zero"),
        (lambda p, A, B: mallada.starts(p, 1, 0.0, device.generator(0)), "init_scale must be positive"),
        (lambda p, A, B: mallada.flow(p, 0 * A, 0 * B, [1.0]), "A1 and A2 are zero"),
        (lambda p, A, B: mallada.flow(p, A, B, [2.0, 1.0]), "times must increase"),
        (lambda p, A, B: mallada.linear_solution(p, A, B, [1.0, 1.0]), "times must increase"),
        (lambda p, A, B: mallada.linear_solution(p, A, B, [-1.0]), "times must not be negative"),
        (lambda p, A, B: mallada.flow(p, A.mT, B, [1.0]), "A1 must be"),
        (
            lambda p, A, B: mallada.flow(
                p, torch.ones(4, 4, 4, dtype=torch.float64), torch.ones(4, 4, 5, dtype=torch.float64), [1.0]
            ),
            "rank 4 is above",
        ),
        (lambda p, A, B: mallada.stiff_flow(p, A, B, [1.0]), "one system at a time"),
        (lambda p, A, B: mallada.descend(p, A, B, 0.0, 3), "learning_rate must be positive"),
        (lambda p, A, B: mallada.scalar_product([1.0], 1.0, 0.0, 1e-4), "sigma_w must be positive"),
        (lambda p, A, B: mallada.scalar_product([2.0, 1.0], 1.0, 1.0, 1e-4), "times must increase"),
        (
            lambda p, A, B: mallada.scalar_product([1.0], numbers(1.0, 2.0), numbers(1.0, 2.0, 3.0), 1e-4),
            "do not fit each other: sigma",
        ),
        (lambda p, A, B: mallada.TwoLayer(p.W1[:3], p.W2[:2], p.shift), "do not fit each other: W1"),
        (lambda p, A, B: mallada.flow(p, A[:3], B[:3], [1.0]), "do not fit each other: problem"),
        (lambda p, A, B: mallada.flow(p, A, B, [1.0], clock=numbers(1.0, 2.0)), "do not fit each other: start"),
        (lambda p, A, B: mallada.flow(p, A, B, [1.0], clock=-1.0), "clock must be positive"),
        (
            lambda p, A, B: mallada.flow(mallada.TwoLayer(0 * p.W1, 0 * p.W2, p.shift), A, B, [1.0]),
            "W1 and W2 are zero",
        ),
        (
            lambda p, A, B: mallada.descend(mallada.TwoLayer(0 * p.W1, 0 * p.W2, p.shift), A, B, 0.1, 1),
            "W1 and W2 are zero",
        ),
        (lambda p, A, B: mallada.losing_size(mallada.TwoLayer(p.W1, 0 * p.W2, p.shift), A, B), "W2\\^T u is zero"),
        (lambda p, A, B: mallada.losing_size(p, A.mT, B), "A1 must be"),
        (lambda p, A, B: mallada.general_alignment(mallada.TwoLayer(p.W1, 0 * p.W2, p.shift)), "W2\\^T u is zero"),
        (lambda p, A, B: mallada.observe(mallada.TwoLayer(p.W1, p.W2, 0 * p.shift), factors_of(p)), "shift is zero"),
        (lambda p, A, B: mallada.speeds(mallada.TwoLayer(p.W1, p.W2, 0 * p.shift), factors_of(p)), "shift is zero"),
        (lambda p, A, B: mallada.observe(p, factors_of(p)._replace(B1=A)), "B1 must be"),
        (lambda p, A, B: mallada.one_sided(p, factors_of(p)._replace(B2=A[:3].mT[:, :3])), "do not fit each other"),
        (lambda p, A, B: mallada.starts(p, 1, math.nan, device.generator(0)), "init_scale has entries that are NaN"),
        (lambda p, A, B: mallada.descend(p, A, B, 0.1, -1), "steps must be a whole number >= 0"),
        (lambda p, A, B: mallada.descend(p, A, B, math.nan, 1), "learning_rate has entries that are NaN"),
        (lambda p, A, B: mallada.isotropic((2, 3, 2), device.generator(0), ratio=-1), "ratio must be positive"),
        (lambda p, A, B: mallada.generic((2, 3, 2), device.generator(0), sigma=0.0), "sigma must be positive"),
        (lambda p, A, B: mallada.scalar_product([1.0], 1.0, 1.0, 0.0), "a0_squared must be positive"),
        (lambda p, A, B: mallada.isotropic((3, 2, 2), device.generator(0)), "hidden size of at least 3"),
        (lambda p, A, B: exponents.fit(numbers(1.0), numbers(1.0), 0), "two scales or more"),
        *(
            (lambda p, A, B, read=read: read(p, factors_of(p)._replace(B1=A)), "B1 must be")
            for read in (
                mallada.update,
                mallada.terms,
                mallada.loss,
                mallada.shares,
                mallada.speeds,
                mallada.tangent_kernel,
            )
        ),
        (lambda p, A, B: mallada.observe(p, factors_of(p)._replace(A1=A.float())), "A1 must be a float64 tensor"),
        (
            lambda p, A, B: mallada.observe(p, factors_of(p)._replace(A1=numbers(1.0, 2.0))),
            "A1 must be a float64 tensor",
        ),
        (lambda p, A, B: mallada.observe(p, tuple(factors_of(p)[:4])), "B1 must be a float64 tensor"),
        (lambda p, A, B: mallada.flow(p, A, B, [1.0], rtol="x"), "rtol must be positive"),
        (lambda p, A, B: mallada.flow(p, A, B, [1.0], rtol=0.0), "rtol must be positive"),
        (lambda p, A, B: mallada.stiff_flow(single(p), A[0], B[0], [1.0], rtol=-1.0), "rtol must be positive"),
        (
            lambda p, A, B: mallada.stiff_flow(single(p), A[0], B[0], [1.0], rtol=math.nan),
            "rtol must be positive",
        ),
        (lambda p, A, B: mallada.stiff_flow(single(p), A[0], B[0], [0.0]), "times must end after 0"),
        *(
            (
                lambda p, A, B, make=make: make((2, 3, 2), device.generator(0), numbers(0.4, 0.5, 0.6), count=2),
                "one for each of the 2 problems",
            )
            for make in (mallada.isotropic, mallada.generic)
        ),
        *(
            (
                lambda p, A, B, make=make: make((2, 3, 2), device.generator(0), count=0),
                "count must be a whole number >= 1",
            )
            for make in (mallada.isotropic, mallada.generic)
        ),
        (lambda p, A, B: mallada.generic((0, 4, 2), device.generator(0)), "m must be a whole number >= 1"),
        (lambda p, A, B: mallada.starts(p, 0, 0.1, device.generator(0)), "rank must be a whole number >= 1"),
        (lambda p, A, B: mallada.starts(p, 1.5, 0.1, device.generator(0)), "rank must be a whole number >= 1"),
        (lambda p, A, B: mallada.starts(p, 9, 0.1, device.generator(0)), "rank 9 is above the smallest dimension 3"),
        (lambda p, A, B: digits.split(held_out=0), "held_out must lie"),
        (
            lambda p, A, B: network.finetune(None, None, numbers(1.0), 1, "lion", 0.1, [1], 1, 0),
            "optimiser must be one of",
        ),
    ],
)
def test_bad_input_is_refused_with_one_sentence(call, sentence):
    problem, A1, A2 = problem_and_start()
    with pytest.raises(ValueError, match=sentence) as caught:
        call(problem, A1, A2)
    assert "\n" not in str(caught.value)


def test_descent_that_diverges_is_not_finite_and_leaves_its_neighbours_alone():
    problem, A1, A2 = problem_and_start()
    rate = numbers(0.05, 1e3, 0.05, 0.05)
    mixed, calm = mallada.descend(problem, A1, A2, rate, 60), mallada.descend(problem, A1, A2, 0.05, 60)
    assert not mixed.A1[1].isfinite().all()
    # the same steps, in the same batch
    torch.testing.assert_close(mixed.A1[[0, 2, 3]], calm.A1[[0, 2, 3]], rtol=1e-12, atol=0)


# ------------------------------------------------------------------ device discipline


def test_no_hidden_transfers_to_the_host():
    problem, A1, A2 = problem_and_start()
    times = numbers(0.5, 1.0)
    with no_hidden_host_transfers():
        run = mallada.flow(problem, A1, A2, times)
        mallada.linear_solution(problem, A1, A2, times)
        mallada.observe(problem, run)
        mallada.speeds(problem, run)
        mallada.shares(problem, run)
        mallada.one_sided(problem, run)
        mallada.tangent_kernel(problem, run)
        mallada.general_alignment(problem)
        mallada.scalar_product(times, times, times, times)


def test_shapes_and_devices_of_tensors_without_data():
    def bare(*shape):
        return torch.empty(*shape, dtype=torch.float64, device="meta")

    problem = mallada.TwoLayer(bare(6, 5, 4), bare(6, 3, 5), bare(6, 3, 4))
    factors = mallada.linear_solution(problem, bare(6, 2, 4), bare(6, 2, 5), bare(7))
    seen = mallada.observe(problem, factors)
    assert factors.B1.shape == (7, 6, 5, 2) and factors.A2.device.type == "meta"
    assert seen.sigma.shape == (7, 6, 3) and seen.loss.device.type == "meta"
    assert mallada.growth_rates(problem)[0].shape == (6,)
    assert mallada.speeds(problem, factors).pair.shape == (7, 6, 7)
    assert mallada.tangent_kernel(problem, factors).shape == (7, 6, 12, 12)


# ------------------------------------------------------------------ selection, and the runs of the pages


def test_the_speed_of_selection_is_that_of_the_linearised_solution():
    for rank in (1, 2):
        problem, A1, A2 = problem_and_start(rank=rank, scale=1e-9, ratio=0.8)
        s1, tangents = mallada.growth_rates(problem)[0], selection.tangents(problem, A1, A2)
        times = numbers(0.05, 0.5, 2.0, 6.0) / s1[0]
        exact = mallada.speeds(problem, mallada.linear_solution(problem, A1, A2, times)).log_imbalance / s1
        ours = selection.speed(s1 * times[:, None], 0.8, *tangents)
        # the factors are below 1e-6 at the last time, so what the linearised solution leaves out is below 1e-12
        assert float((ours - exact).abs().max() / exact.abs().max()) < 1e-9
    # late it is 4 (1 - d), whatever the angles
    assert torch.allclose(selection.speed(numbers(30.0), 0.8, *(x[:1] for x in tangents)), numbers(0.8), rtol=1e-10)


def test_the_last_negative_speed_is_bounded_by_its_law_and_absent_for_small_ratios():
    assert len(runs.late_negative((3, 5, 4), 1, 0.5, 60, device.generator(1))[0]) == 0
    last, law = runs.late_negative((3, 5, 4), 1, 0.9, 60, device.generator(1))
    # the grid of times is 0.0025
    assert len(last) > 5 and bool((last <= law + 0.0025).all()) and float((law - last).min()) < 0.1


def test_exponents_at_a_clock_come_back_in_the_order_asked_for():
    found = runs.clock_exponents((2, 4, 2), 1, [0.5], [0.6, 0.3], [1e-6, 1e-8], 2.0, 1.5, 8, device.generator(3))
    # of order alpha^(2c) at c = 0.3
    assert torch.allclose(found.norm, 2 - 2 * numbers(0.6, 0.3)[:, None], atol=0.1)
    assert float(found.misalignment[0, 0]) == pytest.approx(1.2, abs=0.1)
    assert float(found.imbalance[0, 0]) < float(found.imbalance[1, 0]) < 0


def test_the_plateau_and_its_starts_come_from_one_batch():
    base = mallada.isotropic((2, 4, 2), device.generator(4), 1.0, 2.0, 1.5, count=8, device=CPU)
    powers, end, (A1, A2) = runs.plateau_exponents(base, 1, numbers(0.5, 0.6), numbers(1e-3, 3e-4), device.generator(5))
    assert powers.shape == (2, 8) and end.B2.shape == (2, 2, 8, 2, 1) and A1.shape == (2, 8, 1, 2)
    # a local exponent of the median of eight draws
    assert torch.allclose(powers.median(-1).values, 8 * numbers(0.5, 0.4), rtol=0.1)


def test_the_second_stage_of_the_scalar_dynamics_takes_its_time():
    times = torch.linspace(0, 20, 4001, dtype=torch.float64)
    rest = 1 - mallada.scalar_product(times, numbers(1.0), numbers(1.0), numbers(1e-10))
    # ln((1/sqrt(0.1) - 1) (1/(1/sqrt(0.9) - 1))) / 2, the logistic between the two levels
    wanted = math.log((1 / (1 - 0.1**0.5) - 1) ** -1 / (1 / (1 - 0.9**0.5) - 1) ** -1) / 2
    assert float(runs.stage_two(times, rest.square() / 2, 1.0)) == pytest.approx(wanted, abs=1e-3)


def test_the_scalar_dynamics_knows_curve_and_half_time_for_every_rank():
    problem = mallada.isotropic((2, 4, 2), device.generator(4), 0.6, 2.0, 1.5, count=8, device=CPU)
    times = torch.linspace(0, 30, 301, dtype=torch.float64) / 3
    for rank in (1, 2):
        found = runs.scalar_distances(problem, rank, 1e-5, times, device.generator(5))
        # the losing adapter leaves alpha^(2 (1 - d)) = 1e-4
        assert found["curve"] < 0.005 < 0.05 < found["crude"]
        assert abs(found["late"]) < 0.005 and found["six"] == pytest.approx(found["late"] - math.log(1.5) / 2)


def test_at_the_start_the_update_moves_with_the_square_of_the_factors():
    problem, A1, A2 = problem_and_start()
    update, factors = runs.start_speeds(problem, A1, A2)
    zero = mallada.Factors(A1.new_zeros(4, 5, 2), A1, A2.new_zeros(4, 3, 2), A2)
    step = mallada.velocity(zero[:4], problem.W1, problem.W2, problem.shift)
    moved = mallada.Factors(*(x + 1e-7 * v for x, v in zip(zero[:4], step, strict=True)))
    # a difference quotient with a step of 1e-7
    assert torch.allclose(mallada.update(problem, moved).norm(dim=(-2, -1)) / 1e-7, update, rtol=1e-5)
    doubled = runs.start_speeds(problem, 2 * A1, 2 * A2)
    assert torch.allclose(doubled[0], 4 * update) and torch.allclose(doubled[1], 2 * factors)


def test_pretraining_leaves_what_the_hidden_layer_cannot_hold():
    target = torch.diag(numbers(3.0, 2.0, 1.0))
    assert runs.pretrained_distance(target, 3) < 1e-15
    assert runs.pretrained_distance(target, 2) == pytest.approx(1 / 14**0.5)


def test_turned_weights_have_the_singular_values_asked_for():
    base = mallada.isotropic((3, 5, 4), device.generator(1), 1.0, 2.0, 1.0, count=4, device=CPU)
    turned = mallada.planted.turned_weights(base, 1.3, 3.0, device.generator(2))
    assert torch.allclose(torch.linalg.svdvals(turned.W2), numbers(3.0, 3.0, 1.3).expand(4, 3))
