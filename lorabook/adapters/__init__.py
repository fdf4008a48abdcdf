"""LoRA on a real transformer, and tools for adapters that HF PEFT makes and saves.

On the network of the book:

- ``encoder``: all-MiniLM-L6-v2 in plain torch; ``sentiment``: a task for it, its loss and gradient;
- ``starts``: where an adapter starts; ``train``: methods and how they train; ``compare``: what can be told apart;
- ``one_matrix``: Kim et al.'s problem on one matrix, and its factors run to their end.

On any PEFT model:

- ``full_gradient``: the gradient over all batches, reduced layer by layer;
- ``peft_targets``: which layers of a PEFT model the tools can work on;
- ``peft_start``: LoRA-One's start;
- ``inspect``: a saved adapter read without running anything; ``report``: as table, JSON and figure;
- ``certificate``: Kim et al.'s certificate, layer by layer; ``certify_folder``: the same for a saved adapter.

Stands above the sources: it uses ``lora_one`` and ``kim``, and none of them uses it.
"""

from lorabook.adapters.certificate import Verdict, certify
from lorabook.adapters.inspect import AdapterError, Measured, inspect_folder
from lorabook.adapters.peft_start import FORMS, lora_one_

__all__ = ["FORMS", "AdapterError", "Measured", "Verdict", "certify", "inspect_folder", "lora_one_"]
