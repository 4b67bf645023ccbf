"""Many prompts decoded at once: rows leave and join, columns are given up, each text is that of its prompt alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property

import pytest
import torch
from helpers.families import FAMILIES, GPT2_SIZES, KEEP_STATES, build_family
from helpers.shared import tokenizer_at
from transformers import AutoConfig, AutoModelForCausalLM

from lume_run.evaluation.inference import decoding, generation
from lume_run.evaluation.inference.drafts import TRIED, Draft, Drafts, Row
from lume_run.evaluation.inference.generation import continue_rows, generate_batch
from lume_run.evaluation.inference.loaded_model import LoadedModel, is_decoded_here
from lume_run.models.layers import output_of_layer
from lume_run.models.rows.tokenise import TokenRow

PLACES = 3
LENGTHS = (40, 3, 17, 9, 1, 25, 12, 33, 6, 2, 21, 14)
LIMITS = (9, 40, 3, 25, 60, 1, 30, 12, 0, 45, 7, 18)


def row_of(number: int, length: int) -> TokenRow:
    ids = torch.randint(5, 300, (length,), generator=torch.Generator().manual_seed(number)).tolist()
    return TokenRow(example_id=str(number), ids=tuple(ids), answer_start=length, label_start=length)


ROWS = [row_of(number, length) for number, length in enumerate(LENGTHS)]
SAMPLES = [f"row {number}" for number in range(len(ROWS))]


def loaded_from(folder, tiny) -> LoadedModel:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return LoadedModel(
        model=model, tokenizer=tokenizer_at(tiny), max_new_tokens=60, max_length=256, batch_tokens=PLACES * max(LENGTHS)
    )


def ended_differently(loaded: LoadedModel) -> LoadedModel:
    """Some common tokens end texts, so that rows leave at different times."""
    texts = generate_batch(loaded, ROWS, limit=60, samples=None)
    loaded.network.generation_config.eos_token_id = sorted({text[len(text) // 2] for text in texts[::3]})
    return loaded


def alone(loaded: LoadedModel, samples: list[str] | None) -> dict[int, list[int]]:
    """What transformers' own loop makes of each prompt."""
    names = [None if samples is None else [name] for name in samples or ROWS]
    return {
        number: generate_batch(loaded, [row], limit=limit, samples=name)[0] if limit else []
        for number, (row, limit, name) in enumerate(zip(ROWS, LIMITS, names, strict=True))
    }


def together(loaded: LoadedModel, samples: list[str] | None, drafts=()) -> dict[int, list[int]]:
    parts = [part.tokens for part in continue_rows(loaded, ROWS, LIMITS, samples, drafts)]
    assert sum(map(len, parts)) == len(ROWS)  # each once
    return {number: part[number] for part in parts for number in part}


@dataclass(frozen=True)
class Known:
    """A model whose texts end at different times, and what each prompt gives alone: what tests compare with."""

    loaded: LoadedModel
    greedy: dict[int, list[int]]

    @cached_property
    def sampled(self) -> dict[int, list[int]]:
        return alone(self.loaded, SAMPLES)


def known_from(folder, tiny) -> Known:
    loaded = ended_differently(loaded_from(folder, tiny))
    return Known(loaded, alone(loaded, None))


@pytest.fixture(scope="module")
def known(tiny) -> Known:
    return known_from(tiny, tiny)


@pytest.fixture(scope="module")
def family(tiny, tmp_path_factory) -> Callable[[str], Known]:
    """The model of a family, built once for all tests that decode with it: they leave it as it is."""
    return cache(lambda name: known_from(build_family(name, tiny, tmp_path_factory.mktemp("family")), tiny))


@pytest.fixture
def few_columns(monkeypatch):
    monkeypatch.setattr(decoding, "SPARE_COLUMNS", 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name, family, few_columns):
    loaded, expected = family(name).loaded, family(name).greedy
    assert is_decoded_here(loaded.model) == (name not in KEEP_STATES)
    assert len({len(tokens) for tokens in expected.values()}) > 4  # they end at different times
    assert together(loaded, None) == expected


@pytest.mark.parametrize("spare", [0, 1, 7, 128])
@pytest.mark.parametrize("places", [1, 2, 5, 100])
def test_any_number_of_places_and_columns(places, spare, known, monkeypatch):
    monkeypatch.setattr(decoding, "SPARE_COLUMNS", spare)
    monkeypatch.setattr(generation, "BATCH_ROWS", places)
    assert together(known.loaded, None) == known.greedy
    assert together(known.loaded, SAMPLES) == known.sampled


def drafted(expected: dict[int, list[int]], right: float) -> list[Draft]:
    """Drafts of which the first part is right: of all sources but one as good as they are said to be."""
    drafts = []
    for number, text in sorted(expected.items()):
        good = 0 if number % 5 == 4 else round(right * len(text))
        wrong = [(token + 1) % 300 for token in text[good : good + 6]]
        drafts.append(Draft((*text[:good], *wrong, 7), f"source {number % 5}"))
    return drafts


