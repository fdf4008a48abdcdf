"""The landscape: closed forms against automatic differentiation and searches, the theorem against converged points."""

import math

import pytest
import torch
from device_discipline import no_hidden_host_transfers
from scipy.optimize import minimize

from lorabook import kim, linalg, measure
from lorabook.device import DTYPE, generator, normal
from lorabook.inputs import digits, published

NAMES = tuple(kim.laboratory.INSTANCES)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Batches as small as these are faster on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw(*shape, seed=0):
    return normal(shape, generator(seed), "cpu")


@pytest.fixture(scope="module")
def network():
    return kim.network.pretrained(8, 10, 60, 0.03)


def coupled_pair():
    return kim.laboratory.coupled(
        kim.laboratory.instance("degenerate"), kim.laboratory.instance("magnet", n=5, lam=0.1), 0.1
    )


# ---------------------------------------------------------------- the factored objective


@pytest.mark.parametrize("which", ["quadratic", "layers", "network"])
def test_gradient_and_hessian_of_the_factored_objective_agree_with_autograd(which, network):
    problem = {
        "quadratic": kim.laboratory.random_quadratic(4, 2, 9.0, 0.3, generator(1)),
        "layers": coupled_pair(),
        "network": network,
    }[which]
    *layers, m, n = problem.shape
    B, A = draw(*layers, m, 2, seed=1), draw(*layers, 2, n, seed=2)
    gB, gA = torch.func.grad(lambda B, A: kim.landscape.objective(problem, B, A), (0, 1))(B, A)
    found = kim.landscape.factored_gradient(problem, B, A)
    # rounding of two ways to the same sums of at most a thousand terms
    assert linalg_close(found[0], gB, 1e-11) and linalg_close(found[1], gA, 1e-11)

    def flat(w):
        return kim.landscape.objective(problem, w[: B.numel()].reshape(B.shape), w[B.numel() :].reshape(A.shape))

    hessian = torch.func.hessian(flat)(torch.cat([B.flatten(), A.flatten()]))
    assert linalg_close(kim.landscape.factored_hessian(problem, B, A), hessian, 1e-11)


def linalg_close(x, y, tolerance):
    return float((x - y).abs().max()) <= tolerance * (1 + float(y.abs().max()))


def test_a_batch_of_hessians_equals_one_by_one():
    problem = kim.laboratory.instance("magnet")
    B, A = kim.descent.starts(problem, 2, 5, 1.0, generator(0), device="cpu")
    batch = kim.landscape.factored_hessian(problem, B, A)
    assert all(
        torch.allclose(batch[k], kim.landscape.factored_hessian(problem, B[k], A[k]), rtol=1e-13, atol=1e-13)
        for k in range(5)
    )


def test_rotating_the_factors_changes_nothing():
    problem = kim.laboratory.instance("degenerate")
    B, A = draw(5, 2, seed=3), draw(2, 5, seed=4)
    Q = linalg.random_orthonormal(2, 2, generator(5), "cpu")
    one, other = kim.stationarity(problem, B, A), kim.stationarity(problem, B @ Q, Q.mT @ A)
    # rounding of an eigenvalue of size 10
    assert float((one.least_eigenvalue - other.least_eigenvalue).abs()) < 1e-12
    assert float((one.gradient_norm - other.gradient_norm).abs()) < 1e-12


def test_network_curvature_is_the_hessians_quadratic_form(network):
    X, Z = 0.3 * draw(3, 8, 10, seed=1), draw(3, 8, 10, seed=2)
    quadratic = (Z.flatten(1) * (network.hessian(X) @ Z.flatten(1)[..., None]).squeeze(-1)).sum(-1)
    assert torch.allclose(network.curvature(X, Z), quadratic, rtol=1e-12, atol=1e-13)
    assert linalg_close(network.hessian(X[0]), torch.func.hessian(network.loss)(X[0]).reshape(80, 80), 1e-13)


def test_network_smoothness_bounds_the_hessian_everywhere_tried(network):
    for scale in (0.0, 0.3, 1.0, 5.0):
        assert (
            float(torch.linalg.matrix_norm(network.hessian(scale * draw(20, 8, 10)), 2).max()) <= network.smoothness()
        )


def test_the_network_is_the_same_again(network):
    again = kim.network.pretrained(8, 10, 60, 0.03)
    assert torch.equal(network.W0, again.W0) and torch.equal(network.head, again.head)


def test_the_network_is_the_same_where_rounding_differs(network, monkeypatch):
    shuffled = digits.shuffled

    def disturbed(source, device):
        images, labels = shuffled(source, device)
        return images * (1 + 1e-15 * draw(*images.shape, seed=9)), labels

    monkeypatch.setattr(digits, "shuffled", disturbed)
    again = kim.network.pretrained(8, 10, 60, 0.03)
    assert not torch.equal(network.features, again.features)
    assert torch.equal(network.W0, again.W0) and torch.equal(network.head, again.head)


# ---------------------------------------------------------------- the family


@pytest.mark.parametrize("name", NAMES)
def test_truth_solves_the_full_problem_at_every_decay(name):
    for share in (0.3, 1.0):
        problem = kim.laboratory.instance(name, lam=share * kim.laboratory.INSTANCES[name]["lam"])
        # proximal gradient stops at a residual of 1e-10; the least eigenvalue of H is above 0.01
        assert float((kim.proximal_gradient(problem) - problem.solution).norm()) < 1e-7


@pytest.mark.parametrize("name", NAMES)
def test_candidates_are_certified_traps_and_one_rank_frees_them(name):
    problem = kim.laboratory.instance(name)
    B, A = problem.spurious_factors()
    found = kim.stationarity(problem, B, A)
    top = float(torch.linalg.eigvalsh(kim.landscape.factored_hessian(problem, B, A))[-1])
    # closed form: rounding only
    assert (
        float(found.gradient_norm) < 1e-14 and float(found.least_eigenvalue) > -1e-14 * top and float(found.excess) > 1
    )
    assert float(kim.landscape.objective(problem, B, A) - kim.landscape.full_objective(problem, problem.solution)) > 0.1
    free = kim.certificate.restart_with_rank(problem, B[None], A[None])
    assert (
        int(free.status[0]) == kim.descent.DONE
        and abs(float(free.objective[0] - kim.landscape.full_objective(problem, problem.solution))) < 1e-10
    )


@pytest.mark.parametrize(
    ("name", "flat", "gauge"),
    [("strict", 0, 0), ("degenerate", 3, 1), ("quiet", 0, 0), ("magnet", 1, 1), ("loud", 3, 3), ("fading", 3, 0)],
)
def test_flat_directions_are_counted(name, flat, gauge):
    found = kim.stationarity(kim.laboratory.instance(name), *kim.laboratory.instance(name).spurious_factors())
    assert (int(found.flat), int(found.gauge)) == (flat, gauge)


