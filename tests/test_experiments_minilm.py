"""Kim, Kim and Ryu's experiments on MiniLM: the stand-in for the Hub, the tables, and one run made again."""

import math

import pytest
import torch
import transformers

from lorabook.experiments import ExperimentError, minilm, minilm_records, minilm_settings, minilm_tables, settings
from lorabook.experiments.points import STARTS
from lorabook.inputs.minilm import weights_file
from lorabook.page import lists

slow = pytest.mark.slow
pytestmark = pytest.mark.usefixtures("quiet")


def columns(name, *keys):
    return [tuple(row[key] for key in keys) for row in minilm_tables.read(name)]


# The stand-in


def test_what_is_changed_is_named_and_everything_else_is_as_in_sst2():
    ours, theirs = minilm.values(), {name: one.value for name, one in settings.load("sst2").settings.items()}
    assert {name for name in ours if ours[name] != theirs.get(name)} == set(minilm_settings.CHANGED)
    assert all(reason for _, reason in minilm_settings.CHANGED.values())
    assert sorted(arm.decay for arm in minilm.arms() if arm.decay is not None) == sorted(theirs["decays"])


def test_the_sentences_of_the_splits_are_short_whole_and_different():
    train, test = (minilm.split(name) for name in minilm.SPLITS)
    assert (len(train), len(test)) == tuple(minilm.SPLITS.values())
    assert not {row["sentence"] for row in train} & {row["sentence"] for row in test}
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights_file().parent)
    lengths = [len(ids) for ids in tokenizer([row["sentence"] for row in train + test])["input_ids"]]
    assert max(lengths) == minilm.values()["length"]
    assert 0.4 < sum(row["label"] for row in train) / len(train) < 0.6
    rows, digest = minilm.Here().rows("any", "any", "sst2/validation-00000-of-00001.parquet")
    assert rows == test and len(digest) == 64


def test_a_network_that_remembers_is_the_network():
    kind, options = transformers.AutoModelForSequenceClassification, {"num_labels": 2}
    torch.manual_seed(0)
    plain = kind.from_pretrained(weights_file().parent, **options).eval()
    ours = minilm.Here().pretrained(kind, "any", "any", **options).eval()
    ours.classifier.load_state_dict(plain.classifier.state_dict())
    assert list(ours.state_dict()) == list(plain.state_dict())
    tokenizer = minilm.Here().pretrained(transformers.AutoTokenizer, "any", "any")
    texts = [row["sentence"] for row in minilm.split("train")[:6]]
    for part in (texts[:2], texts, texts[4:]):  # seen for the first time, in part, and again beside others
        batch = tokenizer(part, padding=True, return_tensors="pt")
        with torch.no_grad():
            # float32, other lengths of the padding
            assert torch.allclose(ours(**batch).logits, plain(**batch).logits, atol=1e-5)
    top, below = (f"bert.encoder.layer.{k}.attention.self.value.weight" for k in (5, 3))
    ours(**batch, labels=torch.tensor([0, 1])).loss.backward()
    grads = {name: one.grad for name, one in ours.named_parameters()}
    assert float(grads[top].norm()) > 0 and grads[below] is None


def test_one_folder_is_needed():
    with pytest.raises(ExperimentError, match="Say where the records go"):
        minilm.main([])


# The tables


def test_the_tables_hold_every_run_once_and_agree_with_each_other():
    names = [minilm.label(arm) for arm in minilm.arms()]
    assert [name for (name,) in columns("ends", "arm")] == names
    tuned = set(names) - {"head"}
    assert {name for (name,) in columns("course", "arm")} == tuned == {name for (name,) in columns("matrices", "arm")}
    epochs = minilm.values()["epochs"]
    assert all(sum(name == arm for (name,) in columns("course", "arm")) == epochs for arm in tuned)
    largest = {name: 0.0 for name in names}
    for name, rank in columns("matrices", "arm", "rank_0.0001"):
        largest[name] = max(largest[name], rank)
    assert dict(columns("ends", "arm", "rank")) == largest
    last = {name: (rank, accuracy) for name, rank, accuracy in columns("course", "arm", "rank", "accuracy")}
    assert last == {
        name: (rank, right) for name, rank, right in columns("ends", "arm", "rank", "accuracy") if name != "head"
    }


def test_every_start_is_settled_and_the_constants_are_taken_of_both_matrices():
    wanted = [(start, when) for start in STARTS for when in ("soon", "late")]
    assert columns("settled", "start", "when") == wanted
    ranks = minilm.values()["table_2_ranks"]
    assert columns("constants", "matrix", "rank") == [(one, rank) for one in ("query", "value") for rank in ranks]


def test_losses_and_accuracies_follow_from_the_scores():
    scores = minilm_tables.read("scores")
    labels = torch.tensor([row["label"] for row in scores])
    assert len(scores) == minilm.SPLITS["validation"]
    assert [row["label"] for row in minilm.split("validation")] == labels.tolist()
    for name, loss, accuracy, error in columns("ends", "arm", "loss", "accuracy", "error"):
        margin = torch.tensor([row[name] for row in scores], dtype=torch.float64)
        right = float(((margin > 0) == (labels > 0)).double().mean())
        # the scores are printed to four digits, the table to six
        assert float(minilm_tables.losses(margin, labels).mean()) == pytest.approx(loss, abs=1e-4)
        assert right == pytest.approx(accuracy, abs=2e-3)
        assert error == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / len(scores)), rel=1e-4)


def test_the_card_names_every_table_and_claim():
    card = (minilm_tables.FOLDER / "PROVENANCE.md").read_text(encoding="utf-8")
    assert all(f"{name}.csv" in card for name in minilm_tables.NAMES)
    assert {path.stem for path in minilm_tables.FOLDER.glob("*.csv")} == set(minilm_tables.NAMES)
    assert sum(name.startswith("kim.minilm-") for name in lists.load("kim")) == 6 and "six claims" in card


@slow
def test_one_run_made_again_agrees_with_its_row(tmp_path):
    (arm,) = (one for one in minilm.arms() if one.decay == 0.1)
    again = minilm_records.ends(minilm.label(arm), minilm.record(arm, tmp_path))
    (row,) = (row for row in minilm_tables.read("ends") if row["arm"] == again.arm)
    # processors round otherwise, and 64 steps of descent carry it on
    assert again.loss == pytest.approx(row["loss"], abs=2e-3) and abs(again.rank - row["rank"]) <= 1
    assert again.norm == pytest.approx(row["norm"], rel=0.05, abs=1e-3)
    assert abs(again.accuracy - row["accuracy"]) < 0.02
