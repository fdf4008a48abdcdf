"""LoRA-One's start on PEFT models against plain autograd, and the certificate against Kim et al.'s; nothing half
changed."""

import copy
import json
import weakref

import numpy as np
import pytest
import torch
from device_discipline import no_hidden_host_transfers
from peft import IA3Config, LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BatchEncoding,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from lorabook import device, kim
from lorabook.adapters import FORMS, certify, lora_one_
from lorabook.adapters import certificate as certificates
from lorabook.adapters.full_gradient import reduced
from lorabook.adapters.start import factors
from lorabook.adapters.targets import targets
from lorabook.inputs import minilm
from lorabook.inputs.sentences import Sentences
from lorabook.real_fine_tune import encoder, starts
from lorabook.real_fine_tune import task as sentiment

f64 = torch.float64
LORA = {"r": 3, "lora_alpha": 6, "target_modules": ["query", "value", "intermediate.dense"], "task_type": "SEQ_CLS"}


def bert(seed=0):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        num_labels=2,
    )
    return BertForSequenceClassification(config).to(f64)


def adapted(seed=0, **options):
    return get_peft_model(bert(seed), LoraConfig(**(LORA | options))).to(f64)


def batches(*sizes, seed=0):
    source = device.generator(seed)
    draw = lambda high, *shape: torch.randint(0, high, shape, generator=source)
    return [{"input_ids": draw(50, size, 7), "labels": draw(2, size)} for size in sizes]


