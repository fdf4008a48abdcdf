// The ledger: filters, a search and sorting for its table, kept in the page's address so that a choice can be sent.
// Without this script the whole table reads as it stands.
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
  // In an address a verdict has no mark: "fails as printed".
  const bare = value => value.replace(/^[✓✗–] /, "");

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

  // Texts by their letters, numbers in them by size: Theorem 2.4 before Theorem 2.11.  Source, kind and verdict go in
  // the orders of the book.  Measured numbers have different units, and statements no order: they do not sort.
  const natural = new Intl.Collator("en", {numeric: true}).compare;
  const orders = {
    source: [...new Set(rows.map(row => text(row, "source")))],
    kind: ["theorem", "equation", "figure", "table", "remark", "beyond"],
    verdict: ["holds", "holds, proved", "holds with a constant",
      "holds with a constant, proved", "holds in the range tested", "fails as printed", "not testable here"],
  };
  const place = (name, value) => orders[name].indexOf(bare(value));
  const sorts = {claim: natural, where: natural};
  for (const name of Object.keys(orders)) sorts[name] = (a, b) => place(name, a) - place(name, b);
  let sorted = ["", 1];
  function sort(name, sign) {
    sorted = [name, sign];
    heads.forEach((head, k) => head.removeAttribute("aria-sort") || name !== names[k]
      || head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending"));
    body.append(...(name ? [...rows].sort((a, b) => sign * sorts[name](text(a, name), text(b, name))) : rows));
  }

  // The address: ?source=...&kind=...&verdict=...&search=...&sort=-verdict
  function read() {
    const asked = new URLSearchParams(location.search), [, down, name] = (asked.get("sort") || "").match(/^(-?)(\w*)$/) || [];
    for (const [name, field] of Object.entries(choices))
      field.value = [...field.options].find(option => bare(option.value) === asked.get(name))?.value || "";
    search.value = asked.get("search") || "";
    sort(name in sorts ? name : "", down ? -1 : 1);
    filter();
  }
  function write() {
    const chosen = Object.entries({...choices, search}).map(([name, {value}]) => [name, bare(value)]);
    const asked = new URLSearchParams([...chosen, ["sort", sorted[0] && (sorted[1] < 0 ? "-" : "") + sorted[0]]].filter(([, value]) => value));
    history.replaceState(null, "", location.pathname + (asked.size ? `?${asked}` : ""));
  }
  function showAll() {
    form.reset();
    sort("", 1);
    filter();
  }
  // A link to a row from elsewhere must not lead to a row that a filter hides.
  function follow() {
    const row = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)))?.closest("tr");
    if (row?.hidden) { showAll(); row.scrollIntoView(); }
  }

  heads.forEach((head, k) => {
    const name = names[k], button = make("button", {type: "button"}, name);
    if (!(name in sorts)) return;
    // Up, down, and a third time back to the order of the sources.
    button.addEventListener("click", () => {
      const again = sorted[0] === name;
      sort(again && sorted[1] < 0 ? "" : name, again ? -1 : 1);
      write();
    });
    head.replaceChildren(button);
  });
  form.addEventListener("input", () => (filter(), write()));
  form.addEventListener("submit", event => event.preventDefault());
  reset.addEventListener("click", () => (showAll(), write()));
  window.addEventListener("hashchange", follow);
  read();
  follow();
})();
