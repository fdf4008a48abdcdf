"""Constants of one matrix: gradients against differences, ends of a known spectrum, bounds on the right side."""

import copy
import math

import pytest
import torch
import transformers
from device_discipline import no_hidden_host_transfers

from lorabook import device, kim, linalg
from lorabook.experiments import constants, made, one_matrix, settings

f64 = torch.float64


def draw(*shape, seed=0):
    return device.normal(shape, device.generator(seed), "cpu")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A tiny RoBERTa in float64 and two batches of other lengths and sizes."""
    folder = tmp_path_factory.mktemp("sst2")
    experiment = settings.load("sst2")
    made.shelf(folder, experiment)
    place = folder / experiment["model"]
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(place, num_labels=2).double().eval()
    for one in model.parameters():
        one.data *= 3  # far enough from a saddle that curvature is no rounding
    batches = [
        {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}
        for ids, mask, labels in (
            ([[0, 5, 6, 7, 2], [0, 8, 9, 2, 1]], [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]], [0, 1]),
            ([[0, 11, 2]], [[1, 1, 1]], [1]),
        )
    ]
    return model, batches


@pytest.fixture(scope="module")
def problem(classifier):
    model, batches = classifier
    weight = model.roberta.encoder.layer[-1].attention.self.value.weight.detach()
    return one_matrix.OneMatrix(model, "value", weight, batches, 1e-3)


def test_the_loss_is_that_of_the_whole_network(classifier, problem):
    model, batches = classifier
    X = 0.3 * draw(32, 32, seed=1)
    moved = copy.deepcopy(model)
    moved.roberta.encoder.layer[-1].attention.self.value.weight.data += X
    wanted = sum(float(moved(**batch).loss) * len(batch["labels"]) for batch in batches) / 3
    # other orders of summation in float64
    assert float(problem.loss(X)) == pytest.approx(wanted, rel=1e-10)
    assert problem.loss(torch.stack([X, 0 * X])).shape == (2,)


def test_gradient_and_curvature_are_differences(problem):
    X, Z = 0.3 * draw(32, 32, seed=1), draw(32, 32, seed=2)
    Z, size = Z / Z.norm(), 1e-4
    slope = (problem.loss(X + size * Z) - problem.loss(X - size * Z)) / (2 * size)
    # central differences: third derivatives times 1e-8
    assert float((problem.gradient(X) * Z).sum()) == pytest.approx(float(slope), rel=1e-5, abs=1e-8)
    change = (problem.gradient(X + size * Z) - problem.gradient(X - size * Z)) / (2 * size)
    assert (problem.hessian(X, Z) - change).norm() < 1e-5 * change.norm()
    assert float(problem.curvature(X, Z)) == pytest.approx(float((Z * change).sum()), rel=1e-4)


def test_the_ends_of_a_known_spectrum_are_found_with_their_matrices():
    Q = linalg.random_orthonormal(30, 30, device.generator(0), "cpu")
    H = Q * torch.linspace(-2, 5, 30, dtype=f64) @ Q.mT
    product = lambda Z: (H @ Z.flatten()).reshape(5, 6)
    (least, down), (largest, up) = constants.ritz(product, (5, 6), 30, device.generator(1), "cpu")
    # a full Krylov space holds the whole spectrum, up to rounding
    assert (least, largest) == pytest.approx((-2.0, 5.0), abs=1e-8)
    assert (product(down) + 2 * down).norm() < 1e-6 and (product(up) - 5 * up).norm() < 1e-6
    (least, _), (largest, _) = constants.ritz(product, (5, 6), 6, device.generator(1), "cpu")
    assert -2 < least < 0 and 4 < largest < 5
    with pytest.raises(ValueError, match="steps must be a whole number >= 1"):
        constants.ritz(product, (5, 6), 0, device.generator(1), "cpu")


def test_a_matrix_of_rank_two_is_a_direction_at_a_small_matrix_of_rank_two():
    """The bound on beta: any p a^T + b z^T is U X + X V, with unit U and V of rank one, up to a factor."""
    p, a, b, z = (draw(6, 1, seed=k) for k in range(4))
    p, z = p / p.norm(), z / z.norm()
    e, f = draw(6, 1, seed=4), draw(6, 1, seed=5)
    e, f = e - b * (b.mT @ e) / (b.mT @ b), f - a * (a.mT @ f) / (a.mT @ a)
    e, f, t = e / e.norm(), f / f.norm(), 1e-3
    X, U, V = t * (e @ a.mT + b @ f.mT), p @ e.mT, f @ z.mT
    assert torch.allclose(U @ X + X @ V, t * (p @ a.mT + b @ z.mT), atol=1e-15)
    assert torch.linalg.matrix_norm(U) == pytest.approx(1) and torch.linalg.matrix_norm(V) == pytest.approx(1)


def test_power_iteration_lies_beyond_the_samples_on_a_network_and_is_left_out_below_the_rank_of_the_solution(problem):
    X_star = 0.1 * draw(32, 4, seed=3) @ draw(4, 32, seed=4) / 30
    asked = dict(table_2_ranks=[2, 8, 64], monte_carlo=10, monte_carlo_distance=5.0, power_steps=8, rank_cut=1e-4)
    two, eight = constants.measure(problem, X_star, asked, 0)  # 64 is more than the width
    assert two["rank_star"] == 4 and math.isnan(two["alpha_power"]) and not math.isnan(eight["alpha_power"])
    for row in (two, eight):
        assert row["beta"] < row["beta_power"] <= row["largest"] * (1 + 1e-9)
        assert row["alpha"] <= row["alpha_half"] and row["beta"] >= row["beta_half"]
    assert eight["least"] * (1 + 1e-9) <= eight["alpha_power"] < eight["alpha"] or eight["least"] < 0


class Known:
    """A convex problem whose answer is a formula: ``||X - M||^2 / 2``, so X soft-thresholds M."""

    def __init__(self, M, lam):
        self.M, self.lam, self.shape = M, lam, M.shape

    def loss(self, X):
        return (X - self.M).square().sum() / 2

    def gradient(self, X):
        return X - self.M


def test_settled_factors_reach_the_nuclear_norm_solution():
    problem = Known(draw(9, 7), 0.8)
    B, A = one_matrix.settle(problem, draw(9, 7, seed=1), draw(7, 7, seed=2), 300)
    wanted = kim.prox_nuclear(problem.M, 0.8)
    # L-BFGS stops where the objective no longer falls, at the root of rounding
    assert (B @ A - wanted).abs().max() < 1e-5
    full = problem.loss(wanted) + 0.8 * torch.linalg.matrix_norm(wanted, "nuc")
    assert float(kim.landscape.objective(problem, B, A)) == pytest.approx(float(full), rel=1e-9)
    few = one_matrix.settle(problem, draw(9, 7, seed=1), draw(7, 7, seed=2), 2)
    assert kim.landscape.objective(problem, *few) > kim.landscape.objective(problem, B, A)


def test_a_start_of_the_wrong_shape_and_no_steps_are_refused():
    problem = Known(draw(5, 4), 0.1)
    with pytest.raises(ValueError, match="do not multiply"):
        one_matrix.settle(problem, draw(5, 2), draw(3, 4), 1)
    with pytest.raises(ValueError, match="steps must be a whole number >= 1"):
        one_matrix.settle(problem, draw(5, 2), draw(2, 4), 0)


def test_nothing_slips_to_another_device(problem):
    with no_hidden_host_transfers():
        problem.gradient(problem.M), problem.hessian(problem.M, problem.M + 1), problem.loss(problem.M)
        constants.quotient(lambda Z: 2 * Z, draw(4, 3), 2)
