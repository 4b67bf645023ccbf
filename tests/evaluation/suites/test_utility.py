"""Perplexity, NQ-Open and HaluEval: the rules by hand, the released files, a real model, and files that are broken."""

from __future__ import annotations

import json
import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.inference import collect_responses
from helpers.shared import SHARED

from lume_run.common.errors import ConfigError, DataError
from lume_run.common.records import Ask, Example, Kind, Response, Split, TaskData
from lume_run.config.model_settings import ModelSettings
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.datasets.halueval import GENERAL, PARTS, is_hallucinated, load_general, load_part
from lume_run.evaluation.datasets.nq_open import load_nq_open
from lume_run.evaluation.datasets.plain_text import load_texts, pieces
from lume_run.evaluation.inference.loaded_model import LoadedModel
from lume_run.evaluation.metrics.answers import answer_line, judgement, normalise_answer, normalised_match
from lume_run.evaluation.metrics.bootstrap import Bootstrap, Column
from lume_run.evaluation.metrics.perplexity import perplexity_of
from lume_run.evaluation.suites.base import Answers
from lume_run.evaluation.suites.utility.halueval import HaluEval
from lume_run.evaluation.suites.utility.nq_open import NqOpen
from lume_run.evaluation.suites.utility.perplexity import Perplexity
from lume_run.models.load import load_model
from lume_run.models.tokenizer import load_tokenizer
from lume_run.pipeline.checks.config import require_settings

DATA = SHARED / "data"
STORIES = DATA / "text" / "tinystories" / "tinystories_sample.txt"
WIKITEXT = DATA / "text" / "wikitext-2" / "test.txt"
NQ = DATA / "nq_open" / "NQ-open.dev.jsonl"
QA = DATA / "halueval" / "qa_one-turn_data.json"
GENERAL_DATA = DATA / "halueval" / "general_data.first500.json"
STORIES15M = SHARED / "models" / "stories15M"
NOTHING = TaskData(forget=(), retain=())
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the released files are not at {DATA}")
needs_model = pytest.mark.skipif(not STORIES15M.is_dir(), reason=f"the real model is not at {STORIES15M}")


def write_lines(folder: Path, *lines: object, name: str = "data.jsonl") -> Path:
    path = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), "utf-8")
    return path


def response(example: Example, ask: Ask, **fields) -> Response:
    shared = ("id", "split", "subtask", "kind", "document", "prompt", "choices")
    common = {name: getattr(example, name) for name in shared}
    return Response(ask=ask, expected=example.answer, **common, **fields)


def answers(responses: list[Response]) -> Answers:
    return Answers(responses=responses, evaluator=EvaluatorSettings(resamples=50))


def by_name(suite, responses: list[Response]):
    return {score.name: score for score in suite.scores(answers(responses))}


def problem_of(load, *args, **settings) -> str:
    with pytest.raises(DataError) as caught:
        load(*args, **settings)
    (problem,) = caught.value.problems
    return str(problem)


# ------------------------------------------------------------------------------------------------ perplexity


def test_perplexity_weighs_tokens_by_hand():
    """4 tokens at 1/2 and 1 token at 1/32: (2^4 * 2^5)^(1/5) = 2^(9/5), not the mean of 2 and 32."""
    names = ["a", "b"]
    measure = perplexity_of(Column.of([4 * math.log(1 / 2), math.log(1 / 32)], names), Column.of([4, 1], names))
    assert measure.value == pytest.approx(2 ** (9 / 5))
    score = Bootstrap(resamples=200).score("perplexity", 2, lambda: measure)
    assert (score.low, score.high) == pytest.approx((2, 32))  # one piece sampled twice, or the other


def test_perplexity_without_a_number():
    names = ["a"]
    nothing = perplexity_of(Column.of([0.0], names), Column.of([0], names))
    with pytest.raises(ValueError, match="no scored tokens"):
        _ = nothing.value
    score = Bootstrap().score(
        "perplexity", 1, lambda: perplexity_of(Column.of([-8000.0], names), Column.of([8], names))
    )
    assert (score.value, score.reason) == (None, "beyond floating point: the mean loss is 1000 nats a token")


