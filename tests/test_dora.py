"""DoRA beside its base: the merged weight, what of it a dtype keeps and what overflows, against PEFT's own merges."""

import json

import pytest
import torch
from adapter_folders import adapted, folder, noise, pair, run
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorabook import device
from lorabook.adapters import inspect_folder
from lorabook.adapters.against_base import against_base

pytestmark = pytest.mark.filterwarnings("ignore")
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class One(nn.Module):
    """A model of one layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, given):
        return self.layer(given)


LAYERS = {
    "linear": lambda: nn.Linear(12, 9),
    "square linear": lambda: nn.Linear(10, 10),
    "Conv1D": lambda: Conv1D(9, 12),
    "square Conv1D": lambda: Conv1D(10, 10),
    "embedding": lambda: nn.Embedding(14, 6),
    "square embedding": lambda: nn.Embedding(8, 8),
    "convolution": lambda: nn.Conv2d(4, 6, 3),
    "pointwise convolution": lambda: nn.Conv2d(6, 6, 1),
    "convolution in one dimension": lambda: nn.Conv1d(4, 6, 3),
}


def plain(kind, dtype=torch.float32):
    torch.manual_seed(0)
    return One(LAYERS[kind]()).to(dtype)


def saved(tmp_path, kind, dtype, size=0.1, stretch=1.0):
    """A base and its DoRA adapter in their folders, all of whose magnitudes are moved."""
    (tmp_path / "b").mkdir(exist_ok=True)
    save_file(plain(kind, dtype).state_dict(), tmp_path / "b" / "model.safetensors")
    made = adapted(plain(kind), size=size, target_modules=["layer"], task_type=None, use_dora=True)
    for name, one in made.named_parameters():
        if "magnitude" in name:
            factors = 1 + 0.3 * device.normal(one.shape, device.generator(3), "cpu")
            one.data.mul_(stretch * factors.to(one))
    made.save_pretrained(tmp_path / "a")
    return tmp_path / "a", tmp_path / "b"


def merged(path, kind, dtype, work=None):
    """The weight that PEFT merges, of a base in ``dtype``, computed in ``work``."""
    model = PeftModel.from_pretrained(plain(kind, dtype).to(work or dtype), path)
    return (model.to(work) if work else model).merge_and_unload().layer.weight.detach().double()


def beside(path, base, **options):
    (found,) = against_base([inspect_folder(path)[0]], base, **options)
    return found


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LAYERS)
def test_what_stands_beside_the_base_is_the_change_that_peft_merges(tmp_path, kind, dtype):
    path, base = saved(tmp_path, kind, dtype)
    one = beside(path, base, top=3)["layer"]
    W0, W = plain(kind, dtype).layer.weight.double(), merged(path, kind, dtype, torch.float64)
    flat = lambda weight: weight.mT if "Conv1D" in kind else weight.flatten(1)
    change = flat(W - W0)
    assert one.dora == "whole change" and not one.undefined
    # PEFT's scale is one of float64, the factors are the stored ones
    assert one.ratio == pytest.approx(float(change.norm() / W0.norm()), rel=1e-6)
    U, s, Vh = torch.linalg.svd(flat(W0), full_matrices=False)
    assert one.spectral_ratio == pytest.approx(float(torch.linalg.matrix_norm(change, 2) / s[0]), rel=1e-6)
    share = lambda part: float(part.square().sum() / change.square().sum())
    assert one.left == pytest.approx(share(U[:, :3].mT @ change), rel=1e-5)
    assert one.right == pytest.approx(share(change @ Vh[:3].mT), rel=1e-5)
    new = torch.linalg.svd(flat(W), full_matrices=False).U[:, :3]
    assert one.intruders == int(((new.mT @ U).abs().amax(1) < 0.5).sum())
    lost = float((merged(path, kind, dtype) - W).norm() / change.norm())
    if dtype == torch.float32:  # PEFT's own work is in float32, too
        assert one.lost <= lost * 1.01 and lost < 10 * one.lost
    else:  # which rounds a few entries to the other side
        assert one.lost == pytest.approx(lost, rel=0.02)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear", "Conv1D", "embedding", "convolution"])
def test_neither_sentence_of_a_merge_is_said_of_the_direction_part_alone(tmp_path, capsys, kind):
    """Small X beside bfloat16, which the magnitudes move; large X beside float16, which they hold down."""
    for dtype, size, stretch in ((torch.bfloat16, 1e-4, 1.2), (torch.float16, 600.0, 1.0)):
        path, base = saved(tmp_path, kind, dtype, size, stretch)
        if dtype == torch.float16:
            weights = load_file(path / WEIGHTS)
            for key in (key for key in weights if "magnitude" in key):
                weights[key] = weights[key].fill_(2.0)
            save_file(weights, path / WEIGHTS)
        one, out = beside(path, base)["layer"], merged(path, kind, dtype)
        assert one.lost < 0.05 and one.overflows == 0 and bool(out.isfinite().all())
        assert run(path, "--model", base, "--top", 0) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "a merge would lose" not in said and "overflow the dtype" not in said
        assert "DoRA: beside the base X stands for the whole change" in said


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear", "Conv1D", "embedding", "convolution"])
def test_an_overflow_is_that_of_the_merged_weight(tmp_path, capsys, kind):
    path, base = saved(tmp_path, kind, torch.float16, stretch=1e7)
    one, out = beside(path, base)["layer"], merged(path, kind, torch.float16)
    assert one.overflows == int(out.isinf().sum()) > 0
    assert run(path, "--model", base) == 0
    assert "the merged weights of 1 of 1 module overflow the dtype of the base" in " ".join(
        capsys.readouterr().out.split()
    )


def test_magnitudes_at_the_norms_of_the_base_leave_no_change_where_x_is_0(tmp_path):
    path, base = saved(tmp_path, "linear", torch.float32)
    weights = load_file(path / WEIGHTS)
    name = "base_model.model.layer"
    weights[f"{name}.lora_B.weight"].zero_()
    weights[f"{name}.lora_magnitude_vector"] = plain("linear").layer.weight.detach().norm(dim=1)
    save_file(weights, path / WEIGHTS)
    # float32 norms
    assert beside(path, base)["layer"].ratio < 1e-6


@pytest.mark.parametrize("kind", ["linear", "embedding", "convolution"])
@pytest.mark.parametrize("fault", ["none", "short", "NaN"])
def test_without_magnitudes_nothing_is_said_of_a_merge(tmp_path, capsys, kind, fault):
    path, base = saved(tmp_path, kind, torch.bfloat16, size=1e-6)
    weights = load_file(path / WEIGHTS)
    for key in [key for key in weights if "magnitude" in key]:
        m = weights.pop(key)
        if fault != "none":
            weights[key] = m.flatten()[:-1].clone() if fault == "short" else m * torch.nan
    save_file(weights, path / WEIGHTS)
    one, X = beside(path, base)["layer"], inspect_folder(path)[1][0]
    assert (one.dora, one.lost, one.unchanged, one.overflows) == ("direction part", None, None, 0)
    # float64, of the stored numbers
    norm = float(plain(kind, torch.bfloat16).layer.weight.detach().double().norm())
    assert one.ratio == pytest.approx(X.norm / norm, rel=1e-12)
    assert run(path, "--model", base, "--top", 0) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "DoRA: no magnitudes are known that fit 1 module." in said and "a merge would lose" not in said


@torch.no_grad()
def test_magnitudes_without_use_dora_are_dropped_and_the_merge_is_that_of_lora(tmp_path, capsys):
    path, base = saved(tmp_path, "linear", torch.bfloat16)
    config = json.loads((path / CONFIG).read_text())
    (path / CONFIG).write_text(json.dumps(config | {"use_dora": False}))
    one, W0 = beside(path, base)["layer"], plain("linear", torch.bfloat16).layer.weight.double()
    exact = merged(path, "linear", torch.bfloat16, torch.float64)
    assert one.dora == ""
    assert one.ratio == pytest.approx(float((exact - W0).norm() / W0.norm()), rel=1e-6)
    lost = float((merged(path, "linear", torch.bfloat16) - exact).norm() / (exact - W0).norm())
    # a few entries are rounded to the other side
    assert one.lost == pytest.approx(lost, rel=0.02)
    assert run(path, "--model", base) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "does not set use_dora, so PEFT drops the magnitudes" in said and "whole change" not in said


@torch.no_grad()
def test_a_row_of_zeros_has_no_direction_and_peft_makes_nan_of_it(tmp_path, capsys):
    model = plain("linear")
    model.layer.weight[2] = 0
    (tmp_path / "b").mkdir()
    save_file(model.state_dict(), tmp_path / "b" / "model.safetensors")
    made = adapted(model, size=0.0, target_modules=["layer"], task_type=None, use_dora=True)
    made.save_pretrained(tmp_path / "a")
    assert bool(made(noise(3, 12)).isnan().any()) and bool(made.merge_and_unload().layer.weight[2].isnan().all())
    one = beside(tmp_path / "a", tmp_path / "b")["layer"]
    assert one.undefined == 1 and one.lost is None and one.ratio < 1e-6
    assert run(tmp_path / "a", "--model", tmp_path / "b") == 0
    assert "of zeros in layer. PEFT divides by their norm" in " ".join(capsys.readouterr().out.split())


def test_magnitudes_of_another_format_are_not_taken_for_those_of_peft(tmp_path):
    B, A = pair(6, 5, 2)
    kohya = {"x.lora_up.weight": B, "x.lora_down.weight": A, "x.dora_scale": torch.ones(6, 1)}
    save_file({key: one.float().contiguous() for key, one in kohya.items()}, tmp_path / "k.safetensors")
    (tmp_path / "b").mkdir()
    save_file({"x.weight": noise(6, 5)}, tmp_path / "b" / "model.safetensors")
    one = beside(tmp_path / "k.safetensors", tmp_path / "b")["x"]
    assert one.dora == "direction part" and one.lost is None


def test_an_adapter_of_plain_lora_has_no_word_of_it(tmp_path, capsys):
    path = folder(tmp_path / "a", {"x": pair(6, 5, 2)})
    (tmp_path / "b").mkdir()
    save_file({"x.weight": noise(6, 5)}, tmp_path / "b" / "model.safetensors")
    assert run(path, "--model", tmp_path / "b") == 0
    assert "DoRA" not in capsys.readouterr().out
