"""Two models that answer as one: texts and scores are those of their joined logits, computed in full for each token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.families import build_family
from helpers.shared import tokenizer_at
from transformers import AutoModelForCausalLM

from lume_run.evaluation.inference.drafts import Draft
from lume_run.evaluation.inference.generation import continue_rows
from lume_run.evaluation.inference.joined import JoinedModel, join_logits
from lume_run.evaluation.inference.loaded_model import LoadedModel, is_decoded_here
from lume_run.evaluation.inference.logprobs import gradient_norms, score_rows
from lume_run.models.rows.tokenise import TokenRow

ALPHA = 3.0
LENGTHS = (30, 3, 17, 1, 9)
LIMITS = (9, 20, 3, 0, 12)
FAMILIES = ("OLMo", "Llama, untied", "GPT-2", "Mistral, sliding window", "Gemma 2", "BLOOM")


def row_of(number: int, length: int) -> TokenRow:
    ids = torch.randint(5, 300, (length + 4,), generator=torch.Generator().manual_seed(number)).tolist()
    return TokenRow(example_id=str(number), ids=tuple(ids), answer_start=length, label_start=length)


ANSWERED = [row_of(number, length) for number, length in enumerate(LENGTHS)]
PROMPTS = [
    TokenRow(example_id=row.example_id, ids=row.ids[:-4], answer_start=row.labels, label_start=len(row.ids) - 4)
    for row in ANSWERED
]


def changed(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * weight.std(correction=0) * torch.randn(weight.shape, generator=generator)
    return model


@pytest.fixture(params=FAMILIES)
def loaded(request, tiny, tmp_path) -> LoadedModel:
    """A model of a family beside another that was changed."""
    folder = build_family(request.param, tiny, tmp_path / "family")
    target, other = (AutoModelForCausalLM.from_pretrained(folder).eval() for _ in range(2))
    joined = JoinedModel(target, changed(other), ALPHA)
    return LoadedModel(
        model=joined, tokenizer=tokenizer_at(tiny), max_new_tokens=60, max_length=256, batch_tokens=3 * max(LENGTHS)
    )


def joined_by_hand(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Logits (T, V) without a cache, padding or packing."""
    model, given = loaded.model, torch.tensor([ids])
    with torch.no_grad():
        first, second = model.target(given).logits[0], model.reinforced(given).logits[0]
    return first - ALPHA * (second - first).clamp(min=0)


def texts_of(loaded: LoadedModel, **how: Any) -> dict[int, list[int]]:
    parts = continue_rows(loaded, PROMPTS, LIMITS, **how)
    return {number: text for part in parts for number, text in part.tokens.items()}


def test_logits_fall_where_the_other_model_has_higher_ones():
    target, reinforced = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([3.0, 1.0, -0.5])
    assert join_logits(target, reinforced, 2.0).tolist() == [1 - 2 * 2, 2.0, -1 - 2 * 0.5]
    assert join_logits(target, reinforced, 0.0).tolist() == target.tolist()


def test_texts_follow_the_joined_logits(loaded):
    assert is_decoded_here(loaded.model)
    stops, expected = set(loaded.stop_tokens()), {}
    for number, (row, limit) in enumerate(zip(PROMPTS, LIMITS, strict=True)):
        text: list[int] = []
        while len(text) < limit and not (text and text[-1] in stops):
            text.append(int(joined_by_hand(loaded, [*row.ids, *text])[-1].argmax()))
        expected[number] = text
    assert texts_of(loaded) == expected
    halves = [Draft((*expected[number][: limit // 2], 7), "half") for number, limit in enumerate(LIMITS)]
    assert texts_of(loaded, drafts=halves) == expected


def test_samples_are_those_of_each_prompt_alone(loaded):
    names = [f"row {number}" for number in range(len(PROMPTS))]
    together = texts_of(loaded, samples=names)
    for number, (row, limit, name) in enumerate(zip(PROMPTS, LIMITS, names, strict=True)):
        (alone,) = continue_rows(loaded, [row], [limit], [name])
        assert together[number] == alone.tokens[0]
    assert together != texts_of(loaded)


def test_answers_are_scored_by_the_joined_logits(loaded):
    of_target = score_rows(replace(loaded, model=loaded.model.target), ANSWERED)
    for row, scores, alone in zip(ANSWERED, score_rows(loaded, ANSWERED), of_target, strict=True):
        logps = joined_by_hand(loaded, list(row.ids)).log_softmax(-1)[len(row.ids) - 5 : -1]
        expected = [float(logps[place, token]) for place, token in enumerate(row.ids[-4:])]
        assert scores.logps == pytest.approx(expected, abs=2e-5)
        assert scores.logps != pytest.approx(alone.logps, abs=1e-3)


def test_gradients_are_those_of_both_models(loaded):
    (norm,) = gradient_norms(loaded, ANSWERED[:1])
    assert norm is not None and norm > 0
