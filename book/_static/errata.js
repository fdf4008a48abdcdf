// The errata: a choice of one grade, kept in the page's address.  Without this script every entry stands there.
(() => {
  const entries = [...document.querySelectorAll("[id^=erratum-]")].map(mark => {
    const first = mark.closest(".cell_output p"), parts = [first];
    if (!first) return null;
    for (let next = first.nextElementSibling; next && !next.querySelector("[id^=erratum-]") && !/^P$/.test(next.tagName); next = next.nextElementSibling)
      parts.push(next);
    const label = parts.flatMap(part => [...part.querySelectorAll("li strong")]).find(node => node.textContent === "Grade.");
    return {mark, parts, grade: label?.parentElement.textContent.replace("Grade.", "").trim().replace(/\.$/, "").toLowerCase() || "of our own"};
  }).filter(Boolean);
  const at = document.querySelector("article h2")?.closest("section");
  if (!entries.length || !at) return;
  const counts = new Map();
  entries.forEach(({grade}) => counts.set(grade, (counts.get(grade) || 0) + 1));

  const form = document.createElement("form"), label = document.createElement("label");
  const choice = document.createElement("select"), shown = document.createElement("output");
  form.className = "lb-filter";
  form.setAttribute("aria-label", "Filter the errata");
  choice.append(new Option("all grades", ""), ...[...counts].map(([grade, count]) => new Option(`${grade} (${count})`, grade)));
  label.append("grade", choice);
  form.append(label, shown);
  at.before(form);

  function filter() {
    let count = 0;
    for (const {parts, grade} of entries) {
      const hidden = Boolean(choice.value) && grade !== choice.value;
      parts.forEach(part => (part.hidden = hidden));
      count += !hidden;
    }
    shown.textContent = `${count} of ${entries.length} errata`;
  }
  function read() {
    choice.value = new URLSearchParams(location.search).get("grade") || "";
    if (choice.selectedIndex < 0) choice.value = "";
    filter();
  }
  // A link to an entry from elsewhere must not lead to one that is hidden.
  function follow() {
    const found = entries.find(({mark}) => location.hash === `#${mark.id}`);
    if (found?.parts[0].hidden) { choice.value = ""; filter(); found.mark.scrollIntoView(); }
  }
  form.addEventListener("input", () => {
    filter();
    history.replaceState(null, "", location.pathname + (choice.value ? `?${new URLSearchParams({grade: choice.value})}` : ""));
  });
  form.addEventListener("submit", event => event.preventDefault());
  window.addEventListener("hashchange", follow);
  read();
  follow();
})();
