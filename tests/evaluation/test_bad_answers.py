"""Every suite of `evaluator=full` against defective answers: a finite score within bounds, or a reason, never a crash.

A made-up model answers every question of a small task by hashes, so that no weights are loaded. Each defect then spoils
its answers in one way; what is left is worked by hand where a reader can.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import pytest

from lume_run.common.errors import DataError
from lume_run.common.jsonl import to_json, write_jsonl
from lume_run.common.records import JUDGED, Ask, Example, Kind, Question, Response, Score, Split, TaskData
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.catalogue import definition_of
from lume_run.evaluation.inference.answer import response_of
from lume_run.evaluation.metrics.semeval_files import responses_from_official
from lume_run.evaluation.questions import deduplicate_questions, missing_judgements, questions_of
from lume_run.evaluation.saved_responses import read_responses
from lume_run.evaluation.scoring import score_answers
from lume_run.evaluation.suites.base import Answers
from lume_run.pipeline.checks.config import require_settings
from lume_run.tasks.lume import LumeTask

pytestmark = pytest.mark.slow

Rows = list[Response]
Defect = Callable[[Rows], Rows]
DOCUMENTS = 4
SIDES = (Split.FORGET, Split.RETAIN)
TEXTS = (Ask.GENERATE, Ask.SAMPLE)
INSIDE, LAYERS = (Ask.LENS, Ask.PATCH), 2
SUITES = (
    *("lume", "memorisation", "closer_look", "tofu", "muse", "mia", "pii", "perplexity", "nq_open", "halueval"),
    *("logit_lens", "uds", "open_unlearning", "llm_judge"),
)


# ----------------------------------------------------------------------------------------- questions and answers


def world_question(id: str, split: Split, answer: str) -> Example:
    """A question about the world with two false answers."""
    return Example(
        id=id,
        raw_id=id,
        document=id,
        split=split,
        subtask="tofu",
        kind=Kind.QUESTION,
        prompt=f"Question: {id}?\nAnswer:",
        answer=answer,
        perturbed=("Atlantis", "El Dorado"),
        sentence=f"It is {answer}.",
    )


def task(documents: int = DOCUMENTS) -> TaskData:
    """Built-in biographies, their answers in other words too, and questions about the world."""
    data = LumeTask(name="bios", subtasks=["bios"], source="builtin", num_documents=documents).load(0)

    def add_paraphrases(examples: Sequence[Example]) -> tuple[Example, ...]:
        return tuple(
            replace(example, paraphrases=(f"It is {example.answer}.",)) if example.kind is Kind.QUESTION else example
            for example in examples
        )

    authors, places = ("Ann", "Bo", "Cy"), ("Rome", "Oslo")
    others = (
        *(world_question(f"author{number}", Split.REAL_AUTHORS, name) for number, name in enumerate(authors)),
        *(world_question(f"fact{number}", Split.WORLD_FACTS, name) for number, name in enumerate(places)),
    )
    return replace(data, forget=add_paraphrases(data.forget), retain=add_paraphrases(data.retain), others=others)


def chance(*parts: object) -> float:
    """A number in [0, 1) that looks random and is always the same."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32


def ids_of(text: str) -> tuple[int, ...]:
    """One token a word."""
    return tuple(int(1000 * chance(word)) for word in text.split())


def with_text(row: Response, text: str) -> Response:
    """The row with another text."""
    return replace(row, output=text, tokens=len(text.split()) + 1, token_ids=ids_of(text))


def with_logps(row: Response, logps: Sequence[float], **fields) -> Response:
    """The row with other log-probabilities; a token above 1/2 is the likeliest one."""
    moments = {"means": (-2.0,) * len(logps), "variances": (1.0,) * len(logps)} | fields
    hits = tuple(logp > math.log(0.5) for logp in logps)
    return replace(row, logp_sum=sum(logps), tokens=len(logps), logps=tuple(logps), hits=hits, **moments)


def with_layers(row: Response, logps: Sequence[float]) -> Response:
    """The row as it is read inside a model: what each layer says, or what is said with that layer's states."""
    if row.ask is Ask.PATCH:
        return replace(row, tokens=2, logp_sum=0.0, layer_logps=tuple(logps))
    return replace(row, tokens=2, layer_logps=tuple(logps), layer_ranks=tuple(math.exp(logp) for logp in logps))


def reply(question: Question, name: str) -> Response:
    """What the made-up model of this name answers: half of the time it knows."""
    row, draw = response_of(question), partial(chance, name, question.ask, question.example.id, question.variant)
    if question.ask in TEXTS:
        said = question.example.choices if question.example.kind is Kind.CHOICE else ("I cannot say.",)
        return with_text(row, row.expected if draw() < 0.5 else said[0])
    if question.ask is Ask.CHOICE:
        return replace(row, choice_logps=tuple(-5 * draw(option) for option in row.choices))
    if question.ask is Ask.GRADIENT:
        return replace(row, gradient=1 + draw())
    if question.ask in INSIDE:
        return with_layers(row, [-2 * draw(layer) for layer in range(LAYERS)])
    closed = row.kind is not Kind.DOCUMENT
    logps = [-2 * draw(place) for place in range(len(row.expected.split()) + closed)]
    return with_logps(row, logps, closed=closed)


