"""Tools for adapters that HF PEFT makes and saves.

- ``targets``: which layers of a PEFT model the tools can work on;
- ``batches``: what a batch adds to the whole data; ``full_gradient``: the gradient over all batches, reduced layer by
  layer; ``sketch``: its leading part in two sweeps, no gradient formed;
- ``start``: LoRA-One's start; ``moved_base``: base weights that a start has moved;
- ``preconditioned``: AdamW on preconditioned forces; ``recipe``: LoRA-One's released run, and a callback for a Trainer;
- ``folder``: a saved adapter's files, read without running anything, from ``weight_files``, ``peft_config``,
  ``peft_keys`` and other trainers' ``formats``, into ``parts`` that can be measured; ``loading``: where PEFT does with
  it what one would not think; ``promises``: what the configuration says that PEFT loads, by ``expressions``;
- ``inspect``: the measures of every module; ``findings``: what stands out; ``movement``: several adapters;
- ``against_base``: what the update does to the ``base_weights``, ``tied``, ``replicated`` and ``renamed`` ones and
  those of ``dora`` too; ``fits``: what PEFT cannot load or merge there;
- ``truncate``: a smaller adapter from a saved one; ``compare``: several side by side, ``outside``: what differs beside
  the factors; ``merges``: is one the sum of others, ``merge_limits``: where PEFT's cannot be; ``updates`` and
  ``products``, on which these stand; ``answers``: what they found;
- ``report``: what is said, in ``tables`` and JSON; ``plots``: figures;
- ``certificate``: Kim et al.'s certificate, layer by layer, against the ``noise`` of the batches; ``certify_folder``:
  the same for a saved adapter and a file of ``training_rows``.

Stands above the sources: it uses ``lora_one`` and ``kim``, and none of them uses it.
"""

from lorabook.adapters.certificate import LayerVerdict, certify
from lorabook.adapters.compare import compare_folders
from lorabook.adapters.inspect import AdapterError, Measured, inspect_folder
from lorabook.adapters.merges import check_merge
from lorabook.adapters.movement import inspect_folders
from lorabook.adapters.preconditioned import PreconditionedAdamW
from lorabook.adapters.start import FORMS, Started, lora_one_
from lorabook.adapters.truncate import truncate_folder

__all__ = [
    "FORMS",
    "AdapterError",
    "LayerVerdict",
    "LoraOneCallback",
    "Measured",
    "PreconditionedAdamW",
    "Started",
    "certify",
    "check_merge",
    "compare_folders",
    "inspect_folder",
    "inspect_folders",
    "lora_one_",
    "truncate_folder",
]


def __getattr__(name: str):
    """``LoraOneCallback``, whose module asks for transformers."""
    if name != "LoraOneCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lorabook.adapters import recipe

    return recipe.LoraOneCallback
