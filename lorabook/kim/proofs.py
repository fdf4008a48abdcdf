"""Proofs of this book's own statements on Kim, Kim & Ryu, each checked in fractions or by exact algebra.

Every function returns ``(holds, box)``, :data:`lorabook.exact.Proof`; its arguments are what the statement hangs on.
Letters of the decoy family as in :mod:`lorabook.kim.problem`; ``G`` is the gradient of L, ``E = ||G||_2/lambda``.
"""

from __future__ import annotations

from fractions import Fraction

from lorabook.exact import Proof, algebra, semidefinite, vanishes
from lorabook.kim.laboratory import INSTANCES

ZERO, ONE = Fraction(0), Fraction(1)


def exact_member(name: str = "strict", **changes) -> dict[str, Fraction]:
    """Parameters of a named member of the family as fractions, with some of them changed, and ``s = (c - lam)/b``."""
    member = {key: Fraction(str(value)) for key, value in (INSTANCES[name] | changes).items()}
    member.setdefault("h2", max(member["b"], ONE))
    return member | {"s": (member["c"] - member["lam"]) / member["b"]}


def _apply(member, X):
    """``H X`` for a matrix X given as a list of rows."""
    n, decoys = int(member["n"]), int(member["decoys"])
    Y = [row[:] for row in X]
    for i in range(n):
        for j in range(i):
            inside = i <= decoys
            weight = ONE if not inside and j else member["h"] if j == 0 else member["h2"]
            plus, minus = (X[i][j] + X[j][i]) / 2, (X[i][j] - X[j][i]) / 2
            Y[i][j], Y[j][i] = weight * plus + minus, weight * plus - minus
    Y[0][0] = member["a"] * X[0][0] + member["c"] * sum(X[k][k] for k in range(1, decoys + 1))
    for k in range(1, decoys + 1):
        Y[k][k] = member["c"] * X[0][0] + member["b"] * X[k][k]
    return Y


def exact_hessian(member) -> tuple[list[list[Fraction]], list[Fraction]]:
    """Hessian of F at the candidate ``B = A^T = sqrt(s) (e_1 ... e_r)``, and its gradient over sqrt(s): all rational.

    A change of the product carries sqrt(s) in both parts, so the square root never appears.
    """
    n, r, s, lam = int(member["n"]), int(member["rank"]), member["s"], member["lam"]
    empty = lambda: [[ZERO] * n for _ in range(n)]
    truth, found = empty(), empty()
    truth[0][0] = ONE
    for k in range(1, r + 1):
        found[k][k] = s
    of_found, of_truth = _apply(member, found), _apply(member, truth)
    # H (X - M) with M = E_00 + lam H^-1 E_00
    G = [[of_found[i][j] - of_truth[i][j] - lam * truth[i][j] for j in range(n)] for i in range(n)]
    entries = [("B", i, k) for i in range(n) for k in range(r)] + [("A", j, k) for j in range(n) for k in range(r)]
    moves = []
    for which, i, k in entries:
        X = empty()
        row, column = (i, k + 1) if which == "B" else (k + 1, i)
        X[row][column] = ONE
        moves.append(X)
    images = [_apply(member, X) for X in moves]
    hessian = []
    for x, (which, i, k) in enumerate(entries):
        line = [s * sum(p * q for rows in zip(moves[x], image) for p, q in zip(*rows)) for image in images]
        for y, (other, j, l) in enumerate(entries):
            if which != other and k == l:
                line[y] += G[i][j] if which == "B" else G[j][i]
        line[x] += lam
        hessian.append(line)
    slope = [G[i][k + 1] + lam * (i == k + 1) for i in range(n) for k in range(r)]
    return hessian, slope + [G[k + 1][j] + lam * (j == k + 1) for j in range(n) for k in range(r)]


def certified(share_of_h: Fraction | None = None) -> Proof:
    """Each named instance has a spurious second-order point: gradient exactly 0, Hessian exactly semidefinite.

    ``share_of_h`` puts h at this share of what a trap needs.
    """
    holds, flat = [], []
    for name in INSTANCES:
        member = exact_member(name)
        if share_of_h is not None:
            member["h"] = share_of_h * (member["a"] / member["s"] - member["rank"] * member["c"])
        hessian, slope = exact_hessian(member)
        definite, zeros = semidefinite(hessian)
        holds.append(definite and not any(slope))
        flat.append(f"{name} {zeros}")
    every = all(holds) if share_of_h is None else any(holds)
    return every, "the six instances in fractions, with flat directions " + ", ".join(flat)


