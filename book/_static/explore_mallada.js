/* Xu et al., as Mallada tells it: two frozen layers, an adapter of rank one on each, a shift sigma e1 e1^T.

   The flow of (1/2) ||shift - F||^2, F = (W2 + B2 A2)(W1 + B1 A1) - W2 W1, by Runge-Kutta steps of order four;
   dashed, the closed form of the growth phase when only layer 1 learns.  Time is s1 t, s1 = sigma sigma_W2. */
"use strict";

Explore.start("mallada", ({start, values, W1, W2, A1, A2, sigma, weight}) => {
  const HORIZON = 20, STEPS = 2000, EVERY = 10, h = HORIZON / STEPS;
  const sum = (x, y) => x.reduce((total, value, k) => total + value * y[k], 0);
  const times = (M, x) => M.map(row => sum(row, x));
  const timesT = (M, x) => M[0].map((_, k) => M.reduce((total, row, i) => total + row[k] * x[i], 0));
  const s1 = sigma * weight;

  /** F and what the velocity needs on the way: p = W2 B1, q = W1^T A2, c = A2 B1. */
  function update([B1, A1, B2, A2], V1) {
    const p = times(W2, B1), q = timesT(V1, A2), c = sum(A2, B1);
    return {p, q, c, F: p.map((value, i) => A1.map((a, j) => value * a + B2[i] * q[j] + c * B2[i] * a))};
  }

  function velocity(state, V1) {
    const [B1, A1, B2, A2] = state, {p, q, c, F} = update(state, V1);
    const R = F.map((row, i) => row.map((value, j) => ((i || j ? 0 : sigma) - value) / s1));
    const ra = times(R, A1), rb = timesT(R, B2), e = sum(B2, ra);
    return [
      timesT(W2, ra).map((value, k) => value + A2[k] * e), timesT(R, p).map((value, k) => value + c * rb[k]),
      times(R, q).map((value, k) => value + c * ra[k]), times(V1, rb).map((value, k) => value + B1[k] * e),
    ];
  }

  function step(state, V1) {
    const ahead = (slope, by) => state.map((x, i) => x.map((value, k) => value + by * slope[i][k]));
    const a = velocity(state, V1), b = velocity(ahead(a, h / 2), V1), c = velocity(ahead(b, h / 2), V1), d = velocity(ahead(c, h), V1);
    return state.map((x, i) => x.map((value, k) => value + h / 6 * (a[i][k] + 2 * b[i][k] + 2 * c[i][k] + d[i][k])));
  }

  /** Singular values of a 2 x 2 matrix, and 1 - cos of its first pair (u1; v1) to (e1; e1). */
  function spectrum([[a, b], [c, d]]) {
    const [E, D, G, H] = [a + d, a - d, c + b, c - b].map(value => value / 2);
    const Q = Math.hypot(E, H), R = Math.hypot(D, G), one = Math.atan2(G, D), two = Math.atan2(H, E);
    const [left, right] = [(one + two) / 4, (one - two) / 4]; // half the angles of u1 and v1 to e1
    return {first: Q + R, second: Math.abs(Q - R),
      gap: Math.min(Math.sin(left) ** 2 + Math.sin(right) ** 2, Math.cos(left) ** 2 + Math.cos(right) ** 2)};
  }

  function draw({alpha, delta_w}, [left, right]) {
    const V1 = W1.map(row => row.map(value => delta_w * value)), scaled = A => A.map(value => alpha * value);
    let state = [W1.map(() => 0), scaled(A1), W2.map(() => 0), scaled(A2)];
    const at = [], first = [], second = [], gap = [], shares = [], closed = [];
    const c = sigma / weight, N = (alpha * A1[0]) ** 2;
    for (let k = 1; k <= STEPS; k++) {
      state = step(state, V1);
      if (k % EVERY) continue;
      const {p, q, c: both, F} = update(state, V1), seen = spectrum(F), t = k * h;
      at.push(t), first.push(seen.first / sigma), second.push(seen.second / sigma), gap.push(seen.gap);
      shares.push([p[0] * state[1][0], state[2][0] * q[0], both * state[2][0] * state[1][0]].map(part => part / sigma));
      closed.push(1 - Riccati.residual(c, N, t * weight / sigma) / c);
    }
    const reach = test => { const k = at.findIndex((_, i) => test(i)); return k < 0 ? null : at[k]; };
    const aligned = reach(k => gap[k] < 0.01), begun = reach(k => first[k] >= 0.05), grown = reach(k => Math.abs(first[k] - 1) < 0.01);
    const half = Riccati.timeTo(c, N, c / 2) * sigma / weight, parts = shares.at(-1);
    const end = grown ?? HORIZON, turned = Math.min(aligned ?? HORIZON, end);
    const edges = [0, turned, Math.min(end, Math.max(turned, begun ?? HORIZON)), end, HORIZON];

    const x = {low: 0, high: HORIZON, name: "time s₁t"}, names = ["align", "wait", "growth", "plateau"];
    const value = Axes.plot(left, {title: "Singular values of F, in units of σ", bar: true, x, y: {low: -0.1, high: 1.2, name: "value / σ"},
      about: "Singular values of F against time: the first solid, the second dotted, the closed form dashed, the share that layer 2 learns dash-dotted."});
    value.line(at, first, "first", "first", "first");
    value.line(at, second, "second", "third", "second");
    value.line(at, shares.map(part => part[1]), "share", "fourth", "layer 2’s share of the shift");
    if (delta_w < 1) value.line(at, closed, "closed", "theory", "closed form of the first");
    value.phases(edges, names);
    const turn = Axes.plot(right, {title: "Alignment gap 1 − cos", bar: true, x, y: {low: 1e-16, high: 1, log: true, name: "1 − cos"},
      about: "The gap between the first singular pair of F and that of the shift, against time, on a logarithmic axis; a square marks the time of half the value."});
    turn.line(at, gap, "gap", "first", "gap");
    const middle = first.findIndex(size => size >= 0.5);
    if (middle >= 0) turn.mark(at[middle], gap[middle], "square", "half", "half of the value");
    turn.phases(edges, names);

    const s = Axes.short;
    const when = grown === null ? `The singular value has not arrived by s₁t = ${HORIZON}.`
      : aligned === null || aligned > grown ? `The start is so large that the value arrives, at s₁t = ${s(grown)}, before the gap is below 0.01: there is no alignment phase of its own.`
        : first[at.indexOf(aligned)] > 0.5 ? `The start is so large that the phases overlap: half of the value is learnt before the gap is below 0.01, at s₁t = ${s(aligned)}. The value is first within 1 % of σ at s₁t = ${s(grown)}.`
          : `Alignment: the gap is first below 0.01 at s₁t = ${s(aligned)}, when the value is ${s(first[at.indexOf(aligned)])} σ. Growth: the value is first within 1 % of σ at s₁t = ${s(grown)}.`;
    const percent = part => `${s(100 * part)} %`;
    const words = `${when} ${middle >= 0 ? `When half of the value is learnt, the gap is ${s(gap[middle])}. ` : ""}`
      + `At s₁t = ${HORIZON} layer 1 carries ${percent(parts[0])} of the shift, layer 2 ${percent(parts[1])}, and the product of both ${percent(parts[2])}. `
      + (Math.min(...parts) < -1e-3 ? "A negative share is a part that the others make up for. " : "")
      + (delta_w < 1 ? `The closed form puts half of the value at s₁t = ${s(half)}.` : delta_w === 1 ? "At δ_w = 1 both layers grow at one rate, and the draw decides."
        : "Above δ_w = 1 layer 2 grows faster: it leads from a small enough start; from a larger one the draw decides too.");
    return {words, at, first, second, gap, shares, closed: delta_w < 1 ? closed : null, aligned, grown, half, middle, edges};
  }

  return {
    name: "Two phases: alignment, then growth", panels: 2, draw,
    sliders: [
      {name: "alpha", label: "init scale α (standard deviation of an entry of A)", values: values.alpha, start: start.alpha},
      {name: "delta_w", label: "δ_w, the ratio of the weights' sizes σ_W₁ / σ_W₂", values: values.delta_w, start: start.delta_w},
    ],
  };
});
