"""Batched gradient steps: against a loop by hand, closed forms and torch's own optimisers; failures one by one."""

import pytest
import torch
from device_discipline import no_hidden_host_transfers

from lorabook import descent, device
from lorabook.descent import DIVERGED, DONE, SINGULAR


def start(*lead, m=5, r=2, n=4, seed=0):
    draws = device.generator(seed)
    return device.normal((*lead, m, r), draws, "cpu"), device.normal((*lead, r, n), draws, "cpu")


def factorisation(target):
    """Forces of |target - B A|^2 / 2."""
    return lambda B, A: ((target - B @ A) @ A.mT, B.mT @ (target - B @ A))


def target(*lead, m=5, n=4, seed=9):
    return device.normal((*lead, m, n), device.generator(seed), "cpu") / 3


def by_hand(forces, B, A, step_B, step_A, count):
    for _ in range(count):
        F_B, F_A = forces(B, A)
        B, A = B + step_B * F_B, A + step_A * F_A
    return B, A


# What a step is


def test_both_factors_move_from_the_same_iterate():
    B, A = start()
    forces = factorisation(target())
    run = descent.descend(forces, B, A, 0.1, 0.03, 7)
    wanted = by_hand(forces, B, A, 0.1, 0.03, 7)
    # the same operations in the same order: equal to the last bit
    assert torch.equal(run.B, wanted[0]) and torch.equal(run.A, wanted[1])


def test_one_step_is_minus_the_gradient_by_automatic_differentiation():
    B, A = start()
    W = target()
    exact = torch.func.grad(lambda B, A: (W - B @ A).square().sum() / 2, argnums=(0, 1))(B, A)
    run = descent.descend(factorisation(W), B, A, 0.1, 0.2, 1)
    # rounding of one multiplication and one addition
    assert torch.allclose(run.B, B - 0.1 * exact[0], atol=1e-14) and torch.allclose(
        run.A, A - 0.2 * exact[1], atol=1e-14
    )


def test_no_iterations_return_the_start():
    B, A = start()
    run = descent.descend(factorisation(target()), B, A, 0.1, 0.1, 0, observe=lambda B, A: (B,))
    assert torch.equal(run.B, B) and run.at.tolist() == [0] and int(run.steps) == 0 and int(run.status) == DONE


def test_observations_stand_at_multiples_and_at_the_end():
    B, A = start()
    run = descent.descend(factorisation(target()), B, A, 0.1, 0.1, 10, observe=lambda B, A: (B, A), every=4)
    assert run.at.tolist() == [0, 4, 8, 10]
    assert torch.equal(run.observed[0][-1], run.B) and torch.equal(run.observed[1][0], A)


def test_a_batch_is_its_systems_one_by_one():
    B, A = start(6)
    W, steps = target(6), torch.linspace(0.02, 0.1, 6, dtype=torch.float64)
    batch = descent.descend(factorisation(W), B, A, steps, 2 * steps, 50)
    for s in range(6):
        alone = descent.descend(factorisation(W[s]), B[s], A[s], float(steps[s]), float(2 * steps[s]), 50)
        # the matrix products may be summed in another order
        assert torch.allclose(batch.B[s], alone.B, atol=1e-13)


def test_the_order_of_descent_towards_the_flow_is_one():
    B, A = start()
    forces = factorisation(target())
    ends = [descent.descend(forces, B, A, h, h, round(0.5 / h)) for h in (1e-2, 5e-3, 2.5e-3, 1.25e-3)]
    gaps = torch.stack([(a.B @ a.A - b.B @ b.A).norm() for a, b in zip(ends, ends[1:])])
    orders = (gaps[:-1] / gaps[1:]).log2()
    # first order with a remainder of the size of the step
    assert float((orders - 1).abs().max()) < 0.05


# Rules


