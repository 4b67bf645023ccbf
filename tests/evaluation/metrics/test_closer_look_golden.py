"""Our passes over the tiny golden models against closer-look's own evaluation of them, and its data module.

closer_look_metrics/model_eval.json and perturbation_float64.json: losses, token counts and greedy texts come from our
passes, and every result from them; only what an embedder and an entailment model said is taken from the file. Its rows
are "[INST] question [/INST]" and the answer with nothing between, labels on the answer and an EOS; `theirs` builds
them, and data_module.json says that it does so exactly. Its budget is 128 tokens in all (QUIRKS 40), so that each of
its batches of 8 prompts has another limit for new tokens.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from helpers.golden import (
    FOLDERS,
    UNLABELLED,
    exact,
    ids_of,
    lines,
    loaded,
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
from helpers.inference import collect_responses
from helpers.reference_metrics import sheet

from lume_run.common.records import Ask, Question, Response
from lume_run.evaluation.inference.loaded_model import LoadedModel
from lume_run.evaluation.metrics import closer_look
from lume_run.evaluation.metrics.answers import rouge_l_recall
from lume_run.methods.base import Role
from lume_run.models.batch import NO_TOTALS, collate
from lume_run.models.tokenise import TokenRow, encode
from lume_run.training.rows import in_role

pytestmark = needs_golden

EVALUATION = "closer_look_metrics/model_eval.json"
PERTURBATION = "closer_look_metrics/perturbation_float64.json"
MODULE = "closer_look_metrics/data_module.json"
LOGS = {  # file of closer-look -> our file of its rows
    "eval_log.json": "retain",
    "eval_log_forget.json": "forget",
    "eval_real_author_wo_options.json": "real_authors",
    "eval_real_world_wo_options.json": "world_facts",
}
PERTURBED = {f"{name}_perturbed": name for name in LOGS.values()}
BUDGET = 128  # tokens, prompt included
BATCH = 8
EOS = 2


def prompt_of(text: str, family: str = "llama2-7b") -> str:
    """The question between its tags."""
    tags = read(MODULE)["model_configs"][family]
    return tags["question_start_tag"] + text + tags["question_end_tag"] + tags["answer_tag"]


def theirs(prompt: str, answer: str, max_length: int) -> TokenRow:
    """closer-look's row: both texts tokenised as one, cut at the end, closed by EOS where there is room."""
    ids = [*ids_of(prompt + answer), EOS][:max_length]
    return token_row(ids, len(ids_of(prompt)))


# ------------------------------------------------------------------------------------------- evaluation


@cache
def mean_losses(folder: str, precision: str, dataset: str, kind: str) -> list[list[tuple[float, int]]]:
    """By row the (mean loss, tokens) of its answers of one kind: "gt", "paraphrased" or "perturb"."""
    answers = [answers_of(row, kind) for row in lines(f"lm/data/{dataset}.jsonl")]
    prompts = [prompt_of(row["question"]) for row in lines(f"lm/data/{dataset}.jsonl")]
    rows = [theirs(prompt, one, BUDGET) for prompt, own in zip(prompts, answers, strict=True) for one in own]
    found = [(mean_loss_of(one), one.tokens) for one in score_all(runner_of(folder, precision), rows)]
    return [[found.pop(0) for _ in own] for own in answers]


def answers_of(row: dict, kind: str) -> list[str]:
    if kind == "perturb":
        return row["perturbed_answer"]
    return [row.get("paraphrased_answer", row["answer"]) if kind == "paraphrased" else row["answer"]]


def assert_losses(log: dict, folder: str, precision: str, dataset: str, kind: str) -> None:
    """Means, sums and token counts of one kind of answer."""
    average = {"gt": "avg_gt_loss", "paraphrased": "avg_paraphrased_loss", "perturb": "average_perturb_loss"}[kind]
    found = mean_losses(folder, precision, dataset, kind)
    for place, own in enumerate(found):
        expected = [log[name][place] for name in (average, f"{kind}_loss", f"num_token_{kind}")]
        means, sums, counts = (one if isinstance(one, list) else [one] for one in expected)
        assert [count for _, count in own] == counts
        assert [mean for mean, _ in own] == modelled(means)
        assert [mean * count for mean, count in own] == modelled(sums)
    assert len(found) == len(log[average])


