"""Our passes over the tiny golden models against closer-look's own evaluation of them, and its data module.

closer_look_metrics/model_eval.json and perturbation_float64.json: losses, token counts and greedy texts come from our
passes, and every result from them; only what an embedder and an entailment model said is taken from the file. Its rows
are "[INST] question [/INST]" and the answer with nothing between, labels on the answer and an EOS; `their_row` builds
them, and data_module.json says that it does so exactly. Its budget counts the prompt's tokens too (QUIRKS 40), so that
each of its batches of prompts has another limit for new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch
from helpers.golden import (
    FOLDERS,
    GOLDEN_MARKS,
    UNLABELLED,
    as_list,
    eos,
    exact,
    golden_keys,
    golden_model,
    ids_of,
    loaded_model_of,
    mean_loss_of,
    near,
    question_of,
    read_golden,
    read_rows,
    score_all,
    skip_without,
    token_row,
    tokenizer,
)
from helpers.inference import collect_responses
from helpers.reference_metrics import sheet

from lume_run.common.records import Ask, Question, Response
from lume_run.evaluation.inference.loaded_model import LoadedModel
from lume_run.evaluation.metrics import closer_look
from lume_run.evaluation.metrics.answers import rouge_l_recall
from lume_run.methods.needs import Role
from lume_run.models.rows.batch import NO_TOTALS, collate
from lume_run.models.rows.tokenise import TokenRow, encode
from lume_run.training.rows import in_role
from lume_run.training.schedule import partners_of

pytestmark = GOLDEN_MARKS

EVALUATION = "closer_look_metrics/model_eval.json"
PERTURBATION = "closer_look_metrics/perturbation_float64.json"
MODULE = "closer_look_metrics/data_module.json"
LOGS = {  # file of closer-look -> our file of its rows
    "eval_log.json": "retain",
    "eval_log_forget.json": "forget",
    "eval_real_author_wo_options.json": "real_authors",
    "eval_real_world_wo_options.json": "world_facts",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What closer-look evaluates with: the model family, whose tags a prompt has; tokens, prompt included; a batch."""

    family: str
    budget: int
    batch: int = 0


def evaluation() -> Evaluation:
    """Of the whole evaluation."""
    cfg = read_golden(EVALUATION)["cfg"]
    assert cfg["generation.max_new_tokens"] is None
    return Evaluation(family=cfg["model_family"], budget=cfg["generation.max_length"], batch=cfg["batch_size"])


def perturbation() -> Evaluation:
    """Of its losses alone."""
    golden = read_golden(PERTURBATION)
    return Evaluation(family=golden["model_family"], budget=golden["max_length"])


def prompt_of(text: str, family: str) -> str:
    """The question between its tags."""
    tags = read_golden(MODULE)["model_configs"][family]
    return tags["question_start_tag"] + text + tags["question_end_tag"] + tags["answer_tag"]


def their_row(prompt: str, answer: str, max_length: int) -> TokenRow:
    """closer-look's row: both texts tokenised as one, cut at the end, closed by EOS where there is room."""
    ids = [*ids_of(prompt + answer), eos()][:max_length]
    return token_row(ids, len(ids_of(prompt)))


# ------------------------------------------------------------------------------------------- evaluation


@cache
def answer_losses(
    settings: Evaluation, folder: str, precision: str, dataset: str, kind: str
) -> list[list[tuple[float, int]]]:
    """By row the (mean loss, tokens) of its answers of one kind: "gt", "paraphrased" or "perturb"."""
    groups = [
        [their_row(prompt_of(row["question"], settings.family), text, settings.budget) for text in texts_of(row, kind)]
        for row in read_rows(f"lm/data/{dataset}.jsonl")
    ]
    scores = iter(score_all(loaded_model_of(folder, precision), [row for group in groups for row in group]))
    return [[(mean_loss_of(answer), answer.tokens) for answer in islice(scores, len(group))] for group in groups]


