#!/usr/bin/env bash
# Tests what a robot runs on other Pythons: `test_pythons.sh 3.10 3.12 ...`; leaves out those that are not installed.
# PYTEST_ARGS is passed on.
set -uo pipefail
cd "$(dirname "$0")/.."
status=0
for version in "$@"; do
  for python in "$(command -v "python$version")" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python ""; do
    "$python" -c pass 2>/dev/null && break # a version that pyenv has but does not choose is a command that fails
  done
  if [ -z "$python" ]; then
    echo "Python $version: not installed, left out"
    continue
  fi
  venv=".venv-$version"
  echo "Python $version: $python"
  if [ ! -e "$venv/.setup-done" ] || [ constraints.txt -nt "$venv/.setup-done" ] || [ pyproject.toml -nt "$venv/.setup-done" ]; then
    tools/install_robot.sh "$python" "$venv" && touch "$venv/.setup-done" || { status=1; continue; }
  fi
  OMP_NUM_THREADS=1 "$venv/bin/python" -m pytest -n auto --dist loadfile -m "not ros and not slow" ${PYTEST_ARGS:-} || status=1
done
exit $status
