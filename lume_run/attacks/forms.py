"""Questions in other forms: an order before them, a beginning that is asked for, a role, a choice of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from lume_run.attacks.base import Rewrite, Situation, Strength
from lume_run.attacks.prompts import asked_again, require_names
from lume_run.common.records import Example, Kind, Question, Split
from lume_run.common.seeds import stable_digest
from lume_run.config.fields import setting
from lume_run.methods.needs import asked_rows

PROMPT, OPTIONS = "{prompt}", "{options}"
OPTION_LETTERS = "ABCD"


@dataclass(frozen=True, kw_only=True)
class Forms:
    """Prompts around the question, after RWKU's kinds of attack (Jin et al., arXiv:2406.10890).

    A form is a text with `{prompt}`; `{options}` in it are the answer and others of its attribute, lettered.
    """

    forms: dict[str, str] = setting(help="texts with {prompt}, and {options} where it is a choice, by name")
    formulation: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises ValueError for no forms, bad names, and a form without the prompt."""
        require_names("forms", self.forms)
        for name, form in self.forms.items():
            if form.count(PROMPT) != 1:
                raise ValueError(f"forms.{name} has {form.count(PROMPT)} times {PROMPT}; it must stand there once")

    def rewrites(self, situation: Situation) -> list[Rewrite]:
        """One for each form."""
        answers = answers_by_attribute(asked_rows(situation.data, Split.FORGET))
        return [
            Rewrite(strength=Strength(label=name, amount=1), rewrite=partial(_formed, form=form, answers=answers))
            for name, form in self.forms.items()
        ]


def answers_by_attribute(examples: Sequence[Example]) -> dict[tuple[str, str], list[str]]:
    """The different answers to questions of each subtask and attribute, in order."""
    answers: dict[tuple[str, str], list[str]] = {}
    for example in examples:
        if example.kind is Kind.QUESTION:
            answers.setdefault((example.subtask, example.attribute), []).append(example.answer)
    return {key: list(dict.fromkeys(texts)) for key, texts in answers.items()}


def _formed(
    questions: Sequence[Question], form: str, answers: Mapping[tuple[str, str], Sequence[str]]
) -> list[Question]:
    rewritten = []
    for question in (question for question in questions if asked_again(question, [Kind.QUESTION])):
        example = question.example
        others = [text for text in answers.get((example.subtask, example.attribute), ()) if text != example.answer]
        if OPTIONS in form and not others:  # nothing to choose from
            continue
        text = form.replace(OPTIONS, options_text(example, others)) if OPTIONS in form else form
        rewritten.append(replace(question, example=in_form(example, text)))
    return rewritten


def options_text(example: Example, others: Sequence[str]) -> str:
    """The answer among up to three others, lettered, in an order that the example's id fixes."""
    some = sorted(others, key=lambda text: stable_digest(example.id, "option", text))[: len(OPTION_LETTERS) - 1]
    options = sorted([example.answer, *some], key=lambda text: stable_digest(example.id, "place", text))
    return "\n".join(f"{letter}. {text}" for letter, text in zip(OPTION_LETTERS, options, strict=False))


def in_form(example: Example, form: str) -> Example:
    """The example with its question in the form, inside of what the task puts around questions."""
    head, slot, tail = example.template.partition("{question}")
    is_framed = bool(slot) and example.prompt.startswith(head) and example.prompt.endswith(tail)
    question = example.prompt[len(head) : len(example.prompt) - len(tail)] if is_framed else example.prompt
    formed = form.replace(PROMPT, question)
    return replace(example, prompt=f"{head}{formed}{tail}" if is_framed else formed)
