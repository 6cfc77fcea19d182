"""Deliberate mistakes, each made in a copy of the source, and the test that must catch it.

    python scripts/mutants.py                 all of them; exit status 1 if one survives
    python scripts/mutants.py sweep gelu      those with such a word in their file or description

A test counts only if it passes on the unbroken code. To add a mistake, add a line to MUTANTS.
"""

import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# As scripts/test.sh compiles: with little effort.
XLA_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"


class Mutant(NamedTuple):
    """A mistake, and what catches it."""

    mistake: str
    file: str  # below src/handgrad
    old: str  # found there exactly once
    new: str
    test: str  # pytest's node id below tests/, narrow enough to take seconds


MUTANTS = [
    Mutant(
        "softmax without the largest logit taken off",
        "formulas/softmax.py",
        "exponentials = xp.exp(Z - maximum)",
        "exponentials = xp.exp(Z)",
        "test_losses.py::test_logits_of_ten_thousand_give_finite_right_answers[float32]",
    ),
    Mutant(
        "Ẏ = Y ∘ Ż, without ⟨Y, Ż⟩",
        "formulas/softmax.py",
        "return Y * (dZ - xp.sum(Y * dZ, axis=1, keepdims=True))",
        "return Y * dZ",
        "test_layer.py::test_hessian_vector_product_is_as_its_docstring_writes_it",
    ),
    Mutant(
        "T − Y",
        "formulas/losses.py",
        "return times_weights(xp, Y - target_distributions(xp, targets, Z.shape[1], Y.dtype), weights)",
        "return times_weights(xp, target_distributions(xp, targets, Z.shape[1], Y.dtype) - Y, weights)",
        "test_layer.py::test_gradient_is_as_its_docstring_writes_it",
    ),
    Mutant(
        "Y − T divided by N before it is rounded",
        "formulas/layer.py",
        "rounded = xp.astype(D, X.dtype)",
        "D, n = D / n, 1\n    rounded = xp.astype(D, X.dtype)",
        "test_layer.py::test_small_entries_survive_in_float16",
    ),
    Mutant(
        "dL/db divided by N where there are weights",
        "formulas/layer.py",
        "db = xp.sum(D, axis=0, keepdims=True) / n",
        "db = xp.sum(D, axis=0, keepdims=True) / X.shape[0]",
        "test_layer.py::test_gradient_matches_differences_of_the_loss",
    ),
    Mutant(
        "dL/dW not transposed back, unseen unless P = C",
        "formulas/layer.py",
        "return (widen(xp, rounded.T @ X) / n).T",
        "return xp.reshape(widen(xp, rounded.T @ X) / n, (X.shape[1], D.shape[1]))",
        "test_layer.py::test_gradient_is_as_its_docstring_writes_it",
    ),
    Mutant(
        "Hessian-vector product without the change of W on the way back",
        "formulas/curvature.py",
        "dG = xp.astype(dD, X.dtype) @ W.T + D @ dW.T",
        "dG = xp.astype(dD, X.dtype) @ W.T",
        "test_network.py::test_hessian_vector_product_matches_autograd[tanh-(3, 5, 2, 4, 3)]",
    ),
    Mutant(
        "Hessian-vector product without f″",
        "formulas/curvature.py",
        "widen(xp, pass_back(xp, layer, Z, f_Z, dG)) + second",
        "widen(xp, pass_back(xp, layer, Z, f_Z, dG))",
        "test_network.py::test_hessian_vector_product_matches_autograd[tanh-(3, 5, 2, 4, 3)]",
    ),
    Mutant(
        "Hessian-vector product without ȦᵀD",
        "formulas/curvature.py",
        "Params(W=product.W + linear_backward(dA, D, weights).W, b=product.b)",
        "product",
        "test_network.py::test_hessian_vector_product_matches_autograd[tanh-(3, 5, 2, 4, 3)]",
    ),
    Mutant(
        "hidden layers passed by the output's W",
        "formulas/network.py",
        "            above = layer\n",
        "",
        "test_network.py::test_gradient_matches_autograd[tanh-(3, 5, 1, 4, 3)]",
    ),
    Mutant(
        "the loss without its weights' sum",
        "formulas/losses.py",
        "return xp.where(total == 0, 1.0, total)",
        "return rows.shape[0] + 0 * total",
        "test_layer.py::test_gradient_matches_differences_of_the_loss",
    ),
    Mutant(
        "activations held although they are computed again",
        "formulas/network.py",
        "return X + array_namespace(X).astype(0 * D[:1, :1], X.dtype)",
        "return X",
        "test_network.py::test_recomputing_holds_fewer_activations",
    ),
    Mutant(
        "relu's slope 1 at 0",
        "formulas/activations.py",
        "lambda xp, Z, A: xp.where(A <= 0, 0.0, xp.ones_like(A))",
        "lambda xp, Z, A: xp.where(A < 0, 0.0, xp.ones_like(A))",
        "test_network.py::test_at_the_kink_the_convention_is_that_of_jax_nn",
    ),
    Mutant(
        "tanh's f″ with the opposite sign",
        "formulas/activations.py",
        "lambda xp, Z, A: -2 * A * (1 - A * A)",
        "lambda xp, Z, A: 2 * A * (1 - A * A)",
        "test_network.py::test_each_derivative_is_that_of_its_function[tanh]",
    ),
    Mutant(
        "J̇ G of softmax without its second term",
        "formulas/activations.py",
        "return dA * (G - xp.sum(A * G, axis=1, keepdims=True)) - A * xp.sum(dA * G, axis=1, keepdims=True)",
        "return dA * (G - xp.sum(A * G, axis=1, keepdims=True))",
        "test_network.py::test_each_derivative_is_that_of_its_function[softmax]",
    ),
    Mutant(
        "sigmoid with exp(Z) on both sides of 0",
        "formulas/activations.py",
        "e = xp.exp(xp.where(Z >= 0, -Z, Z))",
        "e = xp.exp(Z)",
        "test_network.py::test_sigmoid_keeps_its_tails",
    ),
    Mutant(
        "gelu's series cut short in float32",
        "formulas/activations.py",
        "_ERFC[1 : 28 if xp.finfo(Z.dtype).bits == 64 else 14]",
        "_ERFC[1 : 28 if xp.finfo(Z.dtype).bits == 64 else 6]",
        "test_bites.py::test_gelu_is_exact_to_rounding_in_float32_too",
    ),
    Mutant(
        "dense's rule without ḃ",
        "network.py",
        "dX @ params.W + X @ dW + db)",
        "dX @ params.W + X @ dW)",
        "test_network.py::test_dense_has_the_derivatives_of_its_function_in_both_modes[tanh-float64]",
    ),
    Mutant(
        "weights scaled by the size after the layer",
        "network.py",
        "gain / math.sqrt(before)",
        "gain / math.sqrt(after)",
        "test_network.py::test_initial_weights_keep_the_size_of_what_passes[tanh]",
    ),
    Mutant(
        "soft targets not divided by their sum",
        "precision.py",
        "rows / xp.sum(rows, axis=1, keepdims=True), math.nan)",
        "rows, math.nan)",
        "test_bites.py::test_soft_targets_count_by_their_shares",
    ),
    Mutant(
        "small entries of float16's D lost in the head",
        "sweep.py",
        "return jnp.where(largest == 0, 1.0, largest)",
        "return jnp.ones_like(largest)",
        "test_bites.py::test_the_head_keeps_small_entries_in_float16",
    ),
    Mutant(
        "mini-batches without their weights",
        "solvers/sgd.py",
        'jnp.take(array, rows, axis=0, mode="clip"), data)',
        'jnp.take(array, rows, axis=0, mode="clip"), (*data[:2], None))',
        "test_train.py::test_every_batch_is_trained_with_its_weights[float32]",
    ),
    Mutant(
        "no penalty beside an optimizer",
        "solvers/sgd.py",
        "a.dtype) * a, dL), params, l2)",
        "a.dtype) * a, dL), params, l2 if optimizer is None else 0 * l2)",
        "test_train.py::test_the_penalty_reaches_an_optimizer_too[float32]",
    ),
    Mutant(
        "G's diagonal left as it was at first",
        "solvers/lbfgs.py",
        "(trial, gradient, g), (state.V,",
        "(trial, gradient, jnp.where(state.g > 0, state.g, g)), (state.V,",
        "test_bites.py::test_the_curvature_of_the_classes_is_renewed",
    ),
    Mutant(
        "blocks of lanes that have no problem too",
        "solvers/sweeps.py",
        "counts = np.array([lane is not None for lane in self.lanes], dtype)",
        "counts = np.ones(len(self.lanes), dtype)",
        "test_path.py::test_blocks_are_of_the_problems_that_are_left",
    ),
    Mutant(
        "every problem of a path started from zeros",
        "solvers/sweeps.py",
        "V = np.where(present & self._present(nearest), self.solutions.V[nearest], V)",
        "pass",
        "test_bites.py::test_a_path_goes_on_from_the_nearest_penalty",
    ),
    Mutant(
        "the bias taken for its minimum as it is",
        "solvers/certificate.py",
        "minima = [minimise_bias(functools.partial(pieces, k), minima[k].b, data.parts.sum) for k in range(K)]",
        "pass",
        "test_certificate.py::test_gap_is_no_less_than_the_truth_at_any_parameters",
    ),
    Mutant(
        "what rounding does to the bias not counted",
        "solvers/certificate.py",
        "bound + excess + decrement + rounding, np.inf)",
        "bound + decrement + rounding, np.inf)",
        "test_certificate.py::test_what_is_certified_is_what_is_returned[30000000.0]",
    ),
    Mutant(
        "certified before W is rounded",
        "solvers/certificate.py",
        "V = np.concatenate([W / data.scale, np.where(present",
        "V = np.concatenate([V[:, :-1], np.where(present",
        "test_certificate.py::test_gap_is_no_less_than_the_truth_at_any_parameters",
    ),
    Mutant(
        "a class without weight given a bias",
        "solvers/certificate.py",
        "params = as_given(data, W, best, classes)",
        "params = as_given(data, W, best, np.ones_like(classes))",
        "test_certificate.py::test_a_class_without_weight_is_left_out_everywhere_alike[float32]",
    ),
    Mutant(
        "y − 1 of sure rows as a difference of near numbers",
        "formulas/by_row.py",
        "return np.where(certain, -others, Y - T)",
        "return Y - T",
        "test_certificate.py::test_what_is_left_of_sure_rows_is_exact_beside_itself",
    ),
    Mutant(
        "converged as the program says, without a proof",
        "solvers/driver.py",
        "    done = is_done(answers, l2, tol)\n    for _ in range",
        "    done = answers.converged\n    for _ in range",
        "test_certificate.py::test_what_is_certified_is_what_is_returned[30000000.0]",
    ),
    Mutant(
        "float64 data rounded before they are centred",
        "rows/parts.py",
        "X = np.asarray(part.X[start : start + size]).astype(np.float64)",
        "X = np.asarray(part.X[start : start + size]).astype(np.float32).astype(np.float64)",
        "test_certificate.py::test_float64_data_are_centred_before_they_become_float32",
    ),
    Mutant(
        "targets' rows taken as they are",
        "solvers/data.py",
        "_normalised(T.astype(np.float64))",
        "T.astype(np.float64)",
        "test_certificate.py::test_rows_of_targets_that_are_a_little_off_are_normalised[0.0009]",
    ),
    Mutant(
        "weights that vanish in float32 accepted",
        "solvers/data.py",
        "    if lost.any():\n        row, fold",
        "    if False:\n        row, fold",
        "test_certificate.py::test_weights_that_would_vanish_are_refused",
    ),
    Mutant(
        "A from every other row",
        "rows/blocks.py",
        "product(weighted, self.X)",
        "product(weighted[:, ::2], self.X[::2])",
        "test_certificate.py::test_the_curvature_is_that_of_the_rows_that_count[float64-even rows]",
    ),
    Mutant(
        "a minimum claimed wherever Newton's method is",
        "solvers/existence.py",
        "if is_resolved and (decrement + 16 * EPS * longest / np.sqrt(least)) * longest < np.sqrt(least):",
        "if is_resolved:",
        "test_existence.py::test_the_verdict_is_that_of_a_linear_program",
    ),
    Mutant(
        "the linear program of some rows only",
        "solvers/existence.py",
        "violated = np.flatnonzero(gains.min(axis=1) < -FEASIBLE)",
        "violated = np.flatnonzero(gains.min(axis=1) < -np.inf)",
        "test_existence.py::test_rows_are_added_to_the_program_until_none_is_violated",
    ),
    Mutant(
        "standard errors of any data",
        "solvers/inference.py",
        "if abs(w.sum() - total) > 1e-6 * total or np.any(off > allowed):",
        "if False:",
        "test_existence.py::test_standard_errors_refuse_other_data_and_forgotten_weights",
    ),
    Mutant(
        "rows of a class that was not trained on scored",
        "solvers/held_out.py",
        "counted = np.where(unknown, 0, weights)",
        "counted = weights",
        "test_path.py::test_folds_may_be_any_integer_and_lack_a_class",
    ),
    Mutant(
        "folds trained on all that they do not hold out",
        "estimator.py",
        "*(train for train, _ in folds)]",
        "*(np.setdiff1d(everything, test) for _, test in folds)]",
        "test_estimator.py::test_folds_are_trained_on_the_rows_that_the_splitter_names",
    ),
    Mutant(
        "class weights of all rows in each fold",
        "estimator.py",
        "self._weighted(weights * count, labels) for count",
        "self._weighted(weights, labels) * count for count",
        "test_estimator.py::test_scores_are_those_of_grid_search[time-balanced]",
    ),
    Mutant(
        "what a last block has of the one before counted twice",
        "rows/dense.py",
        "arrays[-1] = jnp.where(fresh.reshape(-1, *[1] * (arrays[-1].ndim - 1)), arrays[-1], 0)",
        "pass",
        "test_rows.py::test_every_row_counts_once_in_chunks_and_blocks[65]",
    ),
    Mutant(
        "the rows after the last whole chunk left out",
        "rows/dense.py",
        "Chunk(((0, margin), (end, num_rows)),",
        "Chunk(((0, margin),),",
        "test_rows.py::test_every_row_counts_once_in_chunks_and_blocks[300]",
    ),
    Mutant(
        "rows that pad small data all 0",
        "rows/dense.py",
        "    if filled:\n",
        "    if False:\n",
        "test_rows.py::test_a_feature_whose_square_overflows_does_nothing_to_the_rows_that_are_padded",
    ),
    Mutant(
        "each device's own sums",
        "rows/dense.py",
        "jax.lax.psum(",
        "(lambda sums, _: sums)(",
        "test_rows.py::test_every_row_counts_once_over_devices[mesh-13]",
    ),
    Mutant(
        "a number of rows compiled for itself",
        "rows/dense.py",
        "octave = 2 ** max(0, (max(num_rows, least) - 1).bit_length() - 3)",
        "least, octave = 1, 1",
        "test_rows.py::test_few_programs_serve_any_number_of_rows",
    ),
    Mutant(
        "an array that is sharded by columns taken",
        "rows/parts.py",
        "if columns.indices(X.shape[1])[:2] != (0, X.shape[1]):",
        "if False:",
        "test_rows.py::test_rows_sharded_by_columns_too_are_refused",
    ),
    Mutant(
        "duplicates of sparse data not added up",
        "rows/parts.py",
        "        csr.sum_duplicates()\n",
        "        csr.sort_indices()\n",
        "test_rows.py::test_zeros_that_are_stored_duplicates_and_unsorted_indices_change_nothing",
    ),
    Mutant(
        "the caller's sparse array put in order in place",
        "rows/parts.py",
        "        csr = csr.copy()\n",
        "",
        "test_rows.py::test_zeros_that_are_stored_duplicates_and_unsorted_indices_change_nothing",
    ),
    Mutant(
        "the padding of a BCOO array taken for entries",
        "rows/parts.py",
        "inside = np.all(indices < np.asarray(X.shape), axis=1)",
        "inside = np.all(indices <= np.asarray(X.shape), axis=1)",
        "test_rows.py::test_arrays_of_jax_are_read_in_their_own_layout",
    ),
    Mutant(
        "sparse logits without their centre",
        "rows/blocks.py",
        "        Z -= self.centre @ columns[:-1]\n",
        "",
        "test_rows.py::test_a_block_is_the_rows_about_their_centre_with_a_last_column[float64-1.0-1.0-sparse]",
    ),
    Mutant(
        "sparse gradients without their centre after the first rows of W",
        "rows/blocks.py",
        "range(0, len(self.centre), CENTRED_ROWS)",
        "range(0, len(self.centre) - 1, CENTRED_ROWS)",
        "test_rows.py::test_a_block_is_the_rows_about_their_centre_with_a_last_column[float64-1.0-1.0-sparse]",
    ),
    Mutant(
        "a sparse second moment whose bias is not centred",
        "rows/blocks.py",
        "last = self.one * (sums - self.centre * total)",
        "last = self.one * sums",
        "test_rows.py::test_a_block_is_the_rows_about_their_centre_with_a_last_column[float64-1.0-1.0-sparse]",
    ),
    Mutant(
        "sparse features far from 0 in float32",
        "rows/host.py",
        "own = np.dtype(np.float64) if is_far(part, centre) else self.dtype",
        "own = self.dtype",
        "test_rows.py::test_sparse_data_of_any_size_and_far_from_zero_are_fitted_in_float32[20000.0-1.0]",
    ),
    Mutant(
        "the loss of sparse features far from 0 in float64",
        "rows/parts.py",
        "own = np.longdouble if is_far(part, mean / scale) else np.float64",
        "own = np.float64",
        "test_certificate.py::test_sparse_data_far_from_zero_have_an_exact_loss_and_a_true_gap",
    ),
    Mutant(
        "numbers before the first row of an aligned chunk taken for it",
        "rows/dense.py",
        "lead + start * num_features",
        "start * num_features",
        "test_rows.py::test_rows_are_not_copied_wherever_they_lie_in_memory[1-float32]",
    ),
    Mutant(
        "an array of NumPy's that is not aligned copied",
        "rows/dense.py",
        "may_be = self._on_cpu and self.parts.num_processes == 1",
        "may_be = False",
        "test_rows.py::test_rows_are_not_copied_wherever_they_lie_in_memory[1-float32]",
    ),
    Mutant(
        "the first block of few rows alone",
        "rows/host.py",
        "for start in range(0, self.shape[0], size):",
        "for start in range(0, 1, size):",
        "test_rows.py::test_few_rows_count_once_in_blocks[300]",
    ),
    Mutant(
        "what is left after the pieces of a product left out",
        "rows/blocks.py",
        "pieces.sum(axis=0) + a[:, whole:] @ b[whole:]",
        "pieces.sum(axis=0)",
        "test_rows.py::test_products_in_pieces_are_the_products[64-1797-64]",
    ),
    Mutant(
        "steps and changes of the gradient in one array of NumPy's",
        "solvers/lbfgs.py",
        "Y=pairs.copy(),",
        "Y=pairs,",
        "test_bites.py::test_few_rows_take_the_steps_that_compiled_programs_take",
    ),
    Mutant(
        "NumPy's pairs taken in the order of their slots",
        "solvers/lbfgs.py",
        "place, age_there = (slots[None], age) if on_host else (age, slots[None])",
        "place, age_there = (slots[None], slots[None]) if on_host else (age, slots[None])",
        "test_bites.py::test_few_rows_take_the_steps_that_compiled_programs_take",
    ),
    Mutant(
        "a column of ones where there is no intercept",
        "rows/blocks.py",
        "product(flat[:, :-1], XT) + self.one * flat[:, -1:]",
        "product(flat[:, :-1], XT) + flat[:, -1:]",
        "test_rows.py::test_a_block_is_the_rows_about_their_centre_with_a_last_column[float64-4.0-0.0-numpy]",
    ),
    Mutant(
        "problems and classes of the gradient mixed up where they are as many",
        "rows/blocks.py",
        "keepdims=True)], axis=2).transpose(0, 2, 1)",
        "keepdims=True)], axis=2).transpose(1, 2, 0)",
        "test_rows.py::test_a_block_is_the_rows_about_their_centre_with_a_last_column[float64-1.0-1.0-numpy]",
    ),
    Mutant(
        "any trial taken whose loss is lower",
        "solvers/search.py",
        "if 0.9 * self.slope <= slope <= -0.5 * self.slope and not risen:",
        "if not risen:",
        "test_search.py::test_the_slope_decides_where_the_loss_shows_no_difference",
    ),
    Mutant(
        "trials not held inside the bracket",
        "solvers/search.py",
        "self.alpha = min(max(secant, least), most) if",
        "self.alpha = secant if",
        "test_search.py::test_a_convex_function_has_a_step_that_is_found",
    ),
    Mutant(
        "a loss that rose taken where its slope is small",
        "solvers/search.py",
        "if risen or not slope <= 0:",
        "if slope > 0:",
        "test_search.py::test_a_trial_that_is_not_finite_is_the_end_of_the_bracket[nan-nan]",
    ),
    Mutant(
        "points beyond a bracket's end",
        "solvers/search.py",
        "(self.high / self.low) ** (j / (POINTS + 1))",
        "(self.high / self.low) ** (j / (POINTS - 1))",
        "test_search.py::test_a_convex_function_has_a_step_that_is_found",
    ),
    Mutant(
        "the penalty's growth along a line left out",
        "solvers/penalty.py",
        "self.strength * inner(dW, dW)",
        "0 * inner(dW, dW)",
        "test_search.py::test_the_penalty_has_its_own_derivatives[sizes0]",
    ),
    Mutant(
        "half the gap",
        "solvers/penalty.py",
        "return distance**2 / (2 * self.strength)",
        "return distance**2 / (4 * self.strength)",
        "test_search.py::test_the_gap_of_a_quadratic_is_no_less_than_the_truth",
    ),
    Mutant(
        "what conjugate gradients leave not counted",
        "solvers/bias.py",
        "0.0)) + left) ** 2",
        "0.0))) ** 2",
        "test_certificate.py::test_what_conjugate_gradients_leave_is_counted",
    ),
    Mutant(
        "a hub's resistance for one way only",
        "solvers/bias.py",
        "resistance = 2 * float(np.max(1 / np.delete(conductance, hub)))",
        "resistance = float(np.min(1 / np.delete(conductance, hub)))",
        "test_certificate.py::test_what_conjugate_gradients_leave_is_counted",
    ),
    Mutant(
        "conjugate gradients over rounding that is a constant",
        "solvers/bias.py",
        "step, residue = np.zeros_like(gradient), gradient.mean() - gradient",
        "step, residue = np.zeros_like(gradient), -gradient",
        "test_certificate.py::test_the_best_bias_of_many_classes_is_that_of_few",
    ),
    Mutant(
        "features centred without an intercept",
        "solvers/data.py",
        "centre = sums / total if fit_intercept else np.zeros(P)",
        "centre = sums / total",
        "test_intercept.py::test_without_an_intercept_the_minimum_is_that_of_scikit_learn[dense-0.01-3]",
    ),
    Mutant(
        "a separation by an intercept that there is not",
        "solvers/existence.py",
        "features = np.append(features, np.ones((len(X), int(intercept))), axis=1)",
        "features = np.append(features, np.ones((len(X), 1)), axis=1)",
        "test_existence.py::test_without_an_intercept_the_linear_program_has_none",
    ),
    Mutant(
        "the row of a sparse value that is not finite misnamed",
        "solvers/data.py",
        'np.searchsorted(part.X.indptr, wrong, side="right") - 1',
        "wrong % len(of_rows)",
        "test_rows.py::test_the_row_that_is_not_finite_is_named[nan]",
    ),
    Mutant(
        "the rounding of a centre that is taken off afterwards not counted",
        "solvers/certificate.py",
        "about_zero = data.scale * np.abs(data.centre)",
        "pass",
        "test_certificate.py::test_sparse_data_far_from_zero_have_an_exact_loss_and_a_true_gap",
    ),
    Mutant(
        "the transpose of a sparse array of another layout",
        "rows/parts.py",
        'case "BCSR":',
        'case "BCSR" | "CSC":',
        "test_rows.py::test_arrays_of_jax_are_read_in_their_own_layout",
    ),
    Mutant(
        "features that are all 0 and no intercept",
        "solvers/existence.py",
        "if not B.size:",
        "if False:",
        "test_existence.py::test_without_an_intercept_separations_pass_through_the_origin",
    ),
    Mutant(
        "the head's dL/dW left transposed where P is C",
        "sweep.py",
        'sums["WT"] = product(rounded',
        'sums["W"] = product(rounded',
        "test_fused_values.py::test_sizes_that_coincide_change_no_layout[(3, 7, 3, 7)]",
    ),
    Mutant(
        "a softcap undoes a mask",
        "sweep.py",
        "return capped if b is None else jnp.where(jnp.isneginf(b) & ~jnp.isnan(Z), -math.inf, capped)",
        "return capped",
        "test_fused_values.py::test_a_mask_under_a_softcap_has_the_loss_of_the_other_classes",
    ),
    Mutant(
        "the head's soft targets not divided by their sum",
        "sweep.py",
        "return jnp.where(valid, T / total,",
        "return jnp.where(valid, T,",
        "test_fused_values.py::test_distributions_that_sum_to_a_little_more_than_1_are_divided_by_their_sum[float32]",
    ),
    Mutant(
        "a batch's loss over its own weights",
        "solvers/sgd.py",
        "share = 1 if weights is None else jnp.mean(weights)",
        "share = 1",
        "test_train.py::test_batches_of_any_size_have_the_weighted_optimum",
    ),
    Mutant(
        "an unsigned label taken for the one to ignore",
        "arguments.py",
        "if ignore_index is None or not limits.min <= ignore_index <= limits.max:",
        "if ignore_index is None:",
        "test_values.py::test_an_unsigned_label_is_never_the_negative_one_to_ignore[uint32-4294967196]",
    ),
    Mutant(
        "arguments not looked at before JAX narrows them",
        "compiled.py",
        "if not (_are_plain(args) and _are_plain(kwargs.values())):",
        "if False:",
        "test_values.py::test_a_label_that_jax_would_cut_to_32_bits_is_refused_before[4294967296-loss]",
    ),
    Mutant(
        "a row of weight 0 counts for what is in it",
        "precision.py",
        "return rows if relative is None else xp.where(relative[:, None] == 0, 0.0, rows)",
        "return rows",
        "test_values.py::test_a_row_of_weight_zero_does_not_count_whatever_is_in_it[float32-layer]",
    ),
    Mutant(
        "a class for a row without probabilities",
        "formulas/softmax.py",
        "return xp.where(xp.isfinite(xp.max(Z, axis=1)), xp.argmax(Z, axis=1), -1)",
        "return xp.argmax(Z, axis=1)",
        "test_values.py::test_a_row_without_probabilities_has_no_class[float32]",
    ),
    Mutant(
        "a number written in two ways as two classes",
        "data/columns.py",
        "if len(set(numbers.values())) == len(numbers):",
        "if True:",
        "test_data.py::test_a_number_written_in_two_ways_is_one_class[1 1.0 2 2.0-names0-indices0]",
    ),
    Mutant(
        "the formula not judged in float64 unless asked for",
        "check/gradients.py",
        "for dtype in [FLOAT64, *(dtype for dtype in asked if dtype != FLOAT64)]:",
        "for dtype in asked:",
        "test_check_mistakes.py::test_one_entry_off_by_a_percent_fails_whatever_dtype_is_asked_for[bfloat16]",
    ),
    Mutant(
        "a gradient passed that rounding hides",
        "check/gradients.py",
        "            if is_undecided:",
        "            if False:",
        "test_check.py::test_parameters_that_separate_the_rows_are_checked_too[1000.0]",
    ),
    Mutant(
        "a masked class fails the check",
        "reference.py",
        "jnp.sum(problem.T * jnp.where(problem.T == 0, 0.0, log_Y), axis=1)",
        "jnp.sum(problem.T * log_Y, axis=1)",
        "test_check.py::test_a_masked_class_passes_and_a_wrong_gradient_there_fails",
    ),
]