def autograd(model, data):
    """The gradient of the mean loss over all rows, in one graph."""
    model.eval()
    rows = sum(len(batch["labels"]) for batch in data)
    sum(model(**batch).loss * len(batch["labels"]) / rows for batch in data).backward()
    return {name: module.weight.grad for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def published(G, rank, gamma, form, scale):
    """The product B A of each form, from what was published, in numpy."""
    # run_exp.py of the released code at 01bba05, direction LoRA-One, scale stable:
    #   U, S, V = svd(-grad);  B = U[:, :r] sqrt(S[:r] / S[0]) / gamma**0.5;  A = sqrt(S[:r] / S[0]) V[:r] / gamma**0.5
    U, S, V = np.linalg.svd(-G.numpy(), full_matrices=False)
    U, S, V = U[:, :rank], S[:rank], V[:rank]
    product = {
        "spectral": gamma * (U * S) @ V / scale,
        "slides": -gamma * U @ V,  # the SVD of +grad turns the sign of one of the two bases
        "code": (U * np.sqrt(S / S[0]) / gamma**0.5) @ (np.sqrt(S / S[0])[:, None] * V / gamma**0.5),
    }[form]
    return torch.from_numpy(product)


def off(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def state(model):
    """Everything that a failed call must leave alone."""
    return (
        [value.clone() for value in model.state_dict().values()],
        [p.requires_grad for p in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [m.training for m in model.modules()],
        [m.disable_adapters for m in model.modules() if isinstance(m, LoraLayer)],
    )


def same(left, right):
    return all(
        (a is None) == (b is None) and (a is None or torch.equal(torch.as_tensor(a), torch.as_tensor(b)))
        for one, two in zip(left, right)
        for a, b in zip(one, two, strict=True)
    )


# ---------------------------------------------------------------- the start


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "options",
    [
        {"lora_dropout": 0.5, "rank_pattern": {"query": 2}, "alpha_pattern": {"value": 12}},
        {"use_rslora": True, "init_lora_weights": "gaussian"},
    ],
)
def test_the_start_is_that_of_the_plain_full_gradient(form, options):
    data, gamma = batches(4, 5, 3), 0.7
    gradients = autograd(bert(), data)
    model = adapted(**options)
    for layer in model.modules():  # an adapter that already does something must not change the gradient
        if hasattr(layer, "lora_B") and hasattr(layer, "scaling"):
            nn.init.constant_(layer.lora_B["default"].weight, 0.1)
    before = {name: target.weight.clone() for name, target in targets(model).items()}
    values = lora_one_(model, data, gamma, form)
    assert list(values) == list(before) and len(values) == 6
    for name, target in targets(model).items():
        rank = 2 if "query" in name and "rank_pattern" in options else 3
        alpha = 12 if "value" in name and "alpha_pattern" in options else 6
        scale = alpha / (rank**0.5 if "use_rslora" in options else rank)
        G, X = gradients[name], (target.B @ target.A).detach()
        # float64 throughout; the last singular vector of a small gap costs two digits
        assert off(X, published(G, rank, gamma, form, scale)) < 1e-12
        assert torch.allclose(values[name], torch.linalg.svdvals(G)[:rank], rtol=1e-12)
        moved = (target.weight - before[name]).detach()
        # rounding of the subtraction
        assert off(moved, -scale * X) < 1e-12 if form == "slides" else not moved.any()


def test_the_spectral_start_is_one_step_and_lowers_the_loss_by_its_first_order():
    data = batches(6, 6)
    model = adapted().eval()
    loss = lambda: float(sum(model(**batch).loss for batch in data) / 2)
    begun, gamma = loss(), 1e-4
    values = lora_one_(model, data, gamma)
    fall = gamma * sum(float(s.square().sum()) for s in values.values())
    # the second order is relatively of the size of gamma times the curvature
    assert begun - loss() == pytest.approx(fall, rel=1e-2)


def test_the_slides_start_leaves_the_function_alone_and_the_code_start_does_not():
    data = batches(5)
    for form, changed in (("slides", False), ("code", True)):
        model = adapted().eval()
        begun = model(**data[0]).logits
        lora_one_(model, data, 2.0, form)
        # rounding of float64 through two layers
        assert (float((model(**data[0]).logits - begun).abs().max()) > 1e-10) == changed


def test_passes_trade_memory_for_time_and_not_the_result():
    data = batches(4, 5, 3)
    whole = {key: torch.cat([batch[key] for batch in data]) for key in data[0]}
    wanted = None
    for given, passes in (
        (data, 1),
        (data, None),
        (data, 3),
        ([whole], None),
        (torch.utils.data.DataLoader(data, batch_size=None), 2),
    ):
        model = adapted()
        lora_one_(model, given, 1.0, passes=passes)
        found = torch.cat([(target.B @ target.A).detach().flatten() for target in targets(model).values()])
        wanted = found if wanted is None else wanted
        # the order of a sum of float64
        assert off(found, wanted) < 1e-12


def held_at_most(data, passes):
    """The largest number of full gradients alive at a reduction, in entries, and the passes made."""
    model = bert()
    chosen = {name: target.weight for name, target in targets(get_peft_model(model, LoraConfig(**LORA))).items()}
    alive, most, seen = [], 0, []

    class Watched(list):
        def __iter__(self):
            seen.append(1)
            return super().__iter__()

    def reduce(name, G):
        nonlocal most
        alive.append((weakref.ref(G), G.numel()))
        most = max(most, sum(size for ref, size in alive if ref() is not None))
        return G.sum()

    reduced(model, chosen, Watched(data), reduce, passes=passes)
    return (
        most,
        len(seen),
        sum(weight.numel() for weight in chosen.values()),
        max(weight.numel() for weight in chosen.values()),
    )


def test_no_gradient_outlives_its_reduction():
    most, passes, _, largest = held_at_most(batches(6), None)
    assert most == largest and passes == 1
    most, passes, total, largest = held_at_most(batches(3, 3), None)
    # 16 x 16, 16 x 16, 24 x 16 a block: none fit together, and one look at whether the batches can be read again
    assert most <= largest and passes == 6 + 1
    assert held_at_most(batches(3, 3), 1)[1] == 1


def test_the_model_is_left_as_it_was_and_so_is_the_generator():
    model = adapted(lora_dropout=0.3)
    model.train()
    model.base_model.model.bert.encoder.layer[0].eval()
    model(**batches(3)[0]).loss.backward()
    kept = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    _, flags, _, modes, switches = state(model)
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    lora_one_(model, batches(4, 4, seed=1), 1.0)
    assert torch.equal(torch.rand(1), wanted)
    _, now_flags, _, now_modes, now_switches = state(model)
    assert (flags, modes, switches) == (now_flags, now_modes, now_switches)
    assert all(
        torch.equal(a, p.grad) for a, p in zip(kept, (p for p in model.parameters() if p.grad is not None), strict=True)
    )


def test_a_loss_of_ones_own_may_weigh_its_batches():
    data, model, other = batches(4, 2), adapted(), adapted()
    lora_one_(model, data, 1.0)
    lora_one_(other, data, 1.0, loss=lambda model, batch: (model(**batch).loss, len(batch["labels"])))
    for mine, theirs in zip(targets(model).values(), targets(other).values()):
        assert torch.equal(mine.B, theirs.B)
    equal = adapted()
    lora_one_(equal, data, 1.0, loss=lambda model, batch: model(**batch).loss)
    assert not torch.equal(next(iter(targets(equal).values())).B, next(iter(targets(model).values())).B)


def test_a_model_that_is_compiled_in_place_is_started_without_compiling():
    data, plain, compiled = batches(4, 5), adapted(), adapted()
    compiled.compile(backend=lambda *given: pytest.fail("it was compiled"))
    for model in (plain, compiled):
        lora_one_(model, data, 0.5)
    assert all(map(torch.equal, state(plain)[0], state(compiled)[0]))


def test_batches_may_be_what_a_collator_of_transformers_makes():
    data = batches(4, 5)
    plain, collated = adapted(), adapted()
    lora_one_(plain, data, 0.5)
    lora_one_(collated, [BatchEncoding(batch) for batch in data], 0.5)
    assert same(state(plain), state(collated))


def test_a_causal_model_counts_the_tokens_that_it_predicts():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=30,
        n_positions=16,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    text = torch.randint(0, 30, (3, 9), generator=device.generator(0))
    labels = text.clone()
    labels[2, 3:] = -100
    rows = [{"input_ids": text[part], "labels": labels[part]} for part in (slice(0, 2), slice(2, 3))]

    def start(data):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).to(f64)
        model.lm_head = nn.Linear(16, 30, bias=False, dtype=f64)  # GPT-2's other layers are Conv1D
        adapter = get_peft_model(model, LoraConfig(r=2, target_modules=["lm_head"])).to(f64)
        lora_one_(adapter, data, 0.5)
        return torch.cat([p.detach().flatten() for name, p in sorted(adapter.named_parameters()) if "lora_" in name])

    # one batch of all rows averages over all predicted tokens; the sign of singular vectors is settled by equal seeds
    assert off(start(rows), start([{"input_ids": text, "labels": labels}])) < 1e-6


def test_half_precision_models_get_factors_of_their_own_dtype():
    data = batches(4, 4)
    exact, half = adapted(), adapted().to(torch.bfloat16)
    lora_one_(exact, data, 1.0)
    lora_one_(half, data, 1.0)
    assert all(found.B.dtype == torch.bfloat16 for found in targets(half).values())
    wanted, found = (list(targets(model).values())[-1] for model in (exact, half))
    # bfloat16 has 8 bits, and the last layer's gradient passes few products
    assert off(found.B.double() @ found.A.double(), wanted.B @ wanted.A) < 0.1


def test_the_pinned_network_gets_the_same_start():
    path = minilm.locate()
    plain = BertForSequenceClassification(
        BertConfig(**json.loads((path.parent / "config.json").read_text()), num_labels=2)
    )
    plain.bert.load_state_dict(load_file(path), strict=False)
    with torch.no_grad():
        plain.classifier.weight.copy_(torch.sin(torch.arange(768.0)).view(2, 384) / 10)
    source = device.generator(3)
    data = [
        {"input_ids": torch.randint(1000, 20000, (4, 10), generator=source), "labels": torch.tensor([0, 1, 1, 0])}
        for _ in range(2)
    ]
    gradients = autograd(copy.deepcopy(plain), data)
    model = get_peft_model(
        plain,
        LoraConfig(
            r=4, lora_alpha=4, target_modules=r".*layer\.[05]\.(attention.self.query|output.dense|intermediate.dense)"
        ),
    )
    lora_one_(model, data, 1.0)
    assert len(targets(model)) == 6
    for name, target in targets(model).items():
        # a float32 gradient through six layers, summed in another order
        assert (
            off((target.B @ target.A).double().detach(), published(gradients[name].double(), 4, 1.0, "spectral", 1.0))
            < 1e-3
        )


@pytest.mark.parametrize("form", FORMS)
def test_the_start_of_a_peft_model_is_that_of_the_plain_network_of_the_book(form):
    """transformers and PEFT here; the book's own network, gradient and start there."""
    texts = (
        "A moving and often funny film.",
        "Dull, dull, dull.",
        "It never finds its feet.",
        "Great!",
        "I wanted my evening back.",
        "Not bad at all.",
    )
    task = sentiment.prepare(
        encoder.Encoder(minilm.encoder(device="cpu")), (Sentences(texts, torch.tensor([1, 0, 0, 1, 0, 1])),)
    )[0]
    W = task.encoder.matrices(1)
    G, rank, gamma = task.negative_gradient(W), 4, 16.0
    plain = BertModel(
        BertConfig(**json.loads(minilm.locate().with_name("config.json").read_text())), add_pooling_layer=False
    )
    plain.load_state_dict(minilm.encoder(device="cpu"), strict=False)
    names = [f"encoder.layer.5.{name}" for name in minilm.KINDS.values()]
    model = get_peft_model(plain, LoraConfig(r=rank, lora_alpha=rank, target_modules=names))
    tokens = encoder.tokenize(texts)
    order = tokens.mask.sum(1).argsort(stable=True)  # that of the task

    def loss(model, rows):
        mask = tokens.mask[order][rows]
        last = model(input_ids=tokens.ids[order][rows], attention_mask=mask.long()).last_hidden_state
        vectors = nn.functional.normalize((last * mask[..., None]).sum(1), dim=-1)
        return nn.functional.binary_cross_entropy_with_logits(
            vectors @ task.head[:-1] + task.head[-1], task.labels[rows]
        ), len(rows)

    lora_one_(model, [torch.arange(4), torch.arange(4, 6)], gamma, form, loss=loss)
    found = targets(model)
    assert list(found) == names
    for k, target in enumerate(found.values()):
        B, A, offset = starts.lora_one(G[k], rank, gamma, form)
        X = (target.B @ target.A).detach().double()
        # float32 gradients through one block, with the attention computed in another order
        assert off(X, B @ A) < 1e-4
        moved = (target.weight - W[k]).detach().double()
        assert off(moved, -X) < 1e-4 if offset else not moved.any()


def test_factors_of_a_matrix_of_low_rank_are_exact_and_stay_on_the_device():
    source = device.generator(0)
    G = device.normal((40, 3), source) @ device.normal((3, 30), source)
    with no_hidden_host_transfers():
        B, A, s = factors(G, 3, 1.0, "spectral", seed=1)
    # exact up to rounding
    assert off(B @ A, -G) < 1e-13 and off(B.mT @ B, A @ A.mT) < 1e-12 and off(s, torch.linalg.svdvals(G)[:3]) < 1e-13


# ---------------------------------------------------------------- what can be started is, and the rest is named


def gpt2():
    torch.manual_seed(0)
    return GPT2ForSequenceClassification(
        GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=16, pad_token_id=0)
    ).to(f64)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_conv1d_is_started_like_the_linear_layer_that_it_is(form, exact):
    data, names = batches(4, 3), ["transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_proj"]
    plain = gpt2().eval()
    sum(plain(**batch).loss * len(batch["labels"]) / 7 for batch in data).backward()
    model = get_peft_model(gpt2(), LoraConfig(r=3, target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True)).to(
        f64
    )
    lora_one_(model, data, 0.5, form, exact=exact)
    assert list(targets(model)) == names
    for name, target in targets(model).items():
        before = plain.get_submodule(name).weight.detach()
        G = plain.get_submodule(name).weight.grad.mT
        X = (target.B @ target.A).detach()
        # float64 throughout
        assert off(X, published(G, 3, 0.5, form, target.scale)) < 1e-11
        moved = (target.weight.detach() - before).mT
        assert off(moved, -target.scale * X) < 1e-11 if form == "slides" else not moved.any()


