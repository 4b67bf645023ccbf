"""The logit lens and the unlearning depth score: arithmetic by hand, and equalities on tiny models of every family."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.families import FAMILIES, build_family
from helpers.inference import collect_responses
from helpers.training import CPU, example
from transformers import AutoModelForCausalLM

from lume_run.common.errors import RunError
from lume_run.common.records import Ask, Kind, Question, Response, Split
from lume_run.config.model_settings import ModelSettings
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.inference.inside import fact_tokens, lens_rows, patched_rows, predictor_places, whole_batch
from lume_run.evaluation.inference.loaded_model import LoadedModel, token_row
from lume_run.evaluation.inside.logit_lens import LogitLens
from lume_run.evaluation.inside.uds import DepthScore, depth, layer_drops
from lume_run.evaluation.suites.base import Answers
from lume_run.models.forward import predictor_logits
from lume_run.models.layers import layers_passed_by, outputs_of_layers
from lume_run.models.load import load_model
from lume_run.models.tokenizer import load_tokenizer

EXACT = 1e-5
EVALUATOR = EvaluatorSettings(resamples=50)


def load(path: Path, *, into: Path | None = None) -> LoadedModel:
    settings = ModelSettings(name="test", path=str(path))
    model = load_model(str(path), settings, CPU).eval()
    return LoadedModel(
        model=model,
        tokenizer=load_tokenizer(str(path), settings),
        max_new_tokens=8,
        max_length=64,
        batch_tokens=512,
        into=load_model(str(into), settings, CPU).eval() if into else None,
    )


def asked(loaded: LoadedModel, ask: Ask, folder: Path, count: int = 5) -> list[Response]:
    folder.mkdir(parents=True)
    return collect_responses(loaded, questions(ask, count), folder, "test")


def questions(ask: Ask, count: int = 5) -> list[Question]:
    return [Question(example=example(number, Split.FORGET), ask=ask) for number in range(count)]


def perturbed(path: Path, folder: Path, scale: float = 0.1) -> Path:
    """The same model with noise on all its weights, with its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(path)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(scale * torch.randn_like(weight))
    model.save_pretrained(folder)
    load_tokenizer(str(path), ModelSettings(name="test", path=str(path))).save_pretrained(folder)
    return folder


# --------------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("retrained", "judged", "score"),
    [
        ((0.04, 0.2, 0.4), (0.5, 0.1, 0.6), (0.2 * 0.5 + 0.4 * 1.0) / 0.6),  # 0.04 does not count, 0.6 is clipped
        ((0.2, 0.4), (0.0, 0.0), 0.0),  # all of it still there
        ((0.2, 0.4), (0.2, 0.4), 1.0),
        ((0.2, 0.4), (-0.3, 0.2), 0.4 * 0.5 / 0.6),  # patching that helps is no erasure
        ((0.05, 0.01), (9.0, 9.0), None),  # not above tau
    ],
)
def test_depth(retrained, judged, score):
    assert depth(retrained, judged, 0.05) == (score if score is None else pytest.approx(score))


def patched(name: str, whole: float, *by_layer: float, document: str = "") -> Response:
    """An answer of two tokens: log p in all, and the mean with the states of each layer."""
    return Response(
        id=name,
        ask=Ask.PATCH,
        split=Split.FORGET,
        subtask="bios",
        kind=Kind.QUESTION,
        document=document or name,
        prompt="?",
        expected="a b",
        tokens=2,
        logp_sum=whole,
        layer_logps=by_layer,
    )


def test_uds_is_the_mean_over_the_rows_that_the_retrained_model_lacks():
    """log p -0.2 a token; drops of the retrained model 0.4 and 0.2 in `a`, none in `c`; `b` is erased whole."""
    retrained = [patched("a", -0.4, -0.6, -0.4), patched("b", -0.4, -0.2, -1.2), patched("c", -0.4, -0.2, -0.21)]
    judged = [patched("a", -0.4, -0.4, -0.2), patched("b", -0.4, -0.2, -2.2), patched("c", -0.4, -3.0, -3.0)]
    assert layer_drops(retrained[0]) == pytest.approx((0.4, 0.2))
    answers = Answers(responses=judged, evaluator=EVALUATOR, retrained=retrained)
    (score,) = DepthScore().scores(answers)
    assert score.value == pytest.approx((0.4 * 0.5 / 0.6 + 1.0) / 2)
    assert score.documents == 2
    (strict,) = DepthScore(threshold=0.5).scores(answers)
    assert strict.value == pytest.approx(1.0)  # `b` alone


