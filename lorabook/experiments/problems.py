"""What Llama reads and how its answers are marked: MetaMathQA and CodeFeedback to train on, GSM8K and HumanEval after.

    gsm8k      x = "Q: " + question + "\\nA: "       y = the answer, whose last line is "#### " + number
    humaneval  x = instruction and its head          y = the first block of code of the answer

What is read is x + " " + y + the mark of the end, cut; x and the padding do not count in the loss.

Source: the authors' code, commit 01bba05, data.py, utils.py, eval_gsm8k.py and eval_humaneval.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch

from lorabook.experiments import ExperimentError, sandbox

RELEASED = re.compile(r"####\s*(\d+)")  # how the released code reads a number: digits, up to a comma
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
UNCOUNTED = -100  # a label that does not count in the loss

INSTRUCTED = """Below is an instruction that describes a task. \
Write a response that appropriately completes the request.

### Instruction:
{}

### Response:
"""
COMPLETED = """Below is an instruction that describes a task.
 Write a response that appropriately completes the request.

### Instruction:
Complete the following Python code:\x20
Notes: respond with the entire complete function definition
do not add any comments, be as concise in your code as possible
use only built-in libraries, assume no additional imports other than those provided (if any)
use `    ` (4 spaces) for each level of indentation

code:
```python
{}
```

### Response:
```python
"""


class Problem(NamedTuple):
    """A task of Llama's table."""

    train: str  # the file on the Hub
    test: str
    most: int  # tokens; what has as many is left out
    pair: Callable[[dict], tuple[str, str] | None]  # of a row to train on: x and y, None where it is left out
    question: Callable[[dict], str]  # of a row of the test


def _mathematics(row: dict) -> tuple[str, str] | None:
    if "GSM" not in row["type"]:
        return None
    return f"Q: {row['query']}\nA: ", row["response"].split("\nThe answer is:")[0]


def _code(row: dict) -> tuple[str, str] | None:
    if "```" not in row["answer"]:
        return None
    return INSTRUCTED.format(row["query"]), "```".join(row["answer"].split("```")[:2]) + "```"


PROBLEMS = {
    "gsm8k": Problem(
        "MetaMathQA-395K.json",
        "main/test-00000-of-00001.parquet",
        512,
        _mathematics,
        lambda row: f"Q: {row['question']}\nA: ",
    ),
    "humaneval": Problem(
        "CodeFeedback-Filtered-Instruction.jsonl",
        "openai_humaneval/test-00000-of-00001.parquet",
        1024,
        _code,
        lambda row: COMPLETED.format(row["prompt"]),
    ),
}


class AsPairs(torch.utils.data.Dataset):
    """The first ``rows`` pairs of x and y that are short enough, in their order, as token numbers.

    Args:
        rows: of the data set.
        task: one of PROBLEMS.
        tokenizer: with a mark of the end.
        length: what is longer is cut.
        count: how many are taken at most.

    Raises:
        ExperimentError: none is short enough.
    """

    def __init__(self, rows: list[dict], task: str, tokenizer: Any, length: int, count: int):
        self.rows = list(islice(self._read(rows, PROBLEMS[task], tokenizer, length), count))
        if not self.rows:
            raise ExperimentError(f"No row of the data set can be used for {task}.")

    @staticmethod
    def _read(rows: list[dict], problem: Problem, tokenizer: Any, length: int) -> Iterator[dict]:
        numbers = lambda texts: tokenizer(texts, return_attention_mask=False)["input_ids"]
        fitting = (pair for row in rows if (pair := problem.pair(row)))
        while pairs := list(islice(fitting, 512)):
            lengths = map(len, numbers([f"{x} {y}" for x, y in pairs]))
            for x, y in (pair for pair, one in zip(pairs, lengths) if one < problem.most):
                read, head = numbers(f"{x} {y}{tokenizer.eos_token}"), len(numbers(x))
                yield {"input_ids": read[:length], "labels": ([UNCOUNTED] * head + read[head:])[:length]}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict:
        return self.rows[number]


def released(text: str) -> int | None:
    """The number after the first ####, as the released code reads it: 2 of "#### 2,125"."""
    found = RELEASED.search(text)
    return int(found.group(1)) if found else None


def whole(text: str) -> float | None:
    """The number after the first ####, all of it."""
    return _number(NUMBER.search(text.partition("####")[2]))


def last(text: str) -> float | None:
    """The last number of a text, whatever stands before it."""
    return _number(next(reversed(list(NUMBER.finditer(text))), None))


def _number(found: re.Match | None) -> float | None:
    return None if found is None else float(found.group().replace(",", ""))


def completed(text: str) -> str:
    """Generated code as the released evaluation cleans it: no fences, no strings in triple quotes, no empty lines, and
    every level of indentation of the text four spaces, the outermost being that of the first line with "def"."""
    text = re.sub(r'""".*?"""|\'\'\'.*?\'\'\'', "", text.replace("```", "").replace("\t", "    "), flags=re.S)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    depths = [len(line) - len(line.lstrip(" ")) for line in lines]
    base = next((depth for line, depth in zip(lines, depths) if "def" in line), 0)
    levels = {depth: number for number, depth in enumerate(sorted({max(one, base) for one in depths} | {base}))}
    return "\n".join("    " * levels[max(depth, base)] + line.lstrip() for line, depth in zip(lines, depths))


def marked(task: str, rows: list[dict], texts: list[str]) -> dict[str, list]:
    """The part of a record from which its accuracy follows: of GSM8K the true answers beside the texts, of HumanEval
    the cleaned code and whether it passes the tests.  Generated code runs in :mod:`lorabook.experiments.sandbox`.

    Args:
        task: one of PROBLEMS.
        rows: of the test.
        texts: what was generated for each of them.
    """
    if task == "gsm8k":
        return {"answers": ["####" + row["answer"].rpartition("####")[2] for row in rows], "texts": texts}
    made = [completed(text) for text in texts]
    checks = [f"{row['prompt']}{one}\n{row['test']}\ncheck({row['entry_point']})" for row, one in zip(rows, made)]
    return {"tasks": [row["task_id"] for row in rows], "texts": made, "passed": [sandbox.passes(one) for one in checks]}


def right(predictions: dict) -> list[bool]:
    """For each problem whether it was solved, from :func:`marked`."""
    if "passed" in predictions:
        return [one is True for one in predictions["passed"]]
    return [released(text) == released(wanted) for text, wanted in zip(predictions["texts"], predictions["answers"])]


def kinder(predictions: dict) -> dict[str, float]:
    """GSM8K's accuracy by two other readings: the whole number after ####, and the last number of the text."""
    if "answers" not in predictions:
        return {}
    pairs = list(zip(predictions["texts"], predictions["answers"]))
    share = lambda read: sum(read(text) == whole(wanted) for text, wanted in pairs) / len(pairs)
    return {"whole_number": share(whole), "last_number": share(last)}