def test_without_decay_the_factors_keep_their_scales_as_flat_directions():
    problem = kim.proximal.redecayed(kim.laboratory.instance("strict"), 0.0)
    B = torch.zeros(3, 1, dtype=DTYPE)
    B[0] = 1.5
    ended = kim.train(problem, B[None], B.mT[None] / 1.5, steps=3000)
    # one rescaling B -> tB, A -> A / t
    assert int(kim.stationarity(problem, ended.B[0], ended.A[0]).flat) == 1


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_candidate_is_a_trap_exactly_when_its_margin_is_not_negative(rank):
    critical = kim.decoy_family(rank + 2, rank, 3.0, 1.0, 0.8, 1.0, 0.1)
    at = critical.a / critical.size - rank * critical.c  # the h at which the margin is 0
    for factor, trap in ((1.05, True), (0.95, False)):
        member = kim.decoy_family(rank + 2, rank, 3.0, 1.0, 0.8, at * factor, 0.1)
        assert (member.margin >= 0) == trap
        least = float(kim.stationarity(member, *member.spurious_factors()).least_eigenvalue)
        assert (least > -1e-12) == trap


def test_the_margin_is_the_curvature_towards_the_truth():
    problem = kim.laboratory.instance("magnet")
    B, A = problem.spurious_factors()
    dB, dA = torch.zeros_like(B), torch.zeros_like(A)
    dB[0, 0] = dA[0, 0] = 1.0  # equal signs: the symmetric pair
    d = torch.cat([dB.flatten(), dA.flatten()])
    curvature = float(d @ kim.landscape.factored_hessian(problem, B, A) @ d)
    assert curvature == pytest.approx(2 * problem.margin, rel=1e-12)


def test_h2_below_b_opens_the_trap_when_decoys_are_left_over():
    for h2, trap in ((1.0, True), (0.9, False)):
        member = kim.laboratory.instance("degenerate", h2=h2)
        assert (float(kim.stationarity(member, *member.spurious_factors()).least_eigenvalue) > -1e-12) == trap


def test_the_threshold_in_lambda_is_where_the_margin_vanishes():
    at = kim.laboratory.instance("fading").threshold
    assert kim.laboratory.instance("fading", lam=at).margin == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_tightest_member_has_the_constants_it_promises(rank):
    ratio = kim.laboratory.family_ratio(rank)
    for factor, trap in ((1.01, True), (0.99, False)):
        member = kim.laboratory.tightest(rank, ratio * factor, lam=1e-5)
        assert kim.constants.exact_constants(member) == pytest.approx((1.0, ratio * factor), rel=1e-12)
        assert (member.margin > 0) == trap


def test_random_quadratics_are_solved_by_their_solution():
    for tail in (0.0, 0.1):
        problem = kim.laboratory.random_quadratic(4, 2, 30.0, 0.3, generator(7), tail=tail)
        assert float((kim.proximal_gradient(problem) - problem.solution).norm()) < 1e-8


def test_coupling_keeps_the_pair_of_solutions():
    problem = coupled_pair()
    assert float((kim.proximal_gradient(problem) - problem.solution).norm()) < 1e-7


# ---------------------------------------------------------------- proximal gradient


def test_prox_is_the_minimiser_of_its_definition():
    X, tau = draw(5, 4), 0.7
    Y = kim.prox_nuclear(X, tau)
    value = lambda Y: (Y - X).square().sum((-2, -1)) / 2 + tau * torch.linalg.matrix_norm(Y, "nuc")
    near = Y + 1e-3 * draw(500, 5, 4, seed=1)
    assert bool((value(near) > value(Y)).all())
    # the residual X - Y is tau times a subgradient: singular values at most tau, and <X - Y, Y> = tau ||Y||_*
    assert float(torch.linalg.matrix_norm(X - Y, 2)) <= tau * (1 + 1e-12)
    assert float(((X - Y) * Y).sum()) == pytest.approx(tau * float(torch.linalg.matrix_norm(Y, "nuc")), rel=1e-12)


def test_prox_shrinks_distances_and_commutes_with_rotations():
    X, Y = draw(50, 4, 4), draw(50, 4, 4, seed=1)
    assert bool(
        (
            (kim.prox_nuclear(X, 0.5) - kim.prox_nuclear(Y, 0.5)).flatten(1).norm(dim=1)
            <= (X - Y).flatten(1).norm(dim=1)
        ).all()
    )
    Q = linalg.random_orthonormal(4, 4, generator(2), "cpu")
    assert torch.allclose(kim.prox_nuclear(Q @ X, 0.5), Q @ kim.prox_nuclear(X, 0.5), atol=1e-13)
    assert torch.allclose(kim.prox_nuclear(X, 0.0), X, atol=1e-13)


def test_with_the_identity_for_H_the_solution_is_one_prox():
    M = draw(4, 3)
    problem = kim.Quadratic(torch.eye(12, dtype=DTYPE), M, 0.4)
    assert torch.allclose(kim.proximal_gradient(problem), kim.prox_nuclear(M, 0.4), atol=1e-10)


def test_a_batch_of_problems_is_solved_as_one_by_one():
    batch = kim.laboratory.random_batch(4, 3, 10.0, 2, generator(0))
    ranks, X = kim.proximal.rank_path(batch, [0.3], tolerance=1e-11)
    for k in range(4):
        alone = kim.proximal_gradient(kim.Quadratic(batch.H[k], batch.M[k], 0.3), tolerance=1e-11)
        # both stop at a residual of 1e-11 and H is at least 1
        assert float((X[0, k] - alone).norm()) < 1e-9 and int(ranks[0, k]) == int(kim.proximal.numerical_rank(alone))


def test_a_solve_that_runs_out_of_steps_says_so():
    with pytest.raises(RuntimeError, match="not converged after 3 steps"):
        kim.proximal_gradient(kim.laboratory.instance("loud"), steps=3)


# ---------------------------------------------------------------- descent on the factors


def test_training_a_batch_equals_training_one_by_one():
    problem = kim.laboratory.instance("strict")
    B, A = kim.descent.starts(problem, 1, 6, 1.0, generator(0), device="cpu")
    batch = kim.train(problem, B, A)
    for k in range(6):
        alone = kim.train(problem, B[k : k + 1], A[k : k + 1])
        assert float((batch.X[k] - alone.X[0]).norm()) < 1e-7


def test_training_never_climbs_and_ends_balanced():
    problem = kim.laboratory.random_quadratic(4, 1, 20.0, 0.2, generator(2))
    B, A = kim.descent.starts(problem, 2, 50, 2.0, generator(0), device="cpu")
    ended = kim.train(problem, B, A)
    assert bool((ended.objective <= kim.landscape.objective(problem, B, A)).all()) and bool(
        (ended.status == kim.descent.DONE).all()
    )
    # a stationary point is balanced: the gap is at most the gradient over lambda
    assert float(linalg.balance(ended.B, ended.A).abs().max()) < 1e-7