def test_rotating_the_problem_rotates_the_run_except_for_entrywise_rules():
    B, A = start(3)
    W, Q = target(3), torch.linalg.qr(start(3, m=5, r=5)[0]).Q
    for rule, covariant in (
        (descent.plain, True),
        (descent.momentum(0.9), True),
        (descent.decayed(0.1), True),
        (descent.preconditioned(0.1), True),
        (descent.signed, False),
        (descent.adam(), False),
    ):
        plain = descent.descend(factorisation(W), B, A, 0.02, 0.02, 20, rule=rule)
        turned = descent.descend(factorisation(Q @ W), Q @ B, A, 0.02, 0.02, 20, rule=rule)
        gap = float((turned.B - Q @ plain.B).abs().max())
        # rounding over twenty steps on one side, an effect of the size of the factors on the other
        assert gap < 1e-12 if covariant else gap > 1e-3


def test_momentum_and_adam_agree_with_torch():
    B, A = start()
    W = target()
    for rule, optimiser in (
        (descent.momentum(0.9), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)),
        (descent.adam(), lambda p: torch.optim.Adam(p, lr=0.01)),
        (descent.adam(decay=0.3), lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3)),
    ):
        ours = descent.descend(factorisation(W), B, A, 0.01, 0.01, 30, rule=rule)
        parameters = [B.clone().requires_grad_(True), A.clone().requires_grad_(True)]
        stepper = optimiser(parameters)
        for _ in range(30):
            stepper.zero_grad()
            ((W - parameters[0] @ parameters[1]).square().sum() / 2).backward()
            stepper.step()
        # another order of operations over thirty steps
        assert torch.allclose(ours.B, parameters[0].detach(), atol=1e-11) and torch.allclose(
            ours.A, parameters[1].detach(), atol=1e-11
        )


def test_preconditioned_steps_do_not_see_a_change_of_basis_between_the_factors():
    B, A = start(4)
    T = torch.linalg.matrix_exp(start(4, m=2, r=2)[0] / 4)
    runs = [
        descent.descend(factorisation(target(4)), *factors, 0.3, 0.3, 15, rule=descent.preconditioned())
        for factors in ((B, A), (B @ T, torch.linalg.solve(T, A)))
    ]
    # rounding times the condition number of T; plain descent differs visibly
    assert torch.allclose(runs[0].B @ runs[0].A, runs[1].B @ runs[1].A, atol=1e-9)
    plain = [
        descent.descend(factorisation(target(4)), *f, 0.02, 0.02, 15)
        for f in ((B, A), (B @ T, torch.linalg.solve(T, A)))
    ]
    assert float((plain[0].B @ plain[0].A - plain[1].B @ plain[1].A).abs().max()) > 1e-3


def test_a_proximal_map_is_applied_after_every_step():
    B, A = start()

    def shrink(B, A, step_B, step_A):
        return B / (1 + step_B), A / (1 + step_A)

    run = descent.descend(lambda B, A: (torch.zeros_like(B), torch.zeros_like(A)), B, A, 0.5, 0.25, 3, after=shrink)
    # three divisions
    assert torch.allclose(run.B, B / 1.5**3, atol=1e-15) and torch.allclose(run.A, A / 1.25**3, atol=1e-15)


# Failures


def test_a_system_that_diverges_stops_and_its_neighbours_do_not_notice():
    B, A = start(3)
    W, steps = target(3), torch.tensor([0.05, 5.0, 0.05], dtype=torch.float64)
    run = descent.descend(
        factorisation(W), B, A, steps, steps, 200, observe=lambda B, A: ((B @ A - W).norm(dim=(-2, -1)),)
    )
    assert run.status.tolist() == [DONE, DIVERGED, DONE]
    assert int(run.steps[1]) < 50 and run.steps[[0, 2]].tolist() == [200, 200]
    assert (
        bool(run.B[1].isnan().all())
        and bool(run.observed[0][-1, 1].isnan())
        and bool(run.observed[0][0].isfinite().all())
    )
    alone = descent.descend(factorisation(W[0]), B[0], A[0], 0.05, 0.05, 200)
    assert torch.allclose(run.B[0], alone.B, atol=1e-13)  # summation order


def test_the_ceiling_counts_in_entries_of_the_start_and_at_least_in_ones():
    sizes = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    B = A = sizes[:, None, None]
    # a constant pull of 1: the entry is size + t, and passes 5 max(1, size) at once after so many steps
    run = descent.descend(lambda B, A: (torch.ones_like(B), 0 * A), B, A, 1.0, 1.0, 50, ceiling=5.0)
    assert run.steps.tolist() == [4, 4, 40] and run.status.tolist() == 3 * [DIVERGED]


