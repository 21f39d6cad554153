"""Numbers and structure of a value: a compiled program takes the numbers, and serves every equal structure.

Numbers are arrays and finite floats. Everything else is structure: classes, integers, strings, functions, infinities (a
flat prior is another program), the shape of containers.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

LIBRARIES = {"jax", "jaxlib", "numpy", "scipy", "numpyro", "optax", "tercet", *sys.stdlib_module_names}
"""Modules whose functions are taken to do the same in every call."""


class UnknownIdentityError(ValueError):
    """Whether two of these do the same cannot be said: no program of one may serve another."""


class _Slot:
    """Where a number goes in a structure."""


SLOT = _Slot()


class Fixed(NamedTuple):
    """A leaf that is no number, and a key that it shares with those that do the same."""

    value: object
    key: Hashable


@dataclasses.dataclass(frozen=True, eq=False)
class Structure:
    """A value without its numbers; equal, and of one hash, where it is the same function of them.

    Attributes
    ----------
    tree : of the pytree
    leaves : for each leaf `SLOT`, the structure of a mapping or a partial, or what it is
    wrap : "" for a pytree as it is, "mapping" or "partial" for the items or parts of one
    """

    tree: Any
    leaves: tuple[_Slot | Structure | Fixed, ...]
    wrap: str = ""

    @cached_property
    def _key(self) -> Hashable:
        return self.wrap, self.tree, *(leaf.key if isinstance(leaf, Fixed) else leaf for leaf in self.leaves)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Structure) and self._key == other._key)

    def __hash__(self) -> int:
        return hash(self._key)

    def bind(self, numbers: Iterable[Any]) -> Any:
        """The value with these numbers."""
        return self._take(iter(numbers))

    def _take(self, numbers: Iterator[Any]) -> Any:
        value = jax.tree.unflatten(self.tree, [_taken(leaf, numbers) for leaf in self.leaves])
        if self.wrap == "mapping":
            return dict(value)
        if self.wrap == "partial":
            function, args, keywords = value
            return partial(function, *args, **keywords)
        return value


def _taken(leaf: _Slot | Structure | Fixed, numbers: Iterator[Any]) -> Any:
    if isinstance(leaf, Structure):
        return leaf._take(numbers)
    return leaf.value if isinstance(leaf, Fixed) else next(numbers)


Parts = tuple[tuple[Any, ...], Structure]
"""The numbers of a value, in order, and its structure."""


def partition(value: object, is_number: Callable[[object], bool] | None = None, strict: bool = True) -> Parts:
    """Take a value apart into its numbers and its structure.

    Parameters
    ----------
    value : any pytree; models are pytrees (`ModelPytree`), functions are leaves
    is_number : which leaves are numbers; by default numeric arrays and finite floats
    strict : raise `UnknownIdentityError` for a leaf of which it cannot be said what it does; else it is equal to itself
        alone
    """
    numbers: list[Any] = []
    chosen = is_numeric if is_number is None else is_number

    def structure(value: object, wrap: str = "") -> Structure:
        leaves, tree = jax.tree.flatten(value, is_leaf=lambda node: isinstance(node, Mapping))
        return Structure(tree, tuple(map(part, leaves)), wrap)

    def part(leaf: Any) -> _Slot | Structure | Fixed:
        if isinstance(leaf, Mapping):  # as items it keeps their order, in which priors are drawn from
            return structure(tuple(leaf.items()), "mapping")
        if isinstance(leaf, partial):
            return structure((leaf.func, leaf.args, leaf.keywords), "partial")
        if chosen(leaf):
            numbers.append(leaf)
            return SLOT
        try:
            return Fixed(leaf, identity(leaf))
        except UnknownIdentityError:
            if strict:
                raise
            return Fixed(leaf, ("object", id(leaf)))

    whole = structure(value)
    return tuple(numbers), whole


def is_numeric(leaf: object) -> bool:
    """Whether a leaf is a numeric array or a finite float."""
    if isinstance(leaf, jax.Array):
        return True
    if isinstance(leaf, (np.ndarray, np.floating)):
        return leaf.dtype.kind in "fiubc"
    return isinstance(leaf, float) and math.isfinite(leaf)


def is_real(leaf: object) -> bool:
    """The same without integers: in a model these are sizes and indices."""
    if isinstance(leaf, (np.ndarray, jax.Array)):
        return bool(jax.numpy.issubdtype(leaf.dtype, np.floating))
    return isinstance(leaf, float) and math.isfinite(leaf)


class ModelPytree:
    """Base of models, heads, drifts and the like, frozen dataclasses: real numbers in their fields are leaves.

    Finite floats and arrays of them, those inside priors and inside a `functools.partial` included. JAX then traces a
    prior scale or a known volatility like data, and one program serves all their values. A field on whose value Python
    has to decide is an integer, a string or a bool: these are structure, and so is an infinity. The checks of a class
    run when a user builds it, not when JAX rebuilds it.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_pytree_node(cls, _flatten, partial(_rebuild, cls))

    @cached_property
    def parts(self) -> Parts:
        """Numbers and structure of the fields."""
        return partition(tuple(getattr(self, field.name) for field in dataclasses.fields(self)), is_real, strict=False)


def _flatten(model: ModelPytree) -> Parts:
    return model.parts


def _rebuild(cls: type[ModelPytree], structure: Structure, numbers: Any) -> Any:
    built: Any = object.__new__(cls)
    for field, value in zip(dataclasses.fields(cls), structure.bind(numbers), strict=True):
        object.__setattr__(built, field.name, value)
    # Kept: whatever JAX puts in the place of a number (a shape, a marker) is one still.
    built.__dict__["parts"] = tuple(numbers), structure
    return built


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
