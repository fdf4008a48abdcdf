"""AdamW on preconditioned forces against a loop in numpy and PEFT's own, and where optimisers are used."""

import copy

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from device_discipline import no_hidden_host_transfers
from peft import AdaLoraConfig, IA3Config, LoraConfig, get_peft_model, inject_adapter_in_model
from peft.optimizers import create_riemannian_optimizer
from peft.tuners.lora import LoraLayer
from torch import nn

from lorabook.adapters import PreconditionedAdamW
from lorabook.adapters.preconditioned import pairs
from lorabook.device import generator, normal

f64 = torch.float64
CPU = torch.device("cpu")


class Net(nn.Module):
    """An embedding, a convolution, two linear layers and a norm."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.along = nn.Conv1d(6, 6, 3, padding=1)
        self.up, self.down = nn.Linear(6, 9), nn.Linear(9, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, ids):
        x = self.along(self.words(ids).mT).mT
        return self.norm(self.down(torch.tanh(self.up(x)))).square().sum((-2, -1)).sin().mean()


def filled(model, seed=0):
    """``model`` in float64 with every weight drawn, so that no factor is 0."""
    source = generator(seed)
    with torch.no_grad():
        for weight in model.to(f64).parameters():
            weight.copy_(normal(weight.shape, source, CPU) / 2)
    return model


def adapted(seed=0, **options):
    chosen = {"r": 3, "lora_alpha": 6, "target_modules": ["up", "down"]}
    return filled(get_peft_model(Net(), LoraConfig(**(chosen | options))), seed)


def data(count, seed=1):
    source = generator(seed)
    return [torch.randint(0, 11, (5, 7), generator=source) for _ in range(count)]


def trained(model, optimiser, batches, after=lambda: None):
    """Every trainable parameter after one step per batch."""
    for batch in batches:
        optimiser.zero_grad()
        model(batch).backward()
        optimiser.step()
        after()
    return {name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad}


def apart(left, right):
    assert list(left) == list(right) and left
    return max(float((left[key] - right[key]).norm() / right[key].norm()) for key in left)


def in_numpy(model, batches, rate, ridge, decay, scales, first=0.9, second=0.999, epsilon=1e-8):
    """The published step, pair by pair: preconditioned gradients, then AdamW, written out."""
    weights = {name: one for name, one in model.named_parameters() if one.requires_grad}
    mean, square = ({name: np.zeros(one.shape) for name, one in weights.items()} for _ in range(2))
    for count, batch in enumerate(batches, 1):
        model.zero_grad()
        model(batch).backward()
        values = {name: one.detach().numpy().copy() for name, one in weights.items()}
        for name, weight in weights.items():
            g, x = weight.grad.numpy(), values[name]
            if "lora_A" in name:
                B = values[name.replace("lora_A", "lora_B")]
                g = np.linalg.solve(B.T @ B + ridge * np.eye(len(x)), g) / scales(name) ** 2
            elif "lora_B" in name:
                A = values[name.replace("lora_B", "lora_A")]
                g = np.linalg.solve(A @ A.T + ridge * np.eye(len(A)), g.T).T / scales(name) ** 2
            mean[name] = first * mean[name] + (1 - first) * g
            square[name] = second * square[name] + (1 - second) * g**2
            step = mean[name] / (1 - first**count)
            step = step / (np.sqrt(square[name] / (1 - second**count)) + epsilon)
            weight.data = torch.from_numpy(x - rate * decay * x - rate * step)
    return {name: one.detach() for name, one in weights.items()}


# ---------------------------------------------------------------- the step


@pytest.mark.parametrize(
    "options, scales",
    [
        ({"rank_pattern": {"down": 2}, "modules_to_save": ["norm"]}, lambda name: 3.0 if "down" in name else 2.0),
        ({"use_rslora": True, "lora_alpha": 5}, lambda name: 5 / 3**0.5),
    ],
)
def test_the_step_is_that_of_a_plain_loop(options, scales):
    batches = data(6)
    model = adapted(**options)
    wanted = in_numpy(copy.deepcopy(model), batches, 0.01, 0.1, 0.3, scales)
    optimiser = PreconditionedAdamW(model, 0.01, ridge=0.1, weight_decay=0.3)
    # two ways to the same float64 numbers
    assert apart(trained(model, optimiser, batches), wanted) < 1e-12


def test_the_step_is_that_of_pefts_riemannian_optimiser_where_epsilon_is_counted_alike():
    batches, scale = data(6), 2.0
    ours, theirs = adapted(), adapted()
    optimiser = PreconditionedAdamW(ours, 0.01, ridge=0.05, eps=1e-3)
    # theirs does not divide by the scale's square
    other = create_riemannian_optimizer(
        theirs, torch.optim.AdamW, lr=0.01, reg=0.05, eps=1e-3 * scale**2, weight_decay=0.0
    )
    # their inverse is a pseudo-inverse, which costs some digits
    assert apart(trained(ours, optimiser, batches), trained(theirs, other, batches)) < 1e-10


def test_a_large_ridge_leaves_plain_adamw():
    batches = data(6)
    ours, plain = adapted(), adapted()
    optimiser = PreconditionedAdamW(ours, 0.01, ridge=1e8, eps=1e-30)
    other = torch.optim.AdamW([one for one in plain.parameters() if one.requires_grad], 0.01, eps=1e-30, weight_decay=0)
    # the Gram matrices are about 1e-7 of the ridge
    assert apart(trained(ours, optimiser, batches), trained(plain, other, batches)) < 1e-5


def first_order(model, batch):
    """By layer, the change of ``c B A`` along the forces."""
    model.zero_grad()
    model(batch).backward()
    forces = {id(factor): force for factor, force in PreconditionedAdamW(model, ridge=1e-12).forces()}
    return {
        name: pair.scale * (forces[id(pair.B)] @ pair.A + pair.B @ forces[id(pair.A)]).detach()
        for name, pair in pairs(model).items()
    }


def test_the_forces_move_the_update_alike_however_it_is_split_and_scaled():
    (batch,) = data(1)
    model = adapted()
    wanted = first_order(model, batch)
    turned, scaled = copy.deepcopy(model), adapted(lora_alpha=24)
    with torch.no_grad():
        for seed, pair in enumerate(pairs(turned).values()):
            turn = torch.eye(3, dtype=f64) + normal((3, 3), generator(seed), CPU) / 4
            pair.B.copy_(pair.B @ turn)
            pair.A.copy_(torch.linalg.solve(turn, pair.A))
        for pair in pairs(scaled).values():
            pair.B.div_(4)
    # the ridge of 1e-12 over Gram matrices of about 1, with their condition
    assert apart(first_order(turned, batch), wanted) < 1e-8
    assert apart(first_order(scaled, batch), wanted) < 1e-8


def test_the_first_order_change_is_the_gradient_between_the_projections():
    (batch,) = data(1)
    model = adapted()
    moved = first_order(model, batch)
    for name, pair in pairs(model).items():
        layer = model.get_submodule(name.split(" ")[0])
        weight = layer.get_base_layer().weight
        weight.requires_grad_(True)
        (G,) = torch.autograd.grad(model(batch), weight)
        left, right = torch.linalg.pinv(pair.B), torch.linalg.pinv(pair.A)
        wanted = (G @ right @ pair.A + pair.B @ left @ G).detach()
        assert float((moved[name] - wanted).norm() / wanted.norm()) < 1e-8


def test_embeddings_convolutions_and_dora_are_preconditioned_as_their_product_says():
    (batch,) = data(1)
    for options in ({"target_modules": ["words", "along", "up"]}, {"use_dora": True}):
        model = adapted(**options)
        optimiser = PreconditionedAdamW(model, ridge=0.2)
        model(batch).backward()
        found = {id(factor): force for factor, force in optimiser.forces()}
        assert len(found) == 2 * len(pairs(model)) == (6 if "use_dora" not in options else 4)
        for pair in pairs(model).values():
            B, A, rank = pair.B.detach().flatten(1), pair.A.detach().flatten(1), pair.A.shape[0]
            eye = 0.2 * torch.eye(rank, dtype=f64)
            for factor, wanted in (
                (pair.B, pair.B.grad.flatten(1) @ torch.linalg.inv(A @ A.T + eye)),
                (pair.A, torch.linalg.inv(B.T @ B + eye) @ pair.A.grad.flatten(1)),
            ):
                wanted = wanted.reshape(factor.shape) / pair.scale**2
                assert torch.allclose(found[id(factor)], wanted, rtol=1e-10, atol=0)


class Experts(nn.Module):
    """Two experts whose weights are one parameter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 5, 4))

    def forward(self, x):
        return torch.einsum("bi,eoi->bo", x, self.weight)


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = Experts()

    def forward(self, x):
        return self.experts(x).sin().sum()


