"""Proofs of statements on LoRA-One's regression, each checked by exact algebra or by balls.

Every function returns ``(holds, box)``, :data:`lorabook.exact.Proof`; its arguments are what the statement hangs on.
``S`` is the covariance of the inputs, ``D`` the shift, ``E = BA - D``, ``w = sqrt(eB eA)`` for the steps of B and A.
Where letters do not commute they stand for matrices of any size, and a transpose is a letter of its own.
"""

from __future__ import annotations

from lorabook.exact import Proof, algebra, balls, covered, vanishes


def imbalance_identity(power: int = 1) -> Proof:
    """Steps ``(eB, eA)`` from ``(B, A)`` and both steps w from ``(B/c, c A)``, ``c^4 = eB/eA``, have the same products.

    One step keeps the relation ``(B/c, c A)``, whatever the loss of the product, whose gradient is -J at both.
    ``power`` is that of c in the second start's A.
    """
    sympy = algebra()
    c, q = sympy.symbols("c q", positive=True)  # eA = q, eB = c^4 q, w = c^2 q
    B, A, Bt, At, J = sympy.symbols("B A Bt At J", commutative=False)
    scale = c**power
    same = sympy.expand((B / c) * (scale * A) - B * A)
    left = sympy.expand(c * (B / c + c**2 * q * J * scale * At) - (B + c**4 * q * J * At))
    right = sympy.expand((scale * A + c**2 * q * (Bt / c) * J) / scale - (A + q * Bt * J))
    return same == left == right == 0, "every loss of the product, every start, size, rank, pair of steps and time"


def linear_system(mean: bool = False) -> Proof:
    """``H^t`` on a singular pair of G is ``[[P, sqrt(eB/eA) Q], [sqrt(eA/eB) Q, P]]``.

    ``2 P`` and ``2 Q`` are the sum and the difference of ``(1 + w s)^t`` and ``(1 - w s)^t``.  By induction in t:
    true at 0, and H times it is its successor.  ``mean`` takes the mean of the steps for w.
    """
    sympy = algebra()
    p, q, s, a, b = sympy.symbols("p q s a b", positive=True)  # eB = p^2, eA = q^2; a and b are the two powers
    w = (p**2 + q**2) / 2 if mean else p * q
    closed = lambda a, b: sympy.Matrix([[(a + b) / 2, p / q * (a - b) / 2], [q / p * (a - b) / 2, (a + b) / 2]])
    H = sympy.Matrix([[1, p**2 * s], [q**2 * s, 1]])
    step = H * closed(a, b) - closed(a * (1 + w * s), b * (1 - w * s))
    begins = closed(sympy.Integer(1), sympy.Integer(1)) == sympy.eye(2)
    return begins and all(map(vanishes, step)), "every G, pair of steps and time"


def transfer(first: int = 2) -> Proof:
    """``((1 + y)^t + (1 - y)^t)/2 > 1`` grows with ``y = w s > 0`` from ``t = 2`` on, so P_t leads with G's directions.

    Its slope is ``t/2 ((1 + y)^(t-1) - (1 - y)^(t-1))``, the odd part of a binomial, and positive since ``|1 - y|`` is
    below ``1 + y``.  ``first`` is the first of the times.
    """
    sympy = algebra()
    y, t = sympy.symbols("y t", positive=True)
    slope = sympy.diff(((1 + y) ** t + (1 - y) ** t) / 2, y)
    holds = vanishes(slope - t / 2 * ((1 + y) ** (t - 1) - (1 - y) ** (t - 1)))
    holds &= bool(sympy.expand((1 + y) ** 2 - (1 - y) ** 2).is_positive)
    odd = [sympy.expand((1 + y) ** (k - 1) - (1 - y) ** (k - 1)) for k in range(first, first + 6)]
    return bool(holds and all(x.is_positive for x in odd)), "every G, step and t >= 2"


def rows_stay(noise: int = 0) -> Proof:
    """With ``A Q = 0`` and ``D Q = 0`` a step ``A <- K A + M (S (D - B A) + noise)`` leaves ``A Q = 0``.

    Q projects beside G's row space, which is D's where S is invertible.  K and M are any matrices: descent, momentum
    (with its memory as rows of A), decay, preconditioning.
    """
    sympy = algebra()
    K, M, S, L, V, B, C, Q, N = sympy.symbols("K M S L V B C Q N", commutative=False)
    A, D = C * V, L * V  # rows in the span of V
    after = K * A + M * (S * (D - B * A) + noise * N)
    rest = sympy.expand(after * Q).subs(V * Q, 0)
    return rest == 0, "every A0 = 0 start, S invertible, D, rank, step and time; no label noise"


