"""Records held against themselves, and made-up records that turn each verdict both ways."""

import json
import math
import re

import pytest
from sklearn.metrics import accuracy_score

from lorabook.experiments import ExperimentError, judge, points, results, settings
from lorabook.inputs import published
from lorabook.page import claims

SIZES = {row["dataset"].lower().replace("-", ""): row for row in published.read("glue_validation")}
PRINTED = {
    (judge.NAMES[row["method"]], row["rank"] and int(row["rank"]), row["dataset"].lower().replace("-", "")): row["mean"]
    for row in published.read("glue_t5base")
}


def predictions(task, percent):
    """Labels in the data set's numbers, and scores of which about ``percent`` are right."""
    total, larger = int(SIZES[task]["examples"]), int(SIZES[task]["larger_class"])
    labels = [1] * larger + [0] * (total - larger)
    right = round(total * percent / 100)
    scores = [[1.0 - hit, 1.0 * hit] for hit in (label if k < right else 1 - label for k, label in enumerate(labels))]
    return {"labels": labels, "scores": scores}


def record(point, percent=90.0, **other):
    """A made-up record of a run that was never made."""
    found = predictions(point.task, percent)
    value, error = results.accuracy(found)
    made = {"format": 1, "run": vars(point), "settings": points.values(settings.load(point.experiment))}
    made |= {"rehearsed": False, "data": {}, "curve": [], "seconds": {"start": 0.5, "train": 60.0}, "notes": {}}
    made |= {"predictions": found, "metric": {"name": "accuracy", "value": value, "error": error}, "device": "none"}
    return json.loads(json.dumps(made | other))


def glue(method, task, seed=42, rank=8, **other):
    return points.Point("glue", task, method, seed, 1e-4, rank if method in points.RANKED else None, **other)


@pytest.fixture
def place(tmp_path):
    """Writes a record under the name of its run, or another one."""

    def write(made, name=None):
        point = points.Point(**made["run"])
        path = tmp_path / f"{name or point.name(points.values(settings.load(point.experiment)))}.json"
        path.write_text(json.dumps(made))
        return path

    return write


def test_a_record_that_agrees_with_itself_is_read_and_shown(place, tmp_path):
    place(record(glue("lora", "mrpc"), 84.0))
    place(record(glue("pretrained", "cola"), 60.0, contributed_by="a reader"))
    found = results.read(tmp_path)
    assert [one["run"]["method"] for one in found] == ["pretrained", "lora"]  # cola before mrpc
    shown = results.table(found).rows
    assert shown[0][-1] == "a reader" and shown[1][-1] == "this book" and shown[1][5].startswith("84.07 ± 1.81")
    assert "not verified by us" in results.table(found).header[-1]
    assert results.read(tmp_path / "nowhere") == []


def test_accuracy_is_that_of_scikit_learn():
    found = predictions("mrpc", 71.0)
    guessed = [row.index(max(row)) for row in found["scores"]]
    value, error = results.accuracy(found)
    assert value == accuracy_score(found["labels"], guessed)
    assert error == pytest.approx(math.sqrt(value * (1 - value) / 408), rel=1e-12)


def wider(made):
    made["predictions"]["scores"] = [[*row, -1.0] for row in made["predictions"]["scores"]]


