"""The book in one file, and as a PDF: both made from the finished pages of the site.

`single_file` takes the article of every page in the order of _toc.yml, turns links between pages into
links within the file and puts the styles and scripts of every page, and all images, inside. A browser prints that
file; without one there is no PDF. `link` then shows on the front page what there is.
"""

import base64
import mimetypes
import re
import subprocess
import tempfile
from collections import Counter
from html import escape
from pathlib import Path

import pikepdf
import yaml

STYLE = Path(__file__).with_name("edition.css")
SINGLE, PDF = "lorabook.html", "lorabook.pdf"
PLACE = "<!-- editions -->"  # in the front page
PRINTING = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--no-first-run",
    "--no-pdf-header-footer",
    "--generate-pdf-document-outline",
    "--virtual-time-budget=120000",
]
# A style or script of the site that a page names, in its head or in its text.
ASSET = re.compile(r'<(?:link|script)\b[^>]*?\b(?:href|src)="[./]*_static/([\w.-]+)(?:\?[^"]*)?"[^>]*>(?:</script>)?')
HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<script>
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const turn = () => {{ document.documentElement.dataset.theme =
    dark.matches && !matchMedia("print").matches ? "dark" : "light"; }};
  turn(); dark.addEventListener("change", turn); addEventListener("beforeprint", turn);
  addEventListener("afterprint", turn);
</script>
<style>{style}</style>
</head><body>
{cover}
<nav aria-label="Contents"><h2>Contents</h2>{contents}</nav>
<main class="bd-article">
"""


def make(site, toc, browser):
    """Add both editions to a finished site, as far as this machine can, and link them from the front page."""
    site, toc = Path(site), Path(toc)
    parts = contents(toc)
    own = {path.name for path in (toc.parent / "book/_static").glob("*")}
    (site / SINGLE).write_text(single_file(site, parts, own, facts(toc.parent)), encoding="utf-8")
    if browser:
        print_pdf(site / SINGLE, site / PDF, browser)
    else:
        print("No browser prints the book, so the site has no PDF.")
    link(site, parts[0][1][0])


def contents(toc):
    """The parts of the book, each with its caption and its pages; the front page is a part of its own."""
    toc = yaml.safe_load(toc.read_text(encoding="utf-8"))
    parts = toc.get("parts") or [{"caption": "", "chapters": toc["chapters"]}]
    return [
        ("", [toc["root"]]),
        *((part["caption"], [chapter["file"] for chapter in part["chapters"]]) for part in parts),
    ]


def single_file(site, parts, own, about=None):
    """All pages as one HTML text that asks for no other file.

    ``own`` names the book's styles and scripts, ``about`` is what the title page says: author, version, year, licence,
    address.
    """
    names = [name for _, pages in parts for name in pages]
    html = {name: (site / f"{name}.html").read_text(encoding="utf-8") for name in names}
    articles = {
        name: re.search(r'<article class="bd-article">(.*?)</article>', text, re.S).group(1)
        for name, text in html.items()
    }
    times = Counter(one for article in articles.values() for one in set(re.findall(r'\sid="([^"]+)"', article)))
    shared = {one for one, count in times.items() if count > 1}
    front = html[names[0]]
    wanted = own | {"tex-svg.js", "pygments.css"}
    used = [one for one in dict.fromkeys(one for text in html.values() for one in ASSET.findall(text)) if one in wanted]
    read = lambda name: (site / "_static" / name).read_text(encoding="utf-8")
    style = "\n".join(read(name) for name in used if name.endswith(".css"))
    script = "".join(f"<script>{read(name)}</script>\n" for name in used if name.endswith(".js"))
    body = "".join(
        f'<section class="lb-page" id="{anchor(name)}">{moved(site, name, articles, shared)}</section>\n'
        for name in names
    )
    table = "".join(
        f"<h3>{caption}</h3><ul>{''.join(entry(name, articles[name]) for name in pages)}</ul>"
        for caption, pages in parts[1:]
    )
    settings = "".join(re.findall(r"<script>window\.MathJax = .*?</script>", front))
    title = heading(articles[names[0]])
    return (
        HEAD.format(title=title, style=STYLE.read_text() + style, contents=table, cover=cover(title, about))
        + body
        + f"</main>{settings}{script}</body></html>\n"
    )


def cover(title, about):
    """The title page."""
    about = about or {}
    lines = [
        about.get("author"),
        about.get("abstract"),
        about.get("edition"),
        about.get("licence"),
        about.get("address"),
    ]
    told = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    return f'<header class="lb-cover"><p class="lb-cover-title">{title}</p>{told}</header>'


def facts(folder):
    """What the title page says, from _config.yml and CITATION.cff where they lie there."""
    config, citation = (
        yaml.safe_load((folder / name).read_text(encoding="utf-8")) if (folder / name).is_file() else {}
        for name in ("_config.yml", "CITATION.cff")
    )
    edition = " · ".join(
        f"{word} {value}"
        for word, value in (("Version", citation.get("version")), ("of", citation.get("date-released")))
        if value
    )
    return {
        "author": config.get("author"),
        "abstract": citation.get("title", "").partition(": ")[2].capitalize(),
        "edition": edition or None,
        "licence": config.get("html", {}).get("extra_footer"),
        "address": config.get("repository", {}).get("url"),
    }


def anchor(name):
    return f"page-{Path(name).name}"


def heading(article):
    return re.search(r"<h1>(.*?)<a class", article, re.S).group(1)


def entry(name, article):
    return f'<li><a href="#{anchor(name)}">{heading(article)}</a></li>'


def moved(site, name, articles, shared):
    """One page's article, its anchors unique in the whole book and its links and images within the file."""
    folder = (site / name).parent
    pages = {(site / f"{other}.html").resolve(): other for other in articles}

    def unique(page, one):
        return f"{anchor(page)}-{one}" if one in shared else one

    def reference(match):
        key, target = match.groups()
        if re.match(r"[a-z]+:", target) or not target:
            return match.group()
        path, _, fragment = target.partition("#")
        if key == "src":
            file = folder / path
            kind = mimetypes.guess_type(file.name)[0]
            return f'src="data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"'
        page = pages.get((folder / path).resolve()) if path else name
        if page is None:
            return ""  # a file that stays behind
        return f'{key}="#{unique(page, fragment) if fragment else anchor(page)}"'

    article = ASSET.sub("", articles[name])  # styles and scripts stand once, around the pages
    article = re.sub(r'(?<=\s)((?:xlink:)?href|src)="([^"]*)"', reference, article)
    once = set()

    def first(match):
        """A theorem names its anchor twice; the first one stays."""
        return match.group() if match[1] not in once and not once.add(match[1]) else ""

    article = re.sub(r'\sid="([^"]+)"', first, article)
    article = re.sub(
        r'(?<=\s)(id|for|aria-labelledby|aria-controls|aria-describedby)="([^"]+)"',
        lambda m: f'{m[1]}="{unique(name, m[2])}"',
        article,
    )
    return re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{unique(name, m[1])})", article)