def test_experts_are_preconditioned_one_by_one():
    model = filled(get_peft_model(Mixture(), LoraConfig(r=2, lora_alpha=2, target_parameters=["experts.weight"])))
    (pair,) = pairs(model).values()
    assert pair.experts == 2
    (layer,) = (one for one in model.modules() if isinstance(one, LoraLayer))
    model(normal((3, 4), generator(0), CPU)).backward()
    G = normal((2, 5, 4), generator(1), CPU)
    # the gradients that an arbitrary G gives the factors, through PEFT's own product
    pair.A.grad, pair.B.grad = torch.autograd.grad((layer.get_delta_weight("default") * G).sum(), pair[:2])
    forces = {id(factor): force for factor, force in PreconditionedAdamW(model, ridge=1e-12).forces()}
    before, small = layer.get_delta_weight("default").detach(), 1e-6
    projected = []
    for expert, X in enumerate(before):
        U, _, Vh = torch.linalg.svd(X, full_matrices=False)
        U, Vh = U[:, :2], Vh[:2]
        projected.append(U @ U.T @ G[expert] + G[expert] @ Vh.T @ Vh)
    with torch.no_grad():
        for factor in pair[:2]:
            factor.add_(small * forces[id(factor)])
        moved = (layer.get_delta_weight("default") - before) / small
    wanted = torch.stack(projected)
    # a difference quotient of step 1e-6
    assert float((moved - wanted).norm() / wanted.norm()) < 1e-4


