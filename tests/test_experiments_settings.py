"""The sources' experiments as data: complete, each setting with where it is from, and a fault is one sentence."""

import re
import sys

import pytest
import yaml

from lorabook.experiments import ExperimentError, plan, points, settings
from lorabook.inputs import published
from lorabook.page import lists

GLUE = (settings.FOLDER / "glue.yml").read_text(encoding="utf-8")


def test_there_is_an_experiment_for_each_table_and_figure_that_was_made_on_a_large_network():
    claims = {claim for name in settings.names() for claim in settings.load(name).claims}
    wanted = {f"lora_one.{one}" for one in ("table-glue", "table-llama", "table-time")} | {"mallada.vit-figure"}
    wanted |= {f"kim.{one}" for one in ("table-1-published", "table-2-published", "figure-1-ranks")}
    wanted |= {f"kim.{one}" for one in ("figure-2-published", "appendix-c3-published", "accuracy-against-decay")}
    assert claims == wanted
    assert all(lists.find(claim).reason for claim in claims)


def test_methods_ranks_and_tasks_are_those_of_the_published_table():
    glue, rows = settings.load("glue"), published.read("glue_t5base")
    assert len(glue["methods"]) == len({row["method"] for row in rows})
    assert glue["ranks"] == sorted({int(row["rank"]) for row in rows if row["rank"]})
    plain = lambda name: name.lower().replace("-", "")
    assert sorted(glue["tasks"]) == sorted({plain(row["dataset"]) for row in rows})
    llama, rows = settings.load("llama"), published.read("llama2_7b")
    assert len(llama["methods"]) == len({row["method"] for row in rows})


@pytest.mark.parametrize("name, task", [("sst2", "SST2"), ("cifar100", "CIFAR100")])
def test_decays_are_those_of_the_appendix(name, task):
    printed = [row["decay"] for row in published.read("kim_grids") if row["task"] == task]
    assert settings.load(name)["decays"] == printed


def test_the_counts_are_those_of_the_files_and_none_is_typed():
    for name in settings.names():
        text = (settings.FOLDER / f"{name}.yml").read_text(encoding="utf-8")
        counts = settings.load(name).counts()
        assert sum(counts.values()) == len(settings.load(name).settings)
        for kind, count in counts.items():
            assert count == len(re.findall(rf"\b{kind}: (?=\S)", text.split("settings:")[1])), (name, kind)
    shown = settings.count_table().rows
    assert shown[-1][2:] == tuple(str(sum(int(row[k]) for row in shown[:-1])) for k in (2, 3, 4))


def test_a_page_shows_every_setting_and_every_experiment(root):
    page = (root / "book/experiments.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```\{settings\}(.*)$", page, re.M)
    assert sorted(one.strip() for one in shown) == ["", *settings.names()]
    assert {row[0].replace(" ", "_") for row in settings.load("glue").table().rows} == set(
        settings.load("glue").settings
    )


def test_the_page_names_every_method_as_the_command_takes_it(root):
    page = (root / "book/experiments.md").read_text(encoding="utf-8")
    for name in settings.names():
        row = re.search(rf"^\| `{name}` \|(.*)$", page, re.M)[1]
        assert set(re.findall(r"`(\w+)`", row)) == set(points.methods(settings.load(name))), name


def test_the_page_says_the_hours_of_the_plan(root):
    page = (root / "book/experiments.md").read_text(encoding="utf-8")
    sst2 = settings.load("sst2")
    runs = points.runs(sst2, everything=True)
    text = {card: plan.told(sst2, runs, points.values(sst2), card) for card in ("H100", "A100")}
    longest = {card: max(float(line.split()[-1]) for line in text[card].splitlines()[8:]) for card in text}
    assert f"at most {longest['H100']:g} hours of an H100 or {longest['A100']:g} of an A100" in page
    together = re.search(r"at most (\S+) hours on one H100", text["H100"])[1]
    assert f"all {len(runs)} take at most {together} hours" in page
    still = {float(line.split()[-1]) for line in text["H100"].splitlines()[8:] if "factored" in line}
    assert [f"takes at most {hours:g} hours" in page for hours in still] == [True]
    # the rest is what the decompositions take
    assert 0.2 < 1 - still.pop() / longest["H100"] < 0.3


