"""LoRA-One: the regression and its gradients, the starts, the dynamics and its predictions, the published tables."""

import math
from dataclasses import replace

import numpy
import pytest
import torch
from device_discipline import no_hidden_host_transfers
from torch._subclasses.fake_tensor import FakeTensorMode

from lorabook import descent, device, lora_one
from lorabook.inputs import published
from lorabook.linalg import random_orthonormal, thin_svd, truncate
from lorabook.lora_one import alignment, peers, planted, rates, runs, starts, tables, toys
from lorabook.page import lists

f64 = torch.float64


def normal(*shape, seed=0):
    return device.normal(shape, device.generator(seed), "cpu")


def problem(activation="linear", N=60, d=7, k=5, rank=2, seed=0, **options):
    """One problem with a shift of the given rank and singular values 1 and 1/2."""
    return planted.single(
        planted.planted(d, k, N, planted.spectrum(rank, 2.0, "cpu"), 1, seed, activation, **options), 0
    )


def factors(d=7, k=5, r=3, seed=5, size=0.5):
    return size * normal(d, r, seed=seed), size * normal(r, k, seed=seed + 1)


def distance(x, y):
    return float((x - y).norm() / y.norm())


# The gradients


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_the_negative_gradient_is_that_of_the_loss(activation):
    p = problem(activation)
    B, A = factors()
    eye = torch.eye(5, dtype=f64)

    def objective(update):
        return lora_one.loss(p, update, eye)

    exact = -torch.func.grad(objective)(B @ A)
    # rounding of sums over 60 samples
    assert distance(lora_one.negative_gradient(p, B, A), exact) < 1e-13
    direction, h = normal(7, 5, seed=9), 1e-6
    slope = (objective(B @ A + h * direction) - objective(B @ A - h * direction)) / (2 * h)
    # central differences: rounding 1e-16 / h, unless a kink lies within h, which this seed has not
    assert abs(float(slope + (exact * direction).sum())) < 1e-8


def test_the_linear_gradient_is_covariance_times_error():
    p = problem()
    B, A = factors()
    wanted = p.covariance @ (p.shift - B @ A)
    for masked in (True, False):
        assert distance(lora_one.negative_gradient(p, B, A, masked), wanted) < 1e-13  # summation order
    assert distance(lora_one.negative_gradient(p), p.covariance @ p.shift) < 1e-13  # the same at B A = 0


def test_the_glm_form_leaves_the_mask_out():
    p = problem("relu")
    B, A = factors()
    residual = p.labels - (p.X @ (p.W + B @ A)).clamp(min=0)
    assert (
        distance(lora_one.negative_gradient(p, B, A, masked=False), p.X.mT @ residual / 60) < 1e-13
    )  # summation order
    assert distance(lora_one.negative_gradient(p, B, A), lora_one.negative_gradient(p, B, A, masked=False)) > 0.05


def test_both_forms_vanish_at_the_solution():
    p = problem("relu")
    B, A = lora_one.spectral_init(p.shift, 2)
    for masked in (True, False):
        # the labels are met to rounding
        assert float(lora_one.negative_gradient(p, B, A, masked).abs().max()) < 1e-14


def test_the_printed_jacobian_is_not_the_gradient_and_the_corrected_one_is():
    printed, corrected = runs.jacobian_distances(6, 3)
    assert printed > 0.1 and corrected < 1e-13  # rounding


# Means over Gaussian samples


def test_the_mean_relu_gradient_agrees_with_quadrature():
    w, shift = normal(2, 1, seed=1), normal(2, 1, seed=2)
    turns = 400_000
    angle = (torch.arange(turns, dtype=f64) + 0.5) * (2 * math.pi / turns)
    x = torch.stack([angle.cos(), angle.sin()], -1)
    value = ((x @ (w + shift)).clamp(min=0) - (x @ w).clamp(min=0)) * (x @ w > 0)
    # in two dimensions E |x|^2 = 2 factors out of the homogeneous integrand
    wanted = 2 * (x * value).mean(0)[:, None]
    # the midpoint rule has an error of the step at the kinks
    assert distance(lora_one.mean_relu_gradient(w, shift), wanted) < 1e-5


def test_the_mean_relu_gradient_agrees_with_many_samples_and_half_the_shift_does_not():
    W, shift, draws = normal(12, 10, seed=3), normal(12, 10, seed=4), device.generator(5)
    W, shift = W / 12**0.5, shift / torch.linalg.matrix_norm(shift) * 2
    many = lora_one.Regression(device.normal((200_000, 12), draws, "cpu"), W, shift, "relu")
    gradient, glm = (lora_one.negative_gradient(many, masked=masked) for masked in (True, False))
    closed = lora_one.mean_relu_gradient(W, shift)
    # 200,000 samples in 12 dimensions: about sqrt(12 / 2e5), times a few
    assert distance(gradient, closed) < 0.03 and distance(glm, shift / 2) < 0.03
    assert distance(gradient, shift / 2) > 0.1 and distance(shift / 2, closed) > 0.1


def test_the_bias_of_the_mask_is_second_order_in_the_shift():
    W, shift = normal(6, 4, seed=3), normal(6, 4, seed=4)
    for share in (1e-2, 1e-3):
        bias = lora_one.mean_relu_gradient(W, share * shift) - share * shift / 2
        # the next order is smaller by the shift's own size
        assert distance(bias, lora_one.relu_bias(W, share * shift)) < 2 * share
    # a shift along the weight has no part across it
    assert float(lora_one.relu_bias(W, 0.5 * W).abs().max()) < 1e-15


def test_the_mean_relu_gradient_in_its_limits():
    W = normal(6, 4, seed=3)
    # a shift along w itself keeps the angle at 0, where the mean is half the shift
    assert distance(lora_one.mean_relu_gradient(W, 0.3 * W), 0.15 * W) < 1e-14
    # turned to the opposite side nothing is left but -w / 2
    assert distance(lora_one.mean_relu_gradient(W, -2 * W), -W / 2) < 1e-14
    small = 1e-9 * normal(6, 4, seed=4)
    # to first order half the shift, with a relative error of the angle
    assert distance(lora_one.mean_relu_gradient(W, small), small / 2) < 1e-8


