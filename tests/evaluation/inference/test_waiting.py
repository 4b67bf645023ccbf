"""How often the host waits for a device when a model answers: once a scored batch, once a token of texts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers.pretend_device import pretend

from lume_run.common.records import Example, Kind, Split
from lume_run.config.model_settings import ModelSettings
from lume_run.evaluation.inference import generation, logprobs
from lume_run.evaluation.inference.generation import continue_rows
from lume_run.evaluation.inference.loaded_model import LoadedModel, prompt_row
from lume_run.evaluation.inference.logprobs import choice_logps, gradient_norms, score_rows
from lume_run.models.load import load_model
from lume_run.models.rows.tokenise import TokenRow, encode
from lume_run.models.tokenizer import load_tokenizer

TEXT = "Mara Oduya was born in Tallinn beside the old mill and repairs church organs until March"
WORDS = TEXT.split()
STEPS = 6  # tokens of each text


@pytest.fixture
def loaded(tiny: Path, monkeypatch) -> LoadedModel:
    """The tiny model; the likeliest token is looked for as on a GPU, on a CPU numpy does it."""
    for module in (generation, logprobs):
        monkeypatch.setattr(module, "likeliest", lambda logits: logits.argmax(-1))
    settings = ModelSettings(name="test", path=str(tiny), dtype="float32")
    model = load_model(str(tiny), settings, torch.device("cpu")).eval()
    sizes = {"max_new_tokens": STEPS, "max_length": 64, "batch_tokens": 512}
    return LoadedModel(model=model, tokenizer=load_tokenizer(str(tiny), settings), **sizes)


def example(number: int) -> Example:
    return Example(
        id=f"row-{number}",
        raw_id=f"row-{number}",
        document="d",
        split=Split.FORGET,
        subtask="bios",
        kind=Kind.QUESTION,
        prompt=" ".join(WORDS[number : 4 + 2 * number]),
        answer=" ".join(WORDS[number : 2 + number]),
        choices=("A", "B"),
    )


def scored(loaded: LoadedModel) -> list[TokenRow]:
    return [encode(example(number), loaded.tokenizer, max_tokens=64) for number in range(6)]


@pytest.mark.parametrize("moments", [None, [False] * 6, [True, False] * 3])
@pytest.mark.parametrize("packs", [True, False])
def test_a_scored_batch_waits_once(moments, packs, loaded, monkeypatch):
    """However many parts of the logits are looked at; transformers itself looks twice at the mask of padded rows."""
    if not packs:
        monkeypatch.setattr("lume_run.models.rows.attention.packs", lambda model: False)
    monkeypatch.setattr(logprobs, "rows_at_once", lambda logits: 3)
    rows = scored(loaded)
    expected = score_rows(loaded, rows, moments=moments)
    with pretend(loaded.network) as device:
        assert score_rows(loaded, rows, moments=moments) == expected
    assert len(device.waits) == (1 if packs else 3), Counter(device.waits)


def test_a_batch_of_choices_waits_once(loaded):
    rows = [prompt_row(example(number), loaded, new_tokens=1) for number in range(4)]
    with pretend(loaded.network) as device:
        choice_logps(loaded, rows, [example(number) for number in range(4)])
    assert len(device.waits) == 1, Counter(device.waits)


def test_a_row_whose_gradient_is_measured_waits_once(loaded):
    """Not once a weight."""
    rows = scored(loaded)[:3]
    with pretend(loaded.network) as device:
        gradient_norms(loaded, rows)
    assert len(device.waits) == len(rows), Counter(device.waits)


@pytest.mark.parametrize("sampled", [False, True])
def test_a_token_step_waits_for_its_tokens(sampled, loaded):
    """They say what has ended. Transformers itself looks at the mask once, but not of prompts, which are packed."""
    rows = [prompt_row(example(number), loaded, new_tokens=STEPS) for number in range(6)]
    samples = [f"sample {number}" for number in range(6)] if sampled else None
    with pretend(loaded.network) as device:
        texts = list(continue_rows(loaded, rows, [STEPS] * len(rows), samples))
    passes = sum(part.passes for part in texts)
    assert passes == STEPS
    assert len(device.waits) == 2 * passes - 1, Counter(device.waits)