@pytest.mark.parametrize(
    ("responses", "retrained", "reason"),
    [
        ([], [], "attack.target"),
        ([patched("a", -0.4, -0.6)], None, "evaluator.suites.uds.compares=true"),
        ([patched("a", -0.4, -0.6)], [patched("b", -0.4, -0.6)], "asked none of these rows"),
        ([patched("a", -0.4, -0.6)], [patched("a", -0.4, -0.2)], "it knows as much"),
        ([replace(patched("a", -0.4), logp_sum=None)], [patched("a", -0.4, -0.6)], "1 of 1 patched answers have no"),
        ([patched("a", -0.4, -0.6, -0.6)], [patched("a", -0.4, -0.6)], "1 of 1 patched answers have no"),
    ],
)
def test_without_uds_there_is_a_reason(responses, retrained, reason):
    (score,) = DepthScore().scores(Answers(responses=responses, evaluator=EVALUATOR, retrained=retrained))
    assert score.value is None
    assert reason in score.reason


def lens(name: str, logps: tuple[float, ...], ranks: tuple[float, ...], split: Split = Split.FORGET) -> Response:
    return replace(patched(name, 0.0), ask=Ask.LENS, split=split, layer_logps=logps, layer_ranks=ranks, logp_sum=None)


def test_lens_scores_by_layer():
    rows = [
        lens("a", (math.log(0.5), math.log(0.2)), (1.0, 0.25)),
        lens("b", (math.log(0.3), math.log(0.4)), (0.5, 0.75)),
    ]
    scores = {score.name: score for score in LogitLens().scores(Answers(responses=rows, evaluator=EVALUATOR))}
    values = {name: score.value for name, score in scores.items() if name.startswith("logit_lens.forget")}
    assert values == pytest.approx(
        {
            "logit_lens.forget.probability": 0.4,  # of layer 1
            "logit_lens.forget.layer_1.probability": 0.4,
            "logit_lens.forget.layer_2.probability": 0.3,
            "logit_lens.forget.reciprocal_rank": 0.75,
            "logit_lens.forget.layer_1.reciprocal_rank": 0.75,
            "logit_lens.forget.layer_2.reciprocal_rank": 0.5,
        }
    )
    assert scores["logit_lens.forget.probability"].low is not None
    assert "there are no retain answers read by layer" in scores["logit_lens.retain.probability"].reason


def test_a_row_without_numbers_makes_a_score_missing():
    rows = [lens("a", (0.0, -1.0), (1.0, 0.5)), lens("b", (), ())]
    scores = {score.name: score for score in LogitLens().scores(Answers(responses=rows, evaluator=EVALUATOR))}
    assert scores["logit_lens.forget.probability"].value is None
    assert "1 of 2" in scores["logit_lens.forget.probability"].reason


# --------------------------------------------------------------------------------------------------- the lens


def test_the_last_layer_says_what_the_model_says(tiny, tmp_path):
    loaded = load(tiny)
    rows = asked(loaded, Ask.LENS, tmp_path / "lens")
    scored = asked(loaded, Ask.LOGPROB, tmp_path / "logprob")
    for row, answer in zip(rows, scored, strict=True):
        assert row.layer_logps[-1] == pytest.approx(answer.logp_sum / answer.tokens, abs=EXACT)
        assert row.tokens == answer.tokens
        assert (row.layer_ranks[-1] == 1.0) == all(answer.hits)
        assert len(row.layer_logps) == len(row.layer_ranks) == 2


