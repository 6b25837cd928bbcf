# GNU make 3.81 or newer and any sh, on Linux, macOS and Windows. The work is done by Python scripts, which run without
# make too: see README.md. What the environment needs is decided by setup.py, not by a rule for a file: make would not
# see that the folder was moved, or that its Python is gone.

ifeq ($(OS),Windows_NT)
PYTHON = python
VENV_PYTHON = .venv/Scripts/python.exe
else
PYTHON = python3
VENV_PYTHON = .venv/bin/python
endif

# A Python named on the command line remakes an environment of another version; the default one takes what is there.
SETUP = $(PYTHON) scripts/setup.py $(if $(filter command%,$(origin PYTHON)),--same-python)
RUN_OPTIONS = $(if $(DATA),--data "$(DATA)") $(if $(RECIPE),--recipe "$(RECIPE)") $(if $(EPOCHS),--epochs "$(EPOCHS)")

.PHONY: help run test test-oldest test-newest test-colab test-browser test-experiments lab tensorboard experiments bench site translate setup dev constraints clean python
.DEFAULT_GOAL = help

help:
	@echo "make run          run the notebooks; RECIPE=classic EPOCHS=55 DATA=cifar10 change what they do"
	@echo "make test         run all tests, and all notebooks as tests"
	@echo "make test-oldest  the same with the oldest versions that pyproject.toml allows; make test goes back"
	@echo "make test-newest  the same with the newest versions of everything"
	@echo "make test-colab   run the notebooks as Colab would, with three versions of PyTorch; takes 8 GB more for a while"
	@echo "make lab          open the notebooks in JupyterLab; LANG=ko the Korean ones"
	@echo "make tensorboard  show the curves of the training runs"
	@echo "make experiments  train every run of results/ that is missing there; OPTIONS=-n only says which"
	@echo "make test-experiments  test that on the digits, in about 6 minutes"
	@echo "make bench        measure how fast this machine trains, in about 10 minutes"
	@echo "make site         build notebooks, README and reference into a site, build/site; RUN=runs/latest lets your network run in it"
	@echo "make translate    write the Korean pages, after a change of English text or of locale/ko/"
	@echo "make test-browser run the notebooks in JupyterLab and look through that site, in Chromium"
	@echo "make setup        only make the environment, which the others do first; PYTHON=python3.12 names another Python"
	@echo "make constraints  write constraints.txt anew: the newest of all that the pins of requirements.txt need; takes uv"
	@echo "make clean        remove the environment and caches, after asking; ALL=1 removes runs/ and datasets/ too"

run: setup
	@$(VENV_PYTHON) scripts/run_notebooks.py $(RUN_OPTIONS)

test: setup
	@$(VENV_PYTHON) -m pytest --nbval-lax

test-oldest: python
	@$(SETUP) --versions oldest
	@$(VENV_PYTHON) -m pytest --nbval-lax

test-newest: python
	@$(SETUP) --versions newest
	@$(VENV_PYTHON) -m pytest --nbval-lax
	@echo "Passed with these, which constraints.txt does not have (raise requirements.txt, then make constraints):" \
	  $$($(VENV_PYTHON) -m pip freeze --exclude-editable | tr -d '\r' | tr _ - | \
	    grep -ivxF "$$(sed 's/[^a-z0-9.=+-].*//' constraints.txt)")

test-experiments: dev
	@$(VENV_PYTHON) -m pytest experiments

test-colab: setup
	@$(VENV_PYTHON) -m pytest colab

test-browser: dev
	@$(VENV_PYTHON) -m pytest browser

lab: setup
	@$(VENV_PYTHON) -m jupyterlab --ServerApp.root_dir=. notebooks/$(if $(filter ko%,$(LANG)),ko/)01_data.ipynb

tensorboard: setup
	@$(VENV_PYTHON) -m tensorboard.main --logdir "$(or $(RUNS_ROOT),runs)"

# The default is one run after the other, with all cores; OPTIONS=-n says what is missing.
experiments: dev
	@$(VENV_PYTHON) -m snakemake -s experiments/Snakefile --cores all $(OPTIONS)

bench: setup
	@$(VENV_PYTHON) scripts/bench.py

# -E reads all pages each time: a page that is not read again is not warned of again.
site: dev
	@$(VENV_PYTHON) scripts/export_network.py build/site/_static/weights.js $(if $(RUN),"$(RUN)")
	@$(VENV_PYTHON) -m sphinx -q -E -W --keep-going -c docs -d build/doctrees . build/site
	@echo "Open build/site/index.html, or serve the folder: $(VENV_PYTHON) -m http.server -d build/site"

translate: setup
	@$(VENV_PYTHON) scripts/translate_pages.py

setup: python
	@$(SETUP)

dev: setup
	@$(VENV_PYTHON) -m pip install -q --disable-pip-version-check -r requirements-dev.txt -c constraints.txt

constraints:
	@command -v uv >/dev/null || { echo "Install uv first: https://docs.astral.sh/uv/"; exit 1; }
	@uv pip compile --quiet --universal --python-version 3.11 --upgrade --no-annotate --no-header \
	  requirements.txt requirements-dev.txt -o constraints.txt

clean: python
	@$(PYTHON) scripts/clean.py $(if $(ALL),--all) $(if $(YES),--yes)

python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no $(PYTHON) here. Install Python 3.11 or newer, or name yours: make run PYTHON=python3.12"; exit 1; }
