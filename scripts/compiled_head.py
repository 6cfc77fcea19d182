"""The head, the plain form and peers, compiled for devices that are not there; see compile_accelerators.py."""

import functools
import importlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import handgrad
from handgrad import block_sizes
from handgrad.head import Arrays, Settings
from measure import collectives

SHAPES = [(4096, 4096, 128256), (16384, 4096, 128256), (8192, 2304, 256000), (32768, 4096, 128256), (4096, 1000, 1000)]
OTHERS = SHAPES[:1]  # where there are many devices of a kind
CHIPS = {"H100": ("h100", SHAPES), "TPU v5e": ("v5e:2x2", SHAPES), "TPU v5p": ("v5p:2x2x1", OTHERS)}
CHIPS["TPU v6e"] = ("v6e:2x2", OTHERS)
LAYOUTS = {
    "data": ((8,), PartitionSpec()),
    "fully sharded": ((8,), PartitionSpec("data", None)),
    "tensor": ((1, 8), PartitionSpec(None, "model")),
    "fully sharded and tensor": ((2, 4), PartitionSpec("data", "model")),
}


def plain(X, W, t):
    """As it is usually written, the loss taken in float32."""
    return optax.softmax_cross_entropy_with_integer_labels((X @ W).astype(jnp.float32), t).mean()


def products(X, W, _):
    """The three products alone, of as many rows at a time as the head takes, and dL/dW made up as there."""
    settings = Settings(W.shape[1], (("loss", 1.0),), (), False, False, False, None, None)
    arrays, moving = Arrays(X, W, None, None, None), ("W", "X")
    size = block_sizes.rows_in_block(settings, arrays)
    keeps = block_sizes.keeps_logit_gradient(moving, arrays, size)
    product = functools.partial(lax.dot_general, preferred_element_type=jnp.float32)

    def block(start, rows):
        x = lax.dynamic_slice_in_dim(X, start, rows)
        D = product(x, W, (((1,), (0,)), ((), ()))).astype(X.dtype)
        dX = product(D, W, (((1,), (1,)), ((), ()))).astype(X.dtype)
        return (0.0, (dX, D)) if keeps else (product(x, D, (((0,), (0,)), ((), ()))), (dX,))

    def place(whole, parts, start):
        return [lax.dynamic_update_slice_in_dim(a, part, start, 0) for a, part in zip(whole, parts, strict=True)]

    def step(found, start):
        (dW, rows), (more, parts) = found, block(start, size)
        return (dW + more, place(rows, parts, start)), None

    further = (len(X) - 1) // size
    first = len(X) - further * size
    dW, parts = block(0, first)
    rows = place([jnp.zeros((len(X), part.shape[1]), part.dtype) for part in parts], parts, 0)
    starts = first + size * jnp.arange(further, dtype=jnp.int32)
    (dW, (dX, *D)), _ = lax.scan(step, (dW, rows), starts)
    return dX, product(X, *D, (((0,), (0,)), ((), ()))).astype(W.dtype) if keeps else dW.astype(W.dtype)


def forms():
    """loss(X, W, t), and whether its W is (C, P)."""
    head = handgrad.linear_cross_entropy
    found = {
        "plain": (plain, False),
        "handgrad": (head, False),
        "handgrad, recompute": (functools.partial(head, recompute=True), False),
        "handgrad, recompute, transposed": (functools.partial(head, recompute=True, transposed=True), True),
    }
    try:
        tokamax = importlib.import_module("tokamax._src.ops.linear_softmax_cross_entropy_loss.api")
        for name in sorted({"chunked_xla", "mosaic_tpu", "mosaic_gpu"} & set(tokamax.IMPLEMENTATIONS)):
            found[f"tokamax {name}"] = (
                lambda X, W, t, name=name: tokamax.linear_softmax_cross_entropy_loss(
                    X, t, W, reduction="mean", implementation=name
                ),
                False,
            )
    except ImportError as error:
        print(f"tokamax: {error}", file=sys.stderr)
    try:
        found["jax-cce"] = (importlib.import_module("jax_cce").linear_cross_entropy, True)
    except ImportError as error:
        print(f"jax-cce: {error}", file=sys.stderr)
    return found


