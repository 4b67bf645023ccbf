"""Chats of users' rows: lists of {role, content} or {from, value} whose last turn is the assistant's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from lume_run.common.errors import DataError, Problem
from lume_run.common.records import Turn
from lume_run.tasks.row_files import VISIBLE, parse_json

SPEAKERS = ("system", "user", "assistant")
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}  # as ShareGPT calls them


def turns_of(messages: object, where: str) -> tuple[Turn, ...]:
    """The turns of a chat, the last one the assistant's that answers the user's; raises DataError."""

    def refuse(what: str) -> NoReturn:
        remedy = "a list of {role, content} that ends with the assistant's turn"
        raise DataError([Problem(where=where, what=what, remedy=remedy)])

    if isinstance(messages, str):  # as CSV holds them
        try:
            messages = parse_json(messages)
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
