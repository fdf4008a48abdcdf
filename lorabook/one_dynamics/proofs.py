"""Proofs of the statements that hold the four sources against each other, by exact algebra or by balls.

Every function returns ``(holds, box)``, :data:`lorabook.exact.Proof`; its arguments are what the statement hangs on.
``S`` is the covariance of the inputs, ``D`` the target.
"""

from __future__ import annotations

from lorabook.exact import Proof, algebra, balls, covered, vanishes


def zero_side(invariant: bool = True) -> Proof:
    """From ``B = 0`` the columns stay in col(D) for every A0 iff col(D) is invariant under S.

    In a basis whose first vectors span col(D): ``B'(0) = S D A0^T`` has the rows ``u D`` below, u the block of S that
    couples them to col(D), and ``u D`` vanishes with D of full rank only where u does.  Then the rows of B below obey
    ``-S_below B_below A A^T``, and stay 0.  ``invariant`` takes u as 0.
    """
    sympy = algebra()
    d = sympy.Matrix(2, 2, sympy.symbols("d0:4"))
    u = sympy.Matrix(1, 2, sympy.symbols("u0:2"))
    needed = all(map(vanishes, u * d * d.adjugate() - d.det() * u))
    inside, below = sympy.Matrix(2, 2, sympy.symbols("s0:4")), sympy.symbols("z")
    coupling = sympy.zeros(1, 2) if invariant else u
    S = sympy.Matrix([[inside, coupling.T], [coupling, sympy.Matrix([[below]])]])
    B = sympy.Matrix(2, 2, sympy.symbols("b0:4")).col_join(sympy.zeros(1, 2))
    A = sympy.Matrix(2, 2, sympy.symbols("a0:4"))
    speed = S * (d.col_join(sympy.zeros(1, 2)) - B * A) * A.T
    kept = all(map(vanishes, speed[2, :]))
    return needed and kept, "every S and A0, every D of rank two in three dimensions; in more, the same blocks"


def one_exchange(balanced: bool = True) -> Proof:
    """A mode of each source is ``b' = omega (c - b a) a``.

    Under decay with ``c = s - lam/omega`` from a balanced start, in layer 1 with ``omega = w^2`` and ``c = target/w``.
    """
    a, s, lam, omega, w, target, b = algebra().symbols("a s lam omega w target b", positive=True)
    start = a if balanced else b
    decay = omega * (s - start * a) * a - lam * start - omega * (s - lam / omega - start * a) * a
    layer = w * (target - w * b * a) * a - w**2 * (target / w - b * a) * a
    return vanishes(decay) and vanishes(layer), "every mode, every size"


def selected_not_kept(power: int = 2) -> Proof:
    """At ``X = D2 e2 e2^T`` direction 1 is unstable iff ``S2 D2^2 < S1 D1^2``; ``power`` is that of D."""
    sympy = algebra()
    S1, S2, D1, x, y = sympy.symbols("S1 S2 D1 x y", positive=True)  # D2 = x y
    beta, gamma = sympy.symbols("beta gamma", real=True)
    left = sympy.diag(D1, x * y) - sympy.Matrix([beta, x]) * sympy.Matrix([[gamma, y]])
    loss = (sympy.diag(S1, S2) * left * left.T).trace() / 2
    hessian = sympy.hessian(loss, (beta, gamma)).subs({beta: 0, gamma: 0})
    rule = S2 * (x * y) ** power - S1 * D1**power
    return vanishes(sympy.simplify(hessian.det() / S1) - rule), "every S, D, and every balance of the factors"


def sampled_angle(lost: int = 1) -> Proof:
    """``tan^2`` is ``chi^2_(n-1)/chi^2_N``, so ``sin^2`` is Beta((n-1)/2, N/2), of mean ``(n - 1)/(N + n - 1)``."""
    n, N = algebra().symbols("n N", positive=True)
    first, second = (n - lost) / 2, N / 2
    return vanishes(first / (first + second) - (n - 1) / (N + n - 1)), "every n and N"


def relu_angle(bound: str = "0.12", largest: float = 0.1) -> Proof:
    """The sine is within ``bound rho^2`` of ``sin^2 phi |cos phi| rho/pi``, by balls in (phi, rho).

    Mean gradient ``((pi - t) w' + |w'| sin t w/|w|)/(2 pi) - w/2`` with ``w' = w + shift``, ``|w| = 1`` and ``|shift| =
    rho``.  Written so that rho factors out: ``z = y/x`` and ``atan z - z`` lies in ``[-z^3/3, 0]``.
    """
    arb = balls().arb
    pi, allowed, unit = arb.pi(), arb(bound), arb(0).union(arb(1))

    def decide(phi, rho):
        sine, cosine = phi.sin(), phi.cos()
        x = 1 + rho * cosine
        z = sine / x  # over rho
        turn = z * (1 - unit * (rho * z) ** 2 / 3) / pi  # t over pi rho
        rest = (-sine * cosine / x - unit * rho * z**3 / 3) / pi  # t - y over pi rho^2
        norm = ((1 - rho * turn) ** 2 + (rho * rest) ** 2 - 2 * rho * rest * (1 - rho * turn) * cosine).sqrt()
        shrunk = 2 * turn - rho * turn**2 - rho * rest**2 + 2 * rest * (1 - rho * turn) * cosine  # (1 - norm^2)/rho
        across = -(sine**2) * cosine**2 / x + unit * sine * z**3 / 3
        off = abs(across) / (norm * pi) + sine**2 * abs(cosine) * abs(shrunk) / (pi * norm * (1 + norm))
        return True if off < allowed else False if off > allowed else None

    holds, pieces = covered(decide, (0.0, 3.1416), (0.0, largest))
    return holds, f"every angle, shifts up to {largest:g} of the weight: within {bound} of their square, {pieces} boxes"
