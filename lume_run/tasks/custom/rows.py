"""What a user's row says: which of its columns hold the prompt, the answer and the rest, and what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from lume_run.common.errors import ConfigError, DataError, Problem
from lume_run.common.records import Kind, Turn
from lume_run.common.seeds import stable_digest
from lume_run.common.text import is_spaceless_text
from lume_run.config.fields import setting
from lume_run.tasks.row_files import VISIBLE, field_problems

USUAL_NAMES = {  # in the order in which they are looked for
    "messages": ("messages", "conversations", "conversation", "dialog", "chat"),
    "prompt": ("question", "prompt", "instruction", "query", "input", "q"),
    "answer": ("answer", "response", "completion", "output", "target", "a"),
    "input": ("input", "context"),  # beside an instruction or a question
    "text": ("text", "content", "document_text", "story", "article"),
    "document": ("document", "document_id", "doc_id", "doc", "author", "person", "entity", "group"),
    "paraphrase": ("paraphrased_answer", "paraphrase", "paraphrases"),
    "perturbed": ("perturbed_answer", "perturbed", "wrong_answers", "distractors"),
    "id": ("id", "uid", "row_id"),
}
SURROGATE = re.compile("[\ud800-\udfff]")  # half a letter, which no file can hold
WAYS = "task.columns.prompt=... and task.columns.answer=..., task.columns.messages=... or task.columns.text=..."
SPEAKERS = ("system", "user", "assistant")
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}  # as ShareGPT calls them


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Names of columns; null: the first usual name that the first row has."""

    prompt: str | None = setting(None, help="what is asked")
    answer: str | None = setting(None, help="what is answered")
    input: str | None = setting(None, help="what the prompt is about, put behind it on a new line (Alpaca's input)")
    messages: str | None = setting(None, help="a chat: a list of {role, content}")
    text: str | None = setting(None, help="a text to be continued")
    document: str | None = setting(None, help="what rows are about; rows of one document stay together")
    paraphrase: str | None = setting(None, help="other wordings of the answer, one or a list")
    perturbed: str | None = setting(None, help="false answers of its form, a list")
    id: str | None = setting(None, help="the row's own id")
    facts: dict[str, str] = setting(
        factory=dict, help="private facts for the pii suite: name of the fact -> its column"
    )


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

    @property
    def disclosed_fact(self) -> tuple[str, str]:
        """(name, value) of the first fact that the answer tells; ("", "") where it tells none."""
        return next(((name, value) for name, value in self.facts if _says(self.answer, value)), ("", ""))

    @property
    def digest(self) -> str:
        """12 hex digits of what the row says."""
        return stable_digest(self.prompt, self.answer, separator="\0").hex()[:12]


