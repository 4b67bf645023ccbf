"""Every expected number here can be redone by hand from the line that builds its input."""

import dataclasses
import math

import pytest

from lume_run.common.errors import DataError
from lume_run.common.records import Ask, Kind, Response, Score, Split
from lume_run.evaluation.metrics.aggregate import TaskMeans, final_aggregate, harmonic_mean, task_aggregate, task_terms
from lume_run.evaluation.metrics.answers import (
    accuracy,
    exact_match,
    likeliest_choice,
    rouge_l_recall,
    script_rouge_l_recall,
)
from lume_run.evaluation.metrics.bootstrap import Bootstrap
from lume_run.evaluation.metrics.membership import auc, auc_interval, semeval_mia
from lume_run.evaluation.metrics.semeval import lume_scores
from lume_run.evaluation.metrics.semeval_files import responses_from_official
from lume_run.evaluation.metrics.semeval_official import strict_from_folder, strict_scores

SUFFIX = {Kind.COMPLETION: "sc1", Kind.QUESTION: "qa0"}


def text(split, kind, expected, output, *, document="d", subtask="bios", id=None):
    id = id or f"{split}-{subtask}-{document}{SUFFIX[kind]}"
    return Response(
        id=id,
        ask=Ask.GENERATE,
        split=split,
        subtask=subtask,
        kind=kind,
        document=document,
        prompt="p",
        expected=expected,
        output=output,
    )


def document(split, name, logp_sum, tokens):
    return Response(
        id=name,
        ask=Ask.LOGPROB,
        split=split,
        subtask="bios",
        kind=Kind.DOCUMENT,
        document=name,
        prompt="",
        expected="some text",
        tokens=tokens,
        logp_sum=logp_sum,
    )


def choice(id, logps, expected="A", subject="law"):
    return Response(
        id=id,
        ask=Ask.CHOICE,
        split=Split.MMLU,
        subtask=subject,
        kind=Kind.CHOICE,
        document=id,
        prompt="p",
        expected=expected,
        choices=("A", "B", "C", "D")[: len(logps)],
        choice_logps=logps,
    )


# Half of the forget completion and no forget answer are left; half of the retain completion and all retain answers.
BIOS = [
    text(Split.FORGET, Kind.COMPLETION, "one two", "one"),
    text(Split.FORGET, Kind.QUESTION, "Paris", "London"),
    text(Split.RETAIN, Kind.COMPLETION, "one two", "two"),
    text(Split.RETAIN, Kind.QUESTION, "Paris", " paris "),
]
# Mean log-probabilities: members -1 and -3, nonmembers -2 and -4; members win 3 of 4 pairs.
DOCUMENTS = [
    document(Split.MEMBER, "m0", -2.0, 2),
    document(Split.MEMBER, "m1", -3.0, 1),
    document(Split.NONMEMBER, "n0", -20.0, 10),
    document(Split.NONMEMBER, "n1", -4.0, 1),
]
CHOICES = [choice("q0", (-1.0, -2.0)), choice("q1", (-2.0, -1.0))]  # right, wrong


def by_name(scores: list[Score]) -> dict[str, Score]:
    assert len({score.name for score in scores}) == len(scores)
    assert all((score.value is None) == (score.reason is not None) for score in scores)
    return {score.name: score for score in scores}


@pytest.mark.parametrize(
    ("reference", "hypothesis", "recall"),
    [
        ("the cat sat on the mat", "the cat on mat", 4 / 6),
        ("the cat", "the cat sat on the mat", 1.0),  # recall: what is added costs nothing
        ("a b c", "c b a", 1 / 3),  # the order counts
        ("running dogs", "Run DOG!", 1.0),  # stems, lower case, no punctuation
        ("some words", "", 0.0),
        ("", "some words", 0.0),
        ("東京", "東京", 0.0),  # no token of a-z or 0-9
    ],
)
def test_rouge_l_recall(reference, hypothesis, recall):
    assert rouge_l_recall(reference, hypothesis) == pytest.approx(recall, abs=1e-12)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "match"),
    [("Paris", " paris\n", 1.0), ("Paris", "Paris.", 0.0), ("", "", 1.0), ("None", "", 0.0), ("007", "7", 0.0)],
)
def test_exact_match(reference, hypothesis, match):
    assert exact_match(reference, hypothesis) == match


def test_auc_counts_pairs_and_half_of_ties():
    assert auc([3, 1], [2, 0]) == 0.75  # 3>2, 3>0, 1<2, 1>0
    assert auc([1], [1]) == 0.5
    assert auc([2, 1], [1]) == 0.75  # one won, one tied
    assert auc([0], [1, 2]) == 0.0