def test_pieces_keep_lines_together():
    text = "one two\n\nthree four\nfive\n<|endoftext|>\nsix\n"
    assert list(pieces(text, 4)) == ["one two\n\nthree four", "five", "six"]
    assert list(pieces(text, 5)) == ["one two\n\nthree four\nfive", "six"]
    assert list(pieces(text, 100)) == ["one two\n\nthree four\nfive", "six"]


def test_a_long_line_is_cut_evenly():
    """Seven words in pieces of at most three: three pieces, 2 + 2 + 3, white space as it was."""
    assert list(pieces("a b  c d\te f g", 3)) == ["a b", "c d", "e f g"]


@needs_data
@pytest.mark.parametrize("path", [STORIES, WIKITEXT], ids=["tinystories", "wikitext"])
def test_no_word_of_a_file_is_lost(path):
    examples = load_texts(path, words=150)
    words = [word for example in examples for word in example.answer.split()]
    assert words == [word for word in path.read_text(encoding="utf-8").split() if word != "<|endoftext|>"]
    assert max(len(example.answer.split()) for example in examples) <= 150
    assert len({example.id for example in examples}) == len(examples)
    assert {(example.kind, example.split, example.prompt) for example in examples} == {(Kind.DOCUMENT, Split.TEXT, "")}
    assert load_texts(path, words=150, limit=3) == examples[:3]
    assert load_texts(path, words=150, limit=10**6) == examples


@needs_data
@needs_model
def test_perplexity_of_a_real_model(tmp_path):
    """The library's own loss of each piece, begun afresh, cut at the model's 256 tokens and weighted by tokens."""
    settings = ModelSettings(name="test")
    model = load_model(str(STORIES15M), settings, torch.device("cpu")).eval()
    tokenizer = load_tokenizer(str(STORIES15M), settings)
    runner = LoadedModel(model=model, tokenizer=tokenizer, max_new_tokens=1, max_length=256, batch_tokens=1024)
    suite = Perplexity(path=str(STORIES))
    score = by_name(suite, collect_responses(runner, suite.asks(NOTHING, EvaluatorSettings()), tmp_path, "test"))[
        "perplexity"
    ]
    total = count = 0.0
    for example in suite.examples():
        ids = torch.tensor([tokenizer(example.answer)["input_ids"][:256]])
        with torch.inference_mode():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert score.value == pytest.approx(math.exp(total / count), rel=1e-4)
    assert 3 < score.value < 4  # stories of the kind it was trained on
    assert score.n == len(suite.examples()) == 7
    assert score.low < score.value < score.high


def test_a_diverged_model_has_no_perplexity(tmp_path):
    (example,) = load_texts(write_lines(tmp_path, "a few words"), words=150)
    score = by_name(Perplexity(), [response(example, Ask.LOGPROB, tokens=3)])["perplexity"]
    assert (score.value, score.reason) == (None, "1 of 1 pieces have no finite numbers")


# --------------------------------------------------------------------------------------------------- NQ-Open


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Beatles!", "beatles"),
        ("a Scottish surname", "scottish surname"),
        ("Theatre of an anthem", "theatre of anthem"),
        ("U.S.A.", "usa"),
        ("rock-'n'-roll", "rocknroll"),
        ("54\u00a0Mbit/s", "54 mbits"),
        ("Ant\u00f3nio", "anto\u0301nio"),
        ("A+", ""),
    ],
)
def test_normalised_by_hand(text, expected):
    assert normalise_answer(text) == expected


def test_answered_by_hand():
    accepted = ("14 December 1972 UTC", "December 1972")
    assert normalised_match(" December, 1972\nQ: and then?\nA: 1973", accepted) == 1
    assert normalised_match(" in December 1972", accepted) == 0
    assert normalised_match("\nDecember 1972", accepted) == 0  # the first line is blank
    assert normalised_match(" Anto\u0301nio", ("Ant\u00f3nio",)) == 1
    assert (normalised_match("A+", ("A+",)), normalised_match("   ", ("A+",))) == (1, 0)
    assert answer_line(" one \n two") == "one"


