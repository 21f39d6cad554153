"""Posteriors on disk: one .npz file with numbers and a JSON header, written whole or not at all, without pickle."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import tercet
from tercet.models._storable import Storable, storable_class, storable_name

FORMAT = 3
Arrays = dict[str, np.ndarray]


class _NotStorableError(ValueError):
    """Something that a file cannot hold."""


def write(path: str | Path, header: Mapping[str, Any], arrays: Arrays, model: Any, projection: Any) -> Path:
    """Write arrays, a JSON header, the model (where it is storable) and the projection of the items; the path written.

    `.npz` is appended to the path where missing. A model that is no `Storable` is left out: it is given when the file
    is loaded.
    """
    target = Path(path)
    target = target if target.suffix == ".npz" else target.with_name(target.name + ".npz")
    stored = dict(arrays)
    own: Arrays = {}
    try:
        described = _encode(model, "model", own)
        stored |= own
    except _NotStorableError:
        described = None
    try:
        mapped = _encode(projection, "projection", stored)
    except _NotStorableError as error:
        raise ValueError(f"the projection of the items cannot be saved: {error}") from None
    whole = {"format": FORMAT, "tercet": tercet.__version__, **header, "model": described, "projection": mapped}
    try:
        text = json.dumps(whole)
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


def read(path: str | Path) -> tuple[dict[str, Any], Arrays]:
    """Header and arrays of a file; the header's `model` and `projection` as objects (None: not there, not known)."""
    try:
        # opened here: np.load leaves a broken file open
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            arrays = {name: file[name] for name in file.files if name != "header"}
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} is not a posterior saved by tercet, or is cut short: {error}") from error
    if header["format"] != FORMAT:
        raise ValueError(
            f"{path} was written by tercet {header['tercet']} in format {header['format']}; this version reads "
            f"format {FORMAT}: " + ("upgrade tercet." if header["format"] > FORMAT else "fit again and save.")
        )
    header["model"], header["projection"] = (_decode(header[name], arrays) for name in ("model", "projection"))
    return header, arrays


def _encode(value: Any, path: str, arrays: Arrays) -> Any:
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
    raise _NotStorableError(f"{type(value).__name__} is no Storable.")


def _decode(value: Any, arrays: Arrays) -> Any:
    """What `_encode` described; None for an object of a class that has not been defined."""
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_decode(each, arrays) for each in value["tuple"])
    if "array" in value:
        return arrays.pop(value["array"])
    fields = {name: _decode(each, arrays) for name, each in value["fields"].items()}
    cls = storable_class(value["class"])
    return None if cls is None else cls(**fields)
