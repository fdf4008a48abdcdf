# Two doors: `make book` and `make test`. Each makes .venv from the lock when it is missing,
# then hands over to doit, which owns the graph (`.venv/bin/doit list`).
#
#   make book PROFILE=full                        larger sizes, more seeds
#   make reference NOTEBOOKS="rushka_low_rank"    rewrite the reference outputs of some notebooks

PYTHON  ?= python3
PROFILE ?= quick
DOIT     = $(PYTHON) tools/environment.py && .venv/bin/doit

.PHONY: book test reference bench clean
book test bench:
	@$(DOIT) -n 2 $@ profile=$(PROFILE)
reference:
	@$(DOIT) reference $(NOTEBOOKS)
clean:
	rm -rf _build
