"""Questions become records: texts, log-probabilities of answers, choices, gradients. Metrics never see a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import Any, NamedTuple

import torch

from lume_run.common.console import console
from lume_run.common.devices import is_out_of_memory
from lume_run.common.records import TEXTS, Ask, Kind, Question, Response
from lume_run.evaluation.inference.drafts import Draft
from lume_run.evaluation.inference.generation import continue_rows
from lume_run.evaluation.inference.inside import lens_rows, patched_rows
from lume_run.evaluation.inference.loaded_model import LoadedModel, continuation_limit, decode
from lume_run.evaluation.inference.logprobs import choice_logps, gradient_norms, score_rows
from lume_run.evaluation.inference.requests import Request
from lume_run.launch.preemption import stop_if_requested
from lume_run.models.layers import decoder_layers
from lume_run.models.rows.tokenise import TokenRow, encode


class Answered(NamedTuple):
    """Requests, the responses to each, and the forward passes that they took."""

    requests: list[Request]
    responses: list[list[Response]]
    passes: int


def answer_batches(loaded: LoadedModel, batches: Iterable[list[Request]]) -> Iterator[Answered]:
    """Answer batch after batch, by what is asked; texts come from one stream, each when it ends."""
    order = list(Ask)
    by_ask = sorted(batches, key=lambda batch: order.index(batch[0].first.ask))
    for ask, alike in groupby(by_ask, key=lambda batch: batch[0].first.ask):
        if ask in TEXTS:
            yield from answer_texts(loaded, list(chain.from_iterable(alike)))
            continue
        for batch in alike:
            stop_if_requested("answering questions")
            yield Answered(batch, *run_in_parts(loaded, batch))


def answer_texts(loaded: LoadedModel, requests: Sequence[Request]) -> Iterator[Answered]:
    """Texts of one ask as they end."""
    samples = [f"{request.first.example.id}:{request.first.variant}" for request in requests]
    sampled = requests[0].first.ask is Ask.SAMPLE
    rows, limits = [request.row for request in requests], [request.limit for request in requests]
    drafts = [] if sampled else [draft_of(request, loaded) for request in requests]
    for texts in continue_rows(loaded, rows, limits, samples if sampled else None, drafts):
        of_texts = [requests[number] for number in texts.tokens]
        responses = [
            [
                response_of(question, **text_fields(question, request.row, tokens, loaded))
                for question in request.questions
            ]
            for request, tokens in zip(of_texts, texts.tokens.values(), strict=True)
        ]
        yield Answered(of_texts, responses, texts.passes)


def draft_of(request: Request, loaded: LoadedModel) -> Draft:
    """The expected answer as a draft of the text; none where it does not stand behind the same tokens."""
    example, prompt = request.first.example, request.row.ids
    row = encode(example, loaded.tokenizer, max_tokens=loaded.max_length)
    answer = row.ids[len(prompt) :] if row.ids[: len(prompt)] == prompt else ()
    return Draft(answer, f"{example.split} {example.subtask} {example.kind}")


def run_batch(loaded: LoadedModel, batch: Sequence[Request]) -> tuple[list[list[Response]], int]:
    """(the responses to each request, forward passes) of one batch that asks for numbers."""
    ask = batch[0].first.ask
    responses = [
        [response_of(question, **fields) for question in request.questions]
        for request, fields in zip(batch, number_fields(loaded, batch), strict=True)
    ]
    return responses, passes_of(ask, loaded, len(batch))


def passes_of(ask: Ask, loaded: LoadedModel, rows: int) -> int:
    """Forward passes that a batch of so many rows takes: one, a row each, or of patched states one for each layer."""
    if ask is Ask.PATCH:
        return 2 + len(decoder_layers(loaded.network))
    return rows if ask is Ask.GRADIENT else 1


def number_fields(loaded: LoadedModel, batch: Sequence[Request]) -> list[dict[str, Any]]:
    """Fields of the responses to each request that asks for numbers and no text."""
    ask, rows = batch[0].first.ask, [request.row for request in batch]
    if ask is Ask.CHOICE:
        choices = choice_logps(loaded, rows, [request.first.example for request in batch])
        return [{"choice_logps": logps if all(map(math.isfinite, logps)) else ()} for logps in choices]
    if ask is Ask.GRADIENT:
        return [{"gradient": norm} for norm in gradient_norms(loaded, rows)]
    if ask is Ask.LENS:
        return lens_rows(loaded, rows)
    if ask is Ask.PATCH:
        return patched_rows(loaded, rows, [request.first.example for request in batch])
    moments = [any(question.moments for question in request.questions) for request in batch]
    return [answer._asdict() for answer in score_rows(loaded, rows, moments=moments)]


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
        "further_facts": example.further_facts,
    }
    return Response(**of_example | fields)