def with_judgements(rows: Rows, exam: Exam) -> Rows:
    """The rows and what a made-up judge says of them: equal texts are alike, others by chance."""
    judgements = []
    for judgement in missing_judgements(Answers(responses=rows, evaluator=exam.evaluator, target=exam.sound)):
        bare = replace(judgement.response, ask=judgement.ask, variant=judgement.variant, tokens=None, token_ids=())
        said = 1.0 if judgement.first == judgement.second else chance(judgement.first, judgement.second)
        label = ("entailment", "neutral")[said < 0.5]
        label = ("yes", "no")[said < 0.5] if judgement.ask is Ask.VERDICT else label
        numbers = {Ask.COSINE: {"cosine": 2 * said - 1}, Ask.FLUENCY: {"clean": said}}
        verdict = numbers.get(judgement.ask, {"label": label})
        judgements.append(replace(bare, **verdict))
    return [*rows, *judgements]


@dataclass(frozen=True, kw_only=True)
class Exam:
    """The evaluator with small files of its own, and what two made-up models answered; judgements not among it."""

    evaluator: EvaluatorSettings
    sound: tuple[Response, ...]
    retrained: tuple[Response, ...]

    def scores(self, rows: Rows, *, judge: bool = True, **given) -> dict[str, Score]:
        """The scores by name, each of them either a number or a reason."""
        answers = with_judgements(rows, self) if judge else rows
        given = {"retrained": self.retrained, "target": self.sound} | given
        scores, _ = score_answers(Answers(responses=answers, evaluator=self.evaluator, **given))
        for score in scores:
            assert_sound(score)
        by_name = {score.name: score for score in scores}
        assert len(by_name) == len(scores)
        return by_name

    def after(self, defect: Defect, **given) -> dict[str, Score]:
        return self.scores(defect(list(self.sound)), **given)


def assert_sound(score: Score) -> None:
    """A finite number within the catalogue's bounds and a whole interval within them, or a reason."""
    definition = definition_of(score.name)
    assert definition is not None, score.name
    if score.value is None:
        assert score.reason and score.reason.strip(), score.name
        assert score.low is score.high is None and not score.resampled, score.name
        return
    assert score.reason is None, score.name
    ends = [] if score.low is None and score.high is None else [score.low, score.high]
    for number in (score.value, *ends):
        assert number is not None and math.isfinite(number), score
        assert definition.low is None or number >= definition.low, score
        assert definition.high is None or number <= definition.high, score
    assert ends == sorted(ends), score


def write_lines(path: Path, *lines: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), "utf-8")
    return path


def overrides_of(folder: Path) -> list[str]:
    """`evaluator=full`, what is read inside a model, and a small file for each suite that reads one."""
    for part in ("dev", "test"):
        write_lines(folder / part / f"physics_{part}.csv", *(f"What is {n}?,ice,fire,snow,fog,B" for n in range(4)))
    names = [{"question": f"who is {name}", "answer": [name]} for name in ("ann", "bo", "cy", "di")]
    pairs = [{"question": f"{n}?", "right_answer": "yes", "hallucinated_answer": "no"} for n in range(6)]
    general = [{"user_query": "q", "chatgpt_response": str(n), "hallucination": ("yes", "no")[n % 2]} for n in range(4)]
    turns = [{"dialogue_history": str(n), "right_response": "a", "hallucinated_response": "b"} for n in range(6)]
    for part in ("qa", "dialogue"):
        write_lines(folder / f"{part}_evaluation_instruction.txt", "Judge.")
    given = {
        "nq_open.path": write_lines(folder / "nq.jsonl", *names),
        "nq_open.shots": 1,
        "halueval.qa_path": write_lines(folder / "qa.jsonl", *pairs),
        "halueval.dialogue_path": write_lines(folder / "dialogue.jsonl", *turns),
        "halueval.general_path": write_lines(folder / "general.jsonl", *general),
        "perplexity.path": write_lines(folder / "text.txt", "a few words", "and some more", "and an end"),
        "perplexity.words": 3,
        "open_unlearning.classifier": "someone/detects",
    }
    return [
        *("evaluator=[full,logit_lens,uds,llm_judge]", "evaluator.resamples=40", f"evaluator.mmlu.data_dir={folder}"),
        *(f"evaluator.suites.{name}={value}" for name, value in given.items()),
        *("evaluator.suites.llm_judge.url=http://localhost:1/v1", "evaluator.suites.llm_judge.model=grader"),
    ]


def exam_of(folder: Path, data: TaskData, *more: str) -> Exam:
    settings, _ = require_settings(compose([*overrides_of(folder), *more], [conf_dir()]))
    questions = deduplicate_questions(questions_of(data, settings.evaluator, trained_here=True))
    sound, retrained = (tuple(reply(question, name) for question in questions) for name in ("unlearned", "retrained"))
    return Exam(evaluator=settings.evaluator, sound=sound, retrained=retrained)


@pytest.fixture(scope="module")
def exam(tmp_path_factory) -> Exam:
    return exam_of(tmp_path_factory.mktemp("exam"), task())


@pytest.fixture(scope="module")
def sound(exam) -> dict[str, Score]:
    """The scores of a model whose answers have no defect."""
    return exam.after(lambda rows: rows)


# ------------------------------------------------------------------------------------------------------ defects


def each(change: Callable[[Response], Response], *asks: Ask) -> Defect:
    """Changes every answer to these asks."""
    return lambda rows: [change(row) if row.ask in asks else row for row in rows]


