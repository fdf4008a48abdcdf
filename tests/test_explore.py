"""The explorables: every number they draw is the package's, by mouse, finger and keyboard; the page reads without."""

import functools
import json
import math
import re
import shutil

import numpy as np
import offline
import pytest
import torch
from test_site import PHONE, READABLE

from lorabook import kim, lora_one, mallada, rushka
from lorabook.lora_one import alignment

KINDS = ["rushka", "mallada", "lora_one", "kim"]
CHAPTER = {
    "rushka": "rushka_closed_forms",
    "mallada": "mallada_two_phase",
    "lora_one": "lora_one_alignment",
    "kim": "kim_landscape",
}
LARGEST = 10_000  # bytes of a script
MOST = 15_000  # bytes of the scripts that a chapter has of its own
VISIBLE = 3.0  # WCAG AA for graphics
LOW, HIGH = 0, 10**6  # positions of a slider; the browser stops at its last one

# Slider positions to compare at: where the page starts, both ends of everything, and ends against each other.
STATES = {
    "rushka": [
        {},
        dict(n=LOW, rank=LOW, trace=LOW, sigma=LOW),
        dict(n=HIGH, rank=HIGH, trace=HIGH, sigma=HIGH),
        dict(n=HIGH, rank=LOW, trace=1, sigma=LOW),
        dict(n=3, rank=HIGH, trace=2, sigma=HIGH),
        dict(n=4, rank=2, trace=5, sigma=8),
    ],
    "mallada": [
        {},
        dict(alpha=LOW, delta_w=LOW),
        dict(alpha=HIGH, delta_w=HIGH),
        dict(alpha=LOW, delta_w=HIGH),
        dict(alpha=HIGH, delta_w=LOW),
        dict(alpha=13, delta_w=9),
        dict(alpha=9, delta_w=10),
    ],
    "lora_one": [
        {},
        dict(kappa=LOW, alpha=LOW),
        dict(kappa=HIGH, alpha=HIGH),
        dict(kappa=LOW, alpha=HIGH),
        dict(kappa=HIGH, alpha=LOW),
        dict(kappa=3, alpha=5),
    ],
    "kim": [
        {},
        dict(x=LOW, y=LOW, lam=LOW),
        dict(x=HIGH, y=HIGH, lam=HIGH),
        dict(x=HIGH, y=LOW, lam=HIGH),
        dict(x=26, y=HIGH, lam=2),
        dict(x=26, y=26, lam=3),
        dict(x=30, y=30, lam=8),
        dict(x=27, y=40, lam=9),
        dict(x=40, y=26, lam=5),
    ],
}

READ = """
([kind, positions]) => {
  const mount = document.querySelector(`[data-explore="${kind}"]`), form = mount.querySelector("form");
  for (const [name, position] of Object.entries(positions)) form.elements[name].value = position;
  form.dispatchEvent(new Event("input", {bubbles: true}));
  const attributes = node => ({...node.dataset, d: node.getAttribute("d"), x: node.getAttribute("x"),
    width: node.getAttribute("width")});
  return {
    settings: JSON.parse(mount.dataset.settings), drawn: JSON.parse(mount.dataset.drawn),
    words: mount.querySelector(".lb-said").textContent,
    plots: [...mount.querySelectorAll("svg[data-axes]")].map(svg => ({axes: JSON.parse(svg.dataset.axes),
      parts: [...svg.querySelectorAll("[data-name]")].map(attributes)})),
  };
}
"""


@pytest.fixture(scope="module")
def address(site):
    return (site / "notebooks/explore.html").as_uri()


@pytest.fixture(scope="module")
def page(address, browser):
    yield from opened(browser, address)


def opened(browser, address, **options):
    """One open page; trouble on its console fails the test that closes it."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"} | options)
    page, trouble = context.new_page(), []
    page.on("console", lambda message: trouble.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(address)
    yield page
    context.close()
    assert trouble == []


class Shown:
    """One explorable with its sliders at given positions: what it says it drew, and what stands in its SVG."""

    def __init__(self, page, kind, positions=()):
        for key, value in page.evaluate(READ, [kind, dict(positions)]).items():
            setattr(self, key, value)
        self.values = self.drawn["values"]

    def places(self, name, plot=0):
        """The points (K, 2) of a part of a drawing, from its pixels back to data."""
        axes, parts = self.plots[plot]["axes"], [part for part in self.plots[plot]["parts"] if part["name"] == name]
        assert parts, f"nothing is drawn as {name!r}"
        pixels = [re.findall(r"[ML]([-\d.]+) ([-\d.]+)", part["d"]) for part in parts]
        return np.stack(
            [
                back(axes[key], np.array(pixels[0] if len(parts) == 1 else sum(pixels, []), float)[:, k])
                for k, key in enumerate("xy")
            ],
            -1,
        )

    def pixel(self, axis, values, plot=0):
        axes = self.plots[plot]["axes"][axis]
        low, high, values = (
            np.log10(v) if axes.get("log") else np.asarray(v, float)
            for v in (axes["low"], axes["high"], np.asarray(values, float))
        )
        return axes["from"] + (axes["to"] - axes["from"]) * (values - low) / (high - low)

    def follows(self, name, x, y, plot=0):
        """Hold a curve's pixels against data, where the data are inside ten times the plot."""
        (part,) = [part for part in self.plots[plot]["parts"] if part["name"] == name]
        got = np.array(re.findall(r"[ML]([-\d.]+) ([-\d.]+)", part["d"]), float)
        with np.errstate(divide="ignore"):
            want = np.stack([self.pixel("x", x, plot), self.pixel("y", y, plot)], -1)
        want = np.clip(want, -1e4, 1e4)
        # a hundredth of a pixel: coordinates are written with two decimals
        np.testing.assert_allclose(got, want, atol=0.011)