def main() -> int:
    """Every mistake, or those asked for, two at a time on two cores."""
    words = sys.argv[1:]
    chosen = [m for m in MUTANTS if not words or any(word in m.mistake or word in m.file for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        unbroken = copy_source(Path(folder) / "unbroken")
        status, output = run_tests(unbroken, *sorted({mutant.test for mutant in chosen}))
        if status != 0:
            print(output, "The tests must pass on the unbroken code.", sep="\n")
            return 1
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            folders = [Path(folder) / str(number) for number in range(len(chosen))]
            verdicts = list(pool.map(verdict, chosen, folders))
    width = max(len(mutant.mistake) for mutant in chosen)
    for mutant, result in zip(chosen, verdicts, strict=True):
        print(f"{mutant.mistake:{width}}  {result}  {mutant.test}")
    survived = len(chosen) - verdicts.count("caught")
    print(f"{len(chosen)} mistakes, {survived} not caught")
    return 1 if survived else 0


def verdict(mutant: Mutant, folder: Path) -> str:
    """What became of the mistake."""
    source = copy_source(folder)
    path = source / "handgrad" / mutant.file
    text = path.read_text() if path.exists() else ""
    if text.count(mutant.old) != 1:
        return f"NOT FOUND ONCE but {text.count(mutant.old)} times"
    path.write_text(text.replace(mutant.old, mutant.new))
    status, _ = run_tests(source, mutant.test)
    # 1: a test failed; anything above: pytest came to no verdict.
    return {0: "SURVIVED", 1: "caught"}.get(status, f"NO VERDICT, pytest's status {status}")


def copy_source(folder: Path) -> Path:
    """A copy of src/, to be broken."""
    return Path(shutil.copytree(ROOT / "src", folder, ignore=shutil.ignore_patterns("__pycache__")))


def run_tests(source: Path, *tests: str) -> tuple[int, str]:
    """Pytest's exit status, and what it printed, with handgrad imported from `source`."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1", "XLA_FLAGS": XLA_FLAGS}
    done = subprocess.run(
        [*command, *(f"tests/{test}" for test in tests)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


if __name__ == "__main__":
    sys.exit(main())
