/* Sliders and words: the other half of what the explorables share.  No library, no server.

   Each explorable fills one <div class="lb-explore" data-explore="kind" data-settings="{...}">, which a
   notebook wrote.  The figure for readers without script stands before it and its table after it; both
   are folded when the first drawing is done.  The numbers of the drawing are kept as JSON in data-drawn. */
"use strict";

const Explore = (() => {
  /** A text in which _x stands for a subscript x. */
  function write(node, text) {
    node.textContent = "";
    text.split(/_([\p{L}₀-₉]+)/u).forEach((part, k) => node.append(k % 2 ? Object.assign(document.createElement("sub"), {textContent: part}) : part));
  }

  function html(parent, tag, attributes = {}, text = "") {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    write(node, text);
    parent.append(node);
    return node;
  }

  /** A native slider over a list of values; `show` writes one, `most` bounds it by the other sliders. */
  function slider(form, place, {name, label, values, start, show = Axes.short}) {
    const id = `explore-${place}-${name}`, row = html(form, "div", {class: "lb-slider"});
    html(row, "label", {for: id}, label);
    const output = html(row, "output", {for: id, "aria-live": "off"}); // the sentence below is the one that speaks
    const input = html(row, "input", {type: "range", id, name, min: 0, max: values.length - 1, step: 1});
    input.defaultValue = Math.max(0, values.indexOf(start));
    const tell = value => input.setAttribute("aria-valuetext", output.value = show(value));
    return {name, input, tell, read: () => values[Number(input.value)],
      // the value on the list that lies nearest
      set: wanted => (input.value = values.reduce((best, value, k) => Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? k : best, 0))};
  }

  /** Fold the fixed figure before an explorable, and the table after it: their numbers are not those of the sliders. */
  function fold(mount) {
    const cell = mount.closest(".cell"), [before, after] = [cell?.previousElementSibling, cell?.nextElementSibling];
    const fixed = [before?.querySelector("figure.lb-row") && before, after?.matches(".cell") && after.querySelector("table") && after];
    if (!fixed.some(Boolean)) return;
    const details = document.createElement("details");
    details.className = "lb-fixed";
    html(details, "summary", {}, "Several at once, at fixed values");
    cell.after(details);
    details.append(...fixed.filter(Boolean));
  }

  /** Set up every explorable of one kind.  `build(settings)` gives {name, sliders, panels, draw}. */
  function start(kind, build) {
    document.querySelectorAll(`.lb-explore[data-explore="${kind}"]`).forEach((mount, k) => { // the book in one file has two
      const {name, sliders, panels = 1, draw} = build(JSON.parse(mount.dataset.settings));
      mount.setAttribute("role", "group");
      mount.setAttribute("aria-label", name);
      const form = html(mount, "form", {class: "lb-sliders"});
      const controls = sliders.map(about => ({...about, ...slider(form, k ? `${kind}-${k}` : kind, about)}));
      html(form, "button", {type: "reset"}, "Start again");
      const row = html(mount, "div", {class: "lb-panels"});
      const frames = Array.from({length: panels}, () => html(row, "div"));
      const said = html(mount, "p", {class: "lb-said", role: "status", "aria-live": "polite"});
      let spoken = "", settled = true;
      const keep = () => settled && (settled = false, frames.forEach(frame => frame.ghosts = frame.lines)); // one movement, one ghost
      const set = wanted => (keep(), settled = true, controls.forEach(control => control.name in wanted && control.set(wanted[control.name])), redraw());

      function redraw() {
        const values = {};
        for (const {name, read, tell, most} of controls) tell(values[name] = most ? Math.min(read(), most(values)) : read());
        frames.forEach(frame => frame.replaceChildren());
        const {words, ...drawn} = draw(values, frames, set);
        if (spoken !== words) write(said, spoken = words);
        mount.dataset.drawn = JSON.stringify({values, ...drawn});
      }
      redraw();
      fold(mount);
      form.addEventListener("input", () => (keep(), redraw()));
      form.addEventListener("change", () => settled = true);
      form.addEventListener("reset", () => setTimeout(() => (frames.forEach(frame => frame.ghosts = []), redraw())));
      form.addEventListener("submit", event => event.preventDefault());
      let width = mount.clientWidth;
      new ResizeObserver(() => mount.clientWidth !== width && ((width = mount.clientWidth), redraw())).observe(mount);
    });
  }

  return {start};
})();
