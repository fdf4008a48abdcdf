"""Section 4, spurious minima "exhibit high rank and large norm, being readily distinguishable": the norm of one.

4 x 4, L(X) = <X - M, H (X - M)> / 2, decay 1/20, rank 2. H couples the diagonal entries 0, 1, 2 by
[[1, 2, 2], [2, 10, 0], [2, 0, 10]], is 11 on the symmetric pairs (0, i), 10 on the pair (1, 2) and 1 elsewhere; M is
such that X* = E_00 solves the full problem. B = A^T = sqrt(s) (e_1, e_2), s = 39/200, is stationary with Hessian >= 0.
"""

import numpy as np

n, lam, s = 4, 0.05, 1.95 / 10
unit = np.eye(n * n).reshape(n, n, n * n)
H = np.eye(n * n)
for pair, value in [((0, i), 11.0) for i in range(1, n)] + [((1, 2), 10.0)]:
    vector = unit[pair] + unit[pair[::-1]]
    H += (value - 1) * np.outer(vector, vector) / 2
H[np.ix_([0, 5, 10], [0, 5, 10])] = [[1, 2, 2], [2, 10, 0], [2, 0, 10]]
M = unit[0, 0] + lam * np.linalg.solve(H, unit[0, 0])
B = np.sqrt(s) * np.eye(n)[:, 1:3]
X, one = B @ B.T, np.eye(n)
G = (H @ (X.ravel() - M)).reshape(n, n)
left, right = np.einsum("ia,jk->ijka", one, B), np.einsum("ik,ja->ijka", B, one)  # dX / dB and dX / dA
J = np.hstack([left.reshape(n * n, 2 * n), right.reshape(n * n, 2 * n)])
cross = np.einsum("ij,kl->kilj", G, np.eye(2)).reshape(2 * n, 2 * n)
curvature = J.T @ H @ J + lam * np.eye(4 * n) + np.block([[0 * cross, cross], [cross.T, 0 * cross]])
assert np.linalg.norm(G @ B + lam * B) < 1e-12 and np.linalg.eigvalsh(curvature)[0] > -1e-10
value, best = (X.ravel() - M) @ H @ (X.ravel() - M) / 2 + 2 * lam * s, lam + lam**2 * np.linalg.inv(H)[0, 0] / 2
assert np.linalg.norm(X) < 1 and value > best + 0.1  # far above the optimum, so spurious
print("printed: rank 2, norm larger than that of X*, which is 1.000")
print(f"right: rank {np.linalg.matrix_rank(X)}, norm {np.linalg.norm(X):.3f}")
