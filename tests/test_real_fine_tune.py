"""The real network and its adapters: against transformers, PEFT and finite differences, on few sentences."""

import dataclasses
import json
import math

import pytest
import torch
from device_discipline import no_hidden_host_transfers

from lorabook import descent, device, linalg
from lorabook.inputs import minilm, sentences
from lorabook.inputs.sentences import Sentences
from lorabook.real_fine_tune import alignment, compare, encoder, start_size, starts, train
from lorabook.real_fine_tune import task as sentiment

f64 = torch.float64
TEXTS = (
    "A moving and often funny film.",
    "Dull, dull, dull.",
    "It never finds its feet, though the cast tries hard to help it along.",
    "Great!",
    "I wanted my evening back.",
    "The best thing she has done.",
    "Not bad at all.",
    "A mess.",
)
LABELS = torch.tensor([1, 0, 0, 1, 0, 1, 1, 0])


def draw(*shape, seed=0):
    return device.normal(shape, device.generator(seed), "cpu")


@pytest.fixture(scope="module")
def network():
    return encoder.Encoder(minilm.encoder(device="cpu"))


@pytest.fixture(scope="module")
def task(network):
    return sentiment.prepare(network, (Sentences(TEXTS, LABELS),))[0]


@pytest.fixture(scope="module")
def W(network):
    return network.matrices(1).to(f64)


# The network


@pytest.fixture(scope="module")
def reference():
    """transformers' own network with the same weights."""
    from transformers import BertConfig, BertModel

    config = BertConfig(**json.loads(minilm.locate().with_name("config.json").read_text()), attn_implementation="eager")
    model = BertModel(config, add_pooling_layer=False).eval()
    found = model.load_state_dict(minilm.encoder(device="cpu"), strict=False)
    assert not found.missing_keys and not found.unexpected_keys
    return model


