"""Programs shared by all models and data of one structure: what is made for one is kept, and takes the others' numbers.

Nothing that was learned or measured is a constant of a program, and a second fit of an equal model to data of the same
shapes compiles nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import cache, lru_cache
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from tercet.inference.posteriors.sites import Model, bare_arrays_as_jax
from tercet.models._inputs import as_jax
from tercet.models._partition import Structure, UnknownIdentityError, is_number, partition

Numbers = tuple[jax.Array, ...]
"""Data and numbers of a model, in the order of its leaves."""
Bound = tuple[Model, tuple[object, ...], Mapping[str, object]]
"""A model with its positional and keyword arguments."""
Bind = Callable[[Numbers], Bound]
"""From numbers to the model and its arguments."""
Made = TypeVar("Made")
CACHED = 256
"""Structures and shapes whose programs are kept."""


@runtime_checkable
class Prepared(Protocol):
    """A model that checks its data and brings them into the form in which its programs take them."""

    def prepared(self, *args: Any, **kwargs: Any) -> Bound:
        """An equal model on arguments filled up to a size class with weight zero, without names."""
        ...


def shared(bound: Bound, make: Callable[..., Made], *settings: Hashable) -> tuple[Made, Numbers]:
    """What `make` makes of a model with its data, once for all of their structure and shapes; and their numbers.

    A model that looks at the values of its data in Python cannot be traced without them: it has them as constants, and
    what is made is its own.

    Parameters
    ----------
    bound : model and data
    make : from (bind, numbers, *settings) to programs: a function that puts numbers in, and numbers of which only
        shapes are read
    settings : further arguments of `make`
    """
    try:
        leaves, structure = partition(bound)
        hash(structure)
    except (UnknownIdentityError, TypeError):  # what cannot be hashed raises a TypeError
        return _unshared(bound, make, settings)
    numbers = _as_numbers(leaves)
    shapes = tuple((number.shape, str(number.dtype)) for number in numbers)
    try:
        return _kept(make, settings, structure, shapes, jnp.result_type(float) == np.float64), numbers
    except jax.errors.JAXTypeError:
        return make(_with_constants(bound), (), *settings), ()


@lru_cache(maxsize=CACHED)
def _kept(
    make: Callable[..., Any], settings: tuple[Hashable, ...], structure: Structure, shapes: tuple[Any, ...], x64: bool
) -> Any:
    return make(structure.bind, tuple(abstract(shape, _dtype(name)) for shape, name in shapes), *settings)


def abstract(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of which only the shape is known, to trace with."""
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def _dtype(name: str) -> Any:
    return jax.random.key(0).dtype if name.startswith("key<") else np.dtype(name)


def _unshared(bound: Bound, make: Callable[..., Made], settings: tuple[Hashable, ...]) -> tuple[Made, Numbers]:
    """What is made for one model alone; its data are arguments where they can be traced."""
    model, args, kwargs = bound
    leaves, tree = jax.tree.flatten((args, kwargs))
    where = [k for k, leaf in enumerate(leaves) if is_number(leaf)]

    def bind(numbers: Numbers) -> Bound:
        filled = dict(enumerate(leaves)) | dict(zip(where, numbers, strict=True))
        own, named = jax.tree.unflatten(tree, list(filled.values()))
        return model, own, named

    try:
        numbers = _as_numbers(tuple(leaves[k] for k in where))
        return make(bind, numbers, *settings), numbers
    except jax.errors.JAXTypeError:
        return make(_with_constants(bound), (), *settings), ()


def _with_constants(bound: Bound) -> Bind:
    model, args, kwargs = bound
    args, kwargs = bare_arrays_as_jax((args, kwargs))
    return lambda _: (model, args, kwargs)


def _as_numbers(leaves: tuple[Any, ...]) -> Numbers:
    return tuple(as_jax([np.asarray(leaf) if isinstance(leaf, (float, np.generic)) else leaf for leaf in leaves]))


@cache
def run_once_options() -> dict[str, bool | int] | None:
    """Compiler options of programs that run once: four times quicker to compile, a few times slower to run.

    None where the installed XLA does not know them. For CPUs: elsewhere the options have other effects.
    """
    options: dict[str, bool | int] = {
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
    }
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(jnp.negative, compiler_options=options).lower(0.0).compile()
    except Exception:  # XLA's own error, of another class in every version
        return None
    return options


def compiled_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` for a program that runs once or twice: compiled quickly, without optimisation."""
    return jax.jit(function, compiler_options=run_once_options())
