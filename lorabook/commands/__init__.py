"""The commands of ``lorabook``, one file each; none of them imports torch before it runs.

- ``inspect``: what a saved adapter is, what it does to its base, and whether its training has ended;
- ``truncate``: the same adapter at a lower rank;
- ``compare``: saved adapters side by side;
- ``sweep``: many runs of a notebook, with ``table`` and ``map`` of what they found;
- ``run``: an experiment of a source, as it was made;
- ``options``: what several commands share: numbers, ``--json``, ``--plot``, progress.

A command's file has ``add(commands)``, which adds its parser with ``run`` as its default: it takes the options and
returns the text to print, or an exit code.
"""
