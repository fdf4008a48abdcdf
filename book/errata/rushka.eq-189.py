"""(187)-(189), the distance of the mixture from the iterate, at most "lambda k alpha M": lambda = 0, j = 0, k = 4.

Loss (1 - b a)^2 / 2 from b = 0, a = 1, step alpha = 1/100. At lambda = 0 the mixture is B_k and the iterate is B_0, so
the distance is |B_4 - B_0|; both numbers below are in units of alpha. (190), k alpha M, holds: M is at least 1 here.
"""

from fractions import Fraction

step, a, b = Fraction(1, 100), Fraction(1), [Fraction(0)]
for _ in range(4):
    b.append(b[-1] + step * (1 - b[-1] * a) * a)
mixing, k = 0, 4
print(f"printed: at most {mixing * k}")
print(f"right: {float((b[4] - b[0]) / step):.4f}, at most {k}")
