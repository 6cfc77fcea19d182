"""What the compiled program of linear_cross_entropy holds: its products, its buffers, its bytes."""

import functools
import re

import jax
import jax.numpy as jnp
import optax
import pytest

from handgrad import linear_cross_entropy


def plain(X, W, t):
    return optax.softmax_cross_entropy_with_integer_labels(X @ W, t).mean()


def problem(N, P, C):
    return jnp.zeros((N, P)), jnp.zeros((P, C)), jnp.zeros(N, jnp.int32)


def compiled(moving, shape=(2048, 64, 4096), loss=linear_cross_entropy):
    function = loss if moving is None else jax.value_and_grad(loss, argnums=moving)
    return jax.jit(function).lower(*problem(*shape)).compile()


def temporary_bytes(program):
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(("moving", "products"), [((0, 1), 3), ((0,), 2), ((1,), 2), (None, 1)])
def test_a_frozen_side_costs_no_product(moving, products):
    text = compiled(moving, shape=(512, 64, 4096)).as_text()  # one block: each product stands once
    assert len(re.findall(r"= \S+ dot\(", text)) == products


@pytest.mark.parametrize("moving", [(0, 1), (0,), (1,), None])
def test_no_buffer_has_as_many_elements_as_the_logits(moving):
    program = compiled(moving)
    N, C = 2048, 4096
    assert not re.search(rf"\[{N},{C}\]", program.as_text())
    assert temporary_bytes(program) < 0.6 * 4 * N * C


def test_no_copy_of_narrow_weights_in_float32():
    X, W = jnp.zeros((2048, 64), jnp.bfloat16), jnp.zeros((64, 4096), jnp.bfloat16)
    gradient = jax.jit(jax.grad(linear_cross_entropy, argnums=(0, 1)))
    text = gradient.lower(X, W, jnp.zeros(2048, jnp.int32)).as_text()
    # XLA's CPU widens narrow products itself, so it is the program as handed to the compiler that is read.
    assert "tensor<64x4096xf32>" in text  # dL/dW is summed in it
    assert not re.search(r"stablehlo\.convert %arg\d+ : \(tensor<64x4096xbf16>\) -> tensor<64x4096xf32>", text)


@pytest.mark.parametrize(
    ("N", "dtype", "held"),
    [(1024, "bfloat16", "D"), (1025, "bfloat16", "dW"), (1024, "float16", "dW"), (1024, "float32", "dW")],
)
def test_beside_narrow_weights_the_lesser_of_two_arrays_is_held(N, dtype, held):
    P, C = 512, 4096
    shapes = (jax.ShapeDtypeStruct(shape, dtype) for shape in ((N, P), (P, C)))
    gradient = jax.jit(jax.grad(linear_cross_entropy, argnums=(0, 1)))
    text = gradient.lower(*shapes, jax.ShapeDtypeStruct((N,), "int32")).as_text()
    arrays = {"D": rf"tensor<{N}x{C}x", "dW": rf"stablehlo.add .* tensor<{P}x{C}xf32>"}
    assert {name for name, array in arrays.items() if re.search(array, text)} == {held}


@pytest.mark.parametrize(
    ("num_classes", "moving", "recompute", "block"),
    [
        (8192, (0, 1), False, "512x8192"),
        (8192, (0,), False, "512x8192"),
        # A block of fewer rows takes about as little as one of classes, and a product less.
        (8192, (0, 1), True, "256x8192"),
        (8192, (1,), True, "256x8192"),
        (8192, (0,), True, "256x8192"),
        (16384, (0, 1), True, "4096x512"),
        (16384, (1,), True, "4096x512"),
        (16384, (0,), True, "4096x512"),
    ],
)
def test_recompute_takes_the_order_that_takes_less_memory(num_classes, moving, recompute, block):
    shapes = (jax.ShapeDtypeStruct(array.shape, array.dtype) for array in problem(4096, 128, num_classes))
    loss = functools.partial(linear_cross_entropy, recompute=recompute)
    text = jax.jit(jax.grad(loss, argnums=moving)).lower(*shapes).as_text()
    blocks = (f"512x{num_classes}", f"256x{num_classes}", "4096x512")
    assert {each for each in blocks if f"tensor<{each}xf32>" in text} == {block}


@pytest.mark.parametrize(
    ("shape", "dtype", "recompute", "by_rows"),
    [
        ((16384, 4096, 128256), "bfloat16", None, True),
        ((16384, 8192, 262144), "bfloat16", None, False),
        ((16384, 8192, 262144), "bfloat16", False, True),
        ((8192, 16384, 524288), "bfloat16", None, False),
        ((16384, 8192, 262144), "float32", None, True),
    ],
    ids=str,
)
def test_what_would_hold_more_than_four_gibibytes_goes_by_classes(shape, dtype, recompute, by_rows):
    N, P, C = shape
    gradient = jax.jit(jax.grad(functools.partial(linear_cross_entropy, recompute=recompute), argnums=(0, 1)))
    arrays = (jax.ShapeDtypeStruct(array, dtype) for array in ((N, P), (P, C)))
    text = gradient.lower(*arrays, jax.ShapeDtypeStruct((N,), "int32")).as_text()
    assert (re.search(rf"dot_general .* -> tensor<\d+x{C}x", text) is not None) == by_rows


@pytest.mark.parametrize("shape", [(2048, 512, 32768), (4096, 256, 8192)])
def test_temporary_memory_is_under_a_third_of_the_plain_forms(shape):
    ours, theirs = (temporary_bytes(compiled((0, 1), shape, loss)) for loss in (linear_cross_entropy, plain))
    assert ours <= 0.3 * theirs


@pytest.mark.parametrize("shape", [(1024, 256, 1024), (4096, 64, 128)], ids=str)
def test_one_block_of_all_rows_is_not_copied_to_be_turned_round(shape):
    ours, theirs = (temporary_bytes(compiled((1,), shape, loss)) for loss in (linear_cross_entropy, plain))
    assert ours <= theirs + 4 * shape[0]


@pytest.mark.parametrize("moving", [(0, 1), (0,), (1,), None])
def test_where_features_are_as_many_as_classes_memory_is_no_more_than_the_plain_forms(moving):
    shape = (1024, 1024, 1000)
    ours, theirs = (temporary_bytes(compiled(moving, shape, loss)) for loss in (linear_cross_entropy, plain))
    assert ours <= theirs + 4 * shape[0]  # a number a row


def test_a_hessian_vector_product_takes_under_a_third_of_the_plain_forms_memory():
    def program(loss):
        def product(X, W, t, direction):
            return jax.jvp(lambda W: jax.grad(loss, argnums=1)(X, W, t), (W,), (direction,))[1]

        X, W, t = problem(2048, 512, 32768)
        return jax.jit(product).lower(X, W, t, W).compile()

    assert temporary_bytes(program(linear_cross_entropy)) <= 0.3 * temporary_bytes(program(plain))
