# Sourced by the scripts here: goes to the repository's folder, and makes or completes the environment there.
#
# VENV:   its folder, .venv if not set.
# PYTHON: what it is made with; if not set, the first of python3 and python3.14 … python3.11 that is 3.11 or newer.
# Nothing is installed where pyproject.toml and the extras have not changed since the last time.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv}

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
fail() { printf '%s\n' "$*" >&2; exit 2; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "$candidate"
      return
    fi
  done
  fail "handgrad needs Python 3.11 or newer; found $(${PYTHON:-python3} --version 2>&1 | head -n 1). \
Install one, or name it: PYTHON=/path/to/python $0"
}

# set_up EXTRA: the package in $VENV, editable, with that extra of pyproject.toml.
set_up() {
  local stamp="$VENV/handgrad-$1" python
  if [ ! -f "$stamp" ] || ! cmp -s pyproject.toml "$stamp"; then
    if [ ! -x "$VENV/bin/python" ]; then
      python=$(find_python)
      say "Making $VENV with $("$python" --version)."
      "$python" -m venv "$VENV" || fail "Making $VENV failed. On Debian and Ubuntu: apt install python3-venv."
    fi
    say "Installing handgrad[$1] into $VENV; the first time this takes a minute or two."
    "$VENV/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --editable ".[$1]"
    cp pyproject.toml "$stamp"
  fi
}