def setting(name, value):
    """A change of a file that gives a setting a value."""
    return lambda one: one["settings"].update({name: {"value": value, "chosen": "to see what is said"}})


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda one: one.pop("title"), "data/experiments/glue.yml needs title, source, claims, published, settings, "),
        (lambda one: one.update(source="nobody"), "there is no source 'nobody'"),
        (lambda one: one["claims"].append("table-9"), "names what is not there: table-9"),
        (lambda one: one["published"].append("table_9"), "names what is not there: table_9"),
        (lambda one: one["settings"].pop("batch"), "has no batch"),
        (lambda one: one["settings"].update(batch=32), "batch: a value and one of said, code, chosen are needed"),
        (lambda one: one["settings"]["batch"].update(said="a slide"), "batch: a value and one of said, code, chosen"),
        (lambda one: one["settings"]["batch"].pop("value"), "batch: a value and one of said, code, chosen are needed"),
        (lambda one: one["settings"]["batch"].update(code="utils.py"), "code is named as owner/repository@commit file"),
        (lambda one: one["settings"]["rslora"].update(chosen=" "), "rslora: chosen needs words"),
        (lambda one: one.update(claims=None), "title has to be a text, claims and published lists"),
        (lambda one: one["claims"].append(3), "names what is not there: 3"),
        (setting("batch", "many"), "batch: a positive whole number is needed; got 'many'"),
        (setting("batch", -1), "batch: a positive whole number is needed; got -1"),
        (setting("batch", True), "batch: a positive whole number is needed; got True"),
        (setting("rates", [1e-3, "abc"]), "rates: a list of numbers from 0 on is needed; got [0.001, 'abc']"),
        (setting("rates", []), "rates: a list of numbers from 0 on is needed; got []"),
        (setting("gamma", float("nan")), "gamma: a number from 0 on is needed; got nan"),
        (setting("ranks", [8, 0]), "ranks: a list of positive whole numbers, or null, is needed; got [8, 0]"),
        (setting("tasks", "mrpc"), "tasks: a list of texts is needed; got 'mrpc'"),
        (setting("rslora", "no"), "rslora: yes or no is needed; got 'no'"),
        (setting("precision", "float8"), "precision: float32 or bfloat16 is needed; got 'float8'"),
        (setting("batchs", 32), "batchs: a text for a reader, one for each task, or null is needed; got 32"),
        (lambda one: one.pop("size"), "settings, size, and nothing else"),
        (lambda one: one["size"].update(width="wide"), "size needs positive whole numbers: rows by task, adapted, "),
        (lambda one: one["size"]["rows"].pop("mrpc"), "size needs positive whole numbers: rows by task, adapted, "),
    ],
)
def test_a_fault_of_a_file_is_one_sentence(change, said):
    raw = yaml.safe_load(GLUE)
    settings.parse("glue", yaml.safe_dump(raw))  # the file itself is right
    change(raw)
    with pytest.raises(ExperimentError, match=re.escape(said)) as raised:
        settings.parse("glue", yaml.safe_dump(raw))
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_what_is_no_yaml_and_what_is_not_there_are_one_sentence():
    with pytest.raises(ExperimentError, match="glue.yml cannot be read: .*[.]$"):
        settings.parse("glue", "title: [")
    with pytest.raises(ExperimentError, match="glue.yml cannot be read: line 1 sets a name twice[.]$"):
        settings.parse("glue", GLUE + "title: another")
    with pytest.raises(ExperimentError, match="There is no experiment 'mnist'; there are cifar10, cifar100, glue, "):
        settings.load("mnist")
    with pytest.raises(ExperimentError, match="glue has no setting colour"):
        settings.load("glue")["colour"]


def test_the_settings_are_read_without_a_library_of_transformers():
    assert settings.load("glue")["batch"] == 32
    source = (sys.modules["lorabook.experiments.settings"].__file__,)
    assert all("transformers" not in open(one, encoding="utf-8").read() for one in source)
