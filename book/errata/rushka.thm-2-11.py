"""Theorem 2.11, "the final loss and approximation error [...] are given by (53)": W0 = diag(4, 3, 2, 1) at rank 2.

The limit (54) is diag(4, 3, 0, 0). The loss is (36), half a square, and section 1 defines the approximation error as
a norm; (53) is the sum of the squared singular values that are left out. Appendix I, (700), has the half.
"""

import numpy as np

left = np.diag([4.0, 3.0, 2.0, 1.0]) - np.diag([4.0, 3.0, 0.0, 0.0])
tail = 2.0**2 + 1.0**2  # (53)
print(f"printed: loss {tail:.3f}, approximation error {tail:.3f}")
print(f"right: loss {0.5 * np.sum(left**2):.3f}, approximation error {np.linalg.norm(left):.3f}")
