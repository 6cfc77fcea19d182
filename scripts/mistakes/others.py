"""Mistakes in what is checked, and in what is read."""

from mistakes.mutant import Mutant

MUTANTS = [
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
        "a number written in two ways as two classes",
        "data/naming.py",
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
    Mutant(
        "the derivative of softmax with the wrong sign",
        "formulas/softmax.py",
        "return Y * (dZ - xp.sum(Y * dZ, axis=1, keepdims=True))",
        "return Y * (dZ + xp.sum(Y * dZ, axis=1, keepdims=True))",
        "test_docs.py::test_a_formula_is_what_handgrad_computes",
    ),
    Mutant(
        "half of a gap",
        "solvers/penalty.py",
        "return distance**2 / (2 * self.strength)",
        "return distance**2 / (4 * self.strength)",
        "test_docs.py::test_a_formula_is_what_handgrad_computes",
    ),
    Mutant(
        "the penalty twice in the preconditioner",
        "solvers/kronecker.py",
        "xp.stack([g, xp.broadcast_to(l2[:, None], g.shape)], axis=1)",
        "xp.stack([g, 2 * xp.broadcast_to(l2[:, None], g.shape)], axis=1)",
        "test_docs.py::test_a_formula_is_what_handgrad_computes",
    ),
    Mutant(
        "twice the curvature of a batch",
        "solvers/step.py",
        "((1 - share) * of_all + share * of_rows) / 2 + l2",
        "((1 - share) * of_all + share * of_rows) + l2",
        "test_docs.py::test_a_formula_is_what_handgrad_computes",
    ),
    Mutant(
        "the way back through the output of a layer",
        "formulas/network.py",
        "gradients.append(linear_backward(layer_X, D, weights))",
        "gradients.append(linear_backward(A_l if A_l.shape == layer_X.shape else layer_X, D, weights))",
        "test_pictures.py::test_the_way_back_gives_the_gradient",
    ),
    Mutant(
        "a span of time taken for an integer",
        "settings.py",
        "(int, np.integer)) and not isinstance(value, (bool, np.timedelta64))",
        "(int, np.integer)) and not isinstance(value, bool)",
        "test_refusals.py::test_a_span_of_time_is_no_integer",
    ),
]
