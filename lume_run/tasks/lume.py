"""The LUME task: forget and retain prompts about novels, biographies and wiki pages (Ramakrishna et al. 2025).

The rows come from a folder, from the hub (the SemEval-2025 Task 4 release) or from the built-in generator. A folder
holds `forget.jsonl` and `retain.jsonl`, or `forget_train-*.parquet`, `forget_validation-*.parquet` and the same for
retain (there or under `data/`); either may bring `member.jsonl` and `nonmember.jsonl` (there or under `mia_data/`).
Documents are chosen by a seeded shuffle of their ids, so the choice does not depend on the order of the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Literal

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import Example, Kind, Split, TaskData
from lume_run.tasks.readers import PAGE_SUBTASK, page_example, read_files, refuse, unavailable_dataset_error
from lume_run.tasks.semeval_ids import SUBTASK_OF_LABEL

BUILTIN_DOCUMENTS = 12  # per split: enough for every subtask, small enough for a laptop
HUB_PATIENCE_S = 5  # how long the hub may take to answer before it counts as unreachable

Documents = dict[str, tuple[Example, ...]]  # the prompts of each document, in file order


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
        """What stands in `folder`; `split` (train, validation or all) picks among parquet files only."""
        forget, retain, members, nonmembers = (
            _existing(folder / f"{name}.jsonl") for name in ("forget", "retain", "member", "nonmember")
        )
        if not members and not nonmembers:
            members, nonmembers = (_existing(folder / "mia_data" / f"{name}.jsonl") for name in ("member", "nonmember"))
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
                f"{self.folder} has no forget.jsonl and retain.jsonl, and no forget and retain parquet files ({part})"
            )
            return [Problem(where=where, what=what, remedy="name the folder in which these files (or data/) stand")]
        found = []
        if self.format == "jsonl" and split != "all":
            what = f"{split} picks among parquet files, and {self.folder} holds jsonl files"
            found.append(Problem(where="task.split", what=what, remedy="leave task.split=all"))
        sides = {"forget": self.forget, "retain": self.retain, "member": self.members, "nonmember": self.nonmembers}
        for one, other in (("forget", "retain"), ("member", "nonmember")):
            if bool(sides[one]) != bool(sides[other]):
                have, lack = (one, other) if sides[one] else (other, one)
                what = f"{self.folder} has {sides[have][0].name} without its {lack} counterpart"
                remedy = f"add the {lack} file" + (f" or move the {have} file away" if "member" in one else "")
                found.append(Problem(where=where, what=what, remedy=remedy))
        return found


def _existing(path: Path) -> tuple[Path, ...]:
    return (path,) if path.is_file() else ()


def _parquet_files(folder: Path, side: str, split: str) -> tuple[Path, ...]:
    """The shards of one side, train before validation; `data/` only where the folder itself has none."""
    parts = ("train", "validation") if split == "all" else (split,)
    for base in (folder, folder / "data"):
        files = [path for part in parts for path in sorted(base.glob(f"{side}_{part}-*.parquet"))]
        if files:
            return tuple(files)
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LumeTask:
    """Which rows to take and from where; `num_documents` counts documents per split over all `subtasks`."""

    name: str
    subtasks: Sequence[str]
    source: Literal["builtin", "folder", "hub"]
    data_dir: str | None = None
    hub_id: str = "llmunlearningsemeval2025organization/semeval25-unlearning-dataset-public"
    num_documents: int | None = None
    split: Literal["train", "validation", "all"] = "all"

    def check(self) -> list[Problem]:
        """Problems visible without reading rows or asking the network."""
        found = []
        known = tuple(SUBTASK_OF_LABEL.values())
        for subtask in self.subtasks or [""]:
            if subtask not in known:
                what = f"unknown subtask {subtask!r}" if subtask else "no subtask is named"
                found.append(Problem(where="task.subtasks", what=what, remedy=f"choose from {', '.join(known)}"))
        if self.num_documents is not None and self.num_documents < 1:
            what, remedy = f"{self.num_documents} documents are no data", "give 1 or more, or null for all"
            found.append(Problem(where="task.num_documents", what=what, remedy=remedy))
        if self.split not in ("train", "validation", "all"):
            what = f"unknown split {self.split!r}"
            found.append(Problem(where="task.split", what=what, remedy="choose from train, validation, all"))
        elif self.source == "folder":
            found.extend(self._folder_problems())
        elif self.source == "builtin":
            found.extend(self._builtin_problems())
        return found

    def _builtin_problems(self) -> list[Problem]:
        from lume_run.tasks.builtin.generator import MAX_DOCUMENTS

        found, most = [], MAX_DOCUMENTS * len(self.subtasks)
        if self.split != "all":
            what = f"{self.split} picks among released parquet files, and the data is built in"
            found.append(Problem(where="task.split", what=what, remedy="leave task.split=all"))
        if (self.num_documents or 0) > most:
            what = f"the generator can name {most} documents per split, not {self.num_documents}"
            found.append(Problem(where="task.num_documents", what=what, remedy=f"give {most} or fewer"))
        return found

    def load(self, seed: int) -> TaskData:
        """The examples of the experiment; DataError, RunError or ConfigError where there are none to be had."""
        if problems := self.check():
            raise ConfigError(problems)
        subtasks = tuple(name for name in SUBTASK_OF_LABEL.values() if name in self.subtasks)
        if self.source == "builtin":
            from lume_run.tasks.builtin.generator import generate_task

            return generate_task(subtasks=subtasks, num_documents=self.num_documents or BUILTIN_DOCUMENTS, seed=seed)
        layout = LumeFiles.of(self._fetch_folder(), self.split)
        if problems := layout.problems(self._origin, self.split):  # a snapshot of the hub was not checked yet
            refuse(problems)
        data = read_files(
            forget=layout.forget, retain=layout.retain, members=layout.members, nonmembers=layout.nonmembers
        )
        return self._select(data, subtasks, seed, layout.format)

    @property
    def _origin(self) -> str:
        return f"hub {self.hub_id}" if self.source == "hub" else f"folder {self.data_dir}"

    def _folder_problems(self) -> list[Problem]:
        where = "task.data_dir"
        if not self.data_dir:
            remedy = "set task.data_dir=FOLDER, or task.source=builtin for generated data"
            return [Problem(where=where, what="no folder is given, and task.source=folder needs one", remedy=remedy)]
        folder = Path(self.data_dir).expanduser()
        if not folder.is_dir():
            what = f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist"
            return [Problem(where=where, what=what, remedy="give the folder that holds the data files")]
        return LumeFiles.of(folder, self.split).problems(where, self.split)

    def _fetch_folder(self) -> Path:
        return download_dataset(self.hub_id) if self.source == "hub" else Path(self.data_dir or "").expanduser()

    def _select(self, data: TaskData, subtasks: Sequence[str], seed: int, form: str) -> TaskData:
        """The requested documents of `data`, with the membership examples that go with them."""
        everything = {split: group_by_document(rows, subtasks) for split, rows in _forget_and_retain(data)}
        self._refuse_shortage(data, everything, subtasks)
        kept = dict(everything)
        if self.num_documents is not None:
            kept = {
                split: choose_documents(documents, self.num_documents, seed, split) for split, documents in kept.items()
            }
        members, nonmembers, leftover = data.members, data.nonmembers, False
        # the released members are all train documents: a target trained on the validation part never saw them
        chosen = self.split == "all" or all(page.document in kept[Split.FORGET] for page in members)
        if self.num_documents is not None or not members or PAGE_SUBTASK not in subtasks or not chosen:
            members = tuple(page for page in map(_member_page, kept[Split.FORGET].values()) if page)
            nonmembers = _leftover_pages(everything, kept, members, seed)
            leftover = bool(nonmembers)
        counts = ", ".join(f"{split} {len(kept[split])} of {len(everything[split])} documents" for split in kept)
        words = f"{len(members)} members, {len(nonmembers)} {'leftover ' if leftover else ''}non-members"
        return TaskData(
            forget=tuple(prompt for prompts in kept[Split.FORGET].values() for prompt in prompts),
            retain=tuple(prompt for prompts in kept[Split.RETAIN].values() for prompt in prompts),
            members=members,
            nonmembers=nonmembers,
            source=f"{self._origin} ({form}; {', '.join(subtasks)}; {counts}; {words})",
            leftover_nonmembers=leftover,
        )

    def _refuse_shortage(self, data: TaskData, documents: dict[Split, Documents], subtasks: Sequence[str]) -> None:
        found = []
        for split, rows in _forget_and_retain(data):
            where = f"{self._origin}, {split} rows"
            labels = {label: name for label, name in SUBTASK_OF_LABEL.items() if name in {row.subtask for row in rows}}
            there = ", ".join(f"{label} ({name})" for label, name in labels.items())
            for subtask in subtasks:
                if subtask not in labels.values():
                    remedy = f"take {subtask} out of task.subtasks, or give data that has it"
                    found.append(Problem(where=where, what=f"no row of {subtask}; there are {there}", remedy=remedy))
            if self.num_documents is not None and len(documents[split]) < self.num_documents:
                what = f"{self.num_documents} documents were asked for and there are {len(documents[split])}"
                remedy = f"set task.num_documents to {len(documents[split])} or less, or null for all"
                found.append(Problem(where=where, what=f"{what} ({', '.join(subtasks)})", remedy=remedy))
        if found:
            refuse(found)


def _forget_and_retain(data: TaskData) -> tuple[tuple[Split, tuple[Example, ...]], ...]:
    return (Split.FORGET, data.forget), (Split.RETAIN, data.retain)


def group_by_document(examples: Sequence[Example], subtasks: Sequence[str]) -> Documents:
    """The prompts of the given subtasks by document, in the order in which the documents first appear."""
    documents: dict[str, list[Example]] = {}
    for example in examples:
        if example.subtask in subtasks:
            documents.setdefault(example.document, []).append(example)
    return {document: tuple(prompts) for document, prompts in documents.items()}


def choose_documents(documents: Documents, count: int, seed: int, split: Split) -> Documents:
    """`count` documents in their old order, as many of each subtask as its size allows.

    The subtasks take turns, so one that runs out leaves its turns to the others, and the choice
    for a smaller count is part of the choice for a larger one.
    """
    queues = [shuffle_documents(documents, subtask, seed, split) for subtask in SUBTASK_OF_LABEL.values()]
    turns = [document for turn in zip_longest(*queues) for document in turn if document is not None]
    chosen = set(turns[:count])
    return {document: prompts for document, prompts in documents.items() if document in chosen}


def shuffle_documents(documents: Documents, subtask: str, seed: int, split: Split) -> list[str]:
    """The ids of one subtask's documents in a seeded order that does not depend on the order of the files."""
    names = sorted(document for document, prompts in documents.items() if prompts[0].subtask == subtask)
    Random(f"{seed}:{split}:{subtask}").shuffle(names)
    return names