def back(axis, pixels):
    low, high = (math.log10(axis[key]) if axis.get("log") else axis[key] for key in ("low", "high"))
    values = low + (high - low) * (pixels - axis["from"]) / (axis["to"] - axis["from"])
    return 10**values if axis.get("log") else values


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def short(number):
    """A number as the page writes it."""
    if number == 0 or 1e-3 <= abs(number) < 1e5:
        return f"{float(f'{number:.3g}'):.12g}".replace("-", "−")
    front, exponent = f"{number:.2e}".split("e")
    lead, raised = (
        f"{float(front):g}".replace("-", "−"),
        str(int(exponent)).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")),
    )
    return ("" if lead == "1" else f"{lead}\u00a0×\u00a0") + f"10{raised}"


def hold_rushka(shown):
    n, rank, c, sigma = (shown.values[key] for key in ("n", "rank", "trace", "sigma"))
    assert rank <= n
    drawn, times = shown.drawn, tensor(shown.drawn["times"])
    A = sigma * torch.ones(rank, n, dtype=torch.float64)
    lora = rushka.trace_flow(c, torch.zeros(n, rank, dtype=torch.float64), A, times).residual
    full = c - rushka.full_rank_flow(c, torch.zeros(n, n, dtype=torch.float64), times).diagonal(dim1=-2, dim2=-1).sum(
        -1
    )
    # rounding of the exponents rho t and n t, up to 1e3 where anything is left
    np.testing.assert_allclose(drawn["lora"], lora, rtol=1e-11, atol=1e-290)
    # the package's difference c - Tr X has rounding of c
    np.testing.assert_allclose(drawn["full"], full, rtol=1e-11, atol=1e-14)
    shown.follows("lora", times, lora), shown.follows("full", times, full)
    apart, floor = math.sqrt(rushka.expected_squared_error(n, rank)), rushka.error_floor(n, rank)
    # one formula each: rounding
    np.testing.assert_allclose([drawn["apart"], drawn["least"]], [apart, floor], rtol=1e-14)
    if c == 0:
        assert "nothing to learn" in shown.words and drawn["when"] == {"lora": 0, "full": 0}
        return
    when = float(rushka.time_to_residual(c, A, 0.01 * c))
    # rounding of the larger arsinh over rho
    assert drawn["when"]["lora"] == pytest.approx(when, rel=1e-12)
    after = rushka.full_rank_flow(c, torch.zeros(n, n, dtype=torch.float64), [drawn["when"]["full"]])
    # rounding of the trace, of which one per cent is left
    assert float(c - after.diagonal(dim1=-2, dim2=-1).sum()) == pytest.approx(0.01 * c, rel=1e-11)
    rate = math.hypot(2 * c, float(A.square().sum()))
    for number in (when, drawn["when"]["full"], rate, apart):
        assert short(number) in shown.words
    assert ("so LoRA is faster" if rate > n else "so full rank is faster") in shown.words
    assert "although the rank is full" in shown.words if rank == n else short(floor) in shown.words


