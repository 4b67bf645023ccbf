"""The files of the LUME task: which ones a folder offers, and fetching those of a hub data set.

A folder holds `forget.jsonl` and `retain.jsonl`, or `forget_train-*.parquet`, `forget_validation-*.parquet` and the
same for retain (there or under `data/`); either may bring `member.jsonl` and `nonmember.jsonl` (there or under
`mia_data/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lume_run.common.errors import Problem
from lume_run.common.files import HUB_PATIENCE_SECONDS
from lume_run.tasks.row_files import hub_failure, unavailable_dataset_error

LISTED_FILES = 5  # of a folder's files in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class LumeFiles:
    """The files a folder offers; `format` is empty where no layout was recognised."""

    folder: Path
    format: str  # "jsonl", "parquet" or ""
    forget: tuple[Path, ...] = ()
    retain: tuple[Path, ...] = ()
    members: tuple[Path, ...] = ()
    nonmembers: tuple[Path, ...] = ()

    @classmethod
    def of(cls, folder: Path, split: str) -> LumeFiles:
        """What is in `folder`; `split` (train, validation or all) picks among parquet files only."""
        forget, retain, members, nonmembers = (
            _file_if_there(folder / f"{name}.jsonl") for name in ("forget", "retain", "member", "nonmember")
        )
        if not members and not nonmembers:
            members, nonmembers = (
                _file_if_there(folder / "mia_data" / f"{name}.jsonl") for name in ("member", "nonmember")
            )
        form = "jsonl" if forget or retain else ""
        if not form:
            forget, retain = (_parquet_files(folder, side, split) for side in ("forget", "retain"))
            form = "parquet" if forget or retain else ""
        return cls(folder=folder, format=form, forget=forget, retain=retain, members=members, nonmembers=nonmembers)

    def problems(self, where: str, split: str) -> list[Problem]:
        """What keeps the folder from being read, judged by file names alone."""
        if not self.format:
            part = "train, validation" if split == "all" else split
            what = (
                f"{self.folder} has neither forget.jsonl and retain.jsonl nor forget_SPLIT-*.parquet and "
                f"retain_SPLIT-*.parquet, there or in data/ (SPLIT: {part}); it holds {_names_in(self.folder)}"
            )
            remedy = "name the folder in which these files stand; rows of another kind: task=custom"
            return [Problem(where=where, what=what, remedy=remedy)]
        problems = []
        if self.format == "jsonl" and split != "all":
            what = f"{split} picks among parquet files, and {self.folder} holds jsonl files"
            problems.append(Problem(where="task.split", what=what, remedy="leave task.split=all"))
        sides = {"forget": self.forget, "retain": self.retain, "member": self.members, "nonmember": self.nonmembers}
        for pair in (("forget", "retain"), ("member", "nonmember")):
            present, absent = ([name for name in pair if bool(sides[name]) is there] for there in (True, False))
            if present and absent:
                have, lack = present[0], absent[0]
                what = f"{self.folder} has {sides[have][0].name} without its {lack} counterpart"
                remedy = f"add the {lack} file" + (f" or move the {have} file away" if "member" in pair else "")
                problems.append(Problem(where=where, what=what, remedy=remedy))
        return problems


def _names_in(folder: Path) -> str:
    """The first names in a folder."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return ", ".join([*names[:LISTED_FILES], *(["..."] if len(names) > LISTED_FILES else [])]) or "nothing"


def _file_if_there(path: Path) -> tuple[Path, ...]:
    return (path,) if path.is_file() else ()


def _parquet_files(folder: Path, side: str, split: str) -> tuple[Path, ...]:
    """The shards of one side, train before validation; `data/` only where the folder itself has none."""
    parts = ("train", "validation") if split == "all" else (split,)
    for base in (folder, folder / "data"):
        files = [path for part in parts for path in sorted(base.glob(f"{side}_{part}-*.parquet"))]
        if files:
            return tuple(files)
    return ()


def download_dataset(hub_id: str) -> Path:
    """The folder of a hub data set's files, from the cache where the hub cannot be reached."""
    from huggingface_hub import snapshot_download

    unreachable = hub_failure(hub_id, HUB_PATIENCE_SECONDS)
    try:
        folder = snapshot_download(
            hub_id,
            repo_type="dataset",
            allow_patterns=["*.parquet", "*.jsonl"],
            etag_timeout=HUB_PATIENCE_SECONDS,
            local_files_only=unreachable is not None,
        )
    except Exception as error:
        cause = unreachable or error
        raise unavailable_dataset_error(
            hub_id, cause, local="task.data_dir=FOLDER (with task.source=folder)"
        ) from cause
    return Path(folder)
