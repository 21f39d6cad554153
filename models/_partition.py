"""Numbers and structure of a value: a compiled program takes the numbers, and serves every equal structure.

Numbers are arrays and finite floats. Everything else is structure: classes, integers, strings, functions, infinities (a
flat prior is another program), the shape of containers.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types
from collections.abc import Hashable
from functools import partial
from typing import Any

import jax
import numpy as np

LIBRARIES = {"jax", "jaxlib", "numpy", "scipy", "numpyro", "optax", "tercet", *sys.stdlib_module_names}
"""Modules whose functions are taken to do the same in every call."""


class UnknownIdentityError(ValueError):
    """Whether two of these do the same cannot be said: no program of one may serve another."""


class Structure:
    """What is left of a value without its numbers; equal for values whose programs are the same.

    Parameters
    ----------
    tree : of all leaves
    fixed : for each leaf that is no number (the leaf, its identity); None for a number
    """

    def __init__(self, tree: Any, fixed: tuple[tuple[object, Hashable] | None, ...]) -> None:
        self._tree, self._fixed = tree, fixed
        self._key = (tree, tuple(None if leaf is None else (leaf[1],) for leaf in fixed))

    def bind(self, numbers: tuple[Any, ...]) -> Any:
        """The value with these numbers."""
        rest = iter(numbers)
        leaves = [next(rest) if leaf is None else leaf[0] for leaf in self._fixed]
        return jax.tree.unflatten(self._tree, leaves)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def partition(value: object) -> tuple[tuple[Any, ...], Structure]:
    """The numbers of a value, in order, and its structure; raises `UnknownIdentityError` where that is not known.

    Parameters
    ----------
    value : any pytree; models are pytrees (`ModelPytree`), functions are leaves
    """
    leaves, tree = jax.tree.flatten(value)
    fixed = tuple(None if is_number(leaf) else (leaf, identity(leaf)) for leaf in leaves)
    return tuple(leaf for leaf in leaves if is_number(leaf)), Structure(tree, fixed)


class ModelPytree:
    """Base of models, heads and the like, frozen dataclasses: finite floats and arrays in their fields are leaves.

    JAX then traces a prior scale or a known volatility like data, and one program serves all their values. A field on
    whose value Python has to decide is an integer, a string or a bool: these are structure, and so is an infinity.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

        def flatten(model: Any) -> tuple[list[tuple[Any, Any]], tuple[tuple[str, Structure], ...]]:
            parts = {field.name: _parts(getattr(model, field.name)) for field in dataclasses.fields(model)}
            keyed = [(jax.tree_util.GetAttrKey(name), numbers) for name, (numbers, _) in parts.items()]
            return keyed, tuple((name, structure) for name, (_, structure) in parts.items())

        def unflatten(aux: tuple[tuple[str, Structure], ...], values: Any) -> Any:
            model: Any = object.__new__(cls)
            for (name, structure), numbers in zip(aux, values, strict=True):
                object.__setattr__(model, name, structure.bind(numbers))
            return model

        jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)


def _parts(value: object) -> tuple[tuple[Any, ...], Structure]:
    try:
        return partition(value)
    except UnknownIdentityError:  # the same only if it is the same object
        return (), Structure(jax.tree.structure(0), ((value, id(value)),))


def is_number(leaf: object) -> bool:
    """Whether a leaf is an argument of programs: a numeric array or a finite float."""
    if isinstance(leaf, jax.Array):
        return True
    if isinstance(leaf, (np.ndarray, np.floating)):
        return leaf.dtype.kind in "fiubc"
    return isinstance(leaf, float) and math.isfinite(leaf)


def identity(value: object, seen: frozenset[int] = frozenset()) -> Hashable:
    """A key that two values share only where a program compiled for one is right for the other.

    Functions go by their code and by what they refer to, since a program has the values baked in that they had when it
    was compiled: a notebook that changes a global constant gets another program. Of libraries they go by themselves.
    """
    if id(value) in seen:
        return "recursion"
    seen = seen | {id(value)}
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, type(...))):
        return type(value), repr(value) if isinstance(value, float) else value
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return _array(value)
    if isinstance(value, partial):
        return "partial", identity((value.func, value.args, value.keywords), seen)
    if isinstance(value, types.MethodType):
        return "method", identity((value.__func__, value.__self__), seen)
    if isinstance(value, types.FunctionType):
        return _function(value, seen)
    if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType, np.ufunc)):
        return value
    if _is_handler(value):
        return type(value), identity(vars(value), seen)
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(identity(each, seen) for each in value)
    leaves, tree = jax.tree.flatten(value)
    if not (len(leaves) == 1 and leaves[0] is value):  # containers, distributions, models
        order = tuple(value) if isinstance(value, dict) else None
        return tree, order, tuple(identity(leaf, seen) for leaf in leaves)
    if dataclasses.is_dataclass(value) and type(value).__hash__ is not object.__hash__ and _is_frozen(value):
        return type(value), tuple(identity(getattr(value, field.name), seen) for field in dataclasses.fields(value))
    raise UnknownIdentityError(f"whether two of {type(value).__name__} do the same cannot be said.")


def _array(value: Any) -> Hashable:
    if isinstance(value, jax.core.Tracer):
        raise UnknownIdentityError("a traced value has no identity.")
    if isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    if array.dtype.kind == "O":
        raise UnknownIdentityError("an array of objects has no identity.")
    return array.dtype.str, array.shape, array.tobytes()


def _function(value: types.FunctionType, seen: frozenset[int]) -> Hashable:
    if (value.__module__ or "").split(".")[0] in LIBRARIES and "<locals>" not in value.__qualname__:
        return value
    try:
        cells = tuple(cell.cell_contents for cell in value.__closure__ or ())
    except ValueError:  # a cell that is still empty
        raise UnknownIdentityError(f"{value.__name__} refers to a name without a value.") from None
    named = {name: value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__}
    return value.__code__, identity((cells, value.__defaults__, value.__kwdefaults__, named), seen)


def _names(code: types.CodeType) -> list[str]:
    """Names that this code and the functions defined in it look up."""
    inner = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const)]
    return sorted({*code.co_names, *inner})


def _is_handler(value: object) -> bool:
    """Whether this is one of NumPyro's effect handlers (by name: importing NumPyro takes a second)."""
    return ("numpyro.primitives", "Messenger") in ((cls.__module__, cls.__name__) for cls in type(value).__mro__)


def _is_frozen(value: Any) -> bool:
    return bool(type(value).__dataclass_params__.frozen)
