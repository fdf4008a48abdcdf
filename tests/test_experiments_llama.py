"""Llama's table: what is read, how a step weighs it, what is generated, and how the answers are marked."""

import itertools
import json

import pytest
import torch
import transformers

from lorabook.__main__ import main
from lorabook.experiments import (
    ExperimentError,
    language,
    made,
    points,
    problems,
    results,
    run,
    sandbox,
    settings,
    training,
)
from lorabook.experiments.shelf import Shelf

LLAMA = settings.load("llama")
VALUES = points.values(LLAMA, rehearse=True)
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    made.shelf(folder, LLAMA)
    return Shelf(folder)


@pytest.fixture(scope="module")
def tokenizer(shelf):
    found = shelf.pretrained(transformers.AutoTokenizer, LLAMA["model"], "any")
    found.pad_token = found.eos_token
    return found


@pytest.fixture
def model(shelf):
    return shelf.pretrained(transformers.AutoModelForCausalLM, LLAMA["model"], "any", dtype=torch.float32)


def rows(shelf, task, data="data"):
    problem = problems.PROBLEMS[task]
    return shelf.rows(LLAMA[data][task], None, problem.train if data == "data" else problem.test)[0]


# ---------------------------------------------------------------- what is read


def test_a_pair_is_that_of_the_released_code():
    row = {"query": "How many?", "response": "Two.\n#### 2\nThe answer is: 2", "type": "GSM_AnsAug"}
    assert problems.PROBLEMS["gsm8k"].pair(row) == ("Q: How many?\nA: ", "Two.\n#### 2")
    assert problems.PROBLEMS["gsm8k"].pair(row | {"type": "MATH_AnsAug"}) is None
    x, y = problems.PROBLEMS["humaneval"].pair(
        {"query": "Add.", "answer": "So:\n```python\na + b\n```\nor\n```\nb\n```"}
    )
    assert x.endswith("request.\n\n### Instruction:\nAdd.\n\n### Response:\n") and y == "So:\n```python\na + b\n```"
    assert problems.PROBLEMS["humaneval"].pair({"query": "Add.", "answer": "a + b"}) is None


