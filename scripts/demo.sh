#!/usr/bin/env bash
# Trains a softmax regression on real digits by hand-derived gradients, the proof beside it; results in runs/digits.
# Further arguments go to `handgrad train`, as in: scripts/demo.sh --optimizer adam

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
set_up app
exec "$VENV/bin/handgrad" train --out runs/digits --overwrite "$@"
