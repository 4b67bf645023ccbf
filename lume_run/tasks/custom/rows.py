"""What a user's row says in its columns, and what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lume_run.common.errors import DataError, Problem
from lume_run.common.records import Kind, Turn
from lume_run.common.seeds import stable_digest
from lume_run.tasks.custom.chats import chat_of_pair, plain_prompt, turns_of
from lume_run.tasks.custom.columns import Columns, is_turns
from lume_run.tasks.row_files import field_problems

SURROGATE = re.compile("[\ud800-\udfff]")  # half a letter, which no file can hold
Cut = Callable[[str], Iterable[tuple[str, str]]]  # a text to (beginning, continuation) of its pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRow:
    """A sound row: its place, its texts, and what its other columns say."""

    where: str
    kind: Kind
    prompt: str
    answer: str
    document: str = ""
    raw_id: str = ""
    paraphrases: tuple[str, ...] = ()
    perturbed: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    rewordings: tuple[str, ...] = ()

    @property
    def disclosed_facts(self) -> tuple[tuple[str, str], ...]:
        """(name, value) of the facts that the answer tells."""
        return tuple((name, value) for name, value in self.facts if _says(self.answer, value))

    @property
    def digest(self) -> str:
        """12 hex digits of what the row says."""
        return stable_digest(self.prompt, self.answer, separator="\0").hex()[:12]

    @property
    def document_name(self) -> str:
        """What the row is about; a row that names nothing is a document of its own."""
        return self.document or self.digest


def _says(text: str, value: str) -> bool:
    """Whether a text holds a value as words of its own, whatever their case."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None


def rows_of(parsed: Iterable[tuple[str, object]], columns: Columns, cut: Cut) -> tuple[list[OwnRow], list[Problem]]:
    """(sound rows, problems) of parsed rows; a text gives as many rows as `cut` makes of it."""
    rows: list[OwnRow] = []
    problems: list[Problem] = []
    needed = [name for name in (columns.prompt, columns.answer, columns.text) if name]
    for where, row in parsed:
        texts = [] if _is_chat_pair(row, columns) else needed
        wrong = [] if isinstance(row, Problem) else list(field_problems(row, where, texts))
        if not wrong and (halved := SURROGATE.search(json.dumps(row, ensure_ascii=False, default=str))):
            what = f"the row holds half a surrogate pair ({ascii(halved[0])[1:-1]})"
            wrong = [Problem(where=where, what=what, remedy="repair the text")]
        if isinstance(row, dict) and not wrong:
            try:
                rows += _read_row(row, where, columns, cut)
            except DataError as error:
                wrong = list(error.problems)
        problems += wrong
    return rows, problems


def _read_row(row: Mapping[str, Any], where: str, columns: Columns, cut: Cut) -> Iterator[OwnRow]:
    """What a row with its text fields says; raises DataError for a chat or a further column that cannot be read."""
    extras = _extras(row, where, columns)
    if columns.text:
        yield from _text_pieces(row[columns.text], where, cut, extras)
    elif columns.messages or _is_chat_pair(row, columns):
        if row.get("tools"):
            what = "the chat has tools, of which the model would not be told"
            raise DataError([Problem(where=where, what=what, remedy="leave out such chats, or the column 'tools'")])
        pair = chat_of_pair(row.get(str(columns.prompt)), row.get(str(columns.answer)))
        turns = turns_of(row.get(columns.messages) if columns.messages else pair, where)
        prompt = plain_prompt(turns[:-1])
        yield OwnRow(where=where, kind=Kind.QUESTION, prompt=prompt, answer=turns[-1].text, turns=turns[:-1], **extras)
    else:
        prompt, answer, about = row[str(columns.prompt)], row[str(columns.answer)], _cell(row, columns.input) or ""
        if not isinstance(about, str):
            what = f'field "{columns.input}" is no text'
            raise DataError([Problem(where=where, what=what, remedy="write text, or leave it empty")])
        prompt += f"\n{about}" if about.strip() else ""
        yield OwnRow(where=where, kind=Kind.QUESTION, prompt=prompt, answer=answer, **extras)


def _is_chat_pair(row: object, columns: Columns) -> bool:
    """Whether the prompt of a row is a list of turns, and the answer the next turn, as TRL has them."""
    return isinstance(row, dict) and columns.prompt is not None and is_turns(row.get(columns.prompt))


def _extras(row: Mapping[str, Any], where: str, columns: Columns) -> dict[str, Any]:
    """Document, id, other wordings and false answers of a row; raises DataError."""
    extras: dict[str, Any] = {}
    for name, field in (("paraphrase", "paraphrases"), ("perturbed", "perturbed")):
        column = getattr(columns, name)
        entries = _cell(row, column) or []
        entries = [entries] if isinstance(entries, str) else entries
        if not isinstance(entries, list) or not all(isinstance(entry, str) and entry.strip() for entry in entries):
            what = f'field "{column}" is no text and no list of texts'
            raise DataError([Problem(where=where, what=what, remedy="a text, or a list of texts")])
        extras[field] = tuple(entries)
    facts = {
        fact: _single_text(row.get(column), where, column, f"facts.{fact}") for fact, column in columns.facts.items()
    }
    extras["rewordings"] = tuple(
        wording for name in columns.rewordings if (wording := _single_text(row.get(name), where, name, "rewordings"))
    )
    extras["facts"] = tuple((fact, value) for fact, value in facts.items() if value)
    for name, field in (("document", "document"), ("id", "raw_id")):
        extras[field] = _single_text(_cell(row, getattr(columns, name)), where, getattr(columns, name), name)
    return extras


def _cell(row: Mapping[str, Any], column: str | None) -> Any:
    """What a row has in a column; None without a column (tables may have one without a name, as pandas writes)."""
    return None if column is None else row.get(column)


def _single_text(value: object, where: str, column: str, name: str) -> str:
    """A value of a column in words, "" where there is none; raises DataError where it is many, or bytes."""
    if isinstance(value, (Mapping, list, bytes)):
        what = f'field "{column}" is no single value'
        raise DataError([Problem(where=where, what=what, remedy=f"task.columns.{name}=COLUMN names another")])
    return "" if value is None or value != value else str(value).strip()  # NaN: how tables write nothing


def _text_pieces(text: str, where: str, cut: Cut, extras: Mapping[str, Any]) -> Iterator[OwnRow]:
    """Pieces of a text as prompts with their continuations, of one document."""
    document = extras.get("document") or stable_digest(text.strip()).hex()[:12]
    for prompt, answer in cut(text):
        yield OwnRow(
            where=where, kind=Kind.COMPLETION, prompt=prompt, answer=answer, **{**extras, "document": document}
        )
