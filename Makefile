# From raw tables to a checkpoint. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
ROOT ?= runs
# It is quoted below, for folders with spaces, and the shell fills in no ~ there.
override ROOT := $(patsubst ~/%,$(HOME)/%,$(ROOT))
RECIPE ?= demo
STAGE ?= 1
TRAIN ?= $(ROOT)/$(RECIPE)-stage$(STAGE)
# Settings for the step at hand, as in: make data RECIPE=demo SET="select.keep='width >= 256'"
SET ?=
ACCELERATOR := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
UV := .venv/bin/uv
RUN := .venv/bin/fineloom
export OMP_NUM_THREADS ?= 2
# uv installs no bytecode: unless Python keeps what it compiles, each process of a test, of Ray and of vLLM compiles it all again.
unexport PYTHONDONTWRITEBYTECODE

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: .venv/ready .venv-vllm/ready  ## make both environments (the pipelines and trainer; the model server)

.venv/ready: manifests/env/main.txt pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info[:2] in ((3, 11), (3, 12)), f"Python 3.11 or 3.12 is needed, this is {sys.version}"'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	test -x $(UV) || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(UV) pip sync --quiet --python .venv/bin/python manifests/env/main.txt
	$(UV) pip install --quiet --python .venv/bin/python --no-deps --editable .
	touch $@

.venv-vllm/ready: manifests/env/vllm-$(ACCELERATOR).txt .venv/ready
	$(UV) venv --quiet --allow-existing --python .venv/bin/python .venv-vllm
	$(UV) pip sync --quiet --python .venv-vllm/bin/python manifests/env/vllm-$(ACCELERATOR).txt
	touch $@

demo: setup  ## the whole way on this machine: tables, shards, both training stages, evaluation, report
	.venv/bin/python -m demo.way

data: .venv/ready  ## run a recipe up to its shards (RECIPE=, ROOT=, SET=)
	$(RUN) run '$(RECIPE)' $(SET) --root '$(ROOT)'

# What the cluster's machines call the command, and where their Ray answers: the dashboard's address, not the client's.
ADDRESS ?= http://127.0.0.1:8265
REMOTE ?= fineloom
SUBMITS := $(patsubst manifests/recipes/%.yaml,submit-%,$(wildcard manifests/recipes/*.yaml))

submit: .venv/ready  ## run a recipe on a Ray cluster, also as submit-RECIPE (ADDRESS=, ROOT= as its machines see it, SET=, REMOTE=)
$(SUBMITS): .venv/ready
$(SUBMITS): override RECIPE = $(@:submit-%=%)
submit $(SUBMITS):
	@[[ '$(ROOT)' == /* || '$(ROOT)' == *://* ]] || { echo "ROOT=$(ROOT): give the place as the cluster's machines see it, /… or s3://…" >&2; exit 2; }
	@[[ '$(RECIPE)' == /* || '$(RECIPE)' != *.y*ml ]] || { echo "RECIPE=$(RECIPE): give the file as the cluster's machines see it, /…" >&2; exit 2; }
	.venv/bin/ray job submit --address $(ADDRESS) -- $(REMOTE) run '$(RECIPE)' $(SET) --root '$(ROOT)' --address auto

train: .venv/ready  ## train one stage on a recipe's shards (RECIPE=, STAGE=1|2, SET=)
	.venv/bin/python -m fgclip2_train train stage=$(STAGE) data.shards='$(ROOT)/$(RECIPE)/shards/*.tar' out='$(TRAIN)' $(SET)

eval: .venv/ready  ## evaluate a checkpoint (TRAIN=, SHARDS=)
	.venv/bin/python -m fgclip2_train eval --checkpoint '$(TRAIN)' --shards '$(or $(SHARDS),$(error give SHARDS=, as in SHARDS=runs/held-out/*.tar))' --json '$(TRAIN)/eval.json'

serve: setup  ## start vLLM with MODEL= under NAME= on this machine, or adopt the one that runs
	$(RUN) serve start $(or $(MODEL),$(error give MODEL=, a folder or a name on the hub)) $(if $(NAME),--name $(NAME))

report: .venv/ready  ## write the report of a run (RECIPE=, ROOT=)
	$(RUN) report '$(RECIPE)' $(SET) --root '$(ROOT)'

lint: .venv/ready  ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

browser:  ## Debian's Chromium for the tests of the pages, where it is missing and may be installed
	@for name in "$$FINELOOM_CHROMIUM" chromium chromium-browser google-chrome; do command -v "$$name" >/dev/null && exit 0; done; \
	 if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	   { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; } >/dev/null && exit 0; fi; \
	 echo "no Chromium here (apt install chromium): the tests of the pages in a browser are skipped"

# The workers have more threads than there are cores: one that spins while it waits for another takes a core from a third.
test: export OMP_WAIT_POLICY = passive
test: setup browser lint  ## every test, from a fresh clone
	.venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 25

bench: .venv/ready  ## the benchmarks of docs/benchmarks.md in small (BASE_URL=, MODEL= of a served model, ONLY="engine dedup")
	.venv/bin/python -m benchmarks $(if $(BASE_URL),--base-url $(BASE_URL)) $(if $(MODEL),--model $(MODEL)) $(if $(ONLY),--only $(ONLY))

bench-quality: .venv/ready  ## how often what is said is true, on unseen scenes (SEED=, SCENES=, SIZES=, BACKGROUNDS=, BASE_URL=, MODEL=)
	.venv/bin/python -m benchmarks.quality $(if $(SEED),--seed $(SEED)) $(if $(SCENES),--scenes $(SCENES)) $(if $(SIZES),--sizes $(SIZES)) \
	  $(if $(BACKGROUNDS),--backgrounds $(BACKGROUNDS)) $(if $(BASE_URL),--base-url $(BASE_URL)) $(if $(MODEL),--model $(MODEL))

screenshots: .venv/ready  ## renew the pictures of the pages in docs/images (wants Chromium)
	.venv/bin/python tests/screenshots.py

docs: .venv/ready  ## build the documentation as a site, build/site/index.html
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict --config-file manifests/mkdocs.yml

SEEDS ?= 200

chaos: .venv/ready  ## runs through faults at seeded instants on a Ray cluster (SEEDS=); goes on where it was stopped
	.venv/bin/python -m benchmarks.chaos --seeds $(SEEDS)

clean:  ## remove what runs made (ROOT=); environments stay
	rm -rf -- '$(ROOT)'

.PHONY: browser chaos help setup demo data submit $(SUBMITS) train eval serve report lint test bench bench-quality docs screenshots clean