def pooled(model, tokens):
    with torch.no_grad():
        last = model(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state
    weight = tokens.mask[..., None].float()
    return torch.nn.functional.normalize((last * weight).sum(1) / weight.sum(1), dim=-1)


@pytest.mark.parametrize("blocks", [1, 2, 6])
def test_the_forward_pass_is_that_of_transformers(network, reference, blocks):
    tokens = encoder.tokenize(TEXTS)
    with torch.no_grad():
        found = network.above(network.below(tokens, blocks), tokens.mask, network.matrices(blocks))
    # float32: the same operations in the same order, to a few roundings of numbers below 1
    assert (found - pooled(reference, tokens)).abs().max() < 2e-6


def test_word_pieces_are_those_of_transformers():
    from transformers import PreTrainedTokenizerFast

    peer = PreTrainedTokenizerFast(tokenizer_file=str(minilm.tokenizer_file()), pad_token="[PAD]")(
        list(TEXTS), padding=True, truncation=True, max_length=9
    )
    found = encoder.tokenize(TEXTS, 9)
    assert found.ids.tolist() == peer["input_ids"] and found.mask.long().tolist() == peer["attention_mask"]


def test_a_sentence_does_not_feel_its_neighbours_padding(network):
    alone, among = (encoder.tokenize(texts) for texts in (TEXTS[3:4], TEXTS))
    with torch.no_grad():
        one, many = (network.above(network.below(t, 1), t.mask, network.matrices(1)) for t in (alone, among))
    # float32 sums over more columns of exact zeros
    assert (one[0] - many[3]).abs().max() < 1e-6


def test_bad_texts_lengths_and_depths_are_refused(network):
    with pytest.raises(ValueError, match="There must be at least one text"):
        encoder.tokenize([])
    with pytest.raises(ValueError, match="There must be at least one text, and nothing else"):
        encoder.tokenize(["fine", 3])
    with pytest.raises(ValueError, match="length must be a whole number >= 3; got 2"):
        encoder.tokenize(["fine"], 2)
    with pytest.raises(ValueError, match="blocks must be at most 6, the depth of the encoder; got 7"):
        network.matrices(7)


# The task


def test_the_gradient_is_that_of_finite_differences(task, W):
    G, Z = task.negative_gradient(W), draw(*W.shape, seed=1)
    Z = Z / Z.norm()
    size = 0.05
    slope = float(task.loss(W + size * Z) - task.loss(W - size * Z)) / (2 * size)
    # float32 losses differ by 1e-7, over twice the size; the third derivative adds as much
    assert slope == pytest.approx(-float((G * Z).sum()), abs=1e-5)
    along = G / G.norm()
    slope = float(task.loss(W + size * along) - task.loss(W - size * along)) / (2 * size)
    assert slope == pytest.approx(-float(G.norm()), rel=2e-2)


def test_the_gradient_does_not_depend_on_the_chunks(task, W, monkeypatch):
    whole = task.negative_gradient(W)
    monkeypatch.setattr(sentiment, "CHUNK", 3)
    # float32 sums in another order
    assert (task.negative_gradient(W) - whole).abs().max() < 1e-6 * whole.abs().max() + 1e-8
    assert torch.equal(task.correct(W), torch.cat([part.correct(W) for part in task.chunks()]))


def test_a_sentence_is_judged_rightly_where_the_logit_has_its_sign(task, W):
    for stack in (W, W + 3 * task.negative_gradient(W), W - 3 * task.negative_gradient(W)):
        assert torch.equal(task.correct(stack), (task.scores(stack) > 0) == (task.labels > 0.5))
    assert sentiment.right(torch.tensor([0.0, 0.69, 0.70, 5.0])).tolist() == [True, True, False, False]


def test_a_chunk_is_computed_only_up_to_its_longest_sentence(network, task, monkeypatch):
    seen, below = [], encoder.Encoder.below
    monkeypatch.setattr(
        encoder.Encoder,
        "below",
        lambda self, tokens, blocks: seen.append(tokens.ids.shape) or below(self, tokens, blocks),
    )
    monkeypatch.setattr(sentiment, "CHUNK", 3)
    (cut,) = sentiment.prepare(network, (Sentences(TEXTS, LABELS),))
    widths = [length for _, length in seen[:3]]
    assert widths == sorted(widths) and widths[0] < widths[-1] == task.x.shape[1]
    assert cut.x.shape == task.x.shape and torch.equal(cut.mask, task.mask) and not cut.x[0, widths[0] :].any()
    # float32 sums over fewer columns of exact zeros
    assert (cut.x - task.x)[task.mask].abs().max() < 1e-5


def test_the_head_is_the_best_of_its_kind():
    from sklearn.linear_model import LogisticRegression

    z = draw(200)
    labels = (z + draw(200, seed=1) > 0.3).to(f64)
    scale, shift = sentiment.calibrate(z, labels)
    peer = LogisticRegression(C=1e6, tol=1e-10).fit(z[:, None].numpy(), labels.numpy())
    # the peer's penalty is of the size of ours, 1e-6
    assert float(scale) == pytest.approx(peer.coef_[0, 0], rel=1e-3) and float(shift) == pytest.approx(
        peer.intercept_[0], rel=1e-3
    )


def test_labels_out_of_range_missing_labels_and_empty_batches_are_refused(network, task):
    for labels in (torch.tensor([1, 2]), torch.tensor([1, -1]), torch.tensor([1])):
        with pytest.raises(ValueError, match="Each text needs one label, 0 or 1"):
            sentiment.prepare(network, (Sentences(TEXTS[:2], labels),))
    with pytest.raises(ValueError, match="There must be at least one text"):
        sentiment.prepare(network, (Sentences((), torch.tensor([])),))
    with pytest.raises(ValueError, match="A batch needs at least one sentence"):
        task.some(torch.tensor([], dtype=torch.int64))
    with pytest.raises(ValueError, match="A batch of 9 sentences is more than the 8 there are"):
        next(train.order(8, 9, 0))
    with pytest.raises(ValueError, match="batch must be a whole number >= 1; got 0"):
        next(train.order(8, 0, 0))


def test_a_pass_sees_each_sentence_once_and_the_order_is_reproducible():
    batches = train.order(8, 3, seed=5)
    first = [next(batches) for _ in range(2)]
    assert len(torch.cat(first).unique()) == 6
    again = train.order(8, 3, seed=5)
    assert all(torch.equal(one, next(again)) for one in first)


# PEFT as the oracle


@pytest.fixture
def adapted(reference):
    """PEFT's LoRA on the last block of a copy of the network."""
    import copy

    from peft import LoraConfig, get_peft_model

    def make(rank=4, **options):
        targets = [f"encoder.layer.5.{name}" for name in minilm.KINDS.values()]
        model = get_peft_model(
            copy.deepcopy(reference), LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, **options)
        ).eval()
        modules = [model.base_model.model.get_submodule(name) for name in targets]
        return model, modules

    return make


