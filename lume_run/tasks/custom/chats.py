"""Chats of users' rows: lists of {role, content} or {from, value}; the assistant's last turn is the answer."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from lume_run.common.errors import DataError, Problem
from lume_run.common.records import Turn
from lume_run.tasks.row_files import VISIBLE, parse_json

SPEAKERS = ("system", "user", "assistant")
ROLES = {  # as ShareGPT and newer interfaces call them
    "human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "developer": "system",
}  # fmt: skip
BESIDE_TEXT = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")  # what no text here holds


def turns_of(messages: object, where: str) -> tuple[Turn, ...]:
    """The turns of a chat up to the assistant's last, which answers the user; raises DataError.

    What follows that turn is not read. A system prompt may be blank: some templates write one of their own without.
    """

    def refuse(what: str) -> NoReturn:
        remedy = "a list of {role, content} that ends with the assistant's turn"
        raise DataError([Problem(where=where, what=what, remedy=remedy)])

    if isinstance(messages, str):  # as CSV holds them
        try:
            messages = _parsed(messages)
        except (ValueError, RecursionError, SyntaxError, MemoryError):
            refuse("the chat is a text that is no JSON")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        refuse("the chat is no list of turns")
    named: list[Turn] = []
    for number, message in enumerate(messages, 1):
        role, text = message.get("role") or message.get("from"), _turn_text(message)
        role = ROLES.get(role.strip().lower(), role.strip().lower()) if isinstance(role, str) else ""
        if beside := next((name for name in BESIDE_TEXT if message.get(name)), ""):
            refuse(f"turn {number} of the chat is a tool's or holds reasoning: it has '{beside}' beside its text")
        if not role or not (VISIBLE.search(text) or (role == "system" and _is_blank(message))):
            refuse(f"turn {number} of the chat has no role or no text")
        if role not in SPEAKERS:
            refuse(f"turn {number} of the chat is a tool's, or of the role '{role}'")
        named.append(Turn(role, text))
    while named and named[-1].role != "assistant":
        named.pop()
    if [turn.role for turn in named[-2:]] != ["user", "assistant"]:
        refuse("the last turn of the chat is not the assistant's, to a turn of the user")
    return tuple(named)


def _parsed(text: str) -> object:
    """A list of turns in JSON, or as Python writes one, which pandas puts into CSV; ValueError, SyntaxError."""
    try:
        return parse_json(text)
    except ValueError:
        return literal_eval(text)


def _is_blank(message: Mapping[str, Any]) -> bool:
    """Whether a turn says nothing, in words."""
    content = message.get("content", message.get("value"))
    return isinstance(content, str) and not content.strip()


def chat_of_pair(prompt: object, answer: object) -> object:
    """A prompt that is a list of turns, with the answer's turn behind it."""
    if isinstance(answer, str):
        answer = [{"role": "assistant", "content": answer}]
    return [*prompt, *answer] if isinstance(prompt, list) and isinstance(answer, list) else None


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
    said = [turn for turn in turns if turn.text.strip()]
    return said[0].text if len(said) == 1 else "\n".join(f"{turn.role}: {turn.text}" for turn in said)
