#!/usr/bin/env bash
# Makes the environment of a robot, without torch, and the means to test it: `install_robot.sh PYTHON FOLDER`.
# FOLDER/sizes.txt says how much disk the parts take.
set -euo pipefail
cd "$(dirname "$0")/.."
python="$1" venv="$2"

install() { # install ARGUMENTS: with the tested versions
  "$venv/bin/python" -m pip --disable-pip-version-check install -qq --constraint constraints.txt "$@"
}

size() { # size WHAT: one line for sizes.txt
  echo "$1: $(du -sm "$venv" | cut -f1) MB" >>"$venv/sizes.txt"
}

echo "Installing into $venv"
rm -rf "$venv"
"$python" -m venv "$venv"
install --editable '.[onnxruntime]'
size "A robot's install, pip included"
install --editable '.[onnxruntime,ros]'
size "The same with the ROS 2 wheels"
# What the tests need; of foolbox only its images.
install --editable '.[data,onnxruntime,plots,ros]' hatchling hypothesis pytest pytest-xdist
install --no-deps foolbox
if "$venv/bin/python" -c 'import torch' 2>/dev/null; then
  echo "Expected a robot's install without torch, got one with it: see what requires it with pip show torch" >&2
  exit 1
fi
