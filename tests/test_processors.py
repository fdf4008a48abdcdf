"""The numbers under other processors' arithmetic: the tool finds what moves, and nothing that is printed does."""

import runpy

import nbformat
import pytest
import test_device_discipline
import torch

from tools import gpu, processors

#: The harshest settings, and the notebooks of which they once moved a cell.
MOVED = {
    "farthest": ["kim_networks", "mallada_weights", "rushka_closed_forms"],
    "avx2": ["kim_networks", "real_fine_tune"],
}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A book of one notebook, whose second cell was given an output that is not its own."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for tags, text in (([], "0.30"), ([], "0.31"), (["nbval-ignore-output"], "a time")):
        cell = nbformat.v4.new_code_cell("print('0.30')", metadata={"tags": tags}, execution_count=1)
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text + "\n")]
        notebook.cells.append(cell)
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks/small.ipynb")
    monkeypatch.setattr(processors, "ROOT", tmp_path)
    monkeypatch.setattr(processors, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(processors.closure, "needs", lambda name: [])
    monkeypatch.setattr(processors, "telling", lambda settings: settings)  # probes have a test of their own
    return tmp_path


def test_a_planted_difference_is_found_and_a_run_is_kept(small, capsys, monkeypatch):
    assert processors.main(["small", "--settings", "native", "--show"]) == 1
    said = capsys.readouterr().out
    assert "small, cell 2, under native:\n  - 0.31\n  + 0.30\n" in said
    assert "cell 1," not in said and "cell 3," not in said
    assert said.endswith("cells that differ  native\nsmall                   1\n")
    monkeypatch.setattr(processors, "execute", None)  # what was run is not run again
    assert processors.main(["small", "--settings", "native"]) == 1
    assert "1 of 1 runs are kept from before." in capsys.readouterr().out


def test_another_reference_is_compared_with_the_kept_run(small, capsys):
    processors.main(["small", "--settings", "native"])
    path = small / "notebooks/small.ipynb"
    path.write_text(path.read_text().replace("0.31", "0.30"))
    assert processors.main(["small", "--settings", "native"]) == 0
    assert "1 of 1 runs are kept from before." in capsys.readouterr().out


@pytest.mark.parametrize(
    "asked, said",
    [
        (["--settings", "avx9"], "There is no setting avx9: choose from native, default, "),
        (["nonsense"], "There is no notebook nonsense: choose from small."),
        (["--jobs", "0"], "--jobs must be at least 1, not 0."),
    ],
)
def test_an_unknown_name_gets_one_sentence(small, capsys, asked, said):
    assert processors.main(asked) == 2
    found = capsys.readouterr().out
    assert found.startswith(said) and found.count("\n") == 1


@pytest.mark.slow
def test_a_setting_is_left_out_where_it_tests_nothing_or_is_lacking(monkeypatch, capsys):
    monkeypatch.setitem(processors.SETTINGS, "idle", {"LORABOOK_IDLE": "1"})
    monkeypatch.setitem(processors.SETTINGS, "lacking", {"LORABOOK_DEVICE": "meta"})
    assert processors.telling(["native", "idle", "lacking"]) == ["native"]
    assert capsys.readouterr().out.splitlines() == [
        "native is how the build runs notebooks.",
        "idle is left out: it changes no bit on this machine, so it tests nothing.",
        "lacking is left out: this machine lacks it.",
    ]


def test_native_starts_without_what_the_settings_set(monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    values, whole = processors.environment("native")
    assert "ATEN_CPU_CAPABILITY" not in whole and whole["OMP_NUM_THREADS"] == "1" and values.items() <= whole.items()


def test_what_a_machine_needs_for_its_blas_stays(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setattr(processors, "FIXED", {"OPENBLAS_CORETYPE"})
    assert {processors.environment(name)[1]["OPENBLAS_CORETYPE"] for name in processors.SETTINGS} == {"Haswell"}


def test_a_result_is_kept_for_the_kernels_that_the_machine_chose(root, monkeypatch):
    path, places = root / "notebooks/rushka_low_rank.ipynb", set()
    for fixed in (set(), {"OPENBLAS_CORETYPE"}):
        for name in ("Haswell", "SkylakeX"):
            monkeypatch.setenv("OPENBLAS_CORETYPE", name)
            monkeypatch.setattr(processors, "FIXED", fixed)
            places.add(processors.place(path, "native"))
    assert len(places) == 3  # where the variable is one of the settings', its value outside is none


def test_other_signs_are_as_right_as_ours(monkeypatch):
    A = torch.randn(3, 5, 2, dtype=torch.float64) @ torch.randn(3, 2, 4, dtype=torch.float64)
    (U, s, Vh), (values, vectors) = torch.linalg.svd(A), torch.linalg.eigh(A.mT @ A)
    for name in ("svd", "eigh"):
        monkeypatch.setattr(torch.linalg, name, getattr(torch.linalg, name))
    runpy.run_path(processors.ROOT / "tools/signs/sitecustomize.py")
    (U2, s2, V2h), (values2, vectors2) = torch.linalg.svd(A), torch.linalg.eigh(A.mT @ A)
    torch.testing.assert_close((U2[..., :4] * s2[:, None]) @ V2h, A)
    torch.testing.assert_close(U2.mT @ U2, torch.eye(5, dtype=torch.float64).expand(3, 5, 5))
    torch.testing.assert_close(vectors2 @ torch.diag_embed(values2) @ vectors2.mT, A.mT @ A)
    turned = [(two - one).norm() / one.norm() for one, two in ((U, U2), (Vh, V2h), (vectors, vectors2))]
    assert min(turned) > 0.5 and (s == s2).all() and (values == values2).all()


def test_a_routine_that_differs_on_the_device_is_named(monkeypatch):
    shift = iter([0.0, 1e-3])

    def refuses(x):
        raise RuntimeError("no such kernel\nand a page of advice")

    planted = {"same": abs, "odd": lambda x: x + next(shift), "lacking": refuses}
    planted = {name: (routine, lambda: (torch.ones(2),)) for name, routine in planted.items()}
    monkeypatch.setattr(test_device_discipline, "GUARDED", planted)
    assert gpu.routines(torch.device("cpu")) == ["odd differs by 1.0e-03", "lacking stopped: no such kernel"]


def test_without_a_gpu_one_sentence_says_what_to_set(monkeypatch, capsys):
    monkeypatch.delenv("LORABOOK_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert capsys.readouterr().out == "There is no GPU here: set LORABOOK_DEVICE=cpu to try the steps on the CPU.\n"


@pytest.mark.slow
@pytest.mark.parametrize("setting", MOVED)
def test_no_number_moves_under_the_harshest_settings(setting, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processors, "RESULTS", tmp_path)
    held = processors.main([*MOVED[setting], "--settings", setting, "--show"]) == 0
    assert held, capsys.readouterr().out