def test_a_zero_factor_in_low_precision_gives_finite_steps():
    for dtype in (torch.float32, torch.bfloat16):
        model = get_peft_model(Net(), LoraConfig(r=4, target_modules=["up", "down"])).to(dtype)
        optimiser = PreconditionedAdamW(model, 1e-2)
        after = trained(model, optimiser, data(20))
        assert all(bool(value.isfinite().all()) and bool(value.any()) for value in after.values())


def test_nothing_is_moved_to_another_device():
    model = adapted()
    optimiser = PreconditionedAdamW(model, 0.01)
    model(data(1)[0]).backward()
    with no_hidden_host_transfers():
        assert len(optimiser.forces()) == 4


# ---------------------------------------------------------------- as an optimiser


def test_the_gradients_stay_and_each_hook_is_called_once():
    torch.optim.AdamW([nn.Parameter(torch.ones(1))])  # from now on torch has wrapped AdamW's own step
    model, calls = adapted(), []
    optimiser = PreconditionedAdamW(model, 0.01)
    optimiser.register_step_pre_hook(lambda *_: calls.append("before"))
    optimiser.register_step_post_hook(lambda *_: calls.append("after"))
    model(data(1)[0]).backward()
    before = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    optimiser.step()
    assert calls == ["before", "after"]
    assert len(before) == 4
    assert all(torch.equal(one.grad, before[name]) for name, one in model.named_parameters() if name in before)


def test_a_closure_gives_the_same_step():
    (batch,) = data(1)
    plain, closed = adapted(), adapted()
    first, second = PreconditionedAdamW(plain, 0.01), PreconditionedAdamW(closed, 0.01)
    wanted = trained(plain, first, [batch])

    def closure():
        second.zero_grad()
        found = closed(batch)
        found.backward()
        return found

    assert float(second.step(closure).detach()) == float(adapted()(batch).detach())
    assert apart({n: p.detach() for n, p in closed.named_parameters() if p.requires_grad}, wanted) == 0


