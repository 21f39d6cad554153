"""The walls of the house: who imports whom, small modules, nothing flipped at import, documents that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "models": set(),
    "inference": {"models"},
    "designs": {"models", "inference"},
    "datasets": {"models"},
    "plots": {"models", "inference"},
    "src/tercet": set(),
}
ROOMS = [room for room in MAY_IMPORT if room != "src/tercet"]
MODULES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))
THE_ARVIZ_ADAPTER = ROOT / "inference" / "posteriors" / "arviz_adapter.py"


def imported(source: str) -> Iterator[str]:
    """Dotted names of everything imported anywhere in a source, in functions too; `from a import b` gives a and a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            yield from ("." * node.level + f"{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                yield str(node.args[0].value)


def broken_walls(source: str, room: str) -> set[str]:
    """What a source of this room imports though it may not: other rooms, bare names of rooms, relative modules."""
    broken = set()
    for name in imported(source):
        parts = name.split(".")
        foreign = parts[0] == "tercet" and parts[1:2] and parts[1] in set(ROOMS) - {room} - MAY_IMPORT[room]
        if name.startswith(".") or parts[0] in ROOMS or foreign:
            broken.add(name)
    return broken


def imports_arviz(source: str) -> bool:
    return any(name.split(".")[0].startswith("arviz") for name in imported(source))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_keeps_to_the_rules(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    room = next(room for room in MAY_IMPORT if path.is_relative_to(ROOT / room))
    assert not broken_walls(source, room)
    assert imports_arviz(source) == (path == THE_ARVIZ_ADAPTER)
    assert len(source.splitlines()) <= 500
    assert ast.get_docstring(ast.parse(source)), "say in a line what this module is"


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("models", "from tercet.inference.posteriors.posterior import Posterior"),
        ("models", "from tercet import inference"),
        ("models", "import tercet.designs.pairs.pool as p"),
        ("models", "def f():\n    def g():\n        from tercet.inference import laplace"),
        ("models", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tercet.plots import x"),
        ("models", "import importlib\nimportlib.import_module('tercet.inference')"),
        ("inference", "from tercet.designs import select"),
        ("datasets", "from tercet.inference import laplace"),
        ("plots", "class A:\n    from tercet.datasets import word_valence"),
        ("designs", "from models.data import Items"),
        ("designs", "import inference"),
        ("designs", "from .pool import PairPool"),
        ("designs", "from . import pool"),
    ],
)
def test_broken_wall_is_seen(room: str, source: str) -> None:
    assert broken_walls(source, room)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("inference", "from tercet.models.data import Items\nfrom tercet.inference.posteriors.context import Context"),
        ("designs", "from tercet import models, inference, __version__\nimport numpy, modelset"),
        ("plots", "import tercet\nimport tercet.inference.preferences.rewards"),
    ],
)
def test_lawful_import_is_let_through(room: str, source: str) -> None:
    assert not broken_walls(source, room)


@pytest.mark.parametrize(
    "source", ["import arviz as az", "def f():\n    from arviz_stats import loo", "import arviz.x"]
)
def test_arviz_is_seen(source: str) -> None:
    assert imports_arviz(source)


def test_no_folder_shadows_the_package() -> None:
    assert not (ROOT / "tercet").exists()
    assert all((ROOT / room / "py.typed").exists() for room in MAY_IMPORT)


def exported(room: str) -> list[str]:
    tree = ast.parse((ROOT / room / "__init__.pyi").read_text(encoding="utf-8"))
    return [alias.asname or alias.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for alias in n.names]


@pytest.mark.parametrize("room", ROOMS)
def test_every_exported_name_resolves_and_is_documented(room: str) -> None:
    module = importlib.import_module(f"tercet.{room}")
    names = exported(room)
    assert names
    assert sorted(module.__all__) == sorted(set(names))
    for name in names:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{name} has no docstring"
            assert not str(thing.__doc__).startswith(f"{name}("), f"{name} has only what @dataclass wrote"


def undocumented(thing: Any) -> list[str]:
    """Parameters of a function or class (fields of a named tuple) that its docstring, or a base's, does not mention."""
    if inspect.isclass(thing):
        text = " ".join(inspect.getdoc(cls) or "" for cls in thing.__mro__[:-1])
        names = thing._fields if issubclass(thing, tuple) else inspect.signature(thing).parameters
    else:
        text, names = inspect.getdoc(thing) or "", inspect.signature(thing).parameters
    shown = [name for name in names if not name.startswith("_") and name not in ("args", "kwargs")]
    return [name for name in shown if not re.search(rf"\b{name}\b", text)]


PACKAGES = sorted(
    ".".join(("tercet", *stub.parent.relative_to(ROOT).parts))
    for room in ROOMS
    for stub in (ROOT / room).rglob("*.pyi")
)


@pytest.mark.parametrize("package", PACKAGES)
def test_parameters_of_every_exported_name_are_documented(package: str) -> None:
    """In the rooms and in their wings."""
    module = importlib.import_module(package)
    things = {name: getattr(module, name) for name in module.__all__}
    errors = {name for name, thing in things.items() if inspect.isclass(thing) and issubclass(thing, Exception)}
    callables = {n: t for n, t in things.items() if n not in errors and (inspect.isclass(t) or inspect.isfunction(t))}
    missing = {name: undocumented(thing) for name, thing in callables.items()}
    assert {name: parameters for name, parameters in missing.items() if parameters} == {}