def test_the_mean_relu_gradient_turns_with_the_space_and_scales_with_the_weights():
    W, shift, Q = normal(6, 4, seed=3), normal(6, 4, seed=4), torch.linalg.qr(normal(6, 6, seed=5)).Q
    J = lora_one.mean_relu_gradient(W, shift)
    # orthogonal and homogeneous of degree one: rounding
    assert distance(lora_one.mean_relu_gradient(Q @ W, Q @ shift), Q @ J) < 1e-13
    assert distance(lora_one.mean_relu_gradient(3 * W, 3 * shift), 3 * J) < 1e-14


def test_the_population_is_the_limit_of_many_samples():
    for activation in ("linear", "relu"):
        many = problem(activation, N=400_000)
        B, A = factors()
        for masked in (True, False):
            gap = distance(
                lora_one.negative_gradient(many, B, A, masked),
                lora_one.negative_gradient(replace(many, X=None), B, A, masked),
            )
            assert gap < 0.02  # a few times sqrt(d / N) = 0.004


def test_the_start_error_has_the_exact_mean_square():
    squares = runs.start_errors(16, 12, 2, [64, 256], 400, 1) / 17
    # the relative spread of one is near sqrt(2 / (d r*)) = 0.25, of the mean over 400 a twentieth of that; three of
    # these
    assert float((squares.mean(-1) - 1).abs().max()) < 0.04
    coloured = runs.start_errors(16, 12, 2, [256], 100, 1, spread=0.5) / 17
    assert float(coloured.mean()) > 1.2


@pytest.mark.parametrize("d", [2, 8])
def test_the_chance_to_miss_is_that_of_two_independent_chi_squares(d):
    N, x = 100 * d, torch.tensor([2.0 * d, 4.0 * d], dtype=f64)
    draws = numpy.random.default_rng(0)
    along, across = (draws.chisquare(df, 400_000) for df in (N, d - 1))
    squares = (along / N - 1) ** 2 + along / N * across / N
    missed = torch.tensor([(squares > y / N).mean() for y in x.tolist()], dtype=f64)
    # shares of at least 1e-3 of 400,000 draws: a standard error of at most a twentieth
    assert distance(starts.least_constant(x, N, 0.0, d).exp(), missed) < 0.1


def test_the_printed_probability_holds_with_a_quarter_in_its_exponent_and_not_with_a_half():
    away = torch.arange(0.0, 25.0, 5.0, dtype=f64)
    for d in (2, 8, 32):
        growth = {f: torch.diff(starts.least_constant(4 * d + away, 10**4 * d, f, d)) / 5 for f in (1.0, 0.5, 0.25)}
        # the tail has the power 1/4 up to a polynomial
        assert growth[1.0].min() > 0.7 and growth[0.5].min() > 0.2 and growth[0.25].abs().max() < 0.06


def test_the_transfer_is_the_linear_phase_of_the_unit_matrix():
    G = truncate(normal(7, 8, seed=1), 2)
    eye, none = torch.eye(7, dtype=f64), torch.zeros(7, 8, dtype=f64)
    for count in (1, 2, 9):
        exact = lora_one.linear_phase(G, eye, none, 0.05, 0.05, count)[0]
        assert distance(alignment.transfer(G, 2, 0.05, count), exact) < 1e-13
    assert torch.allclose(alignment.transfer(G, 2, 0.05, 1), eye, atol=1e-14)  # one step moves A alone
    assert distance(alignment.transfer(G, 2, 0.05, 2, both=False), eye) > 0.1


def test_the_border_is_where_the_law_meets_the_printed_start():
    for d, kappa in ((30, 1.5), (100, 3.0)):
        rates = torch.tensor([1e-6, 1e-6 / kappa], dtype=f64)  # small steps
        epsilon = alignment.border(d, kappa, 0.8)
        best = 0.8 * alignment.best_sine_law(alignment.printed_size(epsilon, d, kappa), d, rates)
        assert float(best) == pytest.approx(epsilon, rel=1e-5)


def test_problems_of_a_given_condition_have_it_exactly_and_their_starts_share_what_lies_inside():
    kappas = torch.tensor([1.0, 3.0], dtype=f64)
    inside = []
    for d in (8, 12):
        task = runs.conditioned(d, kappas, 3, 1)
        G = lora_one.negative_gradient(task)
        s = torch.linalg.svdvals(G)
        assert torch.allclose(s[..., 0] / s[..., 1], kappas[:, None].expand(2, 3), rtol=1e-10)
        U = planted.left_vectors(d, 2, 3, 1)
        # in their order where the singular values differ, and in any case the column space
        assert float((U.mT @ torch.linalg.svd(G[1]).U[..., :2]).abs().sub(torch.eye(2, dtype=f64)).abs().max()) < 1e-10
        assert float((G - U @ (U.mT @ G)).norm()) < 1e-12
        B0 = runs.paired_starts(U, 2)
        inside.append(U.mT @ B0)
        assert B0.shape == (3, d, 4)
    assert torch.allclose(*inside, rtol=1e-10)


def test_the_printed_start_is_enough_for_a_large_tolerance_and_not_without_its_factor():
    epsilons = torch.tensor([0.2, 1e-4], dtype=f64)
    found = runs.tolerance_map([25], [2.0], epsilons, 3, 5)
    assert {x.shape for x in found.values()} == {(1, 1, 2)}  # with two tolerances the start is bare for both
    assert float(found["early"][0, 0, 0]) < 0.8 < 3 < float(found["late"][0, 0, 1])
    assert bool((found["late"] <= found["early"] * (1 + 1e-12)).all())
    assert float(found["bare"][0, 0, 0]) > 1.5 * float(found["early"][0, 0, 0])


