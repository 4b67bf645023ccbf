"""Where RWKU's sets of rows stand: files of a folder, as released or in parts, or configs of the hub data set.

A folder may be the hub's own (`All/forget_level1.json`), the released code's (`Target/1_Stephen_King/...`) or flat.
Files are JSON arrays or JSON lines; what stands behind the first dot of a name is left out of account, so that
`forget_mia.first20targets.jsonl` is a part of forget_mia. All files of a set are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lume_run.common.errors import Problem
from lume_run.tasks.question_files import RowSource
from lume_run.tasks.row_files import ask_hub, field_problems, jsonl_rows

ABOUT, TARGET_NAME = "subject", "target"  # who a row is about; in intro.json
PLACES = ("", "All", "Target/*", "*")  # below the folder, the first goes before the others
FOLDER_SETTING = "task.data_dir"


class SetName(NamedTuple):
    """What the files of a set are called, and its config and split on the hub."""

    files: tuple[str, ...]
    config: str
    split: str = "test"


def _trained(name: str, config: str, writer: str) -> SetName:
    """A set of rows that a `writer` (a model) wrote, to be trained on."""
    released = name if writer == "llama3" else f"{name}_phi"
    return SetName(tuple(dict.fromkeys((released, f"train_{name}_{writer}", config))), config, "train")


LEVELS = {name: SetName((name,), name) for name in ("forget_level1", "forget_level2", "forget_level3")}
NEIGHBORS = {name: SetName((name,), name) for name in ("neighbor_level1", "neighbor_level2")}
FURTHER = {  # sets that may be absent: their scores are then missing
    "forget_mia": SetName(("forget_mia",), "mia_forget"),
    "retain_mia": SetName(("retain_mia",), "mia_retain"),
    "retain_mmlu": SetName(("retain_mmlu",), "utility_general"),
    "retain_bbh": SetName(("retain_bbh",), "utility_reason"),
    "truthful": SetName(("truthful",), "utility_truthfulness"),
    "triviaqa": SetName(("triviaqa",), "utility_factuality"),
    "fluency": SetName(("fluency",), "utility_fluency"),
}
TRAINED = {
    "passage": SetName(("passage",), "train_original_passage", "train"),
    **{
        f"{name}_{writer}": _trained(name, f"train_{config}_{writer}", writer)
        for writer in ("llama3", "phi3")
        for name, config in (("positive", "positive"), ("pair", "pair"), ("reject", "refusal"))
    },
}
SETS = {"intro": SetName(("intro",), "forget_target", "train"), **LEVELS, **NEIGHBORS, **FURTHER, **TRAINED}
REQUIRED = ("intro", *LEVELS, *NEIGHBORS)


def rwku_folder(data_dir: str) -> RowSource:
    """The sets of a folder, each from the first of `PLACES` that has files of it."""
    folder = Path(data_dir).expanduser()
    by_place = [_files_by_title(folder, pattern) for pattern in PLACES]
    paths: dict[str, list[Path]] = {}
    for name, known in SETS.items():
        of_places = ([path for title in known.files for path in files.get(title, ())] for files in by_place)
        if files := next(filter(None, of_places), None):
            paths[name] = files
    return RowSource(
        origin=f"folder {folder}",
        setting=FOLDER_SETTING,
        names=frozenset(paths),
        read=lambda name: (row for path in paths[name] for row in jsonl_rows(path)),
    )


def _files_by_title(folder: Path, pattern: str) -> dict[str, list[Path]]:
    """Files of rows by what stands before the first dot of their name; `.jsonl` goes before `.json`."""
    places = sorted(folder.glob(pattern)) if pattern else [folder]
    paths = {
        path.with_suffix(""): path
        for place in places
        for ending in ("json", "jsonl")
        for path in sorted(place.glob(f"*.{ending}"))
    }
    titles: dict[str, list[Path]] = {}
    for path in paths.values():
        titles.setdefault(path.name.partition(".")[0], []).append(path)
    return titles


def rwku_hub(hub_id: str) -> RowSource:
    """The configs of the hub data set, from the cache where `datasets` finds them there."""
    from datasets import get_dataset_config_names, load_dataset

    def read(name: str) -> Iterator[tuple[str, object]]:
        config, split = SETS[name].config, SETS[name].split
        rows = ask_hub(hub_id, lambda: load_dataset(hub_id, config, split=split), local=f"{FOLDER_SETTING}=FOLDER")
        for number, row in enumerate(rows, 1):
            yield f"hub {hub_id}, {config}:row {number}", dict(row)

    configs = set(ask_hub(hub_id, lambda: get_dataset_config_names(hub_id), local=f"{FOLDER_SETTING}=FOLDER"))
    names = frozenset(name for name, known in SETS.items() if known.config in configs)
    return RowSource(origin=f"hub {hub_id}", setting="task.hub_id", names=names, read=read)


def missing_problems(source: RowSource, names: Iterable[str], why: str) -> list[Problem]:
    """A problem for each set that the source has not, naming the files that are looked for."""
    remedy = "the folder of RWKU's released files (All/ of the hub data set jinzhuoran/RWKU)"
    return [
        Problem(
            where=source.setting,
            what=f"{source.origin} has no {' or '.join(f'{title}.json' for title in SETS[name].files)}, {why}",
            remedy=remedy,
        )
        for name in names
        if name not in source.names
    ]


class TargetRow(NamedTuple):
    """A sound row of a set: where it stands, whom it is about, and its number among the rows about them."""

    where: str
    target: str
    number: int
    fields: dict[str, Any]


RowCheck = Callable[[dict[str, Any], str], Iterable[Problem]]


@dataclass(slots=True)
class SetReader:
    """Reads set after set, of these targets the first `limit` rows each, and gathers the problems of all."""

    source: RowSource
    targets: frozenset[str]
    limit: int | None = None
    problems: list[Problem] = field(default_factory=list)

    def rows(self, name: str, texts: Sequence[str], check: RowCheck | None = None) -> list[TargetRow]:
        """The sound rows of a set, [] where the source has none: text in the fields `texts`, and what `check` asks."""
        if name not in self.source.names:
            return []
        counts: dict[str, int] = {}
        rows = []
        for where, row in self.source.read(name):
            wrong = [row] if isinstance(row, Problem) else list(field_problems(row, where, (ABOUT, *texts)))
            if isinstance(row, dict) and not wrong and check is not None:
                wrong = list(check(row, where))
            self.problems += wrong
            if wrong or not isinstance(row, dict) or row[ABOUT] not in self.targets:
                continue
            number = counts.get(row[ABOUT], 0)
            if self.limit is None or number < self.limit:
                counts[row[ABOUT]] = number + 1
                rows.append(TargetRow(where, row[ABOUT], number, row))
        return rows