def test_what_cannot_be_started_is_named_and_the_rest_is_started():
    model = get_peft_model(bert(), LoraConfig(r=3, target_modules=["query", "word_embeddings", "classifier"])).to(f64)
    kept = copy.deepcopy(model.state_dict())
    with pytest.warns(UserWarning) as said:
        started = lora_one_(model, batches(4), 1.0)
    assert [str(one.message) for one in said] == [
        "2 of 4 modules keep PEFT's start: adapts a layer of type Embedding, not a linear one "
        "(bert.embeddings.word_embeddings); the rank 3 is above the smaller dimension 2 (classifier)."
    ]
    assert all("query" in name for name in started) and len(started) == 2 and set(started.kept) == set(started)
    assert list(started.left) == ["bert.embeddings.word_embeddings", "classifier"]
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, kept[key])}
    assert len(changed) == 4 and all("query.lora_" in key for key in changed)


class Experts(nn.Module):
    """Rows go to one of two experts; a third is never asked."""

    def __init__(self, wide=6):
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.ModuleList(nn.Linear(wide, wide) for _ in range(3))
        self.head = nn.Linear(wide, 2)

    def forward(self, x):
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts[:2]):
            rows = (x[:, 0] > 0).long().eq(number).nonzero().flatten()
            if len(rows):
                out = out.index_add(0, rows, expert(x[rows]))
        return self.head(out.tanh())


