"""The LUME task: forget and retain prompts about novels, biographies and wiki pages (Ramakrishna et al. 2025).

The rows come from a folder, from the hub (the SemEval-2025 Task 4 release) or from the built-in generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import Example, Kind, Split, TaskData
from lume_run.tasks.documents import (
    Documents,
    choose_documents,
    group_by_document,
    page_example,
    shuffle_documents,
)
from lume_run.tasks.row_files import refuse
from lume_run.tasks.semeval.files import LumeFiles, download_dataset
from lume_run.tasks.semeval.rows import PAGE_SUBTASK, read_files
from lume_run.tasks.semeval_ids import SUBTASK_OF_LABEL

BUILTIN_DOCUMENTS = 12  # per split: enough for every subtask, small enough for a laptop


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
        problems = []
        known = tuple(SUBTASK_OF_LABEL.values())
        for subtask in self.subtasks or [""]:
            if subtask not in known:
                what = f"unknown subtask {subtask!r}" if subtask else "no subtask is named"
                problems.append(Problem(where="task.subtasks", what=what, remedy=f"choose from {', '.join(known)}"))
        if self.num_documents is not None and self.num_documents < 1:
            what, remedy = f"{self.num_documents} documents are no data", "give 1 or more, or null for all"
            problems.append(Problem(where="task.num_documents", what=what, remedy=remedy))
        if self.split not in ("train", "validation", "all"):
            what = f"unknown split {self.split!r}"
            problems.append(Problem(where="task.split", what=what, remedy="choose from train, validation, all"))
        elif self.source == "folder":
            problems.extend(self._folder_problems())
        elif self.source == "builtin":
            problems.extend(self._builtin_problems())
        return problems

    def _builtin_problems(self) -> list[Problem]:
        from lume_run.tasks.builtin.generator import MAX_DOCUMENTS

        problems, most = [], MAX_DOCUMENTS * len(self.subtasks)
        if self.split != "all":
            what = f"{self.split} picks among released parquet files, and the data is built in"
            problems.append(Problem(where="task.split", what=what, remedy="leave task.split=all"))
        if (self.num_documents or 0) > most:
            what = f"the generator can name {most} documents per split, not {self.num_documents}"
            problems.append(Problem(where="task.num_documents", what=what, remedy=f"give {most} or fewer"))
        return problems

    def load(self, seed: int) -> TaskData:
        """The examples of the experiment; DataError, RunError or ConfigError where they are unavailable."""
        if problems := self.check():
            raise ConfigError(problems)
        subtasks = tuple(name for name in SUBTASK_OF_LABEL.values() if name in self.subtasks)
        if self.source == "builtin":
            from lume_run.tasks.builtin.generator import generate_task

            return generate_task(subtasks=subtasks, num_documents=self.num_documents or BUILTIN_DOCUMENTS, seed=seed)
        files = LumeFiles.of(self._fetch_folder(), self.split)
        if problems := files.problems(self._origin, self.split):  # a snapshot of the hub was not checked yet
            refuse(problems)
        data = read_files(forget=files.forget, retain=files.retain, members=files.members, nonmembers=files.nonmembers)
        return self._select(data, subtasks, seed, files.format)

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
        all_chosen = self.split == "all" or all(page.document in kept[Split.FORGET] for page in members)
        if self.num_documents is not None or not members or PAGE_SUBTASK not in subtasks or not all_chosen:
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
        problems = []
        for split, rows in _forget_and_retain(data):
            where = f"{self._origin}, {split} rows"
            labels = {label: name for label, name in SUBTASK_OF_LABEL.items() if name in {row.subtask for row in rows}}
            there = ", ".join(f"{label} ({name})" for label, name in labels.items())
            for subtask in subtasks:
                if subtask not in labels.values():
                    remedy = f"take {subtask} out of task.subtasks, or give data that has it"
                    problems.append(Problem(where=where, what=f"no row of {subtask}; there are {there}", remedy=remedy))
            if self.num_documents is not None and len(documents[split]) < self.num_documents:
                what = f"{self.num_documents} documents were asked for and there are {len(documents[split])}"
                remedy = f"set task.num_documents to {len(documents[split])} or less, or null for all"
                problems.append(Problem(where=where, what=f"{what} ({', '.join(subtasks)})", remedy=remedy))
        if problems:
            refuse(problems)


def _forget_and_retain(data: TaskData) -> tuple[tuple[Split, tuple[Example, ...]], ...]:
    return (Split.FORGET, data.forget), (Split.RETAIN, data.retain)


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
    pages: list[Example] = []
    for subtask in SUBTASK_OF_LABEL.values():
        wanted = sum(member.subtask == subtask for member in members)
        names = shuffle_documents(unused, subtask, seed, Split.NONMEMBER)[:wanted]
        pages.extend(page for name in names if (page := _member_page(unused[name], Split.NONMEMBER)))
    return tuple(pages)