@pytest.mark.parametrize(
    ("members", "nonmembers", "text"),
    [
        ([], [1.0], "no member"),
        ([1.0], [], "no nonmember"),
        ([1.0, math.nan], [1.0], "1 of 2 member"),
        ([1.0], [-math.inf], "diverged"),
    ],
)
def test_auc_says_what_is_missing(members, nonmembers, text):
    with pytest.raises(ValueError, match=text):
        auc(members, nonmembers)


def test_semeval_mia_is_best_at_chance():
    assert [semeval_mia(x) for x in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0.0, 0.5, 1.0, 0.5, 0.0]


def test_choice_takes_the_first_of_equals():
    assert likeliest_choice(choice("q", (-2.0, -1.0, -1.0, -3.0))) == "B"


def test_choice_accuracy_weighs_questions_alike():
    rows = [*CHOICES, choice("q2", (-9.0, -1.0), expected="B", subject="math")]
    assert accuracy(rows) == pytest.approx(2 / 3)


@pytest.mark.parametrize("rows", [[], [choice("q", ())], [choice("q", (math.nan, -1.0))]])
def test_choice_refuses_what_it_cannot_count(rows):
    with pytest.raises(ValueError):
        accuracy(rows)


def test_harmonic_mean():
    assert harmonic_mean([1.0, 0.5]) == pytest.approx(2 / (1 + 2))
    assert harmonic_mean([1.0, 0.0]) == 0.0
    for bad in ([], [1.0, -0.1], [1.0, math.nan]):
        with pytest.raises(ValueError):
            harmonic_mean(bad)


def test_task_terms_stand_in_the_official_order():
    forget = [TaskMeans(regurgitation=0.1, knowledge=0.2), TaskMeans(regurgitation=0.3, knowledge=0.4)]
    retain = [TaskMeans(regurgitation=0.5, knowledge=0.6), TaskMeans(regurgitation=0.7, knowledge=0.8)]
    assert task_terms(forget=forget, retain=retain) == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.6, 0.7, 0.8])
    single_task = {"forget": forget[:1], "retain": retain[:1]}
    assert task_aggregate(**single_task) == pytest.approx(4 / (1 / 0.9 + 1 / 0.8 + 1 / 0.5 + 1 / 0.6))
    assert final_aggregate(task=0.3, mmlu=0.6, mia=0.9) == pytest.approx(0.6)


def test_sheet_of_one_task():
    scores = by_name(lume_scores([*BIOS, *DOCUMENTS, *CHOICES]))
    task = 4 / (1 / 0.5 + 1 / 1 + 1 / 0.5 + 1 / 1)  # 1 - 0.5, 1 - 0, 0.5, 1
    assert {name: (score.value, score.n) for name, score in scores.items()} == {
        "forget.bios.regurgitation": (0.5, 1),
        "forget.bios.knowledge": (0.0, 1),
        "forget.regurgitation": (0.5, 1),
        "forget.knowledge": (0.0, 1),
        "retain.bios.regurgitation": (0.5, 1),
        "retain.bios.knowledge": (1.0, 1),
        "retain.regurgitation": (0.5, 1),
        "retain.knowledge": (1.0, 1),
        "mia.auc": (0.75, 4),
        "mia.score": (0.5, 4),
        "mmlu.accuracy": (0.5, 2),
        "task_aggregate": (pytest.approx(task), 4),
        "aggregate": (pytest.approx((task + 0.5 + 0.5) / 3), 10),
    }


def test_tasks_stand_in_official_order_and_row_means_weigh_rows():
    novel = [
        text(split, kind, "one two", "one two", document=name, subtask="novels")
        for split in (Split.FORGET, Split.RETAIN)
        for kind in SUFFIX
        for name in "xyz"
    ]
    scores = lume_scores([*BIOS, *novel])
    assert [score.name for score in scores[:3]] == [
        "forget.novels.regurgitation",
        "forget.novels.knowledge",
        "forget.bios.regurgitation",
    ]
    assert by_name(scores)["forget.knowledge"].value == 3 / 4  # three novels known, one biography not
    assert by_name(scores)["task_aggregate"].value == 0.0  # a forget novel is fully remembered


def test_missing_parts_give_reasons_not_numbers():
    scores = by_name(lume_scores(BIOS))
    assert "evaluator.mmlu.data_dir=" in scores["mmlu.accuracy"].reason
    assert "member" in scores["mia.auc"].reason
    assert scores["task_aggregate"].value is not None
    assert scores["aggregate"].value is None
    assert "mmlu.accuracy" in scores["aggregate"].reason and "mia.score" in scores["aggregate"].reason


def test_a_missing_cell_is_named():
    scores = by_name(lume_scores(BIOS[:3]))
    assert scores["retain.bios.knowledge"].value is None
    assert scores["retain.knowledge"].value is None
    assert "retain.bios.knowledge" in scores["task_aggregate"].reason
    assert scores["retain.bios.regurgitation"].value == 0.5


