"""Slide "Recall problem setting", J = (1/N) X^T [sigma(X W~) - (1/N) X^T sigma(X W)] * sigma'(X W): its shapes.

N = 7 samples, d = 3, k = 2.  The shapes in the bracket are compared; then the form without the inner (1/N) X^T and with
the mask inside the bracket is compared with central differences of the loss (1/2N) ||sigma(X W) - sigma(X W~)||^2.
"""

import numpy as np

N, d, k = 7, 3, 2
rng = np.random.RandomState(0)
X, W, shift = (rng.standard_normal(shape) for shape in ((N, d), (d, k), (d, k)))


def relu(Z):
    return np.maximum(Z, 0)


def loss(W_t):
    return ((relu(X @ W_t) - relu(X @ (W + shift))) ** 2).sum() / (2 * N)


first, second = relu(X @ (W + shift)), X.T @ relu(X @ W) / N
J = X.T @ ((first - relu(X @ W)) * (X @ W > 0)) / N
differences, h = np.zeros((d, k)), 1e-6
for i in range(d):
    for j in range(k):
        E = np.zeros((d, k))
        E[i, j] = h
        differences[i, j] = -(loss(W + E) - loss(W - E)) / (2 * h)
close = np.abs(J - differences).max() < 1e-6
print(f"printed: shape {first.shape} minus shape {second.shape}")
print(f"right: shape {J.shape}, equal to -grad: {close}")
