// What a link to a claim or a letter leads to, beside it: on hover, on focus, on a first tap.  Escape closes it.
(() => {
  const texts = new Map();
  for (const held of document.querySelectorAll("template.lb-previews"))
    for (const part of held.content.children) texts.set(part.dataset.of, part.innerHTML);
  const box = Object.assign(document.createElement("div"), {id: "lb-preview", className: "lb-preview", hidden: true});
  box.setAttribute("role", "tooltip");
  document.body.append(box);
  let open, timer, touch = false;

  const linkOf = event => {
    const link = event.target.closest?.("a[href*='#claim-'], a[href*='#letter-']");
    return link && texts.has(link.getAttribute("href").split("#").pop()) ? link : null;
  };
  const close = () => {
    clearTimeout(timer);
    open?.removeAttribute("aria-describedby");
    open = undefined;
    box.hidden = true;
  };
  const place = () => {
    const at = open.getBoundingClientRect(), wide = document.documentElement.clientWidth, gap = 6;
    const above = at.bottom + gap + box.offsetHeight > innerHeight && at.top > box.offsetHeight + gap;
    box.style.left = Math.max(8, Math.min(at.left, wide - box.offsetWidth - 8)) + scrollX + "px";
    box.style.top = (above ? at.top - box.offsetHeight - gap : at.bottom + gap) + scrollY + "px";
  };
  const show = link => {
    close();
    open = link;
    box.innerHTML = texts.get(link.getAttribute("href").split("#").pop()) + (touch ? "<p>Tap again to go there.</p>" : "");
    box.hidden = false;
    link.setAttribute("aria-describedby", box.id);
    place();
    window.MathJax?.typesetPromise?.([box]).then(() => open === link && place());
  };
  const later = (action, wait) => { clearTimeout(timer); timer = setTimeout(action, wait); };

  document.addEventListener("pointerdown", event => {
    touch = event.pointerType === "touch";
    if (open && !box.contains(event.target) && linkOf(event) !== open) close();
  }, true);
  document.addEventListener("click", event => {
    const link = linkOf(event);
    if (touch && link && link !== open) { event.preventDefault(); show(link); }
  });
  document.addEventListener("pointerover", event => {
    if (event.pointerType === "touch") return;
    const link = linkOf(event);
    if (link && link !== open) later(() => show(link), 250);
    else if (link || box.contains(event.target)) clearTimeout(timer);
    else if (open && document.activeElement !== open) later(close, 250);
    else clearTimeout(timer);
  });
  document.addEventListener("focusin", event => { const link = linkOf(event); if (link && !touch) show(link); });
  document.addEventListener("focusout", event => { if (linkOf(event) === open && !touch) close(); });
  document.addEventListener("keydown", event => { if (event.key === "Escape") close(); });
})();