@pytest.mark.parametrize("task", problems.PROBLEMS)
def test_the_first_rows_that_fit_are_read_in_their_order_and_the_question_does_not_count(shelf, tokenizer, task):
    found = rows(shelf, task)
    pairs = [pair for row in found if (pair := problems.PROBLEMS[task].pair(row))]
    assert 0 < len(pairs) < len(found)
    examples = problems.AsPairs(found, task, tokenizer, 1024, 7)
    assert len(examples) == 7
    for (x, y), one in zip(pairs, examples):
        read, counted = one["input_ids"], [number for number in one["labels"] if number != problems.UNCOUNTED]
        assert tokenizer.decode(read) == f"<s>{x} {y}</s>" and read[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(counted).strip() == f"{y}</s>" and len(one["labels"]) == len(read)
    cut = problems.AsPairs(found, task, tokenizer, 9, 7)[0]
    assert cut["input_ids"] == examples[0]["input_ids"][:9] and len(cut["labels"]) == 9


def test_what_is_too_long_is_left_out_and_the_next_is_taken(shelf, tokenizer, monkeypatch):
    found = rows(shelf, "gsm8k")
    length = lambda pair: len(tokenizer(" ".join(pair))["input_ids"])
    pairs = [pair for row in found if (pair := problems.PROBLEMS["gsm8k"].pair(row))]
    most = sorted(map(length, pairs))[len(pairs) // 2]
    monkeypatch.setitem(problems.PROBLEMS, "gsm8k", problems.PROBLEMS["gsm8k"]._replace(most=most))
    wanted = [tokenizer(f"{x} {y}</s>")["input_ids"] for x, y in pairs if length((x, y)) < most]
    assert [one["input_ids"] for one in problems.AsPairs(found, "gsm8k", tokenizer, 1024, 99)] == wanted
    monkeypatch.setitem(problems.PROBLEMS, "gsm8k", problems.PROBLEMS["gsm8k"]._replace(most=2))
    with pytest.raises(ExperimentError, match=r"No row of the data set can be used for gsm8k\."):
        problems.AsPairs(found, "gsm8k", tokenizer, 1024, 99)


def test_a_step_weighs_every_row_alike_and_the_padding_not_at_all(shelf, tokenizer, model, tmp_path):
    examples = problems.AsPairs(rows(shelf, "gsm8k"), "gsm8k", tokenizer, 1024, 8)
    collate = language.padded(tokenizer)
    with torch.no_grad():
        alone = [float(model(**{k: torch.tensor([v]) for k, v in one.items()}).loss) for one in examples]
        batch = collate([examples[k] for k in range(8)])
        scores = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    for k, loss in enumerate(alone):
        counted = batch["labels"][k, 1:] != problems.UNCOUNTED
        found = torch.nn.functional.cross_entropy(scores[k, :-1][counted], batch["labels"][k, 1:][counted])
        assert float(found) == pytest.approx(loss, rel=1e-5)  # float32
    (point,) = points.runs(LLAMA, task="gsm8k", method="full")
    values = VALUES | {"batch": 8, "precision": "float32"}
    trainer = training.trainer(
        point, values, tmp_path, model, {"train": examples, "validation": None}, collate, None, [], None
    )
    training.train(trainer, tmp_path)
    (entry,) = [one for one in trainer.state.log_history if "loss" in one]
    assert entry["loss"] == pytest.approx(sum(alone) / 8, rel=1e-5)
    lengths = [sum(one != problems.UNCOUNTED for one in row["labels"]) for row in examples]
    weighed = sum(loss * n for loss, n in zip(alone, lengths)) / sum(lengths)
    assert abs(weighed - sum(alone) / 8) > 1e-4 * weighed  # every token alike would be another number


# ---------------------------------------------------------------- what is written


def test_a_batch_of_questions_is_answered_as_each_alone(shelf, tokenizer, model):
    questions = [problems.PROBLEMS["gsm8k"].question(row) + " " for row in rows(shelf, "gsm8k", "test_data")]
    questions[1] += "and a longer one "
    found = language.written(model, tokenizer, questions, VALUES | {"evaluation_batch": 4})
    for text, question in zip(found, questions):
        numbers = tokenizer(question, return_tensors="pt")["input_ids"]
        for _ in range(VALUES["new_tokens"]):  # greedily, by hand
            with torch.no_grad():
                new = model(input_ids=numbers).logits[:, -1].argmax(-1, keepdim=True)
            numbers = torch.cat([numbers, new], 1)
        wanted = numbers[0, -VALUES["new_tokens"] :].tolist()
        end = wanted.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in wanted else None
        assert text == tokenizer.decode(wanted[:end], skip_special_tokens=True)


# ---------------------------------------------------------------- how it is marked


@pytest.mark.parametrize(
    "text, released, whole, last",
    [
        ("So 5.\n#### 18", 18, 18, 18),
        ("#### 2,125", 2, 2125, 2125),
        ("#### $7.50", None, 7.5, 7.5),
        ("#### -3", None, -3, -3),
        ("#### 4\n#### 5 and 6", 4, 4, 6),
        ("The answer is 12.", None, None, 12),
        ("nothing", None, None, None),
    ],
)
def test_a_number_is_read_in_three_ways(text, released, whole, last):
    assert problems.released(text) == released and problems.whole(text) == whole and problems.last(text) == last


def test_gsm8k_is_marked_by_the_released_reading_and_the_kinder_ones_are_kept():
    truth = [{"answer": "2 + 3 = 5\n#### 5"}, {"answer": "#### 2,125"}, {"answer": "#### 7"}, {"answer": "#### 9"}]
    found = problems.marked("gsm8k", truth, ["#### 5", "#### 2125", "It is 7.", "#### 8"])
    assert problems.right(found) == [True, False, False, False]
    assert problems.kinder(found) == {"whole_number": 0.5, "last_number": 0.75}
    assert results.accuracy(found)[0] == 0.25
    assert problems.right(problems.marked("gsm8k", truth, ["none"] * 4)) == [False] * 4


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("def f(a):\n    return a\n```", "def f(a):\n    return a"),
        ('def f(a):\n  """Two\n  lines."""\n\n  if a:\n     return 1\n  return 2', None),
        ("  def f(a):\n\treturn a", "def f(a):\n    return a"),
        ("import math\n    def f(a):\n        return a", "import math\ndef f(a):\n    return a"),
        ("x", "x"),
        ("", ""),
    ],
)
def test_generated_code_is_cleaned_as_the_released_evaluation_does(text, wanted):
    wanted = "def f(a):\n    if a:\n        return 1\n    return 2" if wanted is None else wanted
    assert problems.completed(text) == wanted


