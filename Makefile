# Every command of the project; `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
SOURCES := s2landcover_plugin/engine s2landcover_plugin/*.py algorithms demo tests scripts bench
LIVE ?=

.PHONY: help setup demo test lint format test-pgstac bench bench-growth bench-answering screenshots package clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: .venv/.ready ## Install QGIS, GDAL, nginx (apt) and the pinned Python packages (.venv)

.venv/.ready: requirements-lock.txt scripts/setup.sh
	@scripts/setup.sh

demo: .venv/.ready ## Run the main job on a simulated area without internet; LIVE=1: on Earth Search
	@$(PYTHON) -m demo.run $(if $(LIVE),--live)

test: .venv/.ready ## Check the code and run the whole test suite
	@$(MAKE) --no-print-directory lint
	@$(PYTHON) -m pytest

lint: .venv/.ready ## Check style, layers and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

format: .venv/.ready ## Bring the code into the project's format
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

test-pgstac: .venv/.ready ## Search a pgstac server (PostgreSQL, installed by apt): query, sort and filter extensions
	@scripts/pgstac.sh $(PYTHON) -m pytest -m pgstac

bench: .venv/.ready ## Measure on a quarter of a tile against GDAL alone; FULL=1: a whole one; PEERS=1: other programs; REAL=folder of bands
	@$(PYTHON) -m bench.fulltile --size $(if $(FULL),10980,5490) $(if $(PEERS),--peers) $(if $(REAL),--real $(REAL))

bench-growth: .venv/.ready ## Time and memory against size and number of bands (docs/growth.png)
	@$(PYTHON) -m bench.growth

bench-answering: .venv/.ready ## How often progress moves, and how soon a run ends when it is stopped, on a whole tile
	@$(PYTHON) -m bench.answering

screenshots: .venv/.ready ## Pictures of the plugin in the real QGIS under Xvfb, into docs/
	@scripts/screenshots.sh

package: ## The plugin as a zip for QGIS (build/s2landcover_plugin.zip)
	@rm -rf build/package && mkdir -p build/package
	@tar -C . --dereference --exclude=__pycache__ --exclude='*.pyc' -cf - s2landcover_plugin | tar -C build/package -xf -
	@cp LICENSE requirements.txt CHANGELOG.md build/package/s2landcover_plugin/
	@python3 -c "import shutil; shutil.make_archive('build/s2landcover_plugin', 'zip', 'build/package')"
	@echo build/s2landcover_plugin.zip

clean: ## Remove what was built (not .venv)
	@rm -rf build .pytest_cache .mypy_cache .ruff_cache
