// The ledger: filters, a search and sorting for its table. Without this script the whole table reads as it stands.
(() => {
  const table = document.querySelector(".tag_ledger table");
  if (!table) return;
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const names = heads.map(head => head.textContent.trim());
  const text = (row, name) => row.cells[names.indexOf(name)].textContent.trim().replace(/\s+/g, " ");
  // What is searched: what the row shows, and the claim's whole name, in which an address has dashes for dots and lines.
  const plain = text => text.toLowerCase().replace(/[._]/g, "-");
  const words = new Map(rows.map(row => [row, plain(`${row.textContent} ${row.querySelector("[id^=row-]")?.id}`)]));
  const make = (tag, properties, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };

  // One choice for each column of few different values, with how often each occurs.
  const choices = Object.fromEntries(["source", "kind", "verdict"].map(name => {
    const counts = new Map();
    rows.forEach(row => counts.set(text(row, name), (counts.get(text(row, name)) || 0) + 1));
    const options = [...counts].map(([value, count]) => make("option", {value}, `${value} (${count})`));
    return [name, make("select", {}, make("option", {value: ""}, "all"), ...options)];
  }));
  const search = make("input", {type: "search"}), shown = make("output", {});
  const reset = make("button", {type: "button", title: "No filter, in the order of the sources"}, "Show all");
  const fields = [...Object.entries(choices), ["search", search]].map(([name, field]) => make("label", {}, name, field));
  const form = make("form", {className: "lb-filter"}, ...fields, reset, shown);
  form.setAttribute("aria-label", "Filter the ledger");
  (table.closest(".pst-scrollable-table-container") || table).before(form);

  function filter() {
    const wanted = plain(search.value).split(/\s+/);
    let count = 0;
    for (const row of rows) {
      row.hidden = !(Object.entries(choices).every(([name, {value}]) => !value || text(row, name) === value)
        && wanted.every(word => words.get(row).includes(word)));
      count += !row.hidden;
    }
    shown.textContent = `${count} of ${rows.length} claims`;
  }

  // "below 1e-12" sorts as a number where both cells have one, after all texts where only one has.
  function compare(a, b) {
    const [x, y] = [a, b].map(cell => parseFloat((cell.match(/-?(\d[\d.]*(e-?\d+)?|inf)/) || [""])[0].replace("inf", "Infinity")));
    return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) || a.localeCompare(b) : x - y;
  }
  // Up, down, and a third time back to the order of the sources.
  function sort(head, name) {
    const before = head.getAttribute("aria-sort"), down = before === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    if (before === "descending") { body.append(...rows); return; }
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const order = name === "measured" ? compare : (a, b) => a.localeCompare(b);
    const sorted = [...rows].sort((a, b) => order(text(a, name), text(b, name)) * (down ? -1 : 1));
    body.append(...sorted);
  }
  function showAll() {
    form.reset();
    heads.forEach(head => head.removeAttribute("aria-sort"));
    body.append(...rows);
    filter();
  }
  // A link to a row from elsewhere must not lead to a row that a filter hides.
  function follow() {
    const row = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)))?.closest("tr");
    if (row?.hidden) { showAll(); row.scrollIntoView(); }
  }

  heads.forEach((head, k) => {
    const button = make("button", {type: "button"}, names[k]);
    button.addEventListener("click", () => sort(head, names[k]));
    head.replaceChildren(button);
  });
  form.addEventListener("input", filter);
  form.addEventListener("submit", event => event.preventDefault());
  reset.addEventListener("click", showAll);
  window.addEventListener("hashchange", follow);
  filter();
})();
