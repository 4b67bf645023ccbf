"""Rows in a tokenizer's chat template: what is put to the model, and the assistant's turn that follows.

The template is the tokenizer's own, rendered by transformers. What is relied on is checked row by row: the row begins
with the prompt that generation sees, all turns stand in that and the assistant's text behind it unchanged, and a
special token ends the turn (EOS where the template has none). What the template writes behind that token is left out:
it changes no number.
A template that asks for today's date gets `DATE`, so that a run says tomorrow what it says today.
"""

from __future__ import annotations

import datetime
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, NoReturn

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import Chat, Example, Kind, Split, Turn
from lume_run.common.text import first_line, joining_space, shorten_middle
from lume_run.models.rows.special_text import find_last, find_special, mask_special, special_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATE = datetime.datetime(2024, 7, 26)  # what Llama 3's template writes where nobody gives a date
PROBE_SECONDS = 5.0  # for what takes milliseconds; a template that loops for ever is refused
SHOWN_PROMPT = 60  # characters of a row's prompt in a message
USER, ASSISTANT = "user", "assistant"
TEMPLATE_REMEDY = (
    "model.chat.use=never for plain text, other model.chat.arguments (of Qwen 3 {enable_thinking: false}), or "
    "model.tokenizer=FOLDER with another one"
)


@cache
def template_at_date(template: str) -> str:
    """A chat template in which it is always `DATE`."""
    if "strftime_now" not in template:
        return template
    codes = [f"%-{code}" for code in "deHIjmMSy"] + [f"%{code}" for code in "aAbBcdDeFHIjmMpSTuUVwWxXyYzZ"]
    replaced = "".join(f".replace({code!r}, {DATE.strftime(code)!r})" for code in codes)
    return "{%- macro strftime_now(form) -%}{{- form" + replaced + " -}}{%- endmacro -%}" + template


def chat_prompt(example: Example, tokenizer: PreTrainedTokenizerBase) -> str:
    """What generation sees, masked: all turns, the beginning of the assistant's, and what it said already."""
    if not example.begun.strip():
        return _render_prompt(_turns_before(example, tokenizer), example, tokenizer)
    prompt, turn = chat_texts(replace(example, answer=example.begun, begun=""), tokenizer)
    begun = mask_special(example.begun, tokenizer)
    end = find_last(turn, begun.strip(), tokenizer) + len(begun.strip())
    return prompt + turn[:end] + begun[len(begun.rstrip()) :]


def chat_texts(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """(what generation sees, the assistant's turn with the token that ends it), masked; ConfigError where the
    template does not let one follow the other."""
    turns, answer = _turns_before(example, tokenizer), mask_special(example.answer, tokenizer)
    prompt = _render_prompt(turns, example, tokenizer)
    row = _render([*turns, Turn(ASSISTANT, answer)], example, tokenizer, generates=False)
    if not row.startswith(prompt):
        _refuse(example, tokenizer, "does not begin the assistant's turn as it begins what the model is to continue")
    rest = row[len(prompt) :]
    start = find_last(rest, answer.strip(), tokenizer)
    if start < 0:
        _refuse(example, tokenizer, "changes what the assistant says")
    end = start + len(answer.strip())
    closing = find_special(rest[end:], tokenizer)
    if closing is None:
        return prompt, rest[:end] + str(tokenizer.eos_token)
    return prompt, rest[: end + closing.end()]


def continued_texts(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """`chat_texts`, where what the assistant said already belongs to what generation sees."""
    if not example.begun.strip():
        return chat_texts(example, tokenizer)
    prompt, begun = chat_prompt(example, tokenizer), example.begun
    answer = begun + joining_space(begun, example.answer) + example.answer
    row = "".join(chat_texts(replace(example, answer=answer, begun=""), tokenizer))
    if not row.startswith(prompt):
        _refuse(example, tokenizer, "changes how an answer begins by what follows")
    return prompt, row[len(prompt) :]


def chat_problems(chat: Chat, tokenizer: PreTrainedTokenizerBase) -> list[Problem]:
    """What keeps this template from being used with these turns and arguments, tried on a question of two words."""
    probe = Example(
        id="probe", raw_id="", document="", split=Split.FORGET, subtask="", kind=Kind.QUESTION,
        prompt="Who asks?", answer="Somebody does.", chat=chat,
    )  # fmt: skip
    try:
        with time_limit(PROBE_SECONDS):
            _, turn = chat_texts(probe, tokenizer)
        before = turn[: find_last(turn, probe.answer, tokenizer)]
        for special in special_texts(tokenizer):
            before = before.replace(special, "")
        if before.strip():
            _refuse(
                probe, tokenizer, f"writes {before.strip()!r} before what the assistant says, which would be learned"
            )
    except ConfigError as error:
        return list(error.problems)
    return []


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """TimeoutError out of a block that takes longer; in the main thread alone, as signals are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def strike(*_: object) -> NoReturn:
        raise TimeoutError(f"it takes longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _turns_before(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[Turn]:
    """What was said before the assistant's turn, masked."""
    assert example.chat is not None
    turns = (*example.chat.before, Turn(USER, example.prompt))
    return [Turn(turn.role, mask_special(turn.text, tokenizer)) for turn in turns]


def _render_prompt(turns: Sequence[Turn], example: Example, tokenizer: PreTrainedTokenizerBase) -> str:
    """The turns and the beginning of the assistant's; ConfigError where the template leaves out what one of them says.

    Of an assistant's earlier turn it may leave out the reasoning.
    """
    prompt = _render(turns, example, tokenizer, generates=True)
    for turn in turns:
        said = turn.text.rpartition("</think>")[2] if turn.role == ASSISTANT else turn.text
        if said.strip() not in prompt:
            _refuse(example, tokenizer, f"leaves out what the {turn.role} says")
    return prompt


def _render(turns: Sequence[Turn], example: Example, tokenizer: PreTrainedTokenizerBase, *, generates: bool) -> str:
    """The turns in the template, without the tokens that the tokenizer itself puts around a text."""
    assert example.chat is not None
    try:
        text = tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.text} for turn in turns],
            tokenize=False,
            add_generation_prompt=generates,
            chat_template=template_at_date(str(tokenizer.get_chat_template())),
            **dict(example.chat.arguments),
        )
    except Exception as error:  # of Jinja, or whatever a template raises
        _refuse(example, tokenizer, f"cannot be used: {first_line(str(error)) or type(error).__name__}")
    return str(text)


def _refuse(example: Example, tokenizer: PreTrainedTokenizerBase, what: str) -> NoReturn:
    row = f" (row '{example.raw_id}': {shorten_middle(repr(example.prompt), SHOWN_PROMPT)})" if example.raw_id else ""
    what = f"the chat template of '{tokenizer.name_or_path}' {what}{row}"
    raise ConfigError([Problem(where="model.chat", what=what, remedy=TEMPLATE_REMEDY)])
