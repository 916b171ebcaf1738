# Everything a developer does, each target with all its own set-up: see `make help`.
#
# fastfc is installed into .venv as a user would install it, not in place: what is tested and measured is what a wheel
# contains. It is installed anew only when a source has changed. Python runs with -I, because the folder fastfc/ beside
# this file has no compiled module and would otherwise be imported instead.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
STAMP := $(VENV)/stamp-
ARGS ?=

SOURCES := setup.py pyproject.toml $(wildcard MANIFEST.in) $(shell find fastfc src_c -type f \
	\( -name '*.py' -o -name '*.py[xdi]' -o -name '*.pxi' -o -name '*.[ch]' -o -name '*.inc' -o -name '*.def' \))

.DEFAULT_GOAL := help
.PHONY: help test fuzz test-torch test-isa test-c test-aarch64 test-x86 test-asan test-tsan bench bench-quick benchmarks lint clean check-tools
.DELETE_ON_ERROR:

help:  ## this list
	@echo "fastfc: fully connected layers on CPUs. Each target does its own set-up in $(VENV)."
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'
	@echo "ARGS goes to the command, for example: make bench ARGS='--shapes 3072x768 --batches 1,16 --no-digits'"

test: $(STAMP)test  ## run the tests (ARGS: options of pytest, paths as seen from tests/)
	cd tests && ../$(BIN)/python -I -m pytest $(ARGS)

fuzz: $(STAMP)test  ## fuzzed calls of the public functions (ARGS='--calls 1000000 --seed 1', or '--seed 1 --case 4711')
	cd tests && ../$(BIN)/python -I fuzz.py $(ARGS)

test-torch:  ## what compares with torch, and onnx's own tests, in an environment of its own, .venv-torch
	@$(MAKE) --no-print-directory VENV=.venv-torch .venv-torch/stamp-torch
	cd tests && ../.venv-torch/bin/python -I -m pytest -k "torch or onnx" $(ARGS)

test-c:  ## the C library's own tests, every target against the portable one
	$(MAKE) --no-print-directory -C tests/c test

test-aarch64:  ## the same for AArch64, cross-compiled and run under emulation
	$(MAKE) --no-print-directory -C tests/c test-aarch64

# The tests range over targets where a kernel is in question; everything else runs on the target in use. The portable one is
# slow, and gets what is small.
ISAS ?=
SMALL := test_runtime.py test_linear.py test_backward.py test_pack.py test_sparse.py test_layers.py test_losses.py test_optim.py
test-isa: $(STAMP)test  ## all tests with each target of this CPU in use in turn, a small part with `scalar` (ISAS: which)
	cd tests && for isa in $(or $(ISAS),$$(../$(BIN)/python -I -c 'import fastfc; print(*fastfc.available_isas()[1:])')); do \
	    echo "FASTFC_ISA=$$isa"; \
	    FASTFC_ISA=$$isa ../$(BIN)/python -I -m pytest $$([ $$isa != scalar ] || echo "$(SMALL)") $(ARGS) || exit 1; \
	done

test-x86: $(STAMP)test  ## the built library on x86-64 CPUs of other kinds, emulated by qemu-user
	cd tests && ../$(BIN)/python -I -m pytest emulated.py $(ARGS)

# A library of its own, found before the installed one; the sanitizers' run-time libraries have to be the first to load.
# The interpreter and numpy leave memory to the system when they end, so leaks are looked for in C (`make -C tests/c`).
SANITIZED := build/sanitized
# Left out: what builds, disassembles, patches or takes memory from the library, and what runs none of it.
NOT_SANITIZED := $(patsubst %,--ignore=test_%.py,allocation bench build examples fuzz guarantees instructions large selftest workspace)
test-asan: $(STAMP)test  ## the tests under AddressSanitizer and UndefinedBehaviorSanitizer (half an hour)
	$(MAKE) --no-print-directory -C tests/c test-asan
	rm -rf build/lib* build/bdist*
	FASTFC_SANITIZE=address,undefined $(PIP) install --no-deps --upgrade --target $(SANITIZED) .
	rm -rf build/lib* build/bdist*
	cd tests && LD_PRELOAD="$$($(or $(CC),gcc) -print-file-name=libasan.so) $$($(or $(CC),gcc) -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0 ../$(BIN)/python -I -c \
	    'import sys; sys.path.insert(0, "$(abspath $(SANITIZED))"); import pytest; sys.exit(pytest.main(sys.argv[1:]))' \
	    -m "not measures_memory" $(NOT_SANITIZED) $(ARGS)

