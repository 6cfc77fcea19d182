r"""The head's sweeps where arrays lie over devices: each device sweeps its rows and its classes.

Under a plain `jax.jit` only the compiler knows how an array is sharded, once it has decided on that for the whole
program. It then asks here, through `jax.experimental.custom_partitioning`, how a sweep is to be shared:

- an axis of the mesh along which X lies by row stays with the rows: no row of X travels, but for what is said below;
- one along which W lies by class has each device's own classes, as `class_axis` within a `shard_map`;
- W that lies along P, or by class along an axis of the rows (fully sharded data parallel), is gathered, and dL/dW is
  summed in the dtype of W and scattered back: what the plain form's collectives do. Along P over an axis that the rows
  do not lie along, W's own classes are taken instead of everybody's; and by class along an axis of the rows, where
  these are fewer than the classes, each device's own of all rows: X is gathered, which is less than W.

A program for one device, and one within a `shard_map`, is the sweep itself. Where nobody is asked, as by compilers of
TPUs, the compiler spreads the sweep as it spreads anything else, and the sweep is cut only where that gathers nothing,
as far as the program's arguments say how W lies; rows along the axis of more classes than they are gathered once.
"""

import hashlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

import handgrad
from handgrad import schedules
from handgrad.head import BY_CLASS, Array, Arrays, ByName, Settings, class_dimension
from handgrad.lowering import is_for_one_device, parts_of_arguments, whole_over

Axes = tuple[str, ...]


class Sweep(NamedTuple):
    """One of the two of `schedules`, and the trees of what it takes and gives."""

    function: Callable[..., Any]
    settings: Settings
    names: tuple[str, ...]  # what is moving, or the values by row
    arguments: Any  # their tree
    results: Any
    x64: bool  # settings of the thread that traces it, which is not the one that partitions it
    precision: Any


def gradients(
    settings: Settings, moving: tuple[str, ...], arrays: Arrays, coefficients: ByName
) -> tuple[ByName, ByName]:
    """As `schedules.gradients`, of rows along any leading axes, on any devices."""
    return _run(schedules.gradients, settings, moving, arrays, coefficients)


def row_tangents(settings: Settings, names: tuple[str, ...], arrays: Arrays, tangents: ByName) -> ByName:
    """As `schedules.row_tangents`, of rows along any leading axes, on any devices."""
    return _run(schedules.row_tangents, settings, names, arrays, tangents)


def _run(function: Callable[..., Any], settings: Settings, names: tuple[str, ...], *arguments: Any) -> Any:
    leaves, structure = jax.tree.flatten(arguments)
    config: Any = jax.config
    sweep = Sweep(
        function,
        settings,
        tuple(sorted(names)),
        structure,
        results=None,
        x64=config.jax_enable_x64,
        precision=config.jax_default_matmul_precision,
    )
    if settings.class_axis is not None or jax.sharding.get_abstract_mesh().manual_axes:
        return _sweep(sweep, *leaves)
    sweep = sweep._replace(results=jax.tree.structure(jax.eval_shape(partial(_sweep, sweep), *leaves)))

    def over_devices(*leaves: Array) -> list[Array]:
        return (_over_devices if settings.layout is None else _over_mesh)(sweep, *leaves)

    # A program shows of a sweep over devices its shapes alone: JAX's cache on disk would take one for another.
    over_devices.__name__ = f"sweep_{_digest(sweep)}"
    # A jaxpr, since JAX looks there for what has to know its devices when it is lowered.
    program = jax.make_jaxpr(jax.jit(over_devices))(*leaves)
    return jax.tree.unflatten(sweep.results, _swept.bind(*leaves, sweep=sweep, program=program))


def _digest(sweep: Sweep) -> str:
    everything = (handgrad.__version__, sweep.function.__name__, *sweep[1:])
    return hashlib.sha256(repr(everything).encode()).hexdigest()[:16]


