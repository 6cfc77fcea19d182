"""Times linear_cross_entropy against the plain form and its peers; writes a JSON result and prints it as a table.

Every function of a row runs in one process, taking turns; ratios are medians of neighbours. Peers are run where they
are installed: pip install tokamax jax-cce torch, and on a GPU liger-kernel cut-cross-entropy, where the rows are those
of language models, in bfloat16, and errors are against autograd in float32.

    python scripts/bench_head.py [--repeats 9] [--output build/bench_head.json]
    python scripts/bench_head.py --print build/bench_head.json
"""

import argparse
import contextlib
import functools
import importlib
import importlib.metadata
import json
import statistics
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import handgrad
from measure import interleaved, machine, median_ratio

CPU_SHAPES = [(1024, 1024, 1000), (8192, 512, 1024), (4096, 256, 8192), (2048, 512, 32768)]
GPU_SHAPES = [(8192, 4096, 128256), (4096, 4096, 128256), (16384, 2304, 256000)]


def problem(N, P, C, dtype):
    keys = jax.random.split(jax.random.key(0), 4)
    X = jax.random.normal(keys[0], (N, P), dtype)
    W = jax.random.normal(keys[1], (P, C), dtype) / np.asarray(P**0.5, dtype)
    t = jax.random.randint(keys[2], (N,), 0, C)
    return X, W, t, jax.random.normal(keys[3], (P, C), dtype)


