"""LoRA-One's start where a start is well-defined and nothing else is: DoRA, fused experts, parameters."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from test_adapters_start import adapted, batches, bert, f64, off
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification

from lorabook import device
from lorabook.adapters import FORMS, lora_one_
from lorabook.adapters.targets import sort_out


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
def test_dora_starts_at_the_function_at_which_lora_does(tmp_path, form, kind):
    """Its weight is W0 + scale B A where the magnitudes are the norms of its rows, as PEFT makes them."""
    data, models = batches(4, 5), []
    for dora in (False, True):
        model = adapted(use_dora=dora) if kind == "Linear" else conv1d(use_dora=dora)
        before = {name: one for name, one in model.named_parameters() if "magnitude" in name}
        lora_one_(model, data, 0.7, form)
        after = {name: one for name, one in model.named_parameters() if "magnitude" in name}
        # an optimiser that was made before goes on with the same parameters
        assert len(after) == (len(targets_of_start(model)) if dora else 0) and all(after[k] is before[k] for k in after)
        models.append(model.eval())
    plain, dora = (model(**data[0]).logits for model in models)
    assert off(dora, plain) < 1e-12
    models[1].save_pretrained(tmp_path)
    fresh = bert() if kind == "Linear" else conv1d().unload()
    again = PeftModel.from_pretrained(fresh, tmp_path).to(f64).eval()
    # the folder holds the factors as they are; slides adds those that it took off
    assert off(again(**data[0]).logits, dora) < 1e-12


def conv1d(**options):
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "n_embd": 12, "n_layer": 1, "n_head": 2, "n_positions": 16, "num_labels": 2}
    model = GPT2ForSequenceClassification(GPT2Config(**sizes, pad_token_id=0, bos_token_id=0, eos_token_id=0)).to(f64)
    return get_peft_model(model, LoraConfig(r=3, target_modules=["c_attn", "c_fc"], task_type="SEQ_CLS", **options)).to(
        f64
    )


def targets_of_start(model):
    return sort_out(model, start=True)[0]


class Experts(nn.Module):
    """Three experts as one parameter each way; the last one gets no token."""

    def __init__(self, turned):
        super().__init__()
        self.is_transposed = turned
        shapes = [(3, 14, 10), (3, 10, 7)]
        draw = lambda m, n: torch.randn(3, *((n, m) if turned else (m, n)), dtype=f64) / 3
        self.gate_up_proj, self.down_proj = (nn.Parameter(draw(*shape[1:])) for shape in shapes)

    def forward(self, x):
        up, down = (one.mT if self.is_transposed else one for one in (self.gate_up_proj, self.down_proj))
        out = x
        for expert in range(2):
            left, right = (x[expert::2] @ up[expert].mT).chunk(2, -1)
            out = out.index_add(0, torch.arange(expert, len(x), 2), (torch.tanh(left) * right) @ down[expert].mT)
        return out


class Matrix(nn.Module):
    """A parameter that is a matrix, in no linear layer."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 10, dtype=f64))

    def forward(self, x):
        return x @ self.w.mT


class Mixture(nn.Module):
    """A linear layer, experts, and a matrix."""

    def __init__(self, turned=False):
        super().__init__()
        torch.manual_seed(0)
        self.query, self.experts, self.head = nn.Linear(10, 10).to(f64), Experts(turned), Matrix()

    def forward(self, x):
        return self.head(self.experts(self.query(x)))


def mixture(turned, **options):
    names = ["experts.gate_up_proj", "experts.down_proj", "head.w"]
    chosen = {"r": 2, "lora_alpha": 6, "target_modules": ["query"], "target_parameters": names} | options
    return get_peft_model(Mixture(turned), LoraConfig(**chosen)).to(f64)


def mixed_data(count):
    source = device.generator(3)
    return [(device.normal((8, 10), source, "cpu"), torch.randint(0, 4, (8,), generator=source)) for _ in range(count)]


def mixed_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1]), len(batch[1])


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("count, options", [(1, {}), (3, {"exact": True}), (3, {}), (3, {"width": 10})])
def test_fused_experts_are_started_one_by_one_and_one_without_tokens_is_named(turned, count, options):
    data, gamma, model = mixed_data(count), 0.5, mixture(turned)
    base = Mixture(turned)
    sum(mixed_loss(base, batch)[0] / count for batch in data).backward()
    with pytest.warns(UserWarning, match="2 of 8 modules keep PEFT's start: the gradient is 0"):
        started = lora_one_(model, data, gamma, loss=mixed_loss, **options)
    assert sorted(started.left) == ["experts.down_proj[2]", "experts.gate_up_proj[2]"]
    assert sorted(started) == sorted(
        ["query", "head.w", *(f"experts.{name}[{k}]" for name in ("gate_up_proj", "down_proj") for k in (0, 1))]
    )
    found = {name: layer.get_delta_weight("default") for name, layer in adapted_parameters(model).items()}
    for name, G in (
        ("experts.gate_up_proj", base.experts.gate_up_proj.grad),
        ("experts.down_proj", base.experts.down_proj.grad),
        ("head.w", base.head.w.grad[None]),
    ):
        U, S, Vh = torch.linalg.svd(G, full_matrices=False)
        wanted = -gamma * (U[..., :2] * S[:, None, :2]) @ Vh[:, :2]
        # float64; a sketch of all columns is exact
        assert off(found[name].view(wanted.shape), wanted) < 1e-10
        assert started.kept.get(f"{name}[0]", 1) == pytest.approx(1, abs=1e-10)


def adapted_parameters(model):
    return {
        f"{name.removeprefix('base_model.model.').replace('.base_layer', '')}.{layer.parameter_name}": layer
        for name, layer in model.named_modules()
        if getattr(layer, "parameter_name", None)
    }


def test_a_narrow_sketch_of_experts_says_on_average_what_it_loses():
    data, lost, said = mixed_data(3), [], []

    def started(**options):
        model = mixture(False)
        with pytest.warns(UserWarning, match="keep PEFT's start"):
            kept = lora_one_(model, data, 1.0, loss=mixed_loss, **options).kept
        X = adapted_parameters(model)["experts.gate_up_proj"].get_delta_weight("default").detach()
        return X.square().sum((-2, -1))[:2], torch.tensor([kept[f"experts.gate_up_proj[{k}]"] for k in (0, 1)])

    whole, _ = started(exact=True)
    for seed in range(20):
        norms, kept = started(width=5, seed=seed)
        lost.append(1 - norms / whole)
        said.append(1 - kept)
    lost, said = torch.stack(lost).mean(0), torch.stack(said).mean(0)
    # five columns tell the residual from few numbers: a factor of two
    assert bool((lost > 1e-3).all()) and bool(((said / lost).log2().abs() < 1).all())


def test_slides_leaves_experts_alone_and_says_so():
    model, data = mixture(False), mixed_data(2)
    before = model.base_model.model.experts.get_base_layer().gate_up_proj.clone()
    with pytest.warns(UserWarning, match="adapts a parameter, which slides does not move"):
        started = lora_one_(model, data, 1.0, "slides", loss=mixed_loss)
    assert list(started) == ["query"]
    assert torch.equal(model.base_model.model.experts.get_base_layer().gate_up_proj, before)
