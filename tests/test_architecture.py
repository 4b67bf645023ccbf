"""The architecture, held by the syntax trees: imports only run downward, few modules know Hydra, files stay small."""

from __future__ import annotations

import ast
import copy
import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from helpers.shared import ROOT

import lume_run

PACKAGE = Path(lume_run.__file__).parent
FLOORS = (  # from the bottom: a package may import those below it; those of one floor are strangers to each other
    ("common",),
    ("config",),
    ("launch",),
    ("methods", "tasks"),
    ("models",),
    ("evaluation", "training"),
    ("attacks",),
    ("report",),
    ("tracking",),
    ("pipeline",),
    ("sweeps",),
    ("cli", "__main__"),
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
KNOW_HYDRA = {"config", "cli", "__main__", "sweeps"}
NO_TORCH = (
    "common/errors",
    "common/records",
    "config/settings",
    "evaluation/metrics",
    "evaluation/definitions",
    "tasks",
)
MOST_LINES = 250
MOST_FUNCTION_LINES = 40
VAGUE = {"own", "found", "made", "one"}  # they name nothing: score, column, rows, artifact ... do

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def part_of(file: str) -> str:
    """`tasks/lume.py` belongs to `tasks`, `config.py` to `config`; the package's own `__init__` to nothing."""
    return "" if file == "__init__.py" else file.removesuffix(".py").split("/")[0]


def tree_of(file: str) -> ast.Module:
    return parsed(PACKAGE / file)


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file, once for all tests: they change none."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST, file: str = "cli.py") -> Iterator[str]:
    """Dotted names of every import, also those inside functions and below TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ["lume_run", *file.split("/")[:-1]]
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def own_parts(tree: ast.AST, file: str) -> set[str]:
    """The parts of lume_run that a module imports; what `from lume_run import __version__` names is none."""
    names = [name.split(".") for name in imported(tree, file)]
    return {name[1] for name in names if name[0] == "lume_run" and len(name) > 1 and not name[1].startswith("__")}


def module_level(tree: ast.Module) -> ast.Module:
    """The statements that run on import: no function bodies, nothing below TYPE_CHECKING."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Strip().visit(copy.deepcopy(tree))  # the tree is all tests'


def violations(file: str, tree: ast.Module) -> list[str]:
    """The imports of a file that run upward, or sideways between strangers."""
    here = part_of(file)
    return [
        f"{file} (floor {FLOOR_OF[here]}) imports {part} (floor {FLOOR_OF[part]})"
        for part in sorted(own_parts(tree, file) - {here})
        if FLOOR_OF[part] >= FLOOR_OF[here]
    ]


def test_every_package_stands_on_a_floor():
    parts = {part_of(file) for file in FILES} - {""}
    assert parts == set(FLOOR_OF), "a new package needs a floor, a removed one gives its own back"


def test_imports_run_downward():
    assert [violation for file in FILES if part_of(file) for violation in violations(file, tree_of(file))] == []


@pytest.mark.parametrize(
    ("file", "source", "count"),
    [
        ("config/build.py", "from lume_run.models.load import save_model", 1),
        ("config/build.py", "from lume_run import models", 1),
        ("config/build.py", "import lume_run.models.load", 1),
        ("config/build.py", "def late():\n    from lume_run.models.load import save_model", 1),
        ("tasks/lume.py", "from ..pipeline import plan", 1),
        ("tasks/lume.py", "from . import readers", 0),
        ("tasks/lume.py", "from lume_run.tasks.builtin.words import NAMES", 0),
        ("tasks/lume.py", "from lume_run.methods.base import Role", 1),
        ("training/rows.py", "from lume_run.evaluation.questions import questions_of", 1),
        ("report/tables.py", "from lume_run.evaluation.scoring import gate", 0),
        ("common/records.py", "from lume_run import __version__", 0),
    ],
)
def test_the_floor_test_sees(file, source, count):
    assert len(violations(file, ast.parse(source))) == count


def modules_of(names: Iterator[str]) -> set[str]:
    """The files that dotted names stand for: `lume_run.common.errors.Problem` is of `common/errors.py`."""
    files = set()
    for name in names:
        parts = name.split(".")
        for cut in range(len(parts), 0, -1):
            path = "/".join(parts[1:cut]) + ".py"
            if parts[0] == "lume_run" and path in FILES:
                files.add(path)
                break
    return files


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Every group of files that reach each other by imports."""
    order = TopologicalSorter(graph)
    try:
        order.prepare()
    except CycleError as error:
        return [error.args[1]]
    return []


def test_no_files_import_each_other_in_a_circle():
    graph = {file: modules_of(imported(tree_of(file), file)) - {file} for file in FILES}
    assert circles(graph) == []
    assert circles({**graph, "common/errors.py": {"cli.py"}}) != []  # the test sees one


def roots_of(tree: ast.AST, file: str) -> set[str]:
    """The libraries that a module imports."""
    return {name.split(".")[0] for name in imported(tree, file)}


def test_only_the_packages_that_compose_configs_know_hydra():
    strangers = [file for file in FILES if part_of(file) not in KNOW_HYDRA]
    assert len(strangers) > 200
    assert [file for file in strangers if roots_of(tree_of(file), file) & {"hydra", "omegaconf"}] == []


def without_torch() -> list[str]:
    return [file for file in FILES if file.removesuffix(".py").startswith(NO_TORCH)]


def test_records_metrics_and_tasks_import_no_torch():
    heavy = {"torch", "transformers", "peft", "accelerate", "datasets"}
    assert len(without_torch()) > 50
    assert [file for file in without_torch() if roots_of(module_level(tree_of(file)), file) & heavy] == []


def imported_with(modules: Collection[str], libraries: Collection[str]) -> list[str]:
    """Which of some libraries a fresh process has imported with these modules."""
    probe = f"import importlib, json, sys\nfor name in {list(modules)}: importlib.import_module(name)\n"
    probe += f"print(json.dumps([name for name in {list(libraries)} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_records_metrics_and_tasks_load_without_torch():
    """Also through whatever they import."""
    modules = [
        "lume_run." + file.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for file in without_torch()
    ]
    assert imported_with(modules, {"torch"}) == []


def test_what_settings_are_built_of_loads_without_libraries_that_take_seconds():
    """A mistake beside `attack=prune` is told as soon as one beside `attack=none`."""
    configs = [path.read_text(encoding="utf-8") for path in (ROOT / "conf").rglob("*.yaml")]
    names = {name for text in configs for name in re.findall(r"_target_: *(lume_run[\w.]*)\.\w+", text)}
    assert len(names) > 30
    assert imported_with(names, {"torch", "transformers", "pandas", "datasets", "peft", "sklearn", "matplotlib"}) == []


def test_folders_stay_short():
    """A newcomer reads a listing at a glance: at most 17 entries at the root, 15 in any folder below."""
    folders: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*"):
        if "__pycache__" not in path.parts and path.suffix != ".pyc":
            folders.setdefault(path.parent.relative_to(PACKAGE).as_posix(), set()).add(path.name)
    long = {name: len(entries) for name, entries in folders.items() if len(entries) > (17 if name == "." else 15)}
    assert not long


def test_every_file_says_what_it_is():
    first = {file: (ast.get_docstring(tree_of(file)) or "").split("\n")[0] for file in FILES}
    assert {file for file, line in first.items() if len(line.split()) < 5} == set()  # a sentence, not the file's name


def test_files_stay_small():
    lines = {file: len((PACKAGE / file).read_text(encoding="utf-8").split("\n")) - 1 for file in FILES}
    del lines["tasks/builtin/words.py"]  # word lists: data, not code
    assert {file: count for file, count in lines.items() if count > MOST_LINES} == {}


def definitions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_functions_stay_small():
    long = {
        f"{file}: {node.name}": node.end_lineno - node.lineno + 1
        for file in FILES
        for node in definitions(tree_of(file))
        if node.end_lineno - node.lineno >= MOST_FUNCTION_LINES
    }
    assert not long


def names_bound(tree: ast.AST) -> Iterator[str]:
    """Every name that a file gives: variables, arguments, attributes, functions, classes."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.arg():
                yield node.arg
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr
            case ast.FunctionDef() | ast.ClassDef():
                yield node.name


def test_no_name_is_vague():
    paths = [path for folder in ("lume_run", "scripts", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 400
    vague = {path.relative_to(ROOT).as_posix(): VAGUE & set(names_bound(parsed(path))) for path in paths}
    assert {path: names for path, names in vague.items() if names} == {}


def test_no_top_level_name_has_two_meanings():
    """A name is defined in one file, so that a search for it has one answer."""
    places: dict[str, list[str]] = {}
    for file in FILES:
        for node in tree_of(file).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            names += [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            for name in names:
                places.setdefault(name, []).append(file)
    assert {name: files for name, files in places.items() if len(files) > 1 and name != "main"} == {}