def plain(X, W, t):
    Z = jnp.matmul(X, W, preferred_element_type=jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(Z, t).mean()


def peers():
    """loss(X, W, t) of each installed JAX peer."""
    losses = {}
    try:
        tokamax = importlib.import_module("tokamax._src.ops.linear_softmax_cross_entropy_loss.api")
        for name in sorted({"xla", "chunked_xla"} & set(tokamax.IMPLEMENTATIONS)):
            losses[f"tokamax {name}"] = lambda X, W, t, name=name: tokamax.linear_softmax_cross_entropy_loss(
                X, t, W, reduction="mean", implementation=name
            )
    except ImportError:
        print("tokamax is not installed; its rows are left out.")
    try:
        cce = importlib.import_module("jax_cce").linear_cross_entropy
        # It takes W as (C, P). Under jit the transposition goes into its products.
        losses["jax-cce"] = lambda X, W, t: cce(X, W.T, t)
    except ImportError:
        print("jax-cce is not installed; its rows are left out.")
    return losses


def torch_peers(X, W, t, frozen, on_cpu):
    """The gradients by PyTorch on the same device: functions without arguments, and temporary bytes of each.

    The bytes are what PyTorch's allocator had at its peak beside the arguments and the result, on a GPU alone.
    """
    try:
        torch = importlib.import_module("torch")
        losses = (torch_losses_on_cpu if on_cpu else torch_losses_on_gpu)(torch)
    except (ImportError, AttributeError) as error:
        print(f"PyTorch's rows are left out: {error}")
        return {}, {}
    X, W, t = torch.from_dlpack(X), torch.from_dlpack(W).T.contiguous(), torch.from_dlpack(t).long()
    X, W = (array.requires_grad_(name not in frozen) for name, array in (("X", X), ("W", W)))
    moving = [array for array in (X, W) if array.requires_grad]

    def run(loss):
        value = loss(X, W, t)
        gradients = torch.autograd.grad(value, moving) if moving else ()
        if not on_cpu:
            torch.cuda.synchronize()
        return gradients

    functions, temporary = {}, {}
    for name, loss in losses.items():
        functions[name] = functools.partial(run, loss)
        if not on_cpu:
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            run(loss)
            temporary[name] = torch.cuda.max_memory_allocated() - before - sum(array.nbytes for array in moving)
    return functions, temporary


def torch_losses_on_cpu(torch):
    """PyTorch 2.13's own function, whole and in chunks."""
    fused = torch.nn.functional.linear_cross_entropy
    chunked = torch.nn.LinearCrossEntropyOptions()
    return {"torch": fused, "torch chunked": functools.partial(fused, options=chunked)}


def torch_losses_on_gpu(torch):
    """The plain form, and the kernels that are installed."""
    losses = {"torch plain": lambda X, W, t: torch.nn.functional.cross_entropy((X @ W.T).float(), t)}
    with contextlib.suppress(ImportError):
        losses["Liger"] = importlib.import_module(
            "liger_kernel.transformers.functional"
        ).liger_fused_linear_cross_entropy
    with contextlib.suppress(ImportError):
        losses["cut cross-entropy"] = importlib.import_module("cut_cross_entropy").linear_cross_entropy
    return losses


def versions():
    """Those of the peers that are installed."""
    found = {}
    for name in ("tokamax", "jax-cce", "torch", "liger-kernel", "cut-cross-entropy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name).partition("+")[0]
    return found


def hessian_vector_product(loss, direction):
    """In W, forward over reverse."""
    return lambda X, W, t: jax.jvp(lambda W: jax.grad(loss, argnums=1)(X, W, t), (W,), (direction,))[1]


# What is computed of a loss, and what is frozen in it.
CASES = {
    "all gradients": (lambda loss, _: jax.value_and_grad(loss, argnums=(0, 1)), ""),
    "X frozen": (lambda loss, _: jax.value_and_grad(loss, argnums=1), "X"),
    "W frozen": (lambda loss, _: jax.value_and_grad(loss, argnums=0), "W"),
    "value alone": (lambda loss, _: loss, "XW"),
    "Hessian-vector product": (hessian_vector_product, None),
}


def products_alone(case, direction):
    """The matrix products of a case and nothing else: the least time that it can take."""
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)

    def run(X, W, _):
        Z = product(X, W)
        if case == "value alone":
            return Z
        if case == "Hessian-vector product":
            Z += product(X, direction)
        D = Z.astype(X.dtype)
        dX = product(D, W.T) if case in ("all gradients", "W frozen") else None
        return dX, product(X.T, D) if case != "W frozen" else None

    return run


def exact_gradients(X, W, t, rows=512):
    """(dL/dX, dL/dW) in float64 NumPy."""
    X, W, t = np.asarray(X, np.float64), np.asarray(W, np.float64), np.asarray(t)
    dX, dW = np.empty_like(X), np.zeros_like(W)
    for start in range(0, len(X), rows):
        block = slice(start, start + rows)
        Y = X[block] @ W
        Y = np.exp(Y - Y.max(axis=1, keepdims=True))
        Y /= Y.sum(axis=1, keepdims=True)
        Y[np.arange(len(Y)), t[block]] -= 1
        Y /= len(X)
        dX[block] = Y @ W.T
        dW += X[block].T @ Y
    return dX, dW


def autograd_in_float32(X, W, t):
    """(dL/dX, dL/dW) of the plain form by PyTorch, as a GPU has the time for them: its float32 is no TF32."""
    torch = importlib.import_module("torch")
    X, W = (torch.from_dlpack(array).float().requires_grad_() for array in (X, W))
    loss = torch.nn.functional.cross_entropy(X @ W, torch.from_dlpack(t).long())
    return [jnp.from_dlpack(array) for array in torch.autograd.grad(loss, (X, W))]


def relative_error(gradients, exact):
    xp = np if isinstance(exact[0], np.ndarray) else jnp
    return max(
        float(xp.linalg.norm(xp.asarray(g).astype(e.dtype) - e) / xp.linalg.norm(e))
        for g, e in zip(gradients, exact, strict=True)
    )


def bench(shape, case, dtype, repeats, on_cpu):
    """The rows of the table for one shape and case."""
    X, W, t, direction = problem(*shape, dtype)
    make, frozen = CASES[case]
    losses = {"handgrad": handgrad.linear_cross_entropy, "plain": plain}
    if frozen is not None:
        losses |= peers()
    if case != "value alone":
        losses["handgrad recompute"] = functools.partial(handgrad.linear_cross_entropy, recompute=True)
    compiled = {name: jax.jit(make(loss, direction)).lower(X, W, t).compile() for name, loss in losses.items()}
    compiled["products alone"] = jax.jit(products_alone(case, direction)).lower(X, W, t).compile()
    functions = {name: functools.partial(function, X, W, t) for name, function in compiled.items()}
    temporary = {name: function.memory_analysis().temp_size_in_bytes for name, function in compiled.items()}
    if frozen is not None:
        in_torch = torch_peers(X, W, t, frozen, on_cpu)
        functions, temporary = functions | in_torch[0], temporary | in_torch[1]
    errors = {}
    if case == "all gradients":
        exact = (exact_gradients if on_cpu else autograd_in_float32)(X, W, t)
        for name in functions.keys() - {"products alone"}:
            result = functions[name]()
            if name in losses:
                gradients = result[1]
            else:  # PyTorch's, whose W is (C, P)
                gradients = [jnp.from_dlpack(array.contiguous()) for array in (result[0], result[1].T)]
            errors[name] = relative_error(gradients, exact)
    seconds = interleaved(functions, repeats, warm=True)
    return [
        {
            "shape": shape,
            "case": case,
            "form": name,
            "milliseconds": 1e3 * statistics.median(seconds[name]),
            "ratio": median_ratio(seconds[name], seconds["handgrad"]),
            "temporary_bytes": temporary.get(name),
            "relative_error": errors.get(name),
        }
        for name in functions
    ]


def bench_distillation(shape, dtype, repeats):
    """The rows for a student beside a teacher of its own size."""
    X, W, _, teacher_W = problem(*shape, dtype)
    teacher_X, teacher_W = X[::-1], teacher_W / np.asarray(shape[1] ** 0.5, dtype)

    def plain_distillation(X, W, teacher_X, teacher_W):
        log_U, log_Y = (
            jax.nn.log_softmax(jnp.matmul(x, w, preferred_element_type=jnp.float32) / 2)
            for x, w in ((teacher_X, teacher_W), (X, W))
        )
        return 4 * jnp.mean(jnp.sum(jnp.exp(log_U) * (log_U - log_Y), axis=1))

    losses = {
        "handgrad": functools.partial(handgrad.linear_distillation, temperature=2.0, recompute=False),
        "handgrad recompute": functools.partial(handgrad.linear_distillation, temperature=2.0, recompute=True),
        "plain": plain_distillation,
    }
    arrays = (X, W, teacher_X, teacher_W)
    compiled = {
        name: jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*arrays).compile()
        for name, loss in losses.items()
    }
    functions = {name: functools.partial(program, *arrays) for name, program in compiled.items()}
    seconds = interleaved(functions, repeats, warm=True)
    return [
        {
            "shape": shape,
            "case": "distillation",
            "form": name,
            "milliseconds": 1e3 * statistics.median(seconds[name]),
            "ratio": median_ratio(seconds[name], seconds["handgrad"]),
            "temporary_bytes": compiled[name].memory_analysis().temp_size_in_bytes,
            "relative_error": None,
        }
        for name in functions
    ]