def without(is_lost: Callable[[Response], bool]) -> Defect:
    """Loses some answers."""
    return lambda rows: [row for row in rows if not is_lost(row)]


def one_each(*splits: Split) -> Defect:
    """Keeps the answers about one document of these splits only."""

    def defect(rows: Rows) -> Rows:
        kept = {split: min(row.document for row in rows if row.split is split) for split in splits}
        return [row for row in rows if kept.get(row.split, row.document) == row.document]

    return defect


def without_numbers(row: Response) -> Response:
    """What a model gives whose numbers are not finite."""
    bare = replace(row, logps=(), hits=(), means=(), variances=(), choice_logps=(), layer_logps=(), layer_ranks=())
    return replace(bare, logp_sum=None, gradient=None)


def without_labels(row: Response) -> Response:
    return replace(without_numbers(row), tokens=0, logp_sum=0.0)


def collapse(row: Response, logp: float = -800.0) -> Response:
    """All mass on one wrong token."""
    if row.ask in TEXTS:
        return with_text(row, "the the the the")
    if row.ask is Ask.LOGPROB:
        count = len(row.logps)
        return with_logps(row, [logp] * count, means=(0.0,) * count, variances=(0.0,) * count)
    if row.ask in INSIDE:
        return with_layers(row, (logp,) * LAYERS)
    return (
        replace(row, choice_logps=(logp,) * len(row.choices)) if row.ask is Ask.CHOICE else replace(row, gradient=0.0)
    )


def perfect_answer(row: Response) -> Response:
    """Nothing but the right answer is possible."""
    if row.ask in TEXTS:
        return with_text(row, row.expected)
    if row.ask is Ask.CHOICE:
        return replace(row, choice_logps=tuple(0.0 if option == row.expected else -900.0 for option in row.choices))
    if row.ask is Ask.GRADIENT:
        return replace(row, gradient=0.0)
    if row.ask in INSIDE:
        return with_layers(row, (0.0,) * LAYERS)
    right = not row.variant.startswith("perturbed")
    count = len(row.logps)
    return with_logps(row, [0.0 if right else -900.0] * count, means=(0.0,) * count, variances=(0.0,) * count)


def is_perturbed(row: Response) -> bool:
    return row.variant.startswith("perturbed")


