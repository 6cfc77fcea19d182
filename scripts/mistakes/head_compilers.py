"""Mistakes in the head where compilers spread it over devices."""

from mistakes.mutant import Mutant

MUTANTS = [
    Mutant(
        "a loop over rows left to a compiler that spreads it",
        "block_sizes.py",
        "    if settings.parts is not None:\n        return N",
        "    if False:\n        return N",
        "test_head_compilers.py::test_what_a_compiler_spreads_itself_sends_no_more_than_the_plain_form[False-data-False]",
    ),
    Mutant(
        "a loop over rows for the value alone",
        "block_sizes.py",
        "    if settings.parts is not None:\n        return N",
        "    if False:\n        return N",
        "test_head_compilers.py::test_of_the_value_alone_and_its_tangents_no_row_of_data_travels_either[True]",
    ),
    Mutant(
        "blocks of classes cut across the devices that have them",
        "spread.py",
        "settings._replace(parts=parts.number,",
        "settings._replace(parts=1,",
        "test_head_compilers.py::test_what_a_compiler_spreads_itself_sends_no_more_than_the_plain_form[True-tensor-False]",
    ),
    Mutant(
        "weights made of an array as long taken for whole",
        "lowering.py",
        "(certain := exact or alike)",
        "(certain := exact or {Parts(1)})",
        "test_head_compilers.py::test_weights_made_before_the_head_are_not_gathered[of embeddings]",
    ),
    Mutant(
        "weights made of arrays of other lengths taken for whole",
        "lowering.py",
        "in certain or others)",
        "in certain)",
        "test_head_compilers.py::test_weights_made_before_the_head_are_not_gathered[of pieces]",
    ),
    Mutant(
        "features over devices taken for classes",
        "lowering.py",
        "(certain := exact or alike)",
        "(certain := exact)",
        "test_head_compilers.py::test_ids_and_rows_and_features_over_devices_make_no_parts_of_classes[features]",
    ),
    Mutant(
        "ids over devices taken for weights",
        "lowering.py",
        '"i" in str(kind.element_type) or ',
        "",
        "test_head_compilers.py::test_ids_and_rows_and_features_over_devices_make_no_parts_of_classes[ids]",
    ),
    Mutant(
        "rows over devices taken for weights",
        "lowering.py",
        " or lengths[:1] == (rows,)",
        "",
        "test_head_compilers.py::test_ids_and_rows_and_features_over_devices_make_no_parts_of_classes[rows]",
    ),
    Mutant(
        "a device's few classes cut into blocks",
        "block_sizes.py",
        ".itemsize) / (settings.parts or 1)",
        ".itemsize)",
        "test_head_compilers.py::test_the_few_classes_of_each_device_are_one_block[tensor-True]",
    ),
    Mutant(
        "few rows gathered for each block",
        "spread.py",
        'leaf if "c" in each else whole_over(parts, leaf)',
        "leaf",
        "test_head_compilers.py::test_fewer_rows_than_classes_are_gathered_once_and_their_gradient_is_summed_once"
        "[fully sharded along C-2048-all-gather all-reduce]",
    ),
    Mutant(
        "many rows gathered",
        "spread.py",
        " and num_rows < settings.num_classes",
        "",
        "test_head_compilers.py::test_fewer_rows_than_classes_are_gathered_once_and_their_gradient_is_summed_once"
        "[fully sharded along C-16384-]",
    ),
    Mutant(
        "rows of other devices counted",
        "spread.py",
        "math.prod(batch) * parts.number // math.prod(size for _, size in parts.sizes)",
        "math.prod(batch)",
        "test_head_compilers.py::test_fewer_rows_than_classes_are_gathered_once_and_their_gradient_is_summed_once"
        "[sequence and tensor-8192-all-gather all-reduce]",
    ),
    Mutant(
        "rows gathered along one of two axes of W",
        "spread.py",
        "len(parts.over) == 1",
        "len(parts.over) > 0",
        "test_head_compilers.py::test_fewer_rows_than_classes_are_gathered_once_and_their_gradient_is_summed_once"
        "[C over both-2048-]",
    ),
    Mutant(
        "dL/dX summed over devices for each block",
        "spread.py",
        "apart=apart)",
        "apart=False)",
        "test_head_compilers.py::test_fewer_rows_than_classes_are_gathered_once_and_their_gradient_is_summed_once"
        "[tensor-2048-all-reduce]",
    ),
    Mutant(
        "distributions gathered with the rows",
        "spread.py",
        '"c" in each',
        'each[0] in "qcou"',
        "test_head_compilers.py::test_distributions_over_classes_stay_where_they_are",
    ),
    Mutant(
        "arguments that disagree taken for certain",
        "lowering.py",
        "if len(certain := exact or alike) == 1:\n        return certain.pop()",
        "if certain := exact or alike:\n        return max(certain)",
        "test_head_compilers.py::test_rows_are_gathered_only_where_it_is_certain_how_weights_lie[moments]",
    ),
    Mutant(
        "an axis of one device taken for a second",
        "lowering.py",
        "(tuple(name for name in over if sizes[name] > 1) for over in axes)",
        "(tuple(over) for over in axes)",
        "test_head_compilers.py::test_rows_are_gathered_only_where_it_is_certain_how_weights_lie[one device]",
    ),
    Mutant(
        "a label's place taken for that in the first part",
        "tile.py",
        "here // step * length + here % step, -1)",
        "here % step, -1)",
        "test_head_compilers.py::test_blocks_with_a_piece_of_each_part_are_the_whole[labels-False]",
    ),
    Mutant(
        "of classes alike that of an earlier block",
        "schedules.py",
        "better |= alike & (block_place < place)",
        "better |= alike & False",
        "test_head_compilers.py::test_of_classes_alike_the_first_is_the_prediction_though_a_later_block_has_it[100.0]",
    ),
    Mutant(
        "of classes that are NaN that of an earlier block",
        "schedules.py",
        "(m_block.Z == m.Z) | (jnp.isnan(m_block.Z) & jnp.isnan(m.Z))",
        "m_block.Z == m.Z",
        "test_head_compilers.py::test_of_classes_alike_the_first_is_the_prediction_though_a_later_block_has_it[nan]",
    ),
]
