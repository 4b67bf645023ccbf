"""The architecture, held by the syntax trees: imports only run downward, few modules know Hydra, files stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lume_run

PACKAGE = Path(lume_run.__file__).parent
FLOORS = (
    ("errors", "records", "labels", "contracts", "runtime", "numerics", "settings", "preemption", "slurm", "agent"),
    ("config", "walk", "checks", "bits", "text", "tasks", "methods", "metrics", "store", "parallel"),
    ("models", "precision", "schedule", "signals", "rows", "suites"),
    ("reference", "engine", "placement", "passes", "respond", "judges"),
    (
        "callbacks",
        "checkpoints",
        "trainer",
        "training",
        "sharding",
        "evaluate",
        "incontext",
        "findings",
        "tables",
        "plots",
        "report",
    ),
    ("stages", "optimise", "merge", "recipes", "plan", "scoring", "memory", "remedies", "tracking", "sweep"),
    ("launch", "worker"),
    ("cli", "overrides", "multirun"),
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
STRANGERS = {"tasks", "methods", "metrics"}  # side by side: none may know another
KNOW_HYDRA = {"config", "cli", "overrides", "worker", "multirun"}
NO_TORCH = {"records", "settings", "errors", "metrics", "tasks"}
MOST_LINES = 330

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def part_of(file: str) -> str:
    """`tasks/lume.py` belongs to `tasks`, `config.py` to `config`; the package's own `__init__` to nothing."""
    return "" if file == "__init__.py" else file.removesuffix(".py").split("/")[0]


def tree_of(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"))


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

    return Strip().visit(tree)


def violations(file: str, tree: ast.Module) -> list[str]:
    """The imports of a file that run upward, or sideways between tasks, methods and metrics."""
    own = part_of(file)
    found = []
    for part in sorted(own_parts(tree, file)):
        if FLOOR_OF[part] > FLOOR_OF[own]:
            found.append(f"{file} (floor {FLOOR_OF[own]}) imports {part} (floor {FLOOR_OF[part]})")
        if own in STRANGERS and part in STRANGERS - {own}:
            found.append(f"{file} imports {part}: tasks, methods and metrics must not know each other")
    return found


def test_every_module_stands_on_a_floor():
    parts = {part_of(file) for file in FILES} - {""}
    assert parts == set(FLOOR_OF), "a new module needs a floor, a removed one gives its own back"


@pytest.mark.parametrize("file", [file for file in FILES if part_of(file)])
def test_imports_run_downward(file):
    assert violations(file, tree_of(file)) == []


@pytest.mark.parametrize(
    ("file", "source", "count"),
    [
        ("text.py", "from lume_run.models import save", 1),
        ("text.py", "from lume_run import models", 1),
        ("text.py", "import lume_run.models", 1),
        ("text.py", "def late():\n    from lume_run.models import save", 1),
        ("tasks/lume.py", "from ..stages import plan", 1),
        ("tasks/lume.py", "from . import words", 0),
        ("tasks/lume.py", "from lume_run.tasks.words import NAMES", 0),
        ("metrics/text.py", "from lume_run.tasks import builtin", 1),
        ("report.py", "from lume_run.evaluate import gate", 0),
        ("runtime.py", "from lume_run import __version__", 0),
    ],
)
def test_the_floor_test_sees(file, source, count):
    assert len(violations(file, ast.parse(source))) == count


@pytest.mark.parametrize("file", [file for file in FILES if part_of(file) not in KNOW_HYDRA])
def test_only_three_modules_know_hydra(file):
    roots = {name.split(".")[0] for name in imported(tree_of(file), file)}
    assert not roots & {"hydra", "omegaconf"}


@pytest.mark.parametrize("file", [file for file in FILES if part_of(file) in NO_TORCH])
def test_records_metrics_and_tasks_import_no_torch(file):
    roots = {name.split(".")[0] for name in imported(module_level(tree_of(file)), file)}
    assert not roots & {"torch", "transformers", "peft", "accelerate", "datasets"}


def test_records_metrics_and_tasks_load_without_torch():
    """Also through whatever they import."""
    files = [file for file in FILES if part_of(file) in NO_TORCH]
    modules = ["lume_run." + file.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for file in files]
    probe = (
        f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("file", FILES)
def test_every_file_says_what_it_is(file):
    docstring = ast.get_docstring(tree_of(file)) or ""
    assert len(docstring.split("\n")[0].split()) >= 5  # a sentence, not the file's name again


@pytest.mark.parametrize("file", [file for file in FILES if file != "tasks/words.py"])  # word lists: data, not code
def test_files_stay_small(file):
    lines = len((PACKAGE / file).read_text(encoding="utf-8").split("\n"))
    assert lines - 1 <= MOST_LINES