def parts(modules):
    """B, A and W0 of PEFT's modules in float64, stacked in the order of the targets."""
    B, A = (torch.stack([getattr(m, f"lora_{x}")["default"].weight for m in modules]).detach().to(f64) for x in "BA")
    return B, A, torch.stack([m.base_layer.weight for m in modules]).detach().to(f64)


def test_forward_and_merge_agree_with_peft(network, adapted, W):
    model, modules = adapted()
    for k, module in enumerate(modules):
        module.lora_B["default"].weight.data = 0.1 * draw(384, 4, seed=k).float()
    B, A, W0 = parts(modules)
    assert torch.equal(W0, W)
    tokens = encoder.tokenize(TEXTS)
    with torch.no_grad():
        found = network.above(network.below(tokens, 1), tokens.mask, (W0 + B @ A).float())
    # PEFT adds the two products where we add the two matrices: float32 rounding through one block
    assert (found - pooled(model, tokens)).abs().max() < 5e-6
    model.merge_adapter()
    merged = torch.stack([module.base_layer.weight for module in modules]).detach().to(f64)
    # float32 products of numbers near 1
    assert (merged - (W0 + B @ A)).abs().max() < 1e-6


def test_pissa_agrees_with_peft(adapted, W):
    model, modules = adapted(init_lora_weights="pissa")
    B, A, residual = parts(modules)
    ours = starts.pissa(W, 4)
    # float32 singular value decompositions
    assert (B @ A - ours[0] @ ours[1]).abs().max() < 1e-4
    assert (residual - (W - ours[0] @ ours[1])).abs().max() < 1e-4
    balance = B.mT @ B - A @ A.mT
    assert balance.abs().max() < 1e-3 and linalg.balance(*ours).abs().max() < 1e-10


def test_lora_ga_has_the_subspaces_of_peft(adapted, task, W, reference):
    from peft import LoraGAConfig

    G = task.negative_gradient(W)
    # PEFT draws its singular vectors at random; a gradient of rank 8 leaves it no choice
    G = linalg.truncate(G, 8)
    ours = starts.lora_ga(G, 4)
    model, modules = adapted(init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig(direction="ArB2r"))
    for module, g, b, a in zip(modules, G, *ours, strict=True):
        module.base_layer._peft_loraga_grad = -g.float()
        module.lora_ga_init("default", LoraGAConfig(direction="ArB2r"))
        theirs = module.lora_B["default"].weight.detach().to(f64), module.lora_A["default"].weight.detach().to(f64)
        # float32 singular vectors, less exact where two singular values are near
        for left, right in ((theirs[0], b), (theirs[1].mT, a.mT)):
            assert linalg.largest_sine(linalg.orthonormal(left), linalg.orthonormal(right)) < 2e-2


class Pair(torch.nn.Module):
    """Two layers in float64, to run PEFT's optimisers on."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (
            torch.nn.Linear(7, 6, bias=False, dtype=f64),
            torch.nn.Linear(6, 5, bias=False, dtype=f64),
        )

    def forward(self, x):
        return self.second(self.first(x).tanh())


def raced(make, rule, ratio, steps=6):
    """PEFT's optimiser and ours from the same start on the same loss: (PEFT's products, ours)."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(Pair(), LoraConfig(r=2, lora_alpha=2, target_modules=["first", "second"]))
    layers = [model.base_model.model.first, model.base_model.model.second]
    with torch.no_grad():
        for k, layer in enumerate(layers):
            for name, seed in (("lora_A", k), ("lora_B", 2 + k)):
                weight = getattr(layer, name)["default"].weight
                getattr(layer, name)["default"].weight = torch.nn.Parameter(0.3 * draw(*weight.shape, seed=seed))
    x, y = draw(20, 7, seed=8), draw(20, 5, seed=9)
    start = [
        (layer.lora_B["default"].weight.detach().clone(), layer.lora_A["default"].weight.detach().clone())
        for layer in layers
    ]
    base = [layer.base_layer.weight.detach().clone() for layer in layers]
    optimiser = make(model)
    for _ in range(steps):
        optimiser.zero_grad()
        (model(x) - y).square().mean().backward()
        optimiser.step()
    theirs = [(layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach() for layer in layers]
    memories, factors = [None, None], start
    for _ in range(steps):
        W = [(w + B @ A).requires_grad_() for w, (B, A) in zip(base, factors)]
        G = torch.autograd.grad(
            (torch.nn.functional.linear(torch.nn.functional.linear(x, W[0]).tanh(), W[1]) - y).square().mean(), W
        )
        moved = []
        for k, ((B, A), g) in enumerate(zip(factors, G)):
            D_B, D_A, memories[k] = rule(B, A, -g @ A.mT, -B.mT @ g, memories[k])
            moved.append((B + 0.01 * ratio * D_B, A + 0.01 * D_A))
        factors = moved
    return theirs, [B @ A for B, A in factors]


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adamw_agrees_with_torch(decay):
    theirs, ours = raced(
        lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=decay), train.adamw(decay), 1.0
    )
    # float64, six steps
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(theirs, ours))


