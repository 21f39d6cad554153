"""Run every notebook into build/notebooks/, outputs included; the files here stay without outputs.

python notebooks/execute.py [NAME ...]      TERCET_SMOKE=1 runs them at toy size
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def main() -> None:
    names = sys.argv[1:] or sorted(path.stem for path in HERE.glob("*.ipynb"))
    out = HERE.parent / "build" / "notebooks"
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        begin = time.perf_counter()
        notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
        NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": out}}).execute()
        nbformat.write(notebook, out / f"{name}.ipynb")
        print(f"{name}: {time.perf_counter() - begin:.0f} s, written to build/notebooks/{name}.ipynb")


if __name__ == "__main__":
    main()