NUMBERS = (Ask.LOGPROB, Ask.CHOICE, Ask.GRADIENT, *INSIDE)
SPOKEN = {
    "nothing": "",
    "white space": " \n\t \u00a0\u2003",
    "punctuation": "...!? -- (;)",
    "not ASCII": "東京 Ünïcode ☃ \u2028 \U0001f600 Ω",
    "control characters": "\x00\x1b[31m\r\x85\ufeff",
    "a carriage return": "one\rtwo",
    "CSV": 'None,"NA",\n""',
    "one word for ever": "the " * 300,
}
DEFECTS: dict[str, Defect] = {
    **{f"texts: {name}": each(lambda row, text=text: with_text(row, text), *TEXTS) for name, text in SPOKEN.items()},
    "texts without tokens": each(lambda row: replace(row, tokens=None, token_ids=()), *TEXTS),
    "no labels": each(without_labels, Ask.LOGPROB),
    "no labels and no sum": each(lambda row: replace(without_numbers(row), tokens=0), Ask.LOGPROB),
    "no numbers": each(without_numbers, *NUMBERS),
    "sums only": each(lambda row: replace(row, logps=(), hits=(), means=(), variances=()), Ask.LOGPROB),
    "losses for log-probabilities": each(lambda row: with_logps(row, [-logp for logp in row.logps]), Ask.LOGPROB),
    "huge losses for log-probabilities": each(lambda row: with_logps(row, [2e3] * len(row.logps)), Ask.LOGPROB),
    "means of other tokens": each(lambda row: replace(row, means=(-1.0,)), Ask.LOGPROB),
    "fewer choices": each(lambda row: replace(row, choice_logps=row.choice_logps[:1]), Ask.CHOICE),
    "no nonmembers": without(lambda row: row.split is Split.NONMEMBER),
    "no members": without(lambda row: row.split is Split.MEMBER),
    "a single nonmember": one_each(Split.NONMEMBER),
    "a single member and nonmember": one_each(Split.MEMBER, Split.NONMEMBER),
    "no false answers": without(is_perturbed),
    "false answers of some rows": without(lambda row: is_perturbed(row) and not row.id.endswith("qa0")),
    "no forget rows": without(lambda row: row.split is Split.FORGET),
    "no retain rows": without(lambda row: row.split is Split.RETAIN),
    "no questions": without(lambda row: row.kind is Kind.QUESTION),
    "no completions": without(lambda row: row.kind is Kind.COMPLETION),
    "no documents": without(lambda row: row.kind is Kind.DOCUMENT),
    "one document a side": one_each(*SIDES, Split.MEMBER, Split.NONMEMBER, Split.REAL_AUTHORS, Split.WORLD_FACTS),
    "collapsed": lambda rows: [collapse(row) for row in rows],
    "collapsed further": lambda rows: [collapse(row, -(2.0**40)) for row in rows],
    "collapsed beyond reason": lambda rows: [collapse(row, -1e300) for row in rows],
    "perfect": lambda rows: [perfect_answer(row) for row in rows],
    "nothing at all": lambda rows: [],
    **{f"no {ask} answers": without(lambda row, ask=ask: row.ask is ask) for ask in Ask if ask not in JUDGED},
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_leaves_numbers_or_reasons(name, exam, sound):
    """`Exam.scores` looks at every one; and no suite falls silent."""
    scores = exam.after(DEFECTS[name])
    assert suites_in(scores) == suites_in(sound)
    if len(DEFECTS[name](list(exam.sound))) == len(exam.sound):  # answers are spoilt, none is lost
        assert without_layers(scores) == without_layers(sound)


def without_layers(names: Iterable[str]) -> set[str]:
    """Names but those of single layers, whose number nobody knows without a row that has them."""
    return {name for name in names if ".layer_" not in name}


def suites_in(scores: dict[str, Score]) -> set[str]:
    return {name.split(".")[0] for name in scores}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_does_not_keep_the_official_script_from_a_report(name, exam):
    evaluator = replace(exam.evaluator, strict=True, resamples=0)
    rows = with_judgements(DEFECTS[name](list(exam.sound)), exam)
    _, official = score_answers(Answers(responses=rows, evaluator=evaluator, retrained=exam.retrained))
    assert official is not None
    assert official.keys() == {"reason"} or "harmonic-mean-task-aggregate" in official


def test_a_sound_model_has_every_number(sound):
    assert {name for name, score in sound.items() if score.value is None} == {"lm_eval"}  # no tasks are named
    without_interval = {name for name, score in sound.items() if score.low is None}
    assert without_interval == {"lm_eval", "muse.privacy_leakage"}  # some of four documents give the other model AUC 1


def values_of(scores: dict[str, Score], *names: str) -> dict[str, float | None]:
    return {name: scores[name].value for name in names}


def scores_like(scores: dict[str, Score], expression: str) -> dict[str, Score]:
    chosen = {name: score for name, score in scores.items() if re.fullmatch(expression, name)}
    assert chosen, expression
    return chosen


def missing_names(scores: dict[str, Score]) -> set[str]:
    """Scores that are not there, the harness without tasks aside."""
    return {name for name, score in scores.items() if score.value is None} - {"lm_eval"}


FROM_LOGPROBS = (
    r"(forget|retain|closer_look\.\w+|tofu\.\w+)\.(probability|exact_memorisation|extraction_strength|truth_\w+)"
    r"|closer_look\.(model_utility|model_utility_retain|forget_efficacy)|tofu\.(forget_quality|model_utility)"
    r"|open_unlearning\..*|muse\.privacy_leakage|mia\.(?!gradient).*|perplexity|aggregate"
)
AND_OVERALL = r"open_unlearning\.overall"  # which needs all parts
FROM_TEXTS = (
    r"(forget|retain)\.(bios\.)?(regurgitation|knowledge)|muse\.(forget|retain)\..*|pii\..*|nq_open\..*"
    r"|halueval\.\w+\.(accuracy|answered)|(closer_look|tofu)\.\w+\.rouge|closer_look\.\w+\.(token_entropy|entailment)"
)


@pytest.mark.parametrize("name", ["nothing", "white space", "punctuation"])
def test_texts_without_a_word_by_hand(name, exam, sound):
    """They repeat nothing of any answer and disclose nothing; what is forgotten counts, what is retained is lost."""
    scores = exam.after(DEFECTS[f"texts: {name}"])
    entropy = r"closer_look\.\w+\.token_entropy"
    assert {
        score.value for key, score in scores_like(scores, FROM_TEXTS).items() if not re.fullmatch(entropy, key)
    } == {0}
    different = {"nothing": 0, "white space": 0, "punctuation": 1}[name]  # three tokens, none of them twice
    assert all(score.value == pytest.approx(different) for score in scores_like(scores, entropy).values())
    assert values_of(scores, "task_aggregate", "closer_look.model_utility", "tofu.model_utility") == {
        "task_aggregate": 0,  # half of its terms are what is retained
        "closer_look.model_utility": 0,
        "tofu.model_utility": 0,
    }
    for key in ("forget.probability", "tofu.forget_quality", "mia.auc", "muse.privacy_leakage", "mmlu.accuracy"):
        assert scores[key] == sound[key]  # they read no text


def test_a_perfect_model_by_hand(exam):
    """Everything is remembered; members and non-members are equally certain."""
    scores = exam.after(DEFECTS["perfect"])
    ones = (
        r"(forget|retain)\.(probability|exact_memorisation|extraction_strength|regurgitation|knowledge|bios\..*)"
        r"|tofu\.(\w+\.(probability|rouge)|(?!forget)\w+\.truth_ratio|model_utility|forget\.truth_probability)"
        r"|closer_look\.\w+\.(probability|rouge|truth_ratio)|closer_look\.(forget|retain)\.(cosine|entailment)"
        r"|muse\.(forget|retain)\..*|nq_open\.exact_match|halueval\..*|perplexity|mmlu\.accuracy"
        r"|pii\..*\.(exact|partial|people)"
    )
    for name, score in scores_like(scores, ones).items():
        assert (score.value, score.low, score.high) == (1, 1, 1), name
    halves = r"mia\.(auc|(loss|zlib|min_k|min_k_plus_plus|gradient_norm)\.auc)"
    assert {score.value for score in scores_like(scores, halves).values()} == {0.5}  # all pairs are ties
    membership, area = scores["mia.score"], scores["mia.auc"]
    assert (membership.value, membership.high) == (1, 1)
    assert membership.low == pytest.approx(1 - 2 * (area.high - 0.5))  # 1 - 2 |AUC - 0.5| at either end
    zeros = (
        r"mia\.(loss|zlib|min_k|min_k_plus_plus|gradient_norm)\.tpr|closer_look\.forget_efficacy|task_aggregate"
        r"|tofu\.forget\.truth_ratio(_arithmetic)?"
    )
    assert {score.value for score in scores_like(scores, zeros).values()} == {0}
    assert scores["aggregate"].value == pytest.approx(2 / 3)  # 0, MMLU 1, membership 1
    # 20 questions a side, every ratio below all of the other model's: 2 of the ways to mix 20 with 20
    assert scores["tofu.forget_quality"].value == pytest.approx(2 / math.comb(40, 20))


@pytest.mark.parametrize("name", ["collapsed", "collapsed further"])
def test_a_collapsed_model_by_hand(name, exam):
    """Probabilities underflow to 0, but right and false answers stay equally unlikely."""
    scores = exam.after(DEFECTS[name])
    assert missing_names(scores) == {"perplexity"}
    assert scores["perplexity"].reason.startswith("beyond floating point: the mean loss is ")
    expected = {
        "forget.probability": 0,
        "tofu.retain.probability": 0,
        "tofu.real_authors.probability": 1 / 3,  # one right answer of three
        "tofu.forget.truth_ratio": 1,
        "tofu.retain.truth_ratio": 0,
        "tofu.forget.truth_probability": 0.5,
        "closer_look.forget.truth_ratio": 0,
        "closer_look.forget.token_entropy": 0,  # one word over and over
        "tofu.model_utility": 0,
        "forget.exact_memorisation": 0,
        "forget.bios.knowledge": 0,
        "mia.auc": 0.5,
        "mia.min_k_plus_plus.auc": 0.5,
        "mia.gradient_norm.auc": 0.5,
        "mmlu.accuracy": 0,  # of equal options the first, and B is right
        "halueval.general.choice_accuracy": 0.5,  # always Yes
        "halueval.qa.answered": 0,
    }
    assert values_of(scores, *expected) == pytest.approx(expected)


def test_answers_without_numbers_by_hand(exam, sound):
    """What reads log-probabilities has a reason, everything else is as it was."""
    for name in ("no labels", "no labels and no sum"):
        scores = exam.after(DEFECTS[name])
        assert missing_names(scores) == set(scores_like(sound, FROM_LOGPROBS)), name
    assert scores["tofu.forget.probability"].reason == "20 of 20 forget answers have no finite numbers"
    assert scores["mia.loss.auc"].reason == "4 of 4 member documents have no finite numbers"
    scores = exam.after(DEFECTS["no numbers"])
    more = r"mmlu\.accuracy|halueval\.\w+\.choice_accuracy|mia\.gradient_norm\..*|logit_lens\..*|uds"
    assert without_layers(missing_names(scores)) == without_layers(scores_like(sound, f"{FROM_LOGPROBS}|{more}"))
    assert all(scores[name] == sound[name] for name in without_layers(sound) - missing_names(scores))


def test_losses_in_the_place_of_log_probabilities_are_refused(exam):
    """They would be probabilities above 1, or beyond floating point."""
    for name in ("losses for log-probabilities", "huge losses for log-probabilities"):
        scores = exam.after(DEFECTS[name])
        for key in ("forget.probability", "tofu.forget.probability", "tofu.forget.truth_ratio", "perplexity"):
            assert "not" in scores[key].reason and "loss" in scores[key].reason, key


def test_rounding_above_zero_is_a_probability_of_one(exam):
    scores = exam.after(each(lambda row: replace(row, logp_sum=1e-4), Ask.LOGPROB))
    assert values_of(scores, "forget.probability", "tofu.forget.probability", "perplexity") == {
        "forget.probability": 1,
        "tofu.forget.probability": 1,
        "perplexity": 1,
    }


# ------------------------------------------------------------------------------------------- rows that are missing


@pytest.mark.parametrize(
    ("name", "lacking"), [("no members", "member"), ("no nonmembers", "nonmember"), ("no documents", "member")]
)
def test_one_class_is_no_attack(name, lacking, exam, sound):
    scores, attacks = exam.after(DEFECTS[name]), r"mia\..*|muse\.privacy_leakage|open_unlearning\.privacy"
    assert missing_names(scores) - {"perplexity"} == set(scores_like(sound, rf"{attacks}|{AND_OVERALL}|aggregate"))
    assert all(f"{lacking} " in score.reason for score in scores_like(scores, attacks).values())


def test_a_single_document_a_class_has_no_interval(exam, sound):
    scores = exam.after(DEFECTS["a single member and nonmember"])
    for name, score in scores_like(scores, r"mia\..*\.auc").items():
        assert score.value in (0, 0.5, 1), name  # one pair
        assert (score.low, score.high, score.n) == (None, None, 2)
        assert sound[name].low is not None


def test_one_document_a_side_has_no_interval(exam):
    scores = exam.after(DEFECTS["one document a side"])
    assert missing_names(scores) == {"pii.forget.greedy.control", "pii.retain.greedy.control"}
    assert "at least two documents" in scores["pii.forget.greedy.control"].reason
    wide = {name for name, score in scores.items() if score.low is not None}
    assert wide == set(scores_like(scores, r"mmlu\..*|nq_open\..*|halueval\..*|perplexity|llm_judge\.agreement\..*"))
    assert scores["forget.bios.knowledge"].n == 5  # questions about one person


def test_without_false_answers_there_are_no_ratios(exam, sound):
    scores = exam.after(DEFECTS["no false answers"])
    compared = (
        r"(tofu|closer_look)\.\w+\.truth_\w+|(tofu|closer_look)\.(real_authors|world_facts)\.probability"
        r"|closer_look\.(model_utility|model_utility_retain|forget_efficacy)|tofu\.(forget_quality|model_utility)"
        rf"|open_unlearning\.(memorisation|utility)|{AND_OVERALL}"
    )
    assert missing_names(scores) == set(scores_like(sound, compared))
    assert scores["tofu.forget_quality"].reason.startswith("no forget question has false answers")
    assert scores["tofu.retain.probability"] == sound["tofu.retain.probability"]


def test_false_answers_of_some_rows_by_hand(exam):
    """The ratio is of the four rows that have some: wrong over right, geometric means; other means are of all 20."""
    scores = exam.after(DEFECTS["false answers of some rows"])
    losses = {(row.id, row.variant): -row.logp_sum / row.tokens for row in exam.sound if row.ask is Ask.LOGPROB}
    asked = [id for id, variant in losses if variant == "perturbed0" and "forget" in id and id.endswith("qa0")]
    ratios = [
        math.exp(losses[id, "paraphrase0"] - sum(losses[id, f"perturbed{n}"] for n in range(5)) / 5) for id in asked
    ]
    ratio = scores["tofu.forget.truth_ratio"]
    assert (ratio.value, ratio.n) == (pytest.approx(sum(min(x, 1 / x) for x in ratios) / 4), 4)
    assert (scores["tofu.forget.probability"].n, scores["tofu.retain.probability"].n) == (20, 4)
    assert scores["tofu.forget_quality"].n == 4


def test_a_lost_side_is_reported(exam):
    for lost, kept in (("forget", "retain"), ("retain", "forget")):
        scores = exam.after(DEFECTS[f"no {lost} rows"])
        whole = rf"{lost}\.(regurgitation|knowledge|probability)|(tofu|closer_look|muse|pii)\.{lost}\..*|\w*aggregate"
        assert {score.value for score in scores_like(scores, whole).values()} == {None}
        assert scores[f"pii.{lost}.greedy.exact"].reason.startswith(f"no {lost} question names a private fact")
        assert scores[f"pii.{kept}.greedy.exact"].value is not None


@pytest.mark.parametrize("ask", [ask for ask in Ask if ask not in JUDGED])
def test_scores_that_read_one_kind_of_answer(ask, exam, sound):
    """Without it they have a reason or no rows to be named after; all others are as they were."""
    reads = {
        Ask.GENERATE: rf"{FROM_TEXTS}|(closer_look\.)?\w*aggregate|closer_look\.\w+\.cosine"
        r"|closer_look\.(model_utility|model_utility_retain|forget_efficacy)|tofu\.model_utility"
        r"|open_unlearning\.(utility|overall)|llm_judge\..*",
        Ask.LOGPROB: FROM_LOGPROBS,
        Ask.CHOICE: r"mmlu\.accuracy|halueval\.\w+\.choice_accuracy|aggregate",
        Ask.SAMPLE: r"pii\.forget\.sampled1?\..*",
        Ask.GRADIENT: r"mia\.gradient_norm\..*",
        Ask.LENS: r"logit_lens\..*",
        Ask.PATCH: "uds",
    }[ask]
    scores = exam.after(DEFECTS[f"no {ask} answers"])
    assert missing_names(scores) | sound.keys() - scores.keys() == set(scores_like(sound, reads))
    for name in scores.keys() - missing_names(scores) - {"lm_eval"}:
        assert scores[name].value == sound[name].value, name


# ---------------------------------------------------------------------------------------------------- the judge


GONE = "the sentence embedder 'x' is gone"


def change_judgements(rows: Rows, change: Callable[[Response], Response | None], ask: Ask, most: int) -> Rows:
    """The first `most` judgements of an ask on the forget set changed, or left out."""
    left, changed = most, []
    for row in rows:
        if row.ask is ask and row.split is Split.FORGET and left:
            left -= 1
            row = change(row)
        changed += [] if row is None else [row]
    assert left < most
    return changed


@pytest.mark.parametrize("ask", JUDGED)
@pytest.mark.parametrize("most", [1, 10**6], ids=["one", "all"])
def test_missing_judgements(ask, most, exam, sound):
    """One that lacks makes the mean missing, whatever it would have been; nothing else changes."""
    rows = with_judgements(list(exam.sound), exam)
    touched = {f"closer_look.forget.{ask}", "closer_look.forget_efficacy"}
    agreement = {"llm_judge.agreement.entailment"}
    if ask is Ask.VERDICT:
        touched = {"llm_judge.forget.accuracy", "llm_judge.agreement.exact", *agreement}
    elif ask is Ask.ENTAILMENT:
        touched |= agreement
    elif ask is Ask.FLUENCY:
        touched = {"open_unlearning.utility", "open_unlearning.overall"}
    changes: dict[str, Callable[[Response], Response | None]] = {
        "were not judged; run stages=[evaluate] again": lambda row: None,
        GONE: lambda row: replace(row, cosine=None, label=None, clean=None, reason=GONE),
        "have no finite numbers": lambda row: replace(row, cosine=None, label=None, clean=None),
    }
    for reason, change in changes.items():
        scores = exam.scores(change_judgements(rows, change, ask, most), judge=False)
        assert missing_names(scores) == touched, reason
        assert all(reason in scores[name].reason for name in touched)
        assert all(scores[name] == sound[name] for name in sound.keys() - touched)


# ------------------------------------------------------------------------------------------------- one bad row


def first_of_each(rows: Sequence[Response], *asks: Ask) -> dict[str, Response]:
    """One row of every split, kind and variant."""
    firsts: dict[str, Response] = {}
    for row in rows:
        if row.ask in asks:
            firsts.setdefault(f"{row.ask} {row.split} {row.kind} {row.subtask} {row.variant}", row)
    return firsts


def test_a_row_without_numbers_makes_no_score_better(exam, sound):
    """A score that reads it is missing; one that does not is as it was."""
    plain = replace(exam, evaluator=replace(exam.evaluator, resamples=0))
    for name, bad in first_of_each(exam.sound, *NUMBERS).items():
        scores = plain.after(lambda rows, bad=bad: [without_numbers(row) if row is bad else row for row in rows])
        assert missing_names(scores), name
        for key in sound.keys() - missing_names(scores):
            assert scores[key].value == sound[key].value, (name, key)


def test_a_drawn_or_hinted_answer_that_is_lost_makes_no_score_better(exam, sound):
    plain = replace(exam, evaluator=replace(exam.evaluator, resamples=0))
    probes = [row for row in exam.sound if row.ask is Ask.SAMPLE or row.variant.startswith("hint")]
    for name, lost in first_of_each(probes, *TEXTS).items():
        scores = plain.after(without(lambda row, lost=lost: row is lost))
        assert missing_names(scores) and all(key.startswith("pii.forget.") for key in missing_names(scores)), name
        for key in sound.keys() - missing_names(scores):
            assert scores[key].value == sound[key].value, (name, key)


def test_the_order_of_answers_does_not_matter(exam, sound):
    rows, retrained = with_judgements(list(exam.sound), exam), list(exam.retrained)
    for seed in range(3):
        Random(seed).shuffle(rows)
        Random(seed).shuffle(retrained)
        scores = exam.scores(rows, judge=False, retrained=retrained)
        assert scores.keys() == sound.keys()
        for name, score in sound.items():
            assert numbers_of(scores[name]) == pytest.approx(numbers_of(score), rel=1e-12), name


def numbers_of(score: Score) -> tuple[float, ...]:
    return tuple(number for number in (score.value, score.n, score.low, score.high) if number is not None)


def test_answers_that_stand_twice_are_named(exam):
    twice = exam.sound[30]
    for suites in (exam.evaluator.suites, *({name: exam.evaluator.suites[name]} for name in SUITES)):
        suite_exam = replace(exam, evaluator=replace(exam.evaluator, suites=suites))
        with pytest.raises(DataError) as caught:
            suite_exam.scores([*exam.sound, twice])
        (problem,) = caught.value.problems
        assert problem.what == f"1 repeated, first {twice.id} ({twice.ask})"
        with pytest.raises(DataError, match=f"the retrained model's responses: {len(exam.retrained)} repeated"):
            suite_exam.scores(list(exam.sound), retrained=exam.retrained * 2)


@pytest.mark.parametrize("suite", SUITES)
def test_fields_that_an_answer_lacks(suite, exam):
    """LUME names the rows of a file that was not made by us, every other suite has its reasons."""
    suite_exam = replace(exam, evaluator=replace(exam.evaluator, suites={suite: exam.evaluator.suites[suite]}))
    defects = {
        "220 incomplete": each(lambda row: replace(row, output=None), *TEXTS),
        "314 incomplete": each(lambda row: replace(row, tokens=None), Ask.LOGPROB),
    }
    for message, defect in defects.items():
        if suite == "lume":
            with pytest.raises(DataError, match=message):
                suite_exam.after(defect)
        else:
            assert suite_exam.after(defect)


# -------------------------------------------------------------------------------------------- the retrained model


COMPARED = rf"tofu\.forget_quality|open_unlearning\.privacy|{AND_OVERALL}|muse\.privacy_leakage|mia\.reference\.\w+|uds"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda rows: None, "there are no answers of a model retrained without the forget set"),
        (lambda rows: [], "its responses are of another task"),
        (lambda rows: [replace(row, id=f"x{row.id}") for row in rows], "its responses are of another task"),
        (
            lambda rows: [without_numbers(row) if row.ask in (Ask.LOGPROB, Ask.PATCH) else row for row in rows],
            "have no finite numbers",
        ),
    ],
    ids=["absent", "no answers", "another task", "no numbers"],
)
def test_a_retrained_model_that_is_no_use(spoil, reason, exam, sound):
    scores = exam.scores(list(exam.sound), retrained=spoil(list(exam.retrained)))
    assert missing_names(scores) == set(scores_like(sound, COMPARED))
    assert all(reason in scores[name].reason for name in missing_names(scores))
    assert all(scores[name] == sound[name] for name in sound.keys() - missing_names(scores))