def fewer(made):
    made["predictions"] = {key: column[:-1] for key, column in made["predictions"].items()}
    value, error = results.accuracy(made["predictions"])
    made["metric"] |= {"value": value, "error": error}


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda one: one["metric"].update(value=0.95), "its accuracy is 0.95, and from its predictions follows 0.8406"),
        (lambda one: one["metric"].update(error=0.001), "its error is 0.001, and from its predictions follows 0.0181"),
        (lambda one: one["predictions"]["scores"][0].reverse(), "its accuracy is 0.840686, and from its predictions"),
        (lambda one: one["predictions"]["scores"].pop(), "it is malformed: 408 labels and 407 rows of scores"),
        (
            lambda one: one["predictions"]["scores"][0].append(None),
            "it is malformed: scores that are no finite numbers",
        ),
        (fewer, "of its 407 labels 279 are of one class; MRPC has 408 and 279"),
        (lambda one: one.update(rehearsed=True), "it is a rehearsal, whose numbers are no results"),
        (lambda one: one.update(format=2), "its format is 2, and 1 is read here"),
        (lambda one: one["settings"].update(batch=64), "it was run under other settings: batch"),
        (lambda one: one.pop("predictions"), "it has no predictions"),
        (lambda one: one["run"].update(colour="red"), "it is malformed: "),
        (lambda one: one.update(metric={}), "it is malformed: its metric needs numbers, error and value"),
        (lambda one: one.update(metric=None), "it is malformed: its metric has to be a dict"),
        (lambda one: one["metric"].update(value="0.84"), "it is malformed: its metric needs numbers, error and value"),
        (lambda one: one.update(settings=[]), "it is malformed: its settings has to be a dict"),
        (lambda one: one.update(settings=None), "it is malformed: its settings has to be a dict"),
        (lambda one: one.update(predictions=[]), "it is malformed: its predictions has to be a dict"),
        (lambda one: one["predictions"].update(labels=3), "it is malformed: its predictions have to be lists, labels "),
        (lambda one: one["predictions"].update(texts=[]), "it is malformed: its predictions have to be lists, labels "),
        (lambda one: one.update(curve="flat"), "it is malformed: its curve has to be a list"),
        (lambda one: one.update(curve=[{"loss": "1"}]), "it is malformed: its curve has to be of numbers by name"),
        (lambda one: one.update(seconds="60"), "it is malformed: its seconds has to be a dict"),
        (lambda one: one.update(seconds={}), "it is malformed: its seconds needs numbers, train"),
        (lambda one: one.update(device=["GPU"]), "it is malformed: its device has to be a str"),
        (lambda one: one["run"].update(experiment="mnist"), "it is malformed: There is no experiment 'mnist'"),
        (lambda one: one["run"].update(method="magic"), "it is malformed: There is no method 'magic'; there are "),
        (lambda one: one["run"].update(task="nowhere"), "it is malformed: There is no task 'nowhere'; there are mnli"),
        (lambda one: one["run"].update(rate="fast"), "it is malformed: rate must be positive and finite; got 'fast'"),
        (lambda one: one["run"].update(rank=0.5), "it is malformed: rank must be a whole number >= 1; got 0.5"),
        (lambda one: one["run"].update(rank=10**6), "it is malformed: rank 1000000 is above 768, the width of the net"),
        (lambda one: one["run"].update(rank=None), "it is malformed: glue has no run of lora with rank None, decay "),
        (lambda one: one["run"].update(seed=True), "it is malformed: seed must be a whole number >= 0; got True"),
        (lambda one: one["run"].update(decay=0.1), "it is malformed: glue has no run of lora with rank 8, decay 0.1, "),
        (wider, "its scores are not of the 2 labels of mrpc"),
    ],
)
def test_a_record_that_does_not_agree_is_refused_in_one_sentence(place, change, said):
    made = record(glue("lora", "mrpc"), 84.0)
    path = place(made)
    results.verified(path)
    change(made)
    path.write_text(json.dumps(made))
    with pytest.raises(ExperimentError, match=re.escape(f"{path.name}: {said}")) as raised:
        results.verified(path)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def llama(task, right, total=None, method="lora", seed=9, rank=8):
    """A made-up record of Llama's table, in which so many problems are solved."""
    total = total or {"gsm8k": 1319, "humaneval": 164}[task]
    if task == "gsm8k":
        found = {"answers": ["#### 5"] * total, "texts": ["#### 5"] * right + ["#### 6"] * (total - right)}
    else:
        found = {"tasks": ["HumanEval/0"] * total, "texts": [""] * total}
        found["passed"] = [k < right for k in range(total)]
    point = points.Point("llama", task, method, seed, 2e-4, rank)
    value, error = results.accuracy(found)
    made = record(glue("lora", "mrpc")) | {"run": vars(point), "settings": points.values(settings.load("llama"))}
    made |= {"predictions": found, "metric": {"name": "accuracy", "value": value, "error": error}}
    return json.loads(json.dumps(made))


def test_a_record_of_problems_is_held_against_its_texts(place):
    path = place(llama("gsm8k", 600))
    assert results.verified(path)["metric"]["value"] == pytest.approx(600 / 1319)
    assert results.verified(place(llama("humaneval", 41)))["metric"]["value"] == 0.25
    made = llama("gsm8k", 600)
    made["predictions"]["texts"][0] = "#### 6"
    with pytest.raises(ExperimentError, match="its accuracy is 0.45489, and from its predictions follows 0.454132"):
        results.verified(place(made))
    with pytest.raises(ExperimentError, match="it has 40 problems; HumanEval has 164"):
        results.verified(place(llama("humaneval", 10, 40)))
    made = llama("humaneval", 41)
    made["predictions"]["texts"].pop()
    with pytest.raises(ExperimentError, match="it is malformed: columns of different lengths, or no problems"):
        results.verified(place(made))