def texts_of(row: dict, kind: str) -> list[str]:
    if kind == "perturb":
        return row["perturbed_answer"]
    return [row.get("paraphrased_answer", row["answer"]) if kind == "paraphrased" else row["answer"]]


def assert_losses(log: dict, rows: list[list[tuple[float, int]]], kind: str) -> None:
    """Means, sums and token counts of one kind of answer."""
    average = {"gt": "avg_gt_loss", "paraphrased": "avg_paraphrased_loss", "perturb": "average_perturb_loss"}[kind]
    for place, row in enumerate(rows):
        means, sums, counts = (as_list(log[name][place]) for name in (average, f"{kind}_loss", f"num_token_{kind}"))
        assert [count for _, count in row] == counts
        assert [mean for mean, _ in row] == near(means)
        assert [mean * count for mean, count in row] == near(sums)
    assert len(rows) == len(log[average])


@pytest.mark.parametrize("name", [name for name in golden_keys(PERTURBATION) if name.endswith("_perturbed")])
def test_perturbation_in_float64(name):
    dataset = name.removesuffix("_perturbed")
    for kind in ("paraphrased", "perturb"):
        rows = answer_losses(perturbation(), "model", "float64", dataset, kind)
        assert_losses(read_golden(PERTURBATION)[name], rows, kind)


def generated_answers(settings: Evaluation, folder: str, dataset: str, where: Path) -> list[Response]:
    """Greedy answers through the whole response path, one call for each of closer-look's batches."""
    answers: list[Response] = []
    rows = read_rows(f"lm/data/{dataset}.jsonl")
    for start in range(0, len(rows), settings.batch):
        examples = [
            question_of(prompt_of(row["question"], settings.family), row["answer"], name=str(start + number))
            for number, row in enumerate(rows[start : start + settings.batch])
        ]
        widest = max(len(ids_of(example.prompt)) for example in examples)
        loaded = LoadedModel(
            model=golden_model(folder, "float32"),
            tokenizer=tokenizer(),
            max_new_tokens=settings.budget - widest,
            max_length=settings.budget,
            batch_tokens=settings.batch * settings.budget,
        )
        questions = [Question(example=example, ask=Ask.GENERATE) for example in examples]
        (into := where / f"{dataset}{start}").mkdir()
        answers += collect_responses(loaded, questions, into, "golden")
    return answers


def test_every_log_is_evaluated():
    golden = read_golden(EVALUATION)
    assert set(golden["runs"]) == set(FOLDERS)
    datasets = [LOGS[file] for run in golden["runs"].values() for file in run["float32"]["logs"]]
    assert golden["cfg"]["ds_size"] > max(len(read_rows(f"lm/data/{name}.jsonl")) for name in datasets)  # none left out


@pytest.mark.parametrize("folder", FOLDERS)
def test_evaluation(folder, tmp_path):
    golden, ours = read_golden(EVALUATION)["runs"][folder]["float32"], {}
    for file, log in golden["logs"].items():
        dataset = LOGS[file]
        losses = {
            kind: answer_losses(evaluation(), folder, "float32", dataset, kind)
            for kind in ("gt", "paraphrased", "perturb")
        }
        for kind, rows in losses.items():
            assert_losses(log, rows, kind)
        answers = generated_answers(evaluation(), folder, dataset, tmp_path)
        ours[file] = {
            "avg_gt_loss": [mean for ((mean, _),) in losses["gt"]],
            "avg_paraphrased_loss": [mean for ((mean, _),) in losses["paraphrased"]],
            "average_perturb_loss": [[mean for mean, _ in row] for row in losses["perturb"]],
            **text_columns(answers, log, dataset),
        }
    assert sheet(ours) == {name: near(value) for name, value in golden["result"].items()}


