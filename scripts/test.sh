#!/usr/bin/env bash
# Runs the tests, in .venv, which it makes where it is missing.
#
#   scripts/test.sh                 all but the slow ones
#   scripts/test.sh --all           the slow ones too
#   scripts/test.sh -k gradient     further arguments go to pytest
#
#   VENV=.venv-3.13 PYTHON=python3.13 scripts/test.sh      in another environment, made with that Python

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
set_up test
marker=(-m "not slow")
if [ "${1:-}" = "--all" ]; then
  marker=()
  shift
  # Compiled as it is for users; by default with little effort, which takes half the time (tests/compiling.py).
  export XLA_FLAGS=${XLA_FLAGS:-"--xla_force_host_platform_device_count=8"}
fi
# A process a core: most of the time goes into compiling, which one process does one after the other. A file's tests go
# to one process, where what one of them compiles the others find.
exec "$VENV/bin/python" -m pytest --numprocesses auto --dist loadfile "${marker[@]}" "$@"