def test_lora_plus_agrees_with_peft():
    from peft.optimizers import create_loraplus_optimizer

    make = lambda model: create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=0.01, loraplus_lr_ratio=16.0, weight_decay=0.0
    )
    theirs, ours = raced(make, train.adamw(), 16.0)
    # float64, six steps; PEFT's default epsilon of 1e-6 would show here if it were not torch's
    assert all((a - b).abs().max() < 1e-6 for a, b in zip(theirs, ours))
    apart = raced(make, train.adamw(), 1.0)
    assert any((a - b).abs().max() > 1e-2 for a, b in zip(*apart))


@pytest.mark.parametrize("ridge", [1e-2, 1e-6])
def test_the_preconditioned_optimiser_agrees_with_peft(ridge):
    from peft.optimizers import create_riemannian_optimizer

    make = lambda model: create_riemannian_optimizer(model, torch.optim.AdamW, lr=0.01, reg=ridge, weight_decay=0.0)
    theirs, ours = raced(make, train.adamw(ridge=ridge), 1.0)
    # float64; PEFT inverts by pinv, we by Cholesky
    assert all((a - b).abs().max() < 1e-9 for a, b in zip(theirs, ours))


def test_a_negative_decay_is_refused():
    with pytest.raises(ValueError, match="decay must not be negative"):
        train.adamw(-0.1)


# Starts


def test_lora_starts_at_zero_with_the_variance_of_peft(adapted, W):
    B, A = starts.lora(W, 64, device.generator(0))
    assert not B.any() and A.shape == (4, 64, 384)
    _, theirs, _ = parts(adapted(rank=64)[1])
    # 98,304 draws each: a standard error of half a percent
    assert float(A.std()) == pytest.approx(float(theirs.std()), rel=0.02)


def test_lora_one_starts_at_one_step_of_rank_r(task, W):
    G = task.negative_gradient(W)
    B, A, offset = starts.lora_one(G, 3, 2.0)
    assert not offset
    # float64 decompositions of numbers below 1
    assert (B @ A - starts.one_step(G, 2.0, 3)).abs().max() < 1e-12
    assert linalg.balance(B, A).abs().max() < 1e-12
    U, s, Vh = torch.linalg.svd(G, full_matrices=False)
    assert (starts.one_step(G, 2.0, 3) - 2.0 * (U[..., :3] * s[..., None, :3]) @ Vh[..., :3, :]).abs().max() < 1e-12
    assert torch.equal(starts.one_step(G, 2.0), 2.0 * G)


def test_the_published_forms_are_those_of_the_talk(task, W):
    G = task.negative_gradient(W)[:1]
    U, s, Vh = torch.linalg.svd(G, full_matrices=False)
    U, s, Vh = U[..., :2], s[..., :2], Vh[..., :2, :]
    wanted = {
        "code": (U * (s / s[..., :1])[..., None, :]) @ Vh / 4.0,
        "readme": (U * s.square()[..., None, :]) @ Vh / 4.0,
        "slides": -4.0 * U @ Vh,
    }
    for form, product in wanted.items():
        B, A, offset = starts.lora_one(G, 2, 4.0, form)
        assert (B @ A - product).abs().max() < 1e-12 and offset == (form == "slides")


