"""Draws fits, and looks for one that claims more than is true.

    python scripts/draw_fits.py [COUNT [SEED]]

Every fit that says `converged` is held to its word by code that is none of handgrad's: with a penalty, no point that
Newton's method finds may lie lower than loss − gap, F being evaluated in long double at the very parameters that were
returned; without one, a linear program must agree that there is a minimum. Values are drawn freely, shapes from forty.
Prints what was drawn and how it ended, and exits with 1 if a claim was false; the seed and the number of a draw repeat
it.
"""

import collections
import contextlib
import sys
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import scipy.sparse

import handgrad
from handgrad.rows import host
from handgrad.solvers import placed

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles_fit import exact_objective, lowest, problem, separable

SHAPES = [(P, C) for P in (1, 2, 3, 4, 5) for C in (1, 2, 3, 5)]  # in float32 and in float64
PATH_FEATURES = (2, 3)  # of the shapes in which every tenth problem is a path with folds
EVERY_SPARSE, EVERY_COMPILED = 4, 10  # problem is given as sparse rows, or summed by compiled programs as many rows are
FEW = host.FEW, placed.FEW
NUM_ROWS = (1, 2, 3, 5, 8, 12, 30, 60, 200)


def draw(rng):
    """X, targets and the arguments of a fit."""
    P, C = SHAPES[rng.integers(len(SHAPES))]
    N = int(rng.choice([*NUM_ROWS, P, C]))
    X = rng.normal(size=(N, P))
    kinds = rng.integers(0, 6, P)
    X = np.where(kinds == 1, np.round(X), X)
    X = np.where(kinds == 2, rng.normal() < X, X)
    X = np.where(kinds == 3, X[:, :1], X)  # the same feature twice
    X = np.where(kinds == 4, X * (rng.random((N, P)) < 0.1), X)  # rarely there
    if rng.random() < 0.5:
        X = X * 10.0 ** rng.uniform(-4, 4, P)
    if rng.random() < 0.4:
        X = X + np.abs(X).max() * 10.0 ** rng.uniform(-2, 6, P)
    if rng.random() < 0.1:
        X = X * 10.0 ** rng.uniform(-25, 25)
    shares = rng.dirichlet(np.full(C, 10.0 ** rng.uniform(-1.5, 1)))
    Z = X @ (rng.normal(size=(P, C)) / np.maximum(np.abs(X).max(axis=0), 1e-300)[:, None]) * 10.0 ** rng.uniform(-1, 2)
    odds = shares * np.exp(Z - Z.max(axis=1, keepdims=True)) + 1e-300
    t = (odds.cumsum(axis=1) / odds.sum(axis=1, keepdims=True) > rng.random((N, 1))).argmax(axis=1)
    arguments = {"num_classes": C, "tol": 10.0 ** rng.uniform(-8, -2), "l2": 10.0 ** rng.uniform(-6, 2)}
    if rng.random() < 0.25:
        arguments["l2"] = 0.0
    targets = t
    if rng.random() < 0.15:
        targets = rng.dirichlet(np.full(C, 0.3), N)
        targets = np.where(rng.random((N, C)) < 0.3, 0, targets) + 1e-9 * np.eye(C)[t]
        targets /= targets.sum(axis=1, keepdims=True) * (1 + rng.uniform(-9e-4, 9e-4, (N, 1)))
    match rng.integers(0, 6):
        case 0:
            arguments["weights"] = rng.uniform(0, 2, N)
        case 1:
            arguments["weights"] = np.arange(N) % 2 * rng.uniform(0, 1e3)
        case 2:
            arguments["weights"] = rng.integers(0, 3, N)
        case 3:
            arguments["weights"] = 10.0 ** rng.uniform(-20, 20, N)
    if rng.random() < 0.1:
        arguments["class_weights"] = rng.uniform(0, 3, C) * (rng.random(C) < 0.9)
    if rng.random() < 0.1:
        b = rng.normal(size=(1, C))
        arguments["params"] = handgrad.Params(W=rng.normal(size=(P, C)), b=b)
    return X, targets, arguments