def entropy(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1]), len(batch[1])


@pytest.mark.parametrize("way", [{}, {"exact": True}, {"passes": 1}, {"width": 3}])
@pytest.mark.parametrize("turned", [False, True])
def test_a_module_that_some_batches_do_not_reach_is_summed_over_the_others(turned, way):
    source = device.generator(2)
    x, y = device.normal((9, 6), source, "cpu"), torch.randint(0, 2, (9,), generator=source)
    x[:4, 0] = x[:4, 0].abs()
    data = [(x[:4], y[:4]), (x[4:], y[4:])][:: -1 if turned else 1]
    plain = Experts().to(f64)
    nn.functional.cross_entropy(plain(x), y).backward()
    model = get_peft_model(Experts(), LoraConfig(r=2, target_modules=r"experts\.\d")).to(f64)
    with pytest.warns(
        UserWarning, match=r"1 of 3 modules keep PEFT's start: the loss of no batch depends on .*ts\.2\)"
    ):
        lora_one_(model, data, 1.0, loss=entropy, **way)
    for name, target in list(targets(model).items())[:2]:
        G = plain.get_submodule(name).weight.grad
        # rank 2 of at most 9 rows; a sketch of 3 columns is not exact
        assert off((target.B @ target.A).detach(), published(G, 2, 1.0, "spectral", target.scale)) < (
            0.3 if "width" in way else 1e-12
        )


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_module_whose_gradient_is_0_or_rounding_keeps_its_start_and_is_named(attention, dtype):
    torch.manual_seed(0)
    config = dict(vocab_size=40, d_model=64, encoder_layers=1, decoder_layers=1, pad_token_id=1, eos_token_id=2)
    heads = dict(encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24)
    plain = BartForConditionalGeneration(BartConfig(**config, **heads, attn_implementation=attention))
    model = get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj", "v_proj"])).to(dtype)
    before = {name: (one.B.clone(), one.A.clone()) for name, one in targets(model).items()}
    data = batches(4, 3)
    # one target token: the decoder's attention to itself sees one position
    data = [{"input_ids": one["input_ids"] % 40, "labels": 3 + one["labels"][:, None]} for one in data]
    with pytest.warns(UserWarning, match="1 of 6 modules keep PEFT's start: the gradient is 0"):
        started = lora_one_(model, data, 1.0)
    idle = "model.decoder.layers.0.self_attn.q_proj"
    assert list(started.left) == [idle] and len(started) == 5
    assert all(map(torch.equal, before[idle], targets(model)[idle][2:4]))


