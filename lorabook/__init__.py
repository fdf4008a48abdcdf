"""An executable companion to four sources on how low-rank adaptation learns.

- at the root, the mathematics of no source: ``checks device measure linalg flow descent linear_phase riccati exact``;
- ``page``: what a page is made of; ``inputs``: what is read from outside;
- ``mallada``, ``lora_one``, ``rushka``, ``kim``: one source each, none of which knows another;
- ``adapters``: tools for adapters that HF PEFT makes and saves;
- ``one_dynamics``, ``maps``, ``real_fine_tune``: the chapters of these names;
- ``practice``: the sweep of the real fine-tune behind the chapter for engineers;
- ``experiments``: the sources' own experiments, as data and as runs;
- ``sweep``: one notebook, many parameters, on a cluster;
- ``commands``: what ``lorabook`` does on the command line; ``__main__``: the command itself.
"""

from importlib.resources import files
from pathlib import Path

__version__ = "0.1.0"

# Claim lists, experiments and published tables lie in the package where a wheel was installed, beside it in a clone.
# The place of this very package decides, so a clone on PYTHONPATH reads its own and not those of an installed one.
DATA = Path(str(files(__name__)), "data")
if not DATA.is_dir():
    DATA = DATA.parents[1] / "data"