def _member_page(prompts: Sequence[Example], split: Split = Split.MEMBER) -> Example | None:
    """The whole text of a document, from its completion row; None where it has questions only."""
    for prompt in prompts:
        if prompt.kind == Kind.COMPLETION:
            text = f"{prompt.prompt} {prompt.answer}"
            return page_example(prompt.document, prompt.raw_id, split, prompt.subtask, text)
    return None


def _leftover_pages(
    everything: dict[Split, Documents], kept: dict[Split, Documents], members: Sequence[Example], seed: int
) -> tuple[Example, ...]:
    """Unused documents as non-members, per subtask as many as there are members (or as are left).

    Matching the subtasks keeps a membership attack from telling a novel from a biography instead.
    """
    unused = {
        document: prompts
        for split, documents in everything.items()
        for document, prompts in documents.items()
        if document not in kept[split] and _member_page(prompts)
    }
    found: list[Example] = []
    for subtask in SUBTASK_OF_LABEL.values():
        wanted = sum(member.subtask == subtask for member in members)
        names = shuffle_documents(unused, subtask, seed, Split.NONMEMBER)[:wanted]
        found.extend(page for name in names if (page := _member_page(unused[name], Split.NONMEMBER)))
    return tuple(found)


def download_dataset(hub_id: str) -> Path:
    """The folder of a hub data set's files, from the cache where the hub cannot be reached."""
    from huggingface_hub import HfApi, snapshot_download

    unreachable: Exception | None = None
    try:
        # snapshot_download itself waits without limit for its first answer, so ask with a limit before
        HfApi().dataset_info(hub_id, timeout=HUB_PATIENCE_S)
    except Exception as error:  # the client's errors share no base: OSError, ValueError and httpx's own
        unreachable = error
    try:
        folder = snapshot_download(
            hub_id,
            repo_type="dataset",
            allow_patterns=["*.parquet", "*.jsonl"],
            etag_timeout=HUB_PATIENCE_S,
            local_files_only=unreachable is not None,
        )
    except Exception as error:
        cause = unreachable or error
        raise unavailable_dataset_error(
            hub_id, cause, local="task.data_dir=FOLDER (with task.source=folder)"
        ) from cause
    return Path(folder)
