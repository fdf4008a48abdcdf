"""Proofs of this book's own statements on Rushka & Klabjan, each checked by exact algebra or by balls.

Every function returns ``(holds, box)``, :data:`lorabook.exact.Proof`; its arguments are what the statement hangs on.
``c = Tr W0``, ``N = ||A0||^2``, ``rho = sqrt(N^2 + 4 c^2)``, ``a`` the residual, ``m = ||A||^2 + ||B||^2``.
"""

from __future__ import annotations

from fractions import Fraction

from lorabook.exact import Proof, algebra, balls, covered, vanishes


def first_order_error(tilt: int = 1) -> Proof:
    """Descent minus the flow, to second order in the step, is fed by ``-[f_B f + k f_A h; h_A h + (2 lambda - 1) k h_B
    f]/2``.

    Scalars stand for matrices: ``f = -grad_B g``, ``h = -grad_A g`` and their four first derivatives are free symbols,
    so every term of second order has a symbol of its own.  ``tilt`` is the sign of ``2 lambda - 1``.
    """
    sympy = algebra()
    e, lam = sympy.symbols("e lam")
    f, h, fb, fa, hb, ha = sympy.symbols("f h fb fa hb ha")
    cut = lambda x: sum(sympy.expand(x).coeff(e, i) * e**i for i in range(3))
    left = []
    for k in range(1, 7):
        B, A = sympy.Integer(0), sympy.Integer(0)
        for _ in range(k):
            B = cut(B + e * (f + fb * B))
        star = (1 - lam) * B
        for _ in range(k):
            A = cut(A + e * (h + hb * star + ha * A))
        t = k * e
        flow = t * f + t**2 / 2 * (fb * f + fa * h), t * h + t**2 / 2 * (hb * f + ha * h)
        fed = (fb * f + k * fa * h) / 2, (ha * h + tilt * (2 * lam - 1) * k * hb * f) / 2
        left += [cut(x - y + e * t * z) for x, y, z in zip((B, A), flow, fed)]
    return all(map(vanishes, left)), "k = 1 to 6, every mixing, every smooth loss"


def rates(top: str = "rho") -> Proof:
    """``N <= m <= rho`` along the flow from ``B0 = 0``, and ``(log a)' = -m``: so ``e^(-rho t) <= a/c <= e^(-N t)``.

    ``m' = 4 a (c - a)`` makes ``m^2 - 4 a^2 + 8 c a = N^2 + 4 c^2`` a constant; ``top`` is the upper end, rho or N.
    """
    sympy = algebra()
    a, c, N, m, x = sympy.symbols("a c N m x", positive=True)
    constant = m**2 - 4 * a**2 + 8 * c * a
    along = sympy.diff(constant, m) * 4 * a * (c - a) - sympy.diff(constant, a) * m * a
    square = N**2 + 4 * c**2 + 4 * a**2 - 8 * c * a  # m^2
    above = {"rho": N**2 + 4 * c**2, "N": N**2}[top]
    room = sympy.factor((above - square).subs(a, c * x / (1 + x)))  # 0 < a < c
    holds = vanishes(along) and vanishes(constant.subs({m: N, a: c}) - N**2 - 4 * c**2)
    holds &= vanishes(square - N**2 - 4 * (c - a) ** 2) and bool(room.is_nonnegative)
    return holds, "B0 = 0, every N > 0, c > 0, t >= 0, and c < 0 by reflection"


def crossing(beyond: bool = False) -> Proof:
    """``d/dt log(a e^(n t)/c) = n - m`` and m grows from N to rho: one change of sign if N < n < rho, else none.

    ``beyond`` starts with a residual larger than the trace, where m falls.
    """
    sympy = algebra()
    c, x = sympy.symbols("c x", positive=True)
    a = c * (1 + x) if beyond else c * x / (1 + x)
    return bool(sympy.simplify(4 * a * (c - a)).is_positive), "every N > 0, c > 0, n > 0, t > 0, from B0 = 0"


def any_start(sign: int = 1) -> Proof:
    """``u = e^(2 tau) = v/w`` solves ``u' = -(P/2) u^2 + 2 c u + Q/2``, and ``tau' = a = 4 rho^2 a0 e^(-rho t)/(v w)``.

    ``sign`` is that of c in w.
    """
    sympy = algebra()
    P, Q, c, E, r = sympy.symbols("P Q c E r", positive=True)  # E = e^(-rho t), r = rho
    v, w = 2 * r * E + (r + 2 * c + Q) * (1 - E), 2 * r * E + (r - sign * 2 * c + P) * (1 - E)
    rate = sympy.diff(v, E) * (-r * E) * w - v * sympy.diff(w, E) * (-r * E)
    riccati = rate + P / 2 * v**2 - 2 * c * v * w - Q / 2 * w**2
    speed = rate - 8 * r**2 * (c - (P - Q) / 4) * E
    reduced = [sympy.rem(sympy.expand(x), r**2 - 4 * c**2 - P * Q, r) for x in (riccati, speed)]
    return all(map(vanishes, reduced)), "every start, every trace, every t >= 0"


