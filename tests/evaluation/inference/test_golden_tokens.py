"""Token rows of the reference codes against ours, and the scoring pass on them token by token.

open_unlearning_metrics/tokenised.json, preprocess.json and tokenwise.json, and the losses that the official SemEval
inference wrote. All of them join prompt and answer and count the prompt's tokens apart; where the two do not add up
(a prompt that ends in a space, which merges into the answer) they leave the first answer token without a label
(QUIRKS 30), and `encode` does not. Every test says which tokens and labels are the same and which are not.
"""

from __future__ import annotations

import csv
import math

import pytest
from helpers.golden import (
    GOLDEN,
    TOKENISED,
    UNLABELLED,
    ids_of,
    labelled_row,
    lines,
    mean_loss_of,
    modelled,
    needs_golden,
    question,
    read,
    runner_of,
    score_all,
    token_row,
    tokenizer,
)

from lume_run.common.records import Kind
from lume_run.evaluation.inference.loaded_model import prompt_row
from lume_run.evaluation.metrics.tofu import probability
from lume_run.models.tokenise import TokenRow, encode, prompt_ids
from lume_run.tasks.question_files import TEMPLATE

pytestmark = needs_golden

PREPROCESS = "open_unlearning_metrics/preprocess.json"
TOKENWISE = "open_unlearning_metrics/tokenwise.json"
EOS = 2
PLENTY = 512
ANSWERS = {"": "answer", "para": "paraphrased_answer", "pert": "perturbed_answer"}  # suffix of a data set -> field


def question_text(text: str) -> str:
    """Their prompt, which ends in a space."""
    args = read(TOKENISED)["template_args"]
    return args["user_start_tag"] + text + args["user_end_tag"] + args["asst_start_tag"]


# ------------------------------------------------------------------------------------------- open-unlearning's rows


@pytest.mark.parametrize(
    "dataset",
    [
        *("forget", "forget_para", "forget_pert", "retain", "retain_para", "retain_pert", "holdout"),
        *("real_authors", "real_authors_pert", "world_facts", "world_facts_pert"),
    ],
)
def test_rows_of_open_unlearning(dataset):
    """Our template ends in "Answer:", so that the space is the answer's: the same ids, and one label more in front."""
    name = next(name for name in ("forget", "retain", "holdout", "real_authors", "world_facts") if name in dataset)
    field = ANSWERS[dataset.removeprefix(name).removeprefix("_")]
    golden = read(TOKENISED)["datasets"][dataset]
    for number, (theirs, data) in enumerate(zip(golden, lines(f"lm/data/{name}.jsonl"), strict=True)):
        answers = data[field] if isinstance(data[field], list) else [data[field]]
        several = [theirs] if "input_ids" in theirs else [theirs[str(place)] for place in range(len(theirs))]
        for answer, row in zip(answers, several, strict=True):
            ours = encode(question(TEMPLATE.format(question=data["question"]), answer), tokenizer(), max_tokens=128)
            assert list(ours.ids) == row["input_ids"]
            assert row["index"] == number and row["attention_mask"] == [1] * len(ours.ids)
            assert (ours.label_start + 1, ours.truncated) == (labelled_row(row).label_start, 0)
            assert ours.ids[-1] == row["labels"][-1] == EOS
            assert_apart(encode(question(question_text(data["question"]), answer), tokenizer(), max_tokens=128), row)


def assert_apart(ours: TokenRow, row: dict) -> None:
    """Of their own prompt: we keep its tokens, the space in the end among them, and tokenise the answer apart; their
    row where the space does not merge, otherwise the same text, all of the answer labelled."""
    start, decode = labelled_row(row).label_start, tokenizer().decode
    assert ours.label_start == start and decode(ours.ids[start - 1]) == " "
    merged = decode(row["input_ids"][start - 1]) != " "
    assert (list(ours.ids) == row["input_ids"]) is not merged
    assert list(ours.ids[: start - 1]) == row["input_ids"][: start - 1]
    assert decode(ours.ids[start - 1 :]) == decode(row["input_ids"][start - 1 :])


@pytest.mark.parametrize("dataset", ["forget", "retain", "real_authors", "world_facts"])
def test_prompts_of_open_unlearning(dataset):
    """What is generated from is the prompt's tokens, in theirs and in ours; their labels are all ids."""
    golden = read(TOKENISED)
    for row, data in zip(golden["generation_datasets"][dataset], lines(f"lm/data/{dataset}.jsonl"), strict=True):
        own = prompt_row(question(question_text(data["question"]), ""), runner_of("model"), new_tokens=40)
        assert list(own.ids) == row["input_ids"] == prompt_ids(question_text(data["question"]), tokenizer())
        assert row["labels"] == golden["datasets"][dataset][row["index"]]["input_ids"]
        assert row["attention_mask"] == [1] * len(own.ids)


