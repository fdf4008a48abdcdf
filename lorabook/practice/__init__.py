"""What to do: sweeps of the real fine-tune, and what can be told apart in them.

- ``arms``: one method, rank and rate, trained and judged.
"""
