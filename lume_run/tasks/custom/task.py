"""A task of the user's own rows: questions with answers, chats, or texts, in columns that are named or guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import Example, Kind, Split, TaskData
from lume_run.config.fields import setting
from lume_run.tasks.custom.columns import Columns, guess_columns
from lume_run.tasks.custom.files import files_left, source_rows
from lume_run.tasks.custom.pieces import cut_text
from lume_run.tasks.custom.rows import Cut, OwnRow, rows_of
from lume_run.tasks.custom.sources import (
    nested_rows,
    request_problems,
    shared_row_problems,
    source_fault,
    unknown_documents,
)
from lume_run.tasks.documents import Room, choose_by_side, describe_selection
from lume_run.tasks.private_facts import attribute_of
from lume_run.tasks.question_files import (
    COUNT_HELP,
    QUESTION_SLOT,
    SEPARATOR_HELP,
    TEMPLATE_HELP,
    format_fields,
    template_problems,
)
from lume_run.tasks.question_sets.tofu import whole_texts
from lume_run.tasks.row_files import field_problems, refuse

SIDES = {"forget": Split.FORGET, "retain": Split.RETAIN, "holdout": Split.NONMEMBER}
SHOWN_COLUMNS = 5  # of those that are not read
WORDS_HELP = "words of one piece of a text, fewer where they do not fit into the model; null: as many as fit"
SOURCE_HELP = "file (JSON Lines, JSON, CSV, TSV, parquet, text), folder of them, or hub id OWNER/NAME[:CONFIG[:SPLIT]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomTask:
    """Rows to forget, to retain and, as non-members, to hold out; each a file, a folder or a hub data set.

    A row is a question with its answer, a chat (`messages`: the last assistant turn is the answer, what stands before
    it the prompt), or a text, which is cut into pieces of `words` words (fewer where the model has no room for these)
    whose second half continues the first. Ids are made of what a row says, so that its place in the file does not
    matter.
    """

    name: str
    forget: list[str] | str | None = setting(
        None, help=f"rows to forget: {SOURCE_HELP}; a list of these has a request each (sequence=in_turn)"
    )
    retain: str | None = setting(None, help="rows to keep; without any only methods without a retain part run")
    holdout: str | None = setting(None, help="rows that no model was trained on: non-members of membership inference")
    documents: list[str] | None = setting(
        None, help="documents of the rows to forget that are forgotten, the others of them are kept; null: all"
    )
    columns: Columns = setting(factory=Columns, help="names of columns that are not the usual ones")
    template: str = setting("{question}", help=TEMPLATE_HELP)
    words: int | None = setting(120, low=2, help=WORDS_HELP)
    separator: str | None = setting(None, help=SEPARATOR_HELP, blank=True)
    num_documents: int | None = setting(None, low=1, help=COUNT_HELP)
    cuts_texts: ClassVar[bool] = True  # by what the model has room for

    def check(self) -> list[Problem]:
        """Problems visible without reading rows or asking the network."""
        problems = template_problems(self.template)
        if not self.forget:
            what, remedy = "there is nothing to forget", f"task.forget=..., a {SOURCE_HELP}"
            problems.append(Problem(where="task.forget", what=what, remedy=remedy))
        if self.documents == []:
            what, remedy = "none of the rows to forget is forgotten", "name a document, or null for all"
            problems.append(Problem(where="task.documents", what=what, remedy=remedy))
        for side in SIDES:
            faults = filter(None, map(source_fault, self._sources(side)))
            problems += [Problem(where=f"task.{side}", what=what, remedy=f"a {SOURCE_HELP}") for what in faults]
        return problems

    def _sources(self, side: str) -> list[str]:
        source = getattr(self, side)
        return source if isinstance(source, list) else [source] if source else []

    def load(self, seed: int, room: Room | None = None) -> TaskData:
        """The examples of the experiment, texts in pieces for which there is room; DataError with every problem,
        RunError where the hub gives none."""
        if problems := self.check():
            raise ConfigError(problems)
        parts: dict[str, list[list[OwnRow]]] = {side: [] for side in SIDES}
        words: list[str] = []
        problems = []
        for side in SIDES:
            for source in self._sources(side):
                columns, part, wrong = self._read(source, side, room or Room())
                parts[side].append(part)
                problems += wrong
                words.append(f"{side} {source} ({columns})")
        problems += self._keep_others(parts)
        rows = {side: [row for part in parts[side] for row in part] for side in SIDES}
        requests = parts["forget"] if len(parts["forget"]) > 1 else []
        problems += shared_row_problems(rows) + request_problems(requests)
        if problems:
            refuse(problems)
        sides = {split: self._examples(rows[side], split) for side, split in SIDES.items() if rows[side]}
        trained = {split: examples for split, examples in sides.items() if split is not Split.NONMEMBER}
        kept = choose_by_side(trained, self.num_documents, seed, "task.forget and task.retain")
        held_out = sides.get(Split.NONMEMBER, ())
        return TaskData(
            forget=kept[Split.FORGET],
            retain=kept.get(Split.RETAIN, ()),
            members=whole_texts(kept[Split.FORGET], Split.MEMBER) if held_out else (),
            nonmembers=whole_texts(held_out, Split.NONMEMBER),
            source=f"{'; '.join(words)}; {describe_selection(kept, trained)}",
            requests=tuple(frozenset(row.document_name for row in part) for part in requests),
        )

    def _keep_others(self, parts: dict[str, list[list[OwnRow]]]) -> list[Problem]:
        """Have the rows to forget that are not of `documents` retained; returns what is wrong with these."""
        if self.documents is None:
            return []
        rows = [row for part in parts["forget"] for row in part]
        parts["forget"] = [[row for row in part if row.document_name in self.documents] for part in parts["forget"]]
        parts["retain"].append([row for row in rows if row.document_name not in self.documents])
        return unknown_documents(rows, self.documents)

    def _read(self, source: str, side: str, room: Room) -> tuple[str, list[OwnRow], list[Problem]]:
        """(the columns in words, the sound rows without repeats, problems) of a side."""
        parsed = list(nested_rows(source_rows(source), self.columns.rows))
        problems = [row for _, row in parsed if isinstance(row, Problem)]
        first = next((row for _, row in parsed if isinstance(row, dict)), None)
        if first is None:
            if parsed and not problems:  # lists of lists, say
                problems += field_problems(parsed[0][1], parsed[0][0], ("question", "answer"))
            elif not problems:
                problems.append(Problem(where=source, what="holds no rows", remedy=f"task.{side}=another file"))
            return "", [], problems
        try:
            columns = guess_columns(self.columns, first, source)
        except ConfigError as error:
            return "", [], [*problems, *error.problems]
        rows, wrong = rows_of(parsed, columns, self._cut(room))
        if not rows and not problems and not wrong:
            what, remedy = "gives no row: its texts have fewer than two words", f"task.{side}=longer texts"
            wrong = [Problem(where=source, what=what, remedy=remedy)]
        unique = list({(row.prompt, row.answer): row for row in rows}.values())
        described = describe_columns(columns, first, unique)
        described += f"; {self._described_pieces(len(rows), room)}" if columns.text else ""
        described += f"; {left}" if (left := files_left(source)) else ""
        described += f"; {len(rows) - len(unique)} repeated rows left out" if len(rows) > len(unique) else ""
        return described, unique, problems + wrong

    def _cut(self, room: Room) -> Cut:
        """How a text becomes pieces for which there is room."""
        separator = format_fields(self.template, self.separator)["separator"]

        def fits(prompt: str, answer: str) -> bool:
            piece = Example(
                id="",
                raw_id="",
                document="",
                split=Split.FORGET,
                subtask=self.name,
                kind=Kind.COMPLETION,
                prompt=prompt,
                answer=answer,
                separator=separator,
            )
            return room.has_room(piece)

        return partial(cut_text, words=self.words, fits=fits)

    def _described_pieces(self, count: int, room: Room) -> str:
        """How many pieces texts gave, and how long they may be, in words."""
        bounds = [f"{self.words} words"] if self.words else []
        bounds += [f"{room.tokens} tokens"] if room.tokens else []
        return f"{count} pieces of at most {' and '.join(bounds)}" if bounds else f"{count} whole texts"

    def _examples(self, rows: Sequence[OwnRow], split: Split) -> tuple[Example, ...]:
        in_format = format_fields(self.template, self.separator)
        template = in_format["template"]
        facts = {row.digest: answer_facts(row) for row in rows}
        return tuple(
            Example(
                id=f"{split}-{row.digest}",
                raw_id=row.raw_id or row.digest,
                document=row.document_name,
                split=split,
                subtask=self.name,
                kind=row.kind,
                prompt=template.replace(QUESTION_SLOT, row.prompt) if row.kind is Kind.QUESTION else row.prompt,
                answer=row.answer,
                paraphrases=row.paraphrases,
                perturbed=row.perturbed,
                rephrasings=tuple(template.replace(QUESTION_SLOT, wording) for wording in row.rewordings),
                attribute=facts[row.digest][0][0],
                fact=facts[row.digest][0][1],
                further_facts=facts[row.digest][1:],
                template=template if row.kind is Kind.QUESTION else "",
                turns=row.turns,
                separator=in_format["separator"],
            )
            for row in rows
        )


def describe_columns(columns: Columns, first: Mapping[str, Any], rows: Sequence[OwnRow]) -> str:
    """Which columns are read for what, how many facts the answers tell, and which columns of the first row are not."""
    chosen = {name: column for name, column in asdict(columns).items() if isinstance(column, str)}
    chosen |= {f"facts.{name}": column for name, column in columns.facts.items()}
    described = ", ".join(f"{name}={column}" for name, column in chosen.items())
    if columns.facts:
        telling = [row.disclosed_facts for row in rows if row.disclosed_facts]
        described += f"; {len(telling)} answers tell a fact, {sum(map(len, telling))} facts in all"
    if columns.rewordings:
        described += f", rewordings={' '.join(columns.rewordings)}"
    if unread := [name for name in first if name not in {*chosen.values(), *columns.rewordings, ""}]:
        described += f"; columns not read: {', '.join(unread[:SHOWN_COLUMNS])}"
        described += f" and {len(unread) - SHOWN_COLUMNS} more" if len(unread) > SHOWN_COLUMNS else ""
    return described


def answer_facts(row: OwnRow) -> tuple[tuple[str, str], ...]:
    """(name, value) of the private facts that an answer tells: of columns, else one by the question, without a value.

    Where there is none, one without a name.
    """
    asked = attribute_of(row.prompt, row.answer) if row.kind is Kind.QUESTION else ""
    return row.disclosed_facts or ((asked, ""),)
