"""Appendices C, G and I: "Assumption 1.1" in C, "X_0 in R^{n x r}" in G, "X_0 in R^{m x r}" and "(644-640)" in I.

Does the start's product Y_0 X_0, with Y_0 in R^{n x r}, exist with the printed shapes, and does the range run forward?
n = 5, m = 4, r = 2. In C the assumption that stands above the sentence is C.1. ("1.1" in I is I.1 in another type.)
"""

import numpy as np


def exists(shape):
    try:
        return (np.ones((5, 2)) @ np.ones(shape)).ndim == 2
    except ValueError:
        return False


def report(assumption, in_G, in_I, first):
    fits = [assumption in {"C.1", "C.4", "C.5"}, exists(in_G), exists(in_I), first <= 640]
    return f"{fits.count(False)} places do not fit"


print("printed:", report("1.1", (5, 2), (4, 2), 644))
print("right:", report("C.1", (2, 5), (2, 4), 637))
