"""The drawing of the house: wings that never import one another, no circles, few boxes and arrows a room.

The graph is built from the syntax trees of all modules, imports inside functions counted; imports for annotations alone
(under TYPE_CHECKING) are none.
"""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("models", "inference", "designs", "datasets", "plots")
DOMAINS = ("preferences", "trajectories", "space")
OPTIONAL = {
    "IPython", "airportsdata", "anywidget", "arviz", "arviz_stats", "dask", "distributed", "jax", "matplotlib",
    "pandas", "pyarrow", "safetensors", "sklearn", "threadpoolctl",
}  # fmt: skip
"""Third-party packages, optional or heavy, that a function may import."""
MOST_EXPORTED = {"models": 35, "inference": 55, "designs": 25, "datasets": 25, "plots": 10}
MOST_DRAWN = {"models": (7, 9, 3), "inference": (5, 8, 3), "designs": (5, 9, 4)}
"""Boxes, arrows between them, floors of a room drawn by folder."""

Graph = dict[str, set[str]]


def module_name(path: Path) -> str:
    return ".".join(("tercet", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def sources() -> dict[str, str]:
    paths = (path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return {module_name(path): path.read_text(encoding="utf-8") for path in paths}


def exports() -> dict[str, str]:
    """Where each name that a package exports lives: "tercet.inference.laplace" as a name, to its module."""
    homes = {}
    for stub in (path for room in ROOMS for path in (ROOT / room).rglob("__init__.pyi")):
        package = module_name(stub.with_suffix(".py"))
        for node in ast.walk(ast.parse(stub.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                homes |= {f"{package}.{alias.name}": f"{package}.{node.module}" for alias in node.names}
    return homes


def imports(source: str) -> Iterator[tuple[str, bool]]:
    """What a source imports, as dotted names, and whether inside a function; TYPE_CHECKING blocks are left out."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                yield from walk(child, inside)
            return
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", inside) for alias in node.names)
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    yield from walk(ast.parse(source), False)


def import_graph(modules: dict[str, str], homes: dict[str, str]) -> Graph:
    graph: Graph = {name: set() for name in modules}
    for name, source in modules.items():
        for target, _ in imports(source):
            candidates = (homes.get(target), target, target.rpartition(".")[0])
            found = next((each for each in candidates if each in graph), None)
            if found is not None and found != name:
                graph[name].add(found)
    return graph


def reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    left = list(graph[start])
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left.extend(graph[name])
    return seen


def wing(name: str) -> str:
    parts = name.split(".")
    return parts[2] if len(parts) > 3 else ""


def broken_walls(graph: Graph) -> set[tuple[str, str]]:
    """Imports from one domain into another, and from the posteriors into any domain."""
    return {
        (name, target)
        for name, targets in graph.items()
        for target in targets
        if wing(target) in DOMAINS and wing(name) in (*DOMAINS, "posteriors") and wing(name) != wing(target)
    }


def drawing(graph: Graph, room: str) -> tuple[set[str], set[tuple[str, str]], int]:
    """Boxes (wings and modules of their own), arrows between them and floors of a room."""
    own = [name for name in graph if name.split(".")[1] == room and len(name.split(".")) > 2]
    wings = {name for name in graph if any(other.startswith(name + ".") for other in graph)}

    def box(name: str) -> str:
        return name.split(".")[2]

    own = [name for name in own if name not in wings]
    arrows = {
        (box(name), box(target)) for name in own for target in graph[name] if target in own and box(name) != box(target)
    }
    boxes = {box(name) for name in own}

    def floor(name: str) -> int:
        return 1 + max((floor(low) for high, low in arrows if high == name), default=0)

    return boxes, arrows, max(map(floor, boxes))


MODULES = sources()
GRAPH = import_graph(MODULES, exports())


def test_there_is_no_circle_of_imports() -> None:
    assert [name for name in GRAPH if name in reachable(GRAPH, name)] == []


def test_domains_never_import_one_another() -> None:
    assert broken_walls(GRAPH) == set()


def test_a_circle_and_a_broken_wall_are_seen() -> None:
    modules = {
        "tercet.inference.space.a": "def f():\n    from tercet.inference.preferences.b import g",
        "tercet.inference.preferences.b": "from tercet.inference import c",
        "tercet.inference.posteriors.c": "from tercet.inference.space import a",
    }
    graph = import_graph(modules, {"tercet.inference.c": "tercet.inference.posteriors.c"})
    assert all(name in reachable(graph, name) for name in modules)
    assert broken_walls(graph) == {
        ("tercet.inference.space.a", "tercet.inference.preferences.b"),
        ("tercet.inference.posteriors.c", "tercet.inference.space.a"),
    }


@pytest.mark.parametrize("name", sorted(MODULES))
def test_functions_import_only_optional_packages(name: str) -> None:
    inside = {target.split(".")[0] for target, in_function in imports(MODULES[name]) if in_function}
    assert inside <= OPTIONAL


@pytest.mark.parametrize("room", MOST_DRAWN)
def test_a_room_can_be_drawn(room: str) -> None:
    """By folder: no more boxes, arrows and floors than the drawing in CONTRIBUTING shows."""
    boxes, arrows, floors = drawing(GRAPH, room)
    most = MOST_DRAWN[room]
    boxes = {box for box in boxes if not box.startswith("_")}
    arrows = {arrow for arrow in arrows if not arrow[1].startswith("_")}
    assert (len(boxes), len(arrows), floors) <= most, (sorted(boxes), sorted(arrows), floors)
    assert len(arrows) <= most[1]
    assert floors <= most[2]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_exports_what_a_user_types(room: str) -> None:
    stub = (ROOT / room / "__init__.pyi").read_text(encoding="utf-8")
    assert len(re.findall(r"\bas\b", stub)) <= MOST_EXPORTED[room]


def test_modules_are_small() -> None:
    sizes = [len(source.splitlines()) for name, source in MODULES.items() if len(source.splitlines()) > 12]
    assert 100 <= statistics.median(sizes) <= 200