def false_claim(result, X, targets, arguments):
    """What is wrong with a result that says `converged`, or None."""
    X, T, w, classes = problem(X, targets, arguments)
    W, b = (np.asarray(array, np.float64) for array in result.params)
    left_out = ~np.isfinite(b[0])
    if not (np.isfinite(W).all() and (np.isfinite(b) | (b == -np.inf)).all() and np.isfinite(result.loss)):
        return "not finite"
    if len(w) == 0:
        return None if result.loss == 0 else "no row counts, and the loss is not 0"
    if not np.array_equal(left_out, ~classes):
        return f"left out {left_out}, but {~classes} have no weight"
    W, b = W[:, classes], b[0, classes]
    F = exact_objective(W, b, X, T, w, arguments["l2"])
    # What rounding does to F relative to itself: that of float64 to centred logits, that of long double to XW + b.
    rounding = 1e-14 * (1 + np.abs(X - w @ X).max() * np.abs(W).max())
    rounding += 4 * len(W) * np.finfo(np.longdouble).eps * np.abs(X).max() * np.abs(W).max()
    if abs(result.loss - F) > rounding * F + 1e-15 * abs(result.gap):
        return f"loss {result.loss:.17g}, but F is {F:.17g}"
    if arguments["l2"] > 0:
        best = lowest(X, T, w, arguments["l2"], [(W, b), (0 * W, np.log(w @ T))])
        allowed = result.gap * (1 + 1e-9) + 0.1 * rounding * F
        return None if F - best <= allowed else f"gap {result.gap:.3g}, but F − min F is {F - best:.3g} of {F:.3g}"
    return "converged, but the classes can be separated" if len(b) > 1 and separable(X, T) else None


def judge(result, X, targets, arguments):
    """How a fit ended, and what is wrong with what it claims, or None."""
    if result.converged:
        return f"converged{'' if arguments['l2'] else ', l2=0'}", false_claim(result, X, targets, arguments)
    reason = result.message.split(",")[0].split(":")[0]
    if "separated" in reason:
        X, T, _, _ = problem(X, targets, arguments)
        return reason, None if separable(X, T) else "no separation"
    return "undecided" if "gradient" in reason else reason, None


def judge_path(X, rows, targets, arguments):
    """The same of a path of penalties with folds: each of its lanes is held to its claim."""
    arguments = {name: value for name, value in arguments.items() if name != "params"}
    l2 = arguments.pop("l2") or 1e-3
    l2s = l2 * np.array([1.0, 0.01, 100.0])
    path = handgrad.fit_path(rows(X), targets, l2s=l2s, validation=2 if len(X) > 3 else None, **arguments)
    for j in np.flatnonzero(path.converged):
        params = handgrad.Params(path.params.W[j], path.params.b[j])
        lane = handgrad.FitResult(params, path.loss[j], path.gap[j], 0.0, 0, 0, True, "", l2s[j])
        if (claim := false_claim(lane, X, targets, arguments | {"l2": l2s[j]})) is not None:
            return "path", f"penalty {j}: {claim}"
    if path.validation_loss is not None and not np.isfinite(path.validation_loss).all():
        return "path", f"validation loss {path.validation_loss}"
    return f"path, {path.converged.sum()} of 3 converged", None


def run(count, seed):
    endings = collections.Counter()
    wrong = []
    began = time.perf_counter()
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        dtype = [np.float32, np.float64][rng.integers(2)]
        X, targets, arguments = draw(rng)
        X = X.astype(dtype)
        host.FEW, placed.FEW = (0, 0) if number % EVERY_COMPILED == 2 else FEW
        rows = scipy.sparse.csr_array if number % EVERY_SPARSE == 1 else np.asarray
        with jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext():
            try:
                if number % 10 == 0 and X.shape[1] in PATH_FEATURES:
                    ending, claim = judge_path(X, rows, targets, arguments)
                else:
                    ending, claim = judge(handgrad.fit(rows(X), targets, **arguments), X, targets, arguments)
            except ValueError as refused:
                ending, claim = f"refused: {str(refused)[:40]}", None
        endings[ending] += 1
        if claim is not None:
            wrong.append(number)
            print(f"seed {seed}, draw {number}, {dtype.__name__}, {rows.__name__}: {claim}", flush=True)
    host.FEW, placed.FEW = FEW
    print(f"{count} fits in {time.perf_counter() - began:.0f} s, seed {seed}; {len(wrong)} false claims: {wrong}")
    for ending, times in endings.most_common():
        print(f"{times:7d}  {ending}")
    return len(wrong)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    numbers = [int(argument) for argument in sys.argv[1:]]
    sys.exit(run(*(numbers + [10_000, 0][len(numbers) :])) > 0)