def show(result):
    """The result as a Markdown table."""
    print(f"{result['machine']}, {result['dtype']}\n")
    print("| (N, P, C) | | | ms | × handgrad | temporary MB | error |\n| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for row in result["rows"]:
        memory = "" if row["temporary_bytes"] is None else f"{row['temporary_bytes'] / 1e6:.1f}"
        error = "" if row["relative_error"] is None else f"{row['relative_error']:.1e}"
        print(
            f"| {tuple(row['shape'])} | {row['case']} | {row['form']} | {row['milliseconds']:.1f} | {row['ratio']:.2f} "
            f"| {memory} | {error} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path("build/bench_head.json"))
    parser.add_argument("--print", type=Path, metavar="JSON", help="print a result as a table, and run nothing")
    arguments = parser.parse_args()
    if arguments.print:
        return show(json.loads(arguments.print.read_text()))
    sys.argv = sys.argv[:1]  # tokamax parses it too, and knows no flag of ours
    on_cpu = jax.default_backend() == "cpu"
    dtype = jnp.float32 if on_cpu else jnp.bfloat16
    result = {"machine": machine(), "versions": versions(), "dtype": jnp.dtype(dtype).name, "rows": []}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    shape = (2048, 512, 32768) if on_cpu else (8192, 2048, 128256)
    result["rows"] += bench_distillation(shape, dtype, arguments.repeats)
    for shape in CPU_SHAPES if on_cpu else GPU_SHAPES:
        for case in CASES:
            result["rows"] += bench(shape, case, dtype, arguments.repeats, on_cpu)
            arguments.output.write_text(json.dumps(result, indent=1) + "\n")  # what is measured is kept
            print(f"{shape}, {case}", file=sys.stderr)
    return show(result)


if __name__ == "__main__":
    main()