def candidate_condition(h2_at_least_b: bool = True) -> Proof:
    """The candidate is a second-order point iff ``a - r c s <= h s`` and (decoys = r or ``h2 >= b``).

    The Hessian falls into the pairs (row i outside the used ones, column k used): ``p = B_ik + A_ki`` and
    ``q = B_ik - A_ki`` carry ``s h_i + G_ii + lam`` and ``s - G_ii + lam``; on the used ones it is a sum of squares.
    Without ``h2_at_least_b`` the condition is held against one member with h2 < b.
    """
    sympy = algebra()
    a, b, c, h, h2, lam = sympy.symbols("a b c h h2 lam", positive=True)
    s, holds = (c - lam) / b, True
    for n, r, decoys in ((3, 1, 1), (4, 1, 2), (4, 2, 2), (5, 2, 3)):
        G = [r * c * s - a - lam] + [-lam] * r + [-c] * (decoys - r) + [0] * (n - 1 - decoys)
        B = sympy.Matrix(n, r, sympy.symbols(f"x0:{n * r}"))
        A = sympy.Matrix(r, n, sympy.symbols(f"y0:{n * r}"))
        used = sympy.Matrix(n, r, lambda i, k: int(i == k + 1))
        weight = lambda i: h if i == 0 else h2 if i <= decoys else 1

        def energy(X):
            total = a * X[0, 0] ** 2 + 2 * c * X[0, 0] * sum(X[k, k] for k in range(1, decoys + 1))
            total += sum((b if k <= decoys else 1) * X[k, k] ** 2 for k in range(1, n))
            for i in range(n):
                for j in range(i):
                    heavy = h if j == 0 and i <= decoys else h2 if 0 < j and i <= decoys else 1
                    total += heavy * (X[i, j] + X[j, i]) ** 2 / 2 + (X[i, j] - X[j, i]) ** 2 / 2
            return total

        X = B * used.T + used * A  # the change of the product, over sqrt(s)
        whole = s * energy(X) + 2 * sum(G[i] * (B * A)[i, i] for i in range(n))
        whole += lam * (sum(v**2 for v in B) + sum(v**2 for v in A))
        inner = sympy.Matrix(n, n, lambda i, j: X[i, j] if 1 <= i <= r and 1 <= j <= r else 0)
        parts = s * energy(inner) + lam * sum((B[k + 1, l] - A[l, k + 1]) ** 2 for k in range(r) for l in range(r))
        for i in (i for i in range(n) if not 1 <= i <= r):
            for k in range(r):
                plus, minus = B[i, k] + A[k, i], B[i, k] - A[k, i]
                parts += (s * weight(i) + G[i] + lam) * plus**2 / 2 + (s - G[i] + lam) * minus**2 / 2
        holds &= vanishes(whole - parts)
        holds &= vanishes(s * h + G[0] + lam - (h * s + r * c * s - a)) and vanishes(s * h2 - c + lam - s * (h2 - b))
        # s - G_00 + lam = s + 2 lam + (a - r c s), which is positive: a b > decoys c^2 >= r c (c - lam)
        holds &= vanishes(s - G[0] + lam - (s + 2 * lam + a - r * c * s))
    if not h2_at_least_b:
        member = exact_member("fading", n=4, rank=1, decoys=2, h2=0.5)
        margin = member["h"] * member["s"] + member["c"] * member["s"] - member["a"]
        holds &= (margin >= 0) == semidefinite(exact_hessian(member)[0])[0]
    return bool(holds), "every a, b, c, h, h2 and lambda < c with H definite; n up to 5, ranks 1 and 2"


def decay_threshold(own: bool = True) -> Proof:
    """The margin ``(h + r c)(c - lam)/b - a`` falls with the decay and vanishes at ``c - a b/(r c + h)``.

    ``own`` keeps the term r c in the threshold.
    """
    sympy = algebra()
    a, b, c, h, lam, r = sympy.symbols("a b c h lam r", positive=True)
    margin = (h + r * c) * (c - lam) / b - a
    at = c - a * b / (h + (r * c if own else 0))
    return bool(vanishes(margin.subs(lam, at)) and sympy.diff(margin, lam).is_negative), "every member of the family"


def family_boundary(two: int = 2) -> Proof:
    """As ``lam -> 0`` the family has a trap of rank r from ``beta/alpha = 1 + 2 sqrt r`` on, and none below.

    With mu >= alpha the two eigenvalues of the diagonal block, a trap needs ``alpha mu <= beta c`` and ``c sqrt r <=
    (mu - alpha)/2``; so with ``m = mu/alpha`` the ratio is at least ``max(m, 2 sqrt(r) m/(m - 1))``, least at m = 1 + 2
    sqrt r.
    """
    sympy = algebra()
    a, b, c, q, y = sympy.symbols("a b c q y", positive=True)  # q = sqrt r
    edge = 1 + two * q
    need = lambda m: 2 * q * m / (m - 1)
    block = sympy.Matrix([[a, c * q], [c * q, b]])
    apart = vanishes(block.trace() ** 2 - 4 * block.det() - ((a - b) ** 2 + 4 * (c * q) ** 2))
    met = vanishes(need(edge) - edge)
    below = vanishes(need(1 + 2 * q - y) - edge - y / (2 * q - y))  # m below the edge, 0 < y < 2 q: more is needed
    return bool(apart and met and below), "every a, b, c, h the largest eigenvalue of H, every rank, lambda to 0"


