"""How good the certified fit and gradient descent are by their defaults, on twelve real tables, beside scikit-learn.

    python scripts/bench_tables_quality.py            all of them
    python scripts/bench_tables_quality.py wine zoo   these

The log-loss of the rows to test, in nats: of the shares of the classes alone; of scikit-learn's LogisticRegressionCV,
with its standard error, on the very rows that handgrad has encoded; of `fit` with a penalty chosen by five folds, on
the rows to train on and to watch, as LogisticRegressionCV; and of what `handgrad train` does.
"""

import math
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.linear_model import LogisticRegressionCV

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import known_tables
from handgrad.app.screen import make_screen
from handgrad.app.training import descend
from handgrad.data import Part, Split, Table, read_table, split_and_scale
from handgrad.data.splitting import VALIDATION
from handgrad.models import probabilities

import handgrad

PENALTIES = np.logspace(-6, 1, 15)
