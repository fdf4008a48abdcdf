"""What to do: sweeps of the real fine-tune, and what can be told apart in them.

- ``arms``: one method, rank and rate, trained and judged; ``plan``: which arms, and what they are to decide;
- ``records``: the sweep, which goes on where it stopped; ``__main__``: its command;
- ``tables``: its tables; the rule that tells methods apart is that of ``real_fine_tune.compare``.
"""
