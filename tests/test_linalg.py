"""Subspaces and truncations: against definitions, under rotations, and one by one."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from lorabook import device, linalg

f64 = torch.float64
SEEDS = (0, 1, 2)


def draw(seed, *shape):
    return device.normal(shape, device.generator(seed), "cpu")


def rotation(seed, n):
    return linalg.random_orthonormal(n, n, device.generator(seed), "cpu")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n, k", [(6, 2), (5, 5), (1, 1), (9, 1)])
def test_orthonormal_spans_what_it_was_given(seed, n, k):
    columns = draw(seed, 4, n, k)
    Q = linalg.orthonormal(columns)
    # rounding of a QR decomposition of this size
    assert (Q.mT @ Q - torch.eye(k, dtype=f64)).abs().max() < 1e-14
    # projecting the columns leaves them, up to rounding of their own size
    assert (Q @ (Q.mT @ columns) - columns).abs().max() < 1e-13


def test_more_columns_than_rows_are_refused():
    with pytest.raises(ValueError, match="5 columns of length 3 are linearly dependent; at most 3 fit."):
        linalg.orthonormal(torch.ones(3, 5, dtype=f64))
    with pytest.raises(ValueError, match="5 columns of length 3 cannot be orthonormal; at most 3 fit."):
        linalg.random_orthonormal(3, 5, device.generator(0), "cpu")


@pytest.mark.parametrize("rows, columns", [(7, 3), (4, 4), (1, 1)])
def test_random_orthonormal_is_orthonormal_and_repeats(rows, columns):
    first, again = (linalg.random_orthonormal(rows, columns, device.generator(4), "cpu") for _ in range(2))
    assert first.shape == (rows, columns) and torch.equal(first, again)
    # rounding of a QR decomposition of this size
    assert (first.mT @ first - torch.eye(columns, dtype=f64)).abs().max() < 1e-14


def test_random_orthonormal_is_haar_distributed_and_a_bare_qr_is_not():
    source = device.generator(8)
    traces = torch.stack([linalg.random_orthonormal(3, 3, source, "cpu").trace() for _ in range(4000)])
    bare = torch.stack([torch.linalg.qr(device.normal((3, 3), source, "cpu")).Q.trace() for _ in range(4000)])
    # E Tr Q = 0 and E (Tr Q)^2 = 1 on O(3); 4000 draws leave standard errors of 0.016 and 0.022
    assert abs(traces.mean()) < 0.08 and abs(traces.square().mean() - 1) < 0.11
    # Householder signs push the diagonal to one side: far outside the same band
    assert abs(bare.mean()) > 0.3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_projector_is_idempotent_symmetric_and_blind_to_the_basis(seed):
    columns, mix = draw(seed, 6, 3), draw(seed + 50, 3, 3)
    P = linalg.projector(columns)
    # rounding of products of orthonormal matrices
    assert max((P @ P - P).abs().max(), (P - P.mT).abs().max(), (P.trace() - 3).abs()) < 1e-14
    # the same span from other columns, whose condition number (below 100 here) enlarges rounding
    assert (linalg.projector(columns @ mix) - P).abs().max() < 1e-12
    # second witness: the normal equations
    assert (columns @ torch.linalg.solve(columns.mT @ columns, columns.mT) - P).abs().max() < 1e-12


def largest(left, right):
    """The largest sine between the spans of any columns."""
    return linalg.largest_sine(linalg.orthonormal(left), linalg.orthonormal(right))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k, columns", [(2, 2), (2, 4), (1, 3)])
def test_the_largest_sine_agrees_with_scipy(seed, k, columns):
    left, right = draw(seed, 3, 8, k), draw(seed + 9, 3, 8, columns)
    found = largest(left, right)
    assert found.shape == (3,)
    for one, a, b in zip(found, left, right):
        # both are accurate to rounding in the sine; scipy gives the angles largest first
        assert abs(float(one) - np.sin(scipy.linalg.subspace_angles(a.numpy(), b.numpy())[0])) < 1e-13


@pytest.mark.parametrize("angle", [0.0, 1e-15, 1e-12, 1e-8, 1e-3, 0.7, math.pi / 2])
def test_the_largest_sine_of_planes_at_a_known_angle(angle):
    left = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]], dtype=f64).mT
    right = torch.tensor([[math.cos(angle), 0, math.sin(angle), 0], [0, 1.0, 0, 0]], dtype=f64).mT
    # absolute rounding, also where 1 - cos^2 would lose everything below 1e-8
    assert abs(float(largest(left, right)) - math.sin(angle)) < 5e-16


@pytest.mark.parametrize("seed", SEEDS)
def test_the_largest_sine_does_not_see_rotations_nor_bases(seed):
    left, right, U = draw(seed, 7, 2), draw(seed + 1, 7, 3), rotation(seed, 7)
    plain, turned = largest(left, right), largest(U @ left @ draw(seed + 2, 2, 2), 1e6 * U @ right)
    # rounding, enlarged by the condition number of the 2 x 2 change of basis (below 100 here)
    assert abs(plain - turned) < 1e-12 and plain <= 1
    # a larger space holds a direction that is at a right angle to the smaller one
    assert abs(largest(right, left) - 1) < 1e-14


def test_the_largest_sine_of_what_is_not_finite_is_nan_and_of_different_spaces_refused():
    I = torch.eye(5, dtype=f64)[:, :2]
    assert linalg.largest_sine(torch.stack([I, I * torch.nan]), I).isnan().tolist() == [False, True]
    with pytest.raises(ValueError, match=r"leading \(5, 2\) and target \(6, 2\) live in different spaces."):
        linalg.largest_sine(I, torch.eye(6, dtype=f64)[:, :2])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_operator_norm_is_the_largest_singular_value_also_where_it_is_tiny(seed):
    for size in (1.0, 1e-9, 1e9):
        M = size * draw(seed, 4, 7, 3)
        # relative rounding of the Gram matrix' largest eigenvalue
        assert (linalg.operator_norm(M) / torch.linalg.matrix_norm(M, 2) - 1).abs().max() < 1e-14


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("m, n", [(6, 4), (4, 6), (5, 5)])
def test_truncation_leaves_exactly_the_tail(seed, m, n):
    W = draw(seed, 3, m, n)
    s = torch.linalg.svdvals(W)
    for rank in range(min(m, n) + 1):
        left = W - linalg.truncate(W, rank)
        tail = s[:, rank:].square().sum(-1).sqrt()
        # both norms that name the tail, to rounding of |W|
        assert (left.norm(dim=(1, 2)) - tail).abs().max() < 1e-13
        spectral = s[:, rank] if rank < min(m, n) else torch.zeros(3, dtype=f64)
        assert (torch.linalg.matrix_norm(left, 2) - spectral).abs().max() < 1e-13


@pytest.mark.parametrize("seed", SEEDS)
def test_no_other_matrix_of_the_rank_is_closer(seed):
    W, r = draw(seed, 6, 5), 2
    best = (W - linalg.truncate(W, r)).norm()
    B = draw(seed + 70, 2000, 6, r)
    # for given B the best A is a least-squares solution: a strong competitor
    others = (W - B @ torch.linalg.lstsq(B, W.expand(2000, 6, 5)).solution).norm(dim=(1, 2))
    assert (others > best).all()


def test_truncation_turns_scales_and_transposes_with_its_matrix():
    W, U, V = draw(0, 6, 4), rotation(1, 6), rotation(2, 4)
    plain = linalg.truncate(W, 2)
    for one, other in (
        (linalg.truncate(U @ W @ V, 2), U @ plain @ V),
        (linalg.truncate(-1e8 * W, 2) / 1e8, -plain),
        (linalg.truncate(W.mT, 2), plain.mT),
        (linalg.truncate(torch.stack([W, -W]), 2)[1], -plain),
    ):
        # rounding over the gap of the singular values, which is of order one here
        assert (one - other).abs().max() < 1e-13


@pytest.mark.parametrize(
    "rank, came",
    [(-1, "got -1"), (5, "The rank 5 is above the smaller dimension 4"), (1.0, "got 1.0"), (True, "got True")],
)
def test_a_bad_rank_is_refused(rank, came):
    with pytest.raises(ValueError, match=came):
        linalg.truncate(draw(0, 6, 4), rank)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_balance_is_conserved_by_gradients_and_turns_with_the_factors(seed):
    B, A, W0 = draw(seed, 5, 3), draw(seed + 1, 3, 4), draw(seed + 2, 5, 4)
    B.requires_grad_(), A.requires_grad_()
    loss = torch.nn.functional.huber_loss(B @ A, W0, reduction="sum")
    dB, dA = torch.autograd.grad(loss, (B, A))
    rate = B.mT @ dB + dB.mT @ B - A @ dA.mT - dA @ A.mT
    # B^T dB = dA A^T for every loss of the product, to rounding of the terms
    assert rate.abs().max() < 1e-13
    U, Q, V = rotation(seed, 5), rotation(seed + 1, 3), rotation(seed + 2, 4)
    gap = linalg.balance(B, A)
    # rounding of products of this size
    assert (linalg.balance(U @ B @ Q, Q.mT @ A @ V) - Q.mT @ gap @ Q).abs().max() < 1e-13
    assert (linalg.balance(A.mT, B.mT) + gap).abs().max() < 1e-13
    # rescaling the factors against each other keeps the product and breaks the balance
    assert (linalg.balance(2 * B, A / 2) - gap).abs().max() > 0.1


def test_factors_of_different_rank_have_no_balance():
    with pytest.raises(ValueError, match=r"B \(5, 3\) and A \(2, 5\) do not multiply"):
        linalg.balance(draw(0, 5, 3), draw(0, 2, 5))
