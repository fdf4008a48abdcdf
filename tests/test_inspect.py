"""A saved adapter is read whole or refused with one sentence; nothing from its folder runs, nothing is written."""

import json
import math
import os
import pickle
import struct
import subprocess
import sys
import time

import pytest
import torch
from adapter_folders import adapted, bert, files, folder, gpt2, pair, run
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from lorabook import device, linalg
from lorabook.adapters import inspect_folder
from lorabook.adapters.inspect import measure
from lorabook.commands.options import Progress

f64 = torch.float64


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of an adapter that PEFT saved."""
    path = tmp_path_factory.mktemp("saved") / "adapter"
    adapted(bert()).save_pretrained(path)
    return path


# ---------------------------------------------------------------- measures


@pytest.mark.parametrize(
    "model, options, modules",
    [
        (
            bert,
            {
                "r": 3,
                "lora_alpha": 6,
                "target_modules": ["query", "output.dense"],
                "rank_pattern": {"query": 2},
                "alpha_pattern": {"value": 1, "output.dense": 4},
            },
            6,
        ),
        (
            bert,
            {
                "target_modules": "all-linear",
                "rank_pattern": {"query": 3, r"layer\.1\.attention\.self\.value": 1},
                "alpha_pattern": {"value": 9},
                "use_rslora": True,
            },
            13,
        ),
        (bert, {"layers_to_transform": [1], "layers_pattern": "layer"}, 2),
        (bert, {"exclude_modules": ["value"]}, 2),
        (bert, {"task_type": None}, 4),
        (bert, {"bias": "all"}, 4),
        (bert, {"bias": "lora_only"}, 4),
        (bert, {"bias": "all", "modules_to_save": ["LayerNorm"]}, 4),
        (bert, {"lora_bias": True}, 4),
        (bert, {"init_lora_weights": "gaussian"}, 4),
        (bert, {"init_lora_weights": "orthogonal"}, 4),
        (bert, {"init_lora_weights": "olora"}, 4),
        (bert, {"init_lora_weights": "pissa"}, 4),
        (bert, {"dtype": torch.float16}, 4),
        (bert, {"dtype": torch.bfloat16}, 4),
        (bert, {"dtype": f64}, 4),
        (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}, 6),
    ],
)
def test_measures_of_an_adapter_that_peft_saved_are_those_of_the_full_product(tmp_path, model, options, modules):
    model = adapted(model(), **options)
    model.save_pretrained(tmp_path)
    adapter, found = inspect_folder(tmp_path)
    layers = {
        name.removeprefix("base_model.model."): layer
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }
    assert {one.name for one in found} == layers.keys() and len(found) == modules
    for one in found:
        layer = layers[one.name]
        # PEFT forms the product in the adapter's dtype; a Conv1D gets its transpose
        X = layer.to(f64).get_delta_weight("default").detach()
        X = X.mT if "fan_in_fan_out" in options else X
        s = torch.linalg.svdvals(X)
        # float64 all through
        assert one.norm == pytest.approx(float(X.norm()), rel=1e-13) and one.largest == pytest.approx(
            float(s[0]), rel=1e-13
        )
        assert one.stable_rank == pytest.approx(float(s.square().sum() / s[0] ** 2), rel=1e-13)
        assert (
            one.rank == torch.linalg.matrix_rank(X)
            and one.energy_90 == int((s.square().cumsum(0) < 0.9 * s.square().sum()).sum()) + 1
        )
        assert (
            one.scale == layer.scaling["default"] and one.allowed == layer.r["default"] and one.shape == tuple(X.shape)
        )
        B, A = layer.lora_B["default"].weight.detach(), layer.lora_A["default"].weight.detach()
        assert one.imbalance == pytest.approx(float(linalg.balance(B, A).norm() / (A @ A.mT).norm()), rel=1e-12)
    # what is not a factor is left out by name, and nothing is lost
    factors = {f"base_model.model.{one.name}.lora_{half}.weight" for one in found for half in "AB"}
    assert (
        factors | adapter.skipped.keys() == load_file(tmp_path / "adapter_model.safetensors").keys()
        and not factors & adapter.skipped.keys()
    )


@pytest.mark.parametrize("m, n, r", [(40, 30, 5), (6, 50, 6), (3, 20, 8)])
def test_singular_values_come_from_the_factors_alone(m, n, r):
    B, A = pair(m, n, r)
    found = measure("x", B, A, 0.5)
    s = torch.linalg.svdvals(0.5 * B @ A)
    # rounding of float64, relative to the largest
    assert torch.allclose(
        torch.tensor(found.singular_values, dtype=f64)[: len(s)], s[:r], rtol=0, atol=1e-13 * float(s[0])
    )
    assert found.rank == min(m, n, r)


def test_a_known_spectrum_is_measured_exactly():
    source = device.generator(1)
    U, V = linalg.random_orthonormal(20, 4, source, "cpu"), linalg.random_orthonormal(15, 4, source, "cpu")
    s = torch.tensor([4.0, 2.0, 2.0, 1.0], dtype=f64)
    found = measure("x", U * s.sqrt(), (V * s.sqrt()).mT, 3.0)
    # 16 + 4 + 4 + 1 = 25: one value has 64 %, two have 80 %, three 96 %
    assert found.norm == pytest.approx(15, rel=1e-13) and found.stable_rank == pytest.approx(25 / 16, rel=1e-13)
    assert (found.rank, found.energy_90) == (4, 3) and found.imbalance < 1e-14
    assert measure("x", U * s.sqrt(), 2 * (V * s.sqrt()).mT, 1.0).imbalance == pytest.approx(0.75, rel=1e-13)
    rotated = linalg.random_orthonormal(4, 4, source, "cpu")
    other = measure("x", U * s.sqrt() @ rotated, rotated.mT @ (V * s.sqrt()).mT, 3.0)
    assert other.imbalance < 1e-14 and other.stable_rank == pytest.approx(found.stable_rank, rel=1e-13)


def test_an_untrained_adapter_is_zero():
    B, A = pair(8, 9, 3)
    found = measure("x", 0 * B, A, 1.0)
    assert (found.rank, found.energy_90, found.norm, found.stable_rank, found.imbalance) == (0, 0, 0.0, 0.0, 1.0)
    assert measure("x", B, 0 * A, 1.0).imbalance == math.inf


def test_numbers_whose_squares_are_too_small_are_measured_all_the_same():
    B, A = pair(8, 9, 3)
    exact, found = measure("x", B, A, 1.0), measure("x", 1e-200 * B, A, 1.0)
    # rounding of float64
    assert found.norm == pytest.approx(1e-200 * exact.norm, rel=1e-13) and found.stable_rank == pytest.approx(
        exact.stable_rank, rel=1e-13
    )
    assert (found.rank, found.energy_90) == (exact.rank, exact.energy_90)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rounding_of_the_stored_factors_does_not_count_as_rank(tmp_path, dtype):
    B, A = pair(60, 50, 2)
    mix, _ = pair(6, 6, 6, seed=3)
    path = folder(tmp_path / "a", {"x": (B @ mix[:2], mix[:, :2] @ A)}, dtype=dtype)
    (found,) = inspect_folder(path)[1]
    assert found.rank == 2 and found.allowed == 6
    exact = measure("x", B @ mix[:2], mix[:, :2] @ A, 1.0)
    # each factor is rounded to eps / 2
    assert found.norm == pytest.approx(exact.norm, rel=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(
    "config, scales",
    [
        ({"lora_alpha": 8}, [2.0, 2.0]),
        ({"lora_alpha": 8, "use_rslora": True}, [4.0, 4.0]),
        ({"lora_alpha": 8, "alpha_pattern": {"up": 12}}, [2.0, 3.0]),
        ({"lora_alpha": 8, "alpha_pattern": {r"layers\.\d+\.up": 12}}, [2.0, 3.0]),
        ({"lora_alpha": 8, "alpha_pattern": {"p": 12}}, [2.0, 2.0]),
        ({"lora_alpha": 8, "r": 7, "rank_pattern": {"up": 4, "down": 4}}, [2.0, 2.0]),
    ],
)
def test_scale_and_rank_follow_the_configuration(tmp_path, config, scales):
    path = folder(tmp_path / "a", {"layers.10.up": pair(5, 6, 4), "layers.2.down": pair(6, 5, 4)}, config)
    found = inspect_folder(path)[1]
    assert [one.name for one in found] == ["layers.2.down", "layers.10.up"]
    assert [one.scale for one in found] == scales


# ---------------------------------------------------------------- the command


def test_the_command_prints_a_table_that_fits(saved, capsys):
    assert run(saved) == 0
    out, err = capsys.readouterr()
    assert not err and out.isascii() and max(map(len, out.splitlines())) <= 100
    assert (
        "names begin with bert.encoder.layer." in out
        and "left out, saved whole" in out
        and "0.attention.self.query" in out
    )


def test_long_and_hostile_names_stay_in_their_column(tmp_path, capsys):
    path = folder(
        tmp_path / "a",
        {"x\x1b[31m." + "y" * 200 + ".one": pair(5, 6, 2), "z.two": pair(5, 6, 2)},
        {"base_model_name_or_path": "b\x1b[2J" * 90},
    )
    assert run(path) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and max(map(len, out.splitlines())) <= 100


def test_json_has_stable_keys_and_no_nan(tmp_path, capsys):
    B, A = pair(5, 6, 2)
    path = folder(tmp_path / "a", {"x": (B, 0 * A)}, {"init_lora_weights": "pissa"})
    assert run(path, "--json") == 0
    report = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert list(report) == ["format", "adapter", "modules", "faults", "skipped", "notes"]
    assert list(report["modules"][0]) == [
        "name",
        "shape",
        "allowed",
        "scale",
        "rank",
        "stable_rank",
        "energy_90",
        "norm",
        "largest",
        "imbalance",
        "singular_values",
        "step",
        "kind",
        "certificate",
        "base",
    ]
    assert (
        report["modules"][0]["imbalance"] is None
        and report["modules"][0]["certificate"] is None
        and "pissa" in report["notes"][0]
    )


def test_the_plot_is_one_svg_file(saved, tmp_path, capsys):
    assert run(saved, "--plot", tmp_path / "ranks.svg") == 0
    drawing = (tmp_path / "ranks.svg").read_text()
    assert (
        drawing.startswith("<svg")
        and "currentColor" in drawing
        and [entry.name for entry in tmp_path.iterdir()] == ["ranks.svg"]
    )


def test_the_module_runs_without_peft_and_without_network(saved, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import socket, sys\n"
        "def no(*a, **k): raise RuntimeError('network')\n"
        "socket.socket.connect = no\n"
        "sys.modules['peft'] = sys.modules['transformers'] = None\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "lorabook", "inspect", str(saved)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert (
        done.returncode == 0
        and "LoRA adapter with 4 modules" in done.stdout
        and "\x1b" not in done.stdout
        and not done.stderr
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["x", "--model", "y", "--data", "z"],
        ["x", "--model", "y", "--weight-decay", "1"],
        ["x", "--data", "z", "--weight-decay", "1"],
        ["x", "--weight-decay", "-1"],
        ["x", "--batch-size", "0"],
        ["x", "--top", "-1"],
        ["x", "--threshold", "1.5"],
        ["x", "--what"],
    ],
)
def test_wrong_options_are_exit_code_2(arguments, capsys):
    assert run(*arguments) == 2
    assert capsys.readouterr().err


class Terminal:
    """Takes what is written, and is a terminal or not."""

    def __init__(self, terminal):
        self.terminal, self.text = terminal, ""

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.mark.parametrize("terminal", [True, False])
def test_long_work_is_shown_on_a_terminal_as_a_bar_and_elsewhere_as_lines(monkeypatch, terminal):
    monkeypatch.setattr(sys, "stderr", Terminal(terminal))
    with Progress() as progress:
        progress("1 of 9 modules")
        assert not sys.stderr.text  # short work stays silent
        progress.begun, progress.last = progress.begun - 5, progress.last - 5
        if not terminal:
            progress.since = progress.since[0], progress.since[1] - 5, 1
        progress("2 of 9 modules")
        progress("against the base: 3 of 4 modules")
        progress("pass 1 of 2, batch 3")
    text = sys.stderr.text
    if terminal:
        assert "2/9" in text and "against the base: modules:  75%" in text and "pass 1 of 2, batch 3" in text
        assert "\n" not in text and text.endswith("\r")  # the bar is taken away
    else:
        assert text == "2 of 9 modules, about 35 s left\n"


def test_the_time_left_is_that_of_the_work_of_the_same_kind(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal(False))
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress()
    lines = ["3 of 6 modules", "6 of 6 modules", "beside: 0 of 9 modules", "beside: 1 of 9 modules"]
    for line, at in zip([*lines, "beside: 8 of 9 modules", "beside: 9 of 9 modules"], (0, 3, 6, 1206, 9606, 9700)):
        now[0] = at
        progress(line)
    assert sys.stderr.text.splitlines() == [
        "6 of 6 modules",
        "beside: 1 of 9 modules, about 3 h left",
        "beside: 8 of 9 modules, about 20 min left",
        "beside: 9 of 9 modules",
    ]


def test_short_work_after_long_work_stays_silent(monkeypatch):
    """As one batch of a certificate, after a base model that took its time to load."""
    monkeypatch.setattr(sys, "stderr", Terminal(False))
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress() as progress:
        for line, at in (("4 of 4 modules", 0), ("noise, batch 1", 9), ("pass 1 of 1, batch 1", 12)):
            now[0] = at
            progress(line)
        assert not sys.stderr.text
        now[0] = 15
        progress("pass 1 of 1, batch 2")
    assert sys.stderr.text == "pass 1 of 1, batch 2\n"


# ---------------------------------------------------------------- bad input


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def header(entries, body=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + body


def broken(path, kind):
    """A folder of the given kind of trouble, and what the sentence must say."""
    factors = {"x": pair(5, 6, 2)}
    weights, config = path / "adapter_model.safetensors", path / "adapter_config.json"
    if kind == "missing":
        return "There is no folder"
    if kind == "symbolic links in a circle":
        path.symlink_to(path)
        return "There is no folder"
    folder(path, factors)
    if kind == "pickle":
        weights.unlink()
        (path / "adapter_model.bin").write_bytes(pickle.dumps(Evil()))
        return "a pickle file, which can run code"
    if kind == "pickle under the other name":
        weights.write_bytes(pickle.dumps(Evil()))
        return "is not a whole safetensors file"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-7])
        return "is not a whole safetensors file"
    if kind == "empty":
        weights.write_bytes(b"")
        return "is not a whole safetensors file"
    if kind == "no weights":
        weights.unlink()
        return "has no adapter_model.safetensors"
    if kind == "no configuration":
        config.unlink()
        return "has no adapter_config.json"
    if kind == "truncated JSON":
        config.write_text('{"peft_type": "LORA", "r"')
        return "is not valid JSON"
    if kind == "deep JSON":
        config.write_text("[" * 100000)
        return "is not valid JSON"
    if kind == "large JSON":
        config.write_text(" " * (2**24 + 1))
        return "larger than"
    if kind == "a list":
        config.write_text("[]")
        return "does not name a kind of adapter"
    if kind == "huge claim":
        weights.write_bytes(
            header(
                {
                    "base_model.model.x.lora_A.weight": {
                        "dtype": "F32",
                        "shape": [2**40, 2**20],
                        "data_offsets": [0, 64],
                    }
                },
                bytes(64),
            )
        )
        return "is not a whole safetensors file"
    if kind == "huge header":
        weights.write_bytes(struct.pack("<Q", 2**62) + b"{}")
        return "is not a whole safetensors file"
    if kind == "sparse giant":
        entries = {
            f"base_model.model.x.lora_{half}.weight": {
                "dtype": "F16",
                "shape": shape,
                "data_offsets": [0, 2**31] if half == "A" else [2**31, 2**31 + 8],
            }
            for half, shape in (("A", [2, 2**29]), ("B", [2, 2]))
        }
        weights.write_bytes(header(entries))
        os.truncate(weights, len(header(entries)) + 2**31 + 8)
        return "claims the shape"
    changes = {
        "IA3": ({"peft_type": "IA3"}, "of the kind IA3"),
        "rank 0": ({"r": 0}, "rank r must be a whole number above 0"),
        "rank as text": ({"r": "2"}, "rank r must be"),
        "other rank": ({"r": 3}, "have rank 2, but adapter_config.json says 3"),
        "no alpha": ({"lora_alpha": None}, "lora_alpha must be a positive number"),
        "alpha NaN": ({"lora_alpha": float("nan")}, "lora_alpha must be"),
        "endless alpha": ({"lora_alpha": 10**400}, "lora_alpha must be"),
        "alpha as text": ({"lora_alpha": "2"}, 'says "2"'),
        "switch as text": ({"use_rslora": "no"}, "use_rslora must be true or false"),
        "negative rank": ({"r": -1}, "rank r must be"),
        "pattern": ({"alpha_pattern": {"(a+)+": 3}}, "too involved"),
        "bad pattern": ({"alpha_pattern": {"(a": 3}}, "not a regular expression"),
        "pattern as list": ({"rank_pattern": [1]}, "must map module names"),
        "parameters as text": ({"target_parameters": "w"}, "must be a list of names"),
        "grouped A": ({"use_qalora": True}, "sets use_qalora"),
    }
    tensors = {
        "whole numbers": (
            {"base_model.model.x.lora_A.weight": torch.ones(2, 6, dtype=torch.int64)},
            "is stored as I64",
        ),
        "NaN": ({"base_model.model.x.lora_A.weight": torch.full((2, 6), torch.nan)}, "NaN, infinite or above"),
        "infinite": ({"base_model.model.x.lora_B.weight": torch.full((5, 2), -torch.inf)}, "NaN, infinite or above"),
        "no product": ({"base_model.model.x.lora_A.weight": torch.ones(3, 6)}, "do not multiply"),
        "zero size": ({"base_model.model.x.lora_A.weight": torch.ones(2, 0)}, "are empty tensors, as ZeRO-3"),
    }
    if kind in changes:
        config.write_text(json.dumps(json.loads(config.read_text()) | changes[kind][0]))
        return changes[kind][1]
    if kind in tensors:
        save_file(load_file(weights) | tensors[kind][0], weights)
        return tensors[kind][1]
    if kind == "half a pair":
        save_file({"base_model.model.y.lora_A.weight": torch.ones(2, 3)}, weights)
        return "has only one of the factors"
    if kind == "only a head":
        save_file({"base_model.model.head.weight": torch.ones(2, 3)}, weights)
        return "holds no LoRA factors (saved whole, not as factors)"
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "pickle",
        "pickle under the other name",
        "truncated",
        "empty",
        "no weights",
        "no configuration",
        "truncated JSON",
        "deep JSON",
        "large JSON",
        "a list",
        "huge claim",
        "huge header",
        "sparse giant",
        "IA3",
        "grouped A",
        "rank 0",
        "negative rank",
        "rank as text",
        "other rank",
        "no alpha",
        "alpha NaN",
        "endless alpha",
        "alpha as text",
        "switch as text",
        "pattern",
        "bad pattern",
        "pattern as list",
        "parameters as text",
        "half a pair",
        "whole numbers",
        "NaN",
        "infinite",
        "symbolic links in a circle",
        "no product",
        "zero size",
        "only a head",
    ],
)
def test_a_folder_that_cannot_be_read_gets_one_sentence_and_is_left_alone(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    sentence = broken(tmp_path / "adapter", kind)
    before = files(tmp_path)
    assert run(tmp_path / "adapter", "--plot", tmp_path / "ranks.svg") == 1
    out, err = capsys.readouterr()
    assert not out and sentence in err and err.count("\n") == 1 and err.endswith(".\n") and len(err) < 400
    assert files(tmp_path) == before


def test_a_file_in_place_of_the_folder_is_named(tmp_path, capsys):
    path = folder(tmp_path / "a", {"x": pair(5, 6, 2)})
    assert run(path / "adapter_model.safetensors") == 1
    assert "give the folder" in capsys.readouterr().err


def test_an_adapter_in_an_inner_folder_is_pointed_at(tmp_path, capsys):
    model = get_peft_model(bert(), LoraConfig(r=2, target_modules=["query"]), adapter_name="mine")
    model.save_pretrained(tmp_path)  # PEFT puts an adapter of another name into a folder of this name
    assert run(tmp_path) == 1
    assert capsys.readouterr().err == f"lorabook: {tmp_path} has no adapter_config.json, but {tmp_path / 'mine'} has.\n"
    assert run(tmp_path / "mine") == 0


@pytest.mark.parametrize(
    "plot, sentence",
    [("ranks.png", "ends in .svg"), ("nowhere/ranks.svg", "There is no folder"), (".svg", "ends in .svg")],
)
def test_a_figure_that_cannot_be_written_is_refused_first(saved, tmp_path, capsys, plot, sentence):
    assert run(saved, "--plot", tmp_path / plot) == 1
    assert sentence in capsys.readouterr().err and not files(tmp_path)


def test_a_figure_that_exists_is_replaced_only_when_asked(saved, tmp_path, capsys):
    figure = tmp_path / "ranks.svg"
    figure.write_text("mine")
    assert run(saved, "--plot", figure) == 1
    out, err = capsys.readouterr()
    assert not out and "ranks.svg exists; give another name, or --overwrite" in err and figure.read_text() == "mine"
    assert run(saved, "--plot", figure, "--overwrite") == 0 and figure.read_text().startswith("<svg")


def test_a_figure_that_fails_late_leaves_nothing_behind(saved, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert run(saved, "--plot", tmp_path / "ranks.svg") == 1
    out, err = capsys.readouterr()
    assert not out and "ranks.svg cannot be written (No space left on device)." in err and not files(tmp_path)


def test_what_is_left_out_is_said(tmp_path, capsys):
    more = {
        "base_model.model.head.weight": torch.ones(2, 3),
        "base_model.model.x.lora_B.bias": torch.ones(5),
        "base_model.model.emb.token_adapter.trainable_tokens_delta": torch.ones(2, 3),
        "base_model.model.head.original_module.weight": torch.ones(2, 3),
    }
    assert run(folder(tmp_path / "a", {"x": pair(5, 6, 2)}, more=more)) == 0
    out = capsys.readouterr().out
    for why in ("saved whole", "bias of an adapter", "rows of an embedding", "the base model's own"):
        assert f"left out, {why}" in out


@pytest.mark.parametrize(
    "key, what",
    [
        ("head.weight", "saved whole, not as factors (1)"),
        ("x.lora_B.bias", "bias of an adapter (1)"),
        ("emb.token_adapter.trainable_tokens_delta", "rows of an embedding (1)"),
        ("x.lora_magnitude_vector", "magnitudes of DoRA (1)"),
        ("head.original_module.weight", ""),
    ],
)
def test_an_adapter_does_nothing_only_where_the_folder_holds_nothing_else(tmp_path, capsys, key, what):
    B, A = pair(5, 6, 2)
    assert run(folder(tmp_path / "a", {"x": (0 * B, A)}, more={f"base_model.model.{key}": torch.ones(5)})) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert ("so the adapter does nothing." in out) == (not what)
    if what:
        assert f"so the low-rank part does nothing; the folder also holds {what}, which may change the model." in out


@pytest.mark.parametrize("size, over", [(1.0, False), (1e5, True)])
def test_a_merge_that_overflows_the_base_is_no_rounding(tmp_path, capsys, size, over):
    path = folder(tmp_path / "a", {"x": (torch.eye(4), size * torch.eye(4))})
    (tmp_path / "b").mkdir()
    save_file({"x.weight": torch.eye(4).half()}, tmp_path / "b" / "model.safetensors")
    assert run(path, "--model", tmp_path / "b", "--top", "0") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert ("the merged weights of 1 of 1 module overflow" in out) == over and "to rounding" not in out
    # nothing of what was left out
    assert "intruders" not in out and "left, right" not in out and "spectral" not in out
    assert run(path, "--model", tmp_path / "b", "--top", "0", "--json") == 0
    base = json.loads(capsys.readouterr().out)["modules"][0]["base"]
    assert base["overflows"] == 4 * over and (base["lost"] is None) == over
    assert run(path, "--model", tmp_path / "b") == 0
    assert "intruders: of the leading 4" in capsys.readouterr().out