def test_nq_open_prompt_by_hand(tmp_path):
    rows = [{"question": f"who is {name}", "answer": [name, name.upper()]} for name in ("ann", "bob", "cy")]
    first, second = load_nq_open(write_lines(tmp_path, *rows), shots=1)
    assert first.prompt == "Answer these questions:\n\nQ: who is ann?\nA: ann\nQ: who is bob?\nA:"
    assert (first.answer, first.choices, first.split, first.kind) == ("bob", ("bob", "BOB"), "nq_open", Kind.QUESTION)
    assert second.prompt.endswith("A: ann\nQ: who is cy?\nA:")  # worked examples are the same for all
    assert load_nq_open(tmp_path / "data.jsonl", shots=1, limit=9) == [first, second]
    (last,) = load_nq_open(tmp_path / "data.jsonl", shots=2)
    assert last.id == second.id  # a row keeps its name whatever the number of shots


def test_nq_open_score_by_hand(tmp_path):
    rows = [{"question": "who", "answer": ["the Bob", "Rob"]}] * 4
    examples = load_nq_open(write_lines(tmp_path, *rows), shots=0)
    texts = (" bob\nQ: what?", " Rob.", " Bobby", "")
    asked = [response(example, Ask.GENERATE, output=text) for example, text in zip(examples, texts, strict=True)]
    score = by_name(NqOpen(), asked)["nq_open.exact_match"]
    assert (score.value, score.n) == (0.5, 4)
    assert score.low is not None and score.low <= 0.5 <= score.high


def test_nq_open_draws_worked_examples_from_another_file(tmp_path):
    """Every row is asked, each with worked examples of its own, the same ones in every run."""
    asked = write_lines(tmp_path, *({"question": f"who is {n}", "answer": [f"{n}"]} for n in range(4)))
    pool = [{"question": f"what is {n}", "answer": [f"a{n}", f"b{n}"]} for n in range(9)]
    shots_path = write_lines(tmp_path, *pool, name="train.jsonl")
    drawn = load_nq_open(asked, shots=2, shots_path=shots_path)
    assert [example.answer for example in drawn] == ["0", "1", "2", "3"]
    for number, example in enumerate(drawn):
        worked = re.fullmatch(
            r"Answer these questions:\n\nQ: what is (\d)\?\nA: a\1\nQ: what is (\d)\?\nA: a\2\nQ: who is (\d)\?\nA:",
            example.prompt,
        )
        assert worked and worked[3] == str(number) and worked[1] != worked[2]
    assert len({example.prompt[:60] for example in drawn}) > 1
    assert load_nq_open(asked, shots=2, shots_path=shots_path, limit=2) == drawn[:2]
    assert load_nq_open(asked, shots=2, shots_path=shots_path, seed=1) != drawn
    assert "9 rows, fewer than the 10 worked examples" in problem_of(
        load_nq_open, asked, shots=10, shots_path=shots_path
    )
    (idle,) = NqOpen(shots_path="train.jsonl").check()
    assert idle.what == "has no effect without questions"


@needs_data
def test_nq_open_never_shows_the_answer_to_what_it_asks(tmp_path):
    rows = [{"question": f"who is {number}", "answer": [f"name {number}"]} for number in range(4)]
    path = write_lines(tmp_path, *rows)
    for seed in range(5):
        for example in load_nq_open(path, shots=3, shots_path=path, seed=seed):
            assert example.answer not in example.prompt
    with pytest.raises(DataError, match="3 rows, fewer than the 4 worked examples"):
        load_nq_open(path, shots=4, shots_path=path)


@needs_data
def test_nq_open_as_released():
    rows = [json.loads(line) for line in NQ.read_text(encoding="utf-8").splitlines()]
    answers = {f"Q: {row['question']}?\nA:": row["answer"] for row in rows}
    suite = NqOpen(path=str(NQ), limit=20)
    questions = suite.asks(NOTHING, EvaluatorSettings())
    assert len(questions) == 20
    assert {(question.ask, question.limit) for question in questions} == {(Ask.GENERATE, 32)}
    assert questions[0].example.prompt.count("\nA:") == 6
    for question in questions:
        asked = question.example.prompt[question.example.prompt.rindex("Q: ") :]
        assert list(question.example.choices) == answers[asked]
    assert len(load_nq_open(NQ, shots=5)) == len(rows) - 5
    right = [
        response(question.example, Ask.GENERATE, output=f" {question.example.choices[-1]}\n") for question in questions
    ]
    assert by_name(suite, right)["nq_open.exact_match"].value == 1