test-tsan:  ## the C library under many callers at once, under ThreadSanitizer
	$(MAKE) --no-print-directory -C tests/c test-tsan

bench: $(STAMP)bench  ## the main job: train, infer, measure against rivals and the machine (ARGS='--help' lists options)
	$(BIN)/python -I -m fastfc bench $(ARGS)

bench-quick: $(STAMP)bench  ## the same within a minute
	$(BIN)/python -I -m fastfc bench --quick $(ARGS)

benchmarks: $(STAMP)test  ## the same cases under pytest-benchmark
	cd benchmarks && ../$(BIN)/python -I -m pytest --benchmark-only $(ARGS)

lint: $(STAMP)lint  ## ruff, and all C sources with -Wall -Wextra -Werror
	$(BIN)/ruff check .
	@$(MAKE) --no-print-directory FASTFC_WERROR=1 wheel

clean:  ## remove .venv, builds and results
	rm -rf $(VENV) .venv-torch build dist results *.egg-info fastfc/*.so .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A Debian machine can lack any of these; each message names the package that brings it.
define CHECKS
import os, shutil, subprocess, sys, sysconfig
missing = []
try:
    import ensurepip, venv
except ImportError:
    missing.append("Python's venv module: apt-get install python3-venv")
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    missing.append("Python's headers: apt-get install python3-dev")
compiler = (os.environ.get("CC") or "gcc").split()
if not shutil.which(compiler[0]):
    missing.append(compiler[0] + ": apt-get install gcc libc6-dev")
else:
    program = b"#include <stdlib.h>\nint main(void) { return 0; }\n"
    if subprocess.run([*compiler, "-x", "c", "-fsyntax-only", "-"], input=program, capture_output=True).returncode:
        missing.append("the C library's headers: apt-get install libc6-dev")
if sys.version_info < (3, 10):
    missing.append("Python 3.10 or newer (this is %d.%d): make PYTHON=python3.12 takes another" % sys.version_info[:2])
if missing:
    sys.exit("\n  ".join(["to build fastfc this machine lacks (packages as Debian names them)", *missing]))
endef
export CHECKS

check-tools:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "to build fastfc this machine lacks Python 3.10 or newer: apt-get install python3 python3-venv python3-dev"; \
	  exit 1; } >&2
	@$(PYTHON) -c "$$CHECKS"

$(STAMP)venv:
	@$(MAKE) --no-print-directory check-tools
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Built once for all environments of one Python, by one compiler and with the same options. build/lib would carry modules that
# are gone by now into the wheel.
WHEEL := build/wheel-$(shell { $(firstword $(wildcard $(BIN)/python) $(PYTHON)) -VV; \
	echo '$(CC) $(FASTFC_NO_OPENMP) $(FASTFC_WERROR)'; } 2>/dev/null | cksum | cut -d ' ' -f 1)
.PHONY: wheel
wheel: $(WHEEL)/stamp
$(WHEEL)/stamp: $(SOURCES) | $(STAMP)venv
	@rm -rf build/lib* build/bdist* $(WHEEL)
	$(PIP) wheel --no-deps --wheel-dir $(WHEEL) .
	@touch $@

# Forced, because pip takes a wheel of the same version for the same; and then what it depends on.
$(STAMP)fastfc: $(WHEEL)/stamp
	$(PIP) install --no-deps --force-reinstall $(WHEEL)/*.whl
	$(PIP) install $(WHEEL)/*.whl
	@touch $@

# fastfc is there already, so this only adds what the extra names.
$(STAMP)test $(STAMP)bench: $(STAMP)%: $(STAMP)fastfc
	$(PIP) install 'fastfc[$*]'
	@touch $@

# This version and no other: the tests compare numbers with it. torch's own module tests need expecttest.
$(STAMP)torch: $(STAMP)test
	$(PIP) install torch==2.13.0 expecttest onnx
	@touch $@

$(STAMP)lint: pyproject.toml | $(STAMP)venv
	$(PIP) install ruff
	@touch $@
