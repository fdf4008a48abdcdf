"""What a page is made of.

- ``parameters``: the first cell of a notebook, checked;
- ``lists``: the claim lists and the sources' statements; ``claims``: verdicts computed from a run;
- ``cards``: what the page shows of a verdict; ``correspondence``: letters to authors, and the claims for programs;
- ``figures``: kinds of figures and tables, drawn in the page's ink; ``plotted``: what a figure shows, as a CSV file;
  ``svg``: a panel for a page;
- ``letters``: plain words with Greek letters and indices, typeset;
- ``ledger``: all verdicts of the book, collected from the executed notebooks;
- ``grounds``: what rests on what among the claims, drawn.
"""