def _sweep(sweep: Sweep, *leaves: Array) -> Any:
    """The sweep of one device: its rows along one axis, and back."""
    arrays, others = jax.tree.unflatten(sweep.arguments, leaves)
    batch = arrays.a.shape

    def flat(name: str, array: Array) -> Array:
        by_row = name not in BY_CLASS and array is not None
        return array.reshape(arrays.a.size, *array.shape[len(batch) :]) if by_row else array

    rows = Arrays(**{name: flat(name, array) for name, array in arrays._asdict().items()})
    results = sweep.function(
        sweep.settings, sweep.names, rows, {name: flat(name, array) for name, array in others.items()}
    )

    return jax.tree.map_with_path(
        lambda path, array: array if path[-1].key in BY_CLASS else array.reshape(*batch, *array.shape[1:]), results
    )


# --- As a primitive: differentiated and batched as what it computes, transposed by hand ---------------------------

_swept = Primitive("handgrad_sweep")
_swept.multiple_results = True


def _flat(sweep: Sweep, *leaves: Array) -> list[Array]:
    return jax.tree.leaves(_sweep(sweep, *leaves))


_swept.def_impl(lambda *leaves, program, **_: jaxpr_as_fun(program)(*leaves))
_swept.def_abstract_eval(lambda *_, program, **__: program.out_avals)


def _jvp(primals: Any, tangents: Any, *, sweep: Sweep, **_: Any) -> Any:
    moving = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

    def of(*moved: Array) -> list[Array]:
        at = dict(zip(moving, moved, strict=True))
        return _flat(sweep, *(at.get(i, leaf) for i, leaf in enumerate(primals)))

    return jax.jvp(of, [primals[i] for i in moving], [tangents[i] for i in moving])


def _transpose(cotangents: Any, *leaves: Any, sweep: Sweep, **_: Any) -> Any:
    """Of the tangents of rows: Σ_rows c ⟨d value/dz, ẋW + xẆ + ḃ⟩ has the gradients of Σ_rows c · value."""
    arrays, tangents = jax.tree.unflatten(sweep.arguments, leaves)
    pairs = zip(sweep.names, cotangents, strict=True)
    coefficients = {name: c for name, c in pairs if not isinstance(c, ad.Zero)}
    found = gradients(sweep.settings, tuple(tangents), arrays, coefficients)[1]
    moved = {name: found[name].astype(tangent.aval.dtype) for name, tangent in tangents.items()}
    return [None] * len(jax.tree.leaves(arrays)) + [moved[name] for name in sorted(moved)]


def _batch(leaves: Any, axes: Any, *, sweep: Sweep, **_: Any) -> Any:
    results = jax.vmap(partial(_flat, sweep), in_axes=tuple(axes))(*leaves)
    return results, [0] * len(results)


ad.primitive_jvps[_swept] = _jvp
ad.primitive_transposes[_swept] = _transpose
batching.primitive_batchers[_swept] = _batch


# --- Over devices -------------------------------------------------------------------------------------------------
#
# Every axis of an array has a letter: n0, n1, … those of the rows, p of X, q of W, c of the classes; t and u as p and q
# of the teacher; and o of a row of numbers.


@partial(custom_partitioning, static_argnums=(0,))
def _over_devices(sweep: Sweep, *leaves: Array) -> list[Array]:
    return _flat(sweep, *leaves)


def _letters(sweep: Sweep, name: str, array: Any, num_axes: int) -> tuple[str, ...]:
    if name in BY_CLASS:
        own = {"W": "q", "teacher_W": "u"}.get(name, "o")
        return ("c", own) if class_dimension(sweep.settings, name) == 0 else (own, "c")
    last = {"X": "p", "teacher_X": "t", "targets": "c"}.get(name, "")
    return (*(f"n{axis}" for axis in range(num_axes)), last)[: len(array.shape)]


