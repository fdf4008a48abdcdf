/* Rushka and Klabjan: the residual of the trace-squared loss under LoRA's flow and under the full-rank flow.

   From B = 0 and ||A||^2 = N LoRA's residual has the closed form (313); the full-rank one is c exp(-n t), (20).
   N is put at its mean n r sigma^2. */
"use strict";

Explore.start("rushka", ({start, values}) => {
  const times = Array.from({length: 211}, (_, k) => 10 ** (-4 + k / 30));

  function draw({n, rank, trace: c, sigma}, [frame]) {
    const N = n * rank * sigma ** 2, rate = Math.hypot(2 * c, N), left = 0.01;
    const lora = times.map(t => Riccati.residual(c, N, t)), full = times.map(t => c * Math.exp(-n * t));
    const when = c > 0 ? {lora: Riccati.timeTo(c, N, left * c), full: Math.log(1 / left) / n} : {lora: 0, full: 0};
    const apart = Math.sqrt((n * n + n - 2) / (n * rank + 2)), least = Math.sqrt(n / rank - 1);

    const plot = Axes.plot(frame, {
      title: "What is left of the trace", about: "Residual against time: LoRA's as a solid curve, the full-rank one dashed. The text below says when each is done.",
      x: {low: 1e-4, high: 1e3, log: true, name: "flow time t"}, y: {low: 0, high: Math.max(c, 1), name: "residual"},
    });
    plot.line(times, full, "full", "second", "full rank");
    plot.line(times, lora, "lora", "first", "LoRA");

    const s = Axes.short;
    const words = c === 0 ? "With trace 0 there is nothing to learn: both residuals are 0 from the start."
      : `One per cent of the trace is left at t = ${s(when.full)} in full rank, at t = ${s(when.lora)} with LoRA of rank ${rank}. `
        + `Late rates: ${n} in full rank, ${s(rate)} with LoRA, so ${rate > n ? "LoRA" : rate < n ? "full rank" : "neither"} is faster in the end. `
        + `Where they end, the two updates differ: by ${s(apart)} times the norm of the full-rank one (root mean square over starts), `
        + (rank < n ? `and no start of rank ${rank} gets below ${s(least)}.` : "although the rank is full.");
    return {words, times, lora, full, when, rate, apart, least, size: N};
  }

  return {
    name: "Trace-squared loss: LoRA against full rank",
    sliders: [
      {name: "n", label: "size n of the square matrix", values: values.n, start: start.n},
      {name: "rank", label: "rank r (at most n)", values: values.rank, start: start.rank, most: ({n}) => n},
      {name: "trace", label: "trace c of W₀", values: values.trace, start: start.trace},
      {name: "sigma", label: "start's size σ (standard deviation of an entry of A)", values: values.sigma, start: start.sigma},
    ],
    draw,
  };
});
