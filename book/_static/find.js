// Search: the claims whose name, place or sentence has the words, above what Sphinx finds, and a few words of each page.
// The texts come as a script (claims_index.js), since a page opened from disk may fetch nothing.
(() => {
  const asked = (new URLSearchParams(location.search).get("q") || "").trim(), place = document.getElementById("search-results");
  if (!asked || !place || !window.lorabook) return;
  const up = document.documentElement.dataset.content_root || "./", MOST = 12;
  const plain = text => text.toLowerCase().normalize("NFKD").replace(/[\u0300-\u036f]/g, "").replace(/[._\s-]+/g, " ").trim();
  const phrase = plain(asked), words = phrase.split(" ").filter(Boolean);
  const bounded = (text, words) => ` ${text.replace(/[^\p{L}\p{N} ]+/gu, " ").replace(/ +/g, " ")} `.includes(` ${words} `);
  const make = (tag, properties, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };

  const found = window.lorabook.claims.map(([id, where, source, verdict, says, address]) => {
    const all = plain(`${id} ${where} ${source} ${verdict} ${says}`), number = plain(where);
    if (!words.every(word => all.includes(word))) return null;
    // first a name, then a place ("Theorem 3.2" and no longer number), then a phrase, then the words
    const rank = plain(id) === phrase || plain(id).endsWith(` ${phrase}`) ? 0 : bounded(number, phrase) ? 1 : all.includes(phrase) ? 2 : 3;
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

  // Sphinx names pages one after another; each gets the words around the first hit.
  const around = text => {
    const low = text.toLowerCase(), at = [asked.toLowerCase(), ...asked.toLowerCase().split(/\s+/)].map(word => low.indexOf(word)).find(at => at >= 0);
    if (at === undefined) return "";
    const from = Math.max(0, at - 80);
    return (from ? "… " : "") + text.slice(from, from + 220).replace(from ? /^\S*\s/ : /^/, "").replace(/\s\S*$/, "") + " …";
  };
  const say = () => place.querySelectorAll("li > a:first-child").forEach(link => {
    const name = decodeURIComponent(new URL(link.href).pathname), page = Object.keys(window.lorabook.pages).find(page => name.endsWith(`/${page}.html`));
    const item = link.parentElement, words = page && around(window.lorabook.pages[page]);
    if (words && !item.querySelector(".context")) item.append(make("p", {className: "context"}, words));
  });
  new MutationObserver(say).observe(place, {childList: true, subtree: true});
  say();
})();
