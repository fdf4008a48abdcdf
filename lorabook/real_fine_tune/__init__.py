"""LoRA on a real transformer: the questions of the published tables, asked of all-MiniLM-L6-v2.

- ``encoder``: the network in plain torch; ``task``: its sentences, loss and gradient;
- ``starts``: where an adapter starts; ``train``: methods and how they train; ``compare``: what can be told apart;
- ``alignment``: how much of an update lies in a gradient's leading directions; ``start_size``: starts of several sizes.
"""