def certificate(decay: int = 1) -> Proof:
    """Appending ``e (u, -v)`` changes the objective by ``-(||G||_2 - lam) e^2 + e^4 <Z, H Z>/2`` with ``Z = u v^T``."""
    G, lam, e, curvature = algebra().symbols("G lam e curvature", positive=True)
    change = -(e**2) * G + e**4 * curvature / 2 + decay * lam / 2 * (e**2 + e**2)
    return vanishes(change + (G - lam) * e**2 - e**4 * curvature / 2), "every quadratic loss, every point, every e"


def two_sided(least_loss: int = 0) -> Proof:
    """Stationary, ``E >= 1``, L >= 0 convex: ``(||G|| - lam)^2/(2 beta) <= F - F* <= (1 - 1/E) F``.

    Upper: stationarity gives ``<G, X> = -lam ||X||_*``, convexity then ``gap <= (||G|| - lam) ||X*||_*``, and
    ``lam ||X*||_* <= F* = F - gap``.  Lower: along ``X - t u v^T`` the objective falls by ``t (||G|| - lam) - beta
    t^2/2`` at least.  ``least_loss`` is the infimum of L: where it is negative, ``lam ||X*||_* <= F* - least_loss``.
    """
    sympy = algebra()
    gap, F, lam, G, beta, t = sympy.symbols("gap F lam G beta t", positive=True)
    E = G / lam
    found = sympy.solve(sympy.Eq(gap, (E - 1) * (F - gap - least_loss)), gap)[0]
    fall = t * (G - lam) - beta * t**2 / 2
    best = sympy.solve(sympy.diff(fall, t), t)[0]
    holds = vanishes(found - (1 - 1 / E) * F) and vanishes(fall.subs(t, best) - (G - lam) ** 2 / (2 * beta))
    return bool(holds), "every convex L >= 0 with <Z, Hess Z> <= beta at unit Z of rank one, E >= 1"


def nested(order: int = 1) -> Proof:
    """Constants over the matrices of rank r: alpha can only fall and beta only rise with r, here on *fading*.

    ``[[a, c sqrt r], [c sqrt r, b]]`` has its least eigenvalue at alpha; its trace stays and its determinant falls.
    ``order`` -1 lets r fall.
    """
    sympy = algebra()
    a, b, c, r = sympy.symbols("a b c r", positive=True)
    det = a * b - r * c**2
    least = (a + b - sympy.sqrt((a + b) ** 2 - 4 * det)) / 2
    slope = order * sympy.diff(least, r)
    root = sympy.symbols("root", positive=True)
    falls = bool(slope.subs(sympy.sqrt((a + b) ** 2 - 4 * det), root).is_negative)
    return falls, "the alpha of every member of the family"


def lemma_1_rank(rank_of_gradient: int = 2) -> Proof:
    """One step of SGD with decay adds ``g K + K' g`` to ``q^2 X``, q = 1 - mu lam: a rank of at most ``2 rank g``.

    Letters do not commute.  ``rank_of_gradient`` is the factor of the bound, held against one step that needs two.
    """
    sympy = algebra()
    q, mu = sympy.symbols("q mu", positive=True)
    B, A, g, Bt, At = sympy.symbols("B A g Bt At", commutative=False)
    after = (q * B - mu * g * At) * (q * A - mu * Bt * g)
    said = q**2 * B * A + g * (-q * mu * At * A) + (-q * mu * B * Bt + mu**2 * g * At * Bt) * g
    left, right = sympy.Matrix([[1, 0], [1, 1]]), sympy.Matrix([[1, 2], [0, 1]])
    one = sympy.Matrix([[1], [2]]) * sympy.Matrix([[3, 1]])
    half = sympy.Rational(1, 2)
    added = (half * left - half * one * right.T) * (half * right - half * left.T * one) - left * right / 4
    holds = sympy.expand(after - said) == 0 and added.rank() <= rank_of_gradient * one.rank()
    return bool(holds), "every B, A, g, step and decay; one step of rank one adds a matrix of rank two"


def lemma_1(admitted: int = 1) -> Proof:
    """Lemma 1 allows a rank of 2b or more where ``epsilon <= 4 q^2``, q = 1 - mu lam, and no limit has more.

    With ``q = exp(-u)`` and ``epsilon = 4 admitted q^2 exp(-v)`` the allowed rank over b is 2 plus a term that must not
    be negative.  ``admitted`` is how many times 4 q^2 epsilon may be.
    """
    sympy = algebra()
    u, v = sympy.Symbol("u", positive=True), sympy.Symbol("v", nonnegative=True)
    allowed = (sympy.log(admitted) - 2 * u - v) / -u  # log(epsilon / 4) / log(q)
    margin = sympy.expand(u * (allowed - 2))
    box = "every batch, 0 < mu lambda < 1, epsilon <= 4 (1 - mu lambda)^2"
    return bool(margin.is_nonnegative and lemma_1_rank()[0]), box
