# Every command that people and CI run. Each does the set-up it needs first; a second call takes seconds.
#
#   PYTHON=python3.11   the interpreter that .venv is made from
#   TORCH_INDEX=URL     package index to take torch from; without it, a machine without an NVIDIA driver takes torch's own
#                       CPU builds, unless pip's settings name another source
#   PYTHONS="3.10 3.12 3.13"   what `make pythons` tests, where they are installed
#   SOAK_MINUTES=10     how long `make soak` sends images
#   DEMO_ARGS=...  BENCH_ARGS=...  PYTEST_ARGS=...   passed on

SHELL := /bin/bash
PYTHON ?= python3
TORCH_INDEX ?=
PYTHONS ?= 3.10 3.12 3.13
SOAK_MINUTES ?= 10
DEMO_ARGS ?=
BENCH_ARGS ?= --quick
PYTEST_ARGS ?=

PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
ROS := . tools/ros_env.sh &&
SETUP := .venv/.setup-done
ROBOT := .venv-robot/.setup-done
WS := ros2_ws/install/.built
# Python files of the node need no rebuild: --symlink-install links to them.
WS_SOURCES := $(shell find ros2_ws/src -type f -not -name '*.py[co]' -not -path '*/oat_perception/oat_perception/*' \
	-not -path '*.egg-info/*')

# `oat-evaluate --publish` writes docs/results, with figures aligned by column, and writes it anew: no hand formats it.
MARKDOWN := $(wildcard *.md docs/*.md docs/log/*.md ros2_ws/src/*/*.md)

# Packages with a benchmark: `python -m PACKAGE.bench`.
BENCHES := oat_runtime training policy oat_perception

.PHONY: help setup ws demo test soak fuzz robot pythons dist coverage lint format settings bench constraints clean
help: ## this list
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14
	@sed -nE 's/^#   ?/    /p' Makefile

setup: $(SETUP) ## make .venv with exact versions
ws: $(WS) ## build the ROS 2 workspace

demo: $(WS) ## the ROS graph on real images; ends by itself, writes out/demo/report.html. DEMO_ARGS=--robot: a robot's day
	$(ROS) $(if $(filter --robot,$(DEMO_ARGS)),. tools/vision_env.sh &&) python -m oat_perception.demo $(DEMO_ARGS)

test: $(WS) ## the unit tests, then the slow ones, then the ROS graph
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile -m "not ros and not slow" $(PYTEST_ARGS)
	$(PY) -m pytest -n auto --dist loadfile -m "not ros and slow" $(PYTEST_ARGS)
	$(ROS) python -m pytest -m "ros and not slow" $(PYTEST_ARGS)

soak: $(WS) ## the slow ROS tests: SOAK_MINUTES of images, fifty kills, thousands of overrides and damaged images
	$(ROS) SOAK_MINUTES=$(SOAK_MINUTES) python -m pytest -m "ros and slow" $(PYTEST_ARGS)

robot: $(ROBOT) $(WS) ## what a robot installs, without torch: its size, and the tests that need no torch
	@cat .venv-robot/sizes.txt
	OMP_NUM_THREADS=1 .venv-robot/bin/python -m pytest -n auto --dist loadfile -m "not ros and not slow" $(PYTEST_ARGS)
	OAT_VENV=.venv-robot && $(ROS) python -m pytest tests/ros/test_start.py $(PYTEST_ARGS)

pythons: ## on each of PYTHONS that is installed: every test that needs no torch
	@PYTEST_ARGS="$(PYTEST_ARGS)" tools/test_pythons.sh $(PYTHONS)

# The wheel is made from the sdist, so both are whole.
dist: $(SETUP) ## sdist and wheel in dist/; the wheel is installed and used in an empty environment
	rm -rf dist
	$(PY) -m hatchling build --target sdist
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist dist/*.tar.gz
	$(PY) tools/check_wheel.py dist/*.whl
fuzz: $(SETUP) ## every damaged input that the tests know: bundles, logs, bags, checkpoints, recipes, data, profiles
	OAT_FUZZ=long OMP_NUM_THREADS=1 $(PY) -m pytest tests/fuzz -s $(PYTEST_ARGS)

coverage: $(SETUP) ## the tests without ROS, with the lines they miss (half as slow again)
	$(PY) -m pytest -m "not ros" --cov --cov-report=term-missing $(PYTEST_ARGS)

lint: $(SETUP) ## ruff, mdformat, mypy --strict, import-linter
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mdformat --check $(MARKDOWN)
	$(PY) -m mypy
	PYTHONPATH=ros2_ws/src/oat_perception .venv/bin/lint-imports

format: $(SETUP) ## rewrite code and Markdown as `lint` wants them
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(PY) -m mdformat $(MARKDOWN)

settings: $(SETUP) ## write the parameter files' comments and the pages of settings as the code words them
	$(PY) tools/write_settings.py
	$(PY) tools/write_training_settings.py

bench: $(WS) ## every benchmark; BENCH_ARGS= for the full ones; one that fails leaves the others
	status=0; for name in $(BENCHES); do \
		($(ROS) python -m $$name.bench $(BENCH_ARGS)) || status=$$?; \
	done; exit $$status

constraints: ## write what .venv holds as the new exact versions
	$(PY) tools/write_constraints.py > .venv/constraints.txt && mv .venv/constraints.txt constraints.txt

clean: ## remove what was built and installed
	rm -rf .venv .venv-robot $(PYTHONS:%=.venv-%) dist out ros2_ws/build ros2_ws/install ros2_ws/log

$(SETUP): pyproject.toml constraints.txt tools/check_system.sh tools/prepare_ros_wheels.py tools/torch_index.py
	@tools/check_system.sh $(PYTHON)
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (a few minutes the first time)"
	@options=$$($(PY) tools/torch_index.py "$(TORCH_INDEX)") && \
		$(PIP) install -qq $$options --constraint constraints.txt \
		--editable '.[ros,openvino,onnxruntime,nvml,training,crosscheck,dev]'
	@$(PY) tools/prepare_ros_wheels.py
	@touch $@

# From the same Python as .venv: the workspace is built for that one.
$(ROBOT): $(SETUP) tools/install_robot.sh
	@tools/install_robot.sh $(PY) .venv-robot
	@touch $@

$(WS): $(SETUP) $(WS_SOURCES) ros2_ws/colcon_defaults.yaml
	@echo "Building ros2_ws"
	@$(ROS) cd ros2_ws && colcon build --symlink-install
	@touch $@
