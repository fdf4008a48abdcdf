"""One notebook, many parameters: a point becomes a record, on Dask.

- ``grid``: the points that a file names;
- ``notebook``: a notebook as a kind of point: its parameters, its run by papermill, its record;
- ``closure``: the files of the package that a notebook's code reaches; ``kernels``: kernels that start;
- ``workers``: who computes them;
- ``engine``: points to records on a cluster; what exists is skipped, what stops loses the points under way;
- ``results``: the records as a table and as a map.
"""


class SweepError(ValueError):
    """One sentence that says why a sweep cannot start or go on."""
