# Everything a person does here. `make demo` and `make test` need python3 (3.11 or newer) and nothing else.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PIP_OPTIONS ?=
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip --disable-pip-version-check install -qq $(PIP_OPTIONS) -c constraints.txt

.PHONY: demo test lint types tests test-pages test-http test-torchvision test-s3 smoke storm bench docs format clean

demo: $(VENV)/workers.installed  ## Environment, a cache of 300 scenes, three answers.
	$(BIN)/vlq demo

test: lint types tests test-http test-torchvision  ## Everything that must hold.

lint: $(VENV)/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.installed
	$(BIN)/mypy

tests: $(VENV)/dev.installed
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

test-pages: $(VENV)/dev.installed  ## Of the tests those alone that look at pages in a browser.
	$(BIN)/python -m pytest tests/service/test_*_browser.py

test-http: $(VENV)/dev.installed  ## The client's tests again, asked of a server over HTTP, with fewer random examples.
	$(BIN)/python -m pytest --door http --examples 0.1 tests/query

# In a folder of its own: where torchvision is, transformers imports it, and the package index has it for CUDA alone.
TORCHVISION = build/torchvision
$(TORCHVISION)/installed: constraints.txt $(VENV)/dev.installed
	$(INSTALL) --no-deps --upgrade --target $(TORCHVISION) torchvision timm
	touch $@

test-torchvision: $(TORCHVISION)/installed  ## Models whose images only torchvision processes.
	PYTHONPATH=tests/torchvision:$(TORCHVISION) $(BIN)/python -m pytest tests/workers/models/test_torchvision.py

test-s3: $(VENV)/dev.installed  ## The stores' tests and a whole run against a real S3 server, Ceph's, of its own.
	$(BIN)/python tests/stores/radosgw.py $(BIN)/python -m pytest tests/stores -k 'radosgw or azurite'

smoke: $(VENV)/dev.installed  ## A run on a cluster of four Ray nodes, all on this machine.
	$(BIN)/vlq demo > /dev/null
	PATH="$(CURDIR)/$(BIN):$$PATH" deploy/smoke.sh ~/.cache/vlq/demo/scenes workers/demo/model

storm: $(VENV)/dev.installed  ## Every fault that a run is to survive, in full counts; some hours. SEED=1: another one.
	$(BIN)/python -m tests.storm --seed $(or $(SEED),0)

bench: $(VENV)/dev.installed  ## Every figure that the documentation states.
	$(BIN)/python -m benchmarks

# What the tests need has what the documentation needs: one look at the package index is enough.
docs: $(firstword $(wildcard $(VENV)/dev.installed) $(VENV)/docs.installed)  ## The documentation as pages: build/docs/index.html
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs

format: $(VENV)/dev.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch comes first: without a GPU its CPU build is enough, which PyTorch's own index has. Where that index is out of
# reach, the second line takes what the machine's package index offers.
TORCH = $(shell grep '^torch==' constraints.txt)
$(VENV)/torch.installed: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "VLQ needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	command -v nvidia-smi > /dev/null \
	  || $(INSTALL) --retries 0 --timeout 10 '$(TORCH)' \
	       --index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple 2> /dev/null \
	  || $(INSTALL) '$(TORCH)'
	touch $@

$(VENV)/%.installed: $(VENV)/torch.installed pyproject.toml
	$(INSTALL) -e '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
