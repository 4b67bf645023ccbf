"""Golden values of the reference codes, and our passes over the tiny models they were computed with.

The tests take every value, count, name and id from the files, because they also run on other sets of the same layout
(`LUME_SHARED` names the folder). Token rows of the reference codes enter our own path as TokenRows: left padding, one
forward a batch, label positions only. What a TokenRow cannot say (labels on padding, a hole in the labels) the tests
that meet it say themselves. Tolerances are those of the golden README.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from typing import Any

import pytest
import torch

from helpers.shared import GOLDEN, tokenizer_at
from lume_run.common.records import Example, Kind, Split
from lume_run.config.model_settings import ModelSettings
from lume_run.evaluation.inference.generation import continuations
from lume_run.evaluation.inference.loaded_model import LoadedModel, decode
from lume_run.evaluation.inference.logprobs import AnswerScores, score_rows
from lume_run.models.load import load_model
from lume_run.models.rows.tokenise import TokenRow

needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the golden values are not at {GOLDEN}")
GOLDEN_MARKS = [pytest.mark.golden, needs_golden]  # of a file in which every test reads them

FOLDERS = ("model", "ref_model")
PRECISIONS = {"float64": torch.float64, "float32": torch.float32}
UNLABELLED = -100
PROVENANCE = "provenance"  # the key beside the values that says where they come from
TOKENISED = "open_unlearning_metrics/tokenised.json"
BATCH = 5  # rows; the references had other batches, and none may matter
NEW_TOKENS, PROMPTS = 40, 4  # of open-unlearning's generation: tokens at most, prompts a batch (golden README)


@cache
def read_golden(name: str) -> Any:
    """A golden JSON file, never to be changed."""
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


@cache
def read_rows(name: str) -> list[dict[str, Any]]:
    """The rows of a golden JSON-lines file."""
    text = (GOLDEN / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def golden_keys(name: str, *path: str) -> list[str]:
    """What a golden JSON file holds, there or further inside; nothing where there are no golden values."""
    if not GOLDEN.is_dir():
        return []
    value = read_golden(name)
    for key in path:
        value = value[key]
    return [key for key in value if key != PROVENANCE]


def skip_without(cases: Iterable[Any], what: str) -> None:
    """Skip, and say so, where this set of golden values holds no example of what a test is about."""
    if not any(True for _ in cases):
        pytest.skip(f"the golden values at {GOLDEN} hold no {what}")


@cache
def tokenizer() -> Any:
    """The tokenizer of the golden models."""
    return tokenizer_at(GOLDEN / "lm" / "tokenizer")


def eos() -> int:
    """The id of the token that closes answers."""
    return int(tokenizer().eos_token_id)


@cache
def loaded_model_of(folder: str, precision: str = "float32") -> LoadedModel:
    """A tiny golden model as an evaluation runs it."""
    model = golden_model(folder, precision)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer(),
        max_new_tokens=NEW_TOKENS,
        max_length=model.config.max_position_embeddings,
        batch_tokens=4096,
    )


@cache
def golden_model(folder: str, precision: str) -> Any:
    """The model as runs load it: sdpa, because eager attention gives NaN in left-padded float64 rows (QUIRKS 33)."""
    path = str(GOLDEN / "lm" / folder)
    return load_model(path, ModelSettings(name="golden"), torch.device("cpu"), dtype=PRECISIONS[precision]).eval()


def exact(value: Any) -> Any:
    """Arithmetic on stored numbers, texts and labels."""
    return pytest.approx(value, rel=1e-9, abs=1e-9)


def near(value: Any) -> Any:
    """What went through a model."""
    return pytest.approx(value, rel=1e-5, abs=1e-5)


def near_share(value: Any) -> Any:
    """Shares of tokens, AUCs, p-values and leakage."""
    return pytest.approx(value, abs=1e-6)


def as_list(value: Any) -> list[Any]:
    """A number of one answer, or those of several, as a list."""
    return value if isinstance(value, list) else [value]


def token_row(ids: Sequence[int], start: int, name: str = "") -> TokenRow:
    """Ids whose labels begin at `start`."""
    return TokenRow(example_id=name, ids=tuple(ids), answer_start=start, label_start=start)


def label_places(labels: Sequence[int]) -> list[int]:
    """Where labels stand."""
    return [place for place, label in enumerate(labels) if label != UNLABELLED]


def labelled_row(row: dict[str, Any]) -> TokenRow:
    """A golden row of ids and labels; its labels are one span up to its end."""
    start = label_places(row["labels"])[0]
    assert row["labels"][start:] == row["input_ids"][start:]
    return token_row(row["input_ids"], start, str(row.get("index", "")))


def prompt_only(ids: Sequence[int]) -> TokenRow:
    """Ids to be continued."""
    return token_row(ids, len(ids))


def score_all(loaded: LoadedModel, rows: Sequence[TokenRow], batch: int = BATCH) -> list[AnswerScores]:
    """Our scoring pass over rows, a few at a time."""
    starts = range(0, len(rows), batch)
    return [scores for start in starts for scores in score_rows(loaded, rows[start : start + batch])]


def continue_all(loaded: LoadedModel, prompts: Sequence[Sequence[int]], *, limit: int, batch: int) -> list[str]:
    """Our greedy texts after token prompts."""
    rows = [prompt_only(ids) for ids in prompts]
    return [
        decode(tokens, loaded)
        for start in range(0, len(rows), batch)
        for tokens in continuations(loaded, rows[start : start + batch], limit=limit)
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


def question_of(prompt: str, answer: str, *, name: str = "row", kind: Kind = Kind.QUESTION) -> Example:
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


def plenty(*texts: str) -> int:
    """More tokens than these texts have together, BOS, EOS and a space included: a byte is a token at most."""
    return sum(len(text.encode()) for text in texts) + 8


# ------------------------------------------------------------------------- the data sets of open-unlearning


@cache
def row_groups(dataset: str) -> list[list[TokenRow]]:
    """By index the one row of a data set, or the several of a `_pert` one, as token rows."""
    return [
        [labelled_row(row) for row in ([group] if "input_ids" in group else group.values())]
        for group in read_golden(TOKENISED)["datasets"][dataset]
    ]


@cache
def score_dataset(precision: str, folder: str, dataset: str) -> list[list[AnswerScores]]:
    """Our scoring pass, grouped as the rows are."""
    groups = row_groups(dataset)
    scores = iter(score_all(loaded_model_of(folder, precision), [row for group in groups for row in group]))
    return [list(islice(scores, len(group))) for group in groups]


def mean_losses(precision: str, folder: str, dataset: str) -> list[list[float]]:
    """Mean token losses [nats], grouped as the rows are."""
    return [[mean_loss_of(scores) for scores in group] for group in score_dataset(precision, folder, dataset)]


@cache
def golden_texts(folder: str, dataset: str) -> list[str]:
    """Our greedy texts in float32: left padding, as many tokens and prompts a batch as theirs."""
    prompts = [row["input_ids"] for row in read_golden(TOKENISED)["generation_datasets"][dataset]]
    return continue_all(loaded_model_of(folder), prompts, limit=NEW_TOKENS, batch=PROMPTS)
