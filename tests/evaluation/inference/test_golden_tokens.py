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
    GOLDEN_MARKS,
    NEW_TOKENS,
    TOKENISED,
    UNLABELLED,
    as_list,
    eos,
    golden_keys,
    ids_of,
    label_places,
    labelled_row,
    loaded_model_of,
    mean_loss_of,
    near,
    plenty,
    question_of,
    read_golden,
    read_rows,
    score_all,
    skip_without,
    token_row,
    tokenizer,
)

from lume_run.common.records import Kind
from lume_run.evaluation.inference.loaded_model import prompt_row
from lume_run.evaluation.metrics.tofu import probability
from lume_run.models.rows.tokenise import TokenRow, encode, plain_ids
from lume_run.tasks.question_files import TEMPLATE

pytestmark = GOLDEN_MARKS

PREPROCESS = "open_unlearning_metrics/preprocess.json"
TOKENWISE = "open_unlearning_metrics/tokenwise.json"
ANSWERS = {"": "answer", "_para": "paraphrased_answer", "_pert": "perturbed_answer"}  # suffix of a data set -> field


def question_text(text: str) -> str:
    """Their prompt, which ends in a space."""
    args = read_golden(TOKENISED)["template_args"]
    return args["user_start_tag"] + text + args["user_end_tag"] + args["asst_start_tag"]


# ------------------------------------------------------------------------------------------- open-unlearning's rows


@pytest.mark.parametrize("dataset", golden_keys(TOKENISED, "datasets"))
def test_rows_of_open_unlearning(dataset):
    """Our template ends in "Answer:", so that the space is the answer's: the same ids, and one label more in front."""
    suffix = next((suffix for suffix in ANSWERS if suffix and dataset.endswith(suffix)), "")
    data = read_rows(f"lm/data/{dataset.removesuffix(suffix)}.jsonl")
    golden, most = read_golden(TOKENISED)["datasets"][dataset], read_golden(TOKENISED)["max_length"]
    for number, (theirs, fields) in enumerate(zip(golden, data, strict=True)):
        several = [theirs] if "input_ids" in theirs else [theirs[str(place)] for place in range(len(theirs))]
        for answer, row in zip(as_list(fields[ANSWERS[suffix]]), several, strict=True):
            assert row["index"] == number and row["attention_mask"] == [1] * len(row["input_ids"])
            if len(row["input_ids"]) > most:  # they cut the end (QUIRKS 31), we the prompt's beginning
                assert row["input_ids"] == [*ids_of(question_text(fields["question"]) + answer)[:most], eos()]
                continue
            prompt = TEMPLATE.format(question=fields["question"])
            ours = encode(question_of(prompt, answer), tokenizer(), max_tokens=most)
            assert list(ours.ids) == row["input_ids"]
            assert (ours.label_start + 1, ours.truncated) == (labelled_row(row).label_start, 0)
            assert ours.ids[-1] == row["labels"][-1] == eos()
            prompt = question_text(fields["question"])
            assert_apart(encode(question_of(prompt, answer), tokenizer(), max_tokens=most), row)


def assert_apart(ours: TokenRow, row: dict) -> None:
    """Of their own prompt: we keep its tokens, the space in the end among them, and tokenise the answer apart; their
    row where the space does not merge, otherwise the same text, all of the answer labelled."""
    start, decode = labelled_row(row).label_start, tokenizer().decode
    assert ours.label_start == start and decode(ours.ids[start - 1]) == " "
    merged = decode(row["input_ids"][start - 1]) != " "
    assert (list(ours.ids) == row["input_ids"]) is not merged
    assert list(ours.ids[: start - 1]) == row["input_ids"][: start - 1]
    assert decode(ours.ids[start - 1 :]) == decode(row["input_ids"][start - 1 :])