def test_one_gradient_that_is_not_finite_does_not_hide_the_others():
    data, healthy, model = batches(4, 4), adapted(), adapted()
    lora_one_(healthy, data, 1.0)
    spoilt = "bert.encoder.layer.0.attention.self.query"
    # it is the first module, below which backward carries nothing to another
    model.base_model.model.get_submodule(spoilt).register_forward_hook(lambda *both: Spoilt.apply(both[2]))
    with pytest.warns(UserWarning, match=rf"1 of 6 .* NaN or infinite \({spoilt}\)"):
        started = lora_one_(model, data, 1.0)
    assert len(started) == 5 and list(started.left) == [spoilt]
    for name, one in targets(healthy).items():
        assert (name == spoilt) != torch.equal(one.B, targets(model)[name].B)


class Spoilt(torch.autograd.Function):
    """Passes on what comes, and NaN backward."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.full_like(gradient, float("nan"))


def test_weights_that_zero_3_keeps_elsewhere_and_experts_that_no_batch_reaches_are_named():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.away = nn.Linear(6, 6), nn.Linear(6, 6)
            self.experts = nn.Module()
            self.experts.gate_up_proj = nn.Parameter(torch.randn(3, 6, 6))

        def forward(self, x):
            return self.layer(x)

    config = LoraConfig(r=2, target_modules=["layer", "away"], target_parameters=["experts.gate_up_proj"])
    model = get_peft_model(Fused(), config)
    model.base_model.model.away.base_layer.weight.data = torch.empty(0)
    with pytest.warns(UserWarning, match="ZeRO-3 keeps .*depends on the weight"):
        started = lora_one_(model, [torch.ones(2, 6)], 1.0, loss=lambda model, x: model(x).square().mean())
    assert list(started) == ["layer"] and len(started.left) == 4
    assert started.left["experts.gate_up_proj[2]"] == "the loss of no batch depends on the weight"


# ---------------------------------------------------------------- what is refused


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


def tied_head():
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            tie_word_embeddings=True,
        )
    )


def merged():
    model = adapted()
    model.merge_adapter()
    return model


def two_active():
    model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(r=2, target_modules=["0"]))
    model.add_adapter("more", LoraConfig(r=2, target_modules=["0"]))
    model.base_model.set_adapter(["default", "more"])
    return model


@pytest.mark.parametrize(
    "model, sentence",
    [
        (bert, "must be a PEFT model"),
        (lambda: get_peft_model(bert(), IA3Config(target_modules=["key"], feedforward_modules=[])), "of the kind IA3"),
        (lambda: adapted(target_modules=["word_embeddings"]), "adapts a layer of type Embedding"),
        (
            lambda: get_peft_model(nn.Sequential(nn.Conv2d(3, 4, 2)), LoraConfig(r=2, target_modules=["0"])),
            "adapts a layer of type Conv2d",
        ),
        (
            lambda: get_peft_model(
                nn.Sequential(nn.MultiheadAttention(8, 2)), LoraConfig(r=2, target_modules=["out_proj"])
            ),
            "is the out_proj of an nn.MultiheadAttention",
        ),
        (lambda: torch.compile(adapted()), "got OptimizedModule: pass the model inside it"),
        (lambda: nn.DataParallel(adapted()), "got DataParallel: pass the model inside it"),
        (
            lambda: get_peft_model(
                nn.Sequential(nn.Conv2d(3, 4, 2)), LoraConfig(r=2, target_modules=["0"], use_dora=True)
            ),
            "uses the variant DoraConv2d",
        ),
        (lambda: adapted(lora_bias=True), "has a bias in its adapter"),
        (merged, "is merged into its base weight"),
        (two_active, "Say which adapter is meant: 2 are active"),
        (
            lambda: get_peft_model(nn.Sequential(nn.Linear(8, 2)), LoraConfig(r=3, target_modules=["0"])),
            r"the rank 3 is above the smaller dimension 2 \(0\)",
        ),
        (
            lambda: get_peft_model(Tied(), LoraConfig(r=2, target_modules=["first", "second"])),
            r"a weight that is shared with another layer, .* \(first, second\)",
        ),
        (
            lambda: get_peft_model(Tied(), LoraConfig(r=2, target_modules=["second"])),
            r"a weight that is shared with another layer, .* \(second\)",
        ),
        (
            lambda: get_peft_model(tied_head(), LoraConfig(r=2, target_modules=["lm_head"])),
            r"a weight that is shared with another layer, .* \(lm_head\)",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_one_sentence(model, sentence):
    model = model()
    before = state(model)
    with pytest.raises(ValueError, match=sentence) as raised:
        lora_one_(model, batches(4), 1.0)
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message
    assert same(before, state(model))


def bad(key, value):
    data = batches(4, 4)
    data[1][key] = value
    return data


@pytest.mark.parametrize(
    "data, options, sentence",
    [
        ([], {}, "There are no batches"),
        (iter(batches(4, 4)), {"exact": True}, "give a list or a DataLoader, not an iterator"),
        (bad("labels", torch.tensor([0, 1, 2, 0])), {}, "labels of batch 2 must lie between 0 and 1; got 0 to 2"),
        (bad("labels", torch.tensor([0, 1, -1, 0])), {}, "labels of batch 2 must lie between 0 and 1; got -1 to 1"),
        (bad("labels", torch.full((4,), -100)), {}, "Batch 2 is empty"),
        ([{key: value[:0] for key, value in batches(4)[0].items()}], {}, "Batch 1 is empty"),
        (
            [batches(4)[0], {"input_ids": torch.ones(2, 3, dtype=torch.long)}],
            {},
            "Batch 2 must be a dictionary with a tensor of labels",
        ),
        ([torch.ones(3)], {}, "Batch 1 must be a dictionary with a tensor of labels; got Tensor"),
        (batches(4), {"gamma": 0.0}, "gamma must be positive and finite"),
        (batches(4), {"gamma": float("nan")}, "gamma must be positive and finite"),
        (batches(4), {"form": "readme"}, "form must be one of spectral, slides, code"),
        (batches(4, 4), {"passes": 0}, "passes must be a whole number >= 1"),
        (batches(4, 4), {"width": 0}, "width must be a whole number >= 1"),
        (batches(4), {"adapter": "other"}, "has no adapter 'other'"),
        (batches(4), {"loss": lambda model, batch: model(**batch).logits}, "must be one finite number"),
        (
            batches(4),
            {"loss": lambda model, batch: torch.tensor(1.0)},
            "the loss of no batch depends on the weight",
        ),
        (
            batches(4),
            {"loss": lambda model, batch: 0 * model(**batch).loss},
            "the gradient is 0: there is nothing to start from",
        ),
        (batches(4), {"loss": lambda model, batch: (model(**batch).loss, 0)}, "Batch 1 is empty"),
        (
            batches(4),
            {"loss": lambda model, batch: model.base_model.model.bert.embeddings(batch["input_ids"]).sum()},
            "the loss of no batch depends on the weight",
        ),
        (
            batches(4),
            {"loss": lambda model, batch: torch.sqrt(0 * model(**batch).loss)},
            "has entries that are NaN or infinite",
        ),
    ],
)
def test_bad_data_gets_one_sentence_and_changes_nothing(data, options, sentence):
    model = adapted(lora_dropout=0.1)
    model.train()
    before = state(model)
    with pytest.raises(ValueError, match=sentence) as raised:
        lora_one_(model, data, **({"gamma": 1.0} | options))
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message
    assert same(before, state(model))


@pytest.mark.parametrize("gamma, form", [(1e20, "spectral"), (1e-30, "spectral"), (1e11, "slides"), (1e-20, "slides")])
def test_a_start_too_large_or_too_small_for_half_precision_changes_nothing(gamma, form):
    model = adapted().to(torch.float16)
    before = state(model)
    with pytest.raises(ValueError, match="does not fit into torch.float16"):
        lora_one_(model, batches(4), gamma, form)
    assert same(before, state(model))


# ---------------------------------------------------------------- the certificate


def landscape(name, B, A, scale=1.0):
    """A PEFT model whose loss is that of a named instance of the landscape chapter."""
    problem = kim.laboratory.instance(name)
    m, n = problem.shape
    plain = nn.Sequential(nn.Linear(n, m, bias=False)).to(f64)
    nn.init.zeros_(plain[0].weight)
    model = get_peft_model(plain, LoraConfig(r=B.shape[1], lora_alpha=scale * B.shape[1], target_modules=["0"])).to(f64)
    target = targets(model)["0"]
    with torch.no_grad():
        target.B.copy_(B)
        target.A.copy_(A)
    eye = torch.eye(n, dtype=f64)
    return model, problem, lambda model, batch: problem.loss(model(eye).mT)


@pytest.mark.parametrize(
    "size, decay, verdict",
    [
        (1e-9, 1.3, certificates.STATIONARY),
        (1e-9, 0.7, certificates.NOT_STATIONARY),
        (1e-2, 1.3, certificates.NOT_STATIONARY),
    ],
)
def test_an_update_that_decay_has_switched_off_is_stationary(size, decay, verdict):
    source = device.generator(3)
    draw = lambda *shape: device.normal(shape, source, "cpu")
    plain = nn.Sequential(nn.Linear(5, 4, bias=False)).to(f64)
    plain[0].weight.data.copy_(draw(4, 5))
    model = get_peft_model(plain, LoraConfig(r=2, lora_alpha=2, target_modules=["0"])).to(f64)
    target, slope = targets(model)["0"], draw(4, 5)
    slope /= torch.linalg.matrix_norm(slope, 2)
    with torch.no_grad():  # balanced factors, so that only the slope speaks
        target.B.copy_(size * torch.linalg.qr(draw(4, 2))[0])
        target.A.copy_(size * torch.linalg.qr(draw(5, 2))[0].mT)
    eye = torch.eye(5, dtype=f64)
    found = certify(model, [0], decay, loss=lambda model, batch: (slope * model(eye).mT).sum())["0"]
    # the loss is linear in the weight: its gradient is the slope, of norm 1, wherever the factors are
    assert found.excess == pytest.approx(1 / decay, rel=1e-12) and found.slope > 0.1 and found.imbalance < 1e-12
    assert found.verdict == verdict


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_verdicts_are_those_of_the_landscape_chapter(scale):
    problem = kim.laboratory.instance("magnet")
    B, A = problem.spurious_factors()
    root = scale**0.5
    model, problem, loss = landscape("magnet", B / root, A / root, scale)
    decay = problem.lam * scale  # X = scale B A with this decay is the same point of the same problem
    found = certify(model, [0], decay, loss=loss)["0"]
    wanted = kim.certificate.certify(B, A, problem.gradient(B @ A), problem.lam)
    assert found.verdict == certificates.RANK_SATURATED
    # float64 through one product
    assert found.excess == pytest.approx(wanted.excess, rel=1e-12) and found.slope < 1e-10
    truth = torch.zeros_like(B)
    truth[0, 0] = 1.0
    model, _, loss = landscape("magnet", truth / root, truth.mT / root, scale)
    assert certify(model, [0], decay, loss=loss)["0"].verdict == certificates.STATIONARY
    model, _, loss = landscape("magnet", 1.3 * B / root, A / root, scale)
    assert certify(model, [0], decay, loss=loss)["0"].verdict == certificates.NOT_STATIONARY
    model, _, loss = landscape("magnet", 0 * B, 0 * A, scale)
    assert certify(model, [0], decay, loss=loss)["0"].verdict == certificates.SADDLE


def test_a_conv1d_is_certified_like_the_linear_layer_that_it_is_and_others_are_named():
    data = batches(4, 3)
    config = LoraConfig(r=3, target_modules=["c_attn", "wte"], fan_in_fan_out=True, init_lora_weights=False)
    model = get_peft_model(gpt2(), config).to(f64)
    with pytest.warns(UserWarning, match=r"1 of 2 modules get no verdict: .* Embedding.*\(transformer.wte\)"):
        ((name, found),) = certify(model, data, 0.1).items()
    target = targets(model)[name]
    target.weight.requires_grad_()
    sum(model.eval()(**batch).loss * len(batch["labels"]) / 7 for batch in data).backward()
    wanted = kim.certificate.certify(target.B, target.A, target.weight.grad.mT, 0.1, target.scale)
    # float64, summed in another order
    assert (found.excess, found.slope, found.imbalance) == pytest.approx(
        (wanted.excess, wanted.slope, wanted.imbalance), rel=1e-9
    )


@pytest.mark.parametrize("decay", [0, -1.0, float("inf"), True])
def test_the_certificate_needs_a_decay(decay):
    with pytest.raises(ValueError, match="The weight decay must be positive and finite"):
        certify(adapted(), batches(4), decay)


def test_the_certificate_needs_the_adapter_in_force():
    model = adapted()
    with model.disable_adapter(), pytest.raises(ValueError, match="The adapter is disabled"):
        certify(model, batches(4), 0.1)


def test_the_certificate_refuses_an_adapter_that_is_not_the_active_one():
    model = adapted()
    model.add_adapter("other", LoraConfig(**LORA))
    with pytest.raises(ValueError, match=r"that of the active adapters \(default\): activate 'other' alone first"):
        certify(model, batches(4), 0.1, adapter="other")
    model.set_adapter("other")
    assert len(certify(model.to(f64), batches(4), 0.1, adapter="other")) == len(targets(model))