def test_the_constant_of_the_best_sine_is_of_order_one_whatever_the_start_and_the_dimension():
    kappas = torch.tensor([2.0], dtype=f64)
    found = [runs.best_sine_constants((16, 48), kappas, alpha, 16, 3).log().mean(-1).exp() for alpha in (1e-6, 1e-9)]
    # 0.7 within the spread of 16 draws, about a third each
    assert all(bool(((K > 0.5) & (K < 1.1)).all()) for K in found)
    # the same draws and a start a thousand times smaller: a law linear in alpha would be off by 1000^0.6 = 63; what
    # is left is that every eighth step is looked at
    assert bool((found[1] / found[0] - 1).abs().max() < 0.1)


def test_lora_ga_stops_at_its_offset_and_aligns_without_it():
    singular = torch.tensor([1.0, 0.5], dtype=f64)
    moved, kept = (runs.offset_sines(12, [0.3], singular, with_offset, 2500, 3) for with_offset in (True, False))
    assert float(moved) == pytest.approx(alignment.offset_sine(0.3, 0.5), rel=1e-6)
    assert float(kept) < 1e-6


def test_both_forms_see_the_same_problems_and_share_a_mean_along_the_weights_only():
    def share(task, masked):
        return lora_one.distance(lora_one.negative_gradient(task, masked=masked), task.shift / 2)

    seen = []
    found = runs.both_forms(lambda task, masked: seen.append(task) or share(task, masked), 8, 8, 1, [16, 256], 3, 2)
    assert [name for name in found] == ["GLM form", "gradient"] and found["gradient"].shape == (2, 3)
    assert seen[0] is seen[1] and seen[2].X.shape == (3, 2048, 8) and not torch.equal(seen[0].shift, seen[2].shift)
    # sixteen times the samples: a fourth of the sampling error, within its own spread; the mask keeps the rest
    assert float(found["GLM form"][1].mean() / found["GLM form"][0].mean()) < 0.4
    assert float(found["gradient"][1].min()) > 0.15


def test_the_floor_of_the_loss_is_reached_by_the_best_product_and_by_no_other():
    p, eye = problem(N=40), torch.eye(5, dtype=f64)
    values, basis = torch.linalg.eigh(p.covariance)
    root = basis * values.sqrt() @ basis.mT
    best = torch.linalg.inv(root) @ truncate(root @ p.shift, 1)
    # Eckart and Young in the metric of the covariance; rounding
    assert float(lora_one.loss(p, best, eye)) == pytest.approx(float(lora_one.loss_floor(p, 1)), rel=1e-12)
    assert float(lora_one.loss(p, truncate(p.shift, 1), eye)) > float(lora_one.loss_floor(p, 1)) * 1.001
    assert float(lora_one.loss_floor(p, 2)) < 1e-28


# The starts


def test_the_spectral_start_is_balanced_and_its_product_is_the_truncation():
    G = normal(3, 9, 6)
    for rank, gamma in ((1, 1.0), (4, 2.0), (6, 0.5)):
        B, A = lora_one.spectral_init(G, rank, gamma)
        assert distance(B @ A, gamma * truncate(G, rank)) < 1e-13  # rounding of the decomposition
        assert float((B.mT @ B - A @ A.mT).abs().max()) < 1e-12


def test_lora_ga_starts_from_the_next_right_singular_vectors():
    G = normal(9, 8)
    B, A = lora_one.lora_ga_init(G, 3, 4.0)
    V = torch.linalg.svd(G).Vh
    # orthonormal up to rounding, twice as long for gamma = 4
    assert torch.allclose(B.mT @ B, 4 * torch.eye(3, dtype=f64), atol=1e-13)
    assert float((A @ V[:3].mT).abs().max()) < 1e-13 and distance(A.mT @ A, 4 * V[3:6].mT @ V[3:6]) < 1e-13
    assert float(alignment.first_change_distance(G, *lora_one.lora_ga_init(G, 3), 6)) < 1e-13


def test_the_published_forms_are_what_they_print():
    G = normal(8, 6)
    U, s, Vh = torch.linalg.svd(G, full_matrices=False)
    wanted = {
        "slides": -4.0 * U[:, :2] @ Vh[:2],
        "readme": (U[:, :2] * s[:2] ** 2) @ Vh[:2] / 4,
        "code": (U[:, :2] * s[:2]) @ Vh[:2] / (4 * s[0]),
    }
    for form in lora_one.FORMS:
        B, A, offsets = lora_one.algorithm_start(G, 2, 4.0, form)
        assert distance(B @ A, wanted[form]) < 1e-13 and offsets == (form == "slides")  # rounding


def test_the_offset_leaves_the_function_at_the_start_unchanged():
    for activation in ("linear", "relu"):
        p = problem(activation)
        B, A = lora_one.lora_ga_init(lora_one.negative_gradient(p), 2, 0.3)
        moved = lora_one.offset(p, B, A)
        # the weights W - B0 A0 + B0 A0 are W to rounding, and so is the target
        assert distance(lora_one.negative_gradient(moved, B, A), lora_one.negative_gradient(p)) < 1e-12
        assert distance(moved.labels, p.labels) < 1e-13


# The dynamics


def test_descent_in_reduced_coordinates_is_descent_in_full():
    for X in (True, False):
        p = problem(d=12, k=11)
        p = p if X else replace(p, X=None)
        B, A = factors(12, 11, 3)
        for preconditioned in (False, True):
            short = lora_one.descend(p, B, A, 0.1, 0.2, 40, preconditioned=preconditioned)
            # a rule given by hand switches the reduction off
            rule = descent.preconditioned() if preconditioned else descent.plain
            full = lora_one.descend(p, B, A, 0.1, 0.2, 40, rule=rule)
            # rounding, amplified over forty steps
            assert distance(short.B, full.B) < 1e-10 and distance(short.A, full.A) < 1e-10
            assert torch.allclose(short.error, full.error, rtol=1e-10) and torch.allclose(
                short.sine_to_shift, full.sine_to_shift, atol=1e-10
            )


