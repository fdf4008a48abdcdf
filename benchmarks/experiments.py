"""Training steps of a run beside transformers' Trainer with PEFT alone, in turns: the tiny T5 of a rehearsal with LoRA
and AdamW, and MiniLM on rated sentences with Kim, Kim and Ryu's factors and SGD.

Prints seconds of processor time for each, and their quotient: least, median and most over the turns.
"""

import copy
import statistics
import tempfile
import time
from pathlib import Path

import peft
import torch
import transformers

from lorabook.experiments import (
    kept,
    made,
    methods,
    minilm,
    minilm_settings,
    nuclear,
    points,
    run,
    settings,
    shelf,
    tasks,
    training,
)

TURNS = 7


def bare(model, values, sets, collate, folder, config, optimizer=None):
    """The Trainer that somebody would write by hand, with the same arguments."""
    arguments = transformers.TrainingArguments(
        folder,
        num_train_epochs=values["epochs"],
        per_device_train_batch_size=values["batch"],
        learning_rate=values["rates"][0],
        lr_scheduler_type=values["schedule"],
        warmup_steps=values["warmup_steps"],
        max_grad_norm=values["clipping"],
        save_strategy="no",
        logging_steps=1,
        use_cpu=True,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        report_to=[],
        dataloader_pin_memory=False,
    )
    adapted = peft.get_peft_model(model, config)
    chosen = (optimizer(adapted) if optimizer else None, None)
    return transformers.Trainer(adapted, arguments, collate, sets["train"], optimizers=chosen)


def tiny(folder):
    """Two functions that build a trainer, ours and the bare one, of a rehearsal's T5 on CoLA."""
    experiment = settings.load("glue")
    values = points.values(experiment, rehearse=True) | {"epochs": 10}
    (point,) = points.runs(experiment, task="cola", method="lora", rate=values["rates"][0])
    made.shelf(folder, experiment)
    home, pinned = shelf.Shelf(folder), (experiment["model"], experiment["model_revision"])
    tokenizer = home.pretrained(transformers.AutoTokenizer, *pinned)
    make = lambda rows: tasks.AsText(rows, "cola", tokenizer, values["length"])
    sets, _ = run._sets(point, values, home, tasks.file, make)
    collate = tasks.text_batch(tokenizer)
    load = lambda: home.pretrained(transformers.AutoModelForSeq2SeqLM, *pinned)
    config = peft.LoraConfig(
        r=8, lora_alpha=values["alpha"], use_rslora=values["rslora"], target_modules=values["modules"]
    )

    def ours():
        model = methods.ready("lora", load(), values, 8, point.rate, None).model
        return training.trainer(point, values, folder / "run", model, sets, collate, None, [], lambda x, y: x)

    return ours, lambda: bare(load(), values, sets, collate, str(folder), config)


def real(folder):
    """The same of MiniLM with factors, the head trained before."""
    values, home = minilm_settings.values() | {"epochs": 1}, minilm_settings.Here()
    point = next(arm for arm in minilm.arms() if arm.start == "zero")
    with kept.seeded(0):
        model, sets, _, collate = run.probed(point, values | {"head_epochs": 1}, folder, home)
    config = peft.LoraConfig(r=point.rank, lora_alpha=point.rank, target_modules=values["modules"])

    def descent(adapted):
        factors = [one for one in adapted.parameters() if one.requires_grad]
        return torch.optim.SGD(factors, lr=point.rate, weight_decay=values["factored_decay"])

    def ours():
        adapted = nuclear.factored(copy.deepcopy(model), values, point.rank, "zero", 0)
        return training.trainer(
            point, values, folder / "run", adapted, sets, collate, descent(adapted), [], lambda x, y: x
        )

    return ours, lambda: bare(copy.deepcopy(model), values, sets, collate, str(folder), config, descent)


def timed(trainer):
    """Seconds of processor time of a training without checkpoints, which are no steps."""
    trainer.args.save_strategy = transformers.trainer_utils.SaveStrategy.NO
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    begun = time.process_time()
    trainer.train()
    return time.process_time() - begun


def main():
    shelf.quiet()
    torch.set_num_threads(1)
    for what, kind in (("tiny T5", tiny), ("MiniLM", real)):
        with tempfile.TemporaryDirectory() as name:
            ours, theirs = kind(Path(name))
            # the first turn warms up
            turns = [(timed(ours()), timed(theirs())) for _ in range(TURNS + 1)][1:]
        for one, spent in zip(("run", "Trainer"), zip(*turns)):
            print(f"{what}, {one:8} {min(spent):.2f} {statistics.median(spent):.2f} {max(spent):.2f} s")
        quotients = [a / b for a, b in turns]
        print(f"{what}, quotient {min(quotients):.3f} {statistics.median(quotients):.3f} {max(quotients):.3f}")


if __name__ == "__main__":
    main()
