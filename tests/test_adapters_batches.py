"""Ragged batches are weighed so that they equal one batch of all rows, and every pass must see the same batches."""

import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import transformers as T
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.loss.loss_utils import LOSS_MAPPING

from lorabook import device
from lorabook.adapters import lora_one_
from lorabook.adapters.batches import MEANS, Repeated
from lorabook.adapters.targets import targets

WORDS, WIDE = 40, 16
SMALL = dict(hidden_size=WIDE, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
TEXT = dict(vocab_size=WORDS, max_position_embeddings=32, **SMALL)
SEQUENCES = dict(vocab_size=WORDS, d_model=WIDE, encoder_layers=1, decoder_layers=1, pad_token_id=1, eos_token_id=2)
HALVES = dict(encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24)
LLAVA = dict(
    text_config=dict(model_type="llama", num_key_value_heads=2, **TEXT),
    vision_config=dict(model_type="clip_vision_model", image_size=16, patch_size=8, projection_dim=WIDE, **SMALL),
    image_token_index=2,
)
PICTURES = dict(image_size=16, patch_size=8, num_labels=3, **SMALL)
SEGMENTS = dict(
    depths=[1] * 4,
    hidden_sizes=[8, 8, 16, 16],
    num_attention_heads=[1, 1, 2, 2],
    decoder_hidden_size=16,
    num_labels=3,
    semantic_loss_ignore_index=255,
)


def words(source, rows=5, length=9, counted=(9, 3, 1, 6, 2)):
    ids = torch.randint(3, WORDS, (rows, length), generator=source)
    labels = ids.clone()
    for row, end in zip(labels, counted):
        row[end:] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def tagged(source):
    both = words(source)
    return both | {"labels": both["labels"].where(both["labels"] == -100, both["labels"] % 3)}


def rows(source, high=3):
    return words(source) | {"labels": torch.randint(0, high, (5,), generator=source)}


def seen(name, *shape):
    def draw(source):
        return {
            name: torch.randn(5, *shape, generator=source, dtype=torch.float64),
            "labels": torch.randint(0, 3, (5,), generator=source),
        }

    return draw


def segmented(source):
    labels = torch.randint(0, 3, (5, 32, 32), generator=source)
    labels[1:3, :20] = 255
    return {"pixel_values": torch.randn(5, 3, 32, 32, generator=source, dtype=torch.float64), "labels": labels}


#: class, configuration, data of five rows, the modules that are adapted
ARCHITECTURES = [
    ("LlamaForCausalLM", "LlamaConfig", TEXT | {"num_key_value_heads": 2}, words, ["q_proj", "down_proj"]),
    ("GPT2LMHeadModel", "GPT2Config", dict(vocab_size=WORDS, n_embd=WIDE, n_layer=1, n_head=2), words, ["c_attn"]),
    (
        "T5ForConditionalGeneration",
        "T5Config",
        dict(vocab_size=WORDS, d_model=WIDE, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0),
        words,
        ["q", "v"],
    ),
    ("BartForConditionalGeneration", "BartConfig", SEQUENCES | HALVES, words, ["q_proj", "fc1"]),
    ("MarianMTModel", "MarianConfig", SEQUENCES | HALVES | {"decoder_start_token_id": 1}, words, ["q_proj", "fc1"]),
    ("LlavaForConditionalGeneration", "LlavaConfig", LLAVA, words, r".*language_model.*(q_proj|v_proj)"),
    ("BertForMaskedLM", "BertConfig", TEXT, words, ["query", "value"]),
    ("BertForTokenClassification", "BertConfig", TEXT | {"num_labels": 3}, tagged, ["query", "value"]),
    ("BertForSequenceClassification", "BertConfig", TEXT | {"num_labels": 3}, rows, ["query", "value"]),
    (
        "LlamaForSequenceClassification",
        "LlamaConfig",
        TEXT | {"num_key_value_heads": 2, "num_labels": 3, "pad_token_id": 0},
        rows,
        ["q_proj"],
    ),
    ("ViTForImageClassification", "ViTConfig", PICTURES, seen("pixel_values", 3, 16, 16), "all-linear"),
    (
        "VideoMAEForVideoClassification",
        "VideoMAEConfig",
        PICTURES | {"num_frames": 4},
        seen("pixel_values", 4, 3, 16, 16),
        ["query", "value"],
    ),
    (
        "ASTForAudioClassification",
        "ASTConfig",
        dict(num_mel_bins=16, max_length=24, patch_size=8, time_stride=8, frequency_stride=8, num_labels=3, **SMALL),
        seen("input_values", 24, 16),
        "all-linear",
    ),
    ("SegformerForSemanticSegmentation", "SegformerConfig", SEGMENTS, segmented, ["q_proj", "v_proj"]),
]
KEYS = {
    "ForCausalLM",
    "ForConditionalGeneration",
    "ForMaskedLM",
    "ForTokenClassification",
    "ForSequenceClassification",
    "ForImageClassification",
    "ForVideoClassification",
    "ForAudioClassification",
    "ForSemanticSegmentation",
}


def model_of(kind, config, options, modules):
    torch.manual_seed(0)
    model = getattr(T, kind)(getattr(T, config)(**options)).double()
    return get_peft_model(model, LoraConfig(r=2, target_modules=modules)).double()


def products(model):
    return torch.cat([(one.B @ one.A).detach().flatten() for one in targets(model).values()])


def cut(data, *sizes):
    parts = [value.split(sizes) for value in data.values()]
    return [dict(zip(data, part)) for part in zip(*parts)]


@pytest.mark.parametrize("kind, config, options, data, modules", ARCHITECTURES, ids=[one[0] for one in ARCHITECTURES])
@pytest.mark.filterwarnings("ignore:.*modules keep PEFT's start")
def test_ragged_batches_equal_one_batch_of_all_rows(kind, config, options, data, modules):
    whole = data(device.generator(1))
    found = []
    for given in ([whole], cut(whole, 1, 2, 2), cut(whole, 4, 1)):
        model = model_of(kind, config, options, modules)
        lora_one_(model, given, 1.0)
        found.append(products(model))
    # transformers' causal loss is float32
    assert all(float((one - found[0]).norm() / found[0].norm()) < 1e-6 for one in found)
    # and the mean of the batches' means is another start
    model = model_of(kind, config, options, modules)
    lora_one_(model, cut(whole, 4, 1), 1.0, loss=lambda model, batch: model(**batch).loss)
    assert float((products(model) - found[0]).norm() / found[0].norm()) > 1e-3


def test_every_key_of_transformers_is_known_and_every_accepted_one_is_tried():
    assert set(MEANS) == set(LOSS_MAPPING)
    assert {key for key, mean in MEANS.items() if mean} == KEYS
    tried = {model_of(*one[:3], one[4]).loss_type for one in ARCHITECTURES}
    assert KEYS <= tried


class Plain(nn.Module):
    """A network whose loss is called like one of transformers'."""

    def __init__(self, key=None, twice=False):
        super().__init__()
        self.layer, self.head, self.loss_type, self.twice = nn.Linear(6, 6), nn.Linear(6, 3), key, twice

    def forward(self, x, labels):
        scores = self.head(self.layer(x).tanh())
        loss = nn.functional.cross_entropy(scores, labels)
        return T.utils.ModelOutput(loss=loss + 0.1 * scores.square().mean() if self.twice else loss)


def plain(**options):
    torch.manual_seed(0)
    return get_peft_model(Plain(**options), LoraConfig(r=2, target_modules=["layer"]))


def points(*sizes, seed=0):
    source = device.generator(seed)
    return [
        {"x": torch.randn(size, 6, generator=source), "labels": torch.randint(0, 3, (size,), generator=source)}
        for size in sizes
    ]


@pytest.mark.parametrize("key", sorted(key for key, mean in MEANS.items() if mean is None))
def test_a_loss_that_is_no_mean_over_labels_is_refused_by_name(key):
    model = plain(key=key)
    with pytest.raises(ValueError, match=rf"under the loss {key}: give loss=lambda model, batch"):
        lora_one_(model, points(4, 3), 1.0)
    lora_one_(model, points(4, 3), 1.0, loss=lambda model, batch: (model(**batch).loss, len(batch["labels"])))


def test_a_loss_with_a_second_term_is_taken_from_one_batch_and_not_weighed():
    model = plain(twice=True)
    assert list(lora_one_(model, points(4), 1.0)) == ["layer"]
    with pytest.raises(ValueError, match="no single mean over labels, so several batches cannot be weighed"):
        lora_one_(model, points(4, 3), 1.0)


def test_class_weights_count_as_the_mean_counts_them():
    weight = torch.tensor([1.0, 5.0, 0.2])

    class Weighted(Plain):
        def forward(self, x, labels):
            loss = nn.CrossEntropyLoss(weight=weight)(self.head(self.layer(x).tanh()), labels)
            return T.utils.ModelOutput(loss=loss)

    data, found = points(6, 1), []
    for given in (data, [{key: torch.cat([one[key] for one in data]) for key in data[0]}]):
        torch.manual_seed(0)
        model = get_peft_model(Weighted(), LoraConfig(r=2, target_modules=["layer"]))
        lora_one_(model, given, 1.0)
        found.append(products(model))
    # float32
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 1e-5


# ---------------------------------------------------------------- the same data in every pass


class Drawn(torch.utils.data.IterableDataset):
    """Other rows at each pass, from a generator that nobody can set back."""

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        yield from points(3, 3, seed=self.passes)


def shuffled(**options):
    (whole,) = points(11)
    rows = [dict(zip(whole, row)) for row in zip(*whole.values())]
    return torch.utils.data.DataLoader(rows, batch_size=4, shuffle=True, **options)


def read(batches, times=2):
    again = Repeated(batches)
    passes = []
    for _ in range(times):
        passes.append([one["x"] for one in again])
        again.check()
    return passes


@pytest.mark.parametrize("passes", [1, 2, None])
def test_a_loader_that_shuffles_gives_every_pass_the_same_batches(passes):
    """torch's generator, one of the loader's own, and numpy's and Python's for what a collator draws."""

    def noisy(rows):
        batch = torch.utils.data.default_collate(rows)
        return batch | {"x": batch["x"] + random.random() + float(np.random.rand()) + torch.rand(())}

    for options in (
        {"drop_last": True},
        {"generator": torch.Generator().manual_seed(3)},
        {"collate_fn": noisy},
    ):
        first, second = read(shuffled(**options))
        assert len(first) == len(second) and all(map(torch.equal, first, second))
        model = plain()
        lora_one_(model, shuffled(**options), 1.0, passes=passes)


@pytest.mark.parametrize("key", [None, "ForCTC"])
def test_the_generators_are_left_as_they_were_found_also_by_an_error(key):
    model = plain(key=key)
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    wanted = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    with pytest.raises(ValueError, match="under the loss ForCTC") if key else nullcontext():
        lora_one_(model, shuffled(), 1.0)
    assert wanted == (torch.rand(1), np.random.rand(), random.random())


def test_a_sampler_that_counts_its_epochs_repeats_itself():
    sampler = pytest.importorskip("accelerate.data_loader").SeedableRandomSampler
    (whole,) = points(11)
    rows = [dict(zip(whole, row)) for row in zip(*whole.values())]
    loader = torch.utils.data.DataLoader(rows, batch_size=4, sampler=sampler(rows))
    first, second = read(loader)
    assert all(map(torch.equal, first, second))


def test_the_loader_of_a_trainer_gives_every_pass_the_same_batches(tmp_path):
    source = device.generator(5)
    texts = [{"input_ids": torch.randint(3, WORDS, (3 + k % 5,), generator=source).tolist()} for k in range(13)]

    def collate(rows):
        longest = max(len(row["input_ids"]) for row in rows)
        ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows])
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids.masked_fill(ids == 0, -100)}

    options = TEXT | {"num_key_value_heads": 2}
    model = model_of("LlamaForCausalLM", "LlamaConfig", options, ["q_proj"])
    settings = T.TrainingArguments(str(tmp_path), per_device_train_batch_size=4, report_to=[], use_cpu=True)
    loader = T.Trainer(model, settings, train_dataset=texts, data_collator=collate).get_train_dataloader()
    first, second = ([one["input_ids"] for one in again] for again in (loader, loader))
    assert any(one.shape != two.shape or not torch.equal(one, two) for one, two in zip(first, second))
    started = lora_one_(model, loader, 1.0, width=4)
    assert len(started) == 1 and started.kept["model.layers.0.self_attn.q_proj"] < 1


