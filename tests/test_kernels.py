"""Kernels talk through sockets of their own: no port, no race, nothing left behind."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
import zmq

from lorabook.sweep.kernels import TRIES
from tools import kernels

# The kernel opens one socket by itself, for what its own children print; it takes whatever port is free as it binds.
PORTS = """import psutil
from ipykernel.kernelapp import IPKernelApp

own = IPKernelApp.instance().iopub_thread._pipe_port
print([one for one in psutil.Process().net_connections("tcp") if one.laddr.port != own])"""
BY_NBVAL = """
import conftest, nbval.kernel
manager, client = nbval.kernel.start_new_kernel()
print(manager.transport, manager.ip)
client.stop_channels()
manager.shutdown_kernel(now=True)
"""


@pytest.fixture
def short():
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def a_notebook(path):
    """A notebook that prints the TCP sockets on which its kernel is reached, and holds that there is none."""
    cells = [nbformat.v4.new_code_cell("n = 1", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(PORTS)]
    cells[1].execution_count = 1
    cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="[]\n")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def python(folder, root, *arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(root)} | environment,
        capture_output=True,
        text=True,
    )


def test_papermill_opens_no_port_and_leaves_no_socket(short, root):
    a_notebook(short / "ports.ipynb")
    script = "from tools import notebooks; notebooks.run('ports.ipynb', 'out/ports.ipynb')"
    (short / "sockets").mkdir()
    run = python(short, root, "-c", script, TMPDIR=str(short / "sockets"))
    assert run.returncode == 0, run.stderr
    assert nbformat.read(short / "out/ports.ipynb", as_version=4).cells[1].outputs[0].text == "[]\n"
    assert list((short / "sockets").iterdir()) == []


def test_nbval_opens_no_port_and_leaves_no_socket(short, root):
    a_notebook(short / "ports.ipynb")
    (short / "sockets").mkdir()
    (short / "conftest.py").write_text((root / "conftest.py").read_text())
    run = python(short, root, "-m", "pytest", "-q", "--nbval", "ports.ipynb", TMPDIR=str(short / "sockets"))
    assert "2 passed" in run.stdout, run.stdout
    assert list((short / "sockets").iterdir()) == []


def test_a_kernel_starts_where_the_path_of_the_temporary_folder_is_too_long_for_a_socket(short, root):
    long = short / ("x" * 90)
    long.mkdir()
    run = python(root, root, "-c", BY_NBVAL, TMPDIR=str(long))
    assert run.returncode == 0, run.stderr
    transport, prefix = run.stdout.split()
    assert transport == "ipc" and not Path(prefix).is_relative_to(long) and not Path(prefix).parent.exists()


def test_two_kernels_share_no_address():
    first, second = kernels.Manager(), kernels.AsyncManager()
    assert first.transport == second.transport == "ipc" and first.ip != second.ip


def test_without_such_sockets_a_kernel_listens_on_tcp(monkeypatch):
    monkeypatch.setattr(zmq, "has", lambda name: False)
    assert kernels.Manager().transport == "tcp"


@pytest.mark.parametrize("words", ["Kernel died before replying to kernel_info", "Kernel didn't respond in 60 seconds"])
def test_a_start_that_lost_a_race_is_tried_again_and_not_for_ever(words):
    starts = []

    def lose(times):
        starts.append(1)
        if len(starts) <= times:
            raise RuntimeError(words)
        return "started"

    assert kernels.patient(lose)(2) == "started" and len(starts) == 3
    starts.clear()
    with pytest.raises(RuntimeError, match=words):
        kernels.patient(lose)(9)
    assert len(starts) == TRIES


def test_another_error_is_not_tried_again():
    starts = []

    def fail():
        starts.append(1)
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        kernels.patient(fail)()
    assert len(starts) == 1


STARTS = 250
MANY = {
    "nbval": """
import sys
from tools.kernels import Manager
for _ in range(int(sys.argv[1])):
    manager = Manager()
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    print("started", flush=True)
""",
    "papermill": """
import sys, papermill
from tools.kernels import AsyncManager
for _ in range(int(sys.argv[1])):
    papermill.execute_notebook("ports.ipynb", "out.ipynb", kernel_manager_class=AsyncManager, progress_bar=False)
    print("started", flush=True)
""",
}


@pytest.mark.slow
def test_of_five_hundred_kernels_started_in_pairs_none_fails(short, root):
    a_notebook(short / "ports.ipynb")
    (short / "sockets").mkdir()
    surroundings = os.environ | {"PYTHONPATH": str(root), "TMPDIR": str(short / "sockets")}
    running = {
        name: subprocess.Popen(
            [sys.executable, "-c", script, str(STARTS)],
            cwd=short,
            env=surroundings,
            stdout=subprocess.PIPE,
            stderr=(short / f"{name}.txt").open("w"),
            text=True,
        )
        for name, script in MANY.items()
    }
    started = {name: process.communicate()[0].count("started") for name, process in running.items()}
    assert started == dict.fromkeys(MANY, STARTS), [(short / f"{name}.txt").read_text()[-2000:] for name in MANY]
    assert list((short / "sockets").iterdir()) == []