def test_starts_turn_with_the_gradient():
    G = draw(2, 12, 10)
    O, P = (
        linalg.random_orthonormal(12, 12, device.generator(1), "cpu"),
        linalg.random_orthonormal(10, 10, device.generator(2), "cpu"),
    )
    for start in (
        lambda G: starts.lora_one(G, 2, 1.5)[:2],
        lambda G: starts.lora_ga(G, 2),
        lambda G: starts.pissa(G, 2),
    ):
        (B, A), (b, a) = start(G), start(O @ G @ P.mT)
        for mine, other in ((O @ B, b), (P @ A.mT, a.mT)):
            # projectors: singular vectors are fixed only up to sign
            assert (
                linalg.projector(linalg.orthonormal(mine)) - linalg.projector(linalg.orthonormal(other))
            ).abs().max() < 1e-9


def test_impossible_ranks_and_unknown_starts_are_refused(W):
    for rank in (0, 385, 2.0, True):
        with pytest.raises(ValueError, match="must be a whole number between 1 and the smaller dimension 384"):
            starts.lora(W, rank, device.generator(0))
        with pytest.raises(ValueError, match="must be a whole number between 1 and the smaller dimension 384"):
            starts.one_step(W, 1.0, rank)
    with pytest.raises(ValueError, match="LoRA-GA takes 2 rank = 400"):
        starts.lora_ga(W, 200)
    with pytest.raises(
        ValueError, match="start must be lora, pissa, lora_ga, lora_one, directed, sized or full; got 'dora'"
    ):
        train.begin(train.Method("dora"), W, W, 2, 1.0, device.generator(0))


@pytest.mark.parametrize("start", ["lora", "pissa", "lora_ga", "lora_one", "full"])
def test_only_lora_one_changes_the_function_at_the_start(start, task, W):
    G = task.negative_gradient(W)
    B, A, W0 = train.begin(train.Method(start), W, G, 2, 1.0, device.generator(0))
    moved = (W0 + (B @ A).reshape(W.shape) - W).abs().max()
    # an offset is taken off and put on again in float64
    assert (moved > 1e-4) if start == "lora_one" else (moved < 1e-14)


# Training


def test_training_lowers_the_loss_and_runs_do_not_notice_each_other(task, W):
    G = task.negative_gradient(W)
    options = dict(rank=2, gamma=1.0, steps=3, batch=4, seed=0, every=1)
    for name in ("LoRA", "LoRA-One", "full"):
        found = train.train(task, task, train.METHODS[name], W, G, rates=[1e-4, 1e-3, 3e-3], **options)
        assert (
            found.at.tolist() == [0, 1, 2, 3] and found.loss.shape == (4, 3) and found.stack.shape == (3, 4, 384, 384)
        )
        assert float(found.loss[-1, 2]) < float(task.loss(W))
        alone = train.train(task, task, train.METHODS[name], W, G, rates=[1e-3], **options)
        # the same float32 sums, one run at a time
        assert (alone.stack[0] - found.stack[1]).abs().max() < 1e-9


def test_full_fine_tuning_is_adam_on_the_matrices(task, W):
    G = task.negative_gradient(W)
    found = train.train(task, task, train.METHODS["full"], W, G, 2, 1.0, [1e-3], 2, 8, 0, every=0)
    parameter = torch.nn.Parameter(W.clone())
    peer = torch.optim.Adam([parameter], lr=1e-3)
    for _ in range(2):
        parameter.grad = -task.negative_gradient(parameter.detach())
        peer.step()
    # Adam divides by the gradient's size, so entries near its epsilon feel float32 sums in another order
    assert (found.stack[0] - parameter.detach()).abs().mean() < 1e-6