@pytest.mark.slow
@pytest.mark.parametrize("right", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", FAMILIES)
def test_drafts_change_no_text(name, right, family, few_columns):
    loaded, expected = family(name).loaded, family(name).greedy
    assert together(loaded, None, drafted(expected, right)) == expected


@pytest.mark.parametrize("places", [1, 2, 5, 100])
def test_drafts_spare_steps(places, known, monkeypatch):
    """A right one is a text in one pass; a wrong one costs none; all logits at once are not needed."""
    monkeypatch.setattr(generation, "BATCH_ROWS", places)
    monkeypatch.setattr(decoding, "LOGITS_AT_ONCE", 50_000)
    loaded, expected = known.loaded, known.greedy
    right, wrong = (drafted(expected, share) for share in (1.0, 0.0))
    passes = {}
    for name, drafts in (("none", ()), ("right", right), ("wrong", wrong)):
        parts = list(continue_rows(loaded, ROWS, LIMITS, None, drafts))
        assert {number: part.tokens[number] for part in parts for number in part.tokens} == expected
        passes[name] = sum(part.passes for part in parts)
    assert passes["right"] < 0.8 * passes["none"]
    assert passes["wrong"] <= passes["none"] + len(ROWS)


def test_a_source_whose_drafts_are_wrong_is_not_drafted_again(tiny):
    rows = [Row(number=number, prompt=[5], limit=9, draft=Draft((1, 2), "forget")) for number in range(TRIED + 3)]
    known = Drafts()
    tried = known.next_rows(rows, places=100)
    assert [row.number for row in tried] == list(range(TRIED))
    for row in tried:
        row.tokens.append(3)
        known.note(row)
    left = known.next_rows(rows[TRIED:], places=100)
    assert [row.number for row in left] == [*range(TRIED, TRIED + 3)] and not any(row.draft.tokens for row in left)


def test_rows_that_wait_take_free_places(tiny):
    """One row that does not end does not hold the others: fewer passes than batches one after another would take."""
    loaded = loaded_from(tiny, tiny)
    limits = [60, *[4] * (len(ROWS) - 1)]
    passes = sum(part.passes for part in continue_rows(loaded, ROWS, limits))
    assert passes < 60 + 12


def test_where_memory_is_short_fewer_are_decoded_at_once(known, monkeypatch, capsys):
    loaded, seen = known.loaded, []

    class Small(decoding.Decoder):
        def _forward(self, ids, cache, **inputs):
            seen.append(len(ids))
            if len(ids) > 1 and len(seen) > 9:
                raise torch.cuda.OutOfMemoryError
            return super()._forward(ids, cache, **inputs)

    monkeypatch.setattr(decoding, "Decoder", Small)
    assert together(loaded, None) == known.greedy
    assert max(seen[1:9]) == PLACES and "1 are decoded at a time" in " ".join(capsys.readouterr().err.split())


def test_no_room_for_a_single_row_is_an_error(tiny, monkeypatch):
    loaded = loaded_from(tiny, tiny)

    def fail(*_, **__):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(decoding.Decoder, "_forward", fail)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(continue_rows(loaded, ROWS, LIMITS))


def test_a_penalty_is_left_to_transformers(tiny):
    """Logits are then no longer the model's."""
    loaded = loaded_from(tiny, tiny)
    plain = together(loaded, None)
    loaded.network.generation_config.repetition_penalty = 1.7
    assert not is_decoded_here(loaded.model)
    assert together(loaded, None) == alone(loaded, None) != plain


def test_a_family_without_a_cache_is_left_to_transformers(tiny):
    """GPT-1, whose layers give lists besides."""
    config = AutoConfig.for_model("openai-gpt", vocab_size=400, **GPT2_SIZES)
    model = AutoModelForCausalLM.from_config(config).eval()
    loaded = LoadedModel(
        model=model, tokenizer=tokenizer_at(tiny), max_new_tokens=60, max_length=256, batch_tokens=PLACES * max(LENGTHS)
    )
    assert not is_decoded_here(model)
    assert together(loaded, None) == alone(loaded, None)
    ids = torch.tensor([list(ROWS[0].ids)])
    with torch.no_grad(), output_of_layer(model, 0, stop=True) as stopped:
        model(input_ids=ids)
    with torch.no_grad(), output_of_layer(model, 0, stop=False) as whole:
        model(input_ids=ids)
    assert torch.equal(stopped[0], whole[0]) and stopped[0].shape == (1, len(ROWS[0].ids), config.n_embd)


def test_transformers_own_loop_runs_in_halves_where_memory_is_short(tiny, monkeypatch):
    loaded = loaded_from(tiny, tiny)
    loaded.network.generation_config.repetition_penalty = 1.7
    expected, real = alone(loaded, SAMPLES), generation.generate_batch

    def small(loaded, rows, **options):
        if len(rows) > 1:
            raise torch.cuda.OutOfMemoryError
        return real(loaded, rows, **options)

    monkeypatch.setattr(generation, "generate_batch", small)
    assert together(loaded, SAMPLES) == expected


@pytest.mark.parametrize("name", ["Llama, tied", "Mistral, sliding window", "GPT-2"])
def test_prompts_that_begin_alike(name, tiny, tmp_path, few_columns):
    """Several samples of one prompt, and prompts that continue others: those join together, and share a prefill."""
    loaded = replace(loaded_from(build_family(name, tiny, tmp_path / "model"), tiny), batch_tokens=4 * 40)
    head = ROWS[0].ids[:25]
    prompts = [head, head, head, *((*head, *ROWS[2].ids[:size]) for size in (1, 5, 9, 15)), ROWS[5].ids, head]
    rows = [TokenRow(example_id="", ids=ids, answer_start=len(ids), label_start=len(ids)) for ids in prompts]
    samples = [str(number) for number in range(len(rows))]
    for names in (None, samples):
        expected = [
            generate_batch(loaded, [row], limit=12, samples=names and [name])[0]
            for row, name in zip(rows, samples, strict=True)
        ]
        assert generation.continuations(loaded, rows, limit=12, samples=names) == expected


def test_a_prompt_of_several_samples_is_run_once(tiny):
    loaded, seen = loaded_from(tiny, tiny), []
    loaded.network.get_input_embeddings().register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].numel()))
    generation.continuations(loaded, [ROWS[0]] * 3, limit=1, samples=["a", "b", "c"])
    assert seen == [len(ROWS[0].ids)]