def start_mean(fourth: int = 3) -> Proof:
    """``E ||(S - I) v||^2 = ||v||^2 (d + 1)/N`` for Gaussian rows, and the start is ``S D`` where r >= r*.

    ``E (S - I)^2 = (E (x x^T)^2 - I)/N``, and ``E x_i x_j |x|^2`` is 0 beside the diagonal and ``fourth + d - 1`` on
    it, with ``fourth`` the fourth moment of an entry.
    """
    sympy = algebra()
    d, N = sympy.symbols("d N", positive=True)
    moments, holds = {0: 1, 1: 0, 2: 1, 3: 0, 4: fourth}, True
    for size in (1, 2, 3, 4):
        x = sympy.symbols(f"x0:{size}")
        length = sum(y**2 for y in x)
        for i in range(size):
            for j in range(size):
                terms = sympy.Poly(x[i] * x[j] * length, *x).terms()
                mean = sum(count * sympy.prod([moments[power] for power in powers]) for powers, count in terms)
                holds &= mean == ((fourth + size - 1) if i == j else 0)
    return bool(holds and vanishes((fourth + d - 1 - 1) / N - (d + 1) / N)), "every d, N, D, r >= r*; Gaussian rows"


def mask_bias(bound: str = "0.15", largest: float = 0.1) -> Proof:
    """The masked gradient's mean leaves ``D/2`` by ``rho sin^2 psi/pi`` across w, within ``bound rho^2``, relative.

    With ``w = (1, 0)``, ``x = 1 + rho cos psi`` and ``y = rho sin psi``, t their angle, the bias is ``(y - t x, -t
    y)`` over ``2 pi``; written so that rho factors out: ``z = sin(psi)/x``, and ``u - atan u`` lies in ``[u^3/3 -
    u^5/5, u^3/3]``.
    """
    arb = balls().arb
    pi, allowed, unit = arb.pi(), arb(bound), arb(0).union(arb(1))

    def decide(psi, rho):
        sine, cosine = psi.sin(), psi.cos()
        z = sine / (1 + rho * cosine)
        third = (1 - 3 * unit * (rho * z) ** 2 / 5) / 3  # (u - atan u)/u^3 at u = rho z
        along, across = sine * z**2 * third, sine * z * (cosine + rho * z**2 * third)
        off = (along**2 + across**2) / pi**2
        return True if off < allowed**2 else False if off > allowed**2 else None

    holds, pieces = covered(decide, (0.0, 3.1416), (0.0, largest))
    return holds, f"every angle, shifts up to {largest:g} of the weight: within {bound} of their square, {pieces} boxes"


def offset_sine(gamma_power: int = 1) -> Proof:
    """``D + B0 A0 = sum u_i (s_i v_i + gamma v'_i)^T``: rank r, rows at sines ``gamma/sqrt(gamma^2 + s_i^2)`` to G's.

    In the population G = D, ``B0 A0 = gamma sum u_i v'_i^T`` with the v' beside all v: the rows are orthogonal to each
    other, so the sines are those of the principal angles, and the largest belongs to the smallest s.
    """
    sympy = algebra()
    gamma, s, more = sympy.symbols("gamma s more", positive=True)
    first, second = sympy.Matrix([s, 0, gamma, 0]), sympy.Matrix([0, s + more, 0, gamma])  # on v1, v2, v'1, v'2
    sine = lambda s: gamma**gamma_power / sympy.sqrt(gamma ** (2 * gamma_power) + s**2)
    across = (first[2] ** 2 + first[3] ** 2) / first.dot(first)
    falls, apart = sympy.diff(sine(s), s).is_negative, first.dot(second) == 0
    return bool(apart and falls and vanishes(across - sine(s) ** 2)), "population; every s, gamma and r"


def preconditioned_step(mixed: int = 1) -> Proof:
    """``E1 = (1 - 2h) P E P' + (1 - h)(P E Q' + Q E P') + Q E Q' + h^2 E A^+ B^+ E``, ``h = eta/2``; Q = 1 - P.

    P and P' project on B's columns and A's rows; in the population, by the GLM form, ``B <- B - h E A^+`` and ``A <-
    A - h B^+ E``.  ``mixed`` is the multiple of h that the mixed parts lose.
    """
    sympy = algebra()
    h = sympy.symbols("h")
    B, A, Bp, Ap, E = sympy.symbols("B A Bp Ap E", commutative=False)
    after = (B - h * E * Ap) * (A - h * Bp * E) - (B * A - E)
    P, R = B * Bp, Ap * A
    inner, outer = P * E * R, (1 - P) * E * (1 - R)
    sides = P * E * (1 - R) + (1 - P) * E * R
    said = (1 - 2 * h) * inner + (1 - mixed * h) * sides + outer + h**2 * E * Ap * Bp * E
    return sympy.expand(after - said) == 0, "every size, eta, B and A of full rank"