@pytest.mark.parametrize("name", PERTURBED)
def test_perturbation_in_float64(name):
    assert (read(PERTURBATION)["model_family"], read(PERTURBATION)["max_length"]) == ("llama2-7b", BUDGET)
    for kind in ("paraphrased", "perturb"):
        assert_losses(read(PERTURBATION)[name], "model", "float64", PERTURBED[name], kind)


def answered(folder: str, dataset: str, where: Path) -> list[Response]:
    """Greedy answers through the whole response path, one call for each of closer-look's batches."""
    found = []
    rows = lines(f"lm/data/{dataset}.jsonl")
    for begin in range(0, len(rows), BATCH):
        examples = [
            question(prompt_of(row["question"]), row["answer"], name=str(begin + number))
            for number, row in enumerate(rows[begin : begin + BATCH])
        ]
        widest = max(len(ids_of(example.prompt)) for example in examples)
        runner = LoadedModel(
            model=loaded(folder, "float32"),
            tokenizer=tokenizer(),
            max_new_tokens=BUDGET - widest,
            max_length=BUDGET,
            batch_tokens=BATCH * BUDGET,
        )
        asked = [Question(example=example, ask=Ask.GENERATE) for example in examples]
        (into := where / f"{dataset}{begin}").mkdir()
        found += collect_responses(runner, asked, into, "golden")
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_evaluation(folder, tmp_path):
    golden, sizes = read(EVALUATION)["runs"][folder]["float32"], read(EVALUATION)["cfg"]
    assert set(golden["logs"]) == set(LOGS) and set(read(EVALUATION)["runs"]) == set(FOLDERS)
    assert (sizes["generation.max_length"], sizes["generation.max_new_tokens"]) == (BUDGET, None)
    assert (sizes["batch_size"], sizes["model_family"]) == (BATCH, "llama2-7b")
    assert sizes["ds_size"] > max(len(lines(f"lm/data/{dataset}.jsonl")) for dataset in LOGS.values())  # none left out
    ours = {}
    for file, dataset in LOGS.items():
        log, data = golden["logs"][file], lines(f"lm/data/{dataset}.jsonl")
        for kind in ("gt", "paraphrased", "perturb"):
            assert_losses(log, folder, "float32", dataset, kind)
        answers = answered(folder, dataset, tmp_path)
        texts = [
            [answer.prompt, answer.output, answer.expected, row.get("original_answer", row["answer"])]
            for answer, row in zip(answers, data, strict=True)
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
        means = {kind: mean_losses(folder, "float32", dataset, kind) for kind in ("gt", "paraphrased", "perturb")}
        ours[file] = {
            "avg_gt_loss": [mean for ((mean, _),) in means["gt"]],
            "avg_paraphrased_loss": [mean for ((mean, _),) in means["paraphrased"]],
            "average_perturb_loss": [[mean for mean, _ in row] for row in means["perturb"]],
            "rougeL_recall": recalls,
            "token_entropy": entropies,
            "cosine_similarity": log["cosine_similarity"],
            "entailment_labels": labels,
        }
    assert sheet(ours) == {name: modelled(value) for name, value in golden["result"].items()}


def test_an_empty_reference():
    """Texts are not stored for this one: whatever was generated, there is nothing to recall."""
    empty = read("closer_look_metrics/text_metrics.json")["rouge_empty_reference"]
    assert [rouge_l_recall("", text) for text in ("", "a", "a b")] == empty["rougeL_recall"]


# ------------------------------------------------------------------------------------------- data module


def conversions() -> list[dict]:
    """Questions and answers of data_module.json with what was made of them."""
    return read(MODULE)["convert"]


def test_their_rows_are_token_rows():
    """Exactly their ids and labels, and one thing that is not: the EOS label is attended to in ours (QUIRKS 7)."""
    for case in conversions():
        if "error" in case:
            continue
        row = theirs(prompt_of(case["question"], case["model_family"]), case["answer"], case["max_length"])
        batch = collate([row], pad_id=EOS, totals=NO_TOTALS, every_position=True, pad_to=case["max_length"])
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
        assert [place for place, one in enumerate(ours) if one != case["attention_mask"][place]] == (
            [len(row.ids) - 1] if closed else []
        )


def test_ours_of_the_same_questions():
    """`encode` puts a space between prompt and answer unless one is there, cuts the prompt's oldest words before the
    answer's end, and never fails; else it is their row."""
    same = cut = 0
    for case in conversions():
        prompt, most = prompt_of(case["question"], case["model_family"]), case["max_length"]
        row = encode(question(prompt, case["answer"]), tokenizer(), max_tokens=most)
        spaced = prompt.endswith("\n")  # only llama3's tags end in white space
        whole = [*ids_of(prompt + ("" if spaced else " ") + case["answer"]), EOS]
        length = len(ids_of(prompt))
        lost = max(0, len(whole) - most)
        kept = whole[min(lost, length - 1) :][:most]  # of the prompt at least its last token is kept
        assert (list(row.ids), row.truncated, row.answer_start) == (kept, lost, length - min(lost, length - 1))
        assert row.label_start == row.answer_start >= 1
        whole_row = encode(question(prompt, case["answer"]), tokenizer(), max_tokens=most, label_prompt=True)
        assert (whole_row.ids, whole_row.label_start) == (row.ids, 1)  # `mask: false` without the padding
        if "error" in case:  # QUIRKS 9: the question alone does not fit there
            assert case["error"].startswith("IndexError") and length > most == len(row.ids)
            continue
        reference = theirs(prompt, case["answer"], most)
        assert reference.ids[:length] == tuple(whole[: min(length, most)])  # the prompts are the same, space or not
        alike = (row.ids, row.label_start) == (reference.ids, reference.label_start)
        assert alike == (spaced and not lost)
        same, cut = same + alike, cut + (lost > 0)
    assert (same, cut) == (2, 26)  # of 36 rows, so that both were seen


def test_other_answers_are_drawn_differently():
    """Theirs are drawn from a generator seeded with the row's number: one retain row and one refusal, for the row and
    its partner. Ours are picked by a hash of the example's own id, from the same lists (QUIRKS 10)."""
    golden = read(MODULE)["forget_dataset"]
    retain, refusals = golden["retain"], golden["idk_lines"]
    for draw, item in zip(golden["draws"], golden["items"], strict=True):
        number = draw["idx"]
        torch.manual_seed(number)
        assert int(torch.randint(0, len(retain), (1,))) == draw["first_draw"]
        assert draw["retain_idx"] == (number + draw["first_draw"]) % len(retain)
        forget, partner = golden["forget"][number], retain[draw["retain_idx"]]
        line = refusals[draw["idk_line"]]
        expected = {
            "forget": (forget["question"], forget["answer"]),
            "retain": (partner["question"], partner["answer"]),
            "forget_idk": (forget["question"], line),
            "retain_idk": (partner["question"], line),
            "forget_mismatch": (forget["question"], partner["answer"]),
        }
        assert set(item) == set(expected)
        for name, (asked, answer) in expected.items():
            row = theirs(prompt_of(asked), answer, golden["max_length"])
            padded = [*row.ids, *[EOS] * (golden["max_length"] - len(row.ids))]
            labels = [UNLABELLED] * row.label_start + list(row.ids[row.label_start :])
            assert item[name]["input_ids"] == padded
            assert item[name]["labels"] == labels + [UNLABELLED] * (len(padded) - len(labels))
    partners = [(draw["retain_idx"], draw["idk_line"]) for draw in golden["draws"]]
    assert {(1, 39), (1, 48)} <= set(partners)  # theirs gives one retain row two refusals
    own = [
        question(prompt_of(row["question"]), row["answer"], name=f"f{at}") for at, row in enumerate(golden["forget"])
    ]
    others = [question(prompt_of(row["question"]), row["answer"], name=f"r{at}") for at, row in enumerate(retain)]
    for role, examples, answers in (
        (Role.FORGET_IDK, own, refusals),
        (Role.RETAIN_IDK, others, refusals),
        (Role.FORGET_MISMATCH, own, [row["answer"] for row in retain]),
    ):
        picked, again = (
            {one.id: in_role(one, role, retain=others, refusals=refusals, seed=0) for one in order}
            for order in (examples, examples[::-1])
        )
        assert picked == again  # an example has one, whatever was picked before
        for one in examples:
            assert picked[one.id].prompt == one.prompt and picked[one.id].answer in answers