def test_the_thin_decomposition_is_the_full_one_without_its_zeros():
    for m, n, rank, batch in ((200, 150, 3, ()), (90, 300, 20, (2,)), (12, 9, 2, (3,)), (80, 80, 80, ())):
        M = normal(*batch, m, rank, seed=1) @ normal(*batch, rank, n, seed=2)
        U, s, Vh = thin_svd(M)
        assert s.shape == (*batch, rank)
        # rounding of the range finder, relative to the largest singular value
        assert float((U * s[..., None, :] @ Vh - M).norm() / M.norm()) < 1e-13
        assert torch.allclose(s, torch.linalg.svdvals(M)[..., :rank], rtol=1e-9)
        assert torch.allclose(U.mT @ U, torch.eye(rank, dtype=f64).expand(*batch, rank, rank), atol=1e-12)


def test_what_is_recorded_is_what_it_says():
    p = problem()
    B, A = factors()
    run = lora_one.descend(p, B, A, 0.05, 0.05, 12)
    assert run.error.shape == run.sine_to_gradient.shape == run.sine_to_shift.shape == (13,)
    assert float(run.error[0]) == pytest.approx(float((B @ A - p.shift).norm()), rel=1e-13)
    assert float(run.error[-1]) == pytest.approx(float((run.B @ run.A - p.shift).norm()), rel=1e-12)
    U = torch.linalg.svd(run.B).U[:, :2]
    for sine, target in ((run.sine_to_gradient, lora_one.negative_gradient(p)), (run.sine_to_shift, p.shift)):
        V = torch.linalg.svd(target).U
        # the definition through the orthogonal complement
        assert float(sine[-1]) == pytest.approx(float(torch.linalg.matrix_norm(V[:, 2:].mT @ U, ord=2)), abs=1e-12)


def test_a_batch_of_starts_steps_and_problems_is_one_by_one():
    batch = planted.planted(8, 6, 80, planted.spectrum(2, 2.0, "cpu"), 3, 1)
    B, A = 0.3 * normal(4, 3, 8, 2), 0.3 * normal(4, 3, 2, 6, seed=1)
    steps = torch.tensor([0.05, 0.1, 0.2, 0.3], dtype=f64)[:, None]
    run = lora_one.descend(batch, B, A, steps, 0.1, 30)
    for i, s in ((0, 0), (2, 1), (3, 2)):
        alone = lora_one.descend(planted.single(batch, s), B[i, s], A[i, s], float(steps[i]), 0.1, 30)
        # summation order over thirty steps
        assert distance(run.B[i, s], alone.B) < 1e-11 and torch.allclose(run.error[:, i, s], alone.error, rtol=1e-11)


def test_the_linear_phase_is_the_matrix_power_for_unequal_steps():
    p = problem()
    exact, without, closed, mean_step = runs.linear_checks(p, 3, 0.02, 0.07, 30, 1)
    # rounding of thirty products; the counter-probes are visible
    assert exact < 1e-13 and closed < 1e-12 and without > 1e-3 and mean_step > 1e-3


def test_the_linear_phase_takes_a_number_or_a_list():
    G, (B, A) = lora_one.negative_gradient(problem()), factors()
    one = lora_one.linear_phase(G, B, A, 0.1, 0.2, 7)
    many = lora_one.linear_phase(G, B, A, 0.1, 0.2, [0, 7])
    assert one[0].shape == (7, 3) and many[0].shape == (2, 7, 3)
    assert torch.allclose(many[0][1], one[0]) and torch.allclose(many[1][0], A, atol=1e-15)  # rounding of the rescaling
    stacked = torch.stack([B, 2 * B])
    both = lora_one.linear_phase(G, stacked, A, 0.1, 0.2, [3, 5, 7])
    assert both[0].shape == (3, 2, 7, 3) and torch.allclose(both[0][2, 0], one[0])


def test_descent_follows_its_linear_phase_from_a_tiny_start_only():
    p, (B, A) = problem(), factors()
    gaps = []
    for size in (1e-2, 1e-3):
        residual, linear = lora_one.linear_residual(p, size * B, size * A, 0.05, 20)
        gaps.append(float(residual[-1] / linear[-1]))
    # the correction is of second order in the size of the start, relative to the linear part
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.05)


def test_unequal_steps_are_a_rescaled_start_for_relu_too():
    for activation in ("linear", "relu"):
        p, (B, A) = problem(activation), factors()
        c = (0.2 / 0.05) ** 0.25
        uneven = lora_one.descend(p, B, A, 0.2, 0.05, 60)
        even = lora_one.descend(p, B / c, c * A, 0.1, 0.1, 60)
        same_start = lora_one.descend(p, B, A, 0.1, 0.1, 60)
        # an identity; rounding over sixty steps
        assert distance(uneven.B @ uneven.A, even.B @ even.A) < 1e-11
        assert distance(uneven.B @ uneven.A, same_start.B @ same_start.A) > 1e-3


def test_theorem_3_1_holds_for_the_rules_that_act_on_rows_and_breaks_for_the_others():
    batch = planted.planted(20, 18, 320, planted.spectrum(3, 1.0, "cpu"), 4, 2)
    B, A = lora_one.lora_init((4, 20, 18), 5, 0.03, device.generator(3), "cpu")
    leaks = alignment.leaks(batch, B, A, 1 / 64, 60)
    for name, (_, _, keeps) in alignment.rules().items():
        # rounding times the condition number of A along the run
        assert float(leaks[name].max()) < 1e-10 if keeps else float(leaks[name].min()) > 1e-2, name
    noisy = planted.with_noise(batch, 0.1, device.generator(4))
    run = lora_one.descend(noisy, B, A, 1 / 64, 1 / 64, 60)
    assert float(lora_one.row_leak(run.A, lora_one.negative_gradient(noisy), 3).min()) > 1e-2


