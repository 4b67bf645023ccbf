"""In-context unlearning: the same weights, asked behind a context that shows what to answer and what to refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from lume_run.common.records import Example, Kind, Question, TaskData, joined
from lume_run.methods.baselines import InContext
from lume_run.methods.refusals import pick


def drawn(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """`count` examples, fixed by the seed."""
    return sorted(examples, key=lambda example: sha256(f"{seed}:{example.id}".encode()).digest())[:count]


def context_of(method: InContext, data: TaskData, refusals: Sequence[str], seed: int) -> str:
    """The text put before every prompt: the instruction, refused forget prompts, answered retain prompts."""
    refused = [(e.prompt, pick(e.id, seed, refusals)) for e in drawn(data.forget, method.forget_examples, seed)]
    answered = [(e.prompt, e.answer) for e in drawn(data.retain, method.retain_examples, seed)]
    shown = [prompt + joined(prompt, answer) for prompt, answer in (*refused, *answered)]
    return "\n".join([method.instruction, *shown, ""])


def with_context(questions: Sequence[Question], context: str) -> list[Question]:
    """The questions behind `context`; whole documents (membership inference) have no prompt to change."""
    return [
        question
        if question.example.kind is Kind.DOCUMENT
        else replace(question, example=replace(question.example, prompt=context + question.example.prompt))
        for question in questions
    ]
