"""The Closer Look suite: what is asked, what is judged, scores by hand and against the released code's results."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from functools import cache

import pytest
from helpers.golden import golden_keys, needs_golden, read_golden
from helpers.shared import DATA, GOLDEN
from tokenizers import Tokenizer

from lume_run.common.records import Ask, Example, Kind, Response, Score, Split, TaskData
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.metrics.bootstrap import Column, mean_of
from lume_run.evaluation.suites.base import Answers, Judged
from lume_run.evaluation.suites.closer_look import CloserLook, aggregates
from lume_run.evaluation.suites.tofu import Tofu
from lume_run.pipeline.checks.config import require_settings
from lume_run.tasks.question_sets.real_world import RealWorldTask
from lume_run.tasks.question_sets.tofu import TofuTask

AGGREGATE, ENTAILMENT = "closer_look_metrics/aggregate.json", "closer_look_metrics/entailment_cosine.json"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not at {DATA}")
SUITE, COMPAT, ASKED = CloserLook(), CloserLook(compat=True), EvaluatorSettings()
HALF, FOURTH, EIGHTH = math.log(2), math.log(4), math.log(8)
MEANS = ("rouge", "probability", "truth_ratio", "token_entropy", "cosine", "entailment")


def exact(value):
    return pytest.approx(value, rel=1e-9, abs=1e-9)


# ----------------------------------------------------------------------------------------------- by hand


def text(id: str, split: Split, output: str, expected: str, token_ids=(), **fields) -> Response:
    """A greedy answer; its document is the id."""
    common = {"subtask": "tofu", "kind": Kind.QUESTION, "document": id, "prompt": "?"} | fields
    return Response(
        id=id, ask=Ask.GENERATE, split=split, expected=expected, output=output, token_ids=tuple(token_ids), **common
    )


def answers_of(row: Response, loss: float | None, paraphrase: float | None = None, wrong=()) -> list[Response]:
    """Log-probs of the scored answer, two tokens each, of its other wording and of false answers."""
    losses = {"golden" if row.golden else "": loss}
    losses |= {} if paraphrase is None else {"paraphrase0": paraphrase}
    losses |= {f"perturbed{number}": value for number, value in enumerate(wrong)}
    bare = dataclasses.replace(row, ask=Ask.LOGPROB, output=None, token_ids=(), tokens=2)
    return [
        dataclasses.replace(bare, variant=variant, logp_sum=None if value is None else -2 * value)
        for variant, value in losses.items()
    ]


def judgement_rows(
    row: Response, cosine: float, label: str | None = None, variant: str = "reference_first"
) -> list[Response]:
    rows = [dataclasses.replace(row, ask=Ask.COSINE, cosine=cosine)]
    if label is not None:
        rows.append(dataclasses.replace(row, ask=Ask.ENTAILMENT, label=label, variant=variant))
    return rows


F1 = text("f1", Split.FORGET, "the red house", "the red house", (1, 2, 3, 4))
F2 = text("f2", Split.FORGET, "", "a green door")
R1 = text("r1", Split.RETAIN, "yes", "yes", (7,))
R2 = text("r2", Split.RETAIN, "blue sky", "blue sea", (5, 5))
FORGET = [
    *(F1, *answers_of(F1, HALF, HALF, (FOURTH, FOURTH)), *judgement_rows(F1, 0.8, "entailment", "generation_first")),
    *(F2, *answers_of(F2, FOURTH, HALF, (HALF, HALF)), *judgement_rows(F2, 0.0)),
]
RETAIN = [
    *(R1, *answers_of(R1, HALF, HALF, (EIGHTH, EIGHTH)), *judgement_rows(R1, 1.2, "entailment")),
    *(R2, *answers_of(R2, HALF, FOURTH, (HALF, HALF)), *judgement_rows(R2, -0.5, "neutral")),
]
W1 = text("w1", Split.WORLD_FACTS, "Paris", "Paris", (3, 4), sentence="It stands in Paris.")
WORLD = [W1, *answers_of(W1, HALF, None, (FOURTH, FOURTH)), *judgement_rows(W1, 0.5, "entailment")]


def scores(rows, suite=SUITE) -> dict[str, Score]:
    all_scores = [score for score in suite.scores(Answers(responses=rows, evaluator=ASKED)) if score.name]
    assert len({score.name for score in all_scores}) == len(all_scores)
    assert all((score.value is None) == (score.reason is not None) for score in all_scores)
    return {score.name.removeprefix("closer_look."): score for score in all_scores}


def means(sheet: dict[str, Score], side: str) -> dict[str, float | None]:
    return {name: sheet[f"{side}.{name}"].value for name in MEANS}


def test_every_score_by_hand():
    sheet = scores([*FORGET, *RETAIN])
    assert means(sheet, "forget") == {
        "rouge": 0.5,
        "probability": exact((1 / 2 + 1 / 4) / 2),
        "truth_ratio": exact((1 - 0.5 + 1 - 1) / 2),  # wrong over right: (1/4) / (1/2), (1/2) / (1/2)
        "token_entropy": 0.5,  # four different tokens, then nothing
        "cosine": exact(0.4),
        "entailment": 0.5,
    }
    assert means(sheet, "retain") == {
        "rouge": 0.75,
        "probability": exact(0.5),
        "truth_ratio": exact((0.75 + 0) / 2),  # ratios 1/4 and 2
        "token_entropy": 0.5,  # one token repeats nothing, two alike do
        "cosine": 0.5,  # clipped to 1 and 0
        "entailment": 0.5,
    }
    assert sheet["forget_efficacy"].value == exact(1 - (0.5 + 0.375 + 0.25 + 0.4 + 0.5) / 5)
    assert sheet["model_utility"].value == exact(6 / (4 / 3 + 2 + 8 / 3 + 2 + 2 + 2))
    assert sheet["model_utility_retain"].value == sheet["model_utility"].value
    assert all(score.n == 2 and score.low <= score.value <= score.high for score in sheet.values())
    assert len(sheet) == 15


def test_world_facts_by_hand():
    """Probability is the share among the options, the truth ratio is of the names themselves."""
    sheet = scores([*FORGET, *RETAIN, *WORLD])
    assert means(sheet, "world_facts") == {
        "rouge": 1.0,
        "probability": exact(0.5),  # 1/2 among 1/2 + 1/4 + 1/4
        "truth_ratio": exact(0.5),
        "token_entropy": 1.0,
        "cosine": 0.5,
        "entailment": 1.0,
    }
    assert sheet["model_utility"].value == exact(12 / (12 + 1 + 2 + 2 + 1 + 2 + 1))
    assert sheet["model_utility_retain"].value == exact(0.5)
    assert (sheet["model_utility"].n, sheet["world_facts.rouge"].low) == (3, None)


def test_as_released():
    """One token has no entropy, and a zero makes the harmonic mean zero."""
    sheet = scores([*FORGET, *RETAIN], COMPAT)
    assert sheet["retain.token_entropy"].value == 0.0
    assert (sheet["retain.entailment"].value, sheet["forget.token_entropy"].value) == (0.5, 0.5)
    assert sheet["model_utility"].value == 0.0
    assert sheet["forget_efficacy"].value == exact(0.595)


def test_golden_answers_are_scored_where_another_one_was_learned():
    row = text("r1", Split.RETAIN, "born in May", "learned words", (1, 2), golden="born in June", subtask="real_world")
    plain = dataclasses.replace(answers_of(row, 5.0)[0], variant="")  # another suite's: of the learned answer
    sheet = scores([*FORGET, row, plain, *answers_of(row, HALF, None, (HALF,))])
    assert sheet["retain.rouge"].value == exact(2 / 3)
    assert (sheet["retain.probability"].value, sheet["retain.probability"].n) == (exact(0.5), 1)
    assert sheet["retain.truth_ratio"].value == exact(0.0)
    assert scores([row, plain])["retain.probability"].reason.startswith(
        "there are no retain answers: the task has none"
    )


# --------------------------------------------------------------------------------------- what is missing


def rows_without(rows, *asks: Ask):
    return [row for row in rows if row.ask not in asks]


def test_an_unavailable_judge_gives_its_reason():
    reason = "the sentence embedder x could not be loaded; give a folder"
    rows = [
        dataclasses.replace(row, cosine=None, reason=reason) if row.ask is Ask.COSINE else row
        for row in (*FORGET, *RETAIN)
    ]
    sheet = scores(rows)
    assert sheet["forget.cosine"].reason == sheet["retain.cosine"].reason == reason
    assert sheet["forget_efficacy"].reason == f"needs closer_look.forget.cosine: {reason}"
    assert sheet["model_utility"].reason == f"needs closer_look.retain.cosine: {reason}"
    assert sheet["model_utility_retain"].value is None
    assert sheet["forget.entailment"].value == 0.5


def test_old_responses_were_never_judged():
    sheet = scores(rows_without([*FORGET, *RETAIN], Ask.COSINE, Ask.ENTAILMENT))
    assert sheet["forget.cosine"].reason.startswith("2 of 2 texts were not judged; run stages=[evaluate]")
    assert sheet["forget.entailment"].reason.startswith("1 of 1 texts were not judged")
    for name in ("model_utility", "model_utility_retain", "forget_efficacy"):
        assert sheet[name].value is None and "not judged" in sheet[name].reason
    assert sheet["forget.rouge"].value == 0.5


def test_judgements_of_the_other_direction_do_not_count():
    turned = [dataclasses.replace(row, variant="generation_first") if row.label else row for row in RETAIN]
    assert "2 of 2 texts were not judged" in scores([*FORGET, *turned])["retain.entailment"].reason


def test_without_words_in_common_nothing_is_entailed_and_nobody_was_asked():
    rows = [F2, *answers_of(F2, HALF)]
    assert scores(rows)["forget.entailment"].value == 0.0


def test_no_false_answers():
    rows = rows_without([*FORGET, R1, *answers_of(R1, HALF), *judgement_rows(R1, 1.0, "entailment")])
    sheet = scores(rows)
    assert sheet["retain.truth_ratio"].reason.startswith("no retain question has false answers")
    assert sheet["retain.probability"].value == exact(0.5)
    assert "needs closer_look.retain.truth_ratio" in sheet["model_utility"].reason
    assert sheet["forget_efficacy"].value == exact(0.595)


def test_some_forget_questions_without_false_answers_are_left_out_of_the_truth_ratio_alone():
    bare = text("f3", Split.FORGET, "the red house", "the red house", (1, 2))
    sheet = scores([*FORGET, bare, *answers_of(bare, HALF)])
    assert (sheet["forget.truth_ratio"].value, sheet["forget.truth_ratio"].n) == (exact(0.25), 2)
    assert (sheet["forget.rouge"].value, sheet["forget.rouge"].n) == (exact(2 / 3), 3)


@pytest.mark.parametrize("variant", ["", "paraphrase0", "perturbed1"])
def test_log_probs_that_are_not_finite(variant):
    rows = [
        dataclasses.replace(row, logp_sum=None)
        if (row.id, row.ask, row.variant) == ("f2", Ask.LOGPROB, variant)
        else row
        for row in (*FORGET, *RETAIN)
    ]
    sheet = scores(rows)
    what = "answers" if variant == "" else "questions with false answers"
    name = "probability" if variant == "" else "truth_ratio"
    assert sheet[f"forget.{name}"].reason == f"1 of 2 forget {what} have no finite numbers"
    assert sheet["forget_efficacy"].reason.startswith(f"needs closer_look.forget.{name}")
    assert sheet["model_utility"].value == exact(0.5)


def test_texts_without_their_tokens():
    rows = [dataclasses.replace(row, token_ids=()) for row in (*FORGET, *RETAIN)]
    sheet = scores(rows)
    assert sheet["retain.token_entropy"].reason.startswith("2 of 2 texts were written down without their tokens")
    assert sheet["forget.token_entropy"].reason.startswith("1 of 2")  # the empty one has none
    assert sheet["forget_efficacy"].value == exact(0.595)  # which token entropy does not enter


def test_nothing_was_answered():
    sheet = scores([])
    assert {score.value for score in sheet.values()} == {None}
    assert sheet["forget.rouge"].reason.startswith("there are no forget texts: the task has none")
    assert not any(name.startswith(("real_authors", "world_facts")) for name in sheet)


# ------------------------------------------------------------------------------------------ what is asked


def example(id: str, split: Split, kind: Kind = Kind.QUESTION, **fields) -> Example:
    common = {"raw_id": id, "document": id, "subtask": "bios", "prompt": "q", "answer": "own"} | fields
    return Example(id=id, split=split, kind=kind, **common)


def questions_of(data: TaskData) -> list[tuple[str, Ask, str, str]]:
    questions = SUITE.asks(data, ASKED)
    assert Tofu().asks(data, ASKED) == questions
    return [(question.example.id, question.ask, question.variant, question.example.answer) for question in questions]


def test_only_questions_are_asked():
    data = TaskData(
        forget=(example("f", Split.FORGET), example("fsc", Split.FORGET, Kind.COMPLETION)),
        retain=(example("r", Split.RETAIN),),
        others=(example("o", Split.MMLU, Kind.CHOICE), example("d", Split.REAL_AUTHORS, Kind.DOCUMENT)),
    )
    assert questions_of(data) == [(id, ask, "", "own") for id in "fr" for ask in (Ask.GENERATE, Ask.LOGPROB)]


def test_other_answers_are_asked_by_variant():
    row = example("f", Split.FORGET, golden="true", paraphrases=("said so", "or so"), perturbed=("no", "never"))
    assert questions_of(TaskData(forget=(row,), retain=())) == [
        ("f", Ask.GENERATE, "", "own"),
        ("f", Ask.LOGPROB, "golden", "true"),
        ("f", Ask.LOGPROB, "paraphrase0", "said so"),
        ("f", Ask.LOGPROB, "perturbed0", "no"),
        ("f", Ask.LOGPROB, "perturbed1", "never"),
    ]


def test_the_retain_set_has_false_answers_where_it_can():
    plain, false = example("a", Split.RETAIN), example("b", Split.RETAIN, perturbed=("no",))
    unseen = example("c", Split.NEIGHBORS, perturbed=("no",))
    both = TaskData(forget=(), retain=(plain, false), others=(unseen,))
    assert {question[0] for question in questions_of(both)} == {"c"}
    assert {question[0] for question in questions_of(dataclasses.replace(both, others=()))} == {"b"}
    assert {question[0] for question in questions_of(TaskData(forget=(), retain=(plain,)))} == {"a"}


def test_the_retain_set_of_responses_is_that_of_the_questions():
    """Other suites ask all retain rows; those with false answers are the set."""
    other = text("r9", Split.RETAIN, "wrong", "right", (1, 2))
    sheet = scores([*FORGET, other, *answers_of(other, 9.0), *RETAIN])
    assert (sheet["retain.rouge"].value, sheet["retain.rouge"].n) == (0.75, 2)
    assert (sheet["retain.probability"].value, sheet["retain.probability"].n) == (exact(0.5), 2)


@needs_data
def test_questions_about_the_real_sets():
    data = TofuTask(name="tofu", data_dir=str(DATA / "tofu"), split="forget01").load(0)
    questions = SUITE.asks(data, ASKED)
    assert Counter((question.example.split, question.ask) for question in questions) == {
        (Split.FORGET, Ask.GENERATE): 40,
        (Split.FORGET, Ask.LOGPROB): 40 * 7,
        (Split.RETAIN, Ask.GENERATE): 400,
        (Split.RETAIN, Ask.LOGPROB): 400 * 7,
        (Split.REAL_AUTHORS, Ask.GENERATE): 100,
        (Split.REAL_AUTHORS, Ask.LOGPROB): 100 * 4,
        (Split.WORLD_FACTS, Ask.GENERATE): 117,
        (Split.WORLD_FACTS, Ask.LOGPROB): 117 * 4,
    }
    assert len(set(questions)) == len(questions)
    people = RealWorldTask(name="real_world", data_dir=str(DATA / "real_world_closer_look")).load(0)
    questions = SUITE.asks(people, ASKED)
    assert {question.example.split for question in questions} == {Split.FORGET, Split.NEIGHBORS}
    assert Counter(question.ask for question in questions) == {Ask.GENERATE: 800, Ask.LOGPROB: 800 * 7}
    golden = [question for question in questions if question.variant == "golden"]
    assert golden and all(question.example.answer == question.example.golden for question in golden)


# ----------------------------------------------------------------------------------------- what is judged


def judgements(rows, suite=SUITE):
    return suite.judgements(Answers(responses=rows, evaluator=ASKED))


def test_what_the_judges_get():
    row = text("r1", Split.RETAIN, "born in May", "learned words", golden="born in June")
    assert isinstance(SUITE, Judged)
    assert CloserLook(embedder="a", entailment="b").judges() == [(Ask.COSINE, "a"), (Ask.ENTAILMENT, "b")]
    cosine, entailment = judgements([row])
    assert (cosine.ask, cosine.first, cosine.second, cosine.variant) == (Ask.COSINE, "born in May", "learned words", "")
    assert cosine.model == "sentence-transformers/paraphrase-MiniLM-L6-v2"
    assert (entailment.ask, entailment.first, entailment.second) == (Ask.ENTAILMENT, "born in June", "born in May")
    assert entailment.model == "sileod/deberta-v3-base-tasksource-nli"
    assert (entailment.variant, entailment.response) == ("reference_first", row)
    pairs = judgements([W1], CloserLook(embedder="a", entailment="b"))
    assert [(judgement.model, judgement.first, judgement.second) for judgement in pairs] == [
        ("a", "Paris", "It stands in Paris."),
        ("b", "It stands in Paris.", "Paris"),
    ]


def test_texts_without_words_in_common_are_not_sent_to_the_classifier():
    assert [judgement.ask for judgement in judgements([F2])] == [Ask.COSINE]
    edge = text("f", Split.FORGET, "one", "one two three four five six seven eight nine ten")
    assert [judgement.ask for judgement in judgements([edge])] == [
        Ask.COSINE,
        Ask.ENTAILMENT,
    ]  # recall 0.1 itself passes


@pytest.mark.parametrize(
    ("split", "subtask", "clean", "compat"),
    [
        (Split.FORGET, "tofu", "generation_first", "generation_first"),
        (Split.RETAIN, "tofu", "reference_first", "reference_first"),
        (Split.WORLD_FACTS, "tofu", "reference_first", "reference_first"),
        (Split.FORGET, "real_world", "generation_first", "generation_first"),
        (Split.NEIGHBORS, "real_world", "reference_first", "generation_first"),
    ],
)
def test_the_direction_of_entailment(split, subtask, clean, compat):
    row = text("1", split, "a text", "a reference", subtask=subtask)
    for suite, variant in ((SUITE, clean), (COMPAT, compat)):
        [entailment] = [judgement for judgement in judgements([row], suite) if judgement.ask is Ask.ENTAILMENT]
        pair = ("a text", "a reference") if variant == "generation_first" else ("a reference", "a text")
        assert ((entailment.first, entailment.second), entailment.variant) == (pair, variant)


# ------------------------------------------------------------------------------- against the released code

FILES = {
    "eval_log.json": (Split.RETAIN, "Retain"),
    "eval_real_author_wo_options.json": (Split.REAL_AUTHORS, "Real Authors"),
    "eval_real_world_wo_options.json": (Split.WORLD_FACTS, "Real World"),
    "eval_log_forget.json": (Split.FORGET, "Forget"),
}
TITLES = dict(
    zip(
        MEANS,
        ("ROUGE", "Probability", "Truth Ratio", "Token Entropy", "Cosine Similarity", "Entailment Score"),
        strict=True,
    )
)
TOTALS = {
    "model_utility": "Model Utility",
    "model_utility_retain": "Model Utility Retain",
    "forget_efficacy": "Forget Efficacy",
}


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(GOLDEN / "lm" / "tokenizer" / "tokenizer.json"))


def log_rows(log: dict, texts: list[Response], *, worded: bool = True) -> list[Response]:
    """The log-probs of a log; without other wordings the answer itself stands in their place."""
    columns = (log[key] for key in ("avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss"))
    return [
        answer
        for row, loss, paraphrase, wrong in zip(texts, *columns, strict=True)
        for answer in answers_of(row, loss, paraphrase if worded else None, wrong)
    ]


def assert_results(sheet: dict[str, Score], result: dict) -> None:
    names = {f"{split}.{name}": f"{title} {TITLES[name]}" for split, title in FILES.values() for name in MEANS} | TOTALS
    expected = {ours: result[theirs] for ours, theirs in names.items() if theirs in result}
    assert len(expected) == len(result)
    assert {ours: sheet[ours].value for ours in expected} == {
        ours: None if value == "NaN" else exact(value) for ours, value in expected.items()
    }


@pytest.mark.golden
@needs_golden
@pytest.mark.parametrize("case", golden_keys(AGGREGATE))
def test_aggregates_of_the_released_code(case):
    """Their logs hold invented ROUGE and entropies, which no text has: these two means are put in as they are."""
    entry = read_golden(AGGREGATE)[case]
    rows: list[Response] = []
    for file, log in entry["logs"].items():
        split = FILES[file][0]
        texts = [text(f"{split}{i}", split, "same text", "same text", (1, 2)) for i in range(len(log["avg_gt_loss"]))]
        rows += texts + log_rows(log, texts)
        for row, cosine, label in zip(texts, log["cosine_similarity"], log["entailment_labels"], strict=True):
            rows += judgement_rows(
                row, cosine, label, "generation_first" if split is Split.FORGET else "reference_first"
            )
    terms = COMPAT.terms(rows)
    for file, log in entry["logs"].items():
        group = terms[FILES[file][0]]
        for name, key in (("rouge", "rougeL_recall"), ("token_entropy", "token_entropy")):
            column = Column.of(log[key], [str(place) for place in range(len(log[key]))])
            group[name] = dataclasses.replace(group[name], make=lambda column=column: mean_of(column))
    answers = Answers(responses=rows, evaluator=EvaluatorSettings(resamples=0))
    measures = [*(term for group in terms.values() for term in group.values()), *aggregates(terms)]
    all_scores = [term.score(answers.bootstrap) for term in measures]
    assert_results({score.name.removeprefix("closer_look."): score for score in all_scores}, entry["result"])


@pytest.mark.golden
@needs_golden
@pytest.mark.parametrize("model", ["model", "ref_model"])
def test_evaluation_of_the_released_code(model):
    """Texts, token entropies and ROUGE of a real model; judgements go where ours ask for them."""
    entry = read_golden("closer_look_metrics/model_eval.json")["runs"][model]["float32"]
    rows: list[Response] = []
    verdicts: dict[str, tuple[float, str]] = {}
    for file, log in entry["logs"].items():
        split = FILES[file][0]
        texts = []
        for number, (_, generated, truth, sentence) in enumerate(log["generated_text"]):
            ids = tokenizer().encode(generated, add_special_tokens=False).ids
            sentences = {"sentence": sentence} if split in (Split.REAL_AUTHORS, Split.WORLD_FACTS) else {}
            texts.append(text(f"{split}{number}", split, generated, truth, ids, **sentences))
        rows += texts + log_rows(log, texts, worded="eval_log" in file)
        pairs = zip(log["cosine_similarity"], log["entailment_labels"], strict=True)
        verdicts |= {row.id: pair for row, pair in zip(texts, pairs, strict=True)}
    asked_for = judgements(rows, COMPAT)
    for judgement in asked_for:
        cosine, label = verdicts[judgement.response.id]
        verdict = {"cosine": cosine} if judgement.ask is Ask.COSINE else {"label": label}
        rows.append(dataclasses.replace(judgement.response, ask=judgement.ask, variant=judgement.variant, **verdict))
    sent = {judgement.response.id for judgement in asked_for if judgement.ask is Ask.ENTAILMENT}
    assert {id for id, (_, label) in verdicts.items() if label != "none"} <= sent
    assert not {id for id, (_, label) in verdicts.items() if label == "none"} & sent
    assert_results(scores(rows, COMPAT), entry["result"])


@pytest.mark.golden
@needs_golden
@pytest.mark.parametrize("task", [key for key in golden_keys(ENTAILMENT) if key not in ("scores", "cosine_similarity")])
def test_pairs_of_the_released_code(task):
    entry = read_golden(ENTAILMENT)[task]
    split = FILES[f"{entry['eval_task']}.json"][0]
    subtask = "tofu" if entry["tofu"] else "real_world" if split is Split.FORGET else "unseen_neighbors"
    texts = zip(entry["generated"], entry["ground_truth"], strict=True)
    rows = [text(str(i), split, *pair, subtask=subtask) for i, pair in enumerate(texts)]
    ours = {
        judgement.response.id: (judgement.first, judgement.second)
        for judgement in judgements(rows, COMPAT)
        if judgement.ask is Ask.ENTAILMENT
    }
    theirs = [(item["text"], item["text_pair"]) for item in entry["items_sent_to_classifier"]]
    assert ours
    assert ours == {id: theirs[int(id)] for id in ours}


# --------------------------------------------------------------------------------------------- composition


def test_the_evaluator_composes():
    settings, _ = require_settings(compose(["evaluator=closer_look"], [conf_dir()]))
    assert settings.evaluator.suites == {"closer_look": CloserLook()}
    both = ["evaluator=[tofu,closer_look]", "evaluator.suites.closer_look.compat=true"]
    settings, _ = require_settings(compose(both, [conf_dir()]))
    assert settings.evaluator.suites == {"tofu": Tofu(), "closer_look": CloserLook(compat=True)}


def test_recipes_are_scored_as_their_papers_do():
    for name, suite in (("closer_look/tofu_me_gd", "closer_look"), ("open_unlearning/tofu_npo", "tofu")):
        cfg = compose([f"experiment={name}"], [conf_dir()])
        assert list(cfg.evaluator.suites) == [suite]
        assert list(compose([f"experiment={name}", "evaluator=lume"], [conf_dir()]).evaluator.suites) == ["lume"]
