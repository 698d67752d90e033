"""Hold the rooms of the package: who may import whom, and that no import leads back.

Every import counts, also one inside a function or under TYPE_CHECKING. Settings modules and the run file are
what all rooms share: anybody may import them, and they import almost nothing themselves.

    python tests/test_architecture.py       prints the picture of CONTRIBUTING.md
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: Lines of a module of the package at most.
MOST_LINES = 400

#: room -> rooms that it may import, besides itself and settings modules; from low to high.
ROOMS = {
    "common": "",
    "config": "common",
    "pages": "common",
    "data": "common config",
    "models": "common config data",
    "batching": "common config models data",
    "contrastive": "common batching",
    "evaluation": "common config models data pages",
    "comparison": "common data evaluation pages",
    "methods": "common config models data batching evaluation",
    "mining": "common config models data batching evaluation",
    "testing": "common config data batching contrastive",
    "training": "common config models data batching contrastive evaluation methods mining testing",
    "search": "common config data batching",
    "study": "common config data evaluation comparison search",
    "analysis": "common config search",
    "orchestration": "common config models data batching evaluation mining training search",
    "reports": "common config pages data evaluation comparison search study analysis",
    "doctor": "common config contrastive training orchestration",
    "jobs": "common config pages models data batching contrastive evaluation comparison methods mining "
    "training search study analysis orchestration reports",
    "cli": "common config data evaluation comparison methods mining training search study analysis reports "
    "doctor jobs",
}
#: Modules that settings modules may import, besides common, config and each other: they import no room.
LEAVES = {"data.languages", "data.splits", "data.corpus.in_memory", "batching.kinds"}
#: (importing module, imported module): why it is allowed. This list may only shrink.
EXCEPTIONS: dict[tuple[str, str], str] = {}


def imports() -> dict[str, set[str]]:
    """Return every module of the package with the modules of the package that it imports."""
    package = ROOT / "hbt_dist"
    files = {
        ".".join(file.relative_to(package).with_suffix("").parts): file for file in package.rglob("*.py")
    }
    files = {name.removesuffix(".__init__"): file for name, file in files.items() if name != "__init__"}
    graph: dict[str, set[str]] = {}
    for name, file in files.items():
        targets = set()
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hbt_dist."):
                module = (node.module or "").removeprefix("hbt_dist.")
                parts = {f"{module}.{alias.name}" for alias in node.names}
                targets |= {part if part in files else module for part in parts}
        graph[name] = targets - {name}
    return graph


def is_settings(module: str) -> bool:
    """Whether all rooms may import a module."""
    return module == "run_file" or module.endswith((".settings", "_settings"))


def room(module: str) -> str:
    """Return the room of a module."""
    return module.partition(".")[0]


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the nodes that can be reached from themselves, circle by circle."""
    reached = {start: _reached(graph, start) for start in graph}
    in_circle = {start for start in graph if start in reached[start]}
    return sorted({tuple(sorted(n for n in reached[s] if s in reached[n])) for s in in_circle})  # type: ignore[misc]


def _reached(graph: Mapping[str, Iterable[str]], start: str) -> set[str]:
    reached: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting += graph.get(node, ())
    return reached


def picture() -> str:
    """Return the rooms as text, a line each, highest last."""
    width = max(map(len, ROOMS))
    return "\n".join(f"{name:<{width}}  <- {' '.join(uses.split()) or '-'}" for name, uses in ROOMS.items())


def test_every_room_imports_only_what_the_table_allows() -> None:
    graph = imports()
    wrong = []
    for module, targets in graph.items():
        allowed = {room(module), *ROOMS.get(room(module), "").split()}
        for target in targets:
            if is_settings(module):
                fine = is_settings(target) or target in LEAVES or room(target) in {"common", "config"}
            else:
                fine = is_settings(target) or room(target) in allowed or room(module) == "__main__"
            if not fine and (module, target) not in EXCEPTIONS:
                wrong.append(f"{module} -> {target}")
    assert not wrong, "\n".join(sorted(wrong))


def test_leaves_import_no_room() -> None:
    graph = imports()
    assert {
        target for leaf in LEAVES for target in graph[leaf] if room(target) not in {"common", "config"}
    } == set()


def test_no_module_is_longer_than_allowed() -> None:
    files = (ROOT / "hbt_dist").rglob("*.py")
    lines = {str(file.relative_to(ROOT)): file.read_text("utf-8").count("\n") for file in files}
    assert {file: number for file, number in lines.items() if number > MOST_LINES} == {}


def test_exceptions_are_needed() -> None:
    graph = imports()
    assert [pair for pair in EXCEPTIONS if pair[1] not in graph.get(pair[0], ())] == []


def test_no_circle_of_files() -> None:
    assert circles(imports()) == []


def test_no_circle_of_rooms() -> None:
    graph: dict[str, set[str]] = {name: set() for name in ROOMS}
    for module, targets in imports().items():
        for target in targets:
            shared = is_settings(target) or is_settings(module) or target in LEAVES
            if not shared and room(module) in ROOMS and room(target) != room(module):
                graph[room(module)].add(room(target))
    assert circles(graph) == []


def test_the_top_of_the_package_holds_rooms() -> None:
    top = {path.name for path in (ROOT / "hbt_dist").glob("*.py")}
    assert top == {"__init__.py", "__main__.py", "run_file.py"}
    folders = {path.name for path in (ROOT / "hbt_dist").iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(ROOMS)


if __name__ == "__main__":
    print(picture())
