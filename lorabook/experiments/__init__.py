"""The sources' own experiments, as data.

- ``settings``: ``data/experiments/*.yml``, every setting of an experiment with where it is from, and their counts.

Stands above the chapters.
"""


class ExperimentError(ValueError):
    """An experiment that cannot be read or run as asked; one sentence."""
