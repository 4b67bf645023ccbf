"""The model runs once per question: texts, answer log-probs, choices become records. Metrics never see a model.

Questions that put the same tokens to the model share one run: a shorter greedy text is the beginning of the longer
one. Batches hold rows of like length, longest first (memory trouble shows at once), and are shared out among ranks by
cost. Records are appended as they come, so a killed evaluation goes on where it stopped.
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

COST, COST_OF_RANK, PARTIAL_OF_RANK = "cost.json", "cost.{}.json", "responses.partial.{}.jsonl"


def run_batch(runner: LoadedModel, batch: Sequence[Request]) -> tuple[list[list[Response]], int]:
    """(the responses of each run, forward passes) of one batch."""
    ask, rows = batch[0].first.ask, [work.row for work in batch]
    examples = [work.first.example for work in batch]
    if ask in (Ask.GENERATE, Ask.SAMPLE):
        draws = [f"{work.first.example.id}:{work.first.variant}" for work in batch] if ask is Ask.SAMPLE else None
        tokens = continuations(runner, rows, limit=batch[0].limit, draws=draws)
        found = [
            [response_of(question, **text_fields(question, own, runner)) for question in work.questions]
            for work, own in zip(batch, tokens, strict=True)
        ]
        return found, max(map(len, tokens))
    fields: list[dict[str, Any]]
    if ask is Ask.CHOICE:
        fields = [
            {"choice_logps": own if all(map(math.isfinite, own)) else ()} for own in choice_logps(runner, examples)
        ]
    elif ask is Ask.GRADIENT:
        fields = [{"gradient": size} for size in gradient_norms(runner, rows)]
    else:
        fields = [scores._asdict() for scores in score_rows(runner, rows)]
    found = [
        [response_of(question, **own) for question in work.questions] for work, own in zip(batch, fields, strict=True)
    ]
    return found, len(batch) if ask is Ask.GRADIENT else 1


def run_in_parts(runner: LoadedModel, batch: Sequence[Request]) -> tuple[list[list[Response]], int]:
    """`run_batch`, in halves where memory has no room for the whole batch; any batch gives the same responses."""
    try:
        return run_batch(runner, batch)
    except (RuntimeError, MemoryError) as error:
        if len(batch) == 1 or not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # not in the handler: there the error still holds on to the batch
    console.print(
        f"  [yellow]no room in memory for {len(batch)} rows at once: they are run in halves; "
        "a smaller evaluator.batch_tokens saves the trying[/]"
    )
    half = len(batch) // 2
    (first, some), (second, more) = (run_in_parts(runner, part) for part in (batch[:half], batch[half:]))
    return first + second, some + more


def text_fields(question: Question, tokens: Sequence[int], runner: LoadedModel) -> dict[str, Any]:
    """Fields of a generated text, cut to the question's own limit."""
    limit, expected = continuation_limit(question, runner), question.example.answer
    own = tokens[:limit]
    text = decode(own, runner)
    if question.limit and question.example.kind is Kind.COMPLETION:  # compared over the same length
        expected = decode(runner.tokenizer(expected, add_special_tokens=False)["input_ids"][:limit], runner)
    ids = runner.tokenizer(text, add_special_tokens=False)["input_ids"]
    return {"output": text, "tokens": len(own), "token_ids": tuple(ids), "expected": expected}


def response_of(question: Question, **fields: Any) -> Response:
    """The record of an answered question."""
    example = question.example
    given: dict[str, Any] = {
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
    }
    return Response(**given | fields)


def key_of(question: Question) -> tuple[Ask, str, str]:
    """What tells responses of one model apart."""
    return question.ask, question.example.id, question.variant


def respond_share(
    runner: LoadedModel, questions: Sequence[Question], folder: Path, title: str, *, rank: int = 0, world: int = 1
) -> None:
    """Answer this rank's share of the questions into a file of its own in `folder`; goes on after a kill.

    What any rank answered before, also when there were more or fewer of them, is not asked again.
    """
    done = set(read_partial_responses(folder))
    mine = rank_share(batch_requests(runner, questions), rank, world)
    total = sum(len(work.questions) for batch in mine for work in batch)
    left = [
        kept for batch in mine if (kept := [work for work in batch if not done.issuperset(map(key_of, work.questions))])
    ]
    cost_file = folder / COST_OF_RANK.format(rank)
    cost = _read_cost_file(cost_file)
    with Progress(title, total, unit="prompt") as bar, append_to_records(folder / PARTIAL_OF_RANK.format(rank)) as out:
        bar.advance(to=total - sum(len(work.questions) for batch in left for work in batch))
        for batch in left:
            stop_if_requested("answering questions")
            ask, began = batch[0].first.ask, time.monotonic()
            found, passes = run_in_parts(runner, batch)
            own = cost.setdefault(ask.value, {"prompts": 0, "passes": 0, "tokens": 0, "seconds": 0.0})
            own["prompts"] += len(batch)
            own["passes"] += passes
            own["tokens"] += generated_tokens(ask, found)
            own["seconds"] += time.monotonic() - began
            out.writelines(to_json(response) + "\n" for responses in found for response in responses)
            out.flush()
            write_json(cost_file, cost)
            bar.advance(sum(len(work.questions) for work in batch), note=ask.value)


def gather_responses(questions: Sequence[Question], folder: Path) -> list[Response]:
    """`responses.jsonl` in the order asked, and `cost.json`, from what ranks left; RunError where some is missing."""
    done = read_partial_responses(folder)
    if lacking := [key for question in questions if (key := key_of(question)) not in done]:
        raise RunError(f"{len(lacking)} of {len(questions)} questions were not answered; start the command again.")
    responses = [done[key_of(question)] for question in questions]
    write_jsonl(folder / "responses.jsonl", responses)
    files = sorted(folder.glob(COST_OF_RANK.format("*")))
    total: dict[str, dict[str, Any]] = {}
    for ask, own in (pair for file in files for pair in _read_cost_file(file).items()):
        for name, value in own.items():
            seen = total.setdefault(ask, {}).get(name, 0)
            total[ask][name] = max(seen, value) if name == "seconds" else seen + value
    write_json(folder / COST, total)
    for file in (*files, *folder.glob(PARTIAL_OF_RANK.format("*"))):
        file.unlink()
    return responses


def read_partial_responses(folder: Path) -> dict[tuple[Ask, str, str], Response]:
    """Everything that any rank answered so far."""
    files = sorted(folder.glob(PARTIAL_OF_RANK.format("*")))
    return {(kept.ask, kept.id, kept.variant): kept for file in files for kept in _whole_records(file)}


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
    """By ask: runs (`prompts`), forward `passes` of batches, generated `tokens`, `seconds`; empty where unknown."""
    return _read_cost_file(folder / COST)


def _read_cost_file(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _whole_records(path: Path) -> Iterator[Response]:
    """Records of an interrupted file; a torn last line is left out and asked again."""
    if not path.exists():
        return
    for _, line in numbered_lines(path):
        try:
            yield from_json(Response, line)
        except (ValueError, KeyError, TypeError):
            return