def print_pdf(page, pdf, browser):
    """Print a page; a browser that fails leaves no PDF, and one sentence."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser,
            *PRINTING,
            f"--user-data-dir={profile}",
            f"--print-to-pdf={pdf.resolve()}",
            page.resolve().as_uri(),
        ]
        try:
            quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            subprocess.run(command, timeout=1200, check=True, **quiet)
            with pikepdf.open(pdf, allow_overwriting_input=True) as book:
                # a browser writes many small objects: packed, the book takes a third less
                book.save(pdf, object_stream_mode=pikepdf.ObjectStreamMode.generate, recompress_flate=True)
        except (OSError, subprocess.SubprocessError, pikepdf.PdfError):
            pdf.unlink(missing_ok=True)
            print(f"{browser} could not print the book, so the site has no PDF.")


def link(site, front):
    """Name on the front page the editions that exist."""
    page = site / f"{front}.html"
    up = "../" * front.count("/")
    links = [
        f'<a href="{up}{name}">{words}</a> ({size / 1e6:.0f} MB)'
        for name, words, size in (
            (SINGLE, "the book in one file", (site / SINGLE).stat().st_size),
            (PDF, "the book as a PDF", (site / PDF).stat().st_size if (site / PDF).exists() else 0),
        )
        if size
    ]
    text = page.read_text(encoding="utf-8")
    page.write_text(
        text.replace(PLACE, f'<p class="lb-editions">For reading offline: {", ".join(links)}.</p>'), encoding="utf-8"
    )
