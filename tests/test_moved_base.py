"""Bases that a start has moved are refused; a model that ``slides`` moved is saved as plain LoRA of rank 2 r."""

import copy
import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraGAConfig
from peft.tuners.lora.loraga import preprocess_loraga
from torch import nn

from lorabook.adapters import lora_one_
from lorabook.adapters.inspect import inspect_folder
from lorabook.adapters.targets import targets


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))


def data():
    source = torch.Generator().manual_seed(1)
    return torch.randn(64, 12, generator=source), torch.randint(0, 3, (64,), generator=source)


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def adapted(**options):
    return get_peft_model(network(), LoraConfig(**({"r": 4, "target_modules": ["0", "2"]} | options)))


def lora_ga():
    net, config = network(), LoraConfig(r=2, target_modules=["0"], init_lora_weights="lora_ga")
    config.lora_ga_config = LoraGAConfig()
    preprocess_loraga(net, config, lambda: loss(net, data()).backward())
    return get_peft_model(net, config)


MOVED = {
    "pissa": lambda: adapted(init_lora_weights="pissa"),
    "pissa_niter_4": lambda: adapted(init_lora_weights="pissa_niter_4"),
    "olora": lambda: adapted(init_lora_weights="olora"),
    "lora_ga": lora_ga,
}


@pytest.mark.parametrize("start", MOVED)
def test_a_base_that_a_start_has_moved_is_refused_by_name(start):
    model = MOVED[start]()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=rf"The start '{start}' of the adapter 'default' has moved the base weights"):
        lora_one_(model, [data()], 1.0, loss=loss)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("start", ["corda", "loftq"])
def test_starts_that_need_more_packages_are_refused_by_their_configuration(start):
    model = adapted()
    model.peft_config["default"].init_lora_weights = start
    with pytest.raises(ValueError, match=f"The start '{start}'"):
        lora_one_(model, [data()], 1.0, loss=loss)


def test_another_adapter_of_the_model_may_have_moved_the_base():
    model = adapted(init_lora_weights="pissa")
    model.add_adapter("fresh", LoraConfig(r=2, target_modules=["0"]))
    model.set_adapter("fresh")
    with pytest.raises(ValueError, match="of the adapter 'default' has moved"):
        lora_one_(model, [data()], 1.0, loss=loss)


@pytest.mark.parametrize("start", [True, "gaussian", "eva", "orthogonal"])
def test_starts_that_leave_the_base_alone_are_replaced(start):
    model, plain = adapted(init_lora_weights=start), adapted()
    lora_one_(model, [data()], 1.0, loss=loss)
    lora_one_(plain, [data()], 1.0, loss=loss)
    for one, two in zip(targets(model).values(), targets(plain).values()):
        assert torch.equal(one.B @ one.A, two.B @ two.A)


@pytest.mark.parametrize("form", ["slides", "spectral"])
def test_after_slides_every_further_start_is_refused(form):
    model = adapted()
    pretrained = float(loss(model, data()))
    lora_one_(model, [data()], 1.0, "slides", loss=loss)
    # float32
    assert float(loss(model, data())) == pytest.approx(pretrained, abs=1e-5)
    for again in (model, copy.deepcopy(model)):
        with pytest.raises(ValueError, match="'slides' has moved the base weights of this model before"):
            lora_one_(again, [data()], 1.0, form, loss=loss)
        assert float(loss(again, data())) == pytest.approx(pretrained, abs=1e-5)


def test_the_moved_base_outlives_the_adapter_and_a_merge_makes_it_a_base_again():
    model = adapted()
    lora_one_(model, [data()], 1.0, "slides", loss=loss)
    fresh = LoraConfig(r=2, target_modules=["0"])
    left = get_peft_model(copy.deepcopy(model).unload(), fresh)
    with pytest.raises(ValueError, match="'slides' has moved the base weights of this model before"):
        lora_one_(left, [data()], 1.0, loss=loss)
    assert list(lora_one_(get_peft_model(model.merge_and_unload(), fresh), [data()], 1.0, loss=loss)) == ["0"]


def train(model, steps=60):
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(model, data()).backward()
        optimiser.step()
    return model


OPTIONS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"2": 2}, "alpha_pattern": {"0": 3}},
    "rslora and patterns": {"use_rslora": True, "rank_pattern": {"2": 2}, "alpha_pattern": {"0": 3}},
    "a head": {"modules_to_save": ["4"]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_model_that_slides_started_is_saved_so_that_peft_reloads_it_on_the_pretrained_weights(tmp_path, options):
    model = adapted(**options)
    lora_one_(model, [data()], 0.5, "slides", loss=loss)
    train(model)
    wanted = model(data()[0])
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(network(), tmp_path)
    # float32 through three layers, on a base that was moved and moved back
    assert float((again(data()[0]) - wanted).abs().max()) < 1e-4
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["r"] == 8 and written["init_lora_weights"] is True
    adapter, measured = inspect_folder(tmp_path)
    assert [one.allowed for one in measured] == [8, 2 * options.get("rank_pattern", {"2": 4})["2"]]
    # the model in memory goes on as it was
    assert model.peft_config["default"].r == 4 and torch.equal(model(data()[0]), wanted)


def test_a_checkpoint_is_read_back_into_the_model_that_wrote_it(tmp_path):
    model = adapted()
    lora_one_(model, [data()], 0.5, "slides", loss=loss)
    train(model).save_pretrained(tmp_path)
    best = model(data()[0])
    train(model)
    assert not torch.equal(model(data()[0]), best)
    model.load_adapter(tmp_path, "default", is_trainable=True)
    assert torch.equal(model(data()[0]), best)


def test_a_copy_saves_its_own_factors_and_other_forms_are_saved_as_they_are(tmp_path):
    model = adapted()
    lora_one_(model, [data()], 0.5, "slides", loss=loss)
    other = train(copy.deepcopy(model))
    other.save_pretrained(tmp_path / "copy")
    again = PeftModel.from_pretrained(network(), tmp_path / "copy")
    assert float((again(data()[0]) - other(data()[0])).abs().max()) < 1e-4
    plain = adapted()
    lora_one_(plain, [data()], 0.5, loss=loss)
    plain.save_pretrained(tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "adapter_config.json").read_text())["r"] == 4


def test_a_second_adapter_is_saved_beside_it_unchanged(tmp_path):
    model = adapted()
    lora_one_(model, [data()], 0.5, "slides", loss=loss)
    model.add_adapter("more", LoraConfig(r=2, target_modules=["0"]))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 8
    assert json.loads((tmp_path / "more" / "adapter_config.json").read_text())["r"] == 2
    with pytest.raises(ValueError, match="as safetensors only"):
        model.save_pretrained(tmp_path, safe_serialization=False)


def test_a_module_that_calls_a_number_its_scaling_is_no_lora_layer(tmp_path):
    model = adapted()
    model.base_model.model[1].scaling = 0.125  # as T5's attention does
    lora_one_(model, [data()], 0.5, "slides", loss=loss)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 8