def compile_one(function, shapes, shardings, out_shardings=None):
    """Of one program of value and gradients: what it needs, and what its compiler thinks of it."""
    arguments = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for (shape, dtype), sharding in zip(shapes, shardings, strict=True)
    ]
    start = time.process_time()
    try:
        program = jax.jit(function, out_shardings=out_shardings).lower(*arguments).compile()
    except Exception as error:  # a peer's, of a device that it does not know
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}, None
    cost = program.cost_analysis() or {}
    found = {"temporary_bytes": program.memory_analysis().temp_size_in_bytes}
    found["processor_seconds"] = round(time.process_time() - start, 1)
    if cost.get("optimal_seconds", 0) > 0:
        found |= {"estimated_seconds": cost["optimal_seconds"], "counted_flops": cost["flops"]}
    return found, program


def shapes_of(N, P, C, transposed=False):
    return [
        ((N, P), jnp.bfloat16),
        ((C, P) if transposed else (P, C), jnp.bfloat16),
        ((N,), np.dtype(np.int32)),
    ]


def compiled(target, topology):
    """By device: each form at each shape; and on eight TPUs what travels."""
    results = {}
    for chip, (name, shapes) in CHIPS.items():
        if (chip == "H100") != (target == "h100"):
            continue
        place = SingleDeviceSharding(topology(name)[0])
        rows = []
        for shape in shapes:
            for form, (loss, transposed) in forms().items():
                gradient = jax.value_and_grad(loss, argnums=(0, 1))
                found, _ = compile_one(gradient, shapes_of(*shape, transposed), [place] * 3)
                rows.append({"shape": shape, "form": form, **found})
                print(chip, rows[-1], file=sys.stderr, flush=True)
            found, _ = compile_one(products, shapes_of(*shape), [place] * 3)
            rows.append({"shape": shape, "form": "products alone", **found})
            print(chip, rows[-1], file=sys.stderr, flush=True)
        results[chip] = {"rows": rows}
    if target == "tpu":
        results["8 × TPU v5e"] = {"rows": over_devices(topology("v5e:2x4"))}
    return results


def over_devices(devices):
    """What travels, in numbers, where arrays lie over eight chips, gradients as what they belong to."""
    rows, shape = [], (16384, 2048, 32768)
    for layout, (sizes, of_W) in LAYOUTS.items():
        names = ("data", "model")[: len(sizes)]
        for form in ("plain", "handgrad", "handgrad, recompute"):
            for kind in (AxisType.Auto, AxisType.Explicit):
                if form == "plain" and kind == AxisType.Explicit:
                    continue  # types do not say how its logits lie
                mesh = Mesh(np.array(devices).reshape(sizes), names, axis_types=(kind,) * len(names))
                specs = PartitionSpec("data"), of_W, PartitionSpec("data")
                places = [NamedSharding(mesh, spec) for spec in specs]
                gradient = jax.value_and_grad(forms()[form][0], argnums=(0, 1))
                found, program = compile_one(gradient, shapes_of(*shape), places, (None, (places[0], places[1])))
                if program is not None:
                    found["collectives"] = collectives(program.as_text())
                rows.append({"shape": shape, "layout": layout, "axes": kind.name.lower(), "form": form, **found})
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def show(name, result):
    """The rows as Markdown."""
    print(f"\n{name}, bfloat16: compiled, not run")
    for row in result["rows"]:
        words = [str(tuple(row["shape"])), row.get("layout", ""), row["form"], row.get("axes", "")]
        if "error" in row:
            words.append(row["error"])
        else:
            words.append(f"{row['temporary_bytes'] / 1e6:.0f} MB")
        if "estimated_seconds" in row:
            words.append(f"{1e3 * row['estimated_seconds']:.1f} ms for {row['counted_flops'] / 1e12:.2f}e12 operations")
        if "collectives" in row:
            words.append(", ".join(f"{kind} {count}" for kind, count in row["collectives"]))
        print("| " + " | ".join(word for word in words if word) + " |")