def test_descent_and_lbfgs_find_the_same_minima():
    problem = kim.laboratory.instance("magnet")
    B, A = kim.descent.starts(problem, 2, 12, 0.01, generator(0), "zero", "cpu")
    ours = kim.train(problem, B, A).objective

    def fun(w):
        w = torch.as_tensor(w, dtype=DTYPE)
        b, a = w[:8].reshape(4, 2), w[8:].reshape(2, 4)
        return float(kim.landscape.objective(problem, b, a)), torch.cat(
            [g.flatten() for g in kim.landscape.factored_gradient(problem, b, a)]
        ).numpy()

    theirs = [
        minimize(
            fun,
            torch.cat([b.flatten(), a.flatten()]).numpy(),
            jac=True,
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-10},
        ).fun
        for b, a in zip(B, A)
    ]
    trap = float(kim.landscape.objective(problem, *problem.spurious_factors()))
    values = torch.tensor([trap, float(kim.landscape.full_objective(problem, problem.solution))], dtype=DTYPE)
    # which basin an L-BFGS step jumps into is its own affair; that its ends are among ours is not
    assert all(float((values - value).abs().min()) < 1e-7 for value in [*ours.tolist(), *theirs])


def test_a_saddle_is_called_a_saddle_and_an_unfinished_run_unconverged():
    problem = kim.laboratory.instance("strict")
    zero = torch.zeros(1, 3, 1, dtype=DTYPE)
    assert int(kim.train(problem, zero, zero.mT).status[0]) == kim.descent.SADDLE
    B, A = kim.descent.starts(problem, 1, 3, 1.0, generator(0), device="cpu")
    short = kim.train(problem, B, A, steps=5, newton=0)
    assert bool((short.status == kim.descent.UNCONVERGED).all()) and not bool(
        kim.runs.spurious(problem, short, 0.0).any()
    )


def test_the_gradient_phase_follows_the_flow_to_first_order_in_its_steps():
    problem = kim.laboratory.instance("strict")
    B, A = kim.descent.starts(problem, 1, 1, 0.5, generator(0), device="cpu")
    # the step depends on the state alone, so half of it and twice as many steps is the same path of the flow
    ends = [kim.train(problem, B, A, steps=20 * 2**k, newton=0, safety=0.4 / 2**k).X for k in range(5)]
    gaps = [float((x - y).norm()) for x, y in zip(ends, ends[1:])]
    # first order: each gap is half the one before, up to the second-order term
    assert all(1.8 < before / after < 2.2 for before, after in zip(gaps[1:], gaps[2:]))


def test_the_line_search_never_climbs_and_ends_where_training_ends():
    problem = kim.laboratory.random_quadratic(4, 1, 1.9, 0.2, generator(2))
    B, A = kim.descent.starts(problem, 2, 5, 3.0, generator(0), device="cpu")
    values, here = [kim.landscape.objective(problem, B, A)], (B, A)
    for _ in range(5):
        here = kim.descent.line_search(problem, *here, 10)
        values.append(kim.landscape.objective(problem, *here))
    assert all(bool((after <= before).all()) for before, after in zip(values, values[1:])) and bool(
        (values[-1] < values[0]).all()
    )
    # no traps below a condition of 2, so every path ends at the known solution; the objective is quadratic in the
    # distance
    ended = kim.descent.line_search(problem, B, A, 3000)
    assert float((ended[0] @ ended[1] - problem.solution).flatten(1).norm(dim=1).max()) < 1e-5


def test_the_line_search_of_a_batch_is_that_of_each_start_alone():
    problem = kim.laboratory.instance("strict")
    B, A = kim.descent.starts(problem, 1, 4, 1.0, generator(0), device="cpu")
    batch = kim.descent.line_search(problem, B, A, 30)
    for k in range(4):
        alone = kim.descent.line_search(problem, B[k : k + 1], A[k : k + 1], 30)
        # thirty steps of the same arithmetic, in products of other shapes
        assert torch.allclose(batch[0][k], alone[0][0], rtol=1e-10, atol=1e-12) and torch.allclose(
            batch[1][k], alone[1][0], rtol=1e-10, atol=1e-12
        )


def test_the_line_searchs_rate_is_free_of_the_worst_case(network):
    B, A = kim.descent.starts(network, 3, 1, 3.0, generator(2), device="cpu")
    start = float(kim.landscape.objective(network, B, A))
    careful = kim.train(network, B, A, steps=100, smoothness=network.smoothness(), newton=0)
    searched = float(kim.landscape.objective(network, *kim.descent.line_search(network, B, A, 100)))
    assert start - float(careful.objective) < 0.1 * (start - searched)


def test_the_line_search_does_one_step_as_written_down():
    problem = kim.Quadratic(torch.eye(1, dtype=DTYPE), torch.full((1, 1), 2.0, dtype=DTYPE), 0.0)
    one = torch.ones(1, 1, 1, dtype=DTYPE)
    # L = (ba - 2)^2 / 2 at b = a = 1: both slopes are -1, the first rate is 1e-3 and is taken
    B, A = kim.descent.line_search(problem, one, one, 1)
    assert float(B) == pytest.approx(1.001, abs=1e-15) and float(A) == pytest.approx(1.001, abs=1e-15)


# ---------------------------------------------------------------- constants


@pytest.mark.parametrize("name", ["strict", "degenerate", "quiet", "magnet"])
def test_exact_constants_are_bounded_by_samples_and_attained_by_the_search(name):
    problem = kim.laboratory.instance(name)
    alpha, beta = kim.constants.exact_constants(problem)
    sampled = kim.constants.monte_carlo(problem, problem.solution, problem.rank, 4.0, 500, generator(0))
    found = kim.constants.hunt(problem, problem.solution, problem.rank, 4.0, 64, generator(0))
    assert sampled[0] >= alpha and sampled[1] <= beta
    # two hundred steps of a search bring it within a thousandth, never beyond rounding of the exact value
    assert alpha * (1 - 1e-9) <= found[0] <= 1.001 * alpha and 0.999 * beta <= found[1] <= beta * (1 + 1e-9)


def test_the_samples_keep_rank_and_radius():
    problem = kim.laboratory.random_quadratic(5, 1, 5.0, 0.2, generator(0))
    X, Z = kim.constants.sample(problem, problem.solution, 2, 3.0, 200, generator(1))
    assert (
        int(torch.linalg.matrix_rank(X).max()) <= 2
        and float((X - problem.solution).flatten(1).norm(dim=1).max()) <= 3.0
    )
    assert int(torch.linalg.matrix_rank(Z).max()) <= 2


# ---------------------------------------------------------------- the theorem


def test_theorem_1_names_its_cases():
    star = torch.diag(torch.tensor([1.0, 0, 0], dtype=DTYPE))
    trap = torch.diag(torch.tensor([0, 0.8, 0.8], dtype=DTYPE))
    assert kim.theorem_1(1.0, 1.9, star, star, 2, 1)[:1] == ("special",)
    assert kim.theorem_1(1.0, 1.9, star, star, 2, 1).verdict == "global"
    assert kim.theorem_1(1.0, 1.9, trap, star, 2, 1).verdict == "excluded by the theorem"
    assert kim.theorem_1(0.1, 6.0, trap, star, 2, 1).verdict == "spurious, as the theorem allows"
    rank_deficient = torch.diag(torch.tensor([0, 0.8, 0], dtype=DTYPE))
    assert kim.theorem_1(0.1, 6.0, rank_deficient, star, 2, 1).verdict == "excluded by the theorem"