def test_another_name_and_what_is_no_json_are_refused(place, tmp_path):
    path = place(record(glue("lora", "mrpc")), "best")
    with pytest.raises(ExperimentError, match=r"best\.json: the name of this run is glue-mrpc-lora-r8-s42-.*\.json"):
        results.verified(path)
    path.write_text("{")
    with pytest.raises(ExperimentError, match=r"best\.json cannot be read: "):
        results.read(tmp_path)


def test_what_is_kept_agrees_with_itself():
    assert [one for one in results.read() if one["rehearsed"]] == []


# ---------------------------------------------------------------- verdicts, from records that nobody made


def verdict(claim, records):
    return claims.from_runs(claim, judge.judge(claim, records))


@pytest.mark.parametrize("claim", judge.JUDGES)
def test_without_runs_a_claim_is_not_testable_and_tells_the_command(claim):
    found = verdict(claim, [])
    assert found.verdict == "not testable here"
    assert found.sentence().startswith("Not run yet. `lorabook run ") and "--dry-run" in found.sentence()


def afternoon(shift=lambda method, task, seed: 0.0):
    """LoRA and LoRA-One of rank 8 on MRPC and CoLA, three seeds, at the printed numbers or beside them."""
    return [
        record(glue(method, task, seed), PRINTED[method, 8, task] + shift(method, task, seed) + 0.3 * (seed - 43))
        for method in ("lora", "lora_one")
        for task in ("mrpc", "cola")
        for seed in (42, 43, 44)
    ]


def test_the_table_holds_at_its_numbers_and_fails_far_from_them():
    near = verdict("lora_one.table-glue", afternoon())
    assert near.verdict == "holds in the range tested" and near.over == "4 cells, 12 runs"
    far = verdict("lora_one.table-glue", afternoon(lambda method, task, seed: 12.0 * (method == "lora")))
    assert far.verdict == "fails as printed"
    one_less = [one for one in afternoon() if one["run"]["seed"] != 44 or one["run"]["method"] != "lora"]
    assert verdict("lora_one.table-glue", one_less).verdict == "not testable here"
    # a further cell that is off decides as well
    more = afternoon() + [record(glue("full", "cola", seed, rank=None), 70.0 + seed - 43) for seed in (42, 43, 44)]
    assert verdict("lora_one.table-glue", more).verdict == "fails as printed"


def test_of_several_rates_the_best_counts_and_of_what_draws_nothing_one_run_is_enough():
    again = [record(points.Point("glue", "mrpc", "lora", seed, 1e-3, 8), 40.0) for seed in (42, 43, 44)]
    found = judge.cells([*afternoon(), *again, record(glue("pretrained", "mrpc"), 63.0)])
    assert found["lora", 8, "mrpc"].mean == pytest.approx(PRINTED["lora", 8, "mrpc"], abs=0.2)
    assert found["pretrained", None, "mrpc"].runs == 1 and found["pretrained", None, "mrpc"].error == 0


def timed(train, start, tasks=("cola", "mrpc")):
    for task in tasks:
        for seed in (42, 43):
            yield record(glue("lora", task, seed), seconds={"train": train + seed - 42, "start": 0.1})
        yield record(glue("one_step", task), seconds={"train": 0.0, "start": start})


def test_the_time_of_one_step_is_judged_by_the_quotient_on_one_device():
    assert verdict("lora_one.table-time", list(timed(60.0, 0.5))).verdict == "holds in the range tested"
    assert verdict("lora_one.table-time", list(timed(60.0, 4.0))).verdict == "fails as printed"
    assert verdict("lora_one.table-time", list(timed(60.0, 0.5, ("cola",)))).verdict == "not testable here"
    other = [one | {"device": one["run"]["method"]} for one in timed(60.0, 0.5)]
    assert verdict("lora_one.table-time", other).verdict == "not testable here"  # not on one device


