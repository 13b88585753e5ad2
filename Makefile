# make demo | test | test-slow | soak | plan | test-plan | check | install | img2dataset. Variables: PYTHON (3.11 or newer),
# VENV, WORKDIR (of the demo), MINUTES (of the soak), ACCELERATOR (auto, cpu, cuda12, cuda13, tpu).
PYTHON ?= python3
VENV ?= .venv
ACCELERATOR ?= auto
WORKDIR ?= runs/demo
MINUTES ?= 30
RUN := $(VENV)/bin/python

.PHONY: install install-test img2dataset plan test-plan demo test test-slow soak check
.DELETE_ON_ERROR:

install: $(VENV)/.installed

$(VENV)/.installed: requirements.txt pyproject.toml launch/accelerator.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rankclip_jax needs Python 3.11 or newer; found $$($(PYTHON) --version). Say: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@extra=$$(sh launch/accelerator.sh $(ACCELERATOR)) || exit 2; \
	  echo "installing for $${extra:-cpu}"; \
	  $(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt $${extra:+"jax[$$extra]"}
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

install-test: $(VENV)/.installed-test

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	@touch $@

# img2dataset needs versions of its own, and only downloads use it.
img2dataset: .venv-img2dataset/.installed

.venv-img2dataset/.installed:
	$(PYTHON) -m venv .venv-img2dataset
	.venv-img2dataset/bin/python -m pip install --quiet --disable-pip-version-check img2dataset==1.47.0
	@touch $@

# The compilers of GPUs and TPUs, gigabytes of them, for machines that have neither: python -m rankclip_jax.plan.
plan: .venv-plan/.installed

.venv-plan/.installed: requirements.txt requirements-test.txt pyproject.toml
	$(PYTHON) -m venv .venv-plan
	.venv-plan/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt "jax[cuda13]" libtpu
	.venv-plan/bin/python -m pip install --quiet --disable-pip-version-check pytest pytest-timeout pytest-xdist
	.venv-plan/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: install
	$(RUN) -m rankclip_jax.train --config configs/demo.py --workdir $(WORKDIR)
	$(RUN) -m rankclip_jax.report --workdir $(WORKDIR) --output $(WORKDIR)/report.html

test: install-test
	$(RUN) -m pytest -m "not slow"

test-slow: install-test
	$(RUN) -m pytest -m slow

test-plan: plan
	.venv-plan/bin/python -m pytest tests/planning -m planned

# Faults injected into runs of two processes, and the random generators of tests/fuzz, for MINUTES.
soak: install-test
	$(RUN) -m tests.soak --minutes $(MINUTES)

check: install-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
