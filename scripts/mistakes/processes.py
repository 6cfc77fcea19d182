"""Mistakes in what several processes share."""

from mistakes.mutant import Mutant

MUTANTS = [
    Mutant(
        "moments joined by the difference of rounded means",
        "data/moments.py",
        "shift = (other.low - self.low) + (other.above - self.above)",
        "shift = other.mean - self.mean",
        "test_processes.py::test_moments_are_those_of_all_values_however_they_are_shared",
    ),
    Mutant(
        "rows that no process has",
        "processes.py",
        "slice(num_rows * place // of_all, num_rows * (place + 1) // of_all)",
        "slice(num_rows // of_all * place, num_rows // of_all * (place + 1))",
        "test_processes.py::test_shares_have_each_row_once_and_none_has_two_more_than_another",
    ),
    Mutant(
        "more processes than a launcher started",
        "launching.py",
        "        if expected != processes.count():",
        "        if expected < processes.count():",
        "test_processes.py::test_a_process_that_others_know_nothing_of_is_refused",
    ),
    Mutant(
        "classes counted in the dtype of the weights",
        "solvers/folds.py",
        "of_classes.astype(np.float64))",
        "of_classes)",
        "test_processes.py::test_processes_have_one_answer_and_its_certificate_is_true_of_all_rows",
    ),
    Mutant(
        "a range of rows from the block that it begins in",
        "data/ranges.py",
        "begin = max(0, self.first - start)",
        "begin = 0",
        "test_ranges.py",
    ),
    Mutant(
        "empty lines counted as rows",
        "data/ranges.py",
        '(lengths > 2) | ((lengths == 2) & (text[begins] != ord("\\r")))',
        "lengths > 1",
        "test_ranges.py",
    ),
    Mutant(
        "the last rows dealt to nobody",
        "processes.py",
        "ends = [len(some) * (place + 1) // count()",
        "ends = [len(some) * place // count()",
        "test_streamed_training.py::test_the_batches_of_processes_are_together_those_of_one[3-50]",
    ),
]
