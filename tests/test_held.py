"""When a printed number moves, the failure says what moved, whether a verdict flips, and what to type."""

import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lorabook.page import claims, lists
from tests import held

CLAIM, ANOTHER = "real_fine_tune.one-step", "kim.table-1-random"


def card(identifier, **numbers):
    """The output of a verdict, as a kernel sends it."""
    data, metadata = claims.check(identifier, **numbers, over="here")._repr_mimebundle_()
    return new_output("execute_result", data=data, metadata=metadata, execution_count=1)


def text(*lines):
    return new_output("stream", name="stdout", text="\n".join(lines) + "\n")


def test_a_moved_value_is_told_as_old_and_new_with_its_band_and_the_verdict_that_stays():
    said = held.differences([card(CLAIM, value=10, probe=1.65)], [card(CLAIM, value=12, probe=1.58)])
    assert said == [
        f'  {CLAIM}: the verdict stays "holds in the range tested"',
        "    value: 10 -> 12",
        "    counter-probe: 1.65 -> 1.58",
        f"    wanted: {lists.find(CLAIM).wanted()}",
    ]


def test_a_verdict_that_flips_is_said_aloud():
    said = held.differences([card(CLAIM, value=10, probe=1.65)], [card(CLAIM, value=1, probe=1.65)])
    assert said[0] == f'  {CLAIM}: THE VERDICT FLIPS from "holds in the range tested" to "fails as printed"'
    assert "    note: nothing -> No corrected statement was measured" in said[2]


def test_all_that_moved_in_a_cell_is_told_not_the_first_alone():
    old = [text("a 1", "b 2", "c 3"), card(CLAIM, value=10, probe=1.65), card(ANOTHER, value=0.01, probe=1)]
    new = [text("a 1", "b 4", "c 5"), card(CLAIM, value=11, probe=1.65), card(ANOTHER, value=0.02, probe=1)]
    said = held.differences(old, new)
    assert said[:5] == ["  stdout:", "    was: b 2", "    is : b 4", "    was: c 3", "    is : c 5"]
    assert "    value: 10 -> 11" in said
    assert "    value: 0.01 -> 0.02" in said


def test_an_output_that_is_missing_or_new_moves_no_other():
    outputs = [text("first"), card(CLAIM, value=10, probe=1.65), card(ANOTHER, value=0.01, probe=1)]
    missing = held.differences(outputs, [outputs[0], outputs[2]])
    assert missing[0].startswith("  missing: ") and f"[holds in the range tested] {CLAIM}: " in missing[1]
    assert len(missing) == 2
    assert held.differences([outputs[2]], [outputs[0], outputs[2]])[1:] == ["    first"]
    assert held.differences(outputs, outputs) == []


def test_an_output_of_another_kind_is_told_as_one_that_is_missing_and_one_that_is_new():
    table = new_output("display_data", data={"text/plain": "a table"})
    said = held.differences([text("a line")], [table])
    assert [line.split(":")[0] for line in said] == ["  missing", "    a line", "  new", "    a table"]


def test_a_verdict_in_place_of_another_and_one_on_no_list_are_named():
    told = held.differences([card(CLAIM, value=10, probe=1.65)], [card(ANOTHER, value=0.01, probe=1)])
    assert told == [f"  {CLAIM}: no verdict on it; in its place stands {ANOTHER}"]
    unknown = held.claim_moved(
        {"id": "kim.nowhere", "verdict": "holds", "value": "1"}, {"id": "kim.nowhere", "verdict": "holds"}
    )
    assert unknown[1:] == ["    value: 1 -> nothing", "    No claim list has the claim 'kim.nowhere'."]


def test_a_claim_that_is_not_testable_is_told_with_its_reason():
    old = {"id": "kim.table-2-published", "verdict": "not testable here"}
    assert held.claim_moved(old, old | {"note": "a word"})[1:] == [
        "    note: nothing -> a word",
        f"    wanted: {lists.find('kim.table-2-published').reason}",
    ]


def test_the_plainest_text_that_moved_stands_for_an_output():
    def shown(plain, marked):
        return new_output("display_data", data={"text/html": marked, "text/markdown": marked, "text/plain": plain})

    assert held.differences([shown("a", "b")], [shown("c", "d")]) == ["  text/plain:", "    was: a", "    is : c"]
    assert held.differences([shown("a", "b")], [shown("a", "d")])[0] == "  text/markdown:"


def test_a_long_line_is_cut_around_its_first_difference_and_a_long_list_is_counted():
    said = held.differences([text("x" * 5000 + "1" + "y" * 5000)], [text("x" * 5000 + "2" + "y" * 5000)])
    assert all(len(line) < 200 for line in said) and "x1y" in said[1] and "x2y" in said[2]
    many = held.differences([text(*(f"{i} a" for i in range(50)))], [text(*(f"{i} b" for i in range(50)))])
    assert len(many) == held.MOST_LINES + 2 and many[-1] == "    and 60 lines more"


CHECK = "from lorabook.page import claims\nclaims.check({!r}, value={}, probe=1.65, over='here')"


@pytest.fixture(scope="module")
def report(root, tmp_path_factory):
    """What the test of a small notebook says after someone has changed a constant and more."""
    path = tmp_path_factory.mktemp("held") / "small.ipynb"

    def cell(source, *outputs):
        return new_code_cell(source, outputs=list(outputs), execution_count=1)

    cells = [
        new_markdown_cell("# Small\n\n## Table 2\n\nA table."),
        cell("print('before')\n" + CHECK.format(CLAIM, 12), text("before"), card(CLAIM, value=10, probe=1.65)),
        new_markdown_cell("Words."),
        cell("print('the same')", text("the same")),
        cell("print('b')", text("a")),
        new_markdown_cell("## Silence"),
        cell("pass", text("something")),
        cell("1 / 0", text("one")),
        cell("print(0.5)", text("0.25")),
    ]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "3"}}), path)
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider", "-p", "tests.held"]
    run = subprocess.run([*command, path], cwd=root, capture_output=True, text=True)
    assert run.returncode == 1, run.stdout + run.stderr
    return run.stdout


def test_a_changed_constant_fails_with_heading_claim_values_band_verdict_and_command(report):
    assert (
        "\n".join(
            [
                "small.ipynb, cell 2 (Table 2): what it prints has moved.",
                f'  {CLAIM}: the verdict stays "holds in the range tested"',
                "    value: 10 -> 12",
                f"    wanted: {lists.find(CLAIM).wanted()}",
                "If this is meant, type: make reference NOTEBOOKS=small",
                "and read what `git diff` shows.",
            ]
        )
        in report
    )


def test_a_moved_text_a_missing_output_and_an_error_are_each_told(report):
    assert "small.ipynb, cell 5 (Table 2): what it prints has moved.\n  stdout:\n    was: a\n    is : b\n" in report
    assert "small.ipynb, cell 7 (Silence): what it prints has moved.\n  missing: " in report
    assert "small.ipynb, cell 8 (Silence): stopped with ZeroDivisionError: division by zero\n1 / 0\n" in report
    assert "    was: 0.25\n    is : 0.5\n" in report


def test_the_cells_are_counted_as_the_build_counts_them_and_what_held_still_passes(report):
    failed = [line.split(" - ")[0].split("::")[1] for line in report.splitlines() if line.startswith("FAILED")]
    assert failed == ["Cell 2", "Cell 5", "Cell 7", "Cell 8", "Cell 9"]
    assert "5 failed, 1 passed" in report