def hold_mallada(shown):
    about, drawn, (alpha, delta_w) = shown.settings, shown.drawn, (shown.values["alpha"], shown.values["delta_w"])
    sigma, weight = about["sigma"], about["weight"]
    problem = mallada.TwoLayer(delta_w * tensor(about["W1"]), tensor(about["W2"]), tensor([[sigma, 0.0], [0.0, 0.0]]))
    s1 = float(mallada.growth_rates(problem)[0])
    at = tensor(drawn["at"])
    run = mallada.flow(
        problem,
        alpha * tensor([about["A1"]]),
        alpha * tensor([about["A2"]]),
        torch.cat([tensor([0.0]), at / s1]),
        rtol=1e-12,
    )
    seen, parts = mallada.observe(problem, run), mallada.shares(problem, run)[1:]
    first, second, gap = seen.sigma[1:, 0] / sigma, seen.sigma[1:, 1] / sigma, seen.misalignment[1:]
    # Runge-Kutta steps of s1 h = 0.01 leave about h^4 / 120 per unit of s1 t: 1e-10, twenty times over; 2e-8 is the
    # largest seen
    np.testing.assert_allclose(drawn["first"], first, rtol=1e-7)
    np.testing.assert_allclose(drawn["second"], second, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(drawn["shares"], parts, rtol=1e-7, atol=1e-9)
    # the flow is good to 1e-12 of the factors, and a gap of 1e-15 is an angle of 1e-7; the axis ends at 1e-16
    clear = gap > 1e-15
    np.testing.assert_allclose(np.array(drawn["gap"])[clear], gap[clear], rtol=1e-5)
    shown.follows("first", at, first), shown.follows("second", at, second), shown.follows("share", at, parts[:, 1])
    shown.follows("gap", at, drawn["gap"], plot=1)
    # pixels of the axis' width: the gap again, as it is seen
    np.testing.assert_allclose(shown.places("gap", plot=1)[clear, 1], gap[clear], rtol=3e-3)
    half = s1 * float(mallada.half_time(sigma, weight, (alpha * about["A1"][0]) ** 2))
    # rounding of the arsinh
    assert drawn["half"] == pytest.approx(half, rel=1e-12)
    if delta_w < 1:
        closed = weight * mallada.scalar_product(at / s1, sigma, weight, (alpha * about["A1"][0]) ** 2) / sigma
        # one minus what is left: absolute rounding
        np.testing.assert_allclose(drawn["closed"], closed, rtol=1e-11, atol=1e-14)
        shown.follows("closed", at, closed)
        assert short(half) in shown.words
    else:
        assert (
            drawn["closed"] is None
            and ("At δw = 1 both layers grow at one rate" if delta_w == 1 else "Above δw = 1 layer 2 grows faster")
            in shown.words
        )
    aligned, grown = (float(at[test][0]) if test.any() else None for test in (gap < 0.01, (first - 1).abs() < 0.01))
    assert (drawn["aligned"], drawn["grown"]) == (aligned, grown)
    turned = min(aligned or 20, grown or 20)
    begun = float(at[first >= 0.05][0])
    edges = [0, turned, min(grown or 20, max(turned, begun)), grown or 20, 20]
    bars = {
        part["name"]: (float(part["x"]), float(part["width"]))
        for part in shown.plots[0]["parts"]
        if part["name"] in ("align", "wait", "growth", "plateau")
    }
    for name, low, high in zip(("align", "wait", "growth", "plateau"), edges, edges[1:]):
        left, right = shown.pixel("x", [low, high])
        # bars are not rounded; one thinner than a pixel is left out
        assert name in bars and bars[name] == pytest.approx((left, right - left)) or right - left < 1
    middle = int((first >= 0.5).nonzero()[0])
    assert drawn["middle"] == middle and short(float(gap[middle])) in shown.words
    for part in parts[-1].tolist():
        assert f"{short(100 * part)} %" in shown.words
    assert ("A negative share" in shown.words) == (float(parts[-1].min()) < -1e-3)
    # which of the stories is told, and with which times
    size = float(first[at == aligned][0])
    story = (
        f"the value arrives, at s₁t = {short(grown)}, before"
        if aligned > grown
        else "the phases overlap"
        if size > 0.5
        else f"Alignment: the gap is first below 0.01 at s₁t = {short(aligned)}, when the value is {short(size)} σ."
    )
    assert story in shown.words and f"s₁t = {short(grown)}" in shown.words


def hold_lora_one(shown):
    about, drawn, (kappa, alpha) = shown.settings, shown.drawn, (shown.values["kappa"], shown.values["alpha"])
    Delta = tensor(about["U"]) * tensor([1.0, 1 / kappa])
    problem = lora_one.Regression(tensor(about["X"]), torch.zeros_like(Delta), Delta)
    zero = torch.zeros(2, 2, dtype=torch.float64)
    run = lora_one.descend(
        problem, alpha * tensor(about["B0"]), zero, about["step"], about["step"], about["iterations"]
    )
    assert drawn["at"] == run.at.tolist()
    # sines are absolute to 1e-15; rounding of B grows with the condition number of its columns, up to 1e5
    np.testing.assert_allclose(drawn["gradient"], run.sine_to_gradient, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(drawn["shift"], run.sine_to_shift, rtol=1e-9, atol=1e-13)
    best, where = alignment.best(run.sine_to_gradient, run.at)
    assert (drawn["best"], drawn["where"]) == (pytest.approx(float(best), rel=1e-9), int(where))
    G = lora_one.negative_gradient(problem)
    power, singular = (
        float(alignment.best_sine_exponent(alignment.growth_rates(problem, about["step"]))),
        torch.linalg.svdvals(G),
    )
    apart = float(lora_one.largest_sine(lora_one.leading_left(Delta, 2), lora_one.leading_left(G, 2)))
    # 2 x 2 Gram matrices: rounding times the condition number squared
    assert (drawn["power"], drawn["condition"], drawn["apart"]) == pytest.approx(
        (power, float(singular[0] / singular[1]), apart), rel=1e-12
    )
    (
        shown.follows("gradient", run.at, run.sine_to_gradient),
        shown.follows("apart", [0, about["iterations"]], [apart, apart]),
    )
    large = run.sine_to_shift > 1e-9  # below, the pixels show rounding
    got, want = (
        values[large]
        for values in (shown.places("shift"), torch.stack([run.at.double(), run.sine_to_shift], -1).numpy())
    )
    # a hundredth of a pixel, over four decades in 260 pixels
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=0.02)
    # marks are drawn at the place itself
    np.testing.assert_allclose(shown.places("best")[0], [int(where), float(best)], rtol=2e-3, atol=0.02)
    last, end = float(run.sine_to_gradient[-1]), float(run.sine_to_shift[-1])
    for said in (
        f"falls to {short(float(best))} at iteration {int(where)}",
        "and is still falling"
        if where == about["iterations"]
        else f"at iteration {about['iterations']} it is {short(last)}",
        f"to the shift is then {short(end)}." if end > 1e-11 else "is then",
        f"to those of the gradient is {short(apart)}.",
        f"condition number {short(float(singular[0] / singular[1]))};",
        f"to the power {short(power)}.",
    ):
        assert said in shown.words


def hold_kim(shown):
    about, drawn, (x, y, lam) = shown.settings, shown.drawn, (shown.values[key] for key in ("x", "y", "lam"))
    problem = kim.decoy_family(2, 1, about["a"], about["b"], about["c"], about["h"], lam)
    optimum = kim.landscape.full_objective(problem, problem.solution)

    def above(points):
        B = tensor(points)[..., None]
        return (kim.landscape.objective(problem, B, B.mT) - optimum).numpy()

    # the decoy, its margin and its place, from the certificate
    decoy, _ = problem.spurious_factors()
    least = float(kim.stationarity(problem, *problem.spurious_factors()).least_eigenvalue)
    assert (drawn["trap"], drawn["margin"]) == pytest.approx(
        (float(decoy[1]), problem.margin), rel=1e-12
    )  # one formula each
    assert (drawn["margin"] >= 0) == (
        least > -1e-9
    ) and f"(eigenvalue {short(problem.margin)} of the Hessian)" in shown.words
    # towards the truth: an eigenvector of the Hessian over both factors, by a second difference of the objective
    ahead, B = tensor([[1e-3], [0.0]]), decoy
    rise = sum(
        float(kim.landscape.objective(problem, B + step, (B + step).mT)) for step in (ahead, -ahead)
    ) - 2 * float(kim.landscape.objective(problem, B, B.mT))
    # differences of order 1e-6 of numbers of order one
    assert rise / 2e-6 == pytest.approx(problem.margin, abs=1e-4)
    np.testing.assert_allclose(
        shown.places("decoy"), [[0, -float(decoy[1])], [0, float(decoy[1])]], atol=1e-4
    )  # pixels with two decimals
    np.testing.assert_allclose(shown.places("global"), [[-1, 0], [1, 0]], atol=1e-4)

    # the way down, step by step as the package's own descent takes it
    start, way = tensor([[[x], [y]]]), np.array(drawn["way"])
    for steps in (1, 2, 5, 20, 60):
        if steps < len(way) and steps < drawn["taken"]:
            B = kim.train(problem, start, start.mT, steps=steps, newton=0, tolerance=1e-12).B
            # the same steps: rounding, of which sixty steps away from a saddle make a thousand times more
            np.testing.assert_allclose(way[steps], B[0, :, 0], rtol=1e-12, atol=1e-12)
    shown.follows("way", way[:, 0], way[:, 1])
    end = kim.train(problem, start, start.mT, newton=0)
    # the page stops at a slope of 1e-8, the package at 1e-9 of its size
    np.testing.assert_allclose(drawn["place"], end.B[0, :, 0], atol=1e-7)
    assert drawn["value"] == pytest.approx(float(end.objective - optimum), abs=1e-9)
    assert drawn["end"] == ending(problem, end)[0]
    rise = short(float(end.objective - optimum))
    said = {
        "global": "Descent succeeds",
        "trapped": f"is trapped: it ends at the decoy, {rise} above",
        "saddle": f"stands still on a saddle, {rise} above",
    }[drawn["end"]]
    assert f"From ({short(x)}, {short(y)}): " in shown.words and said in shown.words
    # a trap up to the package's threshold, a saddle beyond it
    assert (f"curves {'upwards' if lam <= problem.threshold else 'downwards'}") in shown.words

    # every cell of the basins
    ends = np.array(drawn["ends"])
    wanted = basins(lam, len(ends), *(about[key] for key in "abch"))
    assert ends.flatten().tolist() == wanted
    if "trapped" in wanted:
        share = 100 * wanted.count("trapped") / len(wanted)
        # two digits on the page
        assert float(re.search(r"Of the starts on a grid ([\d.]+) % end there", shown.words)[1]) == pytest.approx(
            share, abs=0.5 if share >= 10 else 0.05
        )
        cells = np.rint(np.abs(shown.places("basin")) * len(ends) / 1.4 - 0.5).astype(int)
        assert sorted(map(tuple, cells)) == sorted(
            4 * [(i, j) for j, i in np.argwhere(ends == "trapped").tolist()]
        )  # one dot per quadrant

    # level lines: interpolated between grid points, so wrong by an eighth of the second difference, and by a twentieth
    # of a pixel
    spacing, unit = 2.8 / 56, 2.8 / abs(shown.plots[0]["axes"]["x"]["to"] - shown.plots[0]["axes"]["x"]["from"])
    assert drawn["levels"] == pytest.approx(
        [float(4 * above([0.0, 0.0])) * ((k + 0.5) / 10) ** 2 for k in range(10)], rel=1e-12
    )
    for level, part in zip(
        drawn["levels"], [part for part in shown.plots[0]["parts"] if part["name"] == "level"], strict=True
    ):
        pixels = np.array(re.findall(r"[ML]([-\d.]+) ([-\d.]+)", part["d"]), float)
        points = np.stack([back(shown.plots[0]["axes"][key], pixels[:, k]) for k, key in enumerate("xy")], -1)
        around = [(above(points + step), above(points - step)) for step in spacing * np.eye(2)]
        bend = np.max([abs(up + down - 2 * above(points)) for up, down in around], 0) / 8
        slope = np.sum([abs(up - down) for up, down in around], 0) / (2 * spacing)
        assert len(points) > 20 and (abs(above(points) - level) <= 1.1 * bend + 0.06 * unit * slope + 1e-9).all()


@functools.cache
def basins(lam, cells, a, b, c, h):
    """Where the starts at the centres of a grid on the quadrant end, by the package's descent."""
    problem = kim.decoy_family(2, 1, a, b, c, h, lam)
    middle = 1.4 * (np.arange(cells) + 0.5) / cells
    B0 = tensor(np.stack(np.meshgrid(middle, middle), -1).reshape(-1, 2).tolist())[..., None]
    return ending(problem, kim.train(problem, B0, B0.mT, newton=0))


def ending(problem, run):
    """Where each start of a run stands, in the page's words."""
    places, decoy = run.B[..., 0].abs(), problem.spurious_factors()[0][:, 0]
    near = [(places - tensor(point)).norm(dim=-1) < 1e-3 for point in ([1.0, 0.0], decoy.tolist(), [0.0, 0.0])]
    stable = problem.margin >= 0
    return [
        "global" if a else "trapped" if b and stable else "saddle" if b or c else "under way" for a, b, c in zip(*near)
    ]


HOLD = {"rushka": hold_rushka, "mallada": hold_mallada, "lora_one": hold_lora_one, "kim": hold_kim}


@pytest.mark.parametrize("kind, positions", [(kind, positions) for kind in KINDS for positions in STATES[kind]])
def test_what_is_drawn_is_what_the_package_computes(page, kind, positions):
    HOLD[kind](Shown(page, kind, default(page, kind) | positions))


def default(page, kind):
    """Positions of the sliders when the page opens."""
    return page.evaluate(
        "kind => Object.fromEntries([...document.querySelectorAll(`[data-explore=${kind}] input`)].map(node => "
        "[node.name, node.defaultValue]))",
        kind,
    )


WRONG = [
    ("rushka", "explore_riccati.js", "Math.hypot(2 * c, N), above", "Math.hypot(c, N), above"),
    ("rushka", "explore_rushka.js", "n * rank * sigma ** 2", "rank * sigma ** 2"),
    ("rushka", "explore_axes.js", "(along(value) - along(low))", "(along(value) - along(low) * 1.001)"),
    ("mallada", "explore_mallada.js", "+ c * B2[i] * a", ""),
    ("mallada", "explore_mallada.js", "2 * b[i][k] + 2 * c[i][k]", "2 * b[i][k] + 1.999 * c[i][k]"),
    ("mallada", "explore_mallada.js", "(one - two) / 4", "(one + two) / 4"),
    ("lora_one", "explore_lora_one.js", "G = product(Sigma, Delta)", "G = Delta"),
    ("lora_one", "explore_lora_one.js", "2 * rates[0] + rates[1]", "2 * rates[0]"),
    ("kim", "explore_kim.js", "c * y * y - lam,", "c * y * y,"),
    ("kim", "explore_kim.js", "+ lam) * y * y", ") * y * y"),
    ("kim", "explore_kim.js", "part * (at(r) - at(p))", "0.5 * (at(r) - at(p))"),
    ("lora_one", "explore_lora_one.js", "where === iterations", "where !== iterations"),
    ("kim", "explore_kim.js", "(100 * share, 2)", "(50 * share, 2)"),
    ("mallada", "explore_mallada.js", "> 0.5 ? `The start", "> 1e-9 ? `The start"),
]


@pytest.mark.parametrize("kind, script, right, wrong", WRONG)
def test_a_wrong_formula_is_caught(site, root, browser, tmp_path, kind, script, right, wrong):
    (tmp_path / "_static").mkdir(), (tmp_path / "notebooks").mkdir()
    for path in site.glob("_static/explore*"):
        shutil.copy(path, tmp_path / "_static")
    parts = re.findall(
        r'<div class="lb-explore".*?</div>|<link[^>]*explore.css">|<script[^>]*explore\w*.js"></script>',
        (site / "notebooks/explore.html").read_text(),
        re.S,
    )
    assert len(parts) == len(KINDS) + 8
    (tmp_path / "notebooks/explore.html").write_text(
        "<!DOCTYPE html><meta charset=utf-8><title>t</title>" + "".join(parts)
    )
    text = (root / "book/_static" / script).read_text()  # with its blanks
    assert text.count(right) == 1
    (tmp_path / "_static" / script).write_text(text.replace(right, wrong))
    for page in opened(browser, (tmp_path / "notebooks/explore.html").as_uri()):
        shown = Shown(page, kind)  # the page still draws: a script that stops would raise here
    with pytest.raises(AssertionError):
        HOLD[kind](shown)


EVERY = """
kind => {
  const mount = document.querySelector(`[data-explore="${kind}"]`), form = mount.querySelector("form"), seen = {};
  const redraw = () => form.dispatchEvent(new Event("input", {bubbles: true}));
  for (const slider of form.querySelectorAll("input")) {
    form.querySelectorAll("input").forEach(node => (node.value = node.defaultValue));
    seen[slider.name] = [];
    for (slider.value = 0; ; slider.stepUp()) {
      redraw();
      seen[slider.name].push({shown: slider.getAttribute("aria-valuetext"), n: JSON.parse(mount.dataset.drawn).values.n,
        words: mount.querySelector(".lb-said").textContent,
        paths: [...mount.querySelectorAll("path")].map(node => node.getAttribute("d").slice(0, 2000))});
      if (slider.value === slider.max) break;
    }
  }
  form.querySelectorAll("input").forEach(node => (node.value = node.defaultValue));
  redraw();
  return seen;
}
"""


@pytest.mark.parametrize("kind", KINDS)
def test_at_every_position_of_every_slider_there_are_numbers_and_words(page, kind):
    seen = page.evaluate(EVERY, kind)
    values = Shown(page, kind).settings["values"]
    assert sorted(seen) == sorted(values)
    for name, states in seen.items():
        assert [state["shown"] for state in states] == [
            short(value) if name != "rank" else short(min(value, states[0]["n"])) for value in values[name]
        ]
        for state in states:
            assert len(state["words"]) > 40 and not re.search(
                r"NaN|Infinity|undefined|null|–", state["words"] + " ".join(state["paths"])
            )


@pytest.mark.parametrize("kind", KINDS)
def test_the_keyboard_moves_a_slider_and_the_words_follow(page, kind):
    Shown(page, kind, default(page, kind))
    mount = page.locator(f'[data-explore="{kind}"]')
    for slider in mount.locator("input").all():
        slider.focus()
        for key, position in (
            ("Home", "0"),
            ("ArrowRight", "1"),
            ("ArrowUp", "2"),
            ("ArrowLeft", "1"),
            ("End", slider.get_attribute("max")),
        ):
            before = mount.get_attribute("data-drawn")
            page.keyboard.press(key)
            assert slider.input_value() == position
            assert mount.get_attribute("data-drawn") != before
            assert (
                slider.get_attribute("aria-valuetext")
                == mount.locator(f'output[for="{slider.get_attribute("id")}"]').inner_text()
            )
    # every control is reached by the tab key alone
    mount.locator("input").first.focus()
    reached = []
    for _ in range(mount.locator("input, button").count()):
        reached.append(page.evaluate("() => document.activeElement.name || document.activeElement.type"))
        page.keyboard.press("Tab")
    assert reached == [*default(page, kind), "reset"]
    # and the button takes everything back
    mount.locator("button").press("Enter")
    page.wait_for_function(
        "mount => [...mount.querySelectorAll('input')].every(node => node.value === node.defaultValue)",
        arg=mount.element_handle(),
    )
    start = Shown(page, kind).settings["start"]
    page.wait_for_function(
        "([mount, start]) => Object.entries(start).every(([key, value]) => "
        "JSON.parse(mount.dataset.drawn).values[key] === value)",
        arg=[mount.element_handle(), start],
    )


def click_map(page, x, y, tap=False):
    """Press the place (x, y) of the landscape."""
    svg = page.locator('[data-explore="kim"] svg[data-axes]')
    svg.scroll_into_view_if_needed()
    box, axes = svg.bounding_box(), json.loads(svg.get_attribute("data-axes"))
    unit = box["width"] / float(svg.get_attribute("viewBox").split()[2])
    place = [
        box[side]
        + unit * (axis["from"] + (axis["to"] - axis["from"]) * (value - axis["low"]) / (axis["high"] - axis["low"]))
        for side, axis, value in (("x", axes["x"], x), ("y", axes["y"], y))
    ]
    (page.touchscreen.tap if tap else page.mouse.click)(*place)


@pytest.mark.parametrize("tap", [False, True])
def test_a_click_or_a_tap_on_the_map_starts_descent_there(address, browser, tap):
    options = dict(viewport={"width": PHONE, "height": 800}, has_touch=True) if tap else {}
    for page in opened(browser, address, **options):
        for x, y, end in (
            (0.1, 1.0, "trapped"),
            (-0.75, 0.2, "global"),
            (0.0, 0.5, "trapped"),
            (0.0, 0.0, "saddle"),
            (1.39, -1.39, "global"),
        ):
            click_map(page, x, y, tap)
            shown = Shown(page, "kim")
            # the sliders stand at multiples of 0.05 up to 1.3
            assert abs(shown.values["x"] - x) < 0.1 and abs(shown.values["y"] - y) < 0.1
            assert shown.drawn["end"] == end
            hold_kim(shown)
        before = Shown(page, "kim").values
        click_map(page, -1.5, 0.3, tap)  # beside the axes
        assert Shown(page, "kim").values == before


def test_a_finger_moves_a_slider(address, browser):
    for page in opened(browser, address, viewport={"width": PHONE, "height": 800}, has_touch=True):
        slider = page.locator("#explore-lora_one-alpha")
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        assert box["height"] >= 24  # WCAG 2.2 AA: size of a target
        page.touchscreen.tap(box["x"] + 0.95 * box["width"], box["y"] + box["height"] / 2)
        shown = Shown(page, "lora_one")
        assert shown.values["alpha"] > 0.1
        hold_lora_one(shown)


def test_resizing_while_a_slider_moves_keeps_the_drawing_inside_the_page(address, browser):
    for page in opened(browser, address):
        widths = []
        for position, width in enumerate((1280, PHONE, 700, 320, 1600)):
            page.set_viewport_size({"width": width, "height": 800})
            for kind in KINDS:
                Shown(page, kind, {name: position for name in list(default(page, kind))[:1]})
            page.wait_for_timeout(100)
            assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
            sizes = page.evaluate(
                "() => [...document.querySelectorAll('svg[data-axes]')].map(svg => [svg.viewBox.baseVal.width, "
                "svg.getBoundingClientRect().width])"
            )
            # one SVG unit is one pixel, so that the text keeps its size
            assert all(unit == pytest.approx(pixels, abs=1) for unit, pixels in sizes)
            widths.append(sizes[0][0])
        for kind in KINDS:
            HOLD[kind](Shown(page, kind))
        assert len(set(widths)) > 3


COLOURS = """
() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = rgb => { const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(rgb[0]) + 0.7152 * f(rgb[1]) + 0.0722 * f(rgb[2]); };
  const ground = node => { for (; node; node = node.parentElement) {
    const c = parts(getComputedStyle(node).backgroundColor); if (c.length < 4 || c[3] > 0.5) return c;
    } return [255, 255, 255]; };
  const contrast = (node, colour) => { const [a, b] = [light(parts(colour)), light(ground(node))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); };
  const all = (selector, key) => [...document.querySelectorAll(selector)]
    .filter(node => node.textContent.trim() || key === "stroke")
    .map(node => [contrast(node, getComputedStyle(node)[key]), node.dataset.name || node.textContent]);
  return {
    texts: [...all(".lb-explore svg text", "fill"),
      ...all(".lb-explore label, .lb-explore output, .lb-explore button, .lb-said", "color")],
    lines: all(".lb-explore .lb-line, .lb-explore .lb-mark", "stroke"),
    dashes: [...document.querySelectorAll("svg[data-axes]")].map(svg => [...svg
      .querySelectorAll(".lb-line:not(.lb-contour, [data-name=way])")]
      .map(node => getComputedStyle(node).strokeDasharray)),
  };
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark", "no-preference"])
def test_texts_and_lines_stand_out_and_no_curve_is_told_apart_by_colour_alone(address, browser, scheme):
    for page in opened(browser, address, color_scheme=scheme):
        page.wait_for_timeout(100)
        found = page.evaluate(COLOURS)
    assert len(found["texts"]) > 60 and len(found["lines"]) > 15
    assert [entry for entry in found["texts"] if entry[0] < READABLE] == []
    assert [entry for entry in found["lines"] if entry[0] < VISIBLE] == []
    assert all(len(dashes) == len(set(dashes)) for dashes in found["dashes"])


NAMED = """
() => [...document.querySelectorAll(".lb-panels > div")].map(panel => {
  const svg = panel.querySelector("svg[data-axes]"), {x, y} = JSON.parse(svg.dataset.axes),
    box = svg.getBoundingClientRect();
  const inside = node => { const r = node.getBoundingClientRect();
    return r.left - box.left < x.to - 1 && r.right - box.left > x.from + 1
      && r.top - box.top < y.from - 1 && r.bottom - box.top > y.to + 1; };
  const drawn = [...svg.querySelectorAll("[data-name]:not(.lb-phase, .lb-contour)")]
    .map(node => node.getAttribute("class"));
  const key = [...panel.querySelectorAll(".lb-key li")];
  return {covering: [...svg.querySelectorAll("text")].filter(inside).map(node => node.textContent),
    drawn: [...new Set(drawn)].sort(),
    key: key.map(entry => entry.querySelector("path").getAttribute("class"))
      .filter(kind => !kind.includes("lb-phase")).sort(),
    texts: key.map(entry => entry.textContent),
    wide: key.every(entry => entry.getBoundingClientRect().right <= panel.getBoundingClientRect().right + 1)};
})
"""


@pytest.mark.parametrize("width", [1280, PHONE])
def test_no_text_stands_on_a_curve_and_all_that_is_drawn_is_named_below(address, browser, width):
    for page in opened(browser, address, viewport={"width": width, "height": 800}):
        for positions in (
            {},
            {name: LOW for kind in KINDS for name in default(page, kind)},
            {name: HIGH for kind in KINDS for name in default(page, kind)},
        ):
            for kind in KINDS:
                Shown(page, kind, {name: value for name, value in positions.items() if name in default(page, kind)})
            for panel in page.evaluate(NAMED):
                assert panel["covering"] == [] and panel["wide"]
                drawn = [
                    kind for kind in panel["drawn"] if kind != "lb-dots" or kind in panel["key"]
                ]  # no dots, no name
                assert drawn == panel["key"] and all(panel["texts"]) and len(set(panel["texts"])) == len(panel["texts"])


def test_a_letter_below_the_line_is_a_subscript(page):
    texts = page.locator(".lb-explore").all_inner_texts()
    assert not any("_" in text for text in texts)
    assert page.locator(".lb-explore label sub").all_inner_texts() == ["w", "W₁", "W₂"]


def test_every_slider_has_a_name_and_a_value_and_every_drawing_says_what_it_is(page):
    for kind in KINDS:
        mount = page.locator(f'[data-explore="{kind}"]')
        assert mount.get_attribute("role") == "group" and mount.get_attribute("aria-label")
        assert mount.locator('[role="status"][aria-live="polite"]').count() == 1
        for slider in mount.locator("input").all():
            assert slider.get_attribute("type") == "range" and slider.get_attribute("aria-valuetext")
            label = mount.locator(f'label[for="{slider.get_attribute("id")}"]')
            assert len(label.inner_text()) > 5
        for svg in mount.locator("svg[data-axes]").all():
            assert svg.get_attribute("role") == "img" and len(svg.get_attribute("aria-label")) > 40


@pytest.mark.parametrize("script", [False, True])
def test_without_script_the_fixed_figures_and_the_text_stand_there(address, browser, script):
    for page in opened(browser, address, java_script_enabled=script):
        figures, mounts = page.locator("figure.lb-row"), page.locator(".lb-explore")
        assert figures.count() == mounts.count() == len(KINDS)
        assert [figure.is_visible() for figure in figures.all()] == [not script] * len(KINDS)
        assert [bool(mount.inner_text().strip()) for mount in mounts.all()] == [script] * len(KINDS)
        text = page.locator("article").inner_text()
        for words in (
            "Raise the start’s size: LoRA overtakes",
            "Lower the init scale",
            "the sine dips" if not script else "The sine to the gradient falls",
            "above and below, descent is trapped",
        ):
            assert words in text


def test_numbers_that_are_not_those_of_the_sliders_are_folded_with_their_figure(page):
    """The table after a picture belongs to its fixed figure: it may not stand open beside a sentence that says more."""
    folds = page.locator("details.lb-fixed")
    assert folds.count() == len(KINDS)
    for fold in folds.all():
        assert fold.locator("figure.lb-row").count() == fold.locator("table").count() == 1
        assert not fold.locator("table").is_visible()
        fold.locator("summary").press("Enter")
        assert fold.locator("table").is_visible() and fold.locator("figure.lb-row").is_visible()
        fold.locator("summary").press("Enter")
    assert not any(table.is_visible() for table in page.locator("article table").all())


def test_at_its_defaults_the_sine_dips_and_returns(page):
    drawn = Shown(page, "lora_one").drawn
    assert drawn["best"] < drawn["apart"] / 10 and abs(drawn["gradient"][-1] - drawn["apart"]) < 0.01


def test_on_paper_the_sliders_values_and_the_drawings_stay(address, browser):
    for page in opened(browser, address):
        page.emulate_media(media="print")
        assert not any(slider.is_visible() for slider in page.locator(".lb-explore input, .lb-explore button").all())
        for part in (".lb-explore output", ".lb-explore svg[data-axes]", ".lb-said"):
            assert all(node.is_visible() for node in page.locator(part).all())


def test_each_script_is_small_plain_and_asks_no_other_place(root):
    scripts = sorted((root / "book/_static").glob("explore*.js"))
    assert {path.stem for path in scripts} == {
        "explore",
        "explore_axes",
        "explore_riccati",
        *(f"explore_{kind}" for kind in KINDS),
    }
    for path in scripts:
        text = path.read_text()
        assert len(text.encode()) < LARGEST
        assert not re.search(
            r"https?://(?!www\.w3\.org/2000/svg)|\bimport\b|\bexport\b|\bfetch\(|XMLHttpRequest|innerHTML", text
        )
        assert f"_static/{path.name}" in (root / "notebooks/explore.md").read_text()


GHOSTS = """kind => [...document.querySelectorAll(`[data-explore="${kind}"] .lb-panels > div`)].map(panel => ({
  now: panel.querySelector(".lb-first[data-name]").getAttribute("d"),
  before: [...panel.querySelectorAll('[data-name="ghost"]')].map(node => node.getAttribute("d")),
  key: [...panel.querySelectorAll(".lb-key li")].map(entry => entry.textContent)}))"""
MOVED = dict(rushka="sigma", mallada="alpha", lora_one="alpha", kim="y")


@pytest.mark.parametrize("kind", KINDS)
def test_the_curve_before_the_last_move_stays_as_a_ghost(address, browser, kind):
    for page in opened(browser, address):
        seen = lambda: page.evaluate(GHOSTS, kind)
        slider = page.locator(f'[data-explore="{kind}"] input[name="{MOVED[kind]}"]')
        first = seen()
        assert not any(panel["before"] for panel in first)
        for _ in range(2):  # each press of a key is a move
            before = seen()
            slider.press("ArrowRight")
            after = seen()
            assert [panel["before"] for panel in after] == [[panel["now"]] for panel in before]
            assert all(panel["now"] != panel["before"][0] for panel in after)
            assert all("before the last move" in panel["key"] for panel in after)
        held = seen()
        for position in ("3", "4", "5"):  # a drag is one move, however many positions it passes
            slider.evaluate(
                "(node, to) => { node.value = to; node.dispatchEvent(new Event('input', {bubbles: true})); }", position
            )
        assert [panel["before"] for panel in seen()] == [[panel["now"]] for panel in held]
        page.locator(f'[data-explore="{kind}"] button').press("Enter")
        page.wait_for_function("kind => !document.querySelector(`[data-explore=${kind}] [data-name=ghost]`)", arg=kind)
        assert seen() == first


@pytest.mark.parametrize("kind", CHAPTER)
def test_an_explorable_stands_in_its_chapter_and_draws_what_the_page_explore_draws(site, browser, page, kind):
    Shown(page, kind, default(page, kind))
    wanted = Shown(page, kind)
    for chapter in opened(browser, (site / f"notebooks/{CHAPTER[kind]}.html").as_uri()):
        shown = Shown(chapter, kind)
        assert shown.settings == wanted.settings and shown.words == wanted.words
        HOLD[kind](shown)
        fold = chapter.locator("details.lb-fixed")
        assert fold.locator("figure.lb-row").count() == fold.locator("table").count() == 1
        link = chapter.locator('article a[href="explore.html"]').first
        sentence, mount = link.bounding_box(), chapter.locator(".lb-explore").bounding_box()
        assert 0 < mount["y"] - sentence["y"] < 250, "it stands beside its sentence"


@pytest.mark.parametrize("kind", CHAPTER)
def test_without_script_a_chapter_keeps_the_fixed_figure_and_the_table(site, browser, kind):
    for chapter in opened(browser, (site / f"notebooks/{CHAPTER[kind]}.html").as_uri(), java_script_enabled=False):
        mount = chapter.locator(".lb-explore")
        assert mount.count() == 1 and mount.inner_text().strip() == ""
        figure = chapter.locator("xpath=//div[contains(@class, 'lb-explore')]/../preceding-sibling::*[1]//figure")
        table = chapter.locator("xpath=//div[contains(@class, 'lb-explore')]/../following-sibling::*[1]//table")
        assert figure.is_visible() and table.is_visible()


@pytest.mark.parametrize("kind", CHAPTER)
def test_a_chapters_own_scripts_are_small(site, kind):
    text = (site / f"notebooks/{CHAPTER[kind]}.html").read_text()
    names = re.findall(r'<script[^>]*_static/(explore\w*\.js)"', text)
    assert len(names) == len(set(names)) >= 3
    assert sum((site / "_static" / name).stat().st_size for name in names) < MOST


def test_a_script_loses_its_comments_and_blanks_and_nothing_else():
    text = '/* words, with "quotes" */\n  const a = b + {c: 1}; // why\n\n  // a line\n'
    text += '  say("a // b, c", d, `x = ${e}`);\n'
    assert offline.lean(text) == 'const a=b +{c:1};\nsay("a // b, c", d, `x = ${e}`);\n'
