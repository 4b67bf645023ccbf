"""Where tests find things, and small pieces that many of them build on."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock

if TYPE_CHECKING:
    from lume_run.common.records import Example

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
SHARED = (ROOT.parent / os.environ.get("LUME_SHARED", "shared")).resolve()  # golden values, data, small real models
GOLDEN, DATA = SHARED / "golden", SHARED / "data"
FOLDER_VARIABLE = "LUME_TESTS_FOLDER"  # the environment's name for a folder that all processes of a session share


def once_a_session(name: str, build: Callable[[], T]) -> T:
    """What `build` returns: the first process of a session that wants it builds it, the others read it."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None:
        return build()
    path = Path(folder) / f"{name}.pickle"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            path.write_bytes(pickle.dumps(build()))
    return pickle.loads(path.read_bytes())


def shape(hidden_size: int, heads: int, intermediate_size: int) -> tuple[str, ...]:
    """Overrides that make the built-in model smaller still."""
    sizes = {"hidden_size": hidden_size, "heads": heads, "intermediate_size": intermediate_size, "vocabulary": 400}
    return tuple(f"model.shape.{name}={size}" for name, size in sizes.items())


def tokenizer_at(folder: Path) -> Any:
    """The tokenizer of a folder as runs load it."""
    from lume_run.config.model_settings import ModelSettings
    from lume_run.models.tokenizer import load_tokenizer

    return load_tokenizer(str(folder), ModelSettings(name="test"))


def lume_rows(shared: Path, documents: int) -> list[Example]:
    """Real prompts of all three LUME tasks, those to forget first."""
    from lume_run.tasks.lume import LumeTask

    data = LumeTask(
        name="lume",
        subtasks=["novels", "bios", "wiki"],
        source="folder",
        data_dir=str(shared / "data" / "lume"),
        num_documents=documents,
    ).load(0)
    return [*data.forget, *data.retain]


def with_helpers(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """An environment in which processes find these helpers: `python -m helpers.ranks`."""
    paths = [str(TESTS), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(paths)}