def test_a_sheet_of_nothing_has_reasons_everywhere():
    assert all(score.reason for score in by_name(lume_scores([])).values())


def test_one_class_and_nan_membership_give_reasons():
    assert "nonmember" in by_name(lume_scores(DOCUMENTS[:2]))["mia.score"].reason
    one_token = document(Split.MEMBER, "short", 0.0, 0)
    assert "NaN" in by_name(lume_scores([*DOCUMENTS, one_token]))["mia.auc"].reason


def test_given_mmlu_accuracy_goes_first_and_is_a_fraction():
    assert by_name(lume_scores([*BIOS, *CHOICES], mmlu_accuracy=0.4))["mmlu.accuracy"].value == 0.4
    with pytest.raises(ValueError, match="percentage"):
        lume_scores(BIOS, mmlu_accuracy=47.1)


# Two people a side, everything known of the first one and nothing of the second.
PAIR = [
    text(split, kind, "one", output, document=name)
    for split in (Split.FORGET, Split.RETAIN)
    for kind in SUFFIX
    for name, output in (("x", "one"), ("y", "two"))
]


def test_intervals_are_those_of_people():
    """A resample holds the first person twice, the second twice, or both: means of 1, 0 and 1/2."""
    scores = by_name(lume_scores([*PAIR, *DOCUMENTS, *CHOICES]))
    for name in ("forget.bios.knowledge", "retain.regurgitation", "mmlu.accuracy"):
        assert (scores[name].low, scores[name].value, scores[name].high) == (0.0, 0.5, 1.0)
    # The same people are sampled for both sides here: a person forgotten is a person not kept, and a term is 0.
    task = scores["task_aggregate"]
    assert (task.low, task.value, task.high) == (0.0, 0.5, 0.5)
    # Members are -1 and -3, nonmembers -2 and -4; the score is best at an AUC of 0.5, which the interval holds.
    low, high = auc_interval(0.75, 2, 2)
    assert 0 < low < 0.5 < high < 1 and (scores["mia.auc"].low, scores["mia.auc"].high) == (low, high)
    assert (scores["mia.score"].low, scores["mia.score"].high) == (1 - 2 * (high - 0.5), 1.0)
    assert 0.0 <= scores["aggregate"].low < scores["aggregate"].value < scores["aggregate"].high <= 1.0


def test_what_has_no_interval():
    one_document = by_name(lume_scores(BIOS))
    no_resamples = by_name(lume_scores([*PAIR, *CHOICES], bootstrap=Bootstrap(resamples=0)))
    for score in (*one_document.values(), *no_resamples.values()):
        assert (score.low, score.high, len(score.resampled)) == (None, None, 0)
    given = by_name(lume_scores([*PAIR, *DOCUMENTS], mmlu_accuracy=0.4))
    assert (given["mmlu.accuracy"].low, given["mmlu.accuracy"].n) == (None, 0)
    assert given["aggregate"].value == pytest.approx((0.5 + 0.4 + 0.5) / 3)
    assert given["aggregate"].low < given["aggregate"].value < given["aggregate"].high


def test_questions_of_other_suites_do_not_enter():
    hinted = dataclasses.replace(PAIR[0], variant="hint25", output="two")
    sample = dataclasses.replace(PAIR[0], ask=Ask.SAMPLE, variant="0", output="two")
    documents = [dataclasses.replace(row, variant="other", logp_sum=-99.0) for row in DOCUMENTS]
    assert lume_scores([*PAIR, *DOCUMENTS, hinted, sample, *documents]) == lume_scores([*PAIR, *DOCUMENTS])


def test_repeated_and_incomplete_responses_are_refused():
    silent = text(Split.FORGET, Kind.QUESTION, "x", None, id="silentqa0")
    with pytest.raises(DataError, match=r"1 repeated(.|\n)*silentqa0"):
        lume_scores([*BIOS, BIOS[0], silent])


def test_only_generated_text_enters():
    scored = dataclasses.replace(BIOS[0], ask=Ask.LOGPROB, output=None, tokens=2, logp_sum=-1.0)
    assert lume_scores([*BIOS, scored]) == lume_scores(BIOS)


def test_strict_agrees_where_no_quirk_plays():
    strict = strict_scores([*BIOS, *DOCUMENTS, *CHOICES])
    assert strict["aggregated-terms"] == [0.5, 1.0, 0.5, 1.0]
    assert strict["forget-set"]["Task2"] == {"regurgitation-score": 0.5, "knowledge-score": 0.0}
    assert (strict["mia_loss_acc"], strict["mmlu_average"], strict["mia_final_score"]) == (0.75, 0.5, 0.5)
    assert strict["aggregate-score"] == pytest.approx((2 / 3 + 0.5 + 0.5) / 3)


