"""Theorem 3.2 (informal), "for any epsilon in (0, 1)", alpha = O(epsilon d^(-3 kappa/4 - 1/2) ||G||^(1/2)): the sine.

Linear regression, d = 20, N = 16 d samples, G of rank 2 with singular values 1 and 1/2 (kappa = 2), r = 4, alpha as
printed with the constant 1.  Descent runs past the smallest sine of the whole run; that sine is taken over epsilon at
epsilon = 1e-2, 1e-4, 1e-6.  A bound "<~ epsilon" keeps the quotient below a constant.
"""

import numpy as np

d, kappa, r, step = 20, 2.0, 4, 1 / 32
rng = np.random.RandomState(1)
X = rng.standard_normal((16 * d, d))
Sigma = X.T @ X / len(X)
U = np.linalg.qr(rng.standard_normal((d, 2)))[0]
G = U * np.array([1.0, 1 / kappa])  # the rows of A stay in G's row space: its two coordinates are enough
B0 = rng.standard_normal((d, r))


def best_sine(alpha):
    """Smallest sine over the run between the leading left directions of LoRA's d x r factor and of G."""
    B, A, best = alpha * B0, np.zeros((r, 2)), 1.0
    for _ in range(int(3 * np.log(1 / alpha) / step)):
        rest = G - Sigma @ B @ A
        B, A = B + step * rest @ A.T, A + step * B.T @ rest
        L = np.linalg.svd(B, full_matrices=False)[0][:, :2]
        best = min(best, np.linalg.norm(L - U @ (U.T @ L), 2))
    return best


epsilon = np.array([1e-2, 1e-4, 1e-6])
sines = np.array([best_sine(e * d ** (-0.75 * kappa - 0.5)) for e in epsilon])
power = np.log(sines[1] / sines[2]) / np.log(epsilon[1] / epsilon[2])
print("printed: sine / epsilon below one constant, power of epsilon 1")
print("right: sine / epsilon", *(f"{x:.2g}" for x in sines / epsilon), f"and power {power:.2f} = 2/(2 kappa + 1)")
