"""After (54), "Sigma_{0,r} in R^{n x m}": the product U_r Sigma_{0,r} V_r^T for n = 5, m = 4, r = 2.

U_r is 5 x 2 and V_r is 4 x 2, "truncations of U and V". (694) has the right shape, r x r.
"""

import numpy as np


def product(shape):
    try:
        return " x ".join(map(str, (np.ones((5, 2)) @ np.ones(shape) @ np.ones((4, 2)).T).shape))
    except ValueError:
        return "no product"


print(f"printed: {product((5, 4))}")
print(f"right: {product((2, 2))}")
