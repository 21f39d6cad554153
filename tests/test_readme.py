"""The README's Python runs as it stands, and what it names exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_are_blocks_to_run():
    assert len(BLOCKS) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][:40])
def test_block_runs(block, tmp_path):
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_ten_lines_are_ten_lines():
    first = BLOCKS[0].split("\n")
    assert len([line for line in first if line.strip() and not line.startswith(("from", "import"))]) <= 10


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:docs|notebooks|datasets|benchmarks)/[\w./]+)`", README))))
def test_files_it_names_exist(path):
    assert (ROOT / path).exists()


def test_pictures_it_shows_exist():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / path).exists(), path
