"""Proofs of statements on two frozen layers, each checked by exact algebra.

Every function returns ``(holds, box)``, :data:`lorabook.exact.Proof`; its arguments are what the statement hangs on.
``s1`` and ``s2 = d s1`` are the growth rates, ``x = s1 t``, ``V_i = W_i + B_i A_i``, ``R`` the residual.  Where letters
do not commute they stand for matrices of any size, and a transpose is a letter of its own.
"""

from __future__ import annotations

from lorabook.exact import Proof, algebra, balls, vanishes


def expansion(cross: int = 1) -> Proof:
    """``(W2 + B2 A2)(W1 + B1 A1) - W2 W1 = W2 B1 A1 + B2 A2 W1 + B2 A2 B1 A1``; ``cross`` is the last one's factor."""
    sympy = algebra()
    W1, W2, B1, A1, B2, A2 = sympy.symbols("W1 W2 B1 A1 B2 A2", commutative=False)
    whole = (W2 + B2 * A2) * (W1 + B1 * A1) - W2 * W1
    return sympy.expand(whole - W2 * B1 * A1 - B2 * A2 * W1 - cross * B2 * A2 * B1 * A1) == 0, "every size and rank"


def gradient_flow(through: str = "both") -> Proof:
    """``dL = -<V2^T R A1^T, dB1> - <B1^T V2^T R, dA1> - <R V1^T A2^T, dB2> - <B2^T R V1^T, dA2>``.

    ``dL = -tr(R^T dF)`` with ``dF = V2 (dB1 A1 + B1 dA1) + (dB2 A2 + B2 dA2) V1``; words under a trace may be rotated.
    ``through`` "weights" pulls the residual back through W2 alone.
    """
    sympy = algebra()
    letters = sympy.symbols("W2 B1 A1 B2 A2 V1 Rt dB1 dA1 dB2 dA2", commutative=False)
    W2, B1, A1, B2, A2, V1, Rt, dB1, dA1, dB2, dA2 = letters
    V2 = W2 + B2 * A2
    pulled = V2 if through == "both" else W2
    change = Rt * (V2 * (dB1 * A1 + B1 * dA1) + (dB2 * A2 + B2 * dA2) * V1)
    printed = A1 * Rt * pulled * dB1 + Rt * pulled * B1 * dA1 + A2 * V1 * Rt * dB2 + V1 * Rt * B2 * dA2

    def rotated(expression):
        words = {}
        for term in sympy.Add.make_args(sympy.expand(expression)):
            word = [str(letter) for letter in term.args_cnc()[1]]
            key = min(tuple(word[i:] + word[:i]) for i in range(len(word)))
            words[key] = words.get(key, 0) + sympy.Mul(*term.args_cnc()[0])
        return {key: count for key, count in words.items() if count}

    return rotated(change) == rotated(printed), "every size and rank, every W1, W2, shift and factors"


def small_derivative(start: int = 0) -> Proof:
    """``F'(0) = W2 W2^T D A1^T A1 + D W1^T A2^T A2 W1``, quadratic in A, from ``B1 = B2 = 0``.

    ``start`` is a part of B1 that is not zero.
    """
    sympy = algebra()
    W1, W2, D, A1, A2, W1t, W2t, A1t, A2t, B, Bt = sympy.symbols(
        "W1 W2 D A1 A2 W1t W2t A1t A2t B Bt", commutative=False
    )
    size = sympy.symbols("size")
    R = D - start * W2 * B * A1 * size
    dB1, dA1, dB2 = W2t * R * A1t * size, start * Bt * W2t * R, R * (W1t + start * A1t * Bt * size) * A2t * size
    speed = W2 * (dB1 * A1 * size + start * B * dA1) + dB2 * A2 * size * (W1 + start * B * A1 * size)
    said = size**2 * (W2 * W2t * D * A1t * A1 + D * W1t * A2t * A2 * W1)
    return sympy.expand(speed - said) == 0, "every size and rank, every W1, W2, shift and A"


