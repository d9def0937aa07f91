# Every command of the project. They all run in .venv/, which `make venv` makes from requirements.lock.
PY := .venv/bin/python
ARGS ?=
CODE := fleet device_client tests manage.py

.DEFAULT_GOAL := help
.PHONY: help venv demo serve test check fmt lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv:  ## make or refresh .venv/ (hashed lock, nothing to do when unchanged)
	@.ci/venv

demo: venv  ## a small fleet on this machine, the whole story (ARGS=--exit ends instead of staying up)
	@$(PY) -m fleet.demo $(ARGS)

serve: venv  ## the control plane with its own broker (ARGS=--lan lets other hosts in)
	@$(PY) manage.py up $(ARGS)

test: venv  ## every test; sets up what it needs, says what it cannot (ARGS="domain wire" picks tiers)
	@$(PY) -m tests.run $(ARGS)

check: venv  ## format, lint, types, import contracts, migrations, deploy check, docs, wheels
	@$(PY) -m tests.toolchain.check $(ARGS)

fmt: venv  ## format and apply safe fixes
	@$(PY) -m ruff format $(CODE)
	@$(PY) -m ruff check --fix $(CODE)

lock: venv  ## resolve requirements.lock anew (ARGS=--upgrade moves every pin)
	@.venv/bin/uv pip compile pyproject.toml device_client/pyproject.toml --all-extras --group dev \
		--universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
		--no-emit-package modelfleet-device --custom-compile-command "make lock" --quiet --output-file requirements.lock $(ARGS)

clean:  ## remove what tools and tests left (keeps .venv/ and the data in var/server)
	@rm -rf build dist var/tests var/screens .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find fleet device_client tests -name __pycache__ -prune -exec rm -rf {} +
