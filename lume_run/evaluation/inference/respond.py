"""The model runs once per question: texts, answer log-probs, choices become records. Metrics never see a model.

Questions that put the same tokens to the model share one run: a shorter greedy text is the beginning of the longer
one. Batches hold rows of like length, longest first (memory trouble shows at once), and are shared out among ranks by
cost. Records are appended as they come, so a killed evaluation resumes where it stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch

from lume_run.common.console import Progress, console
from lume_run.common.devices import is_out_of_memory
from lume_run.common.errors import RunError
from lume_run.common.files import write_json
from lume_run.common.jsonl import from_json, numbered_lines, to_json, write_jsonl
from lume_run.common.records import Ask, Kind, Question, Response
from lume_run.evaluation.inference.generation import continuations
from lume_run.evaluation.inference.loaded_model import LoadedModel, continuation_limit, decode
from lume_run.evaluation.inference.logprobs import choice_logps, gradient_norms, score_rows
from lume_run.evaluation.inference.requests import Request, batch_requests, rank_share
from lume_run.launch.preemption import stop_if_requested
from lume_run.models.rows.tokenise import TokenRow

COST, COST_OF_RANK, PARTIAL_OF_RANK = "cost.json", "cost.{}.json", "responses.partial.{}.jsonl"


def run_batch(loaded: LoadedModel, batch: Sequence[Request]) -> tuple[list[list[Response]], int]:
    """(the responses to each request, forward passes) of one batch."""
    ask, rows = batch[0].first.ask, [request.row for request in batch]
    if ask in (Ask.GENERATE, Ask.SAMPLE):
        samples = [f"{request.first.example.id}:{request.first.variant}" for request in batch]
        texts = continuations(loaded, rows, limit=batch[0].limit, samples=samples if ask is Ask.SAMPLE else None)
        responses = [
            [
                response_of(question, **text_fields(question, request.row, tokens, loaded))
                for question in request.questions
            ]
            for request, tokens in zip(batch, texts, strict=True)
        ]
        return responses, max(map(len, texts))
    responses = [
        [response_of(question, **fields) for question in request.questions]
        for request, fields in zip(batch, number_fields(loaded, batch), strict=True)
    ]
    return responses, len(batch) if ask is Ask.GRADIENT else 1


def number_fields(loaded: LoadedModel, batch: Sequence[Request]) -> list[dict[str, Any]]:
    """Fields of the responses to each request that asks for numbers and no text."""
    ask, rows = batch[0].first.ask, [request.row for request in batch]
    if ask is Ask.CHOICE:
        choices = choice_logps(loaded, [request.first.example for request in batch])
        return [{"choice_logps": logps if all(map(math.isfinite, logps)) else ()} for logps in choices]
    if ask is Ask.GRADIENT:
        return [{"gradient": norm} for norm in gradient_norms(loaded, rows)]
    return [answer._asdict() for answer in score_rows(loaded, rows)]


def run_in_parts(loaded: LoadedModel, batch: Sequence[Request]) -> tuple[list[list[Response]], int]:
    """`run_batch`, in halves where memory has no room for the whole batch; any batch gives the same responses."""
    try:
        return run_batch(loaded, batch)
    except (RuntimeError, MemoryError) as error:
        if len(batch) == 1 or not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # not in the handler: there the error still holds on to the batch
    console.print(
        f"  [yellow]no room in memory for {len(batch)} rows at once: they are run in halves; "
        "a smaller evaluator.batch_tokens saves the trying[/]"
    )
    half = len(batch) // 2
    (first, some), (second, more) = (run_in_parts(loaded, part) for part in (batch[:half], batch[half:]))
    return first + second, some + more


def text_fields(question: Question, prompt: TokenRow, tokens: Sequence[int], loaded: LoadedModel) -> dict[str, Any]:
    """Fields of a generated text, cut to the question's limit, and to that of prompt and text together."""
    limit, expected = continuation_limit(question, loaded), question.example.answer
    room = limit if loaded.max_total_tokens is None else max(0, loaded.max_total_tokens - len(prompt.ids))
    kept = tokens[: min(limit, room)]
    text = decode(kept, loaded)
    if question.limit and question.example.kind is Kind.COMPLETION:  # compared over the same length
        expected = decode(loaded.tokenizer(expected, add_special_tokens=False)["input_ids"][:limit], loaded)
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    return {"output": text, "tokens": len(kept), "token_ids": tuple(ids), "expected": expected}


def response_of(question: Question, **fields: Any) -> Response:
    """The record of an answered question."""
    example = question.example
    of_example: dict[str, Any] = {
        "id": example.id,
        "ask": question.ask,
        "variant": question.variant,
        "split": example.split,
        "subtask": example.subtask,
        "kind": example.kind,
        "document": example.document,
        "prompt": example.prompt,
        "expected": example.answer,
        "choices": example.choices,
        "golden": example.golden,
        "sentence": example.sentence,
        "attribute": example.attribute,
        "fact": example.fact,
    }
    return Response(**of_example | fields)


