"""Training steps of a run beside transformers' Trainer with PEFT alone, in turns, on the tiny T5 of a rehearsal.

Prints seconds of processor time for each, and their quotient: least, median and most over the turns.
"""

import statistics
import tempfile
import time
from pathlib import Path

import peft
import torch
import transformers

from lorabook.experiments import made, methods, points, run, settings, shelf, tasks, training

TURNS, EPOCHS = 7, 10


def bare(model, values, sets, collate, folder):
    """The Trainer that somebody would write by hand, with the same arguments."""
    config = peft.LoraConfig(
        r=8, lora_alpha=values["alpha"], use_rslora=values["rslora"], target_modules=values["modules"]
    )
    arguments = transformers.TrainingArguments(
        folder,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=values["batch"],
        learning_rate=1e-4,
        warmup_steps=values["warmup_steps"],
        save_strategy="no",
        logging_steps=1,
        use_cpu=True,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        report_to=[],
        dataloader_pin_memory=False,
    )
    return transformers.Trainer(peft.get_peft_model(model, config), arguments, collate, sets["train"])


def main():
    shelf.quiet()
    torch.set_num_threads(1)
    experiment = settings.load("glue")
    values = points.values(experiment, rehearse=True) | {"epochs": EPOCHS}
    (point,) = points.runs(experiment, task="cola", method="lora")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made.shelf(folder, experiment)
        home = shelf.Shelf(folder)
        pinned = experiment["model"], experiment["model_revision"]
        tokenizer = home.pretrained(transformers.AutoTokenizer, *pinned)
        make = lambda rows: tasks.AsText(rows, "cola", tokenizer, values["length"])
        sets, _ = run._sets(point, values, home, tasks.file, make)
        collate = tasks.text_batch(tokenizer)
        load = lambda: home.pretrained(transformers.AutoModelForSeq2SeqLM, *pinned)

        def ours():
            ready = methods.ready("lora", load(), values, 8, 1e-4, None)
            trainer = training.trainer(
                point, values, folder / "run", ready.model, sets, collate, None, [], lambda x, y: x
            )
            trainer.args.save_strategy = transformers.trainer_utils.SaveStrategy.NO  # a checkpoint is no step
            return trainer

        quotients, spent = [], {"run": [], "Trainer": []}
        for turn in range(TURNS + 1):
            seconds = {}
            for what, build in (("run", ours), ("Trainer", lambda: bare(load(), values, sets, collate, name))):
                trainer = build()
                trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
                begun = time.process_time()
                trainer.train()
                seconds[what] = time.process_time() - begun
            if turn:  # the first warms up
                quotients.append(seconds["run"] / seconds["Trainer"])
                for what, one in seconds.items():
                    spent[what].append(one)
    for what, one in spent.items():
        print(f"{what:8} {min(one):.2f} {statistics.median(one):.2f} {max(one):.2f} s")
    print(f"quotient {min(quotients):.3f} {statistics.median(quotients):.3f} {max(quotients):.3f}")


if __name__ == "__main__":
    main()
