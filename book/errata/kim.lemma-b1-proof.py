"""Proof of Lemma B.1, "by sufficient reordering and sign flipping of the singular vectors we can have" one Q for both.

B = A = diag(2, 2, 1)^(1/2) is balanced. B = I B I^T and A = R^T A R, with R a turn by 45 degrees inside the repeated
value, are singular value decompositions; the proof needs the inner orthogonal matrices I and R to agree. All orders
and signs are tried. Then Q is read off B and carried to A, where V must come out orthogonal: the lemma is true.
"""

import itertools

import numpy as np

half = np.sqrt(0.5)
root = np.diag(np.sqrt([2.0, 2.0, 1.0]))
R = np.array([[half, -half, 0], [half, half, 0], [0, 0, 1]])
B = A = root  # balanced: B^T B = A A^T
assert np.allclose(R.T @ root @ R, A)  # as good a decomposition of A as I root I
signed = [
    np.eye(3)[list(order)] * np.array(signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1.0, -1.0), repeat=3)
]
left = min(np.linalg.norm(R @ P - np.eye(3)) for P in signed)
Q = np.linalg.inv(root) @ B  # B = I root Q
V = (np.linalg.inv(root) @ Q @ A).T  # then A = Q^T root V^T; the lemma says that V is orthogonal
print(f"printed: {left:.3f} left over after order and signs")
print(f"right: {np.linalg.norm(V.T @ V - np.eye(3)):.3f} left over where Q is carried from B to A")
