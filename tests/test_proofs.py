"""Every proof goes through, and with one of its hypotheses or constants changed it does not."""

import importlib
import inspect
from fractions import Fraction

import pytest

from lorabook import exact

pytest.importorskip("sympy", reason="the proofs need the extra book")
pytest.importorskip("flint", reason="the proofs need the extra book")

BROKEN = {
    "rushka": {
        "first_order_error": {"tilt": -1},
        "rates": {"top": "N"},
        "crossing": {"beyond": True},
        "any_start": {"sign": -1},
        "exact_limit": {"start": 1},
        "floor": {"trace_kept": False},
        "gaussian_excess": {"shift": 1},
        "smallest_curvature": {"factor": 3},
        "saddle": {"used": "largest"},
        "sharp_lipschitz": {"coefficient": 2},
        "flow_bounded": {"constant": 4},
        "half_time": {"four": 6},
        "balanced_closed_form": {"defect": 1},
    },
    "kim": {
        "certified": {"share_of_h": Fraction(9, 10)},
        "candidate_condition": {"h2_at_least_b": False},
        "decay_threshold": {"own": False},
        "family_boundary": {"two": 1},
        "certificate": {"decay": 0},
        "two_sided": {"least_loss": -10},
        "nested": {"order": -1},
        "lemma_1_rank": {"rank_of_gradient": 1},
        "lemma_1": {"admitted": 2},
    },
    "mallada": {
        "expansion": {"cross": 0},
        "gradient_flow": {"through": "weights"},
        "small_derivative": {"start": 1},
        "turning": {"cosine": False},
        "last_negative_speed": {"second_term": False},
        "theorem_window": {"sign": 1},
    },
    "lora_one": {
        "imbalance_identity": {"power": -1},
        "linear_system": {"mean": True},
        "transfer": {"first": 1},
        "rows_stay": {"noise": 1},
        "start_mean": {"fourth": 1},
        "mask_bias": {"bound": "0.14"},
        "offset_sine": {"gamma_power": 2},
        "preconditioned_step": {"mixed": 2},
    },
    "one_dynamics": {
        "zero_side": {"invariant": False},
        "one_exchange": {"balanced": False},
        "selected_not_kept": {"power": 1},
        "sampled_angle": {"lost": 0},
        "relu_angle": {"bound": "0.11"},
    },
}
PROOFS = [(source, name) for source, named in BROKEN.items() for name in named]


def proof(source, name):
    return getattr(importlib.import_module(f"lorabook.{source}.proofs"), name)


@pytest.mark.parametrize("source, name", PROOFS)
def test_a_proof_goes_through_and_names_its_box(source, name):
    holds, box = proof(source, name)()
    assert holds is True and len(box) > 10 and "$" not in box


@pytest.mark.parametrize("source, name", PROOFS)
def test_with_a_hypothesis_broken_the_same_argument_fails(source, name):
    assert proof(source, name)(**BROKEN[source][name])[0] is False


@pytest.mark.parametrize(
    "name, broken", [("saddle", {"free": "smallest"}), ("half_time", {"band": "0.000001"}), ("half_time", {"four": 2})]
)
def test_a_further_twin_fails_too(name, broken):
    assert proof("rushka", name)(**broken)[0] is False


@pytest.mark.parametrize("source", BROKEN)
def test_every_proof_of_a_source_is_listed(source):
    module = importlib.import_module(f"lorabook.{source}.proofs")
    found = {
        name
        for name, value in inspect.getmembers(module, inspect.isfunction)
        if value.__module__ == module.__name__ and inspect.signature(value).return_annotation == "Proof"
    }
    assert found == set(BROKEN[source])


def test_a_box_is_covered_in_pieces_and_a_bad_or_undecided_corner_is_found():
    def below(bound):
        bound = exact.balls().arb(bound)
        height = lambda x, y: x * (1 - x) * y  # at most a quarter, which a whole box does not show
        return lambda *at: True if height(*at) < bound else False if height(*at) > bound else None

    assert exact.covered(below("2"), (0.0, 1.0), (0.0, 1.0)) == (True, 1)
    holds, pieces = exact.covered(below("0.26"), (0.0, 1.0), (0.0, 1.0))
    assert holds is True and pieces > 10
    assert exact.covered(below("0.24"), (0.0, 1.0), (0.0, 1.0))[0] is False
    assert exact.covered(lambda x: None, (0.0, 1.0))[0] is False


def test_definiteness_in_fractions_counts_the_kernel_and_finds_a_negative_direction():
    rows = lambda *numbers: [[Fraction(x) for x in row] for row in numbers]
    assert exact.semidefinite(rows((2, 1), (1, 2))) == (True, 0)
    assert exact.semidefinite(rows((1, 2, 3), (2, 4, 6), (3, 6, 9))) == (True, 2)
    assert exact.semidefinite(rows((0, 1), (1, 0)))[0] is False
    assert exact.semidefinite(rows((1, 2), (2, 3)))[0] is False


@pytest.mark.parametrize("name", ["strict", "degenerate", "quiet", "loud", "magnet", "fading"])
def test_the_exact_hessian_is_that_of_the_family(name):
    import torch

    from lorabook import kim
    from lorabook.kim.proofs import exact_hessian, exact_member

    problem = kim.laboratory.instance(name)
    B, A = problem.spurious_factors()
    by_fractions = torch.tensor(
        [[float(v) for v in row] for row in exact_hessian(exact_member(name))[0]], dtype=torch.float64
    )
    by_torch = kim.landscape.factored_hessian(problem, B, A)
    spectra = [torch.linalg.eigvalsh(matrix) for matrix in (by_fractions, by_torch)]
    # the entries are ordered differently and the spectrum is the same, up to rounding
    assert torch.allclose(*spectra, atol=1e-11)
