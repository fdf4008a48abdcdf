"""Slide "Alignment on B_t", remark "B_1 = eta_1 A_0^T G": the slides' own step, B_1 = B_0 - eta_2 grad_B L, B_0 = 0.

Linear regression with one sample x = 2 in one dimension, Delta = 3, r = 1, A_0 = 5, eta_1 = 1/10, eta_2 = 1/100, in
exact fractions, so that G = x^2 Delta = 12 and grad_B L = -A_0 x^2 (Delta - A_0 B_0).
"""

from fractions import Fraction

x, shift, A, B = Fraction(2), Fraction(3), Fraction(5), Fraction(0)
eta_1, eta_2 = Fraction(1, 10), Fraction(1, 100)
G = x**2 * shift
gradient_B = -A * x**2 * (shift - A * B)
print("printed: B_1 =", eta_1 * A * G)
print("right: B_1 =", B - eta_2 * gradient_B)