def test_momentum_under_a_constant_force_moves_as_far_as_descent_in_the_comparison_of_rules():
    rule, factor, _ = alignment.rules()["momentum"]
    (B, A), memory = factors(), None
    for _ in range(400):
        D_B, D_A, memory = rule(B, A, B, A, memory)
    # the geometric series: 400 terms of ratio 0.9 lack 1e-18 of it, and rounding adds up
    assert distance(factor * D_B, B) < 1e-13 and distance(factor * D_A, A) < 1e-13


def test_every_rule_keeps_the_rows_of_a_shift_in_few_columns():
    batch = planted.planted(20, 18, 320, planted.spectrum(3, 1.0, "cpu"), 4, 2)
    B, A = lora_one.lora_init((4, 20, 18), 5, 0.03, device.generator(3), "cpu")
    few = replace(batch, shift=batch.shift * (torch.arange(18) < 3))
    # the other columns of A never get a gradient
    assert max(float(leak.max()) for leak in alignment.leaks(few, B, A, 1 / 64, 60).values()) < 1e-10


def test_the_best_sine_falls_with_the_predicted_power():
    law = planted.planted(24, 24, 384, planted.spectrum(2, [1.0, 2.0], "cpu"), 4, 4)
    fitted, predicted, _, kappa = runs.scaling_law(law, 4, torch.logspace(-8, -14, 4, dtype=f64), 1 / 32, 5)
    # the power has settled to a few per cent at these sizes
    assert float((fitted / predicted - 1).abs().median(-1).values.max()) < 0.05
    # for small steps it is 2 / (2 kappa + 1), far from the printed 1
    assert torch.allclose(predicted, 2 / (2 * kappa + 1), rtol=0.05) and float(fitted.max()) < 0.8


def test_the_lora_ga_floor_is_the_eckart_young_tail():
    batch = planted.planted(12, 12, 96, planted.spectrum(2, 1.0, "cpu"), 3, 6)
    B, A = lora_one.lora_ga_init(lora_one.negative_gradient(batch), 2)
    moved = lora_one.offset(batch, B, A)
    ends = [lora_one.descend(task, B, A, 0.25, 0.25, 600, every=600) for task in (moved, batch)]
    with_offset, without = (
        (lora_one.loss(task, run.B, run.A) / lora_one.loss_floor(moved, 2)).median()
        for task, run in zip((moved, batch), ends)
    )
    # the run ends within a ten-thousandth of the floor; without the offset there is none
    assert float(with_offset) == pytest.approx(1.0, abs=1e-3) and float(without) < 1e-6


# Rates


@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_the_linearised_operator_is_the_jacobian_of_a_step(activation, preconditioned):
    p = problem(activation, N=90)
    B, A = lora_one.spectral_init(p.shift, 2)
    step = 0.1

    def step_map(B, A):
        J = lora_one.problem._negative_gradient(p, B, A, False)
        left, right = (
            (torch.linalg.inv(A @ A.mT), torch.linalg.inv(B.mT @ B))
            if preconditioned
            else (torch.eye(2, dtype=f64),) * 2
        )
        return (B + step * J @ A.mT @ left) @ (A + step * right @ B.mT @ J)

    jacobian = torch.func.jacrev(step_map, argnums=(0, 1))(B, A)
    product = torch.func.jacrev(lambda B, A: B @ A, argnums=(0, 1))(B, A)
    after, before = (torch.cat([part.flatten(2).flatten(0, 1) for part in parts], 1) for parts in (jacobian, product))
    # on the tangent space, after = (I - step T) before; so T has the eigenvalues of (before - after) before^+ there
    values = torch.linalg.eigvals((before - after) @ torch.linalg.pinv(before, rtol=1e-10)).real.sort().values / step
    mu = rates.curvatures(p, preconditioned)
    # the other d k - D eigenvalues are zero; 1e-9 for the pseudoinverse
    assert torch.allclose(values[-len(mu) :], mu, atol=1e-8) and float(values[: -len(mu)].abs().max()) < 1e-8


def test_the_preconditioned_curvature_is_that_of_the_closed_form():
    p = problem(d=10, k=9, N=160)
    U = torch.linalg.svd(p.shift).U[:, :2]
    first = torch.linalg.eigvals((torch.eye(10, dtype=f64) + U @ U.mT) @ p.covariance).real.min()
    second = torch.linalg.eigvalsh(U.mT @ p.covariance @ U).min()
    assert float(rates.curvatures(p, True)[0]) == pytest.approx(float(torch.minimum(first, second)), rel=1e-10)


def test_in_the_population_the_curvatures_are_the_sums_of_singular_values():
    p = replace(problem(), X=None)
    # s_i + s_j for i, j <= r*, and s_i alone d - r* and k - r* times: here s = (1, 1/2), d = 7, k = 5
    wanted = torch.tensor(sorted([2.0, 1.5, 1.5, 1.0] + 8 * [1.0] + 8 * [0.5]), dtype=f64)
    assert torch.allclose(rates.curvatures(p), wanted, atol=1e-12)
    assert torch.allclose(
        rates.curvatures(replace(p, activation="relu"), True),
        torch.tensor(16 * [0.5] + 4 * [1.0], dtype=f64),
        atol=1e-12,
    )


def test_the_forecast_meets_the_run_and_the_rate_depends_on_kappa_without_preconditioner_only():
    kappas = [1.0, 10.0, 100.0]
    plain, scaled = (runs.kappa_sweep(12, 10, 2, 16, kappas, 0.6, 3, pre) for pre in (False, True))
    for sweep in (plain, scaled):
        # what the linearisation drops is of second order in an error of 1e-5
        assert torch.allclose(sweep["fitted"], sweep["predicted"], rtol=1e-3)
        # after ten e-foldings the slowest mode is nearly alone, and no mode is slower
        assert torch.allclose(sweep["edge"], sweep["predicted"], rtol=0.1)
    assert (
        float(scaled["fitted"].max() / scaled["fitted"].min()) < 1.02
        and float(plain["fitted"][0] / plain["fitted"][2]) > 50
    )


