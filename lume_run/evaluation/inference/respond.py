"""The model runs once per question: texts, answer log-probs, choices become records. Metrics never see a model.

Questions that put the same tokens to the model share one run: a shorter greedy text is the beginning of the longer
one. Batches hold rows of like length, longest first (memory trouble shows at once), and are shared out among ranks by
cost. Records are appended as they come, so a killed evaluation resumes where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from lume_run.common.console import Progress
from lume_run.common.errors import RunError
from lume_run.common.files import write_json
from lume_run.common.jsonl import from_json, numbered_lines, to_json, write_jsonl
from lume_run.common.records import TEXTS, Ask, Question, Response
from lume_run.evaluation.inference.answer import answer_batches
from lume_run.evaluation.inference.loaded_model import LoadedModel
from lume_run.evaluation.inference.requests import Request, batch_requests, rank_share
from lume_run.evaluation.saved_responses import COST, read_cost_file

COST_OF_RANK, PARTIAL_OF_RANK = "cost.{}.json", "responses.partial.{}.jsonl"


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
    cost = read_cost_file(cost_file)
    with Progress(title, total, unit="prompt") as bar, append_to_records(folder / PARTIAL_OF_RANK.format(rank)) as out:
        bar.advance(to=total - sum(map(count_questions, left)))
        began = time.monotonic()
        for batch, answers, passes in answer_batches(loaded, left):
            ask, ended = batch[0].first.ask, time.monotonic()
            of_ask = cost.setdefault(ask.value, {"prompts": 0, "passes": 0, "tokens": 0, "seconds": 0.0})
            of_ask["prompts"] += len(batch)
            of_ask["passes"] += passes
            of_ask["tokens"] += generated_tokens(ask, answers)
            of_ask["seconds"] += ended - began
            began = ended
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
    write_json(folder / COST, add_costs(map(read_cost_file, files)))
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
    if ask not in TEXTS:
        return 0
    return sum(max(response.tokens or 0 for response in responses) for responses in answers)


def _whole_records(path: Path) -> Iterator[Response]:
    """Records of an interrupted file; a torn last line is left out and asked again."""
    if not path.exists():
        return
    for _, line in numbered_lines(path):
        try:
            yield from_json(Response, line)
        except (ValueError, KeyError, TypeError):
            return
