"""Numbers of the whole package in one file, so that two trees can be compared to 1e-10.

    python benchmarks/unchanged.py write OLD.npz [--only PREFIX ...]
    python benchmarks/unchanged.py compare OLD.npz NEW.npz

Write before a change that must change no number, and again after it. The results are in `unchanged_results.py`.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy and scikit-learn: sums are taken in one order
os.environ["OMP_NUM_THREADS"] = "1"

import jax
import numpy as np
import pandas as pd
import unchanged_sites_and_snapshots  # noqa: F401  (registers its results)
from unchanged_results import RESULTS

TOLERANCE = 1e-10
LEFT_OUT = "gradient_norm"  # rounding and nothing else


def numbers(value: Any, path: str = "") -> dict[str, np.ndarray]:
    """Every array in nested dicts, tuples and data frames, by its path."""
    if value is None:
        return {}
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, pd.Series):
        value = {"index": value.index.tolist(), "values": value.tolist()}
    if isinstance(value, pd.DataFrame):
        value = {"index": value.index.tolist()} | {str(name): np.asarray(value[name].tolist()) for name in value}
    if isinstance(value, (list, tuple)) and not all(np.isscalar(part) for part in value):
        value = {str(k): part for k, part in enumerate(value)}
    if isinstance(value, Mapping):
        kept = {f"{path}.{name}".lstrip("."): part for name, part in value.items() if name != LEFT_OUT}
        return {key: array for name, part in kept.items() for key, array in numbers(part, name).items()}
    array = np.asarray(value)
    if array.dtype.kind not in "biufUO" or (array.dtype.kind == "O" and array.ndim == 0):
        raise TypeError(f"{path} is {type(value).__name__}, which is no number.")
    return {path or "value": array.astype(str) if array.dtype.kind == "O" else array}


def write(path: Path, only: Iterable[str]) -> int:
    """Compute the results whose names start so, and keep their numbers; how many failed."""
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    chosen = [name for name in RESULTS if not only or name.startswith(tuple(only))]
    arrays: dict[str, np.ndarray] = {}
    failed = []
    for name in chosen:
        start = time.process_time()
        try:
            arrays |= {f"{name}|{key}": array for key, array in numbers(RESULTS[name]()).items()}
        except Exception:
            failed.append(f"FAILED: {name}\n{traceback.format_exc()}")
        print(f"{time.process_time() - start:6.1f} s  {name}", flush=True)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    print(f"{len(chosen) - len(failed)} of {len(chosen)} results, {len(arrays)} arrays, in {path}")
    print(*failed, sep="\n", file=sys.stderr)
    return len(failed)


def difference(old: np.ndarray, new: np.ndarray) -> float:
    """Largest difference, in units of the largest old number; infinite where shape, text or gaps differ."""
    if old.shape != new.shape or (old.dtype.kind == "U") != (new.dtype.kind == "U"):
        return math.inf
    if old.dtype.kind == "U":
        return 0.0 if (old == new).all() else math.inf
    a, b = old.astype(float), new.astype(float)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return math.inf
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0) / (np.abs(a[finite]).max(initial=0.0) or 1.0))


def compare(before: Path, after: Path) -> int:
    """Print the largest difference of each result; how many are above the tolerance or missing."""
    with np.load(before) as one, np.load(after) as two:
        old, new = dict(one), dict(two)
    worst: dict[str, tuple[float, str]] = {}
    for key in old | new:
        name, part = key.split("|", 1)
        lost = key not in new or key not in old
        found = (math.inf, f"{part} is in one file only") if lost else (difference(old[key], new[key]), part)
        worst[name] = max(worst.get(name, (0.0, "")), found)
    bad = sum(off > TOLERANCE for off, _ in worst.values())
    for name, (off, part) in worst.items():
        print(f"{off:8.1e}  {name}" + (f"  ({part})" if off else "") + ("  CHANGED" if off > TOLERANCE else ""))
    print(f"{bad} of {len(worst)} results differ by more than {TOLERANCE}")
    return bad


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("write")
    make.add_argument("path", type=Path)
    make.add_argument("--only", nargs="*", default=[], metavar="PREFIX")
    hold = commands.add_parser("compare")
    hold.add_argument("old", type=Path)
    hold.add_argument("new", type=Path)
    asked = parser.parse_args()
    sys.exit(1 if (write(asked.path, asked.only) if asked.command == "write" else compare(asked.old, asked.new)) else 0)
