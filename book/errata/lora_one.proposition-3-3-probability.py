"""Proposition 3.3, "||A_0 B_0 - Delta||_F <= epsilon ||Delta||_op, w.p. 1 - C exp(-epsilon^2 N)": the C that is needed.

One dimension, N = 200 standard normal inputs, Delta = 1: the spectral start is A_0 B_0 = mean of x^2, so N A_0 B_0 is
chi-square with N degrees of freedom and the chance to miss is exact.  Printed is the smallest C that the inequality
needs at epsilon^2 N = 4, 9, 16, 25; a constant would not grow.  Then the same with epsilon^2 N / 4 in the exponent.
"""

import numpy as np
from scipy.stats import chi2

N = 200
x = np.array([4.0, 9.0, 16.0, 25.0])  # epsilon^2 N
epsilon = np.sqrt(x / N)
miss = chi2.sf(N * (1 + epsilon), N) + chi2.cdf(N * (1 - epsilon), N)


def needed(factor):
    return " ".join(f"{c:.2g}" for c in miss * np.exp(factor * x))


print("printed: with exp(-epsilon^2 N), C at least", needed(1.0))
print("right: with exp(-epsilon^2 N / 4), C at least", needed(0.25))
