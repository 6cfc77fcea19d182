"""Mistakes in reading and encoding tables."""

from mistakes.mutant import Mutant

MUTANTS = [
    Mutant(
        "a ratio's square that overflows",
        "data/moments.py",
        "squares[columns] = squares[columns] * ratio * ratio",
        "squares[columns] = squares[columns] * (ratio * ratio)",
        "test_encoding.py::test_moments_are_exact_where_sums_of_squares_are_not",
    ),
    Mutant(
        "the mean of the first rows alone",
        "data/moments.py",
        "mean=self.mean + away * share,",
        "mean=self.mean,",
        "test_encoding.py::test_missing_numbers_are_filled_as_is_asked",
    ),
    Mutant(
        "a missing text taken for the first",
        "data/encoding.py",
        "feature = places[column.values]  #",
        "feature = np.maximum(places[column.values], 0)  #",
        "test_encoding.py::test_words_that_no_row_to_train_on_has_count_as_none_and_are_said",
    ),
    Mutant(
        "constant columns kept",
        "data/measuring.py",
        "if moments.low == moments.high and not indicated:",
        "if False:",
        "test_encoding.py::test_columns_with_one_value_are_left_out",
    ),
    Mutant(
        "integers that float64 merges",
        "data/delimited.py",
        "large = [name for name in wanted if name not in as_text and _is_large(columns[name])]",
        "large: list[str] = []",
        "test_data.py::test_integers_that_float64_would_merge_are_refused",
    ),
    Mutant(
        "classes in the order of their letters",
        "data/classes.py",
        "in_order = sorted(different, key=natural_key)",
        "in_order = sorted(different, key=str)",
        "test_data.py::test_npz_classes_keep_their_type_and_are_sorted_as_a_person_would",
    ),
    Mutant(
        "NA a word like any other",
        "data/words.py",
        'MISSING_WORDS = ("", "na",',
        'MISSING_WORDS = ("",',
        "test_data.py::test_a_feature_without_a_value_is_said",
    ),
    Mutant(
        "a decimal comma not seen",
        "data/dialect.py",
        'return "," if with_comma > with_point else "."',
        'return "."',
        "test_reading.py::test_text_is_read_however_it_is_written_and_what_is_unusual_is_said",
    ),
    Mutant(
        "sparse columns that a file does not have forgotten",
        "data/array_tables.py",
        "X.resize(X.shape[0], num_inputs)",
        "pass",
        "test_reading.py::test_svmlight_stays_sparse",
    ),
    Mutant(
        "pipes and devices opened",
        "data/sources.py",
        "if not stat.S_ISREG(mode):",
        "if stat.S_ISDIR(mode):",
        "test_hostile_files.py::test_only_regular_files_are_opened",
    ),
    Mutant(
        "formulas written as such",
        "data/writing.py",
        "if _FORMULA.match(text) and not _NUMBER.fullmatch(text):",
        'if text.startswith("="):',
        "test_hostile_files.py::test_no_formula_no_line_end_and_no_escape_is_written",
    ),
    Mutant(
        "escapes written as such",
        "data/writing.py",
        "return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], text)",
        "return text",
        "test_hostile_files.py::test_no_formula_no_line_end_and_no_escape_is_written",
    ),
    Mutant(
        "weights of a table summed as they are",
        "data/tables.py",
        "return np.ldexp(self.weights, -int(np.frexp(self.weights.max())[1]))",
        "return self.weights",
        "test_app_fit.py::test_weights_count_by_their_ratios_at_any_size",
    ),
    Mutant(
        "a point is the decimal mark in files with decimal commas",
        "data/words.py",
        'is_number = compute.match_substring_regex(words, _NUMBER.replace("POINT", point))',
        'is_number = compute.match_substring_regex(words, _NUMBER.replace("POINT", "[.,]"))',
        "test_reading.py::test_a_point_is_no_decimal_mark_where_the_comma_is",
    ),
]