def test_an_undocumented_parameter_is_seen() -> None:
    def f(a: int, b: int) -> None:
        """Only b is told of."""

    assert undocumented(f) == ["a"]


@pytest.mark.parametrize("room", ROOMS)
def test_public_methods_are_documented(room: str) -> None:
    module = importlib.import_module(f"tercet.{room}")
    for thing in (getattr(module, name) for name in exported(room)):
        if not inspect.isclass(thing):
            continue
        for name, member in vars(thing).items():
            member = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                assert inspect.getdoc(getattr(thing, name)), f"{thing.__name__}.{name} has no docstring"


# NUTS, and whole fits of a reference: seconds of compilation each.
SLOW_EXAMPLES = {
    "nuts",
    "references",
    "forecasts",
    "identifiability",
    "reference_selection",
    "refinement",
    "snapshot_model",
}


def documented_modules() -> Iterator[Any]:
    for path in MODULES:
        if ">>>" in path.read_text(encoding="utf-8"):
            slow = [pytest.mark.slow] if path.stem in SLOW_EXAMPLES else []
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(("tercet", *parts)).removeprefix("tercet.src.")
            yield pytest.param(name, marks=slow)


@pytest.mark.filterwarnings("ignore:the chains have not converged")  # examples are short
@pytest.mark.parametrize("name", list(documented_modules()))
def test_examples_run(name: str) -> None:
    """From an empty namespace: an example brings its own imports."""
    module = importlib.import_module(name)
    found = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert found
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    report: list[str] = []
    for test in found:
        test.globs = {}
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


PROBE = """
import random, sys, warnings, os
before_modules = set(sys.modules)
if {first!r}:
    import numpy as np
    import jax, matplotlib
    watched = [jax, matplotlib]
    import arviz, numpyro   # theirs to configure, not ours: imported before we look
    import jax.numpy
def state():
    out = dict(filters=list(warnings.filters), random=random.getstate(), environ=dict(os.environ))
    if {first!r}:
        kind, keys, *rest = np.random.get_state()
        out |= dict(
            errstate=np.geterr(), numpy_random=(kind, keys.tolist(), *rest), printing=np.get_printoptions(),
            jax=dict(jax.config.values), backend=matplotlib.rcParams._get_backend_or_none(),
            rc={{k: v for k, v in matplotlib.rcParams.copy().items() if k != "backend"}},
        )
    return out
before = state()
{statement}
after = state()
changed = [name for name in before if before[name] != after[name]]
assert not changed, [(name, before[name], after[name]) for name in changed]
if {light!r}:
    heavy = {{"jax", "numpyro", "arviz", "matplotlib", "pandas", "scipy", "ott"}} & set(sys.modules)
    assert not heavy, heavy
"""
BREAK = "import numpy as np, jax; np.seterr(all='ignore'); jax.config.update('jax_enable_x64', True)"


def probe(statement: str, first: bool, light: bool = False) -> subprocess.CompletedProcess[str]:
    code = PROBE.format(statement=statement, first=first, light=light)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)


EVERYTHING = "import tercet\n" + "\n".join(f"from tercet.{room} import *" for room in ROOMS)


@pytest.mark.parametrize(
    "statement",
    [
        EVERYTHING,
        pytest.param("import tercet", marks=pytest.mark.slow),
        pytest.param("from tercet.designs import select_pairs", marks=pytest.mark.slow),
    ],
    ids=["everything", "tercet", "select_pairs"],
)
def test_importing_changes_no_global_configuration(statement: str) -> None:
    result = probe(statement, first=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_changed_configuration_is_seen() -> None:
    result = probe(BREAK, first=True)
    assert result.returncode == 1
    assert "errstate" in result.stderr
    assert "jax" in result.stderr


@pytest.mark.parametrize("statement", ["import tercet; tercet.__version__", *(f"import tercet.{r}" for r in ROOMS)])
def test_importing_a_room_alone_is_light(statement: str) -> None:
    result = probe(statement, first=False, light=True)
    assert result.returncode == 0, result.stderr


FITTING = "from tercet.models import *; from tercet.inference import laplace, load, nuts, reward, spearman, svi"


def loaded(statement: str) -> set[str]:
    """Which packages that fitting a model does not need a statement loads: half a second each, or more."""
    heavy = {"arviz", "matplotlib", "ott", "pandas", "scipy.stats", "sklearn"}
    code = f"import sys\n{statement}\nprint(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import tercet.models, tercet.inference", FITTING], ids=["rooms", "fitting"])
def test_what_fitting_does_not_need_is_not_imported(statement: str) -> None:
    assert loaded(statement) == set()


def test_what_fitting_does_not_need_is_seen() -> None:
    assert loaded("import pandas, scipy.stats") == {"pandas", "scipy.stats"}


def test_heavy_import_is_seen() -> None:
    assert probe("import scipy", first=False, light=True).returncode == 1


def test_tercet_lists_its_rooms() -> None:
    import tercet

    assert set(ROOMS) <= set(dir(tercet))
    assert all(getattr(tercet, room).__name__ == f"tercet.{room}" for room in ROOMS)
    with pytest.raises(AttributeError):
        tercet.kitchen  # noqa: B018