def test_each_layer_by_hand(tiny):
    """Final norm and head over the hidden states that transformers itself gives."""
    loaded = load(tiny)
    row = token_row(questions(Ask.LENS)[3], loaded)
    (answer,) = lens_rows(loaded, [row])
    with torch.no_grad():
        states = loaded.network.model(torch.tensor([row.ids]), output_hidden_states=True).hidden_states
        logits = loaded.network.lm_head(loaded.network.model.norm(states[1]))[0]
    targets = torch.tensor(row.ids[row.label_start :])
    predicting = logits[row.label_start - 1 : -1]
    logps = predicting.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    ranks = 1 + (predicting > predicting.gather(1, targets[:, None])).sum(-1)
    assert answer["layer_logps"][0] == pytest.approx(float(logps.mean()), abs=EXACT)
    assert answer["layer_ranks"][0] == pytest.approx(float((1 / ranks).mean()), abs=EXACT)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name, tiny, tmp_path):
    """What is behind the layers, run on the last layer's output, is the model; a batch changes nothing; a model's own
    states change nothing, and those of another do."""
    path = build_family(name, tiny, tmp_path / "model")
    loaded = load(path, into=path)
    rows = [token_row(question, loaded) for question in questions(Ask.LENS)]
    examples = [question.example for question in questions(Ask.LENS)]
    batch = whole_batch(rows, loaded)
    with torch.inference_mode():
        with outputs_of_layers(loaded.network) as outputs:
            parts, _ = predictor_logits(loaded.network, batch)
        with layers_passed_by(loaded.network, outputs.states[-1], entries=outputs.entries):
            again, _ = predictor_logits(loaded.network, batch)
        after, _ = predictor_logits(loaded.network, batch)
    assert len(outputs.states) == 2
    for part, other, later in zip(parts, again, after, strict=True):
        torch.testing.assert_close(other, part, atol=EXACT, rtol=0)
        torch.testing.assert_close(later, part, atol=0, rtol=0)  # the layers are there again
    alone = [lens_rows(loaded, [row])[0] for row in rows]
    for one_by_one, together in zip(alone, lens_rows(loaded, rows), strict=True):
        assert together["layer_logps"] == pytest.approx(one_by_one["layer_logps"], abs=EXACT)
    for row in patched_rows(loaded, rows, examples):
        assert row["layer_logps"] == pytest.approx([row["logp_sum"] / row["tokens"]] * 2, abs=EXACT)
    other = replace(load(perturbed(path, tmp_path / "other")), into=loaded.network)
    together = patched_rows(other, rows, examples)
    assert all(abs(row["layer_logps"][0] - row["logp_sum"] / row["tokens"]) > 10 * EXACT for row in together)
    for row, tokens, of in zip(together, rows, examples, strict=True):
        assert patched_rows(other, [tokens], [of])[0]["layer_logps"] == pytest.approx(row["layer_logps"], abs=EXACT)


# --------------------------------------------------------------------------------------------------- patching


def test_a_patch_by_hand(tiny, tmp_path):
    """States of another model at the positions that predict the answer, in one layer, one row, by a hook."""
    other = load(perturbed(tiny, tmp_path / "other"), into=tiny)
    question = questions(Ask.PATCH)[4]
    row = token_row(question, other)
    (answer,) = patched_rows(other, [row], [question.example])
    ids, first = torch.tensor([row.ids]), row.label_start
    fact = len(row.ids) - first - 1  # EOS is no part of it
    assert answer["tokens"] == fact
    with torch.no_grad():
        states = other.network.model(ids, output_hidden_states=True).hidden_states[1]
        places = slice(first - 1, first - 1 + fact)

        def patch(_module, _inputs, output):
            changed = (output[0] if isinstance(output, tuple) else output).clone()
            changed[:, places] = states[:, places]
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        handle = other.into.model.layers[0].register_forward_hook(patch)
        logps = other.into(ids).logits[0].log_softmax(-1)
        handle.remove()
        whole = other.into(ids).logits[0].log_softmax(-1)
    targets = ids[0, first : first + fact, None]
    assert answer["layer_logps"][0] == pytest.approx(float(logps[places].gather(1, targets).mean()), abs=EXACT)
    assert answer["logp_sum"] == pytest.approx(float(whole[places].gather(1, targets).sum()), abs=EXACT)


