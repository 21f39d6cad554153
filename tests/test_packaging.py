"""The package as strangers install it: wheel, sdist, plain and editable, each used far from this checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[1]
ROOMS = ("models", "inference", "designs", "datasets", "plots")
JOB = """
import importlib.util, pathlib, sys
home = pathlib.Path(sys.argv[1])
import tercet
from tercet.designs import select_pairs
from tercet.datasets import word_valence
from tercet.inference import laplace
from tercet.models import BradleyTerry, LinearHead
import tercet.plots
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] == "tercet":
        assert home in pathlib.Path(module.__file__).parents, (name, module.__file__)
for room in ("models", "inference", "designs", "datasets", "plots"):
    assert importlib.util.find_spec(room) is None, room
words = word_valence(4)
answers = words.answer([[k, k + 1] for k in range(0, 60, 2)])
picked = select_pairs(words.items, laplace(BradleyTerry(LinearHead(1.0)), words.items, answers), 3, candidates=100)
assert picked.chosen.shape == (3, 2)
print(tercet.__version__, len(words.items))
"""


def call(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Output of a command; what it said where it failed."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_TARGET"))}
    line = [str(part) for part in command]
    done = subprocess.run(line, cwd=cwd, env=settings | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Fresh copies of what git tracks or would track."""
    listed = call("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")

    def copy() -> Path:
        folder = tmp_path_factory.mktemp("checkout")
        for name in listed:
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        return folder

    return copy


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that holds the build backend and nothing else."""
    folder = tmp_path_factory.mktemp("builder")
    call(sys.executable, "-m", "venv", folder, cwd=folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    call(python, "-m", "pip", "install", "--quiet", "setuptools>=77", "wheel", cwd=folder)
    return python


@pytest.fixture(scope="module")
def wheel(builder: Path, checkout: Callable[[], Path]) -> Path:
    folder = checkout()
    call(builder, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "dist", ".", cwd=folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def sdist(builder: Path, checkout: Callable[[], Path]) -> Path:
    folder = checkout()
    build = "import setuptools.build_meta as backend; backend.build_sdist('dist')"
    call(builder, "-c", build, cwd=folder)
    (built,) = (folder / "dist").glob("*.tar.gz")
    return built


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_holds_the_rooms_their_data_and_nothing_else(wheel: Path) -> None:
    held = names(wheel)
    assert {name.split("/")[0] for name in held if ".dist-info/" not in name} == {"tercet"}
    assert {name.split("/")[1] for name in held if name.startswith("tercet/") and name.count("/") > 1} == set(ROOMS)
    expected = {"tercet/__init__.py", "tercet/compilation_cache.py", "tercet/py.typed"}
    for room in ROOMS:
        for file in (ROOT / room).rglob("*"):
            if file.suffix in {".py", ".pyi", ".npz", ".md", ".js", ".css"} or file.name == "py.typed":
                expected.add(f"tercet/{room}/{file.relative_to(ROOT / room).as_posix()}")
    assert {name for name in held if name.startswith("tercet/")} == expected
    widget = "designs/campaigns/pair_widget.js"
    for name in ("datasets/word_valence.npz", "datasets/WORD_VALENCE.md", widget, "plots/py.typed"):
        assert f"tercet/{name}" in held
    assert any(name.endswith("LICENSE") and ".dist-info/" in name for name in held)
    assert any(name.endswith("WORD_VALENCE.md") and ".dist-info/" in name for name in held)


def test_wheel_names_itself_and_what_it_needs(wheel: Path) -> None:
    import tercet

    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(path).decode().splitlines()
        commands = archive.read(path.replace("METADATA", "entry_points.txt")).decode().split()
    assert "Name: tercet" in lines
    assert " ".join(commands) == "[console_scripts] tercet-select = tercet.designs.campaigns.command_line:main"
    assert f"Version: {tercet.__version__}" in lines
    assert "Requires-Python: >=3.11" in lines
    assert "License-Expression: MIT" in lines
    required = {re.split(r"[^\w.-]", line.split()[1])[0] for line in lines if line.startswith("Requires-Dist")}
    assert {"jax", "numpyro", "arviz", "numpy", "scipy", "pandas", "matplotlib", "tqdm"} <= required


def test_sdist_builds_the_same_wheel(builder: Path, sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "datasets/word_valence.npz", "designs/__init__.pyi"} <= inside
    call(builder, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, sdist, cwd=tmp_path)
    (again,) = tmp_path.glob("*.whl")
    assert names(again) == names(wheel)


@pytest.mark.parametrize("kind", ["wheel", "sdist", "plain"])
def test_installed_package_works_far_from_the_checkout(
    kind: str, builder: Path, checkout: Callable[[], Path], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = checkout() if kind == "plain" else request.getfixturevalue(kind)
    home, away = tmp_path / "home", tmp_path / "away"
    away.mkdir()
    call(
        builder, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", home, source,
        cwd=away,
    )  # fmt: skip
    assert {entry.name for entry in home.iterdir() if not entry.name.endswith(".dist-info")} == {"tercet", "bin"}
    assert [entry.name for entry in (home / "bin").iterdir()] == ["tercet-select"]
    said = call(sys.executable, "-W", "error::ImportWarning", "-c", JOB, home, cwd=away, PYTHONPATH=str(home))
    assert said.split()[-1] == "4000"


def test_editable_install_works_far_from_the_checkout(
    builder: Path, checkout: Callable[[], Path], tmp_path: Path
) -> None:
    """In the builder's environment, with links to the packages of this one, but for tercet itself."""
    folder = checkout()
    call(builder, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "-e", folder, cwd=tmp_path)
    lent = tmp_path / "lent"
    lent.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "tercet" not in entry.name:
            (lent / entry.name).symlink_to(entry)
    said = call(builder, "-c", JOB, folder, cwd=tmp_path, PYTHONPATH=str(lent))
    assert said.split()[-1] == "4000"
    call(builder, "-m", "pip", "uninstall", "--quiet", "-y", "tercet", cwd=tmp_path)
