#!/bin/sh
# Names what this machine lacks for set-up, with the command that installs it: `check_system.sh PYTHON`. Changes nothing.
python="${1:-python3}"
missing=""   # Debian package names
problems=""

need() { # need PACKAGE WHAT: remember a missing package
  missing="$missing $1"
  problems="$problems
  - $2"
}

if [ -n "$(pwd | LC_ALL=C tr -d '\001-\177')" ]; then
  echo "Expected a path of ASCII letters (ROS cuts others off when it builds messages), got $(pwd)." >&2
  echo "Remedy: move this checkout. Bundles, logs and images may lie anywhere." >&2
  exit 1
fi

if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
  echo "Expected Linux on x86_64 (the ROS 2 wheels exist for that), got $(uname -s) on $(uname -m)." >&2
  echo "Remedy: use ROS 2 Jazzy from apt, as the README says under 'On a robot'." >&2
  exit 1
fi

if ! command -v "$python" >/dev/null 2>&1; then
  need "python3 python3-venv python3-dev" "$python: not found"
elif ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
  echo "Expected Python 3.11 to 3.13 (the ROS 2 wheels exist for those), got $("$python" --version 2>&1)." >&2
  echo "Remedy: install one and name it, as in: make PYTHON=python3.11 setup" >&2
  exit 1
else
  "$python" -c 'import ensurepip, venv' 2>/dev/null || need python3-venv "Python's venv and ensurepip modules"
  "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    need python3-dev "Python.h, to build the ROS 2 messages"
fi
command -v cmake >/dev/null 2>&1 || need cmake "cmake, to build the ROS 2 messages"
command -v c++ >/dev/null 2>&1 || need g++ "a C++ compiler (c++), to build the ROS 2 messages"
command -v cc >/dev/null 2>&1 || need gcc "a C compiler (cc), to build the ROS 2 messages"

if [ -n "$missing" ]; then
  echo "This machine lacks:$problems" >&2
  echo "Remedy: sudo apt-get update && sudo apt-get install --yes$missing" >&2
  exit 1
fi
