"""(270)-(274), ||grad g||^2 <= 2 R^2 (||W0|| + R^2)^2 for the trace-squared loss: W0 = I of side 4, R = 1.

At B = -e_1, A = e_1^T the gradient is Tr(W0 - BA) (A^T, B^T) up to sign. The step from (270) to (271) bounds a squared
trace by a squared Frobenius norm, which lacks the factor n. |Tr(W0 - BA)| <= |Tr W0| + R^2 is right, and attained.
"""

import numpy as np

n, R = 4, 1.0
W0, B, A = np.eye(n), -np.eye(n)[:, :1], np.eye(n)[:1]
square = np.trace(W0 - B @ A) ** 2 * (np.sum(A**2) + np.sum(B**2))
assert square == 2 * R**2 * (abs(np.trace(W0)) + R**2) ** 2
print(f"printed: at most {2 * R**2 * (np.linalg.norm(W0) + R**2) ** 2:g}")
print(f"right: {square:g}")
