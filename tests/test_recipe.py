"""The released settings, and the start inside transformers' Trainer: once, before the first step, with nothing else
moved."""

import copy
import inspect
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils.data import IterableDataset
from transformers import (
    ByT5Tokenizer,
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from lorabook.adapters import LoraOneCallback, PreconditionedAdamW, lora_one_, recipe
from lorabook.adapters.preconditioned import pairs

TOKENIZER = ByT5Tokenizer()  # bytes, without a file
LORA = recipe.ADAPTER | {"r": 4, "target_modules": ["q", "v"]}
VERBS = ("add", "cut", "fold", "turn", "lift", "hold")
PAIRS = [(f"{verb} {n}", f"{verb[::-1]}{n}") for n in range(4) for verb in VERBS]


def t5(**options):
    """A T5 of two blocks, with dropout as in the pretrained ones, and an adapter."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(TOKENIZER),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return get_peft_model(T5ForConditionalGeneration(config), LoraConfig(**(LORA | options)))


def rows():
    return [{"input_ids": TOKENIZER(ask).input_ids, "labels": TOKENIZER(answer).input_ids} for ask, answer in PAIRS]


def arguments(folder, kind=Seq2SeqTrainingArguments, **options):
    chosen = recipe.TRAINING | {"warmup_steps": 2, "num_train_epochs": 2} | options
    return kind(
        str(folder),
        per_device_train_batch_size=6,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **{"seed": 3, "save_strategy": "no"} | chosen,
    )


def trainer(folder, model, data=None, callbacks=(), **options):
    inner = {"optimizers": options.pop("optimizers")} if "optimizers" in options else {}
    return Seq2SeqTrainer(
        model,
        arguments(folder, **options),
        train_dataset=rows() if data is None else data,
        data_collator=DataCollatorForSeq2Seq(TOKENIZER, model),
        callbacks=list(callbacks),
        **inner,
    )


def factors(model):
    return {name: (pair.B.detach().clone(), pair.A.detach().clone()) for name, pair in pairs(model).items()}


def same(left, right):
    return left.keys() == right.keys() and all(
        torch.equal(one, other) for key in left for one, other in zip(left[key], right[key])
    )


class Stop(TrainerCallback):
    """Keeps what the model is before the first step, and ends the training after it."""

    def on_step_begin(self, args, state, control, model=None, **others):
        self.factors, self.buffers = factors(model), {name: one.clone() for name, one in model.named_buffers()}
        control.should_training_stop = True


class Seen(TrainerCallback):
    """The loss that each logged step reports."""

    def __init__(self):
        self.losses = []

    def on_log(self, args, state, control, logs=None, **others):
        self.losses += [logs["loss"]] if "loss" in logs else []


def begun(folder, callback, model=None, **options):
    """The factors before the first step."""
    stop = Stop()
    trainer(folder, model or t5(), callbacks=[callback, stop], **options).train()
    return stop.factors


# ---------------------------------------------------------------- the settings


def test_the_settings_are_those_of_the_released_run(tmp_path):
    config = LoraConfig(**recipe.ADAPTER)
    assert (config.r, config.lora_alpha, config.use_rslora, config.lora_dropout) == (8, 16, True, 0.0)
    said = TrainingArguments(str(tmp_path), **recipe.TRAINING)
    assert (said.learning_rate, said.weight_decay, said.warmup_steps, said.num_train_epochs) == (2e-4, 0.0, 100, 1)
    assert (said.lr_scheduler_type, said.optim, said.max_grad_norm) == ("linear", "adamw_torch", 1.0)
    assert (said.adam_beta1, said.adam_beta2, said.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert recipe.START == {"form": "code", "gamma": 128.0, "examples": 8, "batch_size": 1, "dropout": True}
    defaults = {name: one.default for name, one in inspect.signature(LoraOneCallback).parameters.items()}
    assert recipe.START.items() <= defaults.items()
    optimiser = inspect.signature(PreconditionedAdamW).parameters
    assert [optimiser[name].default for name in ("lr", "ridge", "weight_decay")] == [2e-4, 1e-6, 0.0]


# ---------------------------------------------------------------- the start


def test_it_is_the_start_over_the_first_examples_with_batches_that_weigh_alike(tmp_path):
    callback = LoraOneCallback(gamma=8, dropout=False)
    found = begun(tmp_path, callback)
    model = t5()
    collate = DataCollatorForSeq2Seq(TOKENIZER, model)
    values = lora_one_(
        model, [collate([row]) for row in rows()[:8]], 8, "code", loss=lambda model, batch: model(**batch).loss
    )
    assert same(found, factors(model))
    assert callback.values.keys() == values.keys() and all(
        torch.equal(callback.values[key], values[key]) for key in values
    )


@pytest.mark.parametrize("passes", [1, 3, None])
def test_dropout_masks_are_those_of_training_mode_and_the_same_in_every_pass(tmp_path, passes):
    found = begun(tmp_path, LoraOneCallback(passes=passes, examples=4, form="spectral", gamma=1.0))
    # the released code: the plain mean of the gradients of single examples, in training mode
    model = t5()
    collate = DataCollatorForSeq2Seq(TOKENIZER, model)
    plain = model.get_base_model().train()
    weights = {name: pair for name, pair in pairs(model).items()}
    layers = {name: plain.get_submodule(name.split(" ")[0].removeprefix("base_model.model.")) for name in weights}
    for layer in layers.values():
        layer.get_base_layer().weight.requires_grad_(True)
    with model.disable_adapter():
        for number, row in enumerate(rows()[:4]):
            torch.manual_seed(number)
            (model(**collate([row])).loss / 4).backward()
    for name, layer in layers.items():
        U, s, Vh = torch.linalg.svd(-layer.get_base_layer().weight.grad.double())
        B, A = found[name]
        wanted = (U[:, :4] * s[:4]) @ Vh[:4]
        # float32 gradients; a small gap costs digits of the cut
        assert float((8.0 * B @ A - wanted).norm() / wanted.norm()) < 1e-3


def test_nothing_else_is_moved(tmp_path):
    model, other = t5(), t5()
    callback, stop = LoraOneCallback(), Stop()
    run = trainer(tmp_path, model, callbacks=[callback, stop])
    torch.manual_seed(7)
    run.train()
    drawn = torch.rand(3)
    plain = trainer(tmp_path, other, callbacks=[Stop()])
    torch.manual_seed(7)
    plain.train()
    assert torch.equal(drawn, torch.rand(3))
    for (name, one), (_, two) in zip(model.named_parameters(), other.named_parameters()):
        assert "lora" in name or torch.equal(one, two)
        assert one.requires_grad == two.requires_grad
    assert [module.training for module in model.modules()] == [module.training for module in other.modules()]


def test_the_statistics_of_a_normalisation_layer_are_not_moved(tmp_path):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)

        def forward(self, x, labels):
            return {"loss": (self.norm(self.inner(x)).sum(1) - labels).square().mean()}

    torch.manual_seed(0)
    model = get_peft_model(Normed(), LoraConfig(r=2, target_modules=["inner"]))
    data = [{"x": torch.randn(3), "labels": torch.tensor(float(k))} for k in range(12)]
    before = {key: value.clone() for key, value in model.named_buffers()}
    callback, stop = LoraOneCallback(batch_size=4), Stop()
    Trainer(model, arguments(tmp_path, TrainingArguments), train_dataset=data, callbacks=[callback, stop]).train()
    assert callback.values
    assert len(before) == 3 and all(torch.equal(value, before[key]) for key, value in stop.buffers.items())


def test_a_stream_is_read_from_its_beginning(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            yield from rows()

    found = begun(tmp_path, LoraOneCallback(), data=Stream(), max_steps=4)
    assert same(found, begun(tmp_path, LoraOneCallback()))


def test_all_examples_and_a_named_adapter(tmp_path):
    model = t5()
    model.add_adapter("second", LoraConfig(**LORA))
    model.set_adapter("second")
    before = factors(model)
    callback = LoraOneCallback(examples=None, batch_size=5, adapter="second", dropout=False)
    after = begun(tmp_path, callback, model)
    assert {name for name in before if not same({name: before[name]}, {name: after[name]})} == {
        name for name in before if "second" in name
    }


# ---------------------------------------------------------------- runs


def test_a_resumed_run_is_not_started_again_and_ends_as_the_whole_one(tmp_path):
    def run(folder, model):
        made, settings = LoraOneCallback(), {"save_strategy": "steps", "save_steps": 3}
        optimiser = PreconditionedAdamW(model, 1e-2)
        return trainer(folder, model, callbacks=[made], optimizers=(optimiser, None), **settings), made

    whole, callback = run(tmp_path / "one", t5())
    whole.train()
    assert callback.values
    again, callback = run(tmp_path / "two", t5())
    again.train(resume_from_checkpoint=str(tmp_path / "one" / "checkpoint-3"))
    assert not callback.values
    assert again.state.global_step == whole.state.global_step == 8
    for name, (B, A) in factors(whole.model).items():
        for one, other in zip((B, A), factors(again.model)[name]):
            # the checkpoint holds all digits of float32
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-7), name


def test_a_second_training_goes_on_where_the_first_ended(tmp_path):
    model, callback = t5(), LoraOneCallback()
    run = trainer(tmp_path, model, callbacks=[callback], max_steps=2)
    run.train()
    after = factors(model)
    stop = Stop()
    run.add_callback(stop)
    run.train()
    assert same(stop.factors, after)


def test_a_new_model_under_the_same_callback_is_started(tmp_path):
    callback = LoraOneCallback()
    assert same(begun(tmp_path, callback), begun(tmp_path, callback))


def test_an_adapter_that_was_trained_before_is_refused(tmp_path):
    model = t5()
    trainer(tmp_path, model, max_steps=2).train()
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(t5().unload(), tmp_path / "adapter", is_trainable=True)
    before = factors(loaded)
    with pytest.raises(ValueError, match="has been started or trained before"):
        trainer(tmp_path, loaded, callbacks=[LoraOneCallback()]).train()
    assert same(factors(loaded), before)


@pytest.mark.parametrize("way", ["instance", "class"])
def test_the_optimiser_serves_a_trainer_with_its_schedule(tmp_path, way):
    model = t5()
    chosen = (
        {"optimizers": (PreconditionedAdamW(model, 1e-3), None)}
        if way == "instance"
        else {"optimizer_cls_and_kwargs": (PreconditionedAdamW, {"model": model, "lr": 1e-3})}
    )
    collate = DataCollatorForSeq2Seq(TOKENIZER, model)
    run = Trainer(model, arguments(tmp_path, TrainingArguments), train_dataset=rows(), data_collator=collate, **chosen)
    run.train()
    assert isinstance(run.optimizer.optimizer, PreconditionedAdamW)
    rates = [entry["learning_rate"] for entry in run.state.log_history if "learning_rate" in entry]
    # two steps of warm-up and six down
    assert rates == pytest.approx([1e-3 * share for share in (0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)])


def test_a_tiny_t5_begins_lower_from_the_start_and_learns(tmp_path):
    """The worked example with Seq2SeqTrainer."""
    losses = {}
    for name, callbacks in (("PEFT", []), ("LoRA-One", [LoraOneCallback()])):
        model, seen = t5(target_modules="all-linear"), Seen()
        options = {"optimizers": (PreconditionedAdamW(model, 1e-2), None), "num_train_epochs": 6}
        trainer(tmp_path, model, callbacks=[*callbacks, seen], **options).train()
        losses[name] = seen.losses
    assert len(losses["PEFT"]) == len(losses["LoRA-One"]) == 24
    # the start is a step, so the first loss is below PEFT's; how the two go on from there no theorem says
    assert losses["LoRA-One"][0] < losses["PEFT"][0]
    assert all(sum(seen[-6:]) < sum(seen[:6]) for seen in losses.values())


def chat(messages):
    """Token ids and labels of a conversation: only what the assistant says is learnt."""
    ids, labels = [], []
    for message in messages:
        head = TOKENIZER(f"<{message['role']}>", add_special_tokens=False).input_ids
        body = TOKENIZER(message["content"]).input_ids
        ids += head + body
        labels += [-100] * len(head) + (body if message["role"] == "assistant" else [-100] * len(body))
    return {"input_ids": ids, "labels": labels}


def test_a_tiny_causal_model_learns_from_chats_with_masked_prompts(tmp_path):
    """The worked example with data as for supervised fine-tuning."""
    data = [chat([{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]) for ask, answer in PAIRS]
    losses = {}
    for name, callbacks in (("PEFT", []), ("LoRA-One", [LoraOneCallback()])):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(TOKENIZER),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            pad_token_id=0,
        )
        model = get_peft_model(LlamaForCausalLM(config), LoraConfig(task_type="CAUSAL_LM", **recipe.ADAPTER))
        seen = Seen()
        Trainer(
            model,
            arguments(tmp_path, TrainingArguments, learning_rate=3e-3, num_train_epochs=6),
            train_dataset=data,
            data_collator=DataCollatorForSeq2Seq(TOKENIZER, model),
            callbacks=[*callbacks, seen],
        ).train()
        losses[name] = seen.losses
    assert losses["LoRA-One"][0] < losses["PEFT"][0]
    assert sum(losses["LoRA-One"]) < sum(losses["PEFT"])


RANK = """
import sys, torch
from lorabook.adapters.recipe import same_everywhere
rank, store = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
factor = torch.nn.Parameter(torch.tensor([rank + 0.1, rank + 0.2]))
same_everywhere([factor])
print(factor.tolist())
"""


def test_processes_that_train_together_have_the_factors_of_the_first(tmp_path, root):
    command = [sys.executable, "-c", RANK]
    running = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], cwd=root, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    first, second = (process.communicate(timeout=300)[0] for process in running)
    assert first == second and "[0.1" in first


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"form": "slides"}, "moves the base weights"),
        ({"gamma": 0}, "gamma must be positive"),
        ({"examples": 0}, "examples must be a whole number"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
    ],
)
def test_bad_settings_are_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        LoraOneCallback(**options)


@pytest.mark.parametrize(
    "model, data, options, sentence",
    [
        (lambda: t5().unload(), None, {}, "has no LoRA layer"),
        (t5, [{"input_ids": [5, 6, 1], "labels": [-100, -100]}] * 8, {}, "loss of batch 1 must be one finite number"),
        (t5, None, {"form": "best"}, "form must be one of"),
        (t5, None, {"adapter": "second"}, "second"),
    ],
)
def test_what_cannot_be_started_is_one_sentence_and_nothing_is_changed(tmp_path, model, data, options, sentence):
    made = model()
    before = copy.deepcopy(made.state_dict())
    with pytest.raises(ValueError, match=sentence) as caught:
        trainer(tmp_path, made, data, [LoraOneCallback(**options)]).train()
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())


def test_the_module_needs_transformers_only_for_the_callback():
    with pytest.raises(AttributeError, match="has no attribute 'Recipe'"):
        recipe.Recipe  # noqa: B018
    assert issubclass(LoraOneCallback, TrainerCallback) and recipe.LoraOneCallback is LoraOneCallback
