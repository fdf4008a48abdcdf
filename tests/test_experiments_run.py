"""A run of an experiment: rehearsed end to end, stopped and resumed with equal numbers, recorded once; and its plan."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import transformers

from lorabook.__main__ import main
from lorabook.experiments import (
    ExperimentError,
    kept,
    made,
    methods,
    nuclear,
    plan,
    points,
    results,
    run,
    sandbox,
    settings,
    training,
)
from lorabook.experiments.shelf import Shelf
from lorabook.inputs import published
from lorabook.sweep import SweepError, engine

slow = pytest.mark.slow
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def shelves(tmp_path_factory):
    found = {}
    for name in ("glue", "sst2", "cifar100", "cifar10"):
        folder = tmp_path_factory.mktemp(name)
        made.shelf(folder, settings.load(name))
        found[name] = Shelf(folder)
    return found


def one(name, **given):
    """A single run and the settings of its rehearsal."""
    experiment = settings.load(name)
    (found,) = points.runs(experiment, **given)
    return found, points.values(experiment, rehearse=True)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def same(first, second):
    """What two records of one run have to share: everything but times, memory and the folder."""
    return all(first[key] == second[key] for key in first if key not in ("seconds", "peak_memory"))


class Stopped(Exception):
    pass


def stop_at(monkeypatch, step):
    """Let the next training die after this many steps."""
    train = training.train

    def dying(trainer, folder):
        def on_step_end(_, args, state, control, **others):
            if state.global_step == step:
                raise Stopped

        if folder.name != "head":
            kind = type("Dying", (transformers.TrainerCallback,), {"on_step_end": on_step_end})
            trainer.add_callback(kind())
        train(trainer, folder)

    monkeypatch.setattr(training, "train", dying)


CASES = [
    ("glue", {"task": "mrpc", "method": "lora_one"}),
    ("sst2", {"method": "proximal", "decay": 0.01}),
    pytest.param("glue", {"task": "mrpc", "method": "lora_ga"}, marks=slow),
    pytest.param("glue", {"task": "mrpc", "method": "pissa"}, marks=slow),
    pytest.param("glue", {"task": "mrpc", "method": "lora_plus"}, marks=slow),
    pytest.param("glue", {"task": "mrpc", "method": "full"}, marks=slow),
    pytest.param("sst2", {"method": "factored", "start": "large"}, marks=slow),
    pytest.param("cifar100", {"method": "proximal", "decay": 0.001}, marks=slow),
    pytest.param("cifar10", {"method": "factored", "start": "0.1"}, marks=slow),
]


@pytest.mark.parametrize("name, given", CASES)
def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_numbers(shelves, tmp_path, monkeypatch, name, given):
    wanted = read(run.record(*one(name, **given), tmp_path / "whole", shelves[name]))
    out = tmp_path / "parts"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, 3 if name == "glue" else 5)
        run.record(*one(name, **given), out, shelves[name])
    (folder,) = [path for path in out.iterdir() if path.is_dir()]
    assert list(folder.glob("checkpoint-*")) and not list(out.glob("*.json"))
    place = run.record(*one(name, **given), out, shelves[name])
    assert same(read(place), wanted) and not folder.exists()
    losses = [entry["loss"] for entry in wanted["curve"] if "loss" in entry]
    assert len(losses) in (4, 8) and len(set(losses)) > 3  # something was trained


@slow
def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_numbers(tmp_path):
    words = [sys.executable, "-m", "lorabook", "run", "glue", "--task", "cola", "--method", "lora_one", "--rehearse"]
    home = os.environ | {"LORABOOK_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    subprocess.run([*words, "--out", tmp_path / "whole"], env=home, check=True, capture_output=True)
    first = subprocess.Popen([*words, "--out", tmp_path / "parts"], env=home, stderr=subprocess.DEVNULL)
    while first.poll() is None and not list(tmp_path.glob("parts/*/checkpoint-*/trainer_state.json")):
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    subprocess.run([*words, "--out", tmp_path / "parts"], env=home, check=True, capture_output=True)
    (whole,), (parts,) = tmp_path.glob("whole/*.json"), tmp_path.glob("parts/*.json")
    assert whole.name == parts.name and same(read(whole), read(parts))


@slow
def test_everything_is_rehearsed_end_to_end_in_three_minutes(tmp_path, capsys):
    begun = time.process_time()  # of this process alone, whatever else the machine does
    for name in settings.names():
        words = ["run", name, "--all", "--rehearse", "--out", str(tmp_path / name)]
        assert main([*words, *(EXECUTE if name == "llama" else [])]) == 0, capsys.readouterr().err
    spent = time.process_time() - begun
    for name in settings.names():
        experiment, values = settings.load(name), points.values(settings.load(name), rehearse=True)
        todo = {one.name(values): one for one in points.runs(experiment, everything=True, rehearse=True)}
        found = {path.stem: read(path) for path in (tmp_path / name).glob("*.json")}
        assert set(todo) == set(found) or name == "llama" and set(found) < set(todo)
        assert {(one.task, one.method) for one in todo.values()} == {
            (task, method) for task in experiment["tasks"] for method in experiment["methods"]
        }
        for number, one in found.items():
            rehearsed(todo[number], one, values)
    assert spent < 180


try:
    sandbox.needed()
    EXECUTE = ["--execute-generated-code"]
except ExperimentError:
    EXECUTE = ["--task", "gsm8k"]


@slow
@pytest.mark.parametrize("name", ["glue", "llama"])
def test_further_methods_are_rehearsed_end_to_end(tmp_path, name):
    experiment, values = settings.load(name), points.values(settings.load(name), rehearse=True)
    made.shelf(tmp_path, experiment)
    further = [one for one in points.methods(experiment) if one not in experiment["methods"]]
    assert "pissa" in further
    for method in further:
        (one,) = points.runs(experiment, task=experiment["tasks"][0], method=method)
        rehearsed(one, read(run.record(one, values, tmp_path / "out", Shelf(tmp_path))), values)


def rehearsed(point, found, values):
    """What the record of a rehearsal has to have."""
    assert found["rehearsed"] is True and found["run"]["method"] == point.method
    points.check(point, settings.load(point.experiment))
    results.formed(found, point)
    value, error = results.accuracy(found["predictions"])
    assert (found["metric"]["value"], found["metric"]["error"]) == (value, error)
    rows = made.SHORT["test"] if point.experiment == "llama" else made.ROWS["validation"]
    assert {len(column) for column in found["predictions"].values()} == {rows}
    assert bool(found["curve"]) == (point.method not in (*points.STILL, "probe"))
    if point.method in ("proximal", "factored"):
        values_of = {k: torch.tensor(s) for k, s in found["notes"]["singular_values"].items()}
        assert len(values_of) == 4  # query and value of two layers
        last = [entry["rank"] for entry in found["curve"] if "rank" in entry][-1]
        assert last == max(nuclear.ranks(values_of, values["rank_cut"]).values())


@slow
def test_a_larger_decay_leaves_less_of_a_change(shelves, tmp_path):
    """At a rate that moves the weights of eight steps well beyond their rounding."""
    free, values = one("sst2", method="proximal", decay=0.0, rate=10.0)
    todo = [dataclasses.replace(free, decay=decay) for decay in (0.0, 1e-4, 1e-3)]
    found = [read(run.record(point, values, tmp_path, shelves["sst2"])) for point in todo]
    ends = [[entry for entry in one["curve"] if "rank" in entry][-1] for one in found]
    assert ends[0]["rank"] > 2 and [one["rank"] for one in ends[1:]] == [1, 0]
    assert ends[0]["norm"] > 0.02 and ends[0]["norm"] > 1.1 * ends[1]["norm"] > ends[2]["norm"] == 0
    assert found[0]["model"] == found[1]["model"] == found[2]["model"]  # the same head


def test_a_record_stays_and_another_runs_checkpoints_are_refused(shelves, tmp_path):
    todo = one("glue", task="cola", method="pretrained")
    place = run.record(*todo, tmp_path, shelves["glue"])
    before = place.read_text()
    place.write_text(before + " ")
    assert run.record(*todo, tmp_path, shelves["glue"]).read_text() == before + " "
    place.unlink()
    folder = tmp_path / place.stem
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"run": "another"}))
    with pytest.raises(ExperimentError, match="holds checkpoints of another run: take another --out, or remove it"):
        run.record(*todo, tmp_path, shelves["glue"])
    assert (folder / "run.json").is_file() and not place.exists()  # nothing is lost


@pytest.mark.parametrize("text", ['{"format": 1, "metr', "[]", ""])
def test_a_record_that_is_cut_off_is_named(shelves, tmp_path, text):
    number, values = one("glue", task="cola", method="pretrained")
    place = tmp_path / f"{number.name(values)}.json"
    place.write_text(text)
    with pytest.raises(SweepError) as raised:
        run.record(number, values, tmp_path, shelves["glue"])
    assert str(raised.value) == (
        f"{place} is no record of a sweep or a run: remove it, and the command that wrote it makes it again."
    )
    with pytest.raises(SweepError, match=f"{place.name} is no record"):
        engine.failure(tmp_path, number.name(values))


def test_a_head_that_is_cut_off_is_named(shelves, tmp_path):
    number, values = one("sst2", method="probe")
    head = tmp_path / f"{dataclasses.replace(number, rate=values['head_rate']).name(values)}.safetensors"
    head.write_bytes(b"cut")
    with pytest.raises(ExperimentError, match=f"{head.name} is no head of this network: remove it, and it is trained"):
        run.record(number, values, tmp_path, shelves["sst2"])


def test_what_a_run_rests_on_is_asked_for_before_it(monkeypatch):
    find = kept.checks.importlib.import_module

    def without(name):
        if name == "accelerate":
            raise ModuleNotFoundError(name=name)
        return find(name)

    monkeypatch.setattr(kept.checks.importlib, "import_module", without)
    with pytest.raises(ImportError, match="This needs accelerate: run `pip install accelerate`, or install lorabook"):
        run.may_run([], execute=False)


def test_a_name_tells_the_run_and_changes_with_every_setting():
    number, values = one("sst2", method="proximal", decay=0.01)
    assert number.name(values).startswith("sst2-proximal-d0.01-s0-")
    assert number.name(values) != number.name(values | {"momentum": 0.9})
    assert one("glue", task="cola", method="lora")[0].name(values).startswith("glue-cola-lora-r8-s42-")


def test_a_score_that_is_no_number_makes_no_record(shelves, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "predict", lambda *_: [[float("nan"), 0.0]] * made.ROWS["validation"])
    with pytest.raises(ExperimentError, match="pretrained ended in numbers that are not finite"):
        run.record(*one("glue", task="cola", method="pretrained"), tmp_path, shelves["glue"])
    assert not list(tmp_path.glob("*.json"))


# ---------------------------------------------------------------- which runs


def test_everything_is_the_published_table():
    glue = points.runs(settings.load("glue"), everything=True)
    rows = {(row["method"], row["rank"], row["dataset"]) for row in published.read("glue_t5base")}
    assert len({(one.method, one.rank, one.task) for one in glue}) == len(rows)
    assert len([one for one in glue if one.method == "pretrained"]) == 5  # nothing is drawn, so one seed is enough
    assert len([one for one in glue if one.method == "lora" and one.task == "cola"]) == 9
    sst2 = points.runs(settings.load("sst2"), everything=True)
    assert {one.decay for one in sst2 if one.method == "proximal"} == set(settings.load("sst2")["decays"])
    assert {one.start for one in sst2 if one.method == "factored"} == set(points.STARTS)
    cifar = points.runs(settings.load("cifar10"), everything=True)
    assert {float(one.start) for one in cifar} == set(settings.load("cifar10")["starts"])


@pytest.mark.parametrize(
    "name, given, said",
    [
        ("glue", {}, "Name a task (--task): mnli, sst2, cola, qnli, mrpc; or --all."),
        ("glue", {"task": "wnli"}, "There is no task 'wnli'; there are mnli"),
        ("glue", {"task": "cola"}, "Name a method (--method): pretrained"),
        ("glue", {"task": "cola", "method": "dora"}, "There is no method 'dora'"),
        ("sst2", {"method": "lora"}, "There is no method 'lora'; there are probe, proximal, constants, factored"),
        ("sst2", {"method": "proximal", "decay": 0.3}, "decay 0.3 is not one of 0.0, 0.1, 0.05, 0.01, 0.005 or 0.001"),
        ("sst2", {"method": "factored", "decay": 0.1}, "No decay can be chosen for factored."),
        ("sst2", {"method": "constants", "decay": 0.1}, "No decay can be chosen for constants."),
        ("sst2", {"method": "probe", "rate": 0.1}, "No rate can be chosen for probe."),
        ("glue", {"task": "cola", "method": "lora", "decay": 0.1}, "No decay can be chosen for lora."),
        ("glue", {"task": "cola", "method": "full", "rank": 8}, "No rank can be chosen for full."),
        ("glue", {"task": "cola", "method": "full", "start": "zero"}, "No start can be chosen for full."),
        ("cifar100", {"everything": True, "rank": 8}, "No rank can be chosen for probe or proximal."),
        ("glue", {"task": "cola", "method": "lora", "rank": 100_000}, "rank 100000 is above 768, the width of the net"),
        ("glue", {"task": "cola", "method": "lora", "seed": 10**20}, f"seed must be below 2^32; got {10**20}."),
    ],
)
def test_a_choice_that_is_none_is_one_sentence(name, given, said):
    with pytest.raises(ExperimentError) as raised:
        points.runs(settings.load(name), **given)
    assert str(raised.value).startswith(said)


def test_a_choice_belongs_to_the_methods_that_have_it():
    found = points.runs(settings.load("sst2"), everything=True, decay=0.05, start="zero", rate=0.1, seed=1)
    told = {one.method: (one.decay, one.start, one.rate, one.seed) for one in found}
    assert len(found) == 4 and told == {
        "probe": (None, None, 0.005, 1),
        "proximal": (0.05, None, 0.1, 1),
        "constants": (0.01, None, 0.1, 1),
        "factored": (None, "zero", 0.1, 1),
    }


# ---------------------------------------------------------------- the plan


def test_counts_of_the_networks_are_those_of_their_configurations():
    with torch.device("meta"):
        t5 = transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=32128, d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12, tie_word_embeddings=True
            )
        )
        roberta = transformers.RobertaForSequenceClassification(
            transformers.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, num_labels=2)
        )
        llama = transformers.LlamaForCausalLM(transformers.LlamaConfig())
        vits = [transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=n)) for n in (100, 10)]
    for name, model in (("glue", t5), ("sst2", roberta), ("llama", llama), *zip(("cifar100", "cifar10"), vits)):
        experiment = settings.load(name)
        adapted = [
            one.weight.shape
            for key, one in model.named_modules()
            if key.split(".")[-1] in experiment["modules"] and isinstance(one, torch.nn.Linear)
        ]
        size = experiment.size
        assert (size["parameters"], size["matrices"]) == (model.num_parameters(), len(adapted))
        assert size["adapted"] == sum(map(sum, adapted))


def test_a_probe_has_the_steps_of_its_head():
    number, _ = one("sst2", method="probe")
    assert plan.need(settings.load("sst2"), number, points.values(settings.load("sst2"))).steps == 10 * 527


def test_counts_of_rows_are_the_published_sizes():
    shown = {row["dataset"].lower().replace("-", ""): row["size_k"] for row in published.read("glue_training_sizes")}
    for task, rows in settings.load("glue").size["rows"].items():
        assert rows / 1000 == pytest.approx(shown[task], rel=0.02)  # printed to two or three digits


def test_the_hours_of_a_plan_are_an_upper_end_of_the_published_time():
    printed = {row["dataset"]: row["seconds"] for row in published.read("time_cost") if row["method"] == "LoRA"}
    for task, name in (("cola", "CoLA"), ("mrpc", "MRPC")):
        (number,) = points.runs(settings.load("glue"), task=task, method="lora")
        found = plan.need(settings.load("glue"), number, points.values(settings.load("glue")))
        hours = found.hours(plan.CARDS["A100"], "float32")
        # every row is counted at 128 tokens, and sentences have a quarter of that, pairs half
        assert printed[name] <= 3600 * hours <= 6 * printed[name]


def test_a_plan_tells_downloads_memory_and_hours(capsys):
    assert main(["run", "glue", "--task", "cola", "--method", "lora_one", "--dry-run", "--card", "T4"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("T5-base on five tasks of GLUE: 1 run.") and "hours on T4, at most" in said
    for words in ("To download, once: 1.0 GB.", "T4 has 16.", "Together: at most "):
        assert words in said
    assert main(["run", "sst2", "--all", "--dry-run", "--card", "P100"]) == 1
    assert "There is no card 'P100' in the list; there are T4, " in capsys.readouterr().err


@pytest.mark.parametrize("name", settings.names())
def test_every_experiment_has_a_plan(name, capsys):
    assert main(["run", name, "--all", "--dry-run"]) == 0
    said = capsys.readouterr().out
    experiment = settings.load(name)
    runs = points.runs(experiment, everything=True)
    assert said.startswith(f"{experiment.title}: {len(runs)} runs.") and len(said.splitlines()) == 8 + len(runs)
    needs = [plan.need(experiment, one, points.values(experiment)) for one in runs]
    assert min(one.memory for one in needs) > experiment.size["parameters"] * 2  # the weights at 16 bits


def test_what_the_machine_lacks_is_told_before_a_run(monkeypatch, tmp_path):
    need = plan.Need(1e9, 2e9, 3e9, 1, 1.0, 0.0)
    plan.check([need], tmp_path, tmp_path)
    disk = type("Disk", (), {"free": 1.5e9})
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda place: disk)
    with pytest.raises(ExperimentError, match="checkpoints take 3.0 GB and .* has room for 1.5"):
        plan.check([need], tmp_path / "not" / "there", tmp_path)
    with pytest.raises(ExperimentError, match="downloads take 4.0 GB and .* has room for 1.5"):
        plan.check([need._replace(disk=0, download=4e9)], tmp_path, tmp_path)
    monkeypatch.setattr(plan, "default_device", lambda: torch.device("cuda"))
    card = type("Card", (), {"total_memory": 1e9})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda home: card)
    with pytest.raises(ExperimentError, match="The run takes 2.0 GB of memory and the card has 1.0"):
        plan.check([need], tmp_path, tmp_path)
    monkeypatch.setattr(plan, "default_device", lambda: torch.device("cpu"))
    monkeypatch.delenv("LORABOOK_DEVICE")
    with pytest.raises(ExperimentError, match="There is no GPU here; with LORABOOK_DEVICE=cpu the run is done all"):
        plan.check([need], tmp_path, tmp_path)


# ---------------------------------------------------------------- the command


def test_the_command_rehearses_and_says_that_it_is_no_result(tmp_path, capsys):
    words = ["run", "glue", "--task", "sst2", "--method", "one_step", "--rehearse", "--out", str(tmp_path)]
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("A rehearsal: none of its numbers is a result.\n")
    (place,) = tmp_path.glob("*.json")
    found = read(place)
    assert found["rehearsed"] and found["notes"]["step_size"] in settings.load("glue")["step_sizes"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["glue", "--task", "cola", "--method", "lora"], "Say where the records go: --out FOLDER."),
        (["mnist"], "There is no experiment 'mnist'"),
    ],
)
def test_what_the_command_cannot_do_is_one_sentence(words, said, capsys):
    assert main(["run", *words]) == 1
    assert capsys.readouterr().err.startswith(f"lorabook: {said}")


def test_records_need_a_folder(tmp_path, capsys):
    (tmp_path / "out").touch()
    assert main(["run", "sst2", "--method", "probe", "--rehearse", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == f"lorabook: {tmp_path / 'out'} is a file, and records need a folder.\n"


def test_methods_of_the_tables_are_methods_of_the_runner():
    assert set(settings.load("glue")["methods"]) <= set(methods.METHODS)
