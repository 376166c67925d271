# Everything a fresh machine needs: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
BUILD ?= build
MODEL ?= smollm2-135m
PROMPT ?= Explain in two sentences why the sky is blue.
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)

# GPUs that the wheel and the CUDA tests are compiled for, where there is an nvcc: `make demo IMP_CUDA_ARCHITECTURES=89`.
IMP_CUDA_ARCHITECTURES ?= 90a;120a

# What the installed package is made of; the stamps below are older than any of them when a rebuild is due.
SOURCES := $(shell git ls-files 2>/dev/null -- cmake cpp cuda python CMakeLists.txt pyproject.toml README.md)

.PHONY: FORCE demo test install test-cpp test-python lint format types tidy check asan bench cpu-build gpu-compiler gpu-build gpu-test gpu-sanitize gpu-bench clean help

demo: install  ## build, install, fetch a small model and let it answer PROMPT="..."
	@$(BIN)/imp pull $(MODEL)
	@$(BIN)/imp run $(MODEL) "$(PROMPT)" --stats

test: test-cpp test-python  ## build everything and run the C++ and the Python tests

install: $(VENV)/.installed  ## build the wheel and install it into .venv

$(VENV)/.created:
	@python=$$(sh tools/find_python.sh) && echo "imp: using $$python" && "$$python" -m venv $(VENV)
	@touch $@

# The wheel is built in $(BUILD)/release with the tools of the virtual environment, so that the C++ tests can be added to the
# same build afterwards and nothing is compiled twice.
$(VENV)/.build-tools: $(VENV)/.created pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check cmake ninja "nanobind>=2.4" "scikit-build-core>=0.11"
	@touch $@

# Another list of GPUs is another wheel.
$(VENV)/.architectures: $(VENV)/.created FORCE
	@echo "$(IMP_CUDA_ARCHITECTURES)" | cmp -s - $@ || echo "$(IMP_CUDA_ARCHITECTURES)" >$@
FORCE:

$(VENV)/.installed: $(VENV)/.build-tools $(VENV)/.architectures $(SOURCES)
	@echo "imp: building the wheel (a few minutes)"
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation \
	  --config-settings=build-dir=$(BUILD)/release --config-settings=cmake.define.IMP_BUILD_TESTS=OFF \
	  "--config-settings=cmake.define.IMP_CUDA_ARCHITECTURES=$(IMP_CUDA_ARCHITECTURES)" .
	@touch $@

$(VENV)/.test-tools: $(VENV)/.created pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $$($(BIN)/python tools/extra_requirements.py test)
	@touch $@

$(VENV)/.dev-tools: $(VENV)/.created pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $$($(BIN)/python tools/extra_requirements.py dev)
	@touch $@

test-cpp: install
	@doctest=$$(sh tools/get_doctest.sh) && PATH="$(abspath $(BIN)):$$PATH" && export PATH && \
	  cmake -DIMP_BUILD_TESTS=ON -DIMP_DOCTEST_INCLUDE="$$doctest" $(BUILD)/release >$(BUILD)/configure.log 2>&1 \
	  || { cat $(BUILD)/configure.log; exit 1; }
	@PATH="$(abspath $(BIN)):$$PATH" cmake --build $(BUILD)/release --parallel $(JOBS)
	@PATH="$(abspath $(BIN)):$$PATH" ctest --test-dir $(BUILD)/release --output-on-failure --parallel $(JOBS) --no-tests=error

# Tests on real text want the small model; without a network they are skipped, and say so.
test-python: install $(VENV)/.test-tools
	@$(BIN)/imp pull --quiet $(MODEL) || echo "imp: $(MODEL) could not be fetched; tests that need it will be skipped"
	@$(BIN)/python -m pytest

lint: $(VENV)/.dev-tools  ## ruff and clang-format, without changing anything
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@git ls-files '*.cpp' '*.h' '*.c' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror

format: $(VENV)/.dev-tools  ## reformat everything
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .
	@git ls-files '*.cpp' '*.h' '*.c' '*.cu' '*.cuh' | xargs $(BIN)/clang-format -i