def key_of(question: Question) -> tuple[Ask, str, str]:
    """What distinguishes the responses of one model."""
    return question.ask, question.example.id, question.variant


def respond_share(
    loaded: LoadedModel, questions: Sequence[Question], folder: Path, title: str, *, rank: int = 0, world: int = 1
) -> None:
    """Answer this rank's share of the questions into a file of its own in `folder`; resumes after a kill.

    What any rank answered before, also when there were more or fewer of them, is not asked again.
    """
    done = set(read_partial_responses(folder))
    share = rank_share(batch_requests(loaded, questions), rank, world)
    total = sum(map(count_questions, share))
    left = [[request for request in batch if not done.issuperset(map(key_of, request.questions))] for batch in share]
    left = [batch for batch in left if batch]
    cost_file = folder / COST_OF_RANK.format(rank)
    cost = _read_cost_file(cost_file)
    with Progress(title, total, unit="prompt") as bar, append_to_records(folder / PARTIAL_OF_RANK.format(rank)) as out:
        bar.advance(to=total - sum(map(count_questions, left)))
        for batch in left:
            stop_if_requested("answering questions")
            ask, began = batch[0].first.ask, time.monotonic()
            answers, passes = run_in_parts(loaded, batch)
            of_ask = cost.setdefault(ask.value, {"prompts": 0, "passes": 0, "tokens": 0, "seconds": 0.0})
            of_ask["prompts"] += len(batch)
            of_ask["passes"] += passes
            of_ask["tokens"] += generated_tokens(ask, answers)
            of_ask["seconds"] += time.monotonic() - began
            out.writelines(to_json(response) + "\n" for responses in answers for response in responses)
            out.flush()
            write_json(cost_file, cost)
            bar.advance(count_questions(batch), note=ask.value)


def count_questions(batch: Sequence[Request]) -> int:
    """The questions that a batch answers."""
    return sum(len(request.questions) for request in batch)


def gather_responses(questions: Sequence[Question], folder: Path) -> list[Response]:
    """`responses.jsonl` in the order asked, and `cost.json`, from what ranks left; RunError where some is missing."""
    done = read_partial_responses(folder)
    if lacking := [key for question in questions if (key := key_of(question)) not in done]:
        raise RunError(f"{len(lacking)} of {len(questions)} questions were not answered; start the command again.")
    responses = [done[key_of(question)] for question in questions]
    write_jsonl(folder / "responses.jsonl", responses)
    files = sorted(folder.glob(COST_OF_RANK.format("*")))
    write_json(folder / COST, add_costs(map(_read_cost_file, files)))
    for file in (*files, *folder.glob(PARTIAL_OF_RANK.format("*"))):
        file.unlink()
    return responses


def add_costs(costs: Iterable[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """By ask, what all ranks together did, and the seconds of the slowest."""
    total: dict[str, dict[str, Any]] = {}
    for of_rank in costs:
        for ask, counts in of_rank.items():
            for name, count in counts.items():
                so_far = total.setdefault(ask, {}).get(name, 0)
                total[ask][name] = max(so_far, count) if name == "seconds" else so_far + count
    return total


def read_partial_responses(folder: Path) -> dict[tuple[Ask, str, str], Response]:
    """Everything that any rank answered so far."""
    files = sorted(folder.glob(PARTIAL_OF_RANK.format("*")))
    records = (record for file in files for record in _whole_records(file))
    return {(record.ask, record.id, record.variant): record for record in records}


@contextmanager
def append_to_records(path: Path) -> Iterator[TextIO]:
    """A file of records to write on, without the torn line that a kill left at its end."""
    if path.exists():
        write_jsonl(path, list(_whole_records(path)))
    with path.open("a", encoding="utf-8") as file:
        yield file


def generated_tokens(ask: Ask, answers: Iterable[Sequence[Response]]) -> int:
    """Tokens generated for these runs: those of the longest response to each."""
    if ask not in (Ask.GENERATE, Ask.SAMPLE):
        return 0
    return sum(max(response.tokens or 0 for response in responses) for responses in answers)


def read_cost(folder: Path) -> dict[str, dict[str, Any]]:
    """By ask: model runs (`prompts`), forward `passes` of batches, generated `tokens`, `seconds`; {} where unknown."""
    return _read_cost_file(folder / COST)


def _read_cost_file(path: Path) -> dict[str, dict[str, Any]]:
    cost: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return cost


def _whole_records(path: Path) -> Iterator[Response]:
    """Records of an interrupted file; a torn last line is left out and asked again."""
    if not path.exists():
        return
    for _, line in numbered_lines(path):
        try:
            yield from_json(Response, line)
        except (ValueError, KeyError, TypeError):
            return
