# A fresh machine needs Python 3.11 to 3.13, pip and make; everything else goes into .venv.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
# Huge pages for large temporary buffers: fewer page faults on a CPU.
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1
VENV := .venv
RUN := $(VENV)/bin/python
WORKDIR ?= runs/quickstart

LANDMARKS := .venv-landmarks
PLAN := .venv-plan
# MediaPipe, which finds the face mesh, is not made for Python 3.13.
LANDMARKS_PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)

.PHONY: quickstart test test-exhaustive landmarks plan benchmark-gpu lint format clean

quickstart: $(VENV)/.installed
	$(RUN) -m dfrec_jax.main --config=configs/quickstart.py --workdir=$(WORKDIR)
	$(RUN) -m dfrec_jax.main --config=configs/quickstart.py --workdir=$(WORKDIR) --mode=eval

test: $(VENV)/.installed-dev
	$(RUN) -m pytest $(ARGS)

# Every mesh shape, and several processes on this machine: a quarter of an hour more.
test-exhaustive: $(VENV)/.installed-dev
	$(RUN) -m pytest -n 0 -m exhaustive $(ARGS)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# An environment of its own: MediaPipe cannot be installed beside JAX.
landmarks: $(LANDMARKS)/.installed

$(LANDMARKS)/.installed:
	@test -n "$(LANDMARKS_PYTHON)" || { echo 'Python 3.9 to 3.12 is needed and none was found; name one: make landmarks LANDMARKS_PYTHON=...'; exit 1; }
	$(LANDMARKS_PYTHON) -m venv $(LANDMARKS)
	$(LANDMARKS)/bin/python -m pip install --quiet --disable-pip-version-check mediapipe==0.10.21
	@touch $@

# An environment of its own: TPU's compiler is 210 MB. Half an hour; what is done is not done again.
plan: $(PLAN)/.installed
	JAX_PLATFORMS=cpu $(PLAN)/bin/python -m dfrec_jax.benchmark --plan=all --config=configs/ffpp.py:fsdp=4 --batch=64

$(PLAN)/.installed: requirements.txt
	@test -n "$(PYTHON)" || { echo 'Python 3.11, 3.12 or 3.13 is needed and none was found; name one: make PYTHON=...'; exit 1; }
	$(PYTHON) -m venv $(PLAN)
	$(PLAN)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(PLAN)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps 'libtpu==0.0.42.*'
	@touch $@

# In under ten minutes, with whatever JAX and PyTorch the active environment has.
benchmark-gpu:
	python -m dfrec_jax.benchmark --config=configs/ffpp.py --suite=gpu --budget=540 --output=runs/benchmark-gpu

clean:
	rm -rf $(VENV) $(LANDMARKS) $(PLAN) runs

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo 'Python 3.11, 3.12 or 3.13 is needed and none was found; name one: make PYTHON=...'; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.installed
