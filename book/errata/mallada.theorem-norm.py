"""Slide "Alignment Phase: Theorem", T_1 = log(1/alpha)/(sigma sigma_W2) and ||F||_2 <= O(alpha): the size of F at T_1.

Two scalar layers, sigma = sigma_W2 = 1, delta_w = 1/2, LoRA of rank one from A_1 = A_2 = alpha, B_1 = B_2 = 0: gradient
flow is integrated to the printed T_1 and to T_1/(5 - delta_w), and ||F|| is compared at two starts, alpha = 1e-6 and
alpha = 1e-8.  The exponent of alpha is the logarithm of the quotient over that of the starts.
"""

import math

from scipy.integrate import solve_ivp

DELTA = 0.5  # sigma_W1 / sigma_W2; W2 = 1, W1 = DELTA, the shift is 1


def flow(t, z):
    b1, a1, b2, a2 = z
    v1, v2 = DELTA + b1 * a1, 1 + b2 * a2
    rest = 1 - (b1 * a1 + b2 * a2 * v1)  # Delta Y - F
    return v2 * rest * a1, v2 * rest * b1, v1 * rest * a2, v1 * rest * b2


def size(alpha, share):
    """F at share * log(1/alpha)."""
    end = share * math.log(1 / alpha)
    z = solve_ivp(flow, (0, end), (0, alpha, 0, alpha), rtol=1e-10, atol=1e-6 * alpha, method="DOP853").y[:, -1]
    b1, a1, b2, a2 = z
    return b1 * a1 + b2 * a2 * (DELTA + b1 * a1)


def exponent(share):
    return math.log(size(1e-6, share) / size(1e-8, share)) / math.log(1e-6 / 1e-8)


at_T1, sooner = exponent(1.0), exponent(1 / (5 - DELTA))
print("printed: exponent at least 1 at T_1")
print(f"right: exponent {abs(at_T1):.2f} at T_1 (||F|| = {size(1e-8, 1.0):.2f}), {sooner:.2f} at T_1/(5 - delta_w)")
