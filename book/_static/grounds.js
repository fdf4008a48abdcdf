// Arcs of the claim under the pointer, or with the focus, stand out.
(() => {
  for (const drawing of document.querySelectorAll(".lb-grounds")) {
    const arcs = [...drawing.querySelectorAll("[data-of]")];
    const show = event => {
      const claim = event.target.closest("a[data-claim]")?.dataset.claim;
      for (const arc of arcs)
        arc.classList.toggle("lb-near", ["pointerover", "focusin"].includes(event.type) && arc.dataset.of.split(" ").includes(claim));
    };
    for (const kind of ["pointerover", "pointerout", "focusin", "focusout"]) drawing.addEventListener(kind, show);
  }
})();
