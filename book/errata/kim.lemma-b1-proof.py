"""Proof of Lemma B.1, "by sufficient reordering and sign flipping of the singular vectors we can have" one Q for both.

B = A = I is balanced. B = I I I^T and A = R I R^T, with R a turn by 45 degrees, are compact decompositions; the proof
needs the inner orthogonal matrices I and R to agree. All orders and signs are tried, then a rotation inside the
repeated singular value. (The lemma is true: one Q can be carried over from B to A.)
"""

import itertools

import numpy as np

half = np.sqrt(0.5)
R = np.array([[half, -half], [half, half]])
assert np.allclose(R @ np.eye(2) @ R.T, np.eye(2))
signed = [
    np.eye(2)[list(order)] * np.array(signs)
    for order in itertools.permutations(range(2))
    for signs in itertools.product((1.0, -1.0), repeat=2)
]
left = min(np.linalg.norm(R @ P - np.eye(2)) for P in signed)
turned = np.linalg.norm(R @ R.T - np.eye(2))
print(f"printed: {left:.3f} left over after order and signs")
print(f"right: {turned + 0.0:.3f} left over after a rotation inside the repeated value")
