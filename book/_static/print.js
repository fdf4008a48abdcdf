// On paper every page is light, whatever the screen shows, and the numbers of each verdict are unfolded.
(() => {
  const root = document.documentElement;
  let shown, opened = [];
  window.addEventListener("beforeprint", () => {
    shown = root.dataset.theme;
    root.dataset.theme = "light";
    opened = [...document.querySelectorAll("details.lb-numbers:not([open])")];
    opened.forEach(node => (node.open = true));
  });
  window.addEventListener("afterprint", () => {
    root.dataset.theme = shown;
    opened.forEach(node => (node.open = false));
  });
})();