def test_the_printed_sketch_lacks_the_mixed_parts():
    sample = planted.single(planted.planted(10, 9, 2000, planted.spectrum(2, 2.0, "cpu"), 1, 4, "relu"), 0)
    B, A = lora_one.spectral_init(lora_one.negative_gradient(sample, masked=False), 2, 2.0)
    population, over = replace(sample, X=None), []
    for _ in range(15):
        bounds = torch.stack(rates.sketch_bounds(population, B, A, 0.5))
        run = lora_one.descend(population, B, A, 0.5, 0.5, 1, preconditioned=True, masked=False)
        B, A = run.B, run.A
        over.append(run.error[-1] / bounds)
    printed, completed = torch.stack(over, 1)
    assert float(printed.max()) > 50 and float(completed.max()) < 1.0
    assert bool((printed.diff() > 0).all())  # it grows along the run, so no constant mends it


def test_the_sketch_bounds_take_the_error_apart():
    p = replace(problem(), X=None)
    B, A = factors(r=2)
    printed, completed = rates.sketch_bounds(p, B, A, 1.0)
    E, P_U, P_V = B @ A - p.shift, B @ torch.linalg.pinv(B), torch.linalg.pinv(A) @ A
    outside = E - P_U @ E - E @ P_V + P_U @ E @ P_V
    # a full step removes the part inside both spaces, and half of each mixed part; rounding
    assert float(printed) == pytest.approx(float(outside.norm()), rel=1e-12)
    mixed = (P_U @ E - P_U @ E @ P_V).norm() + (E @ P_V - P_U @ E @ P_V).norm()
    assert float(completed - printed) == pytest.approx(float(mixed) / 2, rel=1e-12)


def test_enough_samples_make_the_relu_rate_a_quarter():
    sweep = runs.relu_sweep(12, 12, 2, [4, 64], [1.0, 4.0], 2, 0.5, 120, 5)
    assert float(sweep["rate"][1].min()) > 0.25 > float(sweep["rate"][0].min())
    # masks no longer flip this close to the solution
    assert torch.allclose(sweep["rate"][1], sweep["predicted"][1], rtol=0.01)


# Toys, peers, tables


def test_toy_minimisers_are_fixed_points_and_the_spectral_start_is_near():
    p = toys.toy_problem("cpu")
    t = torch.tensor([0.5, 1.0, -2.0], dtype=f64)[:, None, None]
    B = torch.tensor(toys.BETA, dtype=f64)[:, None] / t
    run = lora_one.descend(p, B, t, 0.1, 0.1, 5)
    assert torch.allclose(run.B, B, atol=1e-15) and float(run.error.max()) < 1e-14  # rounding


def test_the_starts_on_a_circle_stand_at_equal_angles_and_one_distance():
    B, A = toys.circle(6, 2.0, "cpu")
    assert B.shape == (6, 2, 1) and A.shape == (6, 1, 1) and not A.any()
    # neighbours of a hexagon are as far from each other as from its centre; rounding
    assert torch.allclose((B - B.roll(1, 0)).norm(dim=1), torch.full((6, 1), 2.0, dtype=f64), atol=1e-14)


def test_a_path_is_as_long_as_its_steps_in_both_factors():
    t = torch.arange(6, dtype=f64)[:, None, None, None]
    # five steps of norm 3 and 4 along a line; five of 6 and 8, there and back
    B, A = torch.cat([3 * t, 6 * (t % 2)], 1), torch.cat([4 * t, 8 * (t % 2)], 1)
    assert toys.path_length(B, A).tolist() == [5 * 5.0, 5 * 10.0]


def test_the_plane_is_kept_only_for_an_eigenvector():
    assert runs.plane_distance(6, 1.0, 0.1, 100, True, 2) < 1e-14
    assert runs.plane_distance(6, 1.0, 0.1, 100, False, 2) > 1e-3


def test_the_printed_sign_traps_descent_below_the_singular_values_only():
    ends = {
        g: [float(runs.slides_errors(8, 8, 3, g, 0.2, 150, 1, turned)[-1]) for turned in (False, True)]
        for g in (0.3, 2.0)
    }
    assert ends[0.3][0] > 0.3 and max(ends[0.3][1], *ends[2.0]) < 1e-8


def test_adam_leaves_the_saddle_and_plain_descent_does_not():
    assert float(runs.slides_errors(8, 8, 3, 0.3, 0.2, 150, 1, False)[-1]) > 0.3
    for rule in (descent.adam(), runs.adam_on_preconditioned(1e-6)):
        printed, turned = (runs.slides_errors(8, 8, 3, 0.3, 0.01, 600, 1, sign, rule) for sign in (False, True))
        below = [int((error <= 1e-3).to(torch.int64).argmax()) for error in (turned, printed)]
        # six steps of a hundredth are too few
        assert 6 < below[0] <= below[1] and float(printed.min()) <= 1e-3


def test_adam_on_preconditioned_forces_with_a_large_ridge_is_adam():
    plain, scaled = (
        runs.slides_errors(8, 8, 3, 0.3, 0.01, 40, 1, True, rule)
        for rule in (descent.adam(), runs.adam_on_preconditioned(1e4))
    )
    # forces over 1e4 are far below 1 and far above Adam's 1e-8; the Gram matrices are lost in the ridge
    assert torch.allclose(plain, scaled, rtol=1e-2) and not torch.equal(plain, scaled)


def test_a_method_is_tuned_on_the_grid_it_is_given():
    batch = planted.planted(8, 8, 128, planted.spectrum(2, 3.0, "cpu"), 2, 7)
    grid = 2.0 ** torch.arange(-5, 3, dtype=f64)
    found = {m: peers.tune(batch, m, 2, grid, (0.1, 1.0), 60) for m in peers.METHODS}
    for method, tuned in found.items():
        assert tuned.error == float(tuned.curve.min()) and tuned.rate in grid.tolist()
        assert len(tuned.curve) == (1 if method in ("PiSSA", "spectral") else 2)
        assert tuned.scale in (0.1, 1.0) or math.isnan(tuned.scale)
        if len(tuned.curve) == 2:
            # one scale alone gives the same row: a batch of Gaussian starts does not depend on the other scale
            assert torch.allclose(peers.tune(batch, method, 2, grid, (1.0,), 60).curve[0], tuned.curve[1])
    assert found["spectral"].error < found["LoRA"].error < found["PiSSA"].error
    with pytest.raises(ValueError, match="method must be one of"):
        peers.start(batch, "DoRA", 2, 0.1, device.generator(0))