@pytest.mark.parametrize("dataset", golden_keys(TOKENISED, "generation_datasets"))
def test_prompts_of_open_unlearning(dataset):
    """What is generated from is the prompt's tokens, in theirs and in ours; their labels are all ids."""
    golden = read_golden(TOKENISED)
    for row, data in zip(golden["generation_datasets"][dataset], read_rows(f"lm/data/{dataset}.jsonl"), strict=True):
        prompt = question_text(data["question"])
        ours = prompt_row(question_of(prompt, ""), loaded_model_of("model"), new_tokens=NEW_TOKENS)
        assert list(ours.ids) == row["input_ids"] == plain_ids(prompt, tokenizer())
        assert row["labels"] == golden["datasets"][dataset][row["index"]]["input_ids"]
        assert row["attention_mask"] == [1] * len(ours.ids)


# ------------------------------------------------------------------------------------------- preprocess.json


def text_kind(case: dict) -> str:
    """Which of the tests below a text of preprocess.json belongs to."""
    if case["predict_with_generate"]:
        return "prompt"
    if not case["prefix"]:
        return "document"
    if case["insert_space"]:
        return "after a prefix"
    return "after a space" if case["prefix"].endswith(" ") else "joined"


def chat_kind(case: dict) -> str:
    """The same for a chat."""
    if not case["responses"][-1]:
        return "empty"
    whole = ids_of(few_shot(case) + " " + case["responses"][-1])
    return "too long" if len(whole) >= case["max_length"] else "few shots"  # the EOS has to fit too


def pretraining(kind: str) -> list[dict]:
    """The texts of one kind."""
    cases = [case for case in read_golden(PREPROCESS)["preprocess_pretraining_instance"] if text_kind(case) == kind]
    skip_without(cases, f"text of the kind {kind!r}")
    return cases


def chats(kind: str) -> list[dict]:
    """The chats of one kind."""
    cases = [case for case in read_golden(PREPROCESS)["preprocess_chat_instance"] if chat_kind(case) == kind]
    skip_without(cases, f"chat of the kind {kind!r}")
    return cases


def whole_text(case: dict) -> TokenRow:
    """Our row of prefix and text, all of it."""
    row = question_of(case["prefix"], case["text"], kind=Kind.COMPLETION)
    return encode(row, tokenizer(), max_tokens=plenty(case["prefix"], case["text"]))


def test_every_instance_has_its_test():
    golden = read_golden(PREPROCESS)
    texts, instances = (golden[f"preprocess_{name}_instance"] for name in ("pretraining", "chat"))
    assert {text_kind(case) for case in texts} <= {"prompt", "document", "after a prefix", "after a space"}
    assert {chat_kind(case) for case in instances} <= {"few shots", "too long", "empty"}
    assert golden["template_args"] == read_golden(TOKENISED)["template_args"]


def test_text_without_a_prefix_is_a_document():
    """No EOS in either; their length does not count BOS."""
    for case in pretraining("document"):
        most = case["max_length"] + 1
        ours = encode(question_of("", case["text"], kind=Kind.DOCUMENT), tokenizer(), max_tokens=most)
        assert not case["insert_space"] and list(ours.ids) == case["input_ids"]
        assert [UNLABELLED, *ours.ids[1:]] == case["labels"] and ours.label_start == 1
        assert ours.truncated == max(0, len(ids_of(case["text"])) - most)


def test_text_after_a_prefix():
    """With their space in between: our row, which then has an EOS; theirs cuts to prefix + max_length tokens."""
    for case in pretraining("after a prefix"):
        ours, start = whole_text(case), labelled_row(case).label_start
        assert ours.ids[-1] == eos() and list(ours.ids[:-1][: start + case["max_length"]]) == case["input_ids"]
        assert ours.label_start == start


