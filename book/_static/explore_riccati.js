/* Two factors that exchange one scalar from B = 0: the closed form that the trace-squared loss and the growth
   phase share (lorabook.riccati).  c >= 0 is what is to be learnt, N > 0 the squared size of the start. */
"use strict";

const Riccati = (() => {
  /** What is left to learn at time t, without a growing exponential. */
  function residual(c, N, t) {
    const rho = Math.hypot(2 * c, N), above = rho + 2 * c, below = N * N / above; // rho + 2c and rho - 2c
    const half = Math.exp(-rho * t / 2), decay = half * half, growth = -Math.expm1(-rho * t) / rho;
    const v = 2 * decay + (above + N) * growth, w = 2 * decay + (below + N) * growth;
    return 4 * c * (half / v) * (half / w);
  }

  /** Time at which epsilon is left, 0 < epsilon <= c. */
  function timeTo(c, N, epsilon) {
    const way = Math.asinh((N * N + 4 * c * (c - epsilon)) / (2 * N * epsilon)) - Math.asinh(N / (2 * c));
    return Math.max(0, way) / Math.hypot(2 * c, N);
  }

  return {residual, timeTo};
})();