# -------------------------------------------------------------------------------------------------- HaluEval


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", "Yes"),
        (" No.\n\nYou are trying", "No"),
        ("The answer is: Yes, it does", "Yes"),
        ("Yes and No", None),
        ("yes", None),
        ("Nothing of the kind", "No"),
        ("", None),
    ],
)
def test_judgement_by_hand(text, expected):
    assert judgement(text) == expected


def load_qa(path: Path, **settings) -> list[Example]:
    return load_part(PARTS[0], path, **settings)


def qa_rows(count: int) -> list[dict[str, str]]:
    return [
        {"question": f"Q{number}?", "right_answer": f"right {number}", "hallucinated_answer": f"false {number}"}
        for number in range(count)
    ]


def test_halueval_qa_prompt_by_hand(tmp_path):
    path = write_lines(tmp_path, *qa_rows(40))
    write_lines(tmp_path, "Judge.", name="qa_evaluation_instruction.txt")
    examples = load_qa(path, seed=0)
    for number, example in enumerate(examples):
        shown = f"false {number}" if example.answer == "Yes" else f"right {number}"
        assert example.prompt == f"Judge.\n\n\n#Question#: Q{number}?\n#Answer#: {shown}\n#Your Judgement#:"
        assert (example.choices, example.kind, example.subtask) == (("Yes", "No"), Kind.CHOICE, "qa")
    assert {example.answer for example in examples} == {"Yes", "No"}
    assert load_qa(path, seed=0, limit=7) == examples[:7]
    assert [example.answer for example in load_qa(path, seed=1)] != [example.answer for example in examples]
    other = write_lines(tmp_path, "Decide.", name="own.txt")
    assert load_qa(path, instruction=other)[0].prompt.startswith("Decide.\n\n\n#Question#: Q0?")


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_halueval_prompts_of_each_part_by_hand(part, tmp_path):
    """As in the authors' code: instruction, what the text belongs to, the text, an open judgement; no `knowledge`."""
    titles = {"qa": "Question Answer", "dialogue": "Dialogue_History Response", "summarization": "Document Summary"}
    context, text = (title.replace("_", " ") for title in titles[part.name].split())
    rows = [
        {part.context: f"C{n}", part.right: f"r{n}", part.hallucinated: f"f{n}", "knowledge": "k"} for n in range(9)
    ]
    path = write_lines(tmp_path / "data", *rows)
    write_lines(tmp_path / "evaluation" / part.name, "Judge.", name=f"{part.name}_evaluation_instruction.txt")
    for number, example in enumerate(load_part(part, path)):  # laid out as the released repository is
        shown = f"f{number}" if example.answer == "Yes" else f"r{number}"
        assert example.prompt == f"Judge.\n\n\n#{context}#: C{number}\n#{text}#: {shown}\n#Your Judgement#:"
        assert (example.subtask, example.choices) == (part.name, ("Yes", "No"))
    assert load_part(part, path, limit=2) == load_part(part, path)[:2]
    write_lines(tmp_path / "data", "Decide.", name=part.instruction)
    assert load_part(part, path)[0].prompt.startswith("Decide.")  # the one beside the data comes first


@needs_data
@pytest.mark.parametrize("part", PARTS[1:], ids=lambda part: part.name)
def test_halueval_parts_as_released(part):
    """A few rows of each are at hand, with the whole instructions."""
    path = DATA / "halueval" / f"{part.name}_data.sample.json"
    suite = HaluEval(**{f"{part.name}_path": str(path)})
    assert suite.check() == []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    instruction = (DATA / "halueval" / part.instruction).read_text(encoding="utf-8")
    examples = suite.examples()
    assert len(examples) == len(rows)
    for example, row in zip(examples, rows, strict=True):
        assert example.prompt.startswith(f"{instruction}\n\n#{part.context_title}#: {row[part.context]}\n")
        assert row[part.hallucinated if example.answer == "Yes" else part.right] in example.prompt
    right = [response(example, Ask.GENERATE, output=example.answer) for example in examples]
    assert by_name(suite, right)[f"halueval.{part.name}.accuracy"].value == 1


def test_half_of_the_answers_are_hallucinated():
    """Of 10,000 fair coins 5,000 +- 200 fall on one side (four standard deviations)."""
    assert abs(sum(is_hallucinated(number, "who?", 0) for number in range(10_000)) - 5_000) < 200


