"""Posteriors on disk: one .npz file with numbers and a JSON header, written whole or not at all, without pickle."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

import tercet
from tercet.inference.posteriors.sites import Model
from tercet.models._storable import Storable, storable_class, storable_name
from tercet.models.items.projection import FeatureMap

FORMAT = 3
Arrays = dict[str, np.ndarray]
Json = dict[str, Any] | bool | int | float | str | None
"""How a value is described in the header."""


@dataclasses.dataclass(frozen=True, eq=False)
class Header:
    """What a file holds of a posterior besides its arrays.

    Parameters
    ----------
    kind, diagnostics : as of the posterior
    posterior : name of its class
    coords : names along the plates of the model
    layout, positive : of a `SiteGaussian`, else None and empty
    model : the model of the fit; None where it is not storable, or of a class that has not been defined
    projection : the map from raw embeddings to the features of the items, if there is one
    undefined : name of the class that would have to be defined to read the model
    """

    kind: str
    posterior: str
    diagnostics: Mapping[str, float | int]
    coords: Mapping[str, list[Hashable]]
    layout: tuple[tuple[str, int], ...] | None
    positive: tuple[str, ...] = ()
    model: Model | None = None
    projection: FeatureMap | None = None
    undefined: str | None = None


class _NotStorableError(ValueError):
    """A value that a file cannot hold."""


class _UndefinedClassError(ValueError):
    """A file names a class that has not been defined, or is not `Storable`."""


def write(path: str | Path, header: Header, arrays: Arrays) -> Path:
    """Write a posterior and return the path, to which `.npz` is appended where missing.

    A model that is not `Storable` is left out: it has to be given when the file is loaded.
    """
    target = Path(path)
    target = target if target.suffix == ".npz" else target.with_name(target.name + ".npz")
    of_model: Arrays = {}
    try:
        model = _encode(header.model, "model", of_model)
    except _NotStorableError:
        model, of_model = None, {}
    stored = arrays | of_model
    try:
        projection = _encode(header.projection, "projection", stored)
    except _NotStorableError as error:
        raise ValueError(f"the projection of the items cannot be saved: {error}") from None
    described = {
        "format": FORMAT,
        "tercet": tercet.__version__,
        "kind": header.kind,
        "class": header.posterior,
        "coords": header.coords,
        "diagnostics": dict(header.diagnostics),
        "layout": header.layout,
        "positive": header.positive,
        "model": model,
        "projection": projection,
    }
    try:
        text = json.dumps(described)
    except TypeError as error:
        raise ValueError(f"names of items and annotators must be str or numbers to be saved: {error}") from None
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, **stored | {"header": np.array(text)})  # type: ignore[arg-type]
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
    return target


def read(path: str | Path) -> tuple[Header, Arrays]:
    """Header and arrays of a file."""
    try:
        # opened here: np.load leaves a broken file open
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            described = json.loads(str(file["header"]))
            arrays = {name: file[name] for name in file.files if name != "header"}
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} is not a posterior saved by tercet, or is cut short: {error}") from error
    if described["format"] != FORMAT:
        raise ValueError(
            f"{path} was written by tercet {described['tercet']} in format {described['format']}; this version reads "
            f"format {FORMAT}: " + ("upgrade tercet." if described["format"] > FORMAT else "fit again and save.")
        )
    model = undefined = None
    try:
        model = _decode(described["model"], arrays)
    except _UndefinedClassError as error:
        undefined = str(error)
    try:
        projection = _decode(described["projection"], arrays)
    except _UndefinedClassError as error:
        raise ValueError(
            f"the features of the items were made by an object of class {error}, which has not been defined; define or "
            f"import it before {path} is loaded."
        ) from None
    layout = described["layout"] and tuple((name, length) for name, length in described["layout"])
    return Header(
        described["kind"], described["class"], described["diagnostics"], described["coords"], layout,
        tuple(described.get("positive", ())),
        cast(Model | None, model), cast(FeatureMap | None, projection), undefined,
    ), arrays  # fmt: skip


def _encode(value: Any, path: str, arrays: Arrays) -> Json:
    """A JSON value for `value`; its arrays go into `arrays` under names that start with `path`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return {"tuple": [_encode(each, f"{path}/{k}", arrays) for k, each in enumerate(value)]}
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__"):
        arrays[path] = np.asarray(value)
        return {"array": path}
    if isinstance(value, Storable) and dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {
            "class": storable_name(type(value)),
            "fields": {name: _encode(each, f"{path}/{name}", arrays) for name, each in fields.items()},
        }
    raise _NotStorableError(f"{type(value).__name__} is not Storable.")


def _decode(value: Json, arrays: Arrays) -> object:
    """The value that `_encode` described."""
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_decode(each, arrays) for each in value["tuple"])
    if "array" in value:
        return arrays.pop(value["array"])
    name = value["class"]
    try:
        cls = storable_class(name)
    except ImportError:
        cls = None
    if cls is None:
        raise _UndefinedClassError(name)
    fields = {field: _decode(each, arrays) for field, each in value["fields"].items()}
    try:
        return cls(**fields)
    except TypeError as error:
        raise ValueError(f"the file holds a {name} with the fields {sorted(fields)}: {error}; fit again.") from error
