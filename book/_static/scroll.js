// Wide tables, formulas and code scroll inside themselves: let the keyboard reach them, and say so above a table.
(() => {
  const wide = ".pst-scrollable-table-container, .bd-article table, mjx-container[display=true], span.math, div.cell_output, pre";
  function mark() {
    for (const node of document.querySelectorAll(wide)) {
      const scrolls = node.scrollWidth > node.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(node).overflowX);
      node.classList.toggle("lb-scrolls", scrolls);
      if (scrolls) node.tabIndex = 0;
      else if (node.tabIndex === 0) node.removeAttribute("tabindex");
    }
  }
  const later = () => (window.MathJax?.startup?.promise || Promise.resolve()).then(mark);
  window.addEventListener("load", later);
  window.addEventListener("resize", mark);
  document.addEventListener("toggle", mark, true);
})();
