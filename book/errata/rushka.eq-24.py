"""(24)-(25), "Y(t) = 0, X(t) = 0 for all t" if Assumption 2.5 or 2.6 is violated: X(t) for Tr W0 = 0 and X0 = (1, 2).

The flow is dY/dt = Tr(W0 - YX) X^T, dX/dt = Tr(W0 - YX) Y^T, from Y0 = 0. Both right-hand sides are 0 at the start,
exactly, so the start is the solution; its loss is 0, so it is a global minimum, as (0, 0) is too when the trace is
0.
"""

from fractions import Fraction

W0 = [[Fraction(3), Fraction(1)], [Fraction(5), Fraction(-3)]]
Y, X = [Fraction(0), Fraction(0)], [Fraction(1), Fraction(2)]
residual = sum(W0[i][i] - Y[i] * X[i] for i in range(2))  # Tr(W0 - YX)
velocity = [residual * entry for entry in X + Y]
assert velocity == [0, 0, 0, 0]

print("printed: X(t) = (0, 0)")
print(f"right: X(t) = ({X[0]}, {X[1]}), with loss {residual**2 / 2}")
