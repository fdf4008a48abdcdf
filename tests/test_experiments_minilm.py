"""Kim, Kim and Ryu's experiments on MiniLM: the stand-in for the Hub, the tables, and one run made again."""

import math

import pytest
import safetensors.torch
import torch
import transformers

from lorabook.experiments import (
    ExperimentError,
    minilm,
    minilm_records,
    minilm_settings,
    minilm_settled,
    minilm_tables,
    points,
    settings,
)
from lorabook.experiments.points import STARTS
from lorabook.inputs.minilm import weights_file
from lorabook.page import lists

slow = pytest.mark.slow
pytestmark = pytest.mark.usefixtures("quiet")


def columns(name, *keys):
    return [tuple(row[key] for key in keys) for row in minilm_tables.read(name)]


# The stand-in


def test_what_is_changed_is_named_and_everything_else_is_as_in_sst2():
    ours, theirs = minilm_settings.values(), {name: one.value for name, one in settings.load("sst2").settings.items()}
    assert {name for name in ours if ours[name] != theirs.get(name)} == set(minilm_settings.CHANGED)
    assert all(reason for _, reason in minilm_settings.CHANGED.values())
    assert sorted(arm.decay for arm in minilm.arms() if arm.decay is not None) == sorted(theirs["decays"])


def test_the_sentences_of_the_splits_are_short_whole_and_different():
    train, test = (minilm_settings.split(name) for name in minilm_settings.SPLITS)
    assert (len(train), len(test)) == tuple(minilm_settings.SPLITS.values())
    assert not {row["sentence"] for row in train} & {row["sentence"] for row in test}
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights_file().parent)
    lengths = [len(ids) for ids in tokenizer([row["sentence"] for row in train + test])["input_ids"]]
    assert max(lengths) == minilm_settings.values()["length"]
    assert 0.4 < sum(row["label"] for row in train) / len(train) < 0.6
    rows, digest = minilm_settings.Here().rows("any", "any", "sst2/validation-00000-of-00001.parquet")
    assert rows == test and len(digest) == 64


def test_the_network_is_the_pinned_one_with_a_head_of_its_own():
    here, kind = minilm_settings.Here(), transformers.AutoModelForSequenceClassification
    found = here.pretrained(kind, "any", "any", num_labels=2).state_dict()
    pinned = safetensors.torch.load_file(weights_file())
    ours = {name.removeprefix("bert."): one for name, one in found.items()}
    assert set(ours) - set(pinned) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(one, ours[name]) for name, one in pinned.items() if one.is_floating_point())


def test_one_folder_is_needed():
    with pytest.raises(ExperimentError, match="Say where the records go"):
        minilm.main([])


# The tables


def test_the_tables_hold_every_run_once_and_agree_with_each_other():
    names = [minilm.label(arm) for arm in minilm.arms()]
    assert [name for (name,) in columns("ends", "arm")] == names
    tuned = set(names) - {"head"}
    assert {name for (name,) in columns("course", "arm")} == tuned == {name for (name,) in columns("matrices", "arm")}
    epochs = minilm_settings.values()["epochs"]
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
    wanted = [(start, when) for start in STARTS for when in minilm_settled.STEPS]
    assert columns("settled", "start", "when") == wanted
    ranks = minilm_settings.values()["table_2_ranks"]
    assert columns("constants", "matrix", "rank") == [(one, rank) for one in ("query", "value") for rank in ranks]


def test_every_matrix_of_every_run_has_its_row():
    tuned = [minilm.label(arm) for arm in minilm.arms() if arm.method != "probe"]
    wanted = [(arm, block, kind) for arm in tuned for block in range(6) for kind in ("query", "value")]
    assert sorted(columns("matrices", "arm", "block", "matrix")) == sorted(wanted)


def test_the_settled_loss_is_that_of_the_network_under_the_head_of_the_table():
    problem = minilm_settled.problem()
    rows = minilm_settings.split("train")[: minilm_settled.ROWS]
    here, kind = minilm_settings.Here(), transformers.AutoModelForSequenceClassification
    model = here.pretrained(kind, "", None, num_labels=2).eval()
    head = torch.tensor(columns("head", "negative", "positive"))
    tokenizer = here.pretrained(transformers.AutoTokenizer, "", None)
    X = 0.3 * torch.randn(384, 384, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value = model.bert.encoder.layer[5].attention.self.value.weight
    with torch.no_grad():
        value += X.float()
        batch = tokenizer([row["sentence"] for row in rows], padding=True, return_tensors="pt")
        scores = model.bert(**batch).pooler_output @ head[:-1] + head[-1]
    labels = torch.tensor([row["label"] for row in rows])
    wanted = torch.nn.functional.cross_entropy(scores, labels)
    assert float(problem.loss(X)) == pytest.approx(float(wanted), rel=1e-5)  # float32
    assert float(problem.loss(0 * X)) != pytest.approx(float(wanted), rel=1e-2)
    with pytest.raises(ExperimentError, match="no start 'middle'; there are zero, small_1"):
        minilm_settled.course(problem, "middle")


def test_losses_and_accuracies_follow_from_the_scores():
    scores = minilm_tables.read("scores")
    labels = torch.tensor([row["label"] for row in scores])
    assert len(scores) == minilm_settings.SPLITS["validation"]
    assert [row["label"] for row in minilm_settings.split("validation")] == labels.tolist()
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
    assert sum(name.startswith("kim.minilm-") for name in lists.load("kim")) == 8 and "eight claims" in card


@slow
@pytest.mark.parametrize("start", STARTS)
def test_the_first_steps_from_every_start_made_again_agree_with_their_rows(start, monkeypatch):
    monkeypatch.setattr(minilm_settled, "STEPS", {"soon": minilm_settled.STEPS["soon"]})
    (wanted,) = (row for row in minilm_tables.read("settled") if (row["start"], row["when"]) == (start, "soon"))
    (found,) = minilm_settled.course(minilm_settled.problem("cpu"), start)
    numbers = ("steps", "objective", "rank", "norm", "slope", "excess")
    assert [found[key] for key in numbers] == pytest.approx([wanted[key] for key in numbers], rel=1e-5)  # six digits


@slow
def test_one_run_made_again_agrees_with_its_row(tmp_path):
    (arm,) = (one for one in minilm.arms() if one.start == "zero")
    values = minilm_settings.values()
    probe = points.Point("sst2", "sst2", "probe", arm.seed, values["head_rate"]).name(values)
    head = torch.tensor(columns("head", "negative", "positive"))  # as trained before: that takes as long again
    weights = {"weight": head[:-1].mT.contiguous(), "bias": head[-1].clone()}
    safetensors.torch.save_file(weights, tmp_path / f"{probe}.safetensors")
    again = minilm_records.ends(minilm.label(arm), minilm.record(arm, tmp_path))
    (row,) = (row for row in minilm_tables.read("ends") if row["arm"] == again.arm)
    # processors round otherwise, and 360 steps of descent carry it on
    assert again.loss == pytest.approx(row["loss"], abs=5e-3) and again.rank == row["rank"]
    assert again.norm == pytest.approx(row["norm"], rel=0.05)
    assert abs(again.accuracy - row["accuracy"]) < 0.02
    assert len(list(tmp_path.glob("*.safetensors"))) == 1, "the head was read"
