# make         this list
# make setup   a virtual environment with everything in it, and the C++ module
# make demo    swap a face into a real clip and show the result (does all set-up first)
# make test    the whole test suite (does all set-up first)
# make fast    the quick part of the tests
# make exhaustive  the tests that take many minutes
# make fuzz MINUTES=60  mutated inputs for every parser; what breaks one is kept and replayed
# make lint    ruff, mypy (benchmarks too), clang-format
# make bench   kernel and pipeline benchmarks, results under benchmarks/results/
# make gate    fail when a kernel's lead over its peer shrank since it was last kept
# make native  rebuild the C++ module in place
# make aot     every GPU kernel compiled for six GPU generations, without a GPU
# make format  ruff and clang-format over everything
# make clean   remove what was built, but for the virtual environment
# make sanitize  the kernels' tests on a module built with the address and UB sanitizers
VENV ?= .venv
PY := $(VENV)/bin/python
CPP := $(wildcard csrc/*.cpp csrc/*.h)

.PHONY: help setup native demo test fast exhaustive fuzz aot sanitize lint format bench gate clean

help:
	@sed -n 's/^# \(make\)/\1/p' $(firstword $(MAKEFILE_LIST))

$(VENV)/.stamp: pyproject.toml setup.py constraints.txt
	test -x $(PY) || python3 -m venv $(VENV)
	ACCEL_SKIP_NATIVE=1 $(PY) -m pip install -q -c constraints.txt -e '.[dev]'
	$(PY) -m pip install -q 'setuptools>=77' 'nanobind>=3.1,<4'
	touch $@

setup: $(VENV)/.stamp native

# A machine without a compiler goes on without the module: numba serves (see `accel doctor`).
build/.native: $(CPP) setup.py $(VENV)/.stamp
	mkdir -p build
	$(PY) setup.py -q build_ext --inplace
	touch $@

native: build/.native

demo: setup
	$(PY) -m accel demo

test: setup
	$(PY) -m pytest -q tests -m 'not exhaustive'

fast: setup
	$(PY) -m pytest -q tests -m 'not slow and not exhaustive'

exhaustive: setup
	$(PY) -m pytest -q tests -m exhaustive

MINUTES ?= 60
CORPUS ?= build/fuzz
TURN ?= 60
fuzz: setup
	$(PY) -m tests.fuzz.run --minutes $(MINUTES) --turn $(TURN) --corpus $(CORPUS) $(RECORD:%=--record %)

aot: setup
	$(PY) -m benchmarks.aot

sanitize: setup
	PYTHON=$(PY) sh csrc/sanitize.sh

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(CPP)

format: setup
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix -q .
	$(VENV)/bin/clang-format -i $(CPP)

gate: setup
	$(PY) -m benchmarks.gate

bench: setup
	$(PY) benchmarks/bench.py

clean:
	rm -rf build dist *.egg-info accel/*.so demo
