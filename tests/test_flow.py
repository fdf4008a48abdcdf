"""Gradient flow: against an oracle and closed forms, its order and its invariant, system by system."""

import numpy as np
import pytest
import torch
from device_discipline import no_hidden_host_transfers
from scipy.integrate import solve_ivp

from lorabook.flow import DONE, EXHAUSTED, NOT_FINITE, STALLED, Solution, integrate

f64 = torch.float64


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Batches as small as these are faster on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def frobenius(state, W0):
    """Minus the gradient of |W0 - B A|^2 / 2."""
    B, A = state
    residual = W0 - B @ A
    return residual @ A.mT, B.mT @ residual


def problems(S, m, n, r, seed=0, scale=1.0):
    """S random factorisations: start (B, A) and target W0."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(S, *shape, generator=generator, dtype=f64)

    return (scale * draw(m, r) / m**0.5, scale * draw(r, n) / n**0.5), draw(m, n) / n**0.5


def times(*values):
    return torch.tensor(values, dtype=f64)


def flat(states, leading=2):
    return torch.cat([part.flatten(leading) for part in states], -1)


def relative_error(states, reference):
    """(T, S): error of the whole state of a system relative to that state."""
    states, reference = flat(states), flat(reference)
    return (states - reference).norm(dim=-1) / reference.norm(dim=-1)


def decay(y, rate):
    return -rate[:, None] * y


# Oracle and closed forms


@pytest.mark.parametrize("m, n, r, scale", [(6, 4, 2, 1.0), (5, 8, 3, 0.1), (3, 3, 1, 2.0)])
def test_the_flow_agrees_with_scipy_dop853(m, n, r, scale):
    start, W0 = problems(4, m, n, r, seed=1, scale=scale)
    grid = torch.linspace(0, 10, 8, dtype=f64)
    solution = integrate(frobenius, start, grid, parameters=(W0,))
    assert (solution.status == DONE).all()
    for s in range(4):

        def velocity(_, y):
            B, A = y[: m * r].reshape(m, r), y[m * r :].reshape(r, n)
            residual = W0[s].numpy() - B @ A
            return np.concatenate(((residual @ A.T).ravel(), (B.T @ residual).ravel()))

        y0 = flat([part[s] for part in start], 0).numpy()
        oracle = solve_ivp(velocity, (0, 10), y0, method="DOP853", t_eval=grid.numpy(), rtol=1e-12, atol=1e-14)
        found = flat([part[:, s] for part in solution.states], 1)
        error = (found - torch.from_numpy(oracle.y.T)).norm(dim=1) / found.norm(dim=1)
        # rtol 1e-10, times the growth of errors while a start of scale 0.1 leaves the saddle at 0
        assert error.max() < 1e-9


def test_the_scalar_flow_follows_its_logistic_closed_form_at_every_time():
    sigma, w = times(0.5, 1.0, 2.0), times(1e-3, 1e-2, 3.0)
    b = w.sqrt()[:, None, None]
    grid = torch.linspace(0, 12, 301, dtype=f64)
    B, A = integrate(frobenius, (b, b), grid, parameters=(sigma[:, None, None],)).states
    # from dw/dt = 2 w (sigma - w)
    expected = sigma / (1 + (sigma / w - 1) * torch.exp(-2 * sigma * grid[:, None]))
    # rtol 1e-10 times the growth of early errors by sigma / w <= 500, of which the drift takes a small part
    torch.testing.assert_close((B * A)[..., 0, 0], expected, rtol=1e-8, atol=0)


def test_times_between_steps_are_as_good_as_the_steps():
    rate = times(1.0, 3.0)
    grid = torch.linspace(0.01, 2, 500, dtype=f64)
    for rtol in (1e-5, 1e-7, 1e-9):
        solution = integrate(decay, torch.ones(2, 1, dtype=f64), grid, rtol, rtol / 100, (rate,))
        assert solution.steps.max() < 250
        error = (solution.states[..., 0] / torch.exp(-grid[:, None] * rate) - 1).abs()
        # one tolerance at the steps and inside them: a step aims at a tenth of rtol, and errors do not grow
        assert error.max() < rtol


def test_asking_for_more_times_changes_no_step():
    start, W0 = problems(5, 4, 4, 2)
    few = integrate(frobenius, start, times(10.0), parameters=(W0,))
    many = integrate(frobenius, start, torch.linspace(0, 10, 400, dtype=f64), parameters=(W0,))
    assert torch.equal(few.steps, many.steps) and few.evaluations == many.evaluations
    assert all(torch.equal(one[-1], other[-1]) for one, other in zip(few.states, many.states))


def test_the_order_is_five():
    start, W0 = problems(16, 8, 6, 3, seed=2)
    reference = integrate(frobenius, start, times(5.0), 1e-13, 1e-15, (W0,)).states
    steps, errors = [], []
    for rtol in (1e-8, 10**-8.5, 1e-9, 10**-9.5, 1e-10, 1e-11):
        solution = integrate(frobenius, start, times(5.0), rtol, rtol / 100, (W0,))
        steps.append(5 / solution.steps.double().mean())
        errors.append(relative_error(solution.states, reference).median())
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    # 5 in the limit of small steps; the steps fall by a factor of four only, which leaves a few tenths
    assert 4.6 < slope < 5.4


# Invariant


def balance(states):
    B, A = states
    return B.mT @ B - A @ A.mT


def drift(states):
    """(S,): how far the balance goes from its start."""
    moved = balance(states) - balance([part[:1] for part in states])
    return moved.flatten(2).norm(dim=2).amax(0)


@pytest.mark.parametrize(
    "S, m, n, r, scale",
    [(64, 32, 24, 4, 1.0), (64, 32, 24, 4, 0.3), (128, 16, 16, 4, 1.0), (128, 12, 20, 3, 0.5), (256, 8, 5, 2, 1.0)],
)
def test_balance_is_conserved_for_every_seed(S, m, n, r, scale):
    start, W0 = problems(S, m, n, r, seed=3, scale=scale)
    solution = integrate(frobenius, start, torch.linspace(0, 10, 11, dtype=f64), parameters=(W0,))
    assert (solution.status == DONE).all()
    # rtol: conserved to what was asked for, relative to its own start
    assert (drift(solution.states) / balance(start).flatten(1).norm(dim=1)).max() < 1e-10


def test_balance_is_conserved_from_the_start_of_lora():
    start, W0 = problems(128, 16, 16, 4, seed=4)
    start = (torch.zeros_like(start[0]), start[1])
    solution = integrate(frobenius, start, torch.linspace(0, 10, 11, dtype=f64), parameters=(W0,))
    # rtol: conserved to what was asked for, relative to its own start
    assert (drift(solution.states) / balance(start).flatten(1).norm(dim=1)).max() < 1e-10


@pytest.mark.parametrize("m, n, r, scale", [(3, 2, 1, 1.0), (32, 24, 1, 1.0), (8, 5, 2, 1e-3)])
def test_a_balance_near_zero_drifts_only_as_the_states_themselves_err(m, n, r, scale):
    start, W0 = problems(64, m, n, r, seed=5, scale=scale)
    states = integrate(frobenius, start, torch.linspace(0, 10, 11, dtype=f64), parameters=(W0,)).states
    size = flat(states).square().sum(-1).amax(0)
    # rtol: the balance is quadratic, so errors of the states show relative to |B|^2 + |A|^2
    assert (drift(states) / size).max() < 1e-10


# Covariance


def test_rotating_the_problem_rotates_the_answer():
    (B, A), W0 = problems(6, 7, 5, 2, seed=6)
    generator = torch.Generator().manual_seed(7)
    U, V, Q = (torch.linalg.qr(torch.randn(6, k, k, generator=generator, dtype=f64))[0] for k in (7, 5, 2))
    plain = integrate(frobenius, (B, A), times(3.0, 10.0), parameters=(W0,)).states
    turned = integrate(frobenius, (U @ B @ Q.mT, Q @ A @ V.mT), times(3.0, 10.0), parameters=(U @ W0 @ V.mT,)).states
    # both runs carry their own error of about rtol
    assert relative_error(turned, (U @ plain[0] @ Q.mT, Q @ plain[1] @ V.mT)).max() < 1e-9


def test_a_faster_velocity_is_a_shorter_time():
    start, W0 = problems(6, 5, 4, 2, seed=8)
    slow = integrate(frobenius, start, times(1.0, 8.0), parameters=(W0,)).states

    def faster(state, W0):
        return tuple(64 * rate for rate in frobenius(state, W0))

    fast = integrate(faster, start, times(1.0, 8.0) / 64, parameters=(W0,)).states
    # both runs carry their own error of about rtol
    assert relative_error(fast, slow).max() < 1e-9


# System by system


def test_many_systems_at_once_equal_one_by_one():
    start, W0 = problems(7, 6, 5, 2, seed=9)
    grid = times(0.0, 1.0, 10.0)
    together = integrate(frobenius, start, grid, parameters=(W0,))
    for s in range(7):
        one = slice(s, s + 1)
        alone = integrate(frobenius, tuple(part[one] for part in start), grid, parameters=(W0[one],))
        # sums may be taken in another order, which is rounding, carried along the flow
        assert relative_error([part[:, one] for part in together.states], alone.states).max() < 1e-13
        assert torch.equal(together.steps[one], alone.steps)
        assert torch.equal(together.rejections[one], alone.rejections)


def test_finished_systems_leave_the_batch_with_their_parameters():
    sizes = []

    def velocity(y, rate):
        sizes.append((len(y), len(rate)))
        return decay(y, rate)

    rate = times(0.0, 1.0, 10.0, 100.0)
    solution = integrate(velocity, torch.ones(4, 3, dtype=f64), times(1.0), parameters=(rate,))
    batches = [y for y, _ in sizes]
    assert all(y == parameter for y, parameter in sizes)
    assert batches == sorted(batches, reverse=True) and set(batches) == {4, 3, 2, 1}
    # two for the first slope and the probe of the first step, then six an attempt
    assert solution.evaluations == len(sizes) == 2 + 6 * int((solution.steps + solution.rejections).max())
    assert (solution.steps.diff() > 0).all()
    # rtol 1e-10 and atol 1e-12: for the fastest system only the latter is left
    torch.testing.assert_close(solution.states[0, :, 0], torch.exp(-rate), rtol=1e-9, atol=1e-11)


def test_one_step_size_per_system():
    rate = times(1.0, 50.0)
    solution = integrate(decay, torch.ones(2, 1, dtype=f64), times(2.0), 1e-6, 1e-8, (rate,))
    assert solution.steps[1] > 2 * solution.steps[0]


# Failures


def test_a_blow_up_stalls_at_its_time_and_its_neighbours_go_on():
    y0 = times(1.0, -1.0, 4.0, 0.1)
    grid = times(0.0, 0.2, 0.5, 2.0)
    solution = integrate(lambda y: y**2, y0, grid)
    assert solution.status.tolist() == [STALLED, DONE, STALLED, DONE]
    expected = y0 / (1 - grid[:, None] * y0)
    reached = grid[:, None] < torch.tensor([1.0, torch.inf, 0.25, torch.inf])
    assert torch.equal(solution.states.isfinite(), reached)
    # y = 1 / (1 / y0 - t): its relative error grows like y, here by 5 at most
    torch.testing.assert_close(solution.states[reached], expected[reached], rtol=1e-9, atol=0)
    # an error of rtol in y moves the time of the blow-up by as much
    torch.testing.assert_close(solution.reached[[0, 2]], 1 / y0[[0, 2]], rtol=1e-9, atol=0)


def test_a_loss_without_lower_bound_blows_up_at_the_time_of_its_closed_form():
    b = times(1.0, 0.5, 0.2)

    def ascent(state):
        """Minus the gradient of -(B A)^2 / 2."""
        B, A = state
        return B @ A @ A.mT, B.mT @ B @ A

    start = (b[:, None, None], b[:, None, None])
    solution = integrate(ascent, start, times(0.1, 5.0))
    assert solution.status.tolist() == [STALLED, STALLED, DONE]
    # from db/dt = b^3; an error of rtol in b moves the time of the blow-up by twice as much
    torch.testing.assert_close(solution.reached[:2], 1 / (2 * b[:2] ** 2), rtol=1e-9, atol=0)


def test_a_nan_system_does_not_disturb_its_neighbours():
    start, W0 = problems(6, 6, 5, 2, seed=10)
    sick = W0.clone()
    sick[2, 0, 0] = torch.nan
    grid = times(0.0, 1.0, 10.0)
    healthy = integrate(frobenius, start, grid, parameters=(W0,))
    solution = integrate(frobenius, start, grid, parameters=(sick,))
    assert solution.status.tolist() == [DONE, DONE, NOT_FINITE, DONE, DONE, DONE]
    assert (solution.steps[2], solution.reached[2]) == (0, 0.0)
    B, A = solution.states
    # time 0 was reached, nothing after it
    assert torch.equal(B[0, 2], start[0][2]) and B[1:, 2].isnan().all() and A[1:, 2].isnan().all()
    others = [0, 1, 3, 4, 5]
    # sums may be taken in another order in a smaller batch, which is rounding, carried along the flow
    assert relative_error([x[:, others] for x in solution.states], [x[:, others] for x in healthy.states]).max() < 1e-13
    assert torch.equal(solution.steps[others], healthy.steps[others])


def test_a_start_that_is_not_finite_fails_alone():
    y0 = times(1.0, torch.nan, torch.inf)
    solution = integrate(lambda y: -y, y0, times(0.0, 1.0))
    assert solution.status.tolist() == [DONE, NOT_FINITE, NOT_FINITE]
    assert integrate(lambda y: -y, y0, times(0.0)).status.tolist() == [DONE, NOT_FINITE, NOT_FINITE]


def test_a_velocity_that_ends_on_the_way_is_followed_to_its_end():
    solution = integrate(lambda y: -1 + 0 * (y - 0.5).sqrt(), times(1.0, 2.0), times(0.25, 1.0))
    assert solution.status.tolist() == [NOT_FINITE, DONE]
    # the smallest step is the rounding of t; a hundred such steps for the way there
    assert abs(solution.reached[0] - 0.5) < 100 * torch.finfo(f64).eps
    # a velocity of -1 is integrated to rounding
    expected = torch.stack((times(0.75, 1.75), times(torch.nan, 1.0)))
    torch.testing.assert_close(solution.states, expected, equal_nan=True)


def test_an_overflowing_state_is_not_a_result():
    huge = torch.full((1,), 1e308, dtype=f64)
    solution = integrate(lambda y: torch.full_like(y, 1e308), huge, times(5.0))
    assert solution.status.tolist() == [NOT_FINITE] and solution.states.isnan().all()


def test_max_steps_ends_a_run_and_says_so():
    start, W0 = problems(3, 4, 4, 2)
    solution = integrate(frobenius, start, times(0.0, 1e-9, 10.0), parameters=(W0,), max_steps=7)
    assert (solution.status == EXHAUSTED).all()
    assert (solution.steps + solution.rejections == 7).all() and solution.evaluations == 2 + 6 * 7
    assert (solution.reached < 10).all() and solution.states[0][2].isnan().all()
    assert flat(solution.states)[:2].isfinite().all()


def test_statistics_add_up():
    start, W0 = problems(5, 4, 4, 2)
    solution = integrate(lambda y, kick: -y - kick * (y.sum(1, keepdim=True) > 0.5), *_kicked())
    attempts = solution.steps + solution.rejections
    assert solution.evaluations == 2 + 6 * int(attempts.max())
    assert (solution.rejections > 0).any() and (solution.status == DONE).all()
    assert (solution.reached == 2.0).all()
    free = integrate(frobenius, start, times(1.0, 4.0), parameters=(W0,))
    # no rejection on a smooth problem: the controller aims well below what it accepts
    assert (free.rejections == 0).all() and (free.reached == 4.0).all()


def _kicked():
    """A velocity that jumps has to be searched for: rejections are certain."""
    return torch.ones(2, 1, dtype=f64), times(2.0), 1e-8, 1e-10, (times(100.0, 0.0)[:, None],)


# Structures


def test_a_tensor_and_tuples_of_tensors_give_the_same_flow():
    (B, A), W0 = problems(4, 5, 3, 2, seed=11)
    grid = times(0.0, 2.0, 5.0)

    def stacked(y, W0):
        rates = frobenius((y[:, :10].view(-1, 5, 2), y[:, 10:].view(-1, 2, 3)), W0)
        return torch.cat([rate.flatten(1) for rate in rates], 1)

    pair = integrate(frobenius, (B, A), grid, parameters=(W0,))
    single = integrate(stacked, torch.cat((B.flatten(1), A.flatten(1)), 1), grid, parameters=(W0,))
    lone = integrate(lambda state, rate: (decay(state[0], rate),), (B[:, :, 0],), grid, parameters=(times(1, 2, 3, 4),))
    assert isinstance(pair, Solution) and isinstance(pair.states, tuple) and isinstance(lone.states, tuple)
    assert pair.states[0].shape == (3, 4, 5, 2) and pair.states[1].shape == (3, 4, 2, 3)
    assert single.states.shape == (3, 4, 16) and lone.states[0].shape == (3, 4, 5)
    # bit for bit: the same entries in the same order
    assert torch.equal(flat(pair.states), single.states)


def test_one_number_per_system_is_a_state():
    solution = integrate(lambda y, rate: -rate * y, times(1.0, 2.0), [0, 1], parameters=(times(1.0, 2.0),))
    # rtol 1e-10
    torch.testing.assert_close(solution.states[1], times(1.0, 2.0) * torch.exp(-times(1.0, 2.0)), rtol=1e-9, atol=0)


def test_a_velocity_may_come_from_automatic_differentiation():
    (B, A), W0 = problems(4, 5, 3, 2, seed=12)

    def loss(state, W0):
        return (W0 - state[0] @ state[1]).square().sum() / 2

    def velocity(state, W0):
        return tuple(-gradient for gradient in torch.func.vmap(torch.func.grad(loss))(state, W0))

    found = integrate(velocity, (B.requires_grad_(), A), times(3.0), parameters=(W0,)).states
    assert not found[0].requires_grad
    # both runs carry their own error of about rtol
    assert relative_error(found, integrate(frobenius, (B, A), times(3.0), parameters=(W0,)).states).max() < 1e-9


def test_the_start_is_left_alone_and_a_run_repeats_bit_for_bit():
    start, W0 = problems(9, 6, 5, 2, seed=13)
    before = [part.clone() for part in start]
    first, second = (integrate(frobenius, start, times(0.0, 4.0), parameters=(W0,)) for _ in range(2))
    assert all(torch.equal(part, kept) for part, kept in zip(start, before))
    assert all(torch.equal(one, other) for one, other in zip(first.states, second.states))
    assert torch.equal(first.steps, second.steps) and first.evaluations == second.evaluations


# The public door


@pytest.mark.parametrize(
    "change, error, sentence",
    [
        ({"start": torch.ones(2, 3)}, TypeError, "start must be a float64 tensor"),
        ({"start": [1.0]}, TypeError, "start must be a float64 tensor"),
        ({"start": ()}, TypeError, "start must be a float64 tensor"),
        ({"start": torch.tensor(1.0, dtype=f64)}, ValueError, "start must lead with the same S"),
        ({"start": torch.ones(0, 3, dtype=f64)}, ValueError, "start must lead with the same S"),
        ({"start": (torch.ones(2, 3, dtype=f64), torch.ones(3, 2, dtype=f64))}, ValueError, "same S"),
        ({"times": [1.0, 1.0]}, ValueError, "strictly increasing"),
        ({"times": [2.0, 1.0]}, ValueError, r"strictly increasing; got \[2.0, 1.0\]"),
        ({"times": [-1.0, 1.0]}, ValueError, "not negative"),
        ({"times": [0.0, float("inf")]}, ValueError, "finite"),
        ({"times": [float("nan")]}, ValueError, "finite"),
        ({"times": []}, ValueError, "at least one"),
        ({"times": [[1.0]]}, ValueError, "vector"),
        ({"times": ["a"]}, ValueError, r"times must be a vector of numbers; got \['a'\]"),
        ({"times": torch.ones(1)}, TypeError, "times must be float64; got torch.float32"),
        ({"rtol": 0.0}, ValueError, "rtol must be positive and finite; got 0.0"),
        ({"atol": float("nan")}, ValueError, "atol must be positive and finite; got nan"),
        ({"max_steps": 0}, ValueError, "max_steps must be a positive whole number; got 0"),
        ({"max_steps": 1.5}, ValueError, "max_steps must be a positive whole number; got 1.5"),
        ({"parameters": torch.ones(2)}, TypeError, "parameters must be a tuple"),
        ({"parameters": (1.0,)}, TypeError, "parameters must be a tuple"),
        ({"parameters": (torch.ones(3),)}, ValueError, "parameters must lead with the 2 systems"),
        ({"velocity": lambda y: y[:, :1]}, ValueError, "velocity must return what its state is"),
        ({"velocity": lambda y: y.float()}, ValueError, "velocity must return what its state is"),
        ({"velocity": lambda y: None}, ValueError, "velocity must return what its state is"),
        ({"velocity": lambda y: (y, y)}, ValueError, "velocity must return what its state is"),
    ],
)
def test_a_bad_argument_gets_one_sentence(change, error, sentence):
    arguments = {"velocity": lambda y: -y, "start": torch.ones(2, 3, dtype=f64), "times": [1.0]} | change
    with pytest.raises(error, match=sentence) as raised:
        integrate(**arguments)
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message


@pytest.mark.parametrize("S", [2, 4])
def test_a_velocity_with_its_own_tensors_is_told_about_parameters(S):
    rate = torch.linspace(1, 10, S, dtype=f64)[:, None]
    with pytest.raises(RuntimeError, match="pass per-system tensors through `parameters`") as raised:
        integrate(lambda y: -rate * y, torch.ones(S, 3, dtype=f64), [1.0])
    assert f"{S - 1} of {S} systems" in str(raised.value) and "\n" not in str(raised.value)


def test_an_error_in_the_velocity_itself_comes_through_unchanged():
    with pytest.raises(ZeroDivisionError):
        integrate(lambda y: 1 / 0, torch.ones(2, 3, dtype=f64), [1.0])


# Devices


def test_everything_happens_on_the_device_of_the_start():
    (B, A), W0 = problems(5, 4, 3, 2)
    W0[1] = torch.nan
    grid = torch.linspace(0, 5, 20, dtype=f64)
    with no_hidden_host_transfers():
        solution = integrate(frobenius, (B, A), grid, parameters=(W0,))
        listed = integrate(frobenius, (B, A), [0.0, 5.0], parameters=(W0,))
    assert solution.status.tolist() == listed.status.tolist() == [DONE, NOT_FINITE, DONE, DONE, DONE]


@pytest.mark.parametrize(
    "fault",
    [
        lambda y: torch.zeros(y.shape, dtype=y.dtype),
        lambda y: y + torch.arange(3),
        lambda y: y * torch.tensor(2.0),
        lambda y: torch.as_tensor([1.0]) * y,
        lambda y: y @ torch.eye(3, dtype=y.dtype),
        lambda y: y + torch.randn(y.shape, dtype=y.dtype),
        lambda y: y.cpu(),
        lambda y: y.numpy(),
        lambda y: np.asarray(y),
        lambda y: y.tolist(),
    ],
)
def test_the_guard_catches_a_hidden_transfer(fault):
    start = torch.ones(2, 3, dtype=f64)
    with no_hidden_host_transfers(), pytest.raises(AssertionError, match="device|host"):
        integrate(lambda y: fault(y), start, [1.0])


def test_the_guard_lets_tensors_pass_that_say_where_they_live():
    y = torch.ones(2, 3, dtype=f64)
    with no_hidden_host_transfers():
        made = torch.zeros(3, device=y.device), y.new_ones(3), torch.zeros_like(y), torch.as_tensor(y)
        assert bool((made[3] == 1).all()) and float(y.sum()) == 6.0
