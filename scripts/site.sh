#!/usr/bin/env bash
# Builds the documentation into build/site, from docs/, the source's docstrings and benchmarks/. A warning is an error.
#
#   scripts/site.sh          then: python3 -m http.server --directory build/site

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
set_up docs
# Without the cache, which knows when a page changes and not when the source that it shows does.
PYTHONPATH=scripts:src "$VENV/bin/zensical" build --config-file mkdocs.yml --clean --strict