def turning(cosine: bool = True) -> Proof:
    """Layer 1 alone, first order: u1 along ``W2 W2^T u`` rests, ``v1' = s tanh(s t) cos(angle) (v - cos(angle) v1)``.

    ``B = sinh(x) p a0^T`` and ``A = A0 + (cosh(x) - 1) a0 v^T`` solve ``B' = s p (A v)^T``, ``A' = s B^T p v^T``; so
    ``BA = sinh(x) p (k cosh(x) v + w n)^T`` with ``k = |a0|^2`` and n a unit vector across v.  And ``W2 p`` does not
    move.
    """
    sympy = algebra()
    t, s, k, w = sympy.symbols("t s k w", positive=True)
    b, a = sympy.sinh(s * t), sympy.cosh(s * t)  # along a0, of B^T p and of A v
    solved = vanishes(sympy.diff(b, t) - s * a) and vanishes(sympy.diff(a, t) - s * b)
    norm = sympy.sqrt(k**2 * sympy.cosh(s * t) ** 2 + w**2)
    along, across = k * sympy.cosh(s * t) / norm, w / norm
    pace = s * sympy.tanh(s * t) * (along if cosine else 1)
    left = [along**2 + across**2 - 1]
    left += [sympy.diff(along, t) - pace * (1 - along**2), sympy.diff(across, t) + pace * along * across]
    box = "linear phase; every W2, shift of rank one, rank of LoRA and start, t > 0"
    return solved and all(map(vanishes, left)), box


def last_negative_speed(second_term: bool = True) -> Proof:
    """The speed ``g(x, T1) - d g(d x, T2)`` of selection is not negative once ``e^(2x) >= 2 (2d - 1)/(1 - d) T1``.

    ``g = 2 coth x + sinh 2x/(cosh^2 x + T)``, T the squared tangent, lies between ``2 coth x`` and ``4 coth 2x``; so
    for ``m = 2d - 1 <= 0`` it follows from y coth y growing.  For m > 0, y coth y is convex: ``(1 + m) coth((1 + m)
    x)`` is at most ``coth x + m tanh x``; it is left that half of ``sinh 2x/(cosh^2 x + T1)`` is at least ``m tanh
    x``.  One instance is negative before.  Without ``second_term`` the law is ``e^(2x) >= T1``.
    """
    sympy = algebra()
    x, T, y, z = sympy.symbols("x T y z", positive=True)
    speed = lambda ch, sh, T: 2 * ch / sh + 2 * sh * ch / (ch**2 + T)  # g by cosh x and sinh x
    g, size = speed(sympy.cosh(x), sympy.sinh(x), T), sympy.sinh(x) ** 2 * (sympy.cosh(x) ** 2 + T)
    as_exponentials = lambda expression: vanishes(sympy.simplify(expression.rewrite(sympy.exp)))
    holds = as_exponentials(sympy.diff(size, x) / size - g)
    holds &= as_exponentials(g.subs(T, 0) - 4 / sympy.tanh(2 * x))  # 2 coth + 2 tanh = 4 coth(2x)
    coth = x / sympy.tanh(x)
    # its slope is positive, and it begins at 1; so it is convex
    holds &= as_exponentials(sympy.diff(coth, x) - (sympy.sinh(2 * x) / 2 - x) / sympy.sinh(x) ** 2)
    holds &= as_exponentials(sympy.diff(coth, x, 2) - 2 * (coth - 1) / sympy.sinh(x) ** 2)
    m, q = z / (1 + z), 1 + y  # 0 < m < 1 < q = e^x
    ch, sh = (q + 1 / q) / 2, (q - 1 / q) / 2
    most = q**2 * (1 - m) / (4 * m) if second_term else q**2  # the squared tangent at the time of the law
    room = sympy.factor(speed(ch, sh, most) / 2 - ch / sh - m * sh / ch)
    late, before = balls().arb(2), balls().arb(3) / 2  # x = s1 t and d x at d = 3/4, with T1 = 10^4 and T2 = 0
    lag = speed(late.cosh(), late.sinh(), 10**4) - before / late * speed(before.cosh(), before.sinh(), 0)
    box = "linear phase, isotropic weights; every d < 1, rank, start and t > 0"
    return bool(holds and room.is_positive and lag < 0), box


def theorem_window(sign: int = -1) -> Proof:
    """``2c >= (1 + d)/(3 + d)``, ``2 - 2c >= 1`` and ``4c (1 - d) >= 4 (1 - d)/(5 - d)`` iff ``1/(5 - d) <= c <= 1/2``.

    ``sign`` is that of d in the lower end.
    """
    sympy = algebra()
    z, y = sympy.symbols("z y", positive=True)
    d = z / (1 + z)  # 0 < d < 1
    low, half = 1 / (5 + sign * d), sympy.Rational(1, 2)
    ends = vanishes(4 * low * (1 - d) - 4 * (1 - d) / (5 - d)) and vanishes(2 - 2 * half - 1)  # both linear in c
    aligned = vanishes(2 * low - (1 + d) / (3 + d) - (1 - d) ** 2 / ((5 - d) * (3 + d)))  # so not negative
    wide = sympy.factor(half - low).is_positive
    return bool(ends and aligned and wide), "the exponents of the map; every 0 < d < 1 and c"