def test_lora_one_starts_inside_the_gradient_and_a_random_direction_does_not(task, W):
    G = task.negative_gradient(W)
    U = torch.linalg.svd(G)[0][..., :2]
    share = lambda X: float((U.mT @ X).square().sum() / X.square().sum())
    B, A, W0 = train.begin(train.METHODS["LoRA-One"], W, G, 2, 1.0, device.generator(0))
    assert share(B @ A) == pytest.approx(1.0, abs=1e-9) and torch.equal(W0, W)
    B, A, _ = train.begin(train.METHODS["LoRA"], W, G, 2, 1.0, device.generator(0))
    assert not (B @ A).any()
    random = starts.random_like(G, 3)
    # a direction that knows nothing has a share of r / m
    assert share(random) == pytest.approx(2 / 384, rel=0.2)
    assert torch.linalg.matrix_norm(random).allclose(torch.linalg.matrix_norm(G))


def test_tuning_takes_the_best_rate_and_repeats_it(task, W):
    G = task.negative_gradient(W)
    options, rates = dict(rank=2, gamma=1.0, batch=4), [1e-4, 1e-3, 1e-2]
    options["steps"] = 2
    found = train.tune(task, task, task, train.METHODS["LoRA-GA"], W, G, rates, seeds=3, seed=5, every=1, **options)
    grid = train.train(task, task, train.METHODS["LoRA-GA"], W, G, rates=rates, seed=5, every=0, **options)
    assert (
        torch.equal(found.losses, grid.loss[-1])
        and found.best == int(grid.loss[-1].argmin())
        and found.edge == (found.best in (0, 2))
    )
    alone = [
        train.train(
            task, task, train.METHODS["LoRA-GA"], W, G, rates=[rates[found.best]], seed=seed, every=0, **options
        ).stack[0]
        for seed in (5, 6, 7)
    ]
    # the same float32 sums, one run at a time
    assert (found.stack - torch.stack(alone)).abs().max() < 1e-9
    assert len(found.runs) == 2 and all(run.at.tolist() == [0, 1, 2] for run in found.runs)
    with pytest.raises(ValueError, match="seeds must be a whole number >= 1"):
        train.tune(task, task, task, train.METHODS["LoRA"], W, G, rates, seeds=0, seed=0, **options)


def test_where_a_run_is_looked_at_changes_nothing(task, W):
    G = task.negative_gradient(W)
    options = dict(rank=2, gamma=1.0, batch=4, seed=1, rates=[1e-3, 1e-2], steps=3)
    at = {}
    for every in (0, 1, 2):
        at[every] = train.train(task, task, train.METHODS["LoRA"], W, G, every=every, **options)
    assert [run.at.tolist() for run in at.values()] == [[3], [0, 1, 2, 3], [0, 2, 3]]
    assert all(torch.equal(run.stack, at[0].stack) and torch.equal(run.loss[-1], at[0].loss[0]) for run in at.values())
    assert torch.equal(at[2].loss, at[1].loss[[0, 2, 3]]) and torch.isfinite(at[1].loss).all()


def test_a_run_that_diverges_is_reported(task, W, monkeypatch):
    monkeypatch.setattr(sentiment.Task, "negative_gradient", lambda self, stack: torch.full_like(stack, math.nan))
    G = draw(*W.shape)
    with pytest.raises(RuntimeError, match="1 of 1 runs diverged: lower the learning rates"):
        train.train(task, task, train.METHODS["LoRA"], W, G, 2, 1.0, [1e-3], 1, 4, 0)
    with pytest.raises(ValueError, match="must be positive"):
        train.train(task, task, train.METHODS["LoRA"], W, G, 2, 1.0, [0.0], 1, 4, 0)


# Comparisons


def test_with_one_seed_the_paired_error_is_mcnemars():
    first, second = draw(200) > 0, draw(200, seed=1) > -0.3
    b, c, N = int((first & ~second).sum()), int((~first & second).sum()), 200
    found = compare.paired(first, second)
    assert found.mean == pytest.approx((b - c) / N)
    assert found.error == pytest.approx(math.sqrt(b + c - (b - c) ** 2 / N) / N * math.sqrt(N / (N - 1)))


def test_the_paired_error_covers_the_truth_over_draws():
    # 400 draws of 3 seeds and 60 sentences; the true difference is 0.1
    source, hits = device.generator(0), 0
    for _ in range(400):
        hard = torch.rand(60, generator=source, dtype=f64)
        judge = lambda level: torch.rand(3, 60, generator=source, dtype=f64) < level + 0.2 * (hard - 0.5)
        found = compare.paired(judge(0.8), judge(0.7))
        hits += abs(found.mean - 0.1) < 2 * found.error
    # two standard errors cover 95 percent, ours are rather too large
    assert hits > 0.93 * 400


