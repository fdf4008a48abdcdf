"""Algorithm 1, line 10, "B* <- lambda B* + (1 - lambda) B_k", at lambda = 1, k = 1: the product it returns.

Loss (w0 - b a)^2 / 2 with w0 = 1, start b = 0, a = 1 (LoRA's), step 1/8, 400 outer steps.
Equation (5) asks for lambda B_0 + (1 - lambda) B_k with B_0 the value at the start of the outer step.
Lines 13-16 are read as k updates that start from A_0, so that only line 10 is on trial.
"""


def product(printed):
    step, b, a = 1 / 8, 0.0, 1.0
    star = b
    for _ in range(400):
        old = b
        b = b + step * (1 - b * a) * a  # line 8: one update of B at the old A
        star = star if printed else old  # line 10 at lambda = 1, as printed and as in (5)
        a = a + step * (1 - star * a) * star  # line 14: one update of A at B*
    return star * a  # line 24


print(f"printed: {product(True):.6f}")
print(f"right: {product(False):.6f}")