types: $(VENV)/.dev-tools install  ## mypy --strict over the public package
	@$(BIN)/mypy

tidy: $(VENV)/.created  ## the rules of docs/architecture.md that a script can check
	@$(BIN)/python tools/tidy.py

check: test lint types tidy cpu-build  ## what CI runs

asan: $(VENV)/.build-tools  ## the C++ tests under AddressSanitizer and UBSan
	@doctest=$$(sh tools/get_doctest.sh) && export PATH="$(abspath $(BIN)):$$PATH" && \
	  cmake --preset asan -DIMP_DOCTEST_INCLUDE="$$doctest" && cmake --build --preset asan && ctest --preset asan

bench: install  ## prompt processing and generation speed of MODEL, as llama-bench prints it
	@$(BIN)/imp bench $(MODEL)

cpu-build: $(VENV)/.build-tools  ## the build of a machine without nvcc: compiles with the benchmarks, refuses CUDA in words, runs a model
	@doctest=$$(sh tools/get_doctest.sh) && export PATH="$(abspath $(BIN)):$$PATH" && \
	  cmake --preset cpu -DIMP_DOCTEST_INCLUDE="$$doctest" >/dev/null && \
	  cmake --build --preset cpu --parallel $(JOBS) --target exec_test_no_cuda engine_test_engine benchmarks && \
	  ctest --preset cpu --no-tests=error -R "exec_test_no_cuda|engine_test_engine"

# All of one version: a newer part beside nvcc 13.0 does not fit it.
gpu-compiler: $(VENV)/.created  ## nvcc by pip into .venv, for a machine without a CUDA toolkit; the next install uses it
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  $(foreach part,cuda-nvcc cuda-crt nvvm cuda-cccl cuda-runtime,"nvidia-$(part)==13.0.*")
	@rm -f $(VENV)/.installed

gpu-build: $(VENV)/.build-tools  ## the CUDA tests, for IMP_CUDA_ARCHITECTURES
	@doctest=$$(sh tools/get_doctest.sh) && export PATH="$(abspath $(BIN)):$$PATH" && \
	  cmake -S . -B $(BUILD)/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DIMP_CUDA=ON -DIMP_BUILD_TESTS=ON \
	  "-DIMP_CUDA_ARCHITECTURES=$(IMP_CUDA_ARCHITECTURES)" -DIMP_DOCTEST_INCLUDE="$$doctest" && \
	  cmake --build $(BUILD)/gpu --target cuda_tests

gpu-test: gpu-build  ## the CUDA tests on this machine's GPU, into bench/results/gpu-test-<gpu>.json
	@$(BIN)/python tools/gpu_test.py $(BUILD)/gpu/tests

# The toolkit's own of CUDA 13.0 loses the device under racecheck where cuBLASLt uses clusters; 2026.4 does not.
$(VENV)/.sanitizer: $(VENV)/.created
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "nvidia-cuda-sanitizer-api>=13.5"
	@touch $@

gpu-sanitize: gpu-build $(VENV)/.sanitizer  ## the CUDA op tests under compute-sanitizer, into bench/results/gpu-sanitize-<gpu>.json
	@$(BIN)/python tools/gpu_test.py $(BUILD)/gpu/tests --sanitize --jobs $(JOBS)

MODELS ?= $(BUILD)/bench-models
LLAMA_BENCH ?=
$(VENV)/.bench-tools: $(VENV)/.created
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "gguf>=0.17"
	@touch $@

gpu-bench: install $(VENV)/.bench-tools  ## speed on this machine's GPU, beside LLAMA_BENCH=PATH, into bench/results/gpu-bench-<gpu>.json
	@mkdir -p $(MODELS)
	@$(BIN)/python tools/gpu_bench.py --models $(MODELS) $(if $(LLAMA_BENCH),--llama-bench $(LLAMA_BENCH))

clean:  ## remove what was built
	rm -rf $(BUILD) $(VENV) .deps dist

help:
	@sed -n 's/^\([a-z-]*\):.*##\(.*\)/  make \1\t\2/p' Makefile | expand -t 24
