"""What a run reads: rows from a shelf, and what an example becomes, beside transformers' own collator and example."""

import io

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from sklearn.metrics import accuracy_score

from lorabook.experiments import ExperimentError, images, made, settings, tasks
from lorabook.experiments.shelf import Shelf, _missing


@pytest.fixture(scope="module")
def shelves(tmp_path_factory):
    """By experiment a shelf with its tiny model and data, and its tokenizer."""
    found = {}
    for name in ("glue", "sst2"):
        experiment = settings.load(name)
        folder = tmp_path_factory.mktemp(name)
        made.shelf(folder, experiment)
        shelf = Shelf(folder)
        pinned = experiment["model"], experiment["model_revision"]
        found[name] = shelf, shelf.pretrained(transformers.AutoTokenizer, *pinned), experiment
    return found


@pytest.mark.parametrize("task", tasks.TASKS)
def test_a_batch_of_texts_is_that_of_transformers_own_collator(shelves, task):
    shelf, tokenizer, experiment = shelves["glue"]
    rows, _ = shelf.rows(experiment["data"], "any", tasks.file(task, "train"))
    examples = tasks.AsText(rows, task, tokenizer, 12)
    batch = tasks.text_batch(tokenizer)([examples[k] for k in range(5)])
    theirs = transformers.DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=tokenizer.pad_token_id)
    wanted = theirs([examples[k] for k in range(5)])
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(batch[name], wanted[name]), name
    assert batch["input_ids"].shape[1] <= 12
    assert torch.equal(batch["decoder_attention_mask"], (batch["labels"] != tokenizer.pad_token_id).long())


def test_a_prompt_and_its_target_are_those_of_the_released_code():
    row = {"sentence1": "a", "sentence2": "b", "label": 1}
    text, target = tasks.prompt("mrpc", row)
    assert text == "classify the semantic similarity of the text: a\nb\nresult: " and target == "equivalent"
    text, target = tasks.prompt("sst2", {"sentence": "a", "label": 0})
    assert text == "classify the sentiment of the text: a\nresult: " and target == "negative"


@pytest.mark.parametrize("task", ["sst2", "mrpc"])
def test_a_sentence_is_cut_as_in_transformers_example_for_glue(shelves, task):
    shelf, tokenizer, experiment = shelves["sst2"]
    columns = tasks.TASKS[task].columns
    rows = [{name: f"the film is fine {k}" for name in columns} | {"label": k % 2} for k in range(4)]
    examples = tasks.AsSentence(rows, task, tokenizer, 7)
    # run_glue.py: tokenizer(*args, padding="max_length", max_length=..., truncation=True)
    args = [[row[name] for row in rows] for name in columns]
    wanted = tokenizer(*args, padding="max_length", max_length=7, truncation=True)["input_ids"]
    pad = tokenizer.pad_token_id
    assert [examples[k]["input_ids"] for k in range(4)] == [[one for one in row if one != pad] for row in wanted]
    assert [examples[k]["labels"] for k in range(4)] == [0, 1, 0, 1] and len(examples) == 4


def test_labels_that_begin_alike_cannot_be_told_apart(shelves):
    _, tokenizer, _ = shelves["glue"]
    assert len(set(tasks.label_tokens("mnli", tokenizer))) == 3
    _, other, _ = shelves["sst2"]  # every text begins with the mark <s> there
    with pytest.raises(ExperimentError, match="labels of mnli begin with the same token"):
        tasks.label_tokens("mnli", other)


def test_rows_keep_their_order_and_the_file_has_its_hash(shelves):
    shelf, _, experiment = shelves["glue"]
    rows, digest = shelf.rows(experiment["data"], "any", tasks.file("cola", "validation"))
    assert [row["idx"] for row in rows] == list(range(made.ROWS["validation"])) and len(digest) == 64
    assert rows == made.made_rows("cola", "validation")
    assert 0.3 < accuracy_score([row["label"] for row in rows], [1] * len(rows)) < 0.7  # both labels occur


def test_what_is_not_on_the_shelf_is_one_sentence(shelves, tmp_path):
    shelf, _, experiment = shelves["glue"]
    with pytest.raises(ExperimentError, match="The data set nyu-mll/glue has no wnli/train.* in "):
        shelf.rows(experiment["data"], "any", "wnli/train-00000-of-00001.parquet")
    with pytest.raises(ExperimentError, match="The model google/other is not in .*: it has no config.json there"):
        shelf.pretrained(transformers.AutoTokenizer, "google/other", "any")
    with pytest.raises(ExperimentError, match="There is no task 'wnli'; there are mnli, sst2"):
        tasks.file("wnli", "train")
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x.parquet").write_text("no table")
    with pytest.raises(ExperimentError, match=r"a/b, x\.parquet: .*\.$"):
        Shelf(tmp_path).rows("a/b", "any", "x.parquet")


class GatedRepoError(OSError):
    pass


class RevisionNotFoundError(OSError):
    pass


class RepositoryNotFoundError(OSError):
    pass


class LocalEntryNotFoundError(OSError):
    pass


@pytest.mark.parametrize(
    "cause, said",
    [
        (GatedRepoError("403"), "a/b is given out on request: ask on its page on the Hub, then log in with `hf auth"),
        (RevisionNotFoundError("404"), "a/b has no revision 637a748546 any more."),
        (RepositoryNotFoundError("404"), "a/b is not on the Hub, or not for you."),
        (LocalEntryNotFoundError("offline"), "a/b is not on this machine, and the Hub cannot be reached."),
        (OSError("disk\nfull"), "a/b at 637a748546 cannot be read: disk full"),
    ],
)
def test_why_something_cannot_be_had_is_told_in_one_sentence(cause, said):
    outer = OSError(str(cause))
    outer.__cause__ = cause
    message = str(_missing("a/b", "637a748546", outer))
    assert message.startswith(said) and "\n" not in message


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("task", images.SETS)
def test_a_picture_is_read_with_its_label_and_made_large_as_transformers_does(tmp_path, task):
    experiment = settings.load(task)
    made.shelf(tmp_path, experiment)
    rows, _ = Shelf(tmp_path).rows(experiment["data"], "any", images.file(task, "validation"))
    found = images.Pictures(rows, task)
    assert len(found) == made.ROWS["validation"] and found.pixels.dtype == torch.uint8
    assert found.labels == [row[images.SETS[task][0]] for row in rows]
    batch = images.picture_batch(64)([found[k] for k in range(4)])
    pictures = [Image.open(io.BytesIO(row["img"]["bytes"])) for row in rows[:4]]
    assert torch.equal(found.pixels[0], torch.from_numpy(np.array(pictures[0])).permute(2, 0, 1))
    # ViTImageProcessor: bilinear with PIL, which rounds to bytes, then (x / 255 - 0.5) / 0.5; a byte is 2 / 255
    large = [torch.from_numpy(np.array(one.resize((64, 64), Image.Resampling.BILINEAR))) for one in pictures]
    wanted = torch.stack(large).permute(0, 3, 1, 2) / 255 * 2 - 1
    assert float((batch["pixel_values"] - wanted).abs().max()) < 2.01 / 255
    assert batch["labels"].tolist() == found.labels[:4]


def test_a_picture_that_cannot_be_read_is_one_sentence():
    with pytest.raises(ExperimentError, match=r"A picture of the data set cannot be read\."):
        images.Pictures([{"img": {"bytes": b"no picture"}, "label": 0}], "cifar10")
    with pytest.raises(ExperimentError, match="There is no task 'svhn'; there are cifar10, cifar100"):
        images.file("svhn", "train")