def test_text_after_a_prefix_that_ends_in_a_space():
    """As in chat rows, one label less than there are text tokens; it is cut in the same way."""
    for case in pretraining("after a space"):
        ours, joined = whole_text(case), whole_text(case | {"prefix": case["prefix"].rstrip(" ")})
        start = labelled_row(case).label_start
        assert case["input_ids"] == list(joined.ids[:-1][: start + case["max_length"]])
        assert ours.label_start == start == joined.label_start + 1
        assert tokenizer().decode(ours.ids[start:]) == case["text"] + tokenizer().decode([eos()])


def test_a_prefix_to_generate_from():
    for case in pretraining("prompt"):
        ours = whole_text(case)
        assert list(ours.ids[: ours.answer_start]) == case["input_ids"]
        text = labelled_row({**case, "input_ids": list(ours.ids[:-1])})
        assert text == token_row(ours.ids[:-1], ours.label_start)


def few_shot(case: dict) -> str:
    """Their examples and the last question, without the space after "Answer:"."""
    args = read_golden(PREPROCESS)["template_args"]
    shots = zip(case["prompts"][:-1], case["responses"][:-1], strict=True)
    before = "".join(question_text(shot) + answer + args["asst_end_tag"] for shot, answer in shots)
    return before + question_text(case["prompts"][-1]).removesuffix(" ")


def test_few_shot_chat():
    for case in chats("few shots"):
        prompt, answer = few_shot(case), case["responses"][-1]
        ours = encode(question_of(prompt, answer), tokenizer(), max_tokens=case["max_length"])
        if case["predict_with_generate"]:
            assert case["labels"] == list(ours.ids)
            assert case["input_ids"] == plain_ids(prompt + " ", tokenizer())
        else:
            assert case["input_ids"] == list(ours.ids)
            assert labelled_row(case).label_start == ours.label_start + 1


def test_a_chat_that_is_too_long():
    """Theirs keeps the beginning and gets one EOS more than fits; ours keeps the end (QUIRKS 31)."""
    for case in chats("too long"):
        prompt, answer, most = few_shot(case), case["responses"][-1], case["max_length"]
        whole = [*ids_of(f"{prompt} {answer}"), eos()]
        labels = [UNLABELLED] * len(ids_of(prompt + " ")) + whole[len(ids_of(prompt + " ")) : -1]
        assert case["input_ids"] == [*whole[:-1][:most], eos()]
        assert case["labels"] == [*labels[:most], eos()]
        ours = encode(question_of(prompt, answer), tokenizer(), max_tokens=most)
        length, lost = len(ids_of(prompt)), len(whole) - most
        cut = min(lost, length - 1)  # of the prompt at least its last token is kept
        assert list(ours.ids) == whole[cut:][:most]
        assert (ours.truncated, ours.answer_start) == (lost, length - cut)


def test_an_empty_answer():
    """Only EOS is a label, in theirs and in ours."""
    for case in chats("empty"):
        ours = encode(question_of(few_shot(case) + " ", ""), tokenizer(), max_tokens=case["max_length"])
        assert ours == token_row(case["input_ids"], labelled_row(case).label_start, ours.example_id)
        assert ours.labels == 1


# ------------------------------------------------------------------------------------------- token by token


@pytest.mark.parametrize("part", [part for part in golden_keys(TOKENWISE) if part != "edge_rows"])
def test_token_logprobs(part):
    """Ours have one token more, the last labelled one."""
    golden = read_golden(TOKENWISE)[part]
    masks, ids, labels = (golden["batch"][name] for name in ("attention_mask", "input_ids", "labels"))
    rows = [
        labelled_row({"input_ids": row[: sum(mask)], "labels": label[: sum(mask)]})
        for row, label, mask in zip(ids, labels, masks, strict=True)
    ]
    answers = score_all(loaded_model_of("model", "float64"), rows)
    for place, (row, scores) in enumerate(zip(rows, answers, strict=True)):
        assert read_golden(TOKENISED)["datasets"][part][golden["index"][place]]["input_ids"] == list(row.ids)
        assert list(row.ids[row.label_start : -1]) == golden["labels"][place]
        assert list(scores.logps[:-1]) == near(golden["tokenwise_logprobs"][place])
        best = golden["argmax_of_tokenwise_vocab_logprobs"][place]
        assert list(scores.hits[:-1]) == [*map(int.__eq__, best, golden["labels"][place])]
        theirs = golden["evaluate_probability"][place]
        assert mean_loss_of(scores) == near(theirs["avg_loss"])
        assert probability(scores.logp_sum, scores.tokens) == near(theirs["prob"])