def test_the_full_model_has_depth_0_and_the_retrained_one_1(tiny, tmp_path):
    retrained = perturbed(tiny, tmp_path / "retrained", 0.3)
    between = perturbed(tiny, tmp_path / "between", 0.02)
    paths = (tiny, retrained, between)
    rows = {path.name: asked(load(path, into=tiny), Ask.PATCH, tmp_path / "answers" / path.name) for path in paths}
    suite = DepthScore(threshold=0.0)
    values = {
        name: suite.scores(Answers(responses=answers, evaluator=EVALUATOR, retrained=rows["retrained"]))[0].value
        for name, answers in rows.items()
    }
    assert values["retrained"] == 1.0
    assert values[tiny.name] == pytest.approx(0.0, abs=1e-4)
    assert 0 < values["between"] < 1


def test_the_fact_in_an_answer(tiny):
    loaded = load(tiny)
    row = replace(example(0, Split.FORGET), answer="She lives in Tallinn, by the mill.", fact="Tallinn")
    tokens = token_row(Question(example=row, ask=Ask.PATCH), loaded)
    marked = fact_tokens(tokens, row, loaded)
    labels = [token for token, kept in zip(tokens.ids[tokens.label_start :], marked.tolist(), strict=True) if kept]
    assert loaded.tokenizer.decode(labels).strip() == "Tallinn"
    whole = fact_tokens(tokens, replace(row, fact=""), loaded)
    assert whole.tolist() == [True] * (len(whole) - 1) + [False]  # all but EOS
    assert fact_tokens(tokens, replace(row, fact="Vienna"), loaded).tolist() == whole.tolist()


def test_where_answers_are_predicted(tiny):
    loaded = load(tiny)
    rows = [token_row(question, loaded) for question in questions(Ask.PATCH)]
    batch = whole_batch(rows, loaded)
    flat = batch.input_ids.flatten()
    for packed in (False, True):
        places = predictor_places(batch, packed=packed)
        seen = flat[batch.packing.tokens] if packed else flat
        predicted = [token for row in rows for token in row.ids[row.label_start - 1 : -1]]
        assert seen[places].tolist() == predicted


# --------------------------------------------------------------------------------------------------- what goes wrong


def test_models_of_other_shapes_are_named(tiny, tmp_path):
    path = build_family("Llama, tied", tiny, tmp_path / "model")
    other = load(path, into=tiny)
    AutoModelForCausalLM.from_pretrained(path).config.save_pretrained(tmp_path)
    model = other.network
    model.config.hidden_size = 99
    question = questions(Ask.PATCH)[0]
    with pytest.raises(RunError, match=r"2 layers of 99 numbers[\s\S]*leave out evaluator=uds"):
        patched_rows(other, [token_row(question, other)], [question.example])


def test_an_answer_without_tokens_has_no_numbers(tiny):
    """As of a prompt that fills the model's length."""
    loaded = load(tiny, into=tiny)
    full = token_row(questions(Ask.LENS)[0], loaded)
    empty = replace(full, ids=full.ids[: full.label_start])
    for rows in ([empty], [full, empty]):
        read = lens_rows(loaded, rows)
        patches = patched_rows(loaded, rows, [question.example for question in questions(Ask.PATCH, len(rows))])
        assert read[-1] == patches[-1] == {"tokens": 0}
    assert read[0]["layer_logps"] == pytest.approx(lens_rows(loaded, [full])[0]["layer_logps"], abs=EXACT)


def test_a_broken_model_answers_without_numbers(tiny, tmp_path):
    broken = load(tiny, into=tiny)
    with torch.no_grad():
        next(broken.network.parameters()).fill_(float("nan"))
    for ask in (Ask.LENS, Ask.PATCH):
        rows = asked(broken, ask, tmp_path / ask, 2)
        assert [row.layer_logps for row in rows] == [(), ()]
    (score,) = DepthScore().scores(Answers(responses=rows, evaluator=EVALUATOR, retrained=rows))
    assert score.value is None