def test_halueval_general_prompt_by_hand(tmp_path):
    rows = [{"user_query": "Add.", "chatgpt_response": "2", "hallucination": word} for word in ("yes", "No")]
    yes, no = load_general(write_lines(tmp_path, *rows))
    assert yes.prompt == f"{GENERAL}\n\n#Request#: Add.\n#Response#: 2\n#Your Judgement#:"
    assert (yes.answer, no.answer) == ("Yes", "No")


def test_halueval_scores_by_hand(tmp_path):
    """Four texts: right, wrong, none, both; two of three choices right."""
    write_lines(tmp_path, "Judge.", name="qa_evaluation_instruction.txt")
    examples = load_qa(write_lines(tmp_path, *qa_rows(4)))
    wrong = {"Yes": "No", "No": "Yes"}
    texts = (examples[0].answer, wrong[examples[1].answer], "Perhaps", "Yes or No")
    asked = [response(example, Ask.GENERATE, output=text) for example, text in zip(examples, texts, strict=True)]
    for number, example in enumerate(examples[:3]):
        likelier = example.answer if number else wrong[example.answer]
        asked.append(response(example, Ask.CHOICE, choice_logps=(-1.0, -2.0) if likelier == "Yes" else (-2.0, -1.0)))
    sheet = by_name(HaluEval(), asked)
    assert {name: (score.value, score.n) for name, score in sheet.items()} == {
        "halueval.qa.accuracy": (0.25, 4),
        "halueval.qa.answered": (0.5, 4),
        "halueval.qa.choice_accuracy": (pytest.approx(2 / 3), 3),
    }


def test_choices_without_numbers_are_no_accuracy(tmp_path):
    row = {"user_query": "Add.", "chatgpt_response": "2", "hallucination": "no"}
    (example,) = load_general(write_lines(tmp_path, row))
    sheet = by_name(HaluEval(), [response(example, Ask.CHOICE)])
    assert sheet["halueval.general.choice_accuracy"].value is None
    assert "diverged model" in sheet["halueval.general.choice_accuracy"].reason
    assert sheet["halueval.general.accuracy"].reason.startswith("there are no judgements: the task has none")


@needs_data
def test_halueval_as_released():
    suite = HaluEval(qa_path=str(QA), general_path=str(GENERAL_DATA), limit=30)
    assert suite.check() == []
    questions = suite.asks(NOTHING, EvaluatorSettings())
    assert [sum(question.ask is ask for question in questions) for ask in (Ask.GENERATE, Ask.CHOICE)] == [60, 60]
    assert {question.limit for question in questions if question.ask is Ask.GENERATE} == {16}
    assert questions[0].example.prompt.count("#Your Judgement#:") == 8  # seven are in the instruction
    general = load_general(GENERAL_DATA)
    verdicts = re.findall(r'"hallucination": "(yes|no)"', GENERAL_DATA.read_text(encoding="utf-8"))
    assert [example.answer.lower() for example in general] == verdicts
    right = [response(question.example, Ask.GENERATE, output=question.example.answer) for question in questions]
    sheet = by_name(suite, right)
    assert (sheet["halueval.qa.accuracy"].value, sheet["halueval.general.accuracy"].value) == (1, 1)


# ---------------------------------------------------------------------------------------------- broken files


LOADERS = {
    "texts": lambda path: load_texts(path, words=150),
    "nq_open": lambda path: load_nq_open(path, shots=0),
    **{part.name: partial(load_part, part) for part in PARTS},
    "general": load_general,
}
each_loader = pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)


@each_loader
def test_an_absent_file(load, tmp_path):
    assert problem_of(load, tmp_path / "no.jsonl").startswith(f"{tmp_path}/no.jsonl: the file does not exist")
    assert "is a folder" in problem_of(load, tmp_path)


@each_loader
def test_an_empty_file(load, tmp_path):
    path = write_lines(tmp_path, "", "  ")
    assert re.search(r"the file has no (rows|text)\n", problem_of(load, path))


