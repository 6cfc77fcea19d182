"""Mistakes in tables that stay in their files."""

from mistakes.mutant import Mutant

MUTANTS = [
    Mutant(
        "rows of a block chosen by their place in another",
        "data/streaming.py",
        "own = rows[slice(*np.searchsorted(rows, [start, end]))] - start",
        "own = rows[slice(*np.searchsorted(rows, [start, end]))] % block.num_rows",
        "test_streaming_tables.py::test_arrays_in_a_file_are_those_that_are_read",
    ),
    Mutant(
        "a block without values of its own kind",
        "data/streaming.py",
        "return column if kind is None else column._replace(kind=kind)",
        "return column",
        "test_streaming_tables.py::test_a_block_without_values_is_of_the_kind_of_its_column",
    ),
    Mutant(
        "each text counted once",
        "data/streaming.py",
        "codes = np.repeat(np.arange(len(counts), dtype=np.int32), list(counts.values()))",
        "codes = np.arange(len(counts), dtype=np.int32)",
        "test_streaming_tables.py::test_what_a_text_is_follows_from_all_its_rows",
    ),
    Mutant(
        "rows of rows taken for the file's",
        "data/tables.py",
        "begin=lambda own: self.begin(rows if own is None else rows[own])",
        "begin=lambda own: self.begin(rows if own is None else own)",
        "test_streaming_tables.py::test_missing_values_in_a_file_are_as_those_that_are_read",
    ),
    Mutant(
        "a median of the upper number alone",
        "data/measuring.py",
        "(until[-1] - 1) // 2, until[-1] // 2]",
        "until[-1] // 2, until[-1] // 2]",
        "test_streaming_tables.py::test_missing_entries_of_an_array_are_as_those_that_are_read",
    ),
    Mutant(
        "words counted in the last block alone",
        "data/measuring.py",
        "counts.update({word: counts.get(word, 0) + count",
        "counts.update({word: count",
        "test_streaming_tables.py::test_missing_values_in_a_file_are_as_those_that_are_read",
    ),
    Mutant(
        "whole numbers looked at in no block",
        "data/delimited.py",
        "if name not in as_text and _is_large(block[name])]:",
        "if False]:",
        "test_streaming_tables.py::test_whole_numbers_that_float64_merges_are_refused_in_any_block",
    ),
    Mutant(
        "every block's rows counted from 0",
        "data/encoding.py",
        "start += block.num_rows",
        "start += 0",
        "test_streaming_tables.py::test_a_number_too_large_to_scale_is_told_by_its_column",
    ),
    Mutant(
        "the pages of a map kept",
        "rows/streams.py",
        "if pages is not None and len(rows):",
        "if False:",
        "test_streams.py::test_a_pass_over_a_memory_map_lets_its_pages_go_and_changes_nothing",
    ),
    Mutant(
        "said of a sample what is true of all rows alone",
        "app/findings/__init__.py",
        "for look in LOOKS if look not in OF_ALL_FEATURES]",
        "for look in LOOKS]",
        "test_app_stream.py::test_what_a_sample_would_get_wrong_is_not_said",
    ),
    Mutant(
        "counts taken of the sample",
        "app/findings/__init__.py",
        "of_all if look in OF_ALL_ROWS else facts",
        "facts",
        "test_app_stream.py::test_of_a_sample_mistakes_and_all_that_is_counted_are_those_of_all_rows",
    ),
]