def test_the_bound_has_its_limits():
    s = torch.tensor([2.0, 1.0, 0.5], dtype=DTYPE)
    assert float(kim.theorem.bound(0.0, s, 3, 1)) == pytest.approx(1.25)  # kappa = 0: the tail itself
    assert float(kim.theorem.bound(0.25, s, 3, 1)) == math.inf  # sigma_r = kappa sigma_1
    assert float(kim.theorem.bound(0.1, s, 3, 3)) == 0.0  # r = r*: nothing is said
    assert float(kim.theorem.bound(0.1, s, 3, 1)) == pytest.approx(1.25 / (1 - 0.1 * 2 / 0.5))


def test_the_search_for_constants_goes_to_the_border_of_its_ball_and_no_further():
    problem, norms = kim.laboratory.instance("strict"), {"gradient": [], "curvature": []}

    class Watched:
        shape = problem.shape

        def gradient(self, X):
            norms["gradient"].append(float(X.detach().norm(dim=(-2, -1)).max()))
            return problem.gradient(X)

        def curvature(self, X, Z):
            norms["curvature"].append(float(X.detach().norm(dim=(-2, -1)).max()))
            return problem.curvature(X, Z)

    kim.constants.hunt(Watched(), problem.solution, 1, 4.0, 16, generator(0), steps=100)
    reach = 4.0 - float(problem.solution.norm())
    assert all(0.99 * reach < max(found) < reach * (1 + 1e-12) for found in norms.values())


@pytest.mark.parametrize("name", ["strict", "degenerate", "magnet"])
def test_every_inequality_of_the_proof_holds_at_converged_points(name):
    runs = kim.runs.survey([name], ("zero", "gaussian"), (0.1, 1.0), 60, 3)
    assert sum(int(run.rate.trained.done.sum()) for run in runs) == 240
    # the runs stop at a gradient of 1e-9
    assert min(float(slack.min()) for slack in kim.runs.slacks(runs).values()) > -1e-7
    assert kim.runs.worst_ratio(runs) <= 1 and kim.runs.worst_norm_ratio(runs) <= 1
    wide = [run for run in runs if run.problem.rank > 1]
    least, seen = kim.runs.least_over_threshold(runs)
    assert least > 1 and seen == sum(int(run.rate.spurious.sum()) for run in wide) and (seen > 0) == (name != "strict")


def test_only_the_candidates_are_spurious():
    for rank in (1, 2, 3):
        problem = kim.laboratory.instance("fading", rank=rank)
        rate = kim.runs.trap_rate(problem, rank, 100, 1.0)
        wanted = float(kim.landscape.objective(problem, *problem.spurious_factors()))
        assert rate.spurious.any() and torch.allclose(
            rate.trained.objective[rate.spurious], torch.tensor(wanted, dtype=DTYPE), atol=1e-9
        )


def test_second_order_is_what_the_excess_needs():
    problem = kim.laboratory.instance("strict")
    zero = torch.zeros(3, 1, dtype=DTYPE)
    at = kim.theorem.spine(
        problem, zero, zero.mT, problem.solution, *kim.constants.exact_constants(problem), rank_star=1
    )
    assert float(at.excess) < -1 and float(at.splitting) == 0


def test_the_orthogonal_part_is_what_the_stationary_form_leaves_and_the_residual_what_it_lacks():
    U, V = linalg.random_orthonormal(6, 2, generator(1), "cpu"), linalg.random_orthonormal(5, 2, generator(2), "cpu")
    bare = draw(6, 5, seed=3)
    S = bare - U @ (U.mT @ bare) - (bare @ V) @ V.mT + U @ (U.mT @ bare @ V) @ V.mT
    stationary, extra = -0.3 * U @ V.mT + S, U @ draw(2, 2, seed=4) @ V.mT
    found = [kim.lemmas.orthogonal_part(G, U, V, 0.3) for G in (stationary, stationary + extra)]
    # identities up to rounding
    assert all(torch.allclose(part, S, atol=1e-14) for part, _ in found) and float(found[0][1]) < 1e-14
    assert float(found[1][1]) == pytest.approx(float(extra.norm() / (stationary + extra).norm()), rel=1e-13)


@pytest.mark.parametrize("size", [0.01, 7.0])
def test_a_loss_and_a_decay_times_as_large_leave_what_is_relative_in_the_spine(size):
    problem = kim.laboratory.random_quadratic(4, 2, 9.0, 0.3, generator(1))
    larger = kim.Quadratic(size * problem.H, problem.M, size * problem.lam)
    B, A = draw(4, 2, seed=1), draw(2, 4, seed=2)  # stationary for neither
    one, other = (kim.theorem.spine(p, B, A, problem.M, 1.0, 9.0, 1) for p in (problem, larger))
    # identities; rounding of the same decompositions
    assert float(one.splitting) < -0.1 and float(other.splitting) == pytest.approx(float(one.splitting), rel=1e-12)
    assert float(one.balance) < -0.1 and torch.equal(other.balance, one.balance)


def test_the_special_regime_has_no_traps_and_a_condition_of_four_has():
    assert not kim.runs.trap_rate(kim.laboratory.tightest(1, 1.9), 1, 200, 1.0).spurious.any()
    assert kim.runs.trap_rate(kim.laboratory.tightest(1, 4.0), 1, 200, 1.0).spurious.any()


@pytest.mark.parametrize("name", NAMES)
def test_the_sharper_norm_is_a_bound_and_below_the_truth(name):
    problem = kim.laboratory.instance(name)
    B, A = problem.spurious_factors()
    bound = kim.theorem.sharper_norm(*kim.constants.exact_constants(problem), 1.0, problem.rank, 1)
    assert 0 < bound <= float((B @ A).norm())


def test_extensions_reduce_to_theorem_1():
    problem = kim.laboratory.instance("degenerate")
    alpha, beta = kim.constants.exact_constants(problem)
    B, A = problem.spurious_factors()
    conclusion = kim.theorem.spine(problem, B, A, problem.solution, alpha, beta, 1).conclusion
    one = kim.theorem.several_slack(
        alpha, torch.tensor([beta], dtype=DTYPE), (B @ A)[None], problem.solution[None], 2, (1,)
    )
    approximate = kim.theorem.approximate_slack(alpha, beta, B @ A, problem.solution, problem.solution, 2, 1)
    assert float(one) == pytest.approx(float(conclusion), rel=1e-12)
    assert float(approximate) * beta / 2 == pytest.approx(float(conclusion), rel=1e-12)


def test_extensions_give_the_numbers_of_a_case_done_by_hand():
    X, star, low = (torch.diag(torch.tensor(s, dtype=DTYPE)) for s in ([2.0, 1.0], [2.0, 0.5], [2.0, 0.0]))
    # d = delta = nu = 1/2, p = 1, rho = 1/2, kappa = 1/2: 1/2 (1 - 1) + 2 * 1/2 - 1/2 * 1/4
    assert float(kim.theorem.approximate_slack(1.0, 4.0, X, star, low, 2, 1)) == pytest.approx(0.875)
    # the same times beta / 2, and twice for two layers
    both = kim.theorem.several_slack(
        1.0,
        torch.tensor([4.0, 4.0], dtype=DTYPE),
        torch.stack([X, X]),
        torch.stack([star, star]),
        2,
        (1, 1),
        torch.stack([low, low]),
    )
    assert float(both) == pytest.approx(2 * 1.75)


