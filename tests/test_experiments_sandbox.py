"""Generated code: what it does to others, and what it takes too much of, counts as failed, and the next one runs."""

import contextlib
import os
import pathlib
import socket
import sys
import time

import pytest

from lorabook.experiments import ExperimentError, sandbox

shut = pytest.mark.usefixtures("shut_in")


@shut
@pytest.mark.parametrize(
    "program, passes",
    [
        ("import math, re, collections\nassert math.gcd(12, 18) == 6", True),
        ("open('/tmp/own', 'w').write('x')\nassert open('/tmp/own').read() == 'x'", True),  # its own folder
        ("x = bytearray(100 * 2**20)", True),
        ("print('x' * 10**7)", True),  # nobody keeps it
        ("assert False", False),
        ("def f(:", False),
        ("import sys; sys.exit(0)", False),  # it did not come to its end
        ("import os; os._exit(0)", False),
        ("import os\nfor k in range(3, 64):\n try: os.write(k, b'0' * 32)\n except OSError: pass\nos._exit(0)", False),
        ("import numpy", False),
        ("x = bytearray(2**29)", False),
        ("x = []\nwhile True: x.append('x' * 2**20)", False),
        ("open('/tmp/own', 'w').write('x' * 2**25)", False),
        ("import os\nassert len(os.environ) <= 3", True),  # nothing of ours is handed on
    ],
)
def test_a_program_passes_if_it_comes_to_its_end_within_its_limits(program, passes):
    assert sandbox.passes(program, 5.0, 2**28) == passes


@shut
@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(60)", "input = open(0).read; 1 / 0"])
def test_a_loop_is_ended_and_the_next_program_runs(program):
    begun = time.monotonic()
    assert not sandbox.passes(program, 1.0)
    assert time.monotonic() - begun < 4
    assert sandbox.passes("pass", 5.0)


@shut
def test_what_a_program_began_ends_with_it():
    mark = f"left-{os.getpid()}"
    program = f"""import os, sys, time
if os.fork() == 0:
    os.setsid()
    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", {mark!r}])
time.sleep(0.3)
"""
    assert sandbox.passes(program, 5.0)
    left = []
    for place in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            left += [place] if mark.encode() in place.read_bytes() else []
    assert left == []


@shut
def test_there_is_no_network(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        reach = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2).close()"
        assert not sandbox.passes(reach, 5.0)
        with pytest.raises(TimeoutError):
            server.accept()
        exec(reach, {})  # from here it is reached
        server.accept()[0].close()
    path = str(tmp_path / "door")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert not sandbox.passes(f"import socket\nsocket.socket(socket.AF_UNIX).connect({path!r})", 5.0)


@shut
def test_no_file_outside_is_read_written_or_removed(tmp_path):
    place = tmp_path / "secret"
    place.write_text("mine")
    home = os.path.dirname(sandbox.__file__)
    for program in (
        f"open({str(place)!r}).read()",
        f"open({str(place)!r}, 'w').write('x')",
        f"open({str(tmp_path / 'new')!r}, 'w').write('x')",
        f"import os; os.remove({str(place)!r})",
        f"import os; os.listdir({home!r})",
        "import os; open(os.__file__, 'a')",  # Python's own files stand still
        "open('/usr/x', 'w')",
        "import os; os.listdir('/proc/1')",
        "import os; os.listdir('/old/home')",
    ):
        assert not sandbox.passes(program, 5.0), program
    assert place.read_text() == "mine" and os.listdir(tmp_path) == ["secret"]


@shut
def test_what_is_read_only_stays_so():
    # the second mount would make it writable, if the program had the right to
    again = "import ctypes\nassert ctypes.CDLL(None).mount(None, b'/usr', None, 32 | 4096, None) == 0"
    assert not sandbox.passes(again, 5.0)


def test_where_a_program_cannot_be_shut_in_nothing_runs(monkeypatch):
    monkeypatch.setattr(sandbox, "TOOLS", ("unshare-of-nobody",))
    sandbox.needed.cache_clear()
    try:
        with pytest.raises(ExperimentError, match="Generated code is not run here: it takes Linux with unshare-of-"):
            sandbox.passes("pass")
        monkeypatch.setattr(sandbox, "TOOLS", ())
        monkeypatch.setattr(sandbox, "_passes", lambda *_: False)
        if sys.platform.startswith("linux"):
            with pytest.raises(ExperimentError, match="does not let a process have namespaces of its own"):
                sandbox.passes("pass")
    finally:
        sandbox.needed.cache_clear()