# ------------------------------------------------------------------------------------------- preprocess.json


def pretraining(number: int) -> dict:
    return read(PREPROCESS)["preprocess_pretraining_instance"][number]


def chat(number: int) -> dict:
    return read(PREPROCESS)["preprocess_chat_instance"][number]


def test_every_instance_has_its_test():
    golden = read(PREPROCESS)
    assert [len(golden[f"preprocess_{kind}_instance"]) for kind in ("pretraining", "chat")] == [5, 4]
    assert golden["template_args"] == read(TOKENISED)["template_args"]


@pytest.mark.parametrize(("number", "whole"), [(0, True), (4, False)])
def test_text_without_a_prefix_is_a_document(number, whole):
    """No EOS in either; their length does not count BOS."""
    case = pretraining(number)
    assert case["prefix"] == "" and not case["insert_space"]
    ours = encode(question("", case["text"], kind=Kind.DOCUMENT), tokenizer(), max_tokens=case["max_length"] + 1)
    assert list(ours.ids) == case["input_ids"]
    assert [UNLABELLED, *ours.ids[1:]] == case["labels"] and ours.label_start == 1
    assert (ours.truncated == 0) is whole


def test_text_after_a_prefix():
    """With their space in between: our row, which then has an EOS."""
    case = pretraining(1)
    assert case["insert_space"]
    ours = encode(question(case["prefix"], case["text"], kind=Kind.COMPLETION), tokenizer(), max_tokens=PLENTY)
    assert list(ours.ids) == [*case["input_ids"], EOS]
    assert ours.label_start == labelled_row(case).label_start


def test_text_after_a_prefix_that_ends_in_a_space():
    """Theirs cuts to prefix + max_length tokens; as in chat rows, one label less than there are text tokens."""
    case = pretraining(2)
    ours = encode(question(case["prefix"], case["text"], kind=Kind.COMPLETION), tokenizer(), max_tokens=PLENTY)
    joined = encode(question(case["prefix"].rstrip(), case["text"]), tokenizer(), max_tokens=PLENTY)
    start = labelled_row(case).label_start
    assert case["input_ids"] == list(joined.ids[: start + case["max_length"]])
    assert ours.label_start == start == joined.label_start + 1
    assert tokenizer().decode(ours.ids[start:]) == case["text"] + tokenizer().decode([EOS])


def test_a_prefix_to_generate_from():
    case = pretraining(3)
    ours = encode(question(case["prefix"], case["text"], kind=Kind.COMPLETION), tokenizer(), max_tokens=PLENTY)
    assert list(ours.ids[: ours.answer_start]) == case["input_ids"]
    assert case["predict_with_generate"] and labelled_row({**case, "input_ids": list(ours.ids[:-1])}) == token_row(
        ours.ids[:-1], ours.label_start
    )


def few_shot(case: dict) -> str:
    """Their examples and the last question, without the space after "Answer:"."""
    args = read(PREPROCESS)["template_args"]
    shots = zip(case["prompts"][:-1], case["responses"][:-1], strict=True)
    before = "".join(question_text(asked) + answer + args["asst_end_tag"] for asked, answer in shots)
    return before + question_text(case["prompts"][-1]).removesuffix(" ")


def test_few_shot_chat():
    for case in (chat(0), chat(1)):
        ours = encode(question(few_shot(case), case["responses"][-1]), tokenizer(), max_tokens=case["max_length"])
        if case["predict_with_generate"]:
            assert case["labels"] == list(ours.ids)
            assert case["input_ids"] == prompt_ids(few_shot(case) + " ", tokenizer())
        else:
            assert case["input_ids"] == list(ours.ids)
            assert labelled_row(case).label_start == ours.label_start + 1


def test_a_chat_that_is_too_long():
    """Theirs keeps the beginning, no answer, and gets one EOS more than fits; ours keeps the end (QUIRKS 31)."""
    case = chat(2)
    prompt, answer = question_text(case["prompts"][0]), case["responses"][0]
    most = case["max_length"]
    assert case["input_ids"] == [*ids_of(prompt + answer)[:most], EOS]
    assert case["labels"] == [UNLABELLED] * most + [EOS]
    ours = encode(question(prompt.rstrip(), answer), tokenizer(), max_tokens=most)
    whole = [*ids_of(prompt + answer), EOS]
    assert ours.truncated == len(whole) - most
    assert len(ours.ids) == most and tuple(ids_of(prompt.rstrip())[-1:]) == ours.ids[: ours.answer_start]
    assert list(ours.ids[1:]) == whole[len(ids_of(prompt.rstrip())) :][: most - 1]


def test_an_empty_answer():
    """Only EOS is a label, in theirs and in ours."""
    case = chat(3)
    assert case["responses"] == [""]
    ours = encode(question(question_text(case["prompts"][0]), ""), tokenizer(), max_tokens=case["max_length"])
    assert ours == token_row(case["input_ids"], labelled_row(case).label_start, ours.example_id)
    assert ours.labels == 1