def test_convexity_is_tight_where_alpha_is_attained():
    problem = kim.laboratory.instance("strict")
    alpha, beta = kim.constants.exact_constants(problem)
    t = (problem.a - alpha) / problem.c  # the least eigenvector of [[a, c], [c, b]] is (-1, t)
    B = torch.zeros(3, 1, dtype=DTYPE)
    B[1] = t**0.5
    assert float(kim.theorem.spine(problem, B, B.mT, problem.solution, alpha, beta, 1).convexity) == pytest.approx(
        0, abs=1e-12
    )
    assert float(kim.theorem.spine(problem, B, B.mT, problem.solution, 1.1 * alpha, beta, 1).convexity) < -0.01


def test_the_spines_conclusion_is_the_slack_of_each_theorem():
    low = torch.zeros(2, 5, 5, dtype=DTYPE)
    low[:, 0, 0] = 0.9
    pair = coupled_pair()
    B, A = kim.descent.starts(pair, 2, 6, 1.0, generator(0), device="cpu")
    betas = torch.tensor([6.0, 11.0], dtype=DTYPE)
    found = kim.theorem.spine(pair, B, A, pair.solution, 0.09, betas, 1, low)
    # the same sums in another order
    assert torch.allclose(
        found.conclusion,
        kim.theorem.several_slack(0.09, betas, B @ A, pair.solution, 2, (1, 1), low),
        rtol=1e-12,
        atol=1e-12,
    )
    alone = kim.laboratory.instance("degenerate")
    found = kim.theorem.spine(alone, B[:, 0], A[:, 0], alone.solution, 0.3, 6.0, 1, low[0])
    assert torch.allclose(
        found.conclusion,
        3.0 * kim.theorem.approximate_slack(0.3, 6.0, B[:, 0] @ A[:, 0], alone.solution, low[0], 2, 1),
        rtol=1e-12,
        atol=1e-12,
    )


def test_every_inequality_holds_for_several_matrices_and_fails_at_a_saddle():
    pair = coupled_pair()
    alpha, betas = float(torch.linalg.eigvalsh(pair.H)[0]), torch.tensor([6.0, 11.0], dtype=DTYPE)
    ended = kim.train(pair, *kim.descent.starts(pair, 2, 40, 1.0, generator(0), device="cpu"), steps=1500)
    assert bool((ended.status == kim.descent.DONE).all())
    # the runs stop at a gradient of 1e-9
    assert (
        min(float(slack.min()) for slack in kim.theorem.spine(pair, ended.B, ended.A, pair.solution, alpha, betas, 1))
        > -1e-7
    )
    zero = torch.zeros(2, 5, 2, dtype=DTYPE)
    assert float(kim.theorem.spine(pair, zero, zero.mT, pair.solution, alpha, betas, 1).excess) < -1


def test_the_quiet_traps_are_smaller_than_the_truth_also_where_the_corollary_speaks():
    for name, norm, rank in (("quiet", 0.3, 1), ("magnet", 0.276, 2)):
        problem = kim.laboratory.instance(name)
        X = torch.matmul(*problem.spurious_factors())
        alpha, beta = kim.constants.exact_constants(problem)
        # three digits of sqrt(r) (c - lambda) / b
        assert float(X.norm()) == pytest.approx(norm, abs=5e-4) and problem.rank == rank
        assert float(kim.theorem.least_norm(2 * alpha / beta, torch.linalg.svdvals(X), 1.0, rank, 1)) < 0


def test_starts_that_used_up_their_steps_are_counted():
    runs = kim.runs.survey(["strict"], ("zero",), (1.0,), 30, 0, steps=40)
    (trained,) = (run.rate.trained for run in runs)
    assert trained.steps.tolist() == [40] * 30 and bool(trained.done.all())


def test_the_sharper_norm_is_half_the_truth_at_theta_one():
    assert kim.theorem.sharper_norm(0.5, 1.0, 3.0, 4, 1) == pytest.approx(1.5)


def test_a_block_of_coupled_layers_has_no_constant_of_its_own():
    problem = coupled_pair()
    quotients = []
    for distance in (1e-2, 1e-4):
        X = problem.solution.clone()
        X[1, 0, 0] -= 1
        X[0, 0, 0] += distance
        D, change = X - problem.solution, problem.gradient(X) - problem.gradient(problem.solution)
        quotients.append(float((change * D)[0].sum() / D[0].square().sum()))
    # the quotient is a - coupling / distance
    assert quotients[0] == pytest.approx(3 - 0.1 / 1e-2, rel=1e-9) and quotients[1] == pytest.approx(
        3 - 0.1 / 1e-4, rel=1e-6
    )


# ---------------------------------------------------------------- lemmas and decay


def test_balanced_factors_share_one_rotation():
    for s in ([3.0, 2.0, 1.0], [2.0, 2.0, 2.0]):
        s = torch.tensor(s, dtype=DTYPE)
        U, V, Q = (linalg.random_orthonormal(k, 3, generator(k), "cpu") for k in (7, 5, 3))
        B, A = (U * s.sqrt()) @ Q, Q.mT @ (s.sqrt()[:, None] * V.mT)
        found, residual = kim.lemmas.shared_rotation(B, A)
        assert float(residual) < 1e-13
        assert torch.allclose(found @ found.mT, torch.eye(3, dtype=DTYPE), atol=1e-13)
        assert float(kim.lemmas.shared_rotation(B, 2 * A)[1]) > 0.1


def test_order_and_signs_are_enough_only_for_simple_singular_values():
    s = torch.tensor([2.0, 2.0, 1.0], dtype=DTYPE)
    Q = linalg.random_orthonormal(3, 3, generator(0), "cpu")
    flipped = torch.diag(torch.tensor([-1.0, 1, -1], dtype=DTYPE)) @ Q
    assert kim.lemmas.aligned_gap(s, Q, flipped, False) < 1e-14
    turn = torch.eye(3, dtype=DTYPE)
    turn[:2, :2] = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=DTYPE)
    assert kim.lemmas.aligned_gap(s, Q, turn @ Q, False) > 0.3 and kim.lemmas.aligned_gap(s, Q, turn @ Q, True) < 1e-14


def test_the_rank_bound_is_b_log_over_mu_lambda_for_small_steps():
    assert kim.decay.rank_bound(4, 1e-4, 1e-3, 0.1) == pytest.approx(4 * math.log(40) / 1e-7, rel=1e-6)
    # the number behind "vacuous": 128 samples, step 0.005, decay 0.01
    assert kim.decay.rank_bound(128, 0.005, 0.01, 0.1) == pytest.approx(9.443e6, rel=1e-3)


