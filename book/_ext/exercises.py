"""Sphinx extension: the solutions of sphinx-exercise fold without a script, in every edition.

A solution becomes `<details>`, which every browser opens by mouse, keyboard and screen reader, and which print.js
opens for paper.  As it comes it is a box that a script folds, which the book in one file does not have.
"""

from docutils import nodes
from sphinx_exercise.nodes import depart_solution_node, solution_node, visit_solution_node

FOLD = (
    lambda translator, node: translator.body.append(
        translator.starttag(node, "details", CLASS="lb-solution") + "<summary>Solution</summary>\n"
    ),
    lambda translator, node: translator.body.append("</details>\n"),
)


def open_boxes(app, tree, page):
    """Drop the titles of solutions, and the sections in exercises and solutions, which all have the same name."""
    for solution in tree.findall(solution_node):
        solution.remove(solution.next_node(nodes.title))
    for section in list(tree.findall(nodes.section)):
        if section["ids"] in (["exercise-content"], ["solution-content"]):
            section["ids"] = []  # which the first of its children would inherit
            section.replace_self(section.children)


def setup(app):
    app.setup_extension("sphinx_exercise")
    app.connect("doctree-resolved", open_boxes)
    latex = (visit_solution_node, depart_solution_node)
    app.add_node(solution_node, override=True, html=FOLD, singlehtml=FOLD, latex=latex)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
