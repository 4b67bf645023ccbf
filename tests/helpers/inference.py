"""A loaded model answers in one process: questions as records, prompts as greedy texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lume_run.common.records import Example, Question, Response
from lume_run.evaluation.inference.generation import continuations
from lume_run.evaluation.inference.loaded_model import LoadedModel, decode, prompt_row
from lume_run.evaluation.inference.respond import gather_responses, respond_share


def collect_responses(loaded: LoadedModel, questions: Sequence[Question], folder: Path, title: str) -> list[Response]:
    """Answer every question into `folder/responses.jsonl`, in the order asked; resumes after a kill."""
    respond_share(loaded, questions, folder, title)
    return gather_responses(questions, folder)


def greedy_texts(loaded: LoadedModel, examples: Sequence[Example]) -> list[str]:
    """Greedy texts of one batch of prompts."""
    rows = [prompt_row(example, loaded, new_tokens=loaded.max_new_tokens) for example in examples]
    return [decode(tokens, loaded) for tokens in continuations(loaded, rows, limit=loaded.max_new_tokens)]
