"""In which form a run's rows are put to its model: as plain text, or in the tokenizer's chat template.

Tasks say which rows are questions that a chat model may be asked (`Example.template`); those of LUME and of benchmarks
are not, as in their official runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import Chat, Example, Kind, Question, TaskData, Turn
from lume_run.common.text import shorten_middle
from lume_run.config.model_settings import ModelSettings
from lume_run.models.rows.chat import chat_problems
from lume_run.models.rows.tokenise import pair_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASKED_KINDS = (Kind.QUESTION, Kind.CHOICE)
SHOWN_SYSTEM = 80  # characters of a system prompt in a plan
NO_TEMPLATE = "the tokenizer has no chat template"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFormat:
    """The chat that rows are put into (None: none is), all questions or those that tasks mark; `why` in words."""

    chat: Chat | None = None
    everywhere: bool = False
    why: str = ""

    def __str__(self) -> str:
        if self.chat is None:
            return f"plain text ({self.why})" if self.why else "plain text"
        parts = [f"{turn.role} prompt {shorten_middle(repr(turn.text), SHOWN_SYSTEM)}" for turn in self.chat.before]
        parts += [f"{name}={value}" for name, value in self.chat.arguments]
        return ", ".join(["the tokenizer's chat template", *parts])

    def example(self, example: Example) -> Example:
        """The example in this format."""
        if self.chat is None or example.chat is not None or not (is_asked_of_chats(example) or self._takes(example)):
            return example
        head, slot, tail = example.template.partition("{question}")
        if example.turns:
            before, prompt = example.turns[:-1], example.turns[-1].text
        else:
            before, prompt = (), _without(example.prompt, head, tail) if slot else example.prompt
        if before and before[0].role == "system":  # the row's instead of the setting's
            chat = self.chat._replace(before=before)
        else:
            chat = self.chat._replace(before=(*self.chat.before, *before))
        rephrasings = tuple(_without(text, head, tail) if slot else text for text in example.rephrasings)
        return replace(example, prompt=prompt, rephrasings=rephrasings, template="", turns=(), chat=chat)

    def data(self, data: TaskData) -> TaskData:
        """The examples of a task in this format; whole documents have none."""
        if self.chat is None:
            return data
        forget, retain, others = (tuple(map(self.example, side)) for side in (data.forget, data.retain, data.others))
        return replace(data, forget=forget, retain=retain, others=others)

    def questions(self, questions: Iterable[Question]) -> list[Question]:
        """Questions in this format."""
        return [replace(question, example=self.example(question.example)) for question in questions]

    def _takes(self, example: Example) -> bool:
        return self.everywhere and example.kind in ASKED_KINDS


def is_asked_of_chats(example: Example) -> bool:
    """Whether a task marks the example as a question that a chat model may be asked."""
    return bool(example.template or example.turns)


def _without(text: str, head: str, tail: str) -> str:
    return text.removeprefix(head).removesuffix(tail)


def text_format_of(
    settings: ModelSettings, tokenizer: PreTrainedTokenizerBase | None, examples: Iterable[Example]
) -> TextFormat:
    """The format of a run with these examples; ConfigError where the chat template that is asked for cannot be used.

    Without a tokenizer the model is built here, or out of reach, which loading it will say.
    """
    use = settings.chat.use
    unread = [f"model.chat.{name}" for name in ("system", "arguments") if getattr(settings.chat, name)]
    unused = f"; {' and '.join(unread)} {'is' if len(unread) == 1 else 'are'} not used" if unread else ""
    if use == "never":
        return TextFormat(why=f"model.chat.use=never{unused}")
    if use == "auto" and not any(map(is_asked_of_chats, examples)):
        return TextFormat(why=f"these rows are not asked of chat models{unused}")
    if tokenizer is None and settings.path is not None:
        return TextFormat(why="whether the tokenizer has a chat template is not known while it is out of reach")
    if tokenizer is None or not tokenizer.chat_template:
        if use == "always":
            remedy = "model.chat.use=auto, or model.tokenizer=FOLDER with a chat template"
            raise ConfigError([Problem(where="model.chat.use", what=NO_TEMPLATE, remedy=remedy)])
        return TextFormat(why=f"{NO_TEMPLATE}{unused}")
    chat = chat_of(settings)
    if problems := chat_problems(chat, tokenizer):
        raise ConfigError(problems)
    return TextFormat(chat=chat, everywhere=use == "always")


def chat_of(settings: ModelSettings) -> Chat:
    """The system prompt and the arguments that the settings give to a chat template."""
    system = (Turn("system", settings.chat.system),) if settings.chat.system else ()
    return Chat(before=system, arguments=tuple(sorted(settings.chat.arguments.items())))


def turn_ends(questions: Iterable[Question], tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end the assistant's turn in the chats of these questions."""
    chats = {question.example.chat: question.example for question in questions if question.example.chat is not None}
    return frozenset(pair_ids(example, tokenizer)[1][-1] for example in chats.values())