def test_one_step_is_autograds_step_on_the_penalised_loss():
    x, y = draw(3, 5), draw(3, 6, seed=1)
    B, A = draw(6, 2, seed=2).requires_grad_(), draw(2, 5, seed=3).requires_grad_()
    loss = (x @ (B @ A).mT - y).square().sum() / 2 / 3 + 0.7 / 2 * (B.square().sum() + A.square().sum())
    gB, gA = torch.autograd.grad(loss, (B, A))
    G = ((x @ (B @ A).mT - y).mT @ x / 3).detach()
    b, a = kim.decay.one_step(B.detach(), A.detach(), G, 0.1, 0.7)
    assert torch.allclose(b, B - 0.1 * gB, atol=1e-13) and torch.allclose(a, A - 0.1 * gA, atol=1e-13)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_is_torchs_adam(decoupled):
    problem = kim.laboratory.instance("strict")
    B, A = kim.descent.starts(problem, 1, 1, 0.5, generator(0), device="cpu")
    ours = kim.decay.adam(problem, B, A, 1e-2, 50, decoupled)
    b, a = B.clone().requires_grad_(), A.clone().requires_grad_()
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimiser = kind([b, a], lr=1e-2, weight_decay=problem.lam)
    for k in range(1, 51):
        optimiser.param_groups[0]["lr"] = 1e-2 * (1 + math.cos(math.pi * k / 50)) / 2
        optimiser.zero_grad()
        problem.loss(b @ a).sum().backward()
        optimiser.step()
    assert torch.allclose(ours[0], b.detach(), atol=1e-12) and torch.allclose(ours[1], a.detach(), atol=1e-12)


# ---------------------------------------------------------------- certificate


def test_an_appended_pair_lowers_the_objective_by_its_prediction():
    problem = kim.laboratory.instance("magnet")
    B, A = problem.spurious_factors()
    G = problem.gradient(B @ A)
    gain = kim.certificate.certify(B, A, G, problem.lam).gain
    errors = []
    for size in (1e-2, 3e-2):
        fall = float(
            kim.landscape.objective(problem, B, A)
            - kim.landscape.objective(problem, *kim.certificate.append_pair(B, A, G, size))
        )
        errors.append(abs(fall - gain * size**2))
    # the next term is of order size^4, so three times the size is 81 times the error
    assert 60 < errors[1] / errors[0] < 100


def test_the_certificate_is_free_of_the_scale_of_the_update():
    problem = kim.laboratory.instance("quiet")
    B, A = problem.spurious_factors()
    G = problem.gradient(B @ A)
    plain = kim.certificate.certify(B, A, G, problem.lam)
    # X = 4 B' A' with B' = B / 2 and decay 4 lambda is the same point of the same problem
    scaled = kim.certificate.certify(B / 2, A / 2, G, 4 * problem.lam, scale=4.0)
    assert scaled.excess == pytest.approx(plain.excess, rel=1e-12) and scaled.verdict == plain.verdict
    assert kim.certificate.certify(B, 2 * A, G, problem.lam).verdict == kim.certificate.SILENT


def test_the_truth_is_certified_as_optimal():
    problem = kim.laboratory.instance("strict")
    B = torch.zeros(3, 1, dtype=DTYPE)
    B[0] = 1.0
    assert kim.certificate.certify(B, B.mT, problem.gradient(B @ B.mT), problem.lam).verdict == kim.certificate.OPTIMAL


# ---------------------------------------------------------------- counting, data, devices, bad input


def test_wilson_intervals_are_the_known_ones():
    assert measure.wilson(0, 100) == pytest.approx((0.0, 0.0370), abs=5e-5)
    assert measure.wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=5e-5)


def test_published_tables_are_complete():
    for name, rows in {"kim_table_1": 10, "kim_grids": 12, "kim_table_2": 4}.items():
        assert len(published.read(name)) == rows


def test_no_routine_leaves_its_device():
    problem = kim.laboratory.instance("degenerate")
    B, A = kim.descent.starts(problem, 2, 4, 1.0, generator(0), device="cpu")
    with no_hidden_host_transfers():
        ended = kim.train(problem, B, A, steps=300)
        kim.descent.line_search(problem, B, A, 20)
        kim.proximal.solve(problem, steps=50)
        kim.stationarity(problem, ended.B, ended.A)
        kim.theorem.spine(problem, ended.B, ended.A, problem.solution, 0.3, 6.0, 1)
        kim.theorem.several_slack(
            0.3, torch.tensor([6.0], dtype=DTYPE, device="cpu"), ended.X[:, None], problem.solution[None], 2, (1,)
        )
        kim.certificate.append_pair(ended.B, ended.A, problem.gradient(ended.X), 1e-2)
        kim.prox_nuclear(ended.X, 0.1)
        kim.theorem.approximate_slack(0.3, 6.0, ended.X, problem.solution, problem.solution, 2, 1)
        kim.decoy_family(4, 1, 2.0, 1.0, 1.0, 6.0, 0.1, device="cpu")
        kim.decay.adam(problem, B, A, 1e-2, 3, True)


def star():
    """E_00, of rank one."""
    return torch.diag(torch.tensor([1.0, 0, 0], dtype=DTYPE))


def decoy(**changes):
    return lambda: kim.laboratory.instance("strict", **changes)


def test_the_border_between_the_basins_moves_like_the_ratio_of_the_growth_rates():
    problem = kim.laboratory.instance("strict")
    border = kim.runs.basin_border(problem, [1e-2, 1e-3], rounds=5)
    growth = problem.a / (problem.c - problem.lam) - 1
    # five rounds of sixteen leave the logarithm uncertain by 27.6 / 15^5
    assert float(border.log().diff()) / math.log(10) == pytest.approx(growth, abs=1e-3)


@pytest.mark.parametrize("share, end", [(0.3, 0), (3.0, 1)])
def test_on_either_side_of_the_border_descent_ends_where_it_says(share, end):
    problem = kim.laboratory.instance("strict")
    border = float(kim.runs.basin_border(problem, [1e-2], rounds=4))
    A = torch.zeros(1, 1, 3, dtype=DTYPE)
    A[0, 0, 0], A[0, 0, 1] = 1.0, share * border
    A *= 1e-2 / A.norm()
    X = kim.train(problem, torch.zeros_like(A.mT), A, steps=6000).X[0]
    assert int(X.diagonal()[:2].argmax()) == end