def test_edge_rows():
    """No label, one label, a label on index 0, a hole: the probabilities that a TokenRow can have, and how."""
    golden = read_golden(TOKENWISE)["edge_rows"]
    batch, kinds = golden["batch"], set()
    for number, theirs in enumerate(golden["evaluate_probability"]):
        places = label_places(batch["labels"][number])
        ids = batch["input_ids"][number][: sum(batch["attention_mask"][number])]
        kinds.add(edge_kind(places))
        assert_edge(edge_kind(places), ids, places, theirs)
    skip_without({"none", "first", "hole"} & kinds, "edge row")


def edge_kind(places: list[int]) -> str:
    """What is special about labels at these places."""
    if not places:
        return "none"
    if places != list(range(places[0], places[-1] + 1)):
        return "hole"
    return "first" if places[0] == 0 else "span"


def assert_edge(kind: str, ids: list[int], places: list[int], theirs: dict) -> None:
    """Our probability of one edge row against theirs."""
    start, end = (places[0], places[-1] + 1) if places else (len(ids), len(ids))
    (scores,) = score_all(loaded_model_of("model", "float64"), [token_row(ids[:end], max(start, 1))])
    if kind == "none":
        assert (theirs["prob"], theirs["avg_loss"]) == ("NaN", "NaN")
        assert (scores.logp_sum, scores.tokens, probability(0.0, 0)) == (0.0, 0, None)
    elif kind == "first":  # index 0 has nothing before it, but counts as a token there
        assert scores.tokens == len(places) - 1
        assert -scores.logp_sum / len(places) == near(theirs["avg_loss"])
    else:
        kept = [scores.logps[place - start] for place in places]
        assert scores.tokens == end - start
        assert -math.fsum(kept) / len(places) == near(theirs["avg_loss"])


# ------------------------------------------------------------------------------------------- SemEval's inference


@pytest.mark.parametrize("side", ["forget", "retain"])
def test_answer_losses_of_the_official_inference(side):
    """The `nll` column: prompt and answer as one text with nothing between, the prompt's own number of tokens masked,
    no EOS (QUIRKS 50). On prompts that end in a space the first answer token is thus not counted."""
    with (GOLDEN / "semeval" / "pipeline" / "out" / f"{side}_0.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    data = read_rows(f"semeval/pipeline/data/{side}.jsonl")
    assert [(row["id"], row["input"], row["expected_output"]) for row in table] == [
        (row["id"], row["input"], row["output"]) for row in data
    ]
    rows = [token_row(ids_of(row["input"] + row["output"]), len(ids_of(row["input"]))) for row in data]
    ours = [mean_loss_of(scores) for scores in score_all(loaded_model_of("model"), rows)]
    assert ours == [pytest.approx(float(row["nll"]), abs=1e-5) for row in table]
    for row, theirs in zip(data, rows, strict=True):
        most = plenty(row["input"], row["output"])
        ours = encode(question_of(row["input"], row["output"]), tokenizer(), max_tokens=most)
        spaced = row["input"].endswith(" ")
        assert ours.ids[-1] == eos() and ours.ids[: ours.answer_start] == tuple(ids_of(row["input"]))
        text = row["input"] + ("" if spaced else " ") + row["output"]
        assert tokenizer().decode(ours.ids[1:-1]) == text
        assert spaced or list(ours.ids) == [*ids_of(text), eos()]
        assert ours.label_start == theirs.label_start