def exact_limit(start: int = 0) -> Proof:
    """From ``B0 = 0`` both factors stay multiples of A0, so where the residual tends to 0 the limit is (32).

    And one step that does not: N = 6, c = 1, step 1/2 reaches ``b = -a`` in two steps, and then contracts to the
    saddle.  ``start`` is a part of B0 that is no multiple of A0^T.
    """
    sympy = algebra()
    b, a, N, c, step, lam, off = sympy.symbols("b a N c step lam off")
    inside = True
    for k in (1, 2, 3):
        B, A, B_off, A_off = b, a, start * off, sympy.Integer(0)  # coordinates along A0 and across
        for _ in range(k):
            slope = c - (B * A * N + B_off * A_off)
            B, B_off = B + step * slope * A, B_off + step * slope * A_off
        star, star_off = lam * b + (1 - lam) * B, lam * start * off + (1 - lam) * B_off
        for _ in range(k):
            slope = c - (star * A * N + star_off * A_off)
            A, A_off = A + step * slope * star, A_off + step * slope * star_off
        inside &= vanishes(B_off) and vanishes(A_off)
    x, y = Fraction(0), Fraction(1)
    for _ in range(2):
        slope = 1 - x * y * 6
        x, y = x + slope * y / 2, y + slope * x / 2
    z = sympy.symbols("z")  # a^2 on b = -a, where one step multiplies a by this factor, in [-1/4, 1/2] for a^2 <= 1/4
    factor = 1 - (1 + 6 * z) / 2
    ends = (factor.subs(z, 0), factor.subs(z, sympy.Rational(1, 4)))
    saddle = (x, y) == (-Fraction(1, 2), Fraction(1, 2)) and ends == (sympy.Rational(1, 2), -sympy.Rational(1, 4))
    return bool(inside and saddle), "every N, c, step and mixing, k = 1 to 3"


def floor(trace_kept: bool = True) -> Proof:
    """``||X - c I/n||^2/||c I/n||^2 = n ||X||^2/c^2 - 1 >= n/r - 1``, with equality at ``X = (c/r) P``.

    With P the projection on the columns of X, ``c = <X, P>`` and ``||X - (c/r) P||^2 = ||X||^2 - c^2/r >= 0``.
    """
    sympy = algebra()
    c, r, n, size = sympy.symbols("c r n size", positive=True)  # size = ||X||^2
    kept = c if trace_kept else r * c / n  # the best approximation of c I/n of rank r has the trace r c/n
    ratio = (size - 2 * c * kept / n + c**2 / n) / (c**2 / n)
    square = size - 2 * (c / r) * c + (c / r) ** 2 * r
    return vanishes(ratio - (n / r - 1) - n * square / c**2), "every n, r <= n, every X of rank r and trace c"


def gaussian_excess(shift: int = 2) -> Proof:
    """(34) less the floor's square is ``n (r - 1)(r + 2)/(r (n r + 2))``."""
    n, r = algebra().symbols("n r", positive=True)
    excess = n * (r - 1) * (r + shift) / (r * (n * r + 2))
    return vanishes((n**2 + n - 2) / (n * r + 2) - (n / r - 1) - excess), "every n and r"


def smallest_curvature(factor: int = 2) -> Proof:
    """A minimiser of the trace loss has the curvature ``m >= 2 |Tr BA| = 2 |c|``, and ``(||B|| - ||A||)^2`` is the gap.

    Here for one row and one column, where ``c = BA``; in general ``|Tr BA| <= ||B|| ||A||``.
    """
    sympy = algebra()
    A, B = sympy.symbols("A B", real=True)
    gaps = [sympy.factor(A**2 + B**2 - sign * factor * A * B) for sign in (1, -1)]
    return all(bool(gap.is_nonnegative) for gap in gaps), "every minimiser, every n and r"