def mathematics(shift):
    """LoRA and LoRA-One of rank 8 on GSM8K, three seeds, at the printed numbers or beside them."""
    printed = {(row["method"], row["rank"], row["dataset"]): row["mean"] for row in published.read("llama2_7b")}
    for method, name in (("lora", "LoRA"), ("lora_one", "LoRA-One")):
        for seed in (9, 10, 11):
            percent = printed[name, 8, "GSM8K"] + shift + 0.3 * (seed - 10)
            yield llama("gsm8k", round(13.19 * percent), method=method, seed=seed)


def test_llamas_table_is_judged_by_gsm8k_and_by_what_else_there_is():
    claim = "lora_one.table-llama"
    near = verdict(claim, list(mathematics(0.0)))
    assert near.verdict == "holds in the range tested" and near.over == "2 cells, 6 runs"
    assert verdict(claim, list(mathematics(8.0))).verdict == "fails as printed"
    assert verdict(claim, list(mathematics(0.0))[:-1]).verdict == "not testable here"
    # LoRA-One at LoRA's number: the probe lies in the band, and nothing is shown
    alike = [one for one in mathematics(0.0) if one["run"]["method"] == "lora"]
    alike += [one | {"run": one["run"] | {"method": "lora_one"}} for one in alike]
    assert verdict(claim, alike).verdict == "not testable here"
    code = [llama("humaneval", 90, method="lora", seed=seed) for seed in (9, 10, 11)]
    assert verdict(claim, [*mathematics(0.0), *code]).verdict == "fails as printed"


def kim(task, rank, decay, value=0.9, first=None):
    run = {"experiment": task, "task": task, "method": "proximal", "seed": 0, "rate": 0.005, "rank": None}
    course = [
        {"rank": 700, "first_value_rank": 700},
        {"rank": rank, "first_value_rank": rank if first is None else first},
    ]
    metric = {"value": value, "error": 0.005}
    return {"run": run | {"decay": decay, "start": None}, "curve": [*course, {"loss": 1.0}], "metric": metric}


def test_table_1_is_judged_by_its_ranks_above_decay_0():
    rows = [row for row in published.read("kim_table_1") if row["decay"] > 0]
    made = lambda factor: [kim(row["task"].lower(), factor(row) * row["max_rank"], row["decay"]) for row in rows]
    assert verdict("kim.table-1-published", made(lambda row: 1.5)).verdict == "holds in the range tested"
    off = made(lambda row: 3 if row["decay"] == 0.01 else 1)
    assert verdict("kim.table-1-published", off).verdict == "fails as printed"
    half = [one for one in made(lambda row: 1) if one["run"]["task"] == "sst2"]
    assert verdict("kim.table-1-published", half).verdict == "not testable here"


def test_figure_1_is_judged_by_how_far_each_rank_falls():
    claim, rows = "kim.figure-1-ranks", published.read("kim_table_1")
    made = lambda first: [kim(r["task"].lower(), r["max_rank"], r["decay"], first=first(r["decay"])) for r in rows]
    assert verdict(claim, made(lambda decay: 40 if decay else 690)).verdict == "holds in the range tested"
    assert verdict(claim, made(lambda decay: 0 if decay else 700)).verdict == "holds in the range tested"
    assert verdict(claim, made(lambda decay: 650 if decay == 0.001 else 4 + 690 * (not decay))).verdict == (
        "fails as printed"
    )
    assert verdict(claim, made(lambda decay: 40)).verdict == "not testable here"  # it falls without decay as well
    assert verdict(claim, made(lambda decay: 40)[1:]).verdict == "not testable here"


def accuracies(sst2, cifar100):
    """Runs at all decays of the grids, whose accuracies are functions of the decay."""
    for task, of in (("sst2", sst2), ("cifar100", cifar100)):
        for row in published.read("kim_grids"):
            if row["task"].lower() == task:
                yield kim(task, 3, row["decay"], of(row["decay"]))


def test_decay_is_judged_by_what_it_costs_on_either_task():
    claim = "kim.accuracy-against-decay"
    falls, stays = (lambda decay: 0.9 - 0.1 * (decay > 0)), (lambda decay: 0.9)
    too_big = lambda decay: 0.9 - 0.4 * (decay == 0.1)
    assert verdict(claim, list(accuracies(too_big, falls))).verdict == "holds in the range tested"
    for sst2, cifar100 in ((too_big, stays), (falls, falls), (falls, stays)):
        assert verdict(claim, list(accuracies(sst2, cifar100))).verdict == "fails as printed"
    assert verdict(claim, list(accuracies(stays, falls))).verdict == "not testable here"  # no decay is too big
    assert verdict(claim, list(accuracies(too_big, falls))[1:]).verdict == "not testable here"


