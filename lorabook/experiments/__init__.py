"""The sources' own experiments, as data and as runs.

- ``settings``: ``data/experiments/*.yml``, every setting of an experiment with where it is from, and their counts;
- ``points``: the runs of an experiment; ``plan``: what they ask for, and whether this machine has it;
- ``shelf``: where models and data are from; ``tasks``, ``images``: what examples become; ``made``: a rehearsal's own;
- ``problems``: what Llama reads and how its answers are marked; ``sandbox``: where generated code is run;
- ``methods``: the methods of LoRA-One's tables; ``nuclear``: Kim, Kim and Ryu's proximal training and their starts;
- ``constants``: restricted convexity and smoothness of the last block; ``one_matrix``: the loss of one matrix there;
- ``minilm``: Kim, Kim and Ryu's runs on a small transformer, made of ``minilm_settings``; ``minilm_settled``: those of
  one matrix; ``minilm_records``, ``minilm_tables``: their tables;
- ``run``: one run, and its record; ``language``: one of Llama's; ``kept``: what is kept of one;
- ``distant``: runs on the workers of a scheduler; ``together``: several processes that share one;
- ``training``: transformers' Trainer under the settings, resumed;
- ``results``: records that were kept, held against themselves; ``judge``: what they say of a published table.

Stands above the sources and the tools for adapters, whose starts and optimiser it uses.
"""


class ExperimentError(ValueError):
    """An experiment that cannot be read or run as asked; one sentence."""
