"""Run every notebook and write it with its outputs to build/notebooks/; the notebooks in this folder have none.

python notebooks/execute.py [NAME ...]      TERCET_SMOKE=1: on small data; --workers 2: two at a time
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
OUT = HERE.parent / "build" / "notebooks"


def execute(name: str) -> None:
    begin = time.perf_counter()
    notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": OUT}}).execute()
    nbformat.write(notebook, OUT / f"{name}.ipynb")
    print(f"{name}: {time.perf_counter() - begin:.0f} s, written to build/notebooks/{name}.ipynb", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=sorted(path.stem for path in HERE.glob("*.ipynb")))
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(args.workers) as pool:  # each notebook's kernel is a process of its own
        list(pool.map(execute, args.names))


if __name__ == "__main__":
    main()