def saddle(used: str = "smallest", free: str = "largest") -> Proof:
    """At the end of a spectral start the least curvature is ``(sqrt(d^2 + 4 s_used^2) - sqrt(d^2 + 4 s_free^2))/2``.

    d is the imbalance ``x0^2``, ``s_used`` the smallest used and ``s_free`` the largest unused singular value.  In the
    plane of a used and an unused triplet the Hessian is ``[[x^2, -s_free], [-s_free, y^2]]`` with ``x^2 - y^2 = d`` and
    ``x y = s_used``; its least eigenvalue grows with s_used and falls with s_free.
    """
    sympy = algebra()
    x, y, u, f, d = sympy.symbols("x y u f d", positive=True)
    trace, det = x**2 + y**2, x**2 * y**2 - f**2
    plane = vanishes(trace**2 - 4 * det - ((x**2 - y**2) ** 2 + 4 * f**2))
    plane &= vanishes(trace**2 - ((x**2 - y**2) ** 2 + 4 * (x * y) ** 2))
    least = (sympy.sqrt(d**2 + 4 * u**2) - sympy.sqrt(d**2 + 4 * f**2)) / 2
    monotone = {
        ("smallest", "largest"): (sympy.diff(least, u).is_positive, sympy.diff(least, f).is_negative),
        ("largest", "largest"): (sympy.diff(least, u).is_negative, sympy.diff(least, f).is_negative),
        ("smallest", "smallest"): (sympy.diff(least, u).is_positive, sympy.diff(least, f).is_positive),
    }[used, free]
    return bool(plane and all(monotone)), "every spectrum, every choice of triplets, every x0 that is the same for all"


def sharp_lipschitz(coefficient: int = 3) -> Proof:
    """Where ``||A||, ||B|| <= R`` the gradient's best Lipschitz constant is ``|c| + 3 R^2`` (``||W0||_2 + 3 R^2``).

    ``|Hess[d, d]| <= R^2 (x + y)^2 + 2 (|c| + R^2) x y`` with ``x = ||dB||``, ``y = ||dA||``, ``x^2 + y^2 = 1``;
    attained at ``B = -R u``, ``A = R v^T`` along ``(u, -v^T)/sqrt 2``, with v a unit vector and ``u = sign(c) v``
    (Frobenius loss, in brackets: u, v the top singular pair of W0).
    """
    sympy = algebra()
    x, y, R, c = sympy.symbols("x y R c", positive=True)
    gap = (c + coefficient * R**2) * (x**2 + y**2) - (R**2 * (x + y) ** 2 + 2 * (c + R**2) * x * y)
    bounded = vanishes(gap - (c + 2 * R**2) * (x - y) ** 2)
    attained = (2 * R) ** 2 / 2 + (c + R**2)
    return bool(bounded and vanishes(attained - (c + coefficient * R**2))), "every W0, R, n and r"


def flow_bounded(constant: int = 8) -> Proof:
    """``m^2 <= m0^2 + 8 |c a0|`` along the trace flow, since ``(m^2)' = 8 m a (c - a) <= -8 |c| d|a|/dt``.

    For ``a > 0``; a < 0 is its mirror image.  (Frobenius: ``||B^T B|| <= ||B^T B - A A^T|| + ||W0|| + sqrt(2 f0)``.)
    """
    sympy = algebra()
    m, a, size = sympy.symbols("m a size", positive=True)  # size = |c|
    slack = [constant * size * m * a - 8 * m * a * (c - a) for c in (size, -size)]
    return all(bool(sympy.expand(x).is_nonnegative) for x in slack), "every start, W0, n and r, every t >= 0"


def half_time(four: int = 4, band: str = "0.0002") -> Proof:
    """``|T/(ln(4 s/x0^2)/(2 s)) - 1| <= band``, by balls in ``log(x0^2/s)``, on which alone s T depends."""
    arb = balls().arb

    def decide(e):
        d = e.exp()
        exact = ((((d**2 + 4) * 2 - 4) / (2 * d)).asinh() - (d / 2).asinh()) / (d**2 + 4).sqrt()
        ratio = abs(2 * exact / (arb(four).log() - e) - 1)
        return True if ratio < arb(band) else False if ratio > arb(band) else None

    return covered(decide, (-200.0, -8.25))[0], f"x0^2/s from e^-200 to 2.6e-4, within {band}"


def balanced_closed_form(defect: int = 0) -> Proof:
    """``Z = [B; A^T]`` with ``B^T B = A A^T + lambda I`` obeys ``Z' = H Z - Z Z^T Z/2``, which the printed form solves.

    Letters do not commute.  ``defect`` adds to ``B^T B`` a matrix that is no multiple of I.
    """
    sympy = algebra()
    B, At, W, Wt, K, D = sympy.symbols("B At W Wt K D", commutative=False)  # K = A A^T
    lam, half = sympy.symbols("lam"), sympy.Rational(1, 2)
    level = K + lam + defect * D  # B^T B
    top = W * At - B * K - (lam * half * B + W * At - B * (level + K) * half)
    bottom = Wt * B - At * level - (Wt * B - lam * half * At - At * (level + K) * half)
    H, X, Y, inverse = sympy.symbols("H X Y inverse", commutative=False)  # X = e^(Ht) Z0, Y = X^T, (inverse^-1)' = Y X
    M = X * inverse * Y
    rate = H * M - X * inverse * Y * X * inverse * Y + M * H
    left = (top, bottom, rate - (H * M + M * H - M * M))
    return all(sympy.expand(x) == 0 for x in left), "every W0, m, n, r, lambda and t >= 0"
