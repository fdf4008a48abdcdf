"""Lines of a training set and their batches: texts with labels, texts, conversations, prompts with answers.

A causal language model takes three kinds of lines, with the loss where TRL's SFTTrainer has it by default:

- ``{"text": ...}``: every token counts;
- ``{"messages": [{"role": ..., "content": ...}, ...]}``: by the tokenizer's chat template; every token counts;
- ``{"prompt": ..., "completion": ...}``, both texts or both lists of messages: the tokens of the completion count.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from lorabook.adapters.peft_config import AdapterError

LONGEST, CLASSES = 2**20, 2**31  # characters of a line of data; a label is smaller
SEQ_CLS = "SEQ_CLS"


def read_rows(path: Path, task: str) -> list[dict]:
    """The lines of a file of JSON, each checked.

    Raises:
        AdapterError: there is no file, or a line that is not what the task needs.
    """
    if not path.is_file():
        raise AdapterError(f"There is no data file {path}.")
    rows = []
    with path.open(encoding="utf-8-sig") as lines:
        try:
            for number, line in enumerate(iter(lambda: lines.readline(LONGEST + 1), ""), 1):
                if len(line) > LONGEST:
                    raise AdapterError(f"Line {number} of the data is longer than {LONGEST} characters.")
                if line.strip():
                    rows.append(_row(line, number, task))
        except UnicodeDecodeError:
            raise AdapterError(f"{path.name} is not text in UTF-8.") from None
    if not rows:
        raise AdapterError(f"{path.name} is empty: the gradient needs data.")
    return rows


def need_template(rows: list[dict], tokenizer, folder) -> None:
    """Raise AdapterError where conversations cannot be written out."""
    if any("text" not in row and not isinstance(row.get("prompt"), str) for row in rows):
        if not getattr(tokenizer, "chat_template", None):
            raise AdapterError(
                f"The data hold messages, but the tokenizer of {folder} has no chat template: write each line as "
                '{"text": ...}, in the form that was trained on.'
            )


def batch_of(rows: list[dict], tokenizer, task: str, length: int) -> dict[str, Tensor]:
    """A batch of at most ``length`` tokens a row, padded on the right, with labels."""
    coded = [_coded(row, tokenizer, length) for row in rows]
    longest = max(len(one["input_ids"]) for one, _ in coded)
    filling = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    fill = lambda key, values: [*values, *[filling.get(key, 0)] * (longest - len(values))]
    batch = {key: torch.tensor([fill(key, one[key]) for one, _ in coded]) for key in coded[0][0]}
    if task == SEQ_CLS:
        return batch | {"labels": torch.tensor([row["label"] for row in rows])}
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for row, (_, silent) in zip(labels, coded):
        row[:silent] = -100
    return batch | {"labels": labels}


def _coded(row: dict, tokenizer, length: int) -> tuple[dict, int]:
    """One row's tokens, and how many of the first do not count."""
    cut = {"truncation": True, "max_length": length}
    if "text" in row:
        return dict(tokenizer(row["text"], **cut)), 0
    written = lambda messages, **more: tokenizer.apply_chat_template(messages, tokenize=False, **more)
    try:
        if "messages" in row:
            return dict(tokenizer(written(row["messages"]), add_special_tokens=False, **cut)), 0
        prompt, whole, special = row["prompt"], row["completion"], isinstance(row["prompt"], str)
        if special:
            end = tokenizer.eos_token or ""
            whole = prompt + whole + ("" if whole.endswith(end) else end)
        else:
            prompt, whole = written(prompt, add_generation_prompt=True), written(prompt + whole)
    except AdapterError:
        raise
    except Exception as error:  # a template raises what it likes, for an order of roles that it does not know
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:120].rstrip(".")
        raise AdapterError(f"The chat template cannot write a conversation of the data ({why}).") from None
    silent = len(tokenizer(prompt, add_special_tokens=special)["input_ids"])
    return dict(tokenizer(whole, add_special_tokens=special, **cut)), silent


def _row(line: str, number: int, task: str) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise AdapterError(f"Line {number} of the data is not JSON.") from None
    if task != SEQ_CLS and isinstance(row, dict) and "text" not in row and {"messages", "prompt"} & row.keys():
        return _conversation(row, number)
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
        raise AdapterError(f"Line {number} of the data has no text.")
    label = row.get("label")
    if task == SEQ_CLS and (isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < CLASSES):
        raise AdapterError(f"Line {number} of the data needs a label that is a class: 0, 1 and so on.")
    return row


def _conversation(row: dict, number: int) -> dict:
    """A row of messages, or of a prompt and its completion."""
    if row.get("tools"):
        raise AdapterError(f"Line {number} of the data has tools, which are not read: write it as text.")
    if "messages" in row:
        _messages(row["messages"], number)
        return {"messages": row["messages"]}
    prompt, answer = row["prompt"], row.get("completion")
    if isinstance(prompt, str) and isinstance(answer, str) and answer.strip():
        return {"prompt": prompt, "completion": answer}
    if isinstance(prompt, str) or isinstance(answer, str) or answer is None:
        raise AdapterError(f"Line {number} of the data needs a prompt and a completion, both texts or both messages.")
    _messages(prompt, number), _messages(answer, number)
    return {"prompt": prompt, "completion": answer}


def _messages(messages, number: int) -> None:
    words = isinstance(messages, list) and all(
        isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)
        for one in messages
    )
    if not words or not messages:
        raise AdapterError(f'Line {number} of the data needs messages of the form {{"role": ..., "content": text}}.')