def test_a_run_goes_on_from_its_saved_state_as_if_it_had_not_stopped(tmp_path):
    batches = data(8)
    whole = adapted()
    wanted = trained(whole, PreconditionedAdamW(whole, 0.02, ridge=0.3), batches)
    begun = adapted()
    optimiser = PreconditionedAdamW(begun, 0.02, ridge=0.3)
    trained(begun, optimiser, batches[:4])
    torch.save([begun.state_dict(), optimiser.state_dict()], tmp_path / "state.pt")
    weights, state = torch.load(tmp_path / "state.pt")
    again = adapted(seed=5)
    again.load_state_dict(weights)
    other = PreconditionedAdamW(again, 0.5)
    other.load_state_dict(state)
    assert other.param_groups[0]["ridge"] == 0.3
    assert apart(trained(again, other, batches[4:]), wanted) == 0


def test_the_state_of_plain_adamw_can_be_taken_over():
    model = adapted()
    plain = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], 0.01)
    trained(model, plain, data(2))
    optimiser = PreconditionedAdamW(model, 0.02, ridge=0.7)
    optimiser.load_state_dict(plain.state_dict())
    assert optimiser.param_groups[0]["ridge"] == 0.7 and optimiser.param_groups[0]["lr"] == 0.01
    trained(model, optimiser, data(1))


def test_a_copy_of_model_and_optimiser_goes_its_own_way():
    model = adapted()
    optimiser = PreconditionedAdamW(model, 0.01)
    trained(model, optimiser, data(2))
    other, second = copy.deepcopy((model, optimiser))
    assert apart(trained(other, second, data(2)), trained(model, optimiser, data(2))) == 0


def test_groups_have_their_own_rates_and_ridges_and_a_schedule_moves_them():
    (batch,) = data(1)
    model = adapted()
    A = [pair.A for pair in pairs(model).values()]
    B = [pair.B for pair in pairs(model).values()]
    optimiser = PreconditionedAdamW(model, 0.01, params=[{"params": A}, {"params": B, "lr": 0.16, "ridge": 0.5}])
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, 2)
    before = trained(model, optimiser, [])
    after = trained(model, optimiser, [batch], schedule.step)
    # the first step of Adam is the rate, for every entry
    for name, rate in (("lora_A", 0.01), ("lora_B", 0.16)):
        for key in (key for key in before if name in key):
            assert torch.allclose((after[key] - before[key]).abs(), torch.tensor(rate, dtype=f64), rtol=1e-4)
    assert [group["lr"] for group in optimiser.param_groups] == [0.005, 0.08]
    assert [group["ridge"] for group in optimiser.param_groups] == [1e-6, 0.5]
    trained(model, optimiser, [batch], schedule.step)
    still = trained(model, optimiser, [])
    assert apart(trained(model, optimiser, [batch]), still) == 0


def test_parameters_can_be_added_later():
    model = adapted(modules_to_save=["norm"])
    optimiser = PreconditionedAdamW(model, 0.01, params=[one for n, one in model.named_parameters() if "lora" in n])
    optimiser.add_param_group({"params": [one for n, one in model.named_parameters() if "modules_to_save" in n]})
    before = trained(model, optimiser, [])
    assert optimiser.param_groups[1]["ridge"] == 1e-6
    assert all(not torch.equal(before[key], one) for key, one in trained(model, optimiser, data(1)).items())


def test_one_of_two_adapters_trains_alone_and_then_both():
    batches = data(3)
    model, alone = adapted(), adapted()
    wanted = trained(alone, PreconditionedAdamW(alone, 0.01), batches)
    model.add_adapter("second", LoraConfig(r=2, lora_alpha=4, target_modules=["up"]))
    filled(model)
    for (_, one), (_, other) in zip(pairs(model, ["default"]).items(), pairs(adapted()).items()):
        one.A.data.copy_(other.A), one.B.data.copy_(other.B)
    for name, weight in adapted().named_parameters():
        if "lora" not in name:
            model.get_parameter(name).data.copy_(weight)
    model.set_adapter("default")
    assert len(pairs(model)) == 3
    second = {key: pair.A.clone() for key, pair in pairs(model, ["second"]).items()}
    assert apart(trained(model, PreconditionedAdamW(model, 0.01), batches), wanted) < 1e-12
    assert all(torch.equal(pair.A, second[key]) for key, pair in pairs(model, ["second"]).items())
    model.base_model.set_adapter(["default", "second"])
    trained(model, PreconditionedAdamW(model, 0.01), batches)
    assert all(not torch.equal(pair.A, second[key]) for key, pair in pairs(model, ["second"]).items())


