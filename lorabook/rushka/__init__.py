"""Rushka & Klabjan, *Rank-Accuracy Trade-off for LoRA: A Gradient-Flow Analysis*.

One file per section of the paper, and three beside them:

- ``algorithm``: Algorithm 1, equations (4)-(5), and the sharp form of Theorem 2.4;
- ``trace``: the trace-squared loss of section 2.2, from every start;
- ``low_rank``: the low-rank approximation of section 2.3, from spectral, balanced and generic starts;
- ``printed``: the paper's formulas as they stand; ``proofs``: our own statements, proved by machine;
- ``runs``: the experiments of the pages.

House letters: the update is ``B @ A``; the paper writes ``Y X`` in continuous time.
"""

from lorabook.rushka.algorithm import descend, descent_error
from lorabook.rushka.low_rank import frobenius_flow, frobenius_gradients, half_time, mode, spectral_start, tail_sum
from lorabook.rushka.trace import (
    TraceFlow,
    error_floor,
    expected_squared_error,
    full_rank_flow,
    largest_step,
    relative_error,
    time_to_residual,
    trace_flow,
    trace_gradients,
    trace_limit,
)