def text_columns(answers: list[Response], log: dict, dataset: str) -> dict[str, list]:
    """What our texts come to, which is what the log says; an embedder's and a classifier's words are the log's."""
    texts = [
        [answer.prompt, answer.output, answer.expected, row.get("original_answer", row["answer"])]
        for answer, row in zip(answers, read_rows(f"lm/data/{dataset}.jsonl"), strict=True)
    ]
    assert texts == log["generated_text"]
    recalls = [rouge_l_recall(answer.expected, answer.output) for answer in answers]
    assert recalls == exact(log["rougeL_recall"])
    entropies = [closer_look.token_entropy(answer.token_ids) for answer in answers]
    assert entropies == exact(log["token_entropy"])
    labels = [
        label if closer_look.can_entail(recall) else closer_look.NO_ENTAILMENT
        for label, recall in zip(log["entailment_labels"], recalls, strict=True)
    ]
    assert labels == log["entailment_labels"]
    return {
        "rougeL_recall": recalls,
        "token_entropy": entropies,
        "cosine_similarity": log["cosine_similarity"],
        "entailment_labels": labels,
    }


def test_an_empty_reference():
    """Texts are not stored for this one: whatever was generated, there is nothing to recall."""
    recalls = read_golden("closer_look_metrics/text_metrics.json")["rouge_empty_reference"]["rougeL_recall"]
    texts = ["a " * number for number in range(len(recalls))]
    assert [rouge_l_recall("", text) for text in texts] == recalls


# ------------------------------------------------------------------------------------------- data module


def conversions() -> list[dict]:
    """Questions and answers of data_module.json with what was made of them."""
    return read_golden(MODULE)["convert"]


def test_their_rows_are_token_rows():
    """Exactly their ids and labels, and one thing that is not: the EOS label is attended to in ours (QUIRKS 7)."""
    for case in conversions():
        if "error" in case:
            continue
        row = their_row(prompt_of(case["question"], case["model_family"]), case["answer"], case["max_length"])
        batch = collate([row], pad_id=eos(), totals=NO_TOTALS, every_position=True, pad_to=case["max_length"])
        assert batch.input_ids[0].tolist() == case["input_ids"]
        if case["mask"]:
            assert batch.targets[0].where(batch.mask[0], UNLABELLED).tolist() == case["labels"][1:]
            assert case["labels"][0] == UNLABELLED
            assert case.get("convert_raw_data_to_model_format_identical", True)
        else:  # QUIRKS 8: everything is a label there, padding too; the first id has no use in a shifted loss
            assert case["labels"] == case["input_ids"]
        ours = batch.attention_mask[0].tolist()
        closed = sum(case["attention_mask"]) < case["max_length"]  # otherwise there is no room for an EOS
        assert sum(ours) == len(row.ids) == sum(case["attention_mask"]) + closed
        differing = [place for place, attended in enumerate(ours) if attended != case["attention_mask"][place]]
        assert differing == ([len(row.ids) - 1] if closed else [])


def test_ours_of_the_same_questions():
    """`encode` puts a space between prompt and answer unless one is there, cuts the prompt's oldest words before the
    answer's end, and never fails; else it is their row."""
    outcomes = set()
    for case in conversions():
        prompt, most = prompt_of(case["question"], case["model_family"]), case["max_length"]
        row = encode(question_of(prompt, case["answer"]), tokenizer(), max_tokens=most)
        spaced = prompt.endswith("\n")  # only llama3's tags end in white space
        whole = [*ids_of(prompt + ("" if spaced else " ") + case["answer"]), eos()]
        length = len(ids_of(prompt))
        lost = max(0, len(whole) - most)
        kept = whole[min(lost, length - 1) :][:most]  # of the prompt at least its last token is kept
        assert (list(row.ids), row.truncated, row.answer_start) == (kept, lost, length - min(lost, length - 1))
        assert row.label_start == row.answer_start >= 1
        whole_row = encode(question_of(prompt, case["answer"]), tokenizer(), max_tokens=most, label_prompt=True)
        assert (whole_row.ids, whole_row.label_start) == (row.ids, 1)  # `mask: false` without the padding
        if "error" in case:  # QUIRKS 9: the question alone does not fit there
            assert case["error"].startswith("IndexError") and length > most == len(row.ids)
            continue
        reference = their_row(prompt, case["answer"], most)
        assert reference.ids[:length] == tuple(whole[: min(length, most)])  # the prompts are the same, space or not
        alike = (row.ids, row.label_start) == (reference.ids, reference.label_start)
        assert alike == (spaced and not lost)
        outcomes |= {"alike"} if alike else {"cut"} if lost else set()
    skip_without({"alike"} & outcomes, "row that is the same in both codes")
    skip_without({"cut"} & outcomes, "row that is cut")