def _named(tree: Any) -> list[tuple[str, Any]]:
    """Each leaf and its name."""
    return [(getattr(path[-1], "name", None) or path[-1].key, leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


def _rule(sweep: Sweep, _mesh: Any, arguments: Any, results: Any) -> str:
    arrays, _ = given = jax.tree.unflatten(sweep.arguments, arguments)
    num_axes = len(arrays.a.shape)
    found = jax.tree.unflatten(sweep.results, results)
    sides = (
        ", ".join(" ".join(_letters(sweep, name, array, num_axes)) for name, array in _named(side))
        for side in (given, found)
    )
    return " -> ".join(sides)


class _Shares(NamedTuple):
    """Over which axes of the mesh each letter lies while a device sweeps, and what its sums are scattered over."""

    axes: dict[str, Axes]
    rows: Axes
    classes: Axes
    X: dict[str, Axes]  # dL/dX along p and along the rows
    W: tuple[Axes, Axes]  # dL/dW along q and along c


def _shares(sweep: Sweep, mesh: Any, arrays: Arrays) -> _Shares:
    def over(name: str, dimension: int, allowed: Callable[[str], bool], parts: int = 1) -> Axes:
        """Of the axes over which an array came, those that are allowed and divide its length."""
        array = getattr(arrays, name)
        spec = (*getattr(array.sharding, "spec", ()), *[None] * len(array.shape))[dimension]
        axes: Axes = ()
        for axis in (spec,) if isinstance(spec, str) else spec or ():
            parts *= mesh.shape[axis]
            if allowed(axis) and array.shape[dimension] % parts == 0:
                axes += (axis,)
        return axes

    def devices(axes: Any) -> int:
        return math.prod(mesh.shape[axis] for axis in axes)

    num_axes = len(arrays.a.shape)
    by_row = {f"n{axis}": over("X", axis, lambda _: True) for axis in range(num_axes)}
    rows = tuple(axis for axes in by_row.values() for axis in axes)
    c = class_dimension(sweep.settings, "W")
    # Of X and W along one axis the lesser is gathered, and its gradient scattered back.
    both = over("W", c, lambda axis: axis in rows)
    num_rows = math.prod(arrays.a.shape) // devices(set(rows) - set(both))
    num_classes = sweep.settings.num_classes // devices(over("W", c, lambda axis: axis not in rows))
    both = both if num_rows < num_classes else ()
    gathered = {letter: tuple(axis for axis in axes if axis in both) for letter, axes in by_row.items()}
    by_row = {letter: tuple(axis for axis in axes if axis not in both) for letter, axes in by_row.items()}
    rows = tuple(axis for axis in rows if axis not in both)
    own = over("W", c, lambda axis: axis not in rows)
    # Along P over an axis that the rows do not lie along: W's own classes there, in place of its features.
    others = over("W", 1 - c, lambda axis: axis not in rows)
    classes = own + others if sweep.settings.num_classes % devices(own + others) == 0 else own
    return _Shares(
        {**by_row, "c": classes},
        rows,
        classes,
        {"p": over("X", num_axes, lambda axis: axis in classes), **gathered},
        (over("W", 1 - c, lambda axis: axis in rows), over("W", c, lambda axis: axis in rows, devices(classes))),
    )


def _partition(sweep: Sweep, mesh: Any, arguments: Any, results: Any) -> Any:
    given = jax.tree.unflatten(sweep.arguments, arguments)
    num_axes = len(given[0].a.shape)
    shares = _shares(sweep, mesh, given[0])
    settings = sweep.settings._replace(class_axis=shares.classes or None)

    def sharding(name: str, array: Any, scattered: dict[str, Axes]) -> NamedSharding:
        letters = _letters(sweep, name, array, num_axes)
        axes = (shares.axes.get(letter, ()) + scattered.get(letter, ()) for letter in letters)
        return NamedSharding(mesh, PartitionSpec(*(each or None for each in axes)))

    def summed(name: str) -> tuple[Axes, dict[str, Axes]]:
        """Over which axes a device's share of a gradient is summed, and how it is scattered."""
        q, c = shares.W
        by_name = {"X": (shares.classes, shares.X), "W": (shares.rows, {"q": q, "c": c}), "b": (shares.rows, {})}
        return by_name.get(name, ((), {}))

    def share(*leaves: Array) -> list[Array]:
        found = []
        for name, array in _named(_sweep(sweep._replace(settings=settings), *leaves)):
            axes, scattered = summed(name)
            for dimension, letter in enumerate(_letters(sweep, name, array, num_axes)):
                if over := scattered.get(letter):
                    array = lax.psum_scatter(array, over, scatter_dimension=dimension, tiled=True)
            left = tuple(axis for axis in axes if not any(axis in over for over in scattered.values()))
            found.append(lax.psum(array, left) if left else array)
        return found

    def alone(*leaves: Array) -> list[Array]:
        # What a device computes is on no mesh, whichever one whoever compiles the program has set.
        with (
            jax.sharding.use_abstract_mesh(AbstractMesh((), ())),
            jax.enable_x64(sweep.x64),
            jax.default_matmul_precision(sweep.precision),
        ):
            return share(*leaves)

    return (
        mesh,
        alone,
        [sharding(name, array, summed(name)[1]) for name, array in _named(jax.tree.unflatten(sweep.results, results))],
        tuple(sharding(name, array, {}) for name, array in _named(given)),
    )


def _inferred(sweep: Sweep, mesh: Any, arguments: Any, results: Any) -> Any:
    """Where results lie, asked for by jax 0.10 with `jax_use_shardy_partitioner` off."""
    return _partition(sweep, mesh, arguments, results)[2]


_over_devices.def_partition(partition=_partition, sharding_rule=_rule, infer_sharding_from_operands=_inferred)


def _over_mesh(sweep: Sweep, *leaves: Array) -> list[Array]:
    """The same where types say how X and W lie."""
    mesh, of_X, of_W = sweep.settings.layout
    specs = {"X": of_X, "W": of_W}
    given = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, specs.get(name, PartitionSpec())))
        for name, leaf in _named(jax.tree.unflatten(sweep.arguments, leaves))
    ]
    _, share, results, places = _partition(sweep, mesh, given, jax.eval_shape(partial(_flat, sweep), *leaves))
    in_specs, out_specs = (tuple(place.spec for place in side) for side in (places, results))
    shared = jax.shard_map(share, mesh=mesh, in_specs=in_specs, out_specs=list(out_specs), check_vma=False)
    return shared(*leaves)