def test_a_method_is_not_apart_from_itself_and_a_better_one_is():
    first = draw(3, 300) > 0
    assert not compare.paired(first, first).apart() and compare.paired(first, first).freedom == 299
    assert compare.paired(torch.ones(3, 300, dtype=torch.bool), first).apart()
    assert compare.average(first).mean == pytest.approx(float(first.double().mean()))


def test_the_threshold_is_students_and_counts_pairs():
    # of tables: two-sided 5 % with 1, 2, 4 and many degrees of freedom
    for freedom, wanted in ((1, 12.706), (2, 4.303), (4, 2.776), (1e9, 1.960)):
        assert compare.student(freedom) == pytest.approx(wanted, abs=6e-4)
    # 4000 families of 55 independent differences of mean 0, each with 5 draws: one in twenty families may have one
    # beyond, give or take 0.35 percent
    draws = draw(4000, 55, 5)
    t = (draws.mean(-1) / (draws.std(-1) / 5**0.5)).abs()
    assert float((t.amax(1) > compare.student(4, compare.LEVEL / 55)).double().mean()) == pytest.approx(
        0.05, abs=0.0105
    )
    assert float((t > compare.student(4)).double().mean()) == pytest.approx(0.05, abs=0.0015)
    found = compare.Difference(-3.0, 1.0, 4)
    assert found.apart() and not found.apart(pairs=2) and not compare.Difference(-2.7, 1.0, 4).apart()
    for freedom, level in ((4, 1.0), (4, 0.0), (4, math.nan), (0, 0.05), (math.nan, 0.05)):
        with pytest.raises(ValueError, match="A level between 0 and 1 and some degrees of freedom"):
            compare.student(freedom, level)


def test_the_freedom_is_that_of_the_larger_spread():
    from scipy.stats import ttest_rel

    apart = draw(3, 1) * torch.ones(1, 400, dtype=f64)  # all spread is over seeds
    assert compare.paired(apart, torch.zeros(400)).freedom == pytest.approx(2.0)
    one = draw(1, 400) * torch.ones(3, 1, dtype=f64)  # all of it over sentences
    assert compare.paired(one, torch.zeros(400)).freedom == pytest.approx(399.0)
    mixed = draw(3, 50)
    sentences, seeds = float(mixed.mean(0).var()) / 50, float(mixed.mean(1).var()) / 3
    wanted = (sentences + seeds) ** 2 / (sentences**2 / 49 + seeds**2 / 2)
    assert compare.average(mixed).freedom == pytest.approx(wanted)
    first, second = draw(5), draw(5, seed=1)
    found, peer = compare.over_seeds(first, second), ttest_rel(first, second)
    assert found.mean / found.error == pytest.approx(peer.statistic) and found.freedom == peer.df == 4
    assert (peer.pvalue < 0.05) == found.apart()
    for first, second in ((draw(1), draw(1)), (draw(3), draw(2)), (draw(2, 2), draw(2, 2))):
        with pytest.raises(ValueError, match="two or more seeds"):
            compare.over_seeds(first, second)


