#!/usr/bin/env bash
# Builds the documentation into build/site, from docs/, the source's docstrings and benchmarks/. A warning is an error.
#
#   scripts/site.sh            then: python3 -m http.server --directory build/site
#   scripts/site.sh --check    looks at every page of it in a browser too, as scripts/check_site.py says

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
set_up docs
# Without the cache, which knows when a page changes and not when the source that it shows does.
PYTHONPATH=scripts:src "$VENV/bin/zensical" build --config-file mkdocs.yml --clean --strict
[ "${1:-}" = "--check" ] || exit 0

axe=build/axe/node_modules/axe-core/axe.min.js
if [ ! -f "$axe" ]; then
  mkdir -p build/axe
  npm install --prefix build/axe --no-save --no-audit --no-fund --silent axe-core@4.14.1 >/dev/null 2>&1 || true
fi
if [ ! -f "$axe" ]; then
  say "axe-core could not be installed, for want of npm or a registry; no page was looked at in a browser."
elif ! command -v chromium chromium-browser google-chrome >/dev/null; then
  say "There is no Chromium; no page was looked at in a browser."
else
  "$VENV/bin/python" scripts/check_site.py "$axe"
fi
