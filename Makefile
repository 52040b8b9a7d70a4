# Everything runs in .venv, which `make install` makes from requirements.lock, with this project in it (editable).
PYTHON ?= $(firstword $(shell command -v python3.11) $(shell command -v python3.12) python3)
BIN := .venv/bin
READY := .venv/.ready
# Processes of the tests; each has one thread.
JOBS ?= 2

.PHONY: install demo demo-smoke synth-demo synth-demo-smoke search-demo search-demo-smoke sweep test test-all test-slow test-slurm lint format docs dist help

help:
	@echo "make install    .venv with all packages and this project; TORCH=cpu: on Linux, without CUDA"
	@echo "make demo       draw scenes, train, test: the whole of it in minutes"
	@echo "make synth-demo  triplets from unlabelled scenes, and fits on them against fits on hand-made ones: half an hour"
	@echo "make search-demo  the search page on drawn scenes, with the model of the newest make demo if there is one"
	@echo "make sweep      what a sweep would run (FILE=experiments/sweeps/NAME.yaml)"
	@echo "make test       the tests;  make test-slow: those over 7 s;  make test-all: both"
	@echo "make test-slurm the tests of jobs, on a SLURM of one node that they start and stop (root installs it)"
	@echo "make docs       the documentation as a site, in site/: static files; make docs SERVE=1 shows it while you write"
	@echo "make dist       what a release publishes, in dist/: sdist and wheel, built and checked (CONTRIBUTING.md, Release)"
	@echo "make lint       ruff, import rules, dependencies, types;  make format: ruff format"

install: $(READY)

# TORCH is uv's name of a PyTorch build, such as cpu: PyTorch then comes from its own index, in its own version for that
# build, and the lock's CUDA packages and Triton stay out.
$(READY): requirements.lock pyproject.toml
	@echo "installs the packages of requirements.lock into .venv, up to 6.7 GB; this takes minutes and says when it is done"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip  # an environment made by uv has no pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
ifdef TORCH
	grep -vE '^(cuda|nvidia|triton)' requirements.lock > .venv/requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend=$(TORCH) -r .venv/requirements.txt
else
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
endif
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@
	@echo "done. Now: source .venv/bin/activate"

demo: $(READY)
	$(BIN)/python -m experiments.demo $(FLAGS)

# The same, much smaller: that it runs through, not that it learns.
demo-smoke: $(READY)
	$(BIN)/python -m experiments.demo --name=smoke --data.root=datasets/scenes-smoke \
	  --data.size.train_references=40 --data.size.references=6 --data.size.shared_references=6 \
	  --data.batch_size=32 --trainer.max_steps=10 --trainer.val_check_interval=5 $(FLAGS)

# Triplets from unlabelled scenes, how true they are, and fits on them, on hand-made ones and on both; FLAGS=--jobs=2.
synth-demo: $(READY)
	$(BIN)/python -m experiments.synth_demo $(FLAGS)

synth-demo-smoke: $(READY)
	$(BIN)/python -m experiments.synth_demo --out=runs/synth-demo-smoke --study=experiments/studies/synthesis_smoke.yaml \
	  --root=datasets/scenes-synth-smoke --size.train_references=20 --size.references=4 --size.shared_references=4 \
	  --unlabelled=datasets/scenes-unlabelled-smoke --unlabelled_references=6 --triplets=120 $(FLAGS)

# The search page on the val images of scenes, with the newest run of the demo, else with the small CLIP; FLAGS=--port=8000.
search-demo: $(READY)
	$(BIN)/python -m experiments.search.demo $(FLAGS)

# The same on a few scenes: one query over HTTP, then it stops.
search-demo-smoke: $(READY)
	$(BIN)/python -m experiments.search.demo --once=true --model=scenes-vit --out=runs/search-demo-smoke \
	  --root=datasets/scenes-search-smoke --size.train_references=1 --size.references=2 --size.shared_references=1 $(FLAGS)

# What a sweep would run, for example: make sweep FILE=experiments/sweeps/cirr_losses.yaml FLAGS="--count 3"
sweep: $(READY)
	$(BIN)/python -m experiments.sweep $(or $(FILE),experiments/sweeps/scenes_losses.yaml) $(FLAGS)

test: $(READY)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m "not slow"

# Both of them, collected once: what CI runs.
test-all: $(READY)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

test-slow: $(READY)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m slow

test-slurm: $(READY)
	$(BIN)/python -m pytest -q tests/slurm $(FLAGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Static files: any web server shows them.
docs: $(READY)
	$(BIN)/zensical $(if $(SERVE),serve,build --strict)

# What a release publishes. Both tools run in environments of their own, which uv makes from the package index.
dist: $(READY)
	rm -rf build dist
	$(BIN)/uv tool run --from build==1.6.1 python -m build
	$(BIN)/uv tool run twine==7.0.0 check --strict dist/*
