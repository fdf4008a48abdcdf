/* Kim, Kim and Ryu: the 2 x 2 member of the decoy family at rank one, over the factors B = A^T = (x, y).

   Gradient descent never leaves these factors, because the loss does not change when X is transposed.
   Its objective above the optimum is a (x^2-1)^2/2 + c (x^2-1) y^2 + b y^4/2 + h x^2 y^2 + lambda y^2. */
"use strict";

Explore.start("kim", ({start, values, a, b, c, h}) => {
  const REACH = 1.4, CELLS = 20, LEVELS = 10, GRID = 57, MOST = 4000, NEAR = 1e-3;
  const smoothness = Math.max(h, 1, (a + b) / 2 + Math.hypot((a - b) / 2, c));

  const height = (x, y, lam) => a * (x * x - 1) ** 2 / 2 + (c * (x * x - 1) + lam) * y * y + b * y ** 4 / 2 + h * x * x * y * y;

  /** One gradient step on both factors, shorter than the inverse of a local bound on the curvature. */
  function step([x, y], lam) {
    const truth = a * (x * x - 1) + c * y * y - lam, decoy = c * (x * x - 1) + b * y * y, mixed = h * x * y; // entries of the gradient of L
    const slope = [(truth + lam) * x + mixed * y, mixed * x + (decoy + lam) * y];
    const rate = 1 / (2 * smoothness * (x * x + y * y) + Math.hypot(truth, decoy, Math.SQRT2 * mixed) + lam + 1e-12);
    return {next: [x - rate * slope[0], y - rate * slope[1]], size: Math.hypot(...slope)};
  }

  /** Descend until the slope is gone; where it ends, and the way there if it is wanted. */
  function descend(place, lam, way = null) {
    const trap = Math.sqrt((c - lam) / b), stable = (h + c) * trap ** 2 >= a;
    let taken = 0;
    for (; taken < MOST; taken++) {
      way?.push(place);
      const {next, size} = step(place, lam);
      if (size < 1e-8) break;
      place = next;
    }
    const [x, y] = place.map(Math.abs), nearTrap = Math.hypot(x, y - trap) < NEAR;
    const end = Math.hypot(x - 1, y) < NEAR ? "global" : nearTrap && stable ? "trapped" : nearTrap || Math.hypot(x, y) < NEAR ? "saddle" : "under way";
    return {place, end, taken};
  }

  /** Level lines on the square, as one path per level, by linear interpolation on the edges of a grid. */
  function contours(plot, lam, levels) {
    const at = k => -REACH + 2 * REACH * k / (GRID - 1);
    const field = Array.from({length: GRID}, (_, j) => Array.from({length: GRID}, (_, i) => height(at(i), at(j), lam)));
    for (const level of levels) {
      let d = "";
      for (let j = 0; j + 1 < GRID; j++) for (let i = 0; i + 1 < GRID; i++) {
        const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]], cuts = [];
        corners.forEach(([p, q], k) => {
          const [r, s] = corners[(k + 1) % 4], one = field[q][p] - level, two = field[s][r] - level;
          if ((one < 0) === (two < 0)) return;
          const part = one / (one - two);
          cuts.push([plot.across(at(p) + part * (at(r) - at(p))), plot.up(at(q) + part * (at(s) - at(q)))]);
        });
        for (let k = 0; k + 1 < cuts.length; k += 2) d += `M${cuts[k].map(v => v.toFixed(1)).join(" ")}L${cuts[k + 1].map(v => v.toFixed(1)).join(" ")}`;
      }
      Axes.svg(plot.area, "path", {class: "lb-line lb-contour", d, "data-name": "level", "data-level": level});
    }
  }

  let known = {lam: null}; // the basins of the decay that was drawn last

  /** Ends of the starts at the centres of a grid on the quadrant x, y > 0; the other quadrants mirror it. */
  function basins(lam) {
    if (known.lam !== lam) {
      const middle = k => REACH * (k + 0.5) / CELLS;
      known = {lam, ends: Array.from({length: CELLS}, (_, j) => Array.from({length: CELLS}, (_, i) => descend([middle(i), middle(j)], lam).end))};
    }
    return known.ends;
  }

  function draw({lam, x, y}, [frame], set) {
    const trap = Math.sqrt((c - lam) / b), margin = (h + c) * trap ** 2 - a, stable = margin >= 0;
    const axis = name => ({low: -REACH, high: REACH, name});
    const plot = Axes.plot(frame, {title: "Objective over the factors", square: true, x: axis("share x of the truth"), y: axis("share y of the decoy"),
      about: "Level lines over two coordinates: circles mark the global minima left and right, crosses the decoys above and below; dotted cells are starts that end in a trap. Click a start, or use the sliders."});
    const ends = basins(lam), cell = REACH / CELLS;
    let dots = "";
    ends.forEach((row, j) => row.forEach((end, i) => {
      if (end !== "trapped") return;
      for (const p of [-1, 1]) for (const q of [-1, 1]) dots += `M${plot.across(p * cell * (i + 0.5)).toFixed(1)} ${plot.up(q * cell * (j + 0.5)).toFixed(1)}h0`;
    }));
    Axes.svg(plot.area, "path", {class: "lb-dots", d: dots, "data-name": "basin"});
    if (dots) plot.key("lb-dots", "M5 7h0M17 7h0M29 7h0", "starts that are trapped");
    const levels = Array.from({length: LEVELS}, (_, k) => 4 * height(0, 0, lam) * ((k + 0.5) / LEVELS) ** 2);
    contours(plot, lam, levels);
    const way = [], {place, end, taken} = descend([x, y], lam, way);
    for (const sign of [-1, 1]) plot.mark(sign, 0, "circle", "global", "global minimum"), plot.mark(0, sign * trap, "cross", "decoy", stable ? "decoy, a trap" : "decoy, a saddle");
    plot.line(way.map(point => point[0]), way.map(point => point[1]), "way", "first", "descent").setAttribute("pathLength", 1);
    plot.mark(x, y, "square", "start", "start");
    plot.root.addEventListener("click", event => {
      const box = plot.root.getBoundingClientRect(), unit = plot.root.viewBox.baseVal.width / box.width;
      const px = (event.clientX - box.left) * unit, py = (event.clientY - box.top) * unit;
      const back = (pixel, to) => (pixel - to(0)) / (to(1) - to(0));
      const x = back(px, plot.across), y = back(py, plot.up);
      if (Math.max(Math.abs(x), Math.abs(y)) <= REACH) set({x, y});  // a click beside the axes means nothing
    });

    const s = Axes.short, value = height(...place, lam), share = ends.flat().filter(found => found === "trapped").length / CELLS ** 2;
    const result = {global: "Descent succeeds: it ends at a global minimum.", trapped: `Descent is trapped: it ends at the decoy, ${s(value)} above the optimum.`,
      saddle: `Descent stands still on a saddle, ${s(value)} above the optimum: the start has nothing that points away from it.`,
      "under way": "Descent is still under way when its steps are used up."}[end];
    const words = `From (${s(x)}, ${s(y)}): ${result} ` + (stable ? `The decoy is a minimum: towards the truth the objective curves upwards (eigenvalue ${s(margin)} of the Hessian). Of the starts on a grid ${s(100 * share, 2)} % end there.`
      : `At this decay the decoy is no minimum: towards the truth the objective curves downwards (eigenvalue ${s(margin)} of the Hessian).`);
    return {words, way, place, end, taken, value, trap, margin, ends, levels};
  }

  const inline = (name, label) => ({name, label, values: values[name], start: start[name]});
  return {
    name: "Where descent ends", draw,
    sliders: [inline("x", "start: share x of the truth"), inline("y", "start: share y of the decoy"),
      {name: "lam", label: "weight decay λ", values: values.lam, start: start.lam}],
  };
});
