"""Which program is compiled where: what only the compiler knows, since a traced array does not say where it lies.

And what a traced array does say, in a mesh of explicit axes.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import sdy
from jax.interpreters import mlir


def if_on_one_cpu(then: Callable[..., Any], otherwise: Callable[..., Any], *arguments: Any) -> Any:
    """What `then` computes in a program for one CPU, and what `otherwise` does in any other: they give the same.

    Within a `shard_map` over all axes of its mesh each device has a program of its own. Under `vmap` it is `otherwise`.
    Neither is differentiated here: this stands below a rule of differentiation.
    """

    @jax.custom_batching.custom_vmap
    def choose(*arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        one, _ = _trace(then, structure, leaves)
        many, result = _trace(otherwise, structure, leaves)
        return jax.tree.unflatten(jax.tree.structure(result), _choice.bind(*leaves, one=one, many=many))

    @choose.def_vmap
    def batched(axis_size: int, in_batched: Any, *arguments: Any) -> Any:
        axes = jax.tree.map(lambda batched: 0 if batched else None, tuple(in_batched))
        result = jax.vmap(otherwise, axes, axis_size=axis_size)(*arguments)
        return result, jax.tree.map(lambda _: True, result)

    return choose(*arguments)


def _trace(function: Callable[..., Any], structure: Any, leaves: list[Any]) -> Any:
    return jax.make_jaxpr(lambda *leaves: function(*jax.tree.unflatten(structure, leaves)), return_shape=True)(*leaves)


_choice = Primitive("if_on_one_cpu")
_choice.multiple_results = True
_choice.def_abstract_eval(lambda *_, many, **__: many.out_avals)
_choice.def_impl(lambda *leaves, many, **_: jaxpr_as_fun(many)(*leaves))


def _lower(context: Any, *values: Any, one: Any, many: Any) -> Any:
    chosen = one if _is_for_one_cpu(context.module_context) else many
    return mlir.lower_fun(jaxpr_as_fun(chosen), multiple_results=True)(context, *values)


mlir.register_lowering(_choice, _lower)


def _is_for_one_cpu(module: Any) -> bool:
    return is_for_one_device(module) and tuple(getattr(module, "platforms", ())) == ("cpu",)


def is_for_one_device(module: Any) -> bool:
    """Whether a program, by the context of its lowering, is one for a single device."""
    # Where JAX should name these otherwise one day, it is the program that is right anywhere.
    devices = getattr(module, "axis_context", None)
    mesh, manual_axes = getattr(devices, "mesh", None), getattr(devices, "manual_axes", None)
    return getattr(devices, "num_devices", None) == 1 or (mesh is not None and manual_axes == set(mesh.axis_names))


class Parts(NamedTuple):
    """In how many parts an array lies along one of its axes; and over which axes of a mesh, where that is certain."""

    number: int
    sizes: tuple[tuple[str, int], ...] = ()  # of the mesh
    over: tuple[str, ...] = ()


def parts_of_arguments(module: Any, shape: tuple[int, ...], axis: int, rows: int) -> Parts:
    """Into what an array of a program is cut along one of its axes, as the arguments say; a whole where they do not.

    How an array within a program will lie, nobody knows yet; but as what it is made of, if its compiler has a choice.
    That is what has its shape; or else an axis as long; or else, by whatever axis, what is neither integers nor by row.
    """
    functions = (each for each in module.module.body.operations if each.operation.name == "func.func")
    main = next((each for each in functions if each.name.value == "main"), None)
    if main is None or not hasattr(main, "arg_attrs"):
        return Parts(1)
    exact: set[Parts] = set()
    alike: set[Parts] = set()
    others: set[Parts] = set()
    for kind, attributes in zip(main.type.inputs, main.arg_attrs, strict=True):
        lengths = tuple(kind.shape)
        known = "sdy.sharding" in attributes
        parts = _parts(str(attributes["sdy.sharding"])) if known else [Parts(1)] * len(lengths)
        exact.update(parts[axis : axis + 1] if lengths == shape else [])
        alike.update(each for each, length in zip(parts, lengths, strict=False) if length == shape[axis])
        others.update([] if "i" in str(kind.element_type) or lengths[:1] == (rows,) else parts)
    if len(certain := exact or alike) == 1:
        return certain.pop()
    return Parts(math.gcd(math.lcm(*(each.number for each in certain or others)), shape[axis]))


def _parts(sharding: str) -> list[Parts]:
    """Of `<mesh<["data"=2, "model"=4]>, [{}, {"data", "model"}]>` the 1 and 8."""
    sizes = {name: int(size) for name, size in re.findall(r'"([^"]+)"=(\d+)', sharding)}
    axes = (re.findall(r'"([^"]+)"', each) for each in re.findall(r"\{([^{}]*)\}", sharding.split(">, [", 1)[-1]))
    several = (tuple(name for name in over if sizes[name] > 1) for over in axes)
    return [Parts(math.prod(sizes[name] for name in over), tuple(sizes.items()), over) for over in several]


def whole_over(parts: Parts, array: Any) -> Any:
    """An array of a program that is being lowered, the same on all devices over which the parts lie."""
    mesh = ", ".join(f'"{name}"={size}' for name, size in parts.sizes)
    over = ", ".join(f'"{name}"' for name in parts.over)
    axes = ", ".join("{?}" for _ in ir.RankedTensorType(array.type).shape)
    sharding = f"#sdy.sharding<mesh<[{mesh}]>, [{axes}], replicated={{{over}}}>"
    return sdy.sharding_constraint(array, ir.Attribute.parse(sharding))


def explicit_mesh(arguments: Any) -> Any:
    """The mesh with explicit axes over which one of the arrays lies, if there is one."""
    meshes = (jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(arguments) if isinstance(leaf, jax.Array))
    return next((mesh for mesh in meshes if mesh.explicit_axes), None)


def in_auto_axes(mesh: Any, function: Callable[..., Any], arguments: tuple[Any, ...], result: Any) -> Any:
    """The function of arrays whose types do not say how they are sharded; its result lies as the specs say.

    What is not JAX's it gets as it is, to be judged before it is cast.
    """
    leaves, structure = jax.tree.flatten(arguments)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

    def of(*arrays: Any) -> Any:
        at = dict(zip(places, arrays, strict=True))
        return function(*jax.tree.unflatten(structure, [at.get(i, leaf) for i, leaf in enumerate(leaves)]))

    with jax.sharding.use_abstract_mesh(mesh):
        arrays = [leaves[i] for i in places]
        return jax.sharding.auto_axes(of, axes=mesh.explicit_axes, out_sharding=result)(*arrays)