# ------------------------------------------------------------------------------------------- token by token


@pytest.mark.parametrize("part", ["forget", "holdout"])
def test_token_logprobs(part):
    """Ours have one token more, the last labelled one."""
    golden = read(TOKENWISE)[part]
    masks, ids, labels = (golden["batch"][name] for name in ("attention_mask", "input_ids", "labels"))
    rows = [
        labelled_row({"input_ids": own[: sum(mask)], "labels": label[: sum(mask)]})
        for own, label, mask in zip(ids, labels, masks, strict=True)
    ]
    found = score_all(runner_of("model", "float64"), rows)
    for place, (row, scores) in enumerate(zip(rows, found, strict=True)):
        assert read(TOKENISED)["datasets"][part][golden["index"][place]]["input_ids"] == list(row.ids)
        assert list(row.ids[row.label_start : -1]) == golden["labels"][place]
        assert list(scores.logps[:-1]) == modelled(golden["tokenwise_logprobs"][place])
        best = golden["argmax_of_tokenwise_vocab_logprobs"][place]
        assert list(scores.hits[:-1]) == [*map(int.__eq__, best, golden["labels"][place])]
        theirs = golden["evaluate_probability"][place]
        assert mean_loss_of(scores) == modelled(theirs["avg_loss"])
        assert probability(scores.logp_sum, scores.tokens) == modelled(theirs["prob"])


def test_edge_rows():
    """No label, one label, a label on index 0, a hole: the probabilities that a TokenRow can have, and how."""
    golden = read(TOKENWISE)["edge_rows"]
    labels = [[at for at, one in enumerate(row) if one != UNLABELLED] for row in golden["batch"]["labels"]]
    lengths = [sum(mask) for mask in golden["batch"]["attention_mask"]]
    none, one, first, hole = (ids[:length] for ids, length in zip(golden["batch"]["input_ids"], lengths, strict=True))
    expected = [(row["prob"], row["avg_loss"]) for row in golden["evaluate_probability"]]
    runner = runner_of("model", "float64")

    (scores,) = score_all(runner, [token_row(none, len(none))])
    assert labels[0] == [] and expected[0] == ("NaN", "NaN")
    assert (scores.logp_sum, scores.tokens, probability(0.0, 0)) == (0.0, 0, None)

    (scores,) = score_all(runner, [token_row(one[: labels[1][0] + 1], labels[1][0])])
    assert scores.tokens == 1 and mean_loss_of(scores) == modelled(expected[1][1])

    (scores,) = score_all(runner, [token_row(first, 1)])  # index 0 has nothing before it, but counts as a token there
    assert labels[2] == list(range(len(first))) and scores.tokens == len(first) - 1
    assert -scores.logp_sum / len(first) == modelled(expected[2][1])

    (scores,) = score_all(runner, [token_row(hole, labels[3][0])])
    gap = next(at for at in range(labels[3][0], len(hole)) if at not in labels[3]) - labels[3][0]
    kept = [*scores.logps[:gap], *scores.logps[gap + 1 :]]
    assert len(kept) == len(labels[3])
    assert -math.fsum(kept) / len(kept) == modelled(expected[3][1])


# ------------------------------------------------------------------------------------------- SemEval's inference


@pytest.mark.parametrize("side", ["forget", "retain"])
def test_answer_losses_of_the_official_inference(side):
    """The `nll` column: prompt and answer as one text with nothing between, the prompt's own number of tokens masked,
    no EOS (QUIRKS 50). On prompts that end in a space the first answer token is thus not counted."""
    with (GOLDEN / "semeval" / "pipeline" / "out" / f"{side}_0.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    data = lines(f"semeval/pipeline/data/{side}.jsonl")
    assert [(row["id"], row["input"], row["expected_output"]) for row in table] == [
        (row["id"], row["input"], row["output"]) for row in data
    ]
    rows = [token_row(ids_of(row["input"] + row["output"]), len(ids_of(row["input"]))) for row in data]
    found = score_all(runner_of("model"), rows)
    assert [mean_loss_of(one) for one in found] == [pytest.approx(float(row["nll"]), abs=1e-5) for row in table]
    for row, theirs in zip(data, rows, strict=True):
        ours = encode(question(row["input"], row["output"]), tokenizer(), max_tokens=PLENTY)
        spaced = row["input"].endswith(" ")
        assert ours.ids[-1] == EOS and ours.ids[: ours.answer_start] == tuple(ids_of(row["input"]))
        text = row["input"] + ("" if spaced else " ") + row["output"]
        assert tokenizer().decode(ours.ids[1:-1]) == text
        assert spaced or list(ours.ids) == [*ids_of(text), EOS]
        assert ours.label_start == theirs.label_start
