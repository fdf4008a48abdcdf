/* Axes, curves and their key as plain SVG: the drawing half of what the explorables share.

   One SVG unit is one pixel, so that text keeps its size on a narrow page.  What is drawn is named in a key
   below the plot and not beside the curve, where a text would hide another curve at some position of a slider.
   Every SVG keeps its axes as JSON in data-axes, and every curve its name in data-name, so that a reader of the
   page can get the numbers back. */
"use strict";

const Axes = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const MARGIN = {left: 62, right: 14, top: 30, bottom: 46};

  function svg(parent, tag, attributes = {}, text = "") {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.textContent = text;
    parent.append(node);
    return node;
  }

  const raised = whole => String(whole).replace(/./g, sign => "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"["0123456789-".indexOf(sign)]);
  const power = exponent => exponent === 0 ? "1" : exponent === 1 ? "10" : "10" + raised(exponent);

  /** A number as a reader writes it, in at most three digits. */
  function short(number, digits = 3) {
    if (!Number.isFinite(number)) return "–";
    const size = Math.abs(number);
    if (size === 0 || (size >= 1e-3 && size < 1e5)) return String(Number(number.toPrecision(digits))).replace("-", "−");
    const [front, exponent] = number.toExponential(digits - 1).split("e");
    const lead = Number(front);
    return (lead === 1 ? "" : String(lead).replace("-", "−") + "\u00a0×\u00a0") + power(Number(exponent));
  }

  /** Pixels of a value on an axis {low, high, log}. */
  function scale({low, high, log}, from, to) {
    const along = log ? Math.log10 : value => value;
    return value => from + (to - from) * (along(value) - along(low)) / (along(high) - along(low));
  }

  /** Round values on an axis, about `count` of them, each with its text. */
  function ticks({low, high, log}, count) {
    const found = [];
    if (log) {
      const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
      for (let k = first; k <= last; k += Math.max(1, Math.ceil((last - first) / count))) found.push([10 ** k, power(k)]);
      return found;
    }
    const rough = (high - low) / count, decade = 10 ** Math.floor(Math.log10(rough));
    const step = decade * [1, 2, 5, 10].find(factor => factor * decade >= rough * (1 - 1e-9));
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push([k * step, short(k * step)]);
    return found;
  }

  /** An empty plot in `panel`; x and y are axes {low, high, log, name}, `about` says what a reader would see. */
  function plot(panel, {title, about, x, y, square = false, bar = false}) {
    const width = Math.max(240, Math.round(panel.clientWidth));
    const inner = width - MARGIN.left - MARGIN.right;
    const tall = square ? Math.min(inner, 460) : Math.min(260, Math.round(0.85 * inner));
    const wide = square ? tall : inner;
    const floor = MARGIN.top + tall, height = floor + MARGIN.bottom + (bar ? 30 : 0);
    const across = scale(x, MARGIN.left, MARGIN.left + wide), up = scale(y, floor, MARGIN.top);
    const pixels = {x: {...x, from: MARGIN.left, to: MARGIN.left + wide}, y: {...y, from: floor, to: MARGIN.top}};
    const root = svg(panel, "svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": about, "data-axes": JSON.stringify(pixels)});

    const head = svg(root, "text", {x: MARGIN.left, y: 16, class: "lb-title"}, title), long = head.getComputedTextLength();
    if (long > width - MARGIN.left) head.setAttribute("x", 0), head.style.fontSize = `${Math.min(14, 14 * width / long)}px`;
    for (const [value, text] of ticks(x, wide / 70)) {
      svg(root, "path", {class: "lb-grid", d: `M${across(value)} ${floor}V${MARGIN.top}`});
      svg(root, "text", {x: across(value), y: floor + 17, "text-anchor": "middle"}, text);
    }
    for (const [value, text] of ticks(y, tall / 42)) {
      svg(root, "path", {class: "lb-grid", d: `M${MARGIN.left} ${up(value)}h${wide}`});
      svg(root, "text", {x: MARGIN.left - 6, y: up(value) + 4, "text-anchor": "end"}, text);
    }
    svg(root, "text", {x: MARGIN.left + wide / 2, y: floor + 38, "text-anchor": "middle"}, x.name);
    svg(root, "text", {x: -(floor + MARGIN.top) / 2, y: 13, "text-anchor": "middle", transform: "rotate(-90)"}, y.name);
    // an inner drawing of its own cuts off what leaves the axes
    const area = svg(root, "svg", {"aria-hidden": "true", x: MARGIN.left, y: MARGIN.top - 2, width: wide, height: tall + 4,
      viewBox: `${MARGIN.left} ${MARGIN.top - 2} ${wide} ${tall + 4}`});
    const list = document.createElement("ul");
    list.className = "lb-key";
    panel.append(list);

    const place = (a, b) => [Math.min(1e4, Math.max(-1e4, across(a))), Math.min(1e4, Math.max(-1e4, up(b)))];

    /** An entry of the key: a sample of what is drawn, then its name.  Every kind is named once. */
    function key(kind, d, text) {
      if (!text || [...list.children].some(entry => entry.textContent === text)) return;
      const entry = list.appendChild(document.createElement("li"));
      svg(svg(entry, "svg", {"aria-hidden": "true", viewBox: "0 0 34 14", width: 34, height: 14}), "path", {class: kind, d});
      entry.append(text);
    }

    /** A curve through (xs, ys), called `text` in the key; a value that is no number leaves a gap. */
    function line(xs, ys, name, kind = name, text = "") {
      let d = "", pen = "M";
      xs.forEach((a, k) => {
        const [px, py] = place(a, ys[k]);
        if (Number.isNaN(px) || Number.isNaN(py)) return (pen = "M");
        d += `${pen}${px.toFixed(2)} ${py.toFixed(2)}`;
        pen = "L";
      });
      key(`lb-line lb-${kind}`, "M1 7h32", text);
      if (kind === "first") panel.lines.push([xs, ys]);
      return svg(area, "path", {class: `lb-line lb-${kind}`, d, "data-name": name});
    }

    /** A mark at a place, whole even at the edge of the plot: "circle", "square" or "cross". */
    function mark(a, b, shape, name, text) {
      const [px, py] = place(a, b);
      const d = {circle: "m-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0", square: "m-5 -5h10v10h-10z", cross: "m-5 -5l10 10m0 -10l-10 10"}[shape];
      key(`lb-mark lb-${shape}`, `M17 7${d}`, text);
      return svg(root, "path", {class: `lb-mark lb-${shape}`, d: `M${px.toFixed(2)} ${py.toFixed(2)}${d}`, "data-name": name});
    }

    /** Phases on a bar below the axis, with their names where there is room; `edges` has one entry more than `names`. */
    function phases(edges, names) {
      names.forEach((text, k) => {
        const [from, to] = [edges[k], edges[k + 1]].map(edge => Math.min(across(x.high), across(edge)));
        if (to - from < 1) return;
        svg(root, "rect", {x: from, y: floor + MARGIN.bottom + 2, width: to - from, height: 22, class: `lb-phase lb-phase-${k}`, "data-name": text});
        if (7 * text.length < to - from) svg(root, "text", {x: (from + to) / 2, y: floor + MARGIN.bottom + 18, "text-anchor": "middle"}, text);
      });
      key("lb-phase lb-phase-1", "M1 1h32v12h-32z", `bar: ${names.join(", then ")}`);
    }
    panel.lines = []; // what a slider moves stays as a ghost
    for (const [xs, ys] of panel.ghosts ?? []) line(xs, ys, "ghost", "ghost", "before the last move");
    return {root, area, across, up, key, line, mark, phases};
  }

  return {short, svg, plot};
})();
