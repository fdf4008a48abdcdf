"""A rehearsal's models and data: tiny networks of the real architectures, and rows made by formula, in a folder with
the layout of the Hub.  Nothing that comes out of a rehearsal is a result.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch

from lorabook import checks
from lorabook.experiments import images, problems
from lorabook.experiments.settings import Experiment
from lorabook.experiments.tasks import TASKS, file, prompt

ROWS = {"train": 64, "validation": 20}
GOOD, BAD = ("fine", "bright", "warm", "clever"), ("dull", "grey", "cold", "clumsy")
THINGS = ("film", "plot", "score", "cast", "scene", "ending")


def shelf(folder: Path, experiment: Experiment) -> None:
    """Write the model and the data of an experiment, tiny and made by formula, into ``folder``."""
    place = folder / experiment["model"]
    if "vit" in experiment["model"]:
        for task in experiment["tasks"]:
            for split in ROWS:
                write(folder / experiment["data"] / images.file(task, split), pictures(task, split))
        model("vit", place).save_pretrained(place)
        return
    if "llama" in experiment["model"].lower():
        _llama(folder, experiment, place)
        return
    rows = {(task, split): made_rows(task, split) for task in experiment["tasks"] for split in ROWS}
    for (task, split), found in rows.items():
        write(folder / experiment["data"] / file(task, split), found)
    texts = [" ".join(prompt(task, row)) for (task, _), found in rows.items() for row in found]
    kind = "t5" if "t5" in experiment["model"] else "roberta"
    tokenizer(kind, texts).save_pretrained(place)
    model(kind, place).save_pretrained(place)


def made_rows(task: str, split: str) -> list[dict]:
    """Rows in the columns of the task; the label follows from the words, so that there is something to learn."""
    labels, columns = len(TASKS[task].words), TASKS[task].columns
    rows = []
    for number in range(ROWS[split]):
        k = number * 7 + (3 if split == "validation" else 0)
        label = k // 2 % labels
        words = (GOOD, BAD, THINGS)[label]
        phrase = lambda shift: f"the {THINGS[(k + shift) % 6]} is {words[(k + shift) % 4]} and {words[(k // 3) % 4]}"
        rows.append({name: phrase(place) for place, name in enumerate(columns)} | {"label": label, "idx": number})
    return rows


SHORT = {"train": 24, "test": 6}  # rows for Llama, which reads and writes a token at a time
OPERATIONS = (("more", "+"), ("less", "-"), ("times", "*"))


def _llama(folder: Path, experiment: Experiment, place: Path) -> None:
    texts = []
    for task in experiment["tasks"]:
        problem = problems.PROBLEMS[task]
        for data, name, rows in (
            ("data", problem.train, [_asked(task, k) for k in range(SHORT["train"])]),
            ("test_data", problem.test, [_tested(task, k) for k in range(SHORT["test"])]),
        ):
            write(folder / experiment[data][task] / name, rows)
            texts += [str(one) for row in rows for one in row.values()]
        texts.append(problem.question(rows[0]))
    pieces(texts).save_pretrained(place)
    model("llama", place).save_pretrained(place)


def _asked(task: str, k: int) -> dict:
    """A row in the columns of MetaMathQA or CodeFeedback."""
    word, sign = OPERATIONS[k % 3]
    if task == "gsm8k":
        a, b = 3 + k % 7, 2 + k % 5
        text = f"Ann has {a} apples and Bob has {b} more. How many has Bob?"
        steps = "Count them. " * (k % 4)
        response = f"{steps}Bob has {a} + {b} = {a + b} apples.\n#### {a + b}\nThe answer is: {a + b}"
        return {"query": text, "response": response, "type": "MATH_SV" if k % 6 == 5 else "GSM_Rephrased"}
    code = f"def {word}(a, b):\n    return a {sign} b\n"
    answer = f"This is it:\n```python\n{code}```\nIt takes two numbers." if k % 6 < 5 else "There is none."
    return {"query": f"Write a function {word} of a and b.", "answer": answer, "lang": "python"}


def _tested(task: str, k: int) -> dict:
    """A row in the columns of GSM8K or HumanEval."""
    word, sign = OPERATIONS[k % 3]
    if task == "gsm8k":
        a, b = 4 + k, 1000 + k
        text = f"Ann has {a} apples and Bob has {b:,} more. How many has Bob?"
        return {"question": text, "answer": f"Bob has {a} + {b:,} apples.\n#### {a + b:,}"}
    body = f"    return a {sign} b\n"
    return {
        "task_id": f"HumanEval/{k}",
        "prompt": f'def {word}(a, b):\n    """{word} of a and b"""\n',
        "canonical_solution": body,
        "test": f"def check(candidate):\n    assert candidate(7, {k}) == 7 {sign} {k}\n",
        "entry_point": word,
    }


def pieces(texts: list[str]):
    """A tokenizer of pieces of words, in which every text can be written, with the marks of Llama."""
    transformers = checks.package("transformers", "experiments")
    tokenizers = checks.package("tokenizers", "experiments")
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    one = tokenizers.Tokenizer(models.BPE())
    one.pre_tokenizer, one.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    first = ["<unk>", "<s>", "</s>"]
    one.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=800, special_tokens=first, initial_alphabet=alphabet, show_progress=False)
    )
    one.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=one, **named)


def pictures(task: str, split: str) -> list[dict]:
    """Rows of CIFAR: a picture of a colour that follows from the label, with a wave in it."""
    checks.package("PIL", "experiments", "pillow")
    from PIL import Image

    column, labels, _ = images.SETS[task]
    rows = []
    for number in range(ROWS[split]):
        label = (number * 7 + (split == "validation")) % labels
        x = torch.arange(32).view(1, 32, 1) * torch.ones(32, 1, 3)
        colour = torch.tensor([label * 37 % 200, label * 91 % 200, label * 53 % 200])
        pixels = (colour + 25 + 25 * torch.sin(x / (1 + number % 5))).to(torch.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels.numpy()).save(stream, "PNG")
        rows.append({"img": {"bytes": stream.getvalue(), "path": None}, column: label})
    return rows


def write(path: Path, rows: list[dict]) -> None:
    """A file of parquet or JSON, as its name says, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
        return
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        return
    checks.package("pyarrow", "experiments")
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def tokenizer(kind: str, texts: list[str]):
    """A tokenizer of whole words, with the marks of the architecture."""
    transformers = checks.package("transformers", "experiments")
    tokenizers = checks.package("tokenizers", "experiments")
    from tokenizers import models, pre_tokenizers, processors

    first = ["<pad>", "</s>", "<unk>"] if kind == "t5" else ["<s>", "<pad>", "</s>", "<unk>"]
    words = first + sorted({word for text in texts for word in text.split()})
    numbers = {word: number for number, word in enumerate(words)}
    one = tokenizers.Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    one.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    single, pair = ("$A </s>", "$A </s> $B </s>") if kind == "t5" else ("<s> $A </s>", "<s> $A </s> </s> $B </s>")
    marks = [(word, numbers[word]) for word in first if word in single]
    one.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=marks)
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    if kind == "roberta":
        named |= {"bos_token": "<s>", "cls_token": "<s>", "sep_token": "</s>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=one, **named)


def model(kind: str, place: Path):
    """A network of the architecture from a configuration, with two layers of width 32."""
    transformers = checks.package("transformers", "experiments")
    known = 0 if kind == "vit" else len(transformers.PreTrainedTokenizerFast.from_pretrained(place))
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        if kind == "vit":
            small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
            return transformers.ViTModel(transformers.ViTConfig(**small, image_size=32, patch_size=8))
        if kind == "llama":
            small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
            return transformers.LlamaForCausalLM(transformers.LlamaConfig(**small, vocab_size=known)).bfloat16()
        if kind == "t5":
            config = transformers.T5Config(
                vocab_size=known, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
            )
            return transformers.T5ForConditionalGeneration(config)
        config = transformers.RobertaConfig(
            vocab_size=known,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=132,
        )
        return transformers.RobertaForMaskedLM(config)
