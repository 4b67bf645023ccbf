"""Which columns of a user's rows hold the prompt, the answer and the rest: as named, or guessed from usual names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from lume_run.common.errors import ConfigError, Problem
from lume_run.config.fields import setting

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
REWORDING = "paraphrased_question"  # the usual name of a column of other wordings of the question
WAYS = "task.columns.prompt=... and task.columns.answer=..., task.columns.messages=... or task.columns.text=..."


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
    rewordings: list[str] = setting(
        factory=list, help="other wordings of the question: columns, or forms of their names such as q_*"
    )
    rows: list[str] = setting(factory=list, help="columns that hold lists of rows, where a row is such lists")


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
    guessed: dict[str, Any] = {
        name: named[name] or next((by_lower[usual] for usual in usual_names if usual in by_lower), None)
        for name, usual_names in USUAL_NAMES.items()
    }
    if given.prompt or given.answer or not guessed["messages"]:
        guessed["messages"] = given.messages
    pair = guessed["prompt"] and guessed["answer"]
    if pair and guessed["prompt"] == guessed["answer"] and not guessed["messages"]:
        what = f"prompt and answer are both '{guessed['prompt']}'"
        problems.append(Problem(where="task.columns", what=what, remedy=_listed(row)))
    if not pair or guessed["input"] == guessed["prompt"]:
        guessed["input"] = given.input
    if guessed["messages"]:
        guessed |= {"prompt": None, "answer": None, "text": None}
    elif pair and not given.text:
        guessed["text"] = None
    elif guessed["text"]:
        guessed |= {"prompt": None, "answer": None}
    else:
        problems.append(_nothing_to_ask(row, source))
    asked = Columns(**guessed, facts=given.facts)
    rewordings = _rewordings(given, asked, row)
    if given.rewordings and not rewordings:
        problems.append(_no_rewordings(given, row, source))
    if problems:
        raise ConfigError(problems)
    return replace(asked, rewordings=rewordings)


def _rewordings(given: Columns, asked: Columns, row: Mapping[str, Any]) -> list[str]:
    """Columns of other wordings of the question: of those given or, beside a guessed prompt, the usual one."""
    forms = given.rewordings or ([] if given.prompt else [REWORDING])
    taken = (asked.prompt, asked.answer)
    return [name for name in row if asked.prompt and name not in taken and fits_one(name, forms)]


def fits_one(name: object, forms: Iterable[str]) -> bool:
    """Whether a name is one of those given, stars standing for anything."""
    return any(fnmatchcase(str(name), form) for form in forms)


def _listed(row: Mapping[str, Any]) -> str:
    return f"its columns are {', '.join(map(str, row))}"


def _no_rewordings(given: Columns, row: Mapping[str, Any], source: str) -> Problem:
    what = f"{source} has no column {' or '.join(given.rewordings)}"
    return Problem(where="task.columns.rewordings", what=what, remedy=_listed(row))


def _nothing_to_ask(row: Mapping[str, Any], source: str) -> Problem:
    what = f"{source} has neither a question with an answer, nor a chat, nor a text"
    wrapped = next((name for name, value in row.items() if is_turns(value)), "")
    alone = f"; where '{wrapped}' holds the rows, task.columns.rows=[{wrapped}]" if wrapped else ""
    return Problem(where="task.columns", what=what, remedy=f"{WAYS}; {_listed(row)}{alone}")


def is_turns(value: object) -> bool:
    """Whether a value is a list of objects, as turns of a chat are."""
    return isinstance(value, list) and bool(value) and all(isinstance(entry, Mapping) for entry in value)