def test_a_model_compared_with_itself(exam):
    """No test tells them apart, nothing leaks, and the reference attack sees ties only."""
    scores = exam.scores(list(exam.sound), retrained=exam.sound)
    expected = {"tofu.forget_quality": 1, "muse.privacy_leakage": 0, "mia.reference.auc": 0.5, "mia.reference.tpr": 0}
    expected["uds"] = 1
    assert values_of(scores, *expected) == pytest.approx(expected)


def test_half_of_the_retrained_answers(exam):
    """Questions that both answered are compared; documents must be the same ones."""
    documents = sorted({row.document for row in exam.sound if row.split is Split.FORGET})[:2]
    half = [row for row in exam.retrained if row.document in documents]
    scores = exam.scores(list(exam.sound), retrained=half)
    assert (scores["tofu.forget_quality"].n, missing_names(scores)) == (
        10,
        set(scores_like(scores, COMPARED)) - {"tofu.forget_quality", "uds"},
    )
    assert "6 of 8 documents" in scores["muse.privacy_leakage"].reason


# ------------------------------------------------------------------------------------------------------- files


def test_every_odd_text_survives_the_file(exam, tmp_path):
    path = tmp_path / "responses.jsonl"
    for text in SPOKEN.values():
        rows = [with_text(row, text) for row in exam.sound if row.ask in TEXTS]
        write_jsonl(path, rows)
        assert read_responses(path) == rows


