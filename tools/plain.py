"""The prose of a text notebook as plain Markdown and HTML, which JupyterLab, Colab, VS Code and GitHub all read.

`X.md` is written for the site: roles, directives and anchors that only Sphinx knows. `X.ipynb`, which people open
elsewhere, holds the same text in this plain form: anchors as HTML, theorems and exercises as quotations, solutions as
folds, citations as links, links to other pages as links to the site. Code cells are the same in both.
"""

import re
from functools import cache
from pathlib import Path

import yaml
from docutils.nodes import make_id

from tools.notebooks import Trouble

ROOT = Path(__file__).resolve().parent.parent
CODE = re.compile(r"(^```(?!\{).*?^```[ \t]*$)", re.M | re.S)
ANCHOR = re.compile(r"^\(([^()\s]+)\)=\n?", re.M)
BLOCK = re.compile(r"^(`{3,}|:{3,})\{([\w:]+)\}[ \t]*([^\n]*)\n(.*?)^\1[ \t]*$", re.M | re.S)
OPTION = re.compile(r"^:([\w-]+):[ \t]*(.*)\n", re.M)
ROLE = re.compile(r"\{([\w:]+)\}`([^`]+)`")
LINK = re.compile(r"\]\((?![a-z]+:)([^)\s]+)\)")
HEADING = re.compile(r"^#\s+(.*)$", re.M)
LABEL = re.compile(r"^:label:[ \t]*(\S+)[ \t]*$", re.M)
MOVING = "*What moves here moves on [the page]({}) alone.*"


def prose(source, page):
    """A Markdown cell of the page `notebooks/<name>` in plain form.

    Raises:
        Trouble: a role or directive that has no plain form, a citation or label that is unknown.
    """
    source = BLOCK.sub(lambda found: block(page, *found.groups()[1:]), source)
    return "".join(part if k % 2 else between(part, page) for k, part in enumerate(CODE.split(source)))


def between(source, page):
    """Prose between blocks of code."""
    source = ANCHOR.sub(lambda found: f'<a id="{found[1]}"></a>\n\n', source)
    source = ROLE.sub(lambda found: role(page, *found.groups()), source)
    return LINK.sub(lambda found: f"]({target(page, found[1])})", source)


def cells(notebook, page):
    """The same notebook with its prose in plain form."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = prose(cell.source, page)
    return notebook


def block(page, kind, title, body):
    """A directive: a theorem, a warning or an exercise as a quotation, a solution as a fold, raw HTML as a pointer to
    the page where it works."""
    if kind in ("raw", "explorable"):
        return MOVING.format(address(page))
    if kind == "solution":
        return f"<details>\n<summary>Solution</summary>\n\n{OPTION.sub('', body).strip()}\n\n</details>"
    name = kind.removeprefix("prf:")
    if name not in ("theorem", "proposition", "lemma", "definition", "warning", "exercise"):
        raise Trouble(f"{page}: a directive {kind} has no plain form.")
    options = dict(OPTION.findall(body))
    words = OPTION.sub("", body).strip()
    anchor = f'<a id="{options["label"]}"></a>' if "label" in options else ""
    head = f"**{name.capitalize()}{f' ({title})' if title else ''}.**"
    return "\n".join(f"> {line}".rstrip() for line in f"{anchor}{head}\n\n{words}".splitlines())


def role(page, kind, text):
    """A role: a citation, another page, a theorem, a verdict of the ledger."""
    if kind in ("cite", "cite:p", "cite:t"):
        made = [citation(key.strip(), kind == "cite:t") for key in text.split(",")]
        return ", ".join(made) if kind == "cite:t" else f"({'; '.join(made)})"
    if kind == "doc":
        other = resolved(page, text)
        return f"[{heading(other)}]({address(other)})"
    if kind == "prf:ref":
        return f"[{titles().get(text) or unknown(page, text)}]({target(page, f'#{text}')})"
    if kind == "glue:text":
        claim = text.partition("verdict-")[2].partition(":")[0]
        return f"[verdict]({address('notebooks/ledger')}#{make_id(f'row-{claim}')})"
    raise Trouble(f"{page}: a role {kind} has no plain form.")


def citation(key, textual):
    """Authors and year, linked to where the work can be read."""
    entry = works().get(key)
    if entry is None:
        raise Trouble(f"book/references.bib has no {key}.")
    names = [" ".join(person.last_names).translate({123: None, 125: None}) for person in entry.persons["author"]]
    who = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
    year, note = entry.fields["year"], entry.fields.get("note", "")
    preprint = re.search(r"arXiv:(\S+)", note)
    where = entry.fields.get("url") or (f"https://arxiv.org/abs/{preprint[1]}" if preprint else None)
    where = where or (f"https://doi.org/{entry.fields['doi']}" if "doi" in entry.fields else address("book/references"))
    return f"[{who} ({year})]({where})" if textual else f"[{who}, {year}]({where})"


def target(page, link):
    """Where a link of the text leads from a notebook opened anywhere: within it, or to the site."""
    file, _, label = link.partition("#")
    if not file:
        home = labels().get(label) or unknown(page, label)
        return f"#{label}" if home == page else f"{address(home)}#{make_id(label)}"
    return address(resolved(page, file.removesuffix(".md").removesuffix(".ipynb"))) + (f"#{label}" if label else "")


def unknown(page, label):
    raise Trouble(f"{page} refers to {label}, which no page defines.")


def resolved(page, link):
    """The page that a relative link means, as in _toc.yml."""
    path = (ROOT / page).parent.joinpath(link).resolve()
    return str(path.relative_to(ROOT))


def address(page):
    """The page on the site."""
    return f"{site()}/{page}.html"


@cache
def site():
    """Where the site is published: GitHub's pages of the repository that _config.yml names."""
    owner, name = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"].split("/")[-2:]
    return f"https://{owner}.github.io/{name}"


@cache
def works():
    """The bibliography by key."""
    from pybtex.database import parse_file

    return parse_file(str(ROOT / "book/references.bib")).entries


@cache
def pages():
    """The text of every page that may be linked, by its name in _toc.yml."""
    found = [*ROOT.glob("notebooks/*.md"), *ROOT.glob("book/*.md"), *ROOT.glob("data/*.md")]
    return {str(path.relative_to(ROOT).with_suffix("")): path.read_text(encoding="utf-8") for path in found}


@cache
def labels():
    """The page of every label."""
    return {
        label: page for page, text in pages().items() for pattern in (ANCHOR, LABEL) for label in pattern.findall(text)
    }


@cache
def titles():
    """The name of every theorem, by its label."""
    found = {}
    for text in pages().values():
        for _, kind, title, body in BLOCK.findall(text):
            label = LABEL.search(body)
            if label and kind.startswith("prf:"):
                found[label[1]] = title or f"this {kind.removeprefix('prf:')}"
    return found


def heading(page):
    """The title of a page."""
    return HEADING.search(pages()[page])[1] if page in pages() else unknown("A page", page)
