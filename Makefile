# Targets: demo, test, test-slow, soak, plan, test-plan, check, docs, install, lock, img2dataset.
# Variables:
#   PYTHON       3.11 or newer
#   VENV         folder of the environment
#   WORKDIR      workdir of the demo
#   MINUTES      duration of the soak test
#   ACCELERATOR  auto, cpu, cuda12, cuda13 or tpu
#   LOCKED       1: the versions in constraints/; otherwise the newest
PYTHON ?= python3
VENV ?= .venv
ACCELERATOR ?= auto
WORKDIR ?= runs/demo
MINUTES ?= 30
RUN := $(VENV)/bin/python
PIP := -m pip install --quiet --disable-pip-version-check
MINOR = $$($(RUN) -c 'import sys; print(min(sys.version_info.minor, 12))')
CONSTRAINTS = $(if $(filter-out 0,$(LOCKED)),-c constraints/python3.$(MINOR).txt)
DONE := $(VENV)/.installed$(if $(filter-out 0,$(LOCKED)),-locked)

.PHONY: install install-test img2dataset plan test-plan demo test test-slow soak check docs lock
.DELETE_ON_ERROR:

install: $(DONE)

$(DONE): requirements.txt pyproject.toml launch/accelerator.sh $(if $(filter-out 0,$(LOCKED)),$(wildcard constraints/*.txt))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rankclip_jax needs Python 3.11 or newer; found $$($(PYTHON) --version). Use: make PYTHON=python3.12"; exit 2; }
	@echo "1 of 2: creating the environment $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@extra=$$(sh launch/accelerator.sh $(ACCELERATOR)) || exit 2; \
	  echo "2 of 2: installing JAX for $${extra:-cpu}, Flax, Optax, Orbax, Grain and their dependencies, 78 packages."; \
	  echo "        pip prints nothing for about a minute, or several with a slow network or CUDA"; \
	  $(RUN) $(PIP) $(CONSTRAINTS) -r requirements.txt $${extra:+"jax[$$extra]"}
	@$(RUN) $(PIP) --no-deps -e .
	@touch $@

install-test: $(DONE)-test

$(DONE)-test: $(DONE) requirements-test.txt
	@echo "installing the test dependencies, PyTorch included: several minutes without output"
	@$(RUN) $(PIP) $(CONSTRAINTS) -r requirements-test.txt
	@touch $@

# Locks the newest compatible versions. Run it once per Python version:
# make lock PYTHON=python3.11; make lock PYTHON=python3.13
lock:
	@echo "resolving compatible versions with pip: several minutes"
	@$(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python $(PIP) --dry-run --ignore-installed --report .venv-lock/report.json \
	  -r requirements.txt -r requirements-test.txt
	@.venv-lock/bin/python .ci/lock.py .venv-lock/report.json
	@rm -r .venv-lock

# img2dataset needs its own versions, and only downloads use it.
img2dataset: .venv-img2dataset/.installed

.venv-img2dataset/.installed:
	@echo "installing img2dataset into .venv-img2dataset: about a minute without output"
	@$(PYTHON) -m venv .venv-img2dataset
	@.venv-img2dataset/bin/python $(PIP) img2dataset==1.47.0
	@touch $@

# Installs the compilers for GPUs and TPUs (gigabytes) on machines without them, for python -m rankclip_jax.plan.
plan: .venv-plan/.installed

.venv-plan/.installed: requirements.txt requirements-test.txt pyproject.toml
	@echo "installing the compilers for GPUs and TPUs into .venv-plan (gigabytes): several minutes without output"
	@$(PYTHON) -m venv .venv-plan
	@.venv-plan/bin/python $(PIP) -r requirements.txt "jax[cuda13]" libtpu
	@.venv-plan/bin/python $(PIP) pytest pytest-timeout pytest-xdist
	@.venv-plan/bin/python $(PIP) --no-deps -e .
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

# Injects faults into runs of two processes and runs the random generators of tests/fuzz, for MINUTES.
soak: install-test
	$(RUN) -m tests.soak --minutes $(MINUTES)

check: install-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# Builds the documentation site in site/. A broken link is an error.
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

.venv-docs/.installed: requirements-docs.txt
	@echo "installing MkDocs into .venv-docs"
	@$(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python $(PIP) -r requirements-docs.txt
	@touch $@
