// Wide tables get closer; what is wider still scrolls inside itself, as do formulas and code: let the keyboard reach them, and say so above a table.
(() => {
  const wide = ".pst-scrollable-table-container, .bd-article table, mjx-container[display=true], div.cell_output, pre";
  const tell = (node, scrolls) => {
    node.classList.toggle("lb-scrolls", scrolls);
    if (scrolls) node.tabIndex = 0;
    else if (node.tabIndex === 0) node.removeAttribute("tabindex");
  };
  function mark() {
    for (const node of document.querySelectorAll(".pst-scrollable-table-container")) {
      node.classList.remove("lb-tight");
      node.classList.toggle("lb-tight", node.scrollWidth > node.clientWidth + 1);
    }
    for (const node of document.querySelectorAll(wide)) {
      tell(node, node.scrollWidth > node.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(node).overflowX));
    }
    // a letter may hang over its box by a little: a formula in a line scrolls only where its drawing is wider than the line
    for (const node of document.querySelectorAll("span.math")) {
      const drawn = node.querySelector("svg");
      if (drawn) tell(node, node.clientWidth > 0 && drawn.getBoundingClientRect().width > node.clientWidth + 4);
    }
  }
  // the page's own width settles after the window's, so it is what is watched
  let due = 0;
  const soon = () => { due ||= requestAnimationFrame(() => { due = 0; mark(); }); };
  const watcher = new ResizeObserver(soon);
  const watch = () => document.querySelectorAll(".bd-article, main").forEach(node => watcher.observe(node));
  const later = () => (window.MathJax?.startup?.promise || Promise.resolve()).then(mark).then(watch);
  window.addEventListener("load", later);
  document.addEventListener("toggle", soon, true);
})();