@pytest.mark.parametrize("name", NAMES)
def test_the_gap_at_a_certified_trap_lies_between_its_two_sides(name):
    problem = kim.laboratory.instance(name)
    B, A = problem.spurious_factors()
    gap = float(kim.landscape.full_objective(problem, B @ A) - kim.landscape.full_objective(problem, problem.solution))
    below, above = kim.certificate.two_sides(problem, B, A, float(torch.linalg.eigvalsh(problem.H)[-1]))
    assert 0 < below < gap < above < 1.3 * gap


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (decoy(lam=-0.1), "must not be negative"),
        (decoy(lam=1.5), "below c = 1"),
        (decoy(decoys=3), "rank <= decoys < n"),
        (decoy(c=1.5), "positive definite"),
        (lambda: kim.laboratory.instance("deaf"), "no instance 'deaf'"),
        (
            lambda: kim.Quadratic(
                torch.eye(4, dtype=DTYPE) + torch.tril(torch.ones(4, 4, dtype=DTYPE), -1),
                torch.zeros(2, 2, dtype=DTYPE),
                0.1,
            ),
            "symmetric",
        ),
        (lambda: kim.Quadratic(-torch.eye(4, dtype=DTYPE), torch.zeros(2, 2, dtype=DTYPE), 0.1), "positive definite"),
        (lambda: kim.Quadratic(torch.eye(3, dtype=DTYPE), torch.zeros(2, 2, dtype=DTYPE), 0.1), "does not act on"),
        (lambda: kim.Quadratic(torch.eye(4), torch.zeros(2, 2), 0.1), "float64"),
        (lambda: kim.prox_nuclear(draw(3, 3), -1.0), "tau must not be negative"),
        (lambda: kim.theorem_1(1.0, 5.0, draw(3, 3), draw(3, 3), 1, 2), "r* = 2"),
        (lambda: kim.theorem_1(1.0, 5.0, draw(3, 3), draw(4, 3), 2, 1), "different shapes"),
        (lambda: kim.theorem_1(2.0, 1.0, draw(3, 3), draw(3, 3), 2, 1), "0 < alpha <= beta"),
        (
            lambda: kim.descent.starts(kim.laboratory.instance("strict"), 4, 2, 1.0, generator(0)),
            "rank 4 must lie between 1 and 3",
        ),
        (lambda: kim.train(kim.laboratory.instance("strict"), draw(2, 4, 1), draw(2, 1, 4)), "batch of starts"),
        (lambda: kim.stationarity(kim.laboratory.instance("strict"), draw(4, 1), draw(1, 4)), "does not fit"),
        (lambda: kim.constants.exact_constants(kim.laboratory.instance("strict", h=1.0)), "largest eigenvalue"),
        (lambda: kim.decay.rank_bound(4, 2.0, 1.0, 0.1), "0 < mu lambda < 1"),
        (lambda: kim.certificate.certify(draw(3, 1), draw(1, 3), draw(3, 3), 0.0), "positive decay"),
        (lambda: kim.network.pretrained(samples=5), "20 to 800 samples"),
        (
            lambda: kim.constants.sample(
                kim.laboratory.instance("strict"), kim.laboratory.instance("strict").solution, 1, 0.5, 3, generator(0)
            ),
            "must exceed",
        ),
        (
            lambda: kim.constants.sample(
                kim.laboratory.instance("strict"), kim.laboratory.instance("strict").solution, 9, 5.0, 3, generator(0)
            ),
            "rank 9 must lie between 1 and 3",
        ),
        (lambda: kim.theorem_1(1.0, 5.0, draw(3, 3), draw(3, 3), 4, 1), "rank 4 is above the smaller side 3"),
        (lambda: kim.theorem_1(1.0, 5.0, math.nan * draw(3, 3), draw(3, 3), 2, 1), "X has entries that are NaN"),
        (lambda: kim.theorem_1(1.0, 5.0, draw(3, 3), math.inf * draw(3, 3), 2, 1), "X_star has entries that are NaN"),
        (lambda: kim.theorem_1(math.nan, 5.0, draw(3, 3), draw(3, 3), 2, 1), "0 < alpha <= beta"),
        (lambda: kim.theorem_1(1.0, 5.0, draw(2, 3, 3), draw(3, 3), 2, 1), "one matrix X"),
        (
            lambda: kim.theorem.several_slack(1.0, torch.ones(3, dtype=DTYPE), draw(2, 3, 3), draw(2, 3, 3), 2, (1, 1)),
            "L constants and ranks",
        ),
        (lambda: kim.theorem.approximate_slack(1.0, 5.0, draw(3, 3), draw(3, 3), draw(3, 3), 1, 2), "r* = 2"),
        (
            lambda: kim.proximal_gradient(kim.laboratory.instance("strict"), draw(4, 3)),
            "or a batch of them, was wanted; got",
        ),
        (
            lambda: kim.proximal_gradient(kim.laboratory.instance("strict"), steps=0),
            "steps must be a whole number >= 1",
        ),
        (lambda: kim.prox_nuclear(draw(3, 3), math.nan), "tau has entries that are NaN"),
        (lambda: kim.prox_nuclear(math.nan * draw(3, 3), 1.0), "X has entries that are NaN"),
        (
            lambda: kim.proximal.rank_path(kim.laboratory.instance("strict"), [0.1, -0.1]),
            "must not be negative; got -0.1",
        ),
        (lambda: kim.proximal.rank_path(kim.laboratory.instance("strict"), []), "at least one decay"),
        (lambda: kim.proximal.redecayed(kim.laboratory.instance("strict"), math.nan), "must not be negative"),
        (
            lambda: kim.runs.trap_rate(kim.laboratory.instance("strict"), 1, 0, 1.0),
            "count must be a whole number >= 1; got 0",
        ),
        (
            lambda: kim.runs.trap_rate(kim.laboratory.instance("strict"), 1, 5, 0.0),
            "scale of a start must be positive",
        ),
        (
            lambda: kim.train(kim.laboratory.instance("strict"), draw(2, 3, 1), draw(2, 1, 3), steps=-1),
            "steps must be a whole number >= 0; got -1",
        ),
        (
            lambda: kim.train(kim.laboratory.instance("strict"), draw(2, 3, 1), draw(2, 1, 3), newton=-1),
            "newton must be a whole number >= 0",
        ),
        (lambda: kim.certificate.append_pair(draw(3, 1), draw(1, 3), draw(4, 3), 0.1), "different shapes"),
        (lambda: kim.certificate.append_pair(draw(3, 2), draw(1, 3), draw(3, 3), 0.1), "ranks 2 and 1 differ"),
        (lambda: kim.certificate.append_pair(draw(3, 3), draw(3, 3), draw(3, 3), 0.1), "already have every rank"),
        (lambda: measure.wilson(3, 0), "hits <= count"),
        (
            lambda: kim.decay.adam(kim.laboratory.instance("strict"), draw(2, 3, 1), draw(2, 1, 3), 1e-2, 0, True),
            "steps must be a whole number >= 1",
        ),
        (
            lambda: kim.decay.stochastic_descent(
                draw(4, 3), draw(4, 3), draw(1, 3, 1), draw(1, 1, 3), 2, 0.1, 0.1, 10, generator(0)
            ),
            "more steps than its window",
        ),
        (
            lambda: kim.runs.trap_rate(kim.laboratory.random_quadratic(4, 2, 2.0, 0.1, generator(0)), 1, 5, 0.1),
            "the rank 1 is below r* = 2",
        ),
        (
            lambda: kim.runs.trap_rate(kim.Quadratic(torch.eye(9, dtype=DTYPE), draw(3, 3), 0.1), 1, 5, 1.0),
            "whose solution is known; a Quadratic has none",
        ),
        (
            lambda: kim.runs.trap_rates(
                kim.Quadratic(torch.eye(9, dtype=DTYPE), draw(3, 3), 0.1), 1, 5, [("zero", 0.1)]
            ),
            "whose solution is known; a Quadratic has none",
        ),
        (lambda: kim.runs.trap_rates(kim.laboratory.instance("strict"), 1, 5, []), "at least one setting"),
        (
            lambda: kim.descent.starts(
                kim.Quadratic(torch.eye(9, dtype=DTYPE), draw(3, 3), 0.1), 1, 5, 1.0, generator(0), "near"
            ),
            "known spurious point; a Quadratic has none",
        ),
        (
            lambda: kim.constants.exact_constants(kim.Quadratic(torch.eye(9, dtype=DTYPE), draw(3, 3), 0.1)),
            "decoy family only; got a Quadratic",
        ),
        (
            lambda: kim.descent.starts(kim.laboratory.instance("strict"), 2, 5, 1.0, generator(0), "near"),
            "factors of rank 1; got rank 2",
        ),
        (lambda: kim.theorem_1(1.0, 5.0, draw(3, 3), star(), 2, 1), "X has the rank 3, above the 2"),
        (lambda: kim.theorem_1(1.0, 5.0, star(), draw(3, 3), 2, 1), "X_star has the rank 3, above the 1"),
        (lambda: kim.theorem_1(1.0, 5.0, star(), torch.stack([star(), star()]), 2, 1), "one matrix X"),
        (lambda: kim.decoy_family(3, 1, math.nan, 1.0, 1.0, 6.0, 0.1), "The a must be positive and finite; got nan"),
        (lambda: kim.decoy_family(3, 1, 2.0, 1.0, 1.0, math.inf, 0.1), "The h must be positive and finite; got inf"),
        (lambda: kim.decoy_family(3, 1, "2", 1.0, 1.0, 6.0, 0.1), "The a must be positive and finite; got '2'"),
        (lambda: kim.decoy_family(3, 1.5, 2.0, 1.0, 1.0, 6.0, 0.1), "rank must be a whole number >= 1; got 1.5"),
        (lambda: kim.Quadratic(torch.eye(9, dtype=DTYPE), draw(3, 3), "x"), "must not be negative; got 'x'"),
        (lambda: kim.Quadratic(torch.eye(9, dtype=DTYPE), draw(3, 3), None), "must not be negative; got None"),
        (
            lambda: kim.Quadratic(torch.eye(9, dtype=DTYPE), draw(3, 3), torch.tensor([0.1, 0.2])),
            "must not be negative; got tensor",
        ),
        (lambda: kim.train(kim.laboratory.instance("strict"), draw(0, 3, 1), draw(0, 1, 3)), "S >= 1, was wanted"),
        (lambda: kim.train(kim.laboratory.instance("strict"), draw(3, 3, 1), draw(2, 1, 3)), "do not fit each other"),
        (lambda: kim.train(kim.laboratory.instance("strict"), draw(1, 3, 1), draw(2, 1, 3)), "S >= 1, was wanted"),
        (
            lambda: kim.train(kim.laboratory.instance("strict"), draw(2, 3, 1), draw(2, 1, 3), tolerance=-1.0),
            "tolerance must be positive",
        ),
        (
            lambda: kim.train(kim.laboratory.instance("strict"), draw(2, 3, 1), draw(2, 1, 3), smoothness=-1.0),
            "smoothness must be positive",
        ),
        (
            lambda: kim.train(kim.laboratory.instance("strict"), draw(2, 3, 1), draw(2, 1, 3), safety=-5.0),
            "safety must be positive",
        ),
        (
            lambda: kim.descent.line_search(kim.laboratory.instance("strict"), draw(2, 4, 1), draw(2, 1, 4), 5),
            "batch of starts",
        ),
        (
            lambda: kim.descent.line_search(kim.laboratory.instance("strict"), draw(2, 3, 1), draw(2, 1, 3), 0),
            "evaluations must be a whole number >= 1",
        ),
        (
            lambda: kim.decay.adam(kim.laboratory.instance("strict"), draw(1, 4, 1), draw(1, 1, 4), 0.1, 3, True),
            "batch of starts",
        ),
        (
            lambda: kim.decay.adam(kim.laboratory.instance("strict"), draw(1, 3, 1), draw(1, 1, 3), -0.1, 3, True),
            "learning rate must be positive",
        ),
        (lambda: kim.laboratory.random_batch(0, 3, 2.0, 1, generator(0)), "count must be a whole number >= 1; got 0"),
        (lambda: kim.laboratory.random_batch(3, 3, 2.0, 4, generator(0)), "rank up to the side"),
        (lambda: kim.laboratory.random_quadratic(4, 1, 2.0, 0.1, generator(0), tail=-1.0), "a tail from 0 to 1"),
        (
            lambda: kim.certificate.restart_with_rank(
                kim.laboratory.instance("strict"), draw(1, 3, 1), draw(1, 1, 3), 0.0
            ),
            "size of a pair must be positive",
        ),
        (
            lambda: kim.theorem.spine(
                kim.proximal.redecayed(kim.laboratory.instance("strict"), 0.0),
                draw(1, 3, 1),
                draw(1, 1, 3),
                star(),
                0.3,
                6.0,
                1,
            ),
            "decay lambda of the proof",
        ),
        (lambda: kim.theorem.least_norm(0.1, draw(3).abs(), 1.0, 7, 1), "r* = 1 and r = 7"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence.replace("*", r"\*")) as refused:
        call()
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize("part", ["pissa", "milora"])
def test_a_start_at_a_part_of_the_weights_poses_another_problem_and_ends_stationary_in_it(part):
    problem = kim.laboratory.instance("magnet")
    W = normal((5, 4, 4), generator(7), "cpu") / 2
    leading = linalg.truncate(W, 2)
    P = leading if part == "pissa" else W - leading
    still, _ = kim.runs.moved_base(problem, W, 2, part, horizon=1e-12)
    # the start is taken off the weights
    assert still.abs().max() < 1e-9
    change, r_star = kim.runs.moved_base(problem, W, 2, part, horizon=300.0)
    U, s, Vh = torch.linalg.svd(change + P)
    assert float(s[:, 2:].max()) < 1e-9 < 0.05 < float(s[:, 1].min())
    # at a stationary point G V = -lambda U; what is left after this horizon is far below the gradient at the start
    slope = problem.gradient(change) @ Vh.mT[..., :2] + problem.lam * U[..., :2]
    assert float(slope.abs().max()) < 2e-3 < 0.1 < float(problem.gradient(0 * change).abs().max())
    for k in range(len(W)):
        shifted = kim.Quadratic(problem.H, problem.M + P[k], problem.lam)
        X = kim.proximal_gradient(shifted, tolerance=1e-9)
        assert int(kim.proximal.numerical_rank(X)) == int(r_star[k])
        # no rank bound, so it lies no higher than what the factors reach
        full = lambda X: float(kim.landscape.full_objective(shifted, X))
        assert full(X) <= full(change[k] + P[k]) + 1e-9 and full(change[k] + P[k]) < full(P[k])
    with pytest.raises(ValueError, match="part must be pissa or milora; got 'lora'"):
        kim.runs.moved_base(problem, W, 2, "lora")