def test_judgements_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="not of the same sentences and seeds"):
        compare.paired(torch.ones(3, 5, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least two sentences"):
        compare.average(torch.ones(1, 1))


def test_the_best_rate_and_the_edge():
    rates = [0.1, 0.2, 0.3]
    assert compare.best(torch.tensor([3.0, 1.0, 2.0]), rates) == (1, False)
    assert compare.best(torch.tensor([3.0, 2.0, 1.0]), rates) == (2, True)
    with pytest.raises(ValueError, match="rising learning rates"):
        compare.best(torch.ones(3), [0.1, 0.3, 0.2])
    with pytest.raises(ValueError, match="rising learning rates"):
        compare.best(torch.ones(2), rates)
    with pytest.raises(ValueError, match="NaN or infinite"):
        compare.best(torch.tensor([1.0, math.nan, 1.0]), rates)


# Alignment


def test_one_gradient_of_each_logit_serves_all_labelings(task, W):
    labelings = alignment.shuffled(task.labels, 3, 0)
    assert all(sorted(one.tolist()) == sorted(task.labels.tolist()) for one in labelings)
    assert len({tuple(one.tolist()) for one in labelings}) == 3
    found = task.label_gradients(W, torch.cat([task.labels[None], labelings]))
    for labels, G in zip((task.labels, *labelings), found):
        other = dataclasses.replace(task, labels=labels).negative_gradient(W)
        # the same float32 products, summed in another order
        assert (G - other).abs().max() < 2e-5 * other.abs().max()
    assert (found[1] - found[0]).abs().max() > 0.1 * found[0].abs().max()


def test_a_share_is_that_of_the_projector_and_chance_is_r_of_m():
    G, moved = draw(2, 12, 10), draw(3, 2, 12, 10, seed=1)
    U = alignment.leading(G, 4)
    wanted = [
        (linalg.projector(U[l]) @ moved[k, l]).norm() ** 2 / moved[k, l].norm() ** 2 for k in range(3) for l in range(2)
    ]
    assert float(alignment.share(moved, U[None])[0]) == pytest.approx(float(sum(wanted)) / 6)
    inside = U @ draw(3, 2, 4, 10, seed=2)
    bases = torch.cat([U[None], alignment.random(400, G, 4, 0)])
    shares = alignment.share(inside, bases)
    assert float(shares[0]) == pytest.approx(1.0)
    # 400 draws, two matrices: standard error 0.004
    assert float(shares[1:].mean()) == pytest.approx(4 / 12, abs=0.015)
    assert torch.linalg.svdvals(bases).allclose(torch.ones(1, dtype=f64))
    # the leading directions hold the most that any four can
    assert float(alignment.share(G[None], U[None])[0]) > float(alignment.share(G[None], bases[1:]).max())


# The start's size


def test_the_table_of_starts_has_every_arm_once(tmp_path, monkeypatch):
    found = start_size.table()
    shape = len(start_size.SIZES), len(start_size.RATES), start_size.SEEDS, 2
    assert found.shape == shape and bool(torch.isfinite(found).all())
    best = start_size.best(found)
    assert best.tolist() == [min(range(shape[1]), key=lambda k: float(one[k, :, 0].sum())) for one in found]
    lines = (start_size.FOLDER / "start_size.csv").read_text().splitlines()
    monkeypatch.setattr(start_size, "FOLDER", tmp_path)
    for wrong in (lines[:-1], [*lines, lines[-1]], [*lines[:-1], lines[-2]]):
        (tmp_path / "start_size.csv").write_text("\n".join(wrong))
        with pytest.raises(ValueError, match="needs each of 75 arms once"):
            start_size.table()


@pytest.mark.slow
def test_an_arm_of_the_table_is_made_again(network, W):
    setting = start_size.SETTING
    parts = sentences.split(sentences.load(setting["task"]), setting["parts"], setting["seed"])
    tasks = sentiment.prepare(network, parts, setting["blocks"], setting["length"])
    again = start_size.arms(*tasks, W, 0.1, [start_size.RATES[1]], 2)[0]
    # processors round otherwise; at this rate that moves a loss by less than 1e-4, and arms differ by 1e-3 or more
    assert (again - start_size.table()[0, 1, 2]).abs().max() < 2e-4


def test_nothing_slips_to_another_device(task, W):
    G = task.negative_gradient(W)
    with no_hidden_host_transfers():
        task.some(torch.arange(4, device="cpu")).negative_gradient(W)
        task.loss(W), task.correct(W)
        starts.lora(W, 2, device.generator(0)), starts.lora_ga(G, 2), starts.lora_one(G, 2, 1.0), starts.full(W)
        starts.one_step(G, 1.0, 2), starts.pissa(W, 2), starts.random_like(G, 0)
        labelings = alignment.shuffled(task.labels, 2, 0)
        alignment.share(task.label_gradients(W, labelings)[None, 0], alignment.leading(G[None], 2))
        alignment.random(2, G, 2, 0), compare.paired(task.losses(W), task.losses(W)).apart()
        compare.over_seeds(draw(3), draw(3, seed=1)), compare.average(task.losses(W))
        start_size.best(start_size.table())
    found = descent.descend(lambda B, A: (B, A), draw(3, 2), draw(2, 3), 0.1, 0.1, 1, rule=train.adamw(0.1, 1e-6))
    assert found.B.device == W.device