def _lower(context: Any, *leaves: Any, sweep: Sweep, program: Any, asks: bool) -> Any:
    module = context.module_context
    # Who compiles what is exported has nobody to ask.
    can_ask = asks and not module.lowering_parameters.for_export
    if not can_ask and sweep.settings.layout is None and not is_for_one_device(module):
        return _by_the_compiler(context, leaves, sweep)
    return mlir.lower_fun(jaxpr_as_fun(program))(context, *leaves)


def _by_the_compiler(context: Any, leaves: Any, sweep: Sweep) -> Any:
    """No loop over rows, and of blocks of classes each has a piece of every part: what is cut otherwise is gathered."""
    given, settings = jax.tree.unflatten(sweep.arguments, context.avals_in), sweep.settings
    W, batch = given[0].W, given[0].a.shape
    parts = parts_of_arguments(context.module_context, W.shape, class_dimension(settings, "W"), rows=batch[0])
    # Rows that lie over the same devices, or W, would be gathered for each block: rows are once, if they are fewer than
    # classes. Over the other axes of the mesh, other rows are taken to lie.
    num_rows = math.prod(batch) * parts.number // math.prod(size for _, size in parts.sizes)
    apart = len(parts.over) == 1 and num_rows < settings.num_classes
    if apart:
        letters = (_letters(sweep, name, array, len(batch)) for name, array in _named(given))
        leaves = [leaf if "c" in each else whole_over(parts, leaf) for leaf, each in zip(leaves, letters, strict=True)]
    sweep = sweep._replace(settings=settings._replace(parts=parts.number, apart=apart))
    return mlir.lower_fun(partial(_flat, sweep))(context, *leaves)


mlir.register_lowering(_swept, partial(_lower, asks=True))
# Compilers of TPUs do not ask as `custom_partitioning` needs it.
mlir.register_lowering(_swept, partial(_lower, asks=False), platform="tpu")