@each_loader
def test_a_file_that_is_not_utf8(load, tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes('"fine"\n"caf\xe9"\n'.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        load(path)
    assert any(problem.where == f"{path}:2" and "0xe9" in problem.what for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("load", "good", "bad", "message"),
    [
        (LOADERS["nq_open"], {"question": "q", "answer": ["a"]}, '{"question": "q"', "not JSON"),
        (LOADERS["nq_open"], {"question": "q", "answer": ["a"]}, {"answer": ["a"]}, 'field "question" is missing'),
        (LOADERS["nq_open"], {"question": "q", "answer": ["a"]}, {"question": "q", "answer": "a"}, "not a list"),
        (LOADERS["nq_open"], {"question": "q", "answer": ["a"]}, {"question": "q", "answer": []}, "not a list"),
        (LOADERS["nq_open"], {"question": "q", "answer": ["a"]}, {"question": "q", "answer": [7]}, "not text"),
        (load_qa, qa_rows(1)[0], {"question": "q", "right_answer": "a"}, "hallucinated_answer"),
        (
            load_general,
            {"user_query": "q", "chatgpt_response": "r", "hallucination": "no"},
            {"user_query": "q", "chatgpt_response": "r", "hallucination": "maybe"},
            '"hallucination" is "maybe"',
        ),
    ],
)
def test_a_bad_line_is_named(load, good, bad, message, tmp_path):
    path = write_lines(tmp_path, good, good, bad, good)
    problem = problem_of(load, path)
    assert problem.startswith(f"{path}:3: ")
    assert message in problem


def test_nothing_left_to_ask(tmp_path):
    path = write_lines(tmp_path, *[{"question": "q", "answer": ["a"]}] * 5)
    assert "5 rows, all of them taken by the 5 worked examples" in problem_of(load_nq_open, path, shots=5)


def test_an_absent_instruction(tmp_path):
    problem = problem_of(load_qa, write_lines(tmp_path, *qa_rows(1)))
    assert problem.startswith(f"{tmp_path}/qa_evaluation_instruction.txt: the file does not exist")
    assert "evaluator.suites.halueval.instruction=FILE" in problem
    assert [problem.what for problem in HaluEval(instruction="x", dialogue_instruction="y").check()] == [
        "has no effect without qa data",
        "has no effect without dialogue data",
    ]
    both = HaluEval(dialogue_path=str(tmp_path / "d.json"), summarization_path=str(tmp_path / "s.json")).check()
    assert [problem.where for problem in both] == [f"{tmp_path}/d.json", f"{tmp_path}/s.json"]


# ----------------------------------------------------------------------------------------------- composition


def settings_of(*overrides: str) -> EvaluatorSettings:
    return require_settings(compose(list(overrides), [conf_dir()]))[0].evaluator


@pytest.mark.parametrize(
    ("name", "score", "setting"),
    [
        ("perplexity", "perplexity", "evaluator.suites.perplexity.path=FILE"),
        ("nq_open", "nq_open.exact_match", "evaluator.suites.nq_open.path=FILE"),
        ("halueval", "halueval.qa.accuracy", "evaluator.suites.halueval.qa_path=FILE"),
        ("lm_eval", "lm_eval", "evaluator.suites.lm_eval.tasks=[NAME,...]"),
    ],
)
def test_without_settings_a_reason(name, score, setting):
    suite = settings_of(f"evaluator={name}").suites[name]
    assert suite.asks(NOTHING, EvaluatorSettings()) == []
    assert suite.check() == []
    (missing,) = suite.scores(answers([]))
    assert (missing.name, missing.value, missing.n) == (score, None, 0)
    assert setting in missing.reason


@pytest.mark.parametrize(("name", "key"), [("perplexity", "path"), ("nq_open", "path"), ("halueval", "qa_path")])
def test_a_bad_file_stops_the_run_before_it_begins(name, key, tmp_path):
    path = tmp_path / "no.jsonl"
    with pytest.raises(ConfigError, match=r"no\.jsonl: the file does not exist"):
        settings_of(f"evaluator={name}", f"evaluator.suites.{name}.{key}={path}")


def test_settings_reach_the_suite(tmp_path):
    path = write_lines(tmp_path, *[{"question": "q", "answer": ["a"]}] * 9)
    evaluator = settings_of(
        "evaluator=nq_open", f"evaluator.suites.nq_open.path={path}", "evaluator.suites.nq_open.shots=2"
    )
    assert evaluator.suites["nq_open"] == NqOpen(path=str(path), shots=2)
    assert len(evaluator.suites["nq_open"].asks(NOTHING, evaluator)) == 7
