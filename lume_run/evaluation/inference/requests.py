"""Questions as rows of tokens, grouped into batches of similar length and shared among processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lume_run.common.console import console
from lume_run.common.records import TEXTS, Ask, Question
from lume_run.evaluation.inference.loaded_model import LoadedModel, continuation_limit, fit_shots, token_row
from lume_run.models.rows.batch import length_batches
from lume_run.models.rows.prefixes import distinct_tokens, prefix_batches
from lume_run.models.rows.tokenise import TokenRow

BY_ROW = (Ask.GRADIENT, Ask.LENS, Ask.PATCH)  # of rows that share no tokens
BATCH_ROWS = 256  # at most, whatever the token budget allows
BATCH_LOGITS = 2**27  # numbers at most: half a gigabyte in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One run of the model and the questions it answers; `limit` [tokens] of a continuation."""

    row: TokenRow
    questions: tuple[Question, ...]
    limit: int

    @property
    def first(self) -> Question:
        """The question that stands for all."""
        return self.questions[0]


def requests_of(questions: Sequence[Question], loaded: LoadedModel) -> list[Request]:
    """The runs that answer the questions: one for all that put the same tokens to the model."""
    shared: dict[Any, list[Question]] = {}
    rows: dict[Any, TokenRow] = {}
    for question in (replace(question, example=fit_shots(question.example, loaded)) for question in questions):
        row = token_row(question, loaded)
        key = (question.ask, row.ids, row.label_start, *distinguishing_key(question))
        rows.setdefault(key, row)
        shared.setdefault(key, []).append(question)
    return [
        Request(
            row=rows[key],
            questions=tuple(alike),
            limit=min(
                max(continuation_limit(question, loaded) for question in alike),
                loaded.max_length - len(rows[key].ids),  # positions that the model has not are not asked for
            ),
        )
        for key, alike in shared.items()
    ]


def distinguishing_key(question: Question) -> tuple[Any, ...]:
    """What distinguishes runs on the same tokens: a sample's name, the options of a choice, the fact in an answer."""
    if question.ask is Ask.SAMPLE:
        return question.example.id, question.variant
    if question.ask is Ask.PATCH:
        return (question.example.fact,)
    return question.example.choices if question.ask is Ask.CHOICE else ()


def batch_requests(loaded: LoadedModel, questions: Sequence[Question]) -> list[list[Request]]:
    """Runs in batches of one ask, one limit and like length."""
    batches: list[list[Request]] = []
    requests = requests_of(questions, loaded)
    for ask in Ask:
        of_ask = [request for request in requests if request.first.ask is ask]
        if cut := sum(request.row.truncated > 0 for request in of_ask):
            console.print(
                f"  [yellow]{cut} of {len(of_ask)} {ask} prompts do not fit in {loaded.max_length} tokens "
                "and lose their oldest words, whole documents their last[/]"
            )
        total = loaded.max_total_tokens
        if full := sum(total is not None and request.limit and len(request.row.ids) >= total for request in of_ask):
            console.print(
                f"  [yellow]{full} of {len(of_ask)} {ask} prompts have evaluator.max_total_tokens={total} already: "
                "their answers are empty[/]"
            )
        for limit in sorted({request.limit for request in of_ask}, reverse=True):
            alike = [request for request in of_ask if request.limit == limit]
            batches_of = prefix_batches if shares_prefixes(ask, loaded) else length_batches
            for group in batches_of([request.row for request in alike], loaded.batch_tokens):
                for begin in range(0, len(group), BATCH_ROWS):
                    batches += within_logits([alike[number] for number in group[begin : begin + BATCH_ROWS]], loaded)
    return batches


def shares_prefixes(ask: Ask, loaded: LoadedModel) -> bool:
    """Whether a batch that asks for this runs once what its rows begin with in common."""
    if ask in (*TEXTS, *BY_ROW):  # texts share when they join others
        return False
    from lume_run.models.rows.attention import packs  # with transformers' models, which plans do without

    return packs(loaded.network)


def within_logits(batch: list[Request], loaded: LoadedModel) -> list[list[Request]]:
    """A batch in parts of at most BATCH_LOGITS numbers, or of one row: as many as its labels times the vocabulary."""
    parts: list[list[Request]] = [[]]
    room = BATCH_LOGITS // len(loaded.tokenizer)
    labels = 0
    for request in batch:
        if parts[-1] and labels + request.row.labels > room:
            parts.append([])
            labels = 0
        parts[-1].append(request)
        labels += request.row.labels
    return parts


def rank_share(batches: Sequence[list[Request]], rank: int, world: int) -> list[list[Request]]:
    """The batches of one rank: the costliest first, each to the rank with the least to do so far."""
    if world == 1:
        return list(batches)
    loads = [0.0] * world
    mine = []
    for cost, batch in sorted(((batch_cost(batch), batch) for batch in batches), key=lambda pair: -pair[0]):
        least = loads.index(min(loads))
        loads[least] += cost
        if least == rank:
            mine.append(batch)
    return mine


def batch_cost(batch: Sequence[Request]) -> float:
    """About what a batch costs: its distinct tokens, and its decoding steps, of which each is worth some rows of 64."""
    return distinct_tokens([request.row for request in batch]) + batch[0].limit * (len(batch) + 64)
