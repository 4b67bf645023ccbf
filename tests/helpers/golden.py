"""Golden values of the reference codes, and our passes over the tiny models they were computed with.

Token rows of the reference codes enter our own path as TokenRows: left padding, one forward a batch, label positions
only. What a TokenRow cannot say (labels on padding, a hole in the labels) the tests that meet it say themselves.
Tolerances are those of the golden README.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.shared import SHARED, tokenizer_at
from lume_run.common.records import Example, Kind, Split
from lume_run.config.settings import ModelSettings
from lume_run.evaluation.inference.generation import continuations
from lume_run.evaluation.inference.loaded_model import LoadedModel, decode
from lume_run.evaluation.inference.logprobs import AnswerScores, score_rows
from lume_run.models.load import load_model
from lume_run.models.tokenise import TokenRow

GOLDEN: Path = SHARED / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the golden values are not at {GOLDEN}")

FOLDERS = ("model", "ref_model")
PRECISIONS = {"float64": torch.float64, "float32": torch.float32}
UNLABELLED = -100
TOKENISED = "open_unlearning_metrics/tokenised.json"
BATCH = 5  # rows; the references had other batches, and none may matter


@cache
def read(name: str) -> Any:
    """A golden JSON file, never to be changed."""
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


@cache
def lines(name: str) -> list[dict[str, Any]]:
    """The rows of a golden JSON-lines file."""
    text = (GOLDEN / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


@cache
def tokenizer() -> Any:
    return tokenizer_at(GOLDEN / "lm" / "tokenizer")


@cache
def runner_of(
    folder: str, precision: str = "float32", *, max_new_tokens: int = 40, max_length: int = 256
) -> LoadedModel:
    """A tiny golden model as an evaluation runs it."""
    return LoadedModel(
        model=loaded(folder, precision),
        tokenizer=tokenizer(),
        max_new_tokens=max_new_tokens,
        max_length=max_length,
        batch_tokens=4096,
    )


@cache
def loaded(folder: str, precision: str) -> Any:
    """The model as runs load it: sdpa, because eager attention gives NaN in left-padded float64 rows (QUIRKS 33)."""
    path = str(GOLDEN / "lm" / folder)
    return load_model(path, ModelSettings(name="golden"), torch.device("cpu"), dtype=PRECISIONS[precision]).eval()


def exact(value: Any) -> Any:
    """Arithmetic on stored numbers, texts and labels."""
    return pytest.approx(value, rel=1e-9, abs=1e-9)


def modelled(value: Any) -> Any:
    """What went through a model."""
    return pytest.approx(value, rel=1e-5, abs=1e-5)


def near(value: Any) -> Any:
    """Shares of tokens, AUCs, p-values and leakage."""
    return pytest.approx(value, abs=1e-6)


def token_row(ids: Sequence[int], start: int, name: str = "") -> TokenRow:
    """Ids whose labels begin at `start`."""
    return TokenRow(example_id=name, ids=tuple(ids), answer_start=start, label_start=start)


def labelled_row(row: dict[str, Any]) -> TokenRow:
    """A golden row of ids and labels; its labels are one span up to its end."""
    start = next(place for place, label in enumerate(row["labels"]) if label != UNLABELLED)
    assert row["labels"][start:] == row["input_ids"][start:]
    return token_row(row["input_ids"], start, str(row.get("index", "")))


def prompt_only(ids: Sequence[int]) -> TokenRow:
    """Ids to be continued."""
    return token_row(ids, len(ids))


def score_all(runner: LoadedModel, rows: Sequence[TokenRow], batch: int = BATCH) -> list[AnswerScores]:
    """Our scoring pass over rows, a few at a time."""
    return [found for begin in range(0, len(rows), batch) for found in score_rows(runner, rows[begin : begin + batch])]


def continue_all(runner: LoadedModel, prompts: Sequence[Sequence[int]], *, limit: int, batch: int) -> list[str]:
    """Our greedy texts after token prompts."""
    rows = [prompt_only(ids) for ids in prompts]
    return [
        decode(tokens, runner)
        for begin in range(0, len(rows), batch)
        for tokens in continuations(runner, rows[begin : begin + batch], limit=limit)
    ]


def mean_loss_of(scores: AnswerScores) -> float:
    """Mean token loss [nats], the closing EOS included; NaN without tokens."""
    assert scores.logp_sum is not None
    return -scores.logp_sum / scores.tokens if scores.tokens else math.nan


def by_index(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one open-unlearning entry, in order."""
    rows = entry["value_by_index"]
    assert sorted(map(int, rows)) == list(range(len(rows)))
    return [rows[str(number)] for number in range(len(rows))]


def question(prompt: str, answer: str, *, name: str = "row", kind: Kind = Kind.QUESTION) -> Example:
    """An example of our own with this prompt and answer."""
    return Example(
        id=name,
        raw_id=name,
        document=name,
        split=Split.FORGET,
        subtask="tofu",
        kind=kind,
        prompt=prompt,
        answer=answer,
    )


def ids_of(text: str) -> list[int]:
    """Token ids of a text, BOS in front."""
    return list(tokenizer()(text)["input_ids"])


# ------------------------------------------------------------------------- the data sets of open-unlearning


@cache
def rows_of(dataset: str) -> list[list[TokenRow]]:
    """By index the one row of a data set, or the several of a `_pert` one, as token rows."""
    return [
        [labelled_row(one) for one in ([row] if "input_ids" in row else row.values())]
        for row in read(TOKENISED)["datasets"][dataset]
    ]


@cache
def scored(precision: str, folder: str, dataset: str) -> list[list[AnswerScores]]:
    """Our scoring pass, grouped as the rows are."""
    groups = rows_of(dataset)
    found = iter(score_all(runner_of(folder, precision), [row for group in groups for row in group]))
    return [list(islice(found, len(group))) for group in groups]


def losses(precision: str, folder: str, dataset: str) -> list[list[float]]:
    return [[mean_loss_of(one) for one in group] for group in scored(precision, folder, dataset)]


@cache
def texts(folder: str, dataset: str) -> list[str]:
    """Our greedy texts in float32: left padding, up to 40 tokens, four rows a batch."""
    prompts = [row["input_ids"] for row in read(TOKENISED)["generation_datasets"][dataset]]
    return continue_all(runner_of(folder), prompts, limit=40, batch=4)
