"""Where and in what precision: the choice of a device, and draws that are the same on every one."""

import numpy as np
import pytest
import torch

from lorabook import device

f64 = torch.float64


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(device.VARIABLE, raising=False)


def pretend_gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize("count, wanted", [(0, "cpu"), (1, "cuda"), (4, "cuda")])
def test_without_the_variable_a_gpu_is_taken_when_there_is_one(monkeypatch, count, wanted):
    pretend_gpus(monkeypatch, count)
    assert device.default_device() == torch.device(wanted)


@pytest.mark.parametrize(
    "value, wanted",
    [("cpu", "cpu"), (" cpu ", "cpu"), ("cuda", "cuda"), ("cuda:1", "cuda:1"), ("", "cuda"), ("  ", "cuda")],
)
def test_the_variable_decides(monkeypatch, value, wanted):
    pretend_gpus(monkeypatch, 2)
    monkeypatch.setenv("LORABOOK_DEVICE", value)
    assert device.default_device() == torch.device(wanted)


@pytest.mark.parametrize(
    "value, gpus, came",
    [
        ("gpu", 0, "LORABOOK_DEVICE='gpu' is not a device"),
        ("CPU0", 0, "LORABOOK_DEVICE='CPU0' is not a device"),
        ("cuda:-1", 1, "is not a device"),
        ("cpu;rm", 0, "is not a device"),
        ("mps", 0, "LORABOOK_DEVICE='mps' cannot hold float64"),
        ("meta", 0, "cannot hold float64"),
        ("cuda", 0, "LORABOOK_DEVICE='cuda' is not on this machine, which has 0 such"),
        ("cuda:2", 2, "LORABOOK_DEVICE='cuda:2' is not on this machine, which has 2 such"),
        ("cpu:1", 0, "is not on this machine"),
    ],
)
def test_a_device_that_is_not_there_gets_one_sentence(monkeypatch, value, gpus, came):
    pretend_gpus(monkeypatch, gpus)
    monkeypatch.setenv("LORABOOK_DEVICE", value)
    with pytest.raises(ValueError, match=came) as raised:
        device.default_device()
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message


@pytest.mark.parametrize("values", [0.1, 3, True, [0.1, 3], ((1,), (0.1,)), np.array([0.1, 0.2]), np.arange(3)])
def test_numbers_become_float64_tensors_without_loss(values):
    found = device.tensor(values, "cpu")
    assert found.dtype == f64 and found.tolist() == np.asarray(values, dtype=float).tolist()


def test_numbers_go_where_they_are_wanted_and_else_to_the_default_device(monkeypatch):
    monkeypatch.setattr(device, "default_device", lambda: torch.device("meta"))
    assert device.tensor([1.0]).is_meta and not device.tensor([1.0], "cpu").is_meta


def test_an_array_and_its_tensor_share_no_memory():
    values = np.zeros(3)
    found = device.tensor(values, "cpu")
    values[0] = 1.0
    assert found[0] == 0


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_draws_of_one_seed_are_equal_and_of_two_seeds_are_not(seed):
    first, again, other = (device.normal((50, 3), device.generator(s), "cpu") for s in (seed, seed, seed + 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.dtype == f64 and first.shape == (50, 3)


def test_a_generator_advances_from_draw_to_draw():
    source = device.generator(3)
    assert not torch.equal(device.normal((9,), source, "cpu"), device.normal((9,), source, "cpu"))


def test_a_draw_is_made_on_the_cpu_before_it_moves(monkeypatch):
    made = []
    randn = torch.randn

    def seen(*args, **kwargs):
        made.append(torch.device(kwargs["device"]).type)
        return randn(*args, **kwargs)

    monkeypatch.setattr(torch, "randn", seen)
    source, twin = device.generator(5), device.generator(5)
    assert device.normal((4, 2), source, "meta").is_meta and device.normal((4, 2), twin, "cpu").device.type == "cpu"
    # wherever the draw went, both generators stand at the same place afterwards
    assert made == ["cpu", "cpu"] and torch.equal(source.get_state(), twin.get_state())


def test_the_global_generator_is_neither_read_nor_moved():
    before = torch.get_rng_state()
    device.normal((100,), device.generator(1), "cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_go_to_the_default_device(monkeypatch):
    monkeypatch.setattr(device, "default_device", lambda: torch.device("meta"))
    assert device.normal((2,), device.generator(0)).is_meta


def test_draws_are_standard_normal():
    draw = torch.stack([device.normal((20_000,), device.generator(s), "cpu") for s in range(5)])
    # means of 20000 draws have the standard error 0.007, variances 0.01, fourth moments 0.07: four times each
    assert draw.mean(1).abs().max() < 0.03
    assert (draw.square().mean(1) - 1).abs().max() < 0.04 and (draw.pow(4).mean(1) - 3).abs().max() < 0.3


def test_the_description_is_one_line_and_names_the_precision():
    line = device.describe("cpu")
    assert "\n" not in line and line.startswith("CPU") and "torch" in line and line.endswith("float64")
    assert device.describe(torch.device("cpu")) == line