def _says(text: str, value: str) -> bool:
    """Whether a text holds a value as words of its own, whatever their case."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None


def guess_columns(given: Columns, row: Mapping[str, Any], source: str) -> Columns:
    """The columns that are read: those given, else the first usual names that the row has.

    Raises ConfigError for names that it does not have, and where there is neither prompt with answer, chat nor text.
    """
    by_lower = {str(name).lower(): str(name) for name in reversed(list(row))}
    named = {name: getattr(given, name) for name in USUAL_NAMES}
    named |= {f"facts.{fact}": column for fact, column in given.facts.items()}
    problems = [
        Problem(where=f"task.columns.{name}", what=f"{source} has no column '{column}'", remedy=_listed(row))
        for name, column in named.items()
        if column is not None and column not in row
    ]
    guessed = {
        name: named[name] or next((by_lower[usual] for usual in usual_names if usual in by_lower), None)
        for name, usual_names in USUAL_NAMES.items()
    }
    if given.prompt or given.answer or not guessed["messages"]:
        guessed["messages"] = given.messages
    pair = guessed["prompt"] and guessed["answer"]
    if not pair or guessed["input"] == guessed["prompt"]:
        guessed["input"] = given.input
    if guessed["messages"]:
        guessed |= {"prompt": None, "answer": None, "text": None}
    elif pair and not given.text:
        guessed["text"] = None
    elif guessed["text"]:
        guessed |= {"prompt": None, "answer": None}
    else:
        what = f"{source} has neither a question with an answer, nor a chat, nor a text"
        problems.append(Problem(where="task.columns", what=what, remedy=f"{WAYS}; {_listed(row)}"))
    if problems:
        raise ConfigError(problems)
    return Columns(**guessed, facts=given.facts)


def _listed(row: Mapping[str, Any]) -> str:
    return f"its columns are {', '.join(map(str, row))}"


def rows_of(parsed: Iterable[tuple[str, object]], columns: Columns, words: int) -> tuple[list[OwnRow], list[Problem]]:
    """(sound rows, problems) of parsed rows; a text gives as many rows as it has pieces of `words` words."""
    rows: list[OwnRow] = []
    problems: list[Problem] = []
    needed = [name for name in (columns.prompt, columns.answer, columns.text) if name]
    for where, row in parsed:
        wrong = [] if isinstance(row, Problem) else list(field_problems(row, where, needed))
        if not wrong and (halved := SURROGATE.search(json.dumps(row, ensure_ascii=False, default=str))):
            what = f"the row holds half a surrogate pair ({ascii(halved[0])[1:-1]})"
            wrong = [Problem(where=where, what=what, remedy="repair the text")]
        if isinstance(row, dict) and not wrong:
            try:
                rows += _read_row(row, where, columns, words)
            except DataError as error:
                wrong = list(error.problems)
        problems += wrong
    return rows, problems


def _read_row(row: Mapping[str, Any], where: str, columns: Columns, words: int) -> Iterator[OwnRow]:
    """What a row with its text fields says; raises DataError for a chat or a further column that cannot be read."""
    extras = _extras(row, where, columns)
    if columns.text:
        yield from _text_pieces(row[columns.text], where, words, extras)
    elif columns.messages:
        turns = _turns_of(row.get(columns.messages), where)
        prompt = plain_prompt(turns[:-1])
        yield OwnRow(where=where, kind=Kind.QUESTION, prompt=prompt, answer=turns[-1].text, turns=turns[:-1], **extras)
    else:
        prompt, answer, about = row[str(columns.prompt)], row[str(columns.answer)], row.get(columns.input or "") or ""
        if not isinstance(about, str):
            what = f'field "{columns.input}" is no text'
            raise DataError([Problem(where=where, what=what, remedy="write text, or leave it empty")])
        prompt += f"\n{about}" if about.strip() else ""
        yield OwnRow(where=where, kind=Kind.QUESTION, prompt=prompt, answer=answer, **extras)


def _extras(row: Mapping[str, Any], where: str, columns: Columns) -> dict[str, Any]:
    """Document, id, other wordings and false answers of a row; raises DataError."""
    extras: dict[str, Any] = {}
    for name, field in (("paraphrase", "paraphrases"), ("perturbed", "perturbed")):
        column = getattr(columns, name)
        entries = row.get(column) or [] if column else []
        entries = [entries] if isinstance(entries, str) else entries
        if not isinstance(entries, list) or not all(isinstance(entry, str) and entry.strip() for entry in entries):
            what = f'field "{column}" is no text and no list of texts'
            raise DataError([Problem(where=where, what=what, remedy="a text, or a list of texts")])
        extras[field] = tuple(entries)
    told = ((name, row.get(column)) for name, column in columns.facts.items())
    extras["facts"] = tuple((name, str(value).strip()) for name, value in told if str(value or "").strip())
    for name, field in (("document", "document"), ("id", "raw_id")):
        value = row.get(getattr(columns, name) or "")
        if isinstance(value, (Mapping, list)):
            what = f'field "{getattr(columns, name)}" is no single value'
            raise DataError([Problem(where=where, what=what, remedy=f"task.columns.{name}=COLUMN names another")])
        extras[field] = "" if value is None or value != value else str(value)  # NaN: how tables write nothing
    return extras


def _turns_of(messages: object, where: str) -> tuple[Turn, ...]:
    """The turns of a chat, the last one the assistant's that answers the user's; raises DataError."""

    def refuse(what: str) -> NoReturn:
        remedy = "a list of {role, content} that ends with the assistant's turn"
        raise DataError([Problem(where=where, what=what, remedy=remedy)])

    if isinstance(messages, str):  # as CSV holds them
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError):
            refuse("the chat is a text that is no JSON")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        refuse("the chat is no list of turns")
    named: list[Turn] = []
    for number, message in enumerate(messages, 1):
        role, text = message.get("role") or message.get("from"), _turn_text(message)
        if not isinstance(role, str) or not VISIBLE.search(text):
            refuse(f"turn {number} of the chat has no role or no text")
        if message.get("tool_calls") or ROLES.get(role, role) not in SPEAKERS:
            refuse(f"turn {number} of the chat is a tool's, or of the role '{role}'")
        named.append(Turn(ROLES.get(role, role), text))
    if [turn.role for turn in named[-2:]] != ["user", "assistant"]:
        refuse("the last turn of the chat is not the assistant's, to a turn of the user")
    return tuple(named)


def _turn_text(message: Mapping[str, Any]) -> str:
    """What a turn says: a text, or parts that are all texts, on end; "" where it is neither."""
    content = message.get("content") or message.get("value")
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    return content if isinstance(content, str) else ""


def plain_prompt(turns: Sequence[Turn]) -> str:
    """A chat as plain text: one question as it is, of a longer chat each turn under its role."""
    return turns[0].text if len(turns) == 1 else "\n".join(f"{turn.role}: {turn.text}" for turn in turns)


def _text_pieces(text: str, where: str, words: int, extras: Mapping[str, Any]) -> Iterator[OwnRow]:
    """Pieces of a text as prompts with their continuations; a last piece of one word joins nothing and is left out.

    A script without spaces is counted in characters.
    """
    spaceless = is_spaceless_text(text)
    parts, joint = (list(text.strip()), "") if spaceless else (text.split(), " ")
    document = extras.get("document") or stable_digest(text).hex()[:12]
    for start in range(0, len(parts), words):
        piece = parts[start : start + words]
        middle = len(piece) // 2
        if middle:
            prompt, answer = joint.join(piece[:middle]), joint.join(piece[middle:])
            yield OwnRow(
                where=where, kind=Kind.COMPLETION, prompt=prompt, answer=answer, **{**extras, "document": document}
            )
