# Each target does its own set-up, in virtual environments of its own: Python >= 3.11, gcc and make are enough.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
DOCS := .venv-docs
BIN := $(VENV)/bin
# A wheel belongs to the Python of its environment.
WHEEL := $(VENV)/wheel
# For `make wheels`
PYTHONS ?= $(shell for minor in 11 12 13 14; do command -v python3.$$minor; done)
SOURCES := $(shell find src cython_kernels -type f -not -name '*.pyc') CMakeLists.txt pyproject.toml README.md
PIP_OPTIONS := --quiet --disable-pip-version-check
# One core for what is timed, where the system can pin
PIN := $(shell command -v taskset >/dev/null 2>&1 && echo taskset -c $$(( $$(nproc) - 1 )))

.PHONY: help demo test test-lanes test-reliability test-peers test-mpi test-exhaustive test-interrupts soak fuzz sanitize test-clang test-emulated \
  bench bench-peers bench-growth bench-promises bench-init bench-tabular bench-exported bench-ranks bench-streams bench-lessons lint docs annotate wheel wheels clean

help:
	@sed -n 's/^## //p' Makefile

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fusegrad needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)

# The wheel is built once for each state of the sources, and installed: nothing runs from the source tree.
$(VENV)/installed: $(SOURCES) | $(BIN)/python
	rm -rf $(WHEEL) && mkdir -p $(WHEEL)
	$(BIN)/pip wheel $(PIP_OPTIONS) --config-settings=cmake.define.FUSEGRAD_WERROR=ON --no-deps --wheel-dir $(WHEEL) .
	$(BIN)/pip install $(PIP_OPTIONS) --force-reinstall --no-deps $(WHEEL)/*.whl
	$(BIN)/pip install $(PIP_OPTIONS) "$$(ls $(WHEEL)/*.whl)[test,plots,progress]"
	touch $@

## make demo             train the four networks on Auto MPG: a table and a picture
demo: $(VENV)/installed
	$(BIN)/python -m fusegrad demo --output build/fusegrad-demo.png

# Each instruction set that the processor has, by the name that caps it; one that offers no choice is called baseline.
ISAS = $(BIN)/python -c 'from fusegrad._engine.dispatch import supported_isas; print(*supported_isas())'
EACH_ISA = for isa in $$($(ISAS)); do \
  echo "=== $$isa"; case $$isa in baseline) unset FUSEGRAD_MAX_ISA;; *) export FUSEGRAD_MAX_ISA=$$isa;; esac;

# The tests that each instruction set runs
QUICK = not peers and not exhaustive and not reliability and not once and not mpi

## make test             build the wheel, install it, test it with each instruction set that the processor has, two at a time
test: $(VENV)/installed
	@isas=$$($(ISAS)) && echo "$$isas" | tr ' ' '\n' | xargs -P 2 -I {} sh -c 'test {} = baseline || export FUSEGRAD_MAX_ISA={}; \
	  report=$$($(BIN)/pytest -q -p no:cacheprovider -m "$(QUICK)" tests 2>&1); status=$$?; \
	  printf "=== %s\n%s\n" {} "$$report"; exit $$status'
	$(BIN)/pytest -q -m "once and not reliability and not peers" tests
	$(BIN)/pytest -q --benchmark-disable benchmarks
	$(BIN)/pytest -q --doctest-modules --pyargs fusegrad

## make test-lanes       the tests with each SIMD layout forced, wherever it can be used
test-lanes: $(VENV)/installed
	@$(EACH_ISA) for lanes in features examples; do \
	  $(BIN)/pytest -q -m "not peers and not exhaustive and not once and not mpi" --benchmark-disable --lanes $$lanes tests || exit 1; done; done

## make test-reliability forks, kills, Ctrl-C, refused memory, leaks, arrays drawn at random: some minutes
test-reliability: $(VENV)/installed
	$(BIN)/pytest -q -m reliability tests

## make test-peers       compare with PyTorch, JAX and scikit-learn; fits on dask and ray; in an environment of their own
test-peers: $(PEERS)/installed
	$(PEERS)/bin/pytest -q -m peers tests

## make test-mpi         one network trained by 1, 2, 3 and 4 processes, with the bits of one
test-mpi: $(VENV)/installed
	$(BIN)/pip install $(PIP_OPTIONS) "$$(ls $(WHEEL)/*.whl)[mpi]"
	$(BIN)/pytest -q -m mpi tests

$(PEERS)/installed: $(VENV)/installed
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install $(PIP_OPTIONS) torch==2.13.0
	$(PEERS)/bin/pip install $(PIP_OPTIONS) --force-reinstall --no-deps $(WHEEL)/*.whl
	$(PEERS)/bin/pip install $(PIP_OPTIONS) "$$(ls $(WHEEL)/*.whl)[test,peers]"
	touch $@

## make test-exhaustive  what takes minutes: all 2^32 floats through sigmoid and tanh, each instruction set
test-exhaustive: $(VENV)/installed
	@$(EACH_ISA) $(BIN)/pytest -q -s -m exhaustive tests || exit 1; done

## make soak             random networks against the NumPy reference, forks and saves: MINUTES=30, SEED=
soak: $(VENV)/installed
	$(BIN)/python -W ignore tests/reliability/soak.py $(or $(MINUTES),30) $(SEED)

## make fuzz             coverage-guided, over load and the validation of arrays: MINUTES=30 (half an hour each)
fuzz: $(VENV)/installed
	$(BIN)/pip install $(PIP_OPTIONS) atheris
	$(BIN)/python tests/reliability/fuzz.py load $(or $(MINUTES),30)
	$(BIN)/python tests/reliability/fuzz.py arrays $(or $(MINUTES),30)

## make test-interrupts  a thousand interrupts of each call, thread count and instruction set: an hour
test-interrupts: $(VENV)/installed
	@$(EACH_ISA) INTERRUPTS=1000 $(BIN)/pytest -q -k at_any_moment tests/reliability/test_interrupts.py || exit 1; done

## make sanitize         the tests under the address, undefined-behaviour and thread sanitizers (needs clang and its OpenMP)
sanitize:
	PYTHON=$(PYTHON) bash tests/reliability/sanitize.sh

## make test-clang       the kernels built by clang (CLANG=clang-19, or that of ziglang), and their tests
test-clang:
	PYTHON=$(PYTHON) bash tests/clang.sh

## make test-emulated    the tests on emulated processors: without AVX-512, without AVX, aarch64 (needs qemu-user)
test-emulated: $(VENV)/installed
	bash tests/reliability/emulate.sh

## make bench            time the kernels and the steps beside the NumPy reference, pinned to one core
bench: $(VENV)/installed
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(PIN) $(BIN)/python benchmarks/table.py

## make bench-peers      time everything beside NumPy, PyTorch, JAX, scikit-learn and the limits of the machine (some minutes)
bench-peers: $(PEERS)/installed
	$(PEERS)/bin/python benchmarks/peers --output build/peers

## make bench-growth     how the cost of a step grows with examples, width, depth, threads: a picture
bench-growth: $(VENV)/installed
	$(BIN)/python benchmarks/growth.py --output build/growth.png

## make bench-promises   what the promises of docs/promises.md cost
bench-promises: $(VENV)/installed
	OMP_NUM_THREADS=1 $(PIN) $(BIN)/python benchmarks/promises.py
	$(BIN)/python benchmarks/neighbours.py

## make bench-tabular    errors of the recipe for tables beside plain networks and boosted trees, on ten data sets
bench-tabular: $(PEERS)/installed
	OMP_NUM_THREADS=1 $(PIN) $(PEERS)/bin/python benchmarks/tabular.py
	OMP_NUM_THREADS=1 $(PIN) $(PEERS)/bin/python benchmarks/recipe.py

## make bench-exported   one example in exported C, beside the network, its predictor and onnxruntime
bench-exported: $(PEERS)/installed
	OMP_NUM_THREADS=1 $(PIN) $(PEERS)/bin/python benchmarks/exported.py

## make bench-ranks      one network trained by two ranks, beside one process; what a model predicts for more
bench-ranks: $(VENV)/installed
	$(BIN)/pip install $(PIP_OPTIONS) "$$(ls $(WHEEL)/*.whl)[mpi]"
	$(BIN)/mpiexec -n 2 $(BIN)/python benchmarks/ranks.py --predict

## make bench-streams    fits of data that are read in blocks, beside the same data in memory
bench-streams: $(VENV)/installed
	$(BIN)/python benchmarks/streams.py

## make bench-lessons    how long each picture of the lessons takes to compute
bench-lessons: $(VENV)/installed
	$(PIN) $(BIN)/python benchmarks/lessons.py

## make bench-init       which initial weights train best, for each activation: the tables of docs/initial-weights.md
bench-init: $(VENV)/installed
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 nice -n 10 $(BIN)/python benchmarks/initial_weights.py

## make lint             ruff, cython-lint, mypy, stubtest, the direction of imports
lint: $(VENV)/linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint cython_kernels
	cd build && ../$(BIN)/mypy --config-file ../pyproject.toml
	cd build && ../$(BIN)/stubtest --mypy-config-file ../pyproject.toml --allowlist ../tests/stubtest_allowlist.txt fusegrad._engine.compiled
	cd build && ../$(BIN)/lint-imports ../pyproject.toml

$(VENV)/linters: $(VENV)/installed
	$(BIN)/pip install $(PIP_OPTIONS) "$$(ls $(WHEEL)/*.whl)[dev]"
	touch $@

## make docs             the site, with its lessons, in build/docs; warnings are errors
docs: $(DOCS)/installed
	rm -rf build/docs docs/generated docs/gallery
	$(DOCS)/bin/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo build/docs/index.html

$(DOCS)/installed: $(VENV)/installed
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install $(PIP_OPTIONS) --force-reinstall --no-deps $(WHEEL)/*.whl
	$(DOCS)/bin/pip install $(PIP_OPTIONS) "$$(ls $(WHEEL)/*.whl)[docs]"
	touch $@

## make annotate         Cython's own view of the kernels: yellow lines call Python
annotate: $(VENV)/linters
	mkdir -p annotate
	$(BIN)/cython -3 -a -I cython_kernels -o annotate/kernels.c cython_kernels/kernels.pyx
	@echo annotate/kernels.html

## make wheel            a wheel for other machines (manylinux), tried in an empty environment without a compiler
wheel: $(VENV)/linters
	rm -rf $(VENV)/repaired
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/repair_wheel.py $(VENV)/repaired $(WHEEL)/*.whl
	$(BIN)/python tests/try_wheel.py $(VENV)/repaired/*.whl
	mkdir -p dist && mv $(VENV)/repaired/*.whl dist

## make wheels           make wheel for each Python that is found: PYTHONS="python3.11 python3.13"
wheels:
	for python in $(PYTHONS); do \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])') && \
	  $(MAKE) wheel PYTHON=$$python VENV=.venv-$$version || exit 1; done

clean:
	rm -rf build dist annotate $(VENV) $(PEERS) $(DOCS) .venv-clang .venv-3.*