def test_a_best_rate_is_at_the_edge_where_it_is_the_first_or_the_last_of_the_grid():
    batch = planted.planted(8, 8, 128, planted.spectrum(2, 3.0, "cpu"), 2, 7)
    # too small to move, good, so large that it diverges
    edge = lambda *rates: peers.tune(batch, "spectral", 2, torch.tensor(rates, dtype=f64), (1.0,), 60).at_edge
    assert not edge(1e-6, 0.25, 1e3)
    assert edge(0.25, 1e3, 1e4) and edge(1e-7, 1e-6, 0.25)


def test_the_tables_are_complete_and_their_arithmetic_is_right():
    glue = published.read("glue_t5base")
    assert len(glue) == 90 and len(published.read("llama2_7b")) == 16
    assert tables.is_fraction(68.38, 408) and not tables.is_fraction(59.03, 1043) and tables.is_fraction(100.0, 3)
    # 0.58 points over the root of (0.05^2 + 0.18^2) / 3
    lead = {(d, r): z for d, r, _, _, z, _ in tables.gaps(glue, "LoRA-One", 3)}
    assert lead["SST-2", 8.0] == pytest.approx(0.58 / math.sqrt((0.05**2 + 0.18**2) / 3))
    assert tables.sampling_error(50.0, 50.0, 50) == pytest.approx(10.0) and tables.sampling_error(100.0, 0.0, 7) == 0.0
    assert ("MNLI", 8.0, ["LoRA+", "LoRA-One"]) in tables.best_methods(glue)


def test_the_claim_list_is_complete():
    listed = lists.load("lora_one")
    assert len(listed) >= 40 and all(claim.band or claim.reason for claim in listed.values())


# Bad input and devices


def test_bad_input_is_refused_in_one_sentence():
    X, W, shift, G = normal(30, 6), normal(6, 5), normal(6, 5, seed=1), normal(6, 5)
    B, A = factors(6, 5, 2)
    p = lora_one.Regression(X, W, shift)
    hollow = replace(p, X=None, W=W * (torch.arange(5) > 0), activation="relu")  # its first column is zero
    refused = [
        (lambda: lora_one.Regression(X[:4], W, shift), "N > d"),
        (lambda: lora_one.Regression(X[:, :5], W, shift), "columns"),
        (lambda: lora_one.Regression(X, W[:, :3], shift), "last two dimensions"),
        (lambda: lora_one.Regression(X, W, shift, "tanh"), "activation"),
        (lambda: lora_one.Regression(X, W, 0 * shift), "zero"),
        (lambda: lora_one.Regression(X, W * torch.nan, shift), "NaN"),
        (lambda: lora_one.Regression(X.to(torch.float32), W, shift), "float64"),
        (lambda: lora_one.Regression(None, W, shift, noise=normal(30, 5)), "samples"),
        (lambda: lora_one.Regression(X, W, shift, noise=normal(29, 5)), "noise"),
        (lambda: lora_one.negative_gradient(p, B), "Both|both|neither"),
        (lambda: lora_one.negative_gradient(p, B, A[:, :4]), "shape"),
        (lambda: lora_one.mean_relu_gradient(0 * W, shift), "zero column"),
        (lambda: lora_one.spectral_init(G, 0), "rank"),
        (lambda: lora_one.spectral_init(G, 6), "rank"),
        (lambda: lora_one.spectral_init(G, 2, 0.0), "gamma"),
        (lambda: lora_one.spectral_init(G, 2, math.inf), "gamma"),
        (lambda: lora_one.spectral_init(G, 2, "a"), "gamma must be positive and finite; got 'a'"),
        (lambda: lora_one.spectral_init(G, "2"), "rank"),
        (lambda: lora_one.spectral_init([[1.0]], 1), "float64 tensor; got list"),
        (lambda: lora_one.lora_ga_init(G, 2, -1.0), "gamma"),
        (lambda: lora_one.lora_init((6, 5), 7, 0.1, device.generator(0)), "rank"),
        (lambda: lora_one.lora_init((6, 5), 2, "a", device.generator(0)), "init_scale"),
        (lambda: lora_one.algorithm_start(0 * G, 2, 1.0, "code"), "zero"),
        (lambda: lora_one.negative_gradient(hollow), "zero column"),
        (
            lambda: lora_one.negative_gradient(
                replace(hollow, W=W), -W @ torch.eye(5, 2, dtype=f64), torch.eye(2, 5, dtype=f64)
            ),
            "zero column",
        ),
        (lambda: lora_one.descend(hollow, B, A, 0.1, 0.1, 3), "zero column"),
        (lambda: lora_one.loss(replace(p, X=None), B, A), "samples"),
        (lambda: lora_one.Regression(torch.stack([X] * 2), W, torch.stack([shift] * 3)), "leading dimensions"),
        (
            lambda: lora_one.descend(
                lora_one.Regression(torch.stack([X] * 2), W, shift), torch.stack([B] * 3), A, 0.1, 0.1, 3
            ),
            "leading dimensions",
        ),
        (lambda: lora_one.descend(p, B, A, "a", 0.1, 3), "step_B"),
        (lambda: lora_one.descend(p, B, A, 0.1, 0.1, 2.5), "iterations"),
        (lambda: lora_one.descend(p, B, A, 0.1, 0.1, 3, preconditioned=True, ridge=-1.0), "ridge"),
        (lambda: lora_one.linear_phase(G, B, A, 0.1, "a", 3), "step_A"),
        (lambda: lora_one.lora_ga_init(G, 3), "2 rank"),
        (lambda: lora_one.algorithm_start(G, 2, 1.0, "paper"), "form"),
        (lambda: lora_one.descend(p, B, A, -0.1, 0.1, 3), "step_B"),
        (lambda: lora_one.descend(p, B, A, 0.1, 0.1, 3, ridge=0.1), "ridge"),
        (lambda: lora_one.descend(p, B, 0 * A, 0.1, 0.1, 3, preconditioned=True), "singular"),
        (lambda: lora_one.descend(p, normal(6, 6), normal(6, 5), 0.1, 0.1, 3), "rank"),
        (lambda: lora_one.descend(p, normal(5, 2), A, 0.1, 0.1, 3), "shape"),
        (lambda: lora_one.linear_phase(G, B, A, 0.0, 0.1, 3), "step_B"),
        (lambda: lora_one.linear_phase(G, B, A, 0.1, 0.1, -1), "negative"),
        (lambda: lora_one.linear_phase(G, B, A, 0.1, 0.1, "x"), "iterations must be a number"),
        (lambda: lora_one.linear_phase(G, B, A, 0.1, 0.1, None), "iterations must be a number"),
        (lambda: lora_one.linear_phase(G, B, A, 0.1, 0.1, [5, 10**6]), "After 1000000 iterations the factors leave"),
        (
            lambda: lora_one.mean_relu_gradient(normal(2, 6, 5), normal(3, 6, 5)),
            r"do not fit each other: W \(2,\), shift \(3,\)",
        ),
        (lambda: lora_one.loss(p, B.mT, A), "shape|ranks"),
        (lambda: lora_one.loss(G, B, A), "problem must be a Regression; got Tensor"),
        (lambda: lora_one.negative_gradient(G), "problem must be a Regression; got Tensor"),
        (lambda: lora_one.offset(G, B, A), "problem must be a Regression; got Tensor"),
        (lambda: lora_one.descend(G, B, A, 0.1, 0.1, 3), "problem must be a Regression; got Tensor"),
        (
            lambda: lora_one.descend(p, B, A, 0.1, 0.1, 3, rule="adam"),
            "rule must be a function such as those of lorabook.descent; got 'adam'",
        ),
        (lambda: lora_one.descend(p, normal(5, 2), A, 0.1, 0.1, 3), r"^shift \(6, 5\) and the update"),
        (lambda: lora_one.lora_init((6,), 1, 0.1, device.generator(0)), r"shape must be .*; got \(6,\)"),
        (lambda: lora_one.spectral_init(G, "2"), "rank '2'"),
        (lambda: lora_one.reduced(replace(p, activation="relu"), B, A), "linear"),
        (
            lambda: rates.curvatures(planted.planted(6, 5, 30, planted.spectrum(2, 1.0, "cpu"), 2, 0)),
            r"batch of shape \(2,\)\.",
        ),
    ]
    for call, words in refused:
        with pytest.raises(ValueError, match=words):
            call()