def test_other_answers_are_sampled_differently():
    """Theirs are drawn from a generator seeded with the row's number: one retain row and one refusal, for the row and
    its partner. Ours are picked by a hash of the example's own id, from the same lists (QUIRKS 10)."""
    golden = read_golden(MODULE)["forget_dataset"]
    for draw, rows in zip(golden["draws"], golden["items"], strict=True):
        torch.manual_seed(draw["idx"])
        assert int(torch.randint(0, len(golden["retain"]), (1,))) == draw["first_draw"]
        assert draw["retain_idx"] == (draw["idx"] + draw["first_draw"]) % len(golden["retain"])
        forget, retain = ([(number,) for number in range(len(golden[side]))] for side in ("forget", "retain"))
        partners = partners_of(forget, retain, by_index=True, seed=0)
        assert partners(forget)[draw["idx"]] == (draw["retain_idx"],)  # trainer.unlearn.retain_partners=by_index
        assert_rows_of_a_draw(golden, draw, rows)
    forget, retain = (
        [
            question_of(prompt_of(row["question"], golden["model_family"]), row["answer"], name=f"{side}{number}")
            for number, row in enumerate(golden[side])
        ]
        for side in ("forget", "retain")
    )
    refusals, other_answers = golden["idk_lines"], [row["answer"] for row in golden["retain"]]
    for role, examples, answers in (
        (Role.FORGET_IDK, forget, refusals),
        (Role.RETAIN_IDK, retain, refusals),
        (Role.FORGET_MISMATCH, forget, other_answers),
    ):
        picked, again = (
            {example.id: in_role(example, role, retain=retain, refusals=refusals, seed=0) for example in order}
            for order in (examples, examples[::-1])
        )
        assert picked == again  # an example has one, whatever was picked before
        for example in examples:
            assert picked[example.id].prompt == example.prompt and picked[example.id].answer in answers


def test_theirs_gives_one_retain_row_several_refusals():
    refusals: dict[int, set[int]] = {}
    for draw in read_golden(MODULE)["forget_dataset"]["draws"]:
        refusals.setdefault(draw["retain_idx"], set()).add(draw["idk_line"])
    skip_without([lines for lines in refusals.values() if len(lines) > 1], "retain row with two refusals")


def assert_rows_of_a_draw(golden: dict, draw: dict, rows: dict) -> None:
    """Ids and labels of the five rows of one forget example."""
    forget, partner = golden["forget"][draw["idx"]], golden["retain"][draw["retain_idx"]]
    line = golden["idk_lines"][draw["idk_line"]]
    expected = {
        "forget": (forget["question"], forget["answer"]),
        "retain": (partner["question"], partner["answer"]),
        "forget_idk": (forget["question"], line),
        "retain_idk": (partner["question"], line),
        "forget_mismatch": (forget["question"], partner["answer"]),
    }
    assert set(rows) == set(expected)
    for name, (text, answer) in expected.items():
        row = their_row(prompt_of(text, golden["model_family"]), answer, golden["max_length"])
        padded = [*row.ids, *[eos()] * (golden["max_length"] - len(row.ids))]
        labels = [UNLABELLED] * row.label_start + list(row.ids[row.label_start :])
        assert golden["mask"] and rows[name]["input_ids"] == padded
        assert rows[name]["labels"] == labels + [UNLABELLED] * (len(padded) - len(labels))
