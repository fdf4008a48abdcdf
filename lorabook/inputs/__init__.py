"""What is read from outside, one file per data card: where it is from, its hash, how it is split.

- ``minilm``: the weights of all-MiniLM-L6-v2;
- ``sentences``: short texts rated by people;
- ``digits``: handwritten digits;
- ``published``: the sources' own tables.
"""
