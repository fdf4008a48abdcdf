# Two doors: `make book` and `make test`. Each makes .venv from the lock when it is missing,
# then hands over to doit, which owns the graph (`.venv/bin/doit list`).
#
#   make book PROFILE=full                        larger sizes, more seeds
#   make reference NOTEBOOKS="rushka_low_rank"    rewrite the reference outputs of some notebooks
#   make check                                    form, types and the fast tests, in a minute and a half
#   make form                                     give code its form, carry prose to the notebooks with outputs
#   make lock HOLD="torch==2.13.0"                renew the lock, and say which numbers moved
#   make test-slow                                the tests that take long
#   make kernels NOTEBOOKS="kim_networks" SETTINGS="avx2 farthest"    the numbers as other processors compute them
#   make mutants FILES=lorabook/flow.py COUNT=20 SEED=2    which tests notice a formula that was changed

PYTHON  ?= python3
PROFILE ?= quick
DOIT     = $(PYTHON) tools/environment.py && exec .venv/bin/python tools/follow.py doit

.PHONY: book check test test-slow reference form kernels mutants lock bench clean
book check test test-slow form bench:
	@$(DOIT) -n 2 $@ profile=$(PROFILE)
reference:
	@$(DOIT) reference $(NOTEBOOKS)
kernels:
	@$(PYTHON) tools/environment.py && exec .venv/bin/python tools/processors.py $(NOTEBOOKS) $(if $(SETTINGS),--settings $(SETTINGS)) --show
mutants:
	@$(PYTHON) tools/environment.py && exec .venv/bin/python tools/mutants.py $(FILES) --seed $(or $(SEED),1) --count $(or $(COUNT),200)
lock:
	@$(PYTHON) tools/environment.py && .venv/bin/python tools/lock.py "$(HOLD)" && $(DOIT) -n 2 numbers
clean:
	rm -rf _build
