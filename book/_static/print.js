// On paper every page is light, whatever the screen shows, and the numbers of each verdict and the solutions are unfolded.
(() => {
  const root = document.documentElement;
  let shown, opened = [];
  window.addEventListener("beforeprint", () => {
    shown = root.dataset.theme;
    root.dataset.theme = "light";
    opened = [...document.querySelectorAll("details:is(.lb-numbers, .lb-solution):not([open])")];
    opened.forEach(node => (node.open = true));
  });
  window.addEventListener("afterprint", () => {
    root.dataset.theme = shown;
    opened.forEach(node => (node.open = false));
  });
})();
