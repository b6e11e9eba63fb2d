# `make serve` builds and serves the site; `make test` sets up what the tests need and passes them.
VENV ?= .venv
PORT ?= 8000
PYTHON := $(VENV)/bin/python

.PHONY: serve test technique check bench fuzz clean
.DELETE_ON_ERROR:

serve: $(VENV)/.installed-site
	$(VENV)/bin/lvlm-atlas check
	PORT=$(PORT) $(VENV)/bin/lvlm-atlas serve

test: $(VENV)/.installed-dev
	scripts/chromium $(VENV)
	scripts/check $(VENV)
	-$(VENV)/bin/lvlm-atlas lab fetch # without photographs, the tests that run curves again are skipped
	$(PYTHON) -m pytest -n 2 --dist loadfile

# All that `make test` holds against one technique: make technique ID=my-method
technique: $(VENV)/.installed-dev
	scripts/check $(VENV)
	$(PYTHON) -m pytest -n 2 --dist loadfile --technique $(ID)

check: $(VENV)/.installed-dev
	scripts/check $(VENV)

bench: $(VENV)/.installed-dev
	$(PYTHON) tests/benchmarks/run.py

$(VENV)/.installed-%: pyproject.toml constraints.txt scripts/setup
	scripts/setup $(VENV) $*
	touch $@

# The suite's fuzz tests with more cases: make fuzz CASES=20000
CASES ?= 5000
fuzz: $(VENV)/.installed-dev
	FUZZ_CASES=$(CASES) $(PYTHON) -m pytest -n 2 --timeout 0 tests/atlas/test_fuzz.py

clean:
	rm -rf build dist $(VENV)