def test_when_all_diverge_the_run_ends_and_keeps_its_shape():
    B, A = start(2)
    calls = []
    forces = factorisation(target(2))

    def counted(B, A):
        calls.append(1)
        return forces(B, A)

    run = descent.descend(counted, B, A, 50.0, 50.0, 10_000, observe=lambda B, A: (B.norm(dim=(-2, -1)),), every=10)
    assert len(calls) < 50 and run.observed[0].shape == (1001, 2) and run.at[-1] == 10_000


def test_when_all_diverge_and_nothing_is_observed_the_run_ends_too():
    B, A = start(2)
    run = descent.descend(lambda B, A: (B, A), B, A, 1e9, 1e9, 5)
    assert run.status.tolist() == 2 * [DIVERGED] and run.observed == () and bool(run.B.isnan().all())


def test_a_singular_gram_matrix_is_named_at_the_start():
    B, A = start()
    with pytest.raises(ValueError, match="A A.T is singular.*ridge"):
        descent.descend(factorisation(target()), B, torch.zeros_like(A), 0.1, 0.1, 5, rule=descent.preconditioned())
    run = descent.descend(
        factorisation(target()), B, torch.zeros_like(A), 0.1, 0.1, 5, rule=descent.preconditioned(1e-2)
    )
    assert int(run.status) == DONE


def test_a_gram_matrix_that_becomes_singular_under_way_is_a_status():
    B, A = start(2)
    target_A = A.clone()
    target_A[0, 1] = target_A[0, 0]  # the first system is driven to equal rows of A in one step
    run = descent.descend(
        lambda B, A: (torch.zeros_like(B), torch.linalg.solve(B.mT @ B, B.mT @ B @ (target_A - A))),
        B,
        A,
        1.0,
        1.0,
        3,
        rule=lambda B, A, F_B, F_A, memory: _after_first(B, A, F_B, F_A, memory),
    )
    assert run.status.tolist() == [SINGULAR, DONE]


def _after_first(B, A, F_B, F_A, memory):
    """Plain at first, then preconditioned with its own memory: the Gram matrix is regular in the first step."""
    if memory is None:
        return F_B, F_A, "later"
    D_B, D_A, _ = descent.preconditioned()(B, A, F_B, F_A, ())
    return D_B, D_A, "later"


def test_bad_arguments_are_refused_in_one_sentence():
    B, A = start()
    forces = factorisation(target())
    for arguments, words in (
        ((B, A.mT, 0.1, 0.1, 1), "do not multiply"),
        ((B.to(torch.float32), A, 0.1, 0.1, 1), "float64"),
        ((B, A, 0.0, 0.1, 1), "step_B"),
        ((B, A, 0.1, float("nan"), 1), "step_A"),
        ((B, A, 0.1, 0.1, -1), "iterations"),
        ((B, A, 0.1, 0.1, 2.5), "iterations"),
        ((B, A, "a", 0.1, 1), "step_B"),
        ((torch.stack([B] * 2), torch.stack([A] * 3), 0.1, 0.1, 1), "leading dimensions"),
        ((B, A, torch.ones(3, dtype=torch.float64), 0.1, 1), "broadcast"),
        ((B * torch.nan, A, 0.1, 0.1, 1), "NaN"),
    ):
        with pytest.raises(ValueError, match=words):
            descent.descend(forces, *arguments)
    with pytest.raises(ValueError, match="every"):
        descent.descend(forces, B, A, 0.1, 0.1, 1, every=0)
    for ridge in (-1.0, float("inf"), float("nan"), "a"):
        with pytest.raises(ValueError, match="ridge"):
            descent.preconditioned(ridge)


def test_nothing_slips_to_another_device():
    B, A = start(3)
    W = target(3)
    steps = torch.full((3,), 0.05, dtype=torch.float64)
    with no_hidden_host_transfers():
        for rule in (
            descent.plain,
            descent.preconditioned(0.1),
            descent.momentum(0.5),
            descent.decayed(0.1),
            descent.signed,
            descent.adam(),
        ):
            descent.descend(factorisation(W), B, A, steps, 0.05, 5, rule=rule, observe=lambda B, A: (B,), every=2)