def two_layers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    return get_peft_model(net, LoraConfig(r=2, target_modules=["0", "2"]))


def entropy(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["labels"])


@pytest.mark.parametrize("batches", [Drawn(), torch.utils.data.DataLoader(Drawn(), batch_size=None)])
def test_other_data_in_another_pass_are_refused_and_nothing_changes(batches):
    model = two_layers()
    before = [one.B.clone() for one in targets(model).values()]
    with pytest.raises(ValueError, match="Pass 2 over the batches gave other data than the first"):
        lora_one_(model, batches, 1.0, loss=entropy, exact=True)
    assert all(map(torch.equal, before, (one.B for one in targets(model).values())))


class Opaque:
    def __init__(self, batch):
        self.batch = batch


def test_batches_that_cannot_be_looked_into_are_told_apart_by_their_loss():
    class Source(Drawn):
        def __iter__(self):
            yield from map(Opaque, super().__iter__())

    with pytest.raises(ValueError, match="gave other data"):
        lora_one_(two_layers(), Source(), 1.0, loss=lambda model, one: entropy(model, one.batch), exact=True)


def test_fewer_batches_in_another_pass_are_refused():
    class Shrinking(Drawn):
        def __iter__(self):
            self.passes += 1
            yield from points(3, 3, 3)[: 4 - self.passes]

    with pytest.raises(ValueError, match="gave other data"):
        lora_one_(two_layers(), Shrinking(), 1.0, loss=entropy, exact=True)


def test_the_order_of_the_batches_does_not_matter():
    class Turning(Drawn):
        def __iter__(self):
            self.passes += 1
            yield from points(3, 2, 4)[:: (-1) ** self.passes]

    lora_one_(two_layers(), Turning(), 1.0, loss=entropy, exact=True)