def test_a_diverging_step_is_a_status_and_not_a_run_of_infinities():
    p, (B, A) = problem(), factors()
    run = lora_one.descend(p, torch.stack([B, B]), A, torch.tensor([0.1, 40.0], dtype=f64), 0.1, 500)
    assert run.status.tolist() == [descent.DONE, descent.DIVERGED] and int(run.steps[1]) < 100
    assert run.error.shape == (501, 2) and bool(run.error[:, 0].isfinite().all()) and bool(run.error[-1, 1].isnan())
    assert not bool(run.error.isinf().any())


def test_nothing_slips_to_another_device():
    p, q = problem(), problem("relu")
    B, A = factors()
    with no_hidden_host_transfers():
        for one in (p, q, replace(p, X=None), replace(q, X=None)):
            for preconditioned in (False, True):
                lora_one.descend(
                    one, B, A, 0.05, 0.05, 3, preconditioned=preconditioned, ridge=0.1 if preconditioned else 0.0
                )
        for start in (lora_one.spectral_init, lora_one.lora_ga_init):
            start(lora_one.negative_gradient(q), 2)
        lora_one.linear_phase(lora_one.negative_gradient(p), B, A, 0.1, 0.2, [1, 2])
        lora_one.linear_residual(p, B, A, 0.05, 3)
        rates.curvatures(q, True)
        rates.forecast(p, *lora_one.spectral_init(p.shift, 2), 0.1, torch.arange(3, device="cpu"))


def test_what_has_no_loop_runs_on_tensors_without_data():
    with FakeTensorMode(), torch.device("cuda"):
        X, W, shift = (torch.empty(shape, dtype=f64) for shape in ((4, 30, 6), (6, 5), (4, 6, 5)))
        B, A = torch.empty(4, 6, 2, dtype=f64), torch.empty(4, 2, 5, dtype=f64)
        for activation in ("linear", "relu"):
            p = lora_one.Regression(X, W, shift, activation)
            J = lora_one.negative_gradient(p, B, A)
            assert J.shape == (4, 6, 5) and J.device.type == "cuda"
        assert lora_one.mean_relu_gradient(W, shift).device.type == "cuda"
    G = torch.empty(4, 6, 5, dtype=f64, device="meta")
    for B, A in (lora_one.spectral_init(G, 2), lora_one.lora_ga_init(G, 2)):
        assert B.shape == (4, 6, 2) and A.shape == (4, 2, 5) and B.is_meta and A.is_meta


def test_draws_are_haar_and_the_condition_number_is_exact():
    batch = planted.planted(9, 7, 40, planted.spectrum(3, [1.0, 50.0], "cpu"), 4, 1)
    s = torch.linalg.svdvals(batch.shift)[..., :3]
    # singular values are given; the factors are orthonormal to rounding
    assert torch.allclose(
        s[..., 0] / s[..., -1], torch.tensor([1.0, 50.0], dtype=f64)[:, None].expand(2, 4), rtol=1e-10
    )
    assert batch.shift.shape == (2, 4, 9, 7) and batch.rank == 3
    assert random_orthonormal(4, 2, device.generator(0), "cpu").shape == (4, 2)