def test_the_figure_of_the_vit_is_judged_by_neighbouring_sizes():
    def made(loss, seeds=3):
        for size in settings.load("cifar10")["starts"]:
            for seed in range(seeds):
                run = {"experiment": "cifar10", "method": "factored", "start": f"{size:g}", "seed": seed}
                yield {"run": run, "curve": [{"loss": 9.0}, {"loss": loss(size) + 0.01 * seed}, {"eval_loss": 1.0}]}

    claim = "mallada.vit-figure"
    assert verdict(claim, list(made(lambda size: 1 + size))).verdict == "holds in the range tested"
    assert verdict(claim, list(made(lambda size: 1 + max(size, 0.01)))).verdict == "holds in the range tested"
    assert verdict(claim, list(made(lambda size: 2 - size))).verdict == "fails as printed"
    assert verdict(claim, list(made(lambda size: 1.0))).verdict == "not testable here"  # no order to be seen
    assert verdict(claim, list(made(lambda size: 1 + size, 2))).verdict == "not testable here"


def factored(start, norm, rank, value):
    run = {"experiment": "sst2", "task": "sst2", "method": "factored", "rank": 8, "start": start}
    metric = {"value": value, "error": 0.009}
    return [{"run": run, "curve": [{"rank": rank, "norm": norm}], "metric": metric}] * 3


def test_appendix_c3_is_judged_by_where_the_small_starts_end():
    claim = "kim.appendix-c3-published"
    zero, large = factored("zero", 2.0, 3, 0.93), factored("large", 90.0, 8, 0.80)
    small = [one for k in (1, 2, 3) for one in factored(f"small_{k}", 2.1, 3, 0.93)]
    assert verdict(claim, zero + small + large).verdict == "holds in the range tested"
    for other in (factored("small_2", 9.0, 3, 0.93), factored("small_2", 2.1, 3, 0.88)):
        mixed = [one for one in small if one["run"]["start"] != "small_2"] + other
        assert verdict(claim, zero + mixed + large).verdict == "fails as printed"
    alike = factored("large", 2.0, 3, 0.93)
    assert verdict(claim, zero + small + alike).verdict == "not testable here"  # the probe ends there too
    assert verdict(claim, zero + small[3:] + large).verdict == "not testable here"


def test_figure_2_is_judged_by_how_loudly_the_large_start_fails():
    quiet = factored("zero", 2.0, 3, 0.93) + factored("small_3", 2.1, 3, 0.93)
    claim = "kim.figure-2-published"
    assert verdict(claim, quiet + factored("large", 90.0, 8, 0.80)).verdict == "holds in the range tested"
    assert verdict(claim, quiet + factored("large", 90.0, 8, 0.93)).verdict == "fails as printed"  # not poorer
    assert verdict(claim, quiet + factored("large", 90.0, 3, 0.80)).verdict == "fails as printed"  # no higher rank
    assert verdict(claim, quiet).verdict == "not testable here"
    loud = factored("zero", 2.0, 3, 0.93) + factored("small_3", 90.0, 8, 0.80) + factored("large", 90.0, 8, 0.80)
    assert verdict(claim, loud).verdict == "not testable here"  # the probe is as loud: it shows nothing


# ---------------------------------------------------------------- numbers of verdicts, computed by hand


def numbers(claim, records, value, probe):
    """Hold a judge's two numbers against these."""
    assert judge.judge(claim, list(records))[:2] == pytest.approx((value, probe), rel=1e-12, abs=1e-12)


def test_the_time_in_numbers():
    # LoRA 60 and 61 s, one step 0.5 s; printed are 47 s (CoLA) and 25 s (MRPC) against 1 s
    numbers("lora_one.table-time", timed(60.0, 0.5), 60.5 / 0.5 / 47, 60.5 / 60 / 25)


def test_table_1_in_numbers():
    rows = [row for row in published.read("kim_table_1") if row["decay"] > 0]
    printed = {(row["task"].lower(), row["decay"]): row["max_rank"] for row in rows}
    runs = lambda ranks: [kim(task, rank, decay) for (task, decay), rank in ranks.items()]
    assert printed["sst2", 0.001] == 107 and printed["sst2", 0.005] == 5 and printed["sst2", 0.1] == 1
    numbers("kim.table-1-published", runs(printed), 0, math.log2(107 / 5))
    # a change that vanished: 0 is read as 1/2, and the printed rank is 1
    numbers("kim.table-1-published", runs(printed | {("sst2", 0.1): 0}), 1, math.log2(107 / 5))
    # two runs of 8 and 32 have the mean 20, against 5
    more = [*runs(printed | {("sst2", 0.005): 8}), kim("sst2", 32, 0.005)]
    numbers("kim.table-1-published", more, 2, math.log2(107 / 5))