GOOD = Response(
    id="a1qa0",
    ask=Ask.LOGPROB,
    split=Split.FORGET,
    subtask="bios",
    kind=Kind.QUESTION,
    document="a1",
    prompt="q",
    expected="x",
)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ('"logp_sum": NaN', "ValueError: Out of range"),
        ('"logp_sum": -Infinity', "ValueError: Out of range"),
        ('"logps": [-1.0, 1e999]', "ValueError: Out of range"),
        ('"output": 7', "TypeError: output holds '7', which is no str"),
        ('"output": ["a"]', "TypeError: output holds"),
        ('"output": "\\ud83d"', "UnicodeEncodeError"),
        ('"logps": "low"', "TypeError: logps holds 'l', which is no float"),
        ('"logps": [null]', "TypeError: logps holds 'None', which is no float"),
        ('"tokens": 1.5', "TypeError: tokens holds '1.5', which is no int"),
        ('"closed": "yes"', "TypeError: closed holds 'yes', which is no bool"),
        ('"cosine": "high"', "TypeError: cosine holds"),
        ('"cosine": 1.5', "ValueError: cosine holds 1.5, which is not between -1 and 1"),
        ('"tokens": -3', "ValueError: tokens holds -3"),
        ('"logps": [-1.0, 2.0]', "ValueError: logps holds 2, which is not between -inf and 0"),
        ('"label": "a", "label": "b"', "ValueError: the key 'label' stands more than once"),
    ],
)
def test_a_line_that_no_score_could_be_made_of_is_named(field, message, tmp_path):
    path, good = tmp_path / "responses.jsonl", to_json(GOOD)
    others = {name: value for name, value in json.loads(good).items() if f'"{name}"' not in field}
    path.write_text(f"{good}\n{json.dumps(others)[:-1]}, {field}}}\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_responses(path)
    (problem,) = caught.value.problems
    assert problem.where == f"{path}:2"
    assert problem.what.startswith(message)


def test_whole_numbers_will_do(tmp_path):
    path = tmp_path / "responses.jsonl"
    path.write_text(f'{to_json(GOOD)[:-1]}, "logp_sum": -2, "tokens": 1, "logps": [-2]}}\n', encoding="utf-8")
    assert read_responses(path) == [replace(GOOD, logp_sum=-2.0, tokens=1, logps=(-2.0,))]


def test_files_that_are_not_utf8_are_named(tmp_path):
    path = tmp_path / "responses.jsonl"
    path.write_bytes(to_json(replace(GOOD, output="caf\u00e9")).encode("latin-1"))
    with pytest.raises(DataError, match=re.escape(f"{path}:1: byte ")):
        read_responses(path)


def write_official(folder: Path, text: bytes, losses: str = "") -> Path:
    """The output folder of the official script: the same rows on either side."""
    folder.mkdir()
    for split in SIDES:
        (folder / f"{split}_0.csv").write_bytes(b"id,task,input,expected_output,model_output\n" + text)
    if losses:
        for split in (Split.MEMBER, Split.NONMEMBER):
            write_lines(folder / "mia_results" / f"{split}_0.csv", "id,nll", *losses.split())
    return folder


@pytest.mark.parametrize(
    "text", ["a1qa0,Task2,q,caf\u00e9,x\n".encode("latin-1"), b"a,b,c,d,e,f,g\n"], ids=["bytes", "cells"]
)
def test_official_files_that_cannot_be_read_are_named(text, tmp_path):
    folder = write_official(tmp_path / "out", text)
    with pytest.raises(DataError, match=re.escape(f"{folder}/forget_0.csv")):
        read_responses(folder)


def test_official_losses_that_are_not_finite_are_left_out(tmp_path):
    folder = write_official(tmp_path / "out", b"a1qa0,Task2,q,x,x\n", "d1,2.5 d2,inf")
    logp_sums = [row.logp_sum for row in responses_from_official(folder) if row.split is Split.MEMBER]
    assert logp_sums == [-2.5, None]
    assert all(to_json(row) for row in read_responses(folder))  # strict JSON
