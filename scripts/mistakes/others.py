"""Mistakes in the head, in what is checked, and in what is read."""

from mistakes.mutant import Mutant

MUTANTS = [
    Mutant(
        "small entries of float16's D lost in the head",
        "schedules.py",
        "scale = jnp.where(scale == 0, 1.0, scale)",
        "scale = jnp.ones_like(scale)",
        "test_bites.py::test_the_head_keeps_small_entries_in_float16",
    ),
    Mutant(
        "the head's dL/dW left transposed where P is C",
        "schedules.py",
        'return {"WT": product(rounded',
        'return {"W": product(rounded',
        "test_fused_values.py::test_sizes_that_coincide_change_no_layout[(3, 7, 3, 7)]",
    ),
    Mutant(
        "a softcap undoes a mask",
        "tile.py",
        "return capped if b is None else jnp.where(jnp.isneginf(b) & ~jnp.isnan(Z), -math.inf, capped)",
        "return capped",
        "test_fused_values.py::test_a_mask_under_a_softcap_has_the_loss_of_the_other_classes",
    ),
    Mutant(
        "the head's soft targets not divided by their sum",
        "tile.py",
        "return jnp.where(valid, total,",
        "return jnp.where(valid, 1,",
        "test_fused_values.py::test_distributions_that_sum_to_a_little_more_than_1_are_divided_by_their_sum[float32]",
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