def test_figure_1_in_numbers():
    """The ranks rise first: they fall from the largest, not from the first."""
    courses = {("sst2", 0.0): (350, 700, 500), ("cifar100", 0.0): (700, 700, 700), ("sst2", 0.1): (50, 100, 50)}
    found = []
    for row in published.read("kim_table_1"):
        key = row["task"].lower(), row["decay"]
        course = courses.get(key, (100, 400, 100))
        found.append(kim(key[0], 1, key[1]) | {"curve": [{"rank": 1, "first_value_rank": one} for one in course]})
    numbers("kim.figure-1-ranks", found, 1, math.log2(1.4))


@pytest.mark.parametrize("fall, value", [(0.05, 1.0), (0.0125, 0.5)])
def test_accuracy_against_decay_in_numbers(fall, value):
    """The error of a harm is that of decay 0 and of the least decay above it: 0.004 and 0.003, together 0.005."""
    sst2 = {0.0: 0.9, 0.001: 0.9, 0.005: 0.895, 0.01: 0.905, 0.05: 0.88, 0.1: 0.8}  # 1 for the small, 20 for 0.1
    errors = {0.0: 0.004, 0.0005: 0.003, ("sst2", 0.001): 0.003, 0.1: 0.003}
    found = list(accuracies(sst2.get, lambda decay: 0.9 - fall * (decay > 0)))
    for one in found:
        task, decay = one["run"]["task"], one["run"]["decay"]
        one["metric"]["error"] = errors.get((task, decay), errors.get(decay, 0.012))
    numbers("kim.accuracy-against-decay", found, value, 2 - 20)


def starting(**ends):
    """Three runs of each start: its norm, its rank, and its accuracy below 0.9 in joint errors of two runs."""
    joint = math.hypot(0.009, 0.009)
    return [
        one for start, (norm, rank, below) in ends.items() for one in factored(start, norm, rank, 0.9 - below * joint)
    ]


def test_appendix_c3_in_numbers():
    ends = {"zero": (2, 3, 0), "small_1": (2, 3, 0.2), "small_2": (2 * 2**0.25, 3, 1.6), "small_3": (2, 3, -1)}
    numbers("kim.appendix-c3-published", starting(**ends, large=(64, 8, 4)), 0.8, 5)
    ends["small_3"] = (1, 3, 0)  # half the norm counts as its double does
    numbers("kim.appendix-c3-published", starting(**ends, large=(2, 8, 4)), 1, 2)


@pytest.mark.parametrize(
    "large, small_3, value, probe",
    [
        ((2 * math.e**3, 8, 4), (2 * math.e, 5, 0.5), 3, 0.5),
        ((2 * math.e**9, 8, 7), (2 * math.e**-1, 5, 0.5), 5, -1),
        ((2 * math.e**9, 13, 7), (2 * math.e, 3, 0.5), 7, 0),
    ],
)
def test_figure_2_in_numbers(large, small_3, value, probe):
    numbers("kim.figure-2-published", starting(zero=(2, 3, 0), small_3=small_3, large=large), value, probe)


def test_the_figure_of_the_vit_in_numbers():
    # three seeds 0.01 apart: the error of a mean is 0.01 / sqrt(3), of a difference sqrt(2) times it
    found = []
    for start, loss in {"0.001": 1.0, "0.01": 1.1, "0.1": 1.4, "1": 1.5}.items():
        for seed in range(3):
            run = {"experiment": "cifar10", "method": "factored", "start": start, "seed": seed}
            found.append({"run": run, "curve": [{"loss": 9.0}, {"loss": loss + 0.01 * seed}]})
    unit = 0.01 * math.sqrt(2 / 3)
    numbers("mallada.vit-figure", found, 0.1 / unit, -0.3 / unit)


def test_only_a_claim_that_waits_for_runs_can_have_its_verdict_from_runs():
    with pytest.raises(claims.ClaimError, match="lora_one.figure-ablation does not wait for runs"):
        claims.from_runs("lora_one.figure-ablation", None)