def test_strict_scores_repeats_and_empty_texts_as_the_script_does():
    gold_none = text(Split.RETAIN, Kind.QUESTION, "None", "", id="edgeqa0")
    strict = strict_scores([*BIOS, BIOS[1], BIOS[1], gold_none])
    assert strict["retain-set"]["overall-knowledge-score"] == 1.0  # both read as "nan"
    assert strict["aggregate-score"] == -1 and "mia_loss_acc" not in strict
    assert by_name(lume_scores([*BIOS, gold_none]))["retain.knowledge"].value == 0.5


def test_strict_gives_foreign_ids_a_suffix():
    rows = [text(row.split, row.kind, row.expected, row.output, id=f"row-{n}") for n, row in enumerate(BIOS)]
    assert strict_scores(rows)["aggregated-terms"] == [0.5, 1.0, 0.5, 1.0]


def test_strict_wants_both_splits_and_both_classes():
    with pytest.raises(DataError, match="no retain rows"):
        strict_scores(BIOS[:2])
    with pytest.raises(DataError, match="no nonmember rows"):
        strict_scores([*BIOS, *DOCUMENTS[:2]])


HEADER = "id,task,input,expected_output,model_output,nll\n"


def test_a_bare_carriage_return_breaks_a_row_in_two(tmp_path):
    # Written by hand, because whether pandas quotes a bare carriage return depends on the version of Python.
    (tmp_path / "forget_0.csv").write_bytes((HEADER + "asc1,Task2,p,one two,one\rtwo,0.1\n").encode())
    (tmp_path / "retain_0.csv").write_text(HEADER + "bsc1,Task2,p,one,one,0.1\n")
    strict = strict_from_folder(tmp_path, use_mia=False)
    assert strict["forget-set"]["Task2"]["regurgitation-score"] == 0.5
    assert "0.1" in strict["forget-set"]  # the second half: id "two", task "0.1"
    (tmp_path / "forget_0.csv").write_bytes((HEADER + "asc1,Task2,p,one two,\r,0.1\n").encode())
    with pytest.raises(DataError, match="carriage return"):
        strict_from_folder(tmp_path, use_mia=False)


def test_official_files_are_read_as_written(tmp_path):
    row = '"""ab-1""qa10",Task1,p,007,,0.1\n'
    (tmp_path / "forget_0.csv").write_text(HEADER + row)
    (tmp_path / "forget_1.csv").write_text(HEADER + row)  # padding of a second process
    (tmp_path / "retain_0.csv").write_text(HEADER + "c2SC1,Task3,p,None,NA,0.1\n")
    first, second = responses_from_official(tmp_path)
    assert (first.id, first.document, first.subtask, first.kind) == ("ab-1qa10", "ab-1", "novels", Kind.QUESTION)
    assert (first.expected, first.output) == ("007", "")
    assert (second.kind, second.subtask, second.expected, second.output) == (Kind.COMPLETION, "wiki", "None", "NA")


def test_official_files_report_all_their_problems(tmp_path):
    (tmp_path / "forget_0.csv").write_text(HEADER + "a,Task1,p,x,y,0.1\nbqa0,,p,x,y,0.1\n")
    (tmp_path / "retain_0.csv").write_text(HEADER + "cqa0,Task1,p,x,y,0.1\n")
    with pytest.raises(DataError, match=r"\(2\)(.|\n)*row 1(.|\n)*row 2"):
        responses_from_official(tmp_path)
    (tmp_path / "forget_0.csv").write_text("id,task\n")
    with pytest.raises(DataError, match="no column input"):
        responses_from_official(tmp_path)
    (tmp_path / "forget_0.csv").unlink()
    with pytest.raises(DataError, match=r"no forget_\*.csv"):
        strict_from_folder(tmp_path)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "recall"),
    [
        ("Она живёт в Таллине", "она живёт в таллине", 1.0),
        ("Она живёт в Таллине", "Он жил в Риге", 0.25),
        ("彼女は東京に住む", "彼女は東京に住む", 1.0),
        ("彼女は東京に住む", "彼は大阪に住む", 5 / 8),
        ("電話は 12 番", "メールは 12 件", 2 / 5),  # 1 by digits alone
        ("سكنت في القاهرة", "سكنت في بغداد", 2 / 3),
        ("José lives in Åre", "José lives in Åre", 1.0),
    ],
)
def test_rouge_in_other_scripts(reference, hypothesis, recall):
    assert script_rouge_l_recall(reference, hypothesis) == pytest.approx(recall)


def test_the_official_rouge_knows_ascii_alone():
    assert rouge_l_recall("Она живёт", "Она живёт") == 0.0
    for text in ("José Ñandú lives at 5 Mill St.", "plain"):  # Latin letters with accents are counted as ever
        assert script_rouge_l_recall(text, "José at Mill") == rouge_l_recall(text, "José at Mill")
