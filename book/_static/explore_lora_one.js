/* LoRA-One: linear regression, B of two columns, A = 0: how B's columns turn towards the gradient's and away again.

   Gradient descent B <- B + eta J A^T, A <- A + eta B^T J with J = Sigma (Delta - B A), Delta = U diag(1, 1/kappa).
   G = Sigma Delta.  Drawn is the sine of the largest angle between B's columns and those of G, and of Delta. */
"use strict";

Explore.start("lora_one", ({start, values, X, U, B0, step, iterations}) => {
  const sum = (x, y) => x.reduce((total, value, k) => total + value * y[k], 0);
  const flip = M => M[0].map((_, k) => M.map(row => row[k]));
  const product = (M, K) => { const columns = flip(K); return M.map(row => columns.map(column => sum(row, column))); };
  const moved = (M, K, by) => M.map((row, i) => row.map((value, k) => value + by * K[i][k]));
  const Sigma = product(flip(X), X).map(row => row.map(value => value / X.length));

  /** Orthonormal columns with the span of two columns; projected twice, so that near ones stay apart. */
  function basis(M) {
    let [x, y] = flip(M);
    const unit = v => { const size = Math.sqrt(sum(v, v)); return v.map(value => value / size); };
    x = unit(x);
    for (let pass = 0; pass < 2; pass++) { const along = sum(x, y); y = unit(y.map((value, k) => value - along * x[k])); }
    return flip([x, y]);
  }

  /** Singular values of a matrix of two columns, from its Gram matrix. */
  function singular(M) {
    const [[a, b], [, d]] = product(flip(M), M), middle = (a + d) / 2, top = middle + Math.hypot((a - d) / 2, b);
    return [Math.sqrt(top), Math.sqrt(Math.max(0, (a * d - b * b) / top))];
  }

  /** Sine of the largest angle between the spans of orthonormal Q and K. */
  const sine = (Q, K) => Math.min(1, singular(moved(Q, product(K, product(flip(K), Q)), -1))[0]);

  function draw({kappa, alpha}, [frame]) {
    const Delta = U.map(([a, b]) => [a, b / kappa]), G = product(Sigma, Delta), toG = basis(G), toDelta = basis(Delta);
    let B = B0.map(row => row.map(value => alpha * value)), A = [[0, 0], [0, 0]];
    const at = [], gradient = [], shift = [];
    for (let k = 0; k <= iterations; k++) {
      const Q = basis(B);
      at.push(k), gradient.push(sine(Q, toG)), shift.push(sine(Q, toDelta));
      const J = product(Sigma, moved(Delta, product(B, A), -1));
      [B, A] = [moved(B, product(J, flip(A)), step), moved(A, product(flip(B), J), step)];
    }
    const best = Math.min(...gradient), where = gradient.indexOf(best), apart = sine(toDelta, toG);
    const [top, low] = singular(G), rates = [top, low].map(s => Math.log1p(step * s));
    const power = 2 * rates[1] / (2 * rates[0] + rates[1]);

    const plot = Axes.plot(frame, {
      title: "Largest sine between columns", x: {low: 0, high: iterations, name: "iterations"}, y: {low: 1e-4, high: 1, log: true, name: "sine"},
      about: "Sines against iterations on a logarithmic axis: to the gradient's columns solid, to the shift's columns dashed; a square marks the best alignment to the gradient.",
    });
    plot.line(at, gradient, "gradient", "first", "B to the gradient");
    plot.line(at, shift, "shift", "second", "B to the shift");
    plot.line([0, iterations], [apart, apart], "apart", "third", "gradient to shift");
    plot.mark(where, best, "square", "best", "best alignment");

    const s = Axes.short, last = gradient.at(-1), end = shift.at(-1);
    const words = `The sine to the gradient falls to ${s(best)} at iteration ${where}` + (where === iterations ? ", and is still falling. " : `; at iteration ${iterations} it is ${s(last)}. `)
      + `The sine to the shift is then ${end < 1e-12 ? "below 10⁻¹²" : s(end)}. In the end B has the columns of the shift, whose sine to those of the gradient is ${s(apart)}. `
      + `G has condition number ${s(top / low)}; in the limit of small starts, which for a large κ lies beyond this slider, the best sine falls like α to the power ${s(power)}.`;
    return {words, at, gradient, shift, best, where, apart, power, condition: top / low};
  }

  return {
    name: "Alignment to the gradient, and the return", draw,
    sliders: [
      {name: "kappa", label: "condition number κ of the shift", values: values.kappa, start: start.kappa},
      {name: "alpha", label: "init scale α (standard deviation of an entry of B)", values: values.alpha, start: start.alpha},
    ],
  };
});
