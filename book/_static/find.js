// Search: the claims whose name, place or sentence has the words, above what Sphinx finds, and a few words of each page.
// The texts come as a script (claims_index.js), since a page opened from disk may fetch nothing.
(() => {
  const asked = (new URLSearchParams(location.search).get("q") || "").trim(), place = document.getElementById("search-results");
  if (!asked || !place || !window.lorabook) return;
  const up = document.documentElement.dataset.content_root || "./", MOST = 12;
  // digits that are lowered, raised or after _ and ^ are the same; a dot, a dash and a blank too
  const plain = text => text.toLowerCase().replace(/’/g, "'").normalize("NFKD").replace(/[\u0300-\u036f]/g, "").replace(/[_^](?=[0-9])/g, "").replace(/[._\s-]+/g, " ").trim();
  const phrase = plain(asked), words = phrase.split(" ").filter(Boolean);
  // the words one after another, and no part of a longer number or compound: "rank one" is not in "full-rank one"
  const exact = new RegExp(`(?<![\\p{L}\\p{N}]|[\\p{L}\\p{N}][._-])${asked.split(/[\s_-]+/).map(word => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("[\\s_-]+")}(?![\\p{L}\\p{N}]|[._-][\\p{L}\\p{N}])`, "giu");
  const count = text => (text.match(exact) || []).length;
  const make = (tag, properties, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };

  const found = window.lorabook.claims.map(([id, where, source, verdict, says, address]) => {
    const all = plain(`${id} ${where} ${source} ${verdict} ${says}`);
    if (!words.every(word => all.includes(word))) return null;
    // first a name, then a place ("Theorem 3.2" and no longer number), then the very phrase, then its letters, then the words
    const rank = plain(id) === phrase || plain(id).endsWith(` ${phrase}`) ? 0 : count(where) ? 1 : count(says) ? 2 : all.includes(phrase) ? 3 : 4;
    return {rank, id, where, source, verdict, says, address};
  }).filter(Boolean).sort((a, b) => a.rank - b.rank);
  if (found.length) {
    const items = found.slice(0, MOST).map(({id, where, source, verdict, says, address}) => make("li", {},
      make("a", {href: up + address}, id), ` ${source}, ${where}: `, make("strong", {}, verdict), make("p", {className: "context"}, says)));
    const more = make("a", {href: `${up}notebooks/ledger.html?${new URLSearchParams({search: asked})}`}, "All of them in the ledger");
    const several = found.length === 1 ? "1 claim" : `${found.length} claims`;
    place.before(make("section", {id: "lb-found"}, make("h2", {}, several), make("ul", {}, ...items), ...(found.length > MOST ? [make("p", {}, more)] : [])),
      make("h2", {}, "Pages"));
  }

  // Sphinx names pages one after another: each gets the words around the first hit, and those with the phrase, for their length, go first.
  const around = text => {
    const low = text.toLowerCase(), whole = text.search(exact);
    const at = [whole, ...[asked.toLowerCase(), ...asked.toLowerCase().split(/\s+/)].map(word => low.indexOf(word))].find(at => at >= 0);
    if (at === undefined) return "";
    const from = Math.max(0, at - 80);
    return (from ? "… " : "") + text.slice(from, from + 220).replace(from ? /^\S*\s/ : /^/, "").replace(/\s\S*$/, "") + " …";
  };
  const counts = new Map();
  const say = () => place.querySelectorAll("li > a:first-child").forEach(link => {
    const item = link.parentElement;
    if (counts.has(item)) return;
    const name = decodeURIComponent(new URL(link.href).pathname), page = Object.keys(window.lorabook.pages).find(page => name.endsWith(`/${page}.html`));
    const text = page ? window.lorabook.pages[page] : "", words = around(text);
    if (words && !item.querySelector(".context")) item.append(make("p", {className: "context"}, words));
    counts.set(item, text && count(text) / text.length);
    const later = [...item.parentElement.children].find(other => counts.has(other) && counts.get(other) < counts.get(item));
    if (later && words.length > 1) later.before(item);
  });
  new MutationObserver(say).observe(place, {childList: true, subtree: true});
  say();
})();