def test_a_frozen_factor_stays_and_preconditions_the_other():
    model = adapted()
    for pair in pairs(model).values():
        pair.A.requires_grad_(False)
    optimiser = PreconditionedAdamW(model, 0.01, ridge=0.1)
    model(data(1)[0]).backward()
    forces = optimiser.forces()
    assert [id(factor) for factor, _ in forces] == [id(pair.B) for pair in pairs(model).values()]
    for (factor, force), pair in zip(forces, pairs(model).values()):
        gram = (pair.A @ pair.A.T).detach() + 0.1 * torch.eye(3, dtype=f64)
        assert torch.allclose(force, factor.grad @ torch.linalg.inv(gram) / 4, rtol=1e-10)


def test_accelerate_accumulates_and_steps_as_one_batch():
    first, second = data(2)
    plain, prepared = adapted(), adapted()
    optimiser = PreconditionedAdamW(plain, 0.01)
    ((plain(first) + plain(second)) / 2).backward()
    optimiser.step()
    accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
    model, other = accelerator.prepare(prepared, PreconditionedAdamW(prepared, 0.01))
    for batch in (first, second):
        with accelerator.accumulate(model):
            accelerator.backward(model(batch))
            other.step()
            other.zero_grad()
    wanted = {name: one.detach() for name, one in plain.named_parameters() if one.requires_grad}
    found = {name: one.detach() for name, one in prepared.named_parameters() if one.requires_grad}
    # the order of one addition
    assert apart(found, wanted) < 1e-10


def test_injected_layers_are_found_without_a_peft_model():
    model = filled(inject_adapter_in_model(LoraConfig(r=2, target_modules=["up"]), Net()))
    assert len(PreconditionedAdamW(model).pairs) == 1


# ---------------------------------------------------------------- bad input


def emptied():
    model = adapted()
    next(iter(pairs(model).values())).A.data = torch.zeros(0, dtype=f64)
    return model


def frozen():
    model = adapted()
    model.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "model, options, sentence",
    [
        (lambda: list(adapted().parameters()), {}, "The PEFT model itself is needed, not its parameters; got list"),
        (Net, {}, "has no LoRA layer"),
        (lambda: get_peft_model(Net(), IA3Config(target_modules=["up"], feedforward_modules=[])), {}, "no LoRA layer"),
        (lambda: get_peft_model(Net(), AdaLoraConfig(target_modules=["up"], total_step=9)), {}, "has no LoRA layer"),
        (frozen, {}, "PEFT loads adapters frozen"),
        (adapted, {"params": [nn.Parameter(torch.ones(2))]}, "No LoRA factor is among the parameters"),
        (emptied, {}, "are split over devices"),
        (lambda: adapted().half(), {}, "float16"),
        (lambda: adapted(lora_alpha=0), {}, "scale at .* is 0"),
        (adapted, {"ridge": 0.0}, "The ridge must be positive"),
        (adapted, {"ridge": float("nan")}, "The ridge must be positive"),
        (frozen, {"params": []}, "No LoRA factor is among the parameters"),
        (adapted, {"lr": -1.0}, "Invalid learning rate"),
    ],
)
def test_bad_input_is_one_sentence(model, options, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        PreconditionedAdamW(model(), **options)
    assert "\n" not in str(caught.value)


def test_a_ridge_of_a_group_is_checked_too():
    model = adapted()
    with pytest.raises(ValueError, match="The ridge must be positive"):
        PreconditionedAdamW(model, params=[{"params": model.parameters(), "ridge": -1.0}])
