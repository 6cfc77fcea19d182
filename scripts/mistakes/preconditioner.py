"""Mistakes in the solver's blocks of classes, and in what they precondition."""

from mistakes.mutant import Mutant

MUTANTS = [
    Mutant(
        "blocks of lanes that have no problem too",
        "solvers/sweeps.py",
        "counts = np.array([lane is not None for lane in self.lanes], self.data.rows.dtype)",
        "counts = np.ones(len(self.lanes), self.data.rows.dtype)",
        "test_path.py::test_blocks_are_of_the_problems_that_are_left",
    ),
    Mutant(
        "blocks of numbers that are none",
        "solvers/kronecker.py",
        "if not (np.isfinite(blocks).all() and np.isfinite(diagonals).all()):",
        "if False:",
        "test_preconditioner.py::test_there_are_no_blocks_of_a_trial_beyond_the_range_of_the_dtype[5]",
    ),
    Mutant(
        "rows that a class does not take left out",
        "solvers/kronecker.py",
        "np.outer(of_classes.level, a)",
        "np.outer(0 * of_classes.level, a)",
        "test_preconditioner.py::test_blocks_cost_rare_categories_no_iterations[on the host]",
    ),
    Mutant(
        "rows that a class takes counted with the mean too",
        "solvers/sums.py",
        "taken - mean[:, None] * total[rows], 0",
        "taken, 0",
        "test_bites.py::test_the_block_of_a_class_is_of_the_rows_of_which_it_is_least_sure[numpy]",
    ),
    Mutant(
        "blocks made no sooner than they are renewed",
        "solvers/sweeps.py",
        "self.sizes[following].sweeps / 2 if",
        "self.sizes[following].sweeps if",
        "test_bites.py::test_blocks_are_made_once_half_as_much_is_spent_and_then_half_as_much_again",
    ),
    Mutant(
        "a quarter of the rows to the end",
        "solvers/kronecker.py",
        "if num_lanes == 1 and sizes[-1].part > 1",
        "if not sizes",
        "test_preconditioner.py::test_blocks_have_more_and_more_vectors_and_as_many_as_the_problems_pay_for",
    ),
    Mutant(
        "blocks of as many vectors each time",
        "solvers/kronecker.py",
        "min(last + 1, ",
        "min(max(last, 0), ",
        "test_preconditioner.py::test_blocks_have_more_and_more_vectors_and_as_many_as_the_problems_pay_for",
    ),
    Mutant(
        "blocks of the vectors that lead least",
        "solvers/sweeps.py",
        "leading = slice(-vectors - 1, None)",
        "leading = slice(0, vectors + 1)",
        "test_preconditioner.py::test_leading_blocks_save_a_quarter_of_the_iterations[compiled]",
    ),
    Mutant(
        "what is not in the blocks left as it is",
        "solvers/kronecker.py",
        "V[:, :rest] / curvatures",
        "V[:, :rest]",
        "test_preconditioner.py::test_it_is_the_inverse_of_blocks_and_of_a_diagonal[2-numpy]",
    ),
    Mutant(
        "blocks of any size that the data have",
        "solvers/kronecker.py",
        "min(LARGE_BLOCKS, max(SMALL_BLOCKS, ",
        "max(0, max(SMALL_BLOCKS, ",
        "test_preconditioner.py::test_blocks_keep_to_the_memory_that_they_may_take[1281167-2048-1000-1]",
    ),
    Mutant(
        "less than nothing of a sure row with a large weight",
        "solvers/sums.py",
        "xp.maximum(taken - mean[:, None] * total[rows], 0)",
        "taken - mean[:, None] * total[rows]",
        "test_bites.py::test_the_block_of_a_class_is_of_the_rows_of_which_it_is_least_sure[numpy]",
    ),
    Mutant(
        "directions that bend nothing taken as they are",
        "solvers/kronecker.py",
        "xp.where(values > 0, values, xp.inf)",
        "xp.where(values > 0, values, 1)",
        "test_preconditioner.py::test_a_direction_that_bends_nothing_is_not_taken[numpy]",
    ),
    Mutant(
        "the rise of the targets' logits left out",
        "formulas/by_row.py",
        "(differences @ T)[own]",
        "0 * (differences @ T)[own]",
        "test_certificate.py::test_the_rise_of_a_loss_is_the_difference_of_two[False]",
    ),
]