shut = pytest.mark.usefixtures("shut_in")


@shut
def test_code_that_does_harm_counts_as_failed_and_the_next_one_is_run(shelf, tmp_path, monkeypatch):
    passes = sandbox.passes
    monkeypatch.setattr(sandbox, "passes", lambda program: passes(program, 1.5))
    test = rows(shelf, "humaneval", "test_data")
    solved = lambda row: row["prompt"] + row["canonical_solution"]
    harm = [
        "while True: pass",
        "x = [bytearray(2**24) for k in range(10**6)]",
        "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
        f"open({str(tmp_path / 'new')!r}, 'w')",
    ]
    bad = [solved(row).replace("    return", f"    {one}\n    return", 1) for row, one in zip(test, harm)]
    found = problems.marked("humaneval", test, [*bad, solved(test[4]), solved(test[5]).replace("return a", "return b")])
    assert found["passed"] == [False] * 4 + [True, False] and not (tmp_path / "new").exists()
    assert results.accuracy(found)[0] == pytest.approx(1 / 6)
    assert found["tasks"] == [row["task_id"] for row in test]


# ---------------------------------------------------------------- a run


def one(task, method, **other):
    (found,) = points.runs(LLAMA, task=task, method=method)
    return found, VALUES | {"batch": 4} | other


class Stopped(Exception):
    pass


@pytest.mark.parametrize("method", ["lora_one", pytest.param("full", marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_numbers(shelf, tmp_path, monkeypatch, method):
    read = lambda path: json.loads(path.read_text(encoding="utf-8"))
    wanted = read(run.record(*one("gsm8k", method), tmp_path / "whole", shelf))
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        train = training.train

        def dying(trainer, folder):
            def on_step_end(_, args, state, control, **others):
                if state.global_step == 3:
                    raise Stopped

            trainer.add_callback(type("Dying", (transformers.TrainerCallback,), {"on_step_end": on_step_end})())
            train(trainer, folder)

        patch.setattr(training, "train", dying)
        run.record(*one("gsm8k", method), tmp_path / "parts", shelf)
    assert list(tmp_path.glob("parts/*/checkpoint-*"))
    found = read(run.record(*one("gsm8k", method), tmp_path / "parts", shelf))
    assert all(found[key] == wanted[key] for key in wanted if key not in ("seconds", "peak_memory"))
    assert len({entry["loss"] for entry in wanted["curve"]}) == 5  # something was trained
    assert wanted["data"]["train"]["file"] == "MetaMathQA-395K.json" and len(wanted["predictions"]["texts"]) == 6


def test_nothing_is_executed_or_written_unless_it_was_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sandbox, "passes", lambda text: pytest.fail("code was run"))
    words = ["run", "llama", "--method", "lora", "--rehearse", "--out", str(tmp_path / "new")]
    for task in (["--task", "humaneval"], ["--all"]):
        assert main([*words, *task]) == 1
        assert "say --execute-generated-code, or leave it out with --task gsm8k." in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(sandbox, "TOOLS", ("unshare-of-nobody",))
    sandbox.needed.cache_clear()
    try:
        assert main([*words, "--task", "humaneval", "--execute-generated-code"]) == 1
    finally:
        sandbox.needed.cache_clear()
    assert "Generated code is not run here: it takes Linux with unshare-of-nobody" in capsys.readouterr().err


def test_methods_are_those_whose_settings_are_known():
    assert points.methods(LLAMA) == ("full", "lora", "lora_ga", "lora_one", "pretrained", "pissa")


def test_a_rate_is_that_of_its_task_and_method():
    rates = {(point.task, point.method): point.rate for point in points.runs(LLAMA, everything=True)}
    assert rates["gsm8k", "full"] == rates["humaneval", "full"] == 2e-5
    assert rates["gsm8k", "lora"] == rates["humaneval", "lora_one"] == 2e-4
    assert {point.rate for point in points.runs(LLAMA, everything=True, rate=1e-3)} == {1e-3}
    assert len(rates) == len(list(itertools.product(LLAMA["tasks"], LLAMA["methods"])))
