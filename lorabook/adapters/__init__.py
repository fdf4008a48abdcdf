"""Tools for adapters that HF PEFT makes and saves.

- ``full_gradient``: the gradient over all batches, reduced layer by layer;
- ``targets``: which layers of a PEFT model the tools can work on;
- ``start``: LoRA-One's start;
- ``inspect``: a saved adapter read without running anything; ``report``: as table, JSON and figure;
- ``certificate``: Kim et al.'s certificate, layer by layer; ``certify_folder``: the same for a saved adapter.

Stands above the sources: it uses ``lora_one`` and ``kim``, and none of them uses it.
"""

from lorabook.adapters.certificate import LayerVerdict, certify
from lorabook.adapters.inspect import AdapterError, Measured, inspect_folder
from lorabook.adapters.start import FORMS, lora_one_

__all__ = ["FORMS", "AdapterError", "LayerVerdict", "Measured", "certify", "inspect_folder", "lora_one_"]
