"""A user's own rows: every kind of file, guessed columns, chats and texts, and what is wrong with them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lume_run.common.errors import ConfigError, DataError
from lume_run.common.jsonl import from_json, to_json
from lume_run.common.records import Ask, Kind, Response, Split, TaskData, continuation
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.suites.lume import partial_aggregate
from lume_run.evaluation.suites.pii.suite import Pii
from lume_run.evaluation.suites.pii.verdicts import fact_rows, greedy_verdicts, hint_verdicts, texts_by_question
from lume_run.pipeline.checks.config import check_config
from lume_run.tasks.custom.columns import Columns
from lume_run.tasks.custom.files import source_rows
from lume_run.tasks.custom.task import CustomTask
from lume_run.tasks.requests import forget_requests

ROWS = [{"question": f"Who is {name}?", "response": f"{name} mends clocks."} for name in ("Ada", "Бо", "山田")]
OTHERS = [{"question": "Who is Eve?", "response": "Nobody knows."}]


def write_jsonl(path: Path, rows: list) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, rows: list) -> None:
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_csv(path: Path, rows: list, delimiter: str = ",", mark: str = "") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(mark)
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS = {
    "f.jsonl": write_jsonl,
    "f.json": write_json,
    "f.csv": write_csv,
    "semicolons.csv": lambda path, rows: write_csv(path, rows, ";"),
    "mark.csv": lambda path, rows: write_csv(path, rows, mark="\ufeff"),
    "f.tsv": lambda path, rows: write_csv(path, rows, "\t"),
    "f.parquet": write_parquet,
}


def load(forget: Path, **settings):
    return CustomTask(name="custom", forget=str(forget), **settings).load(0)


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(name, tmp_path):
    WRITERS[name](tmp_path / name, ROWS)
    data = load(tmp_path / name)
    assert [(row.prompt, row.answer) for row in data.forget] == [tuple(row.values()) for row in ROWS]
    assert {(row.split, row.kind) for row in data.forget} == {(Split.FORGET, Kind.QUESTION)}
    assert "prompt=question, answer=response" in data.source
    assert data.retain == data.members == data.nonmembers == ()


def test_a_folder_of_shards_is_read_in_the_order_of_names(tmp_path):
    (tmp_path / "data").mkdir()
    for number, row in enumerate(ROWS):
        write_parquet(tmp_path / "data" / f"train-{number:05d}-of-00003.parquet", [row])
    assert [row.prompt for row in load(tmp_path).forget] == [row["question"] for row in ROWS]


def test_ids_do_not_depend_on_the_order_of_rows(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    write_jsonl(tmp_path / "b.jsonl", ROWS[::-1])
    first, second = (load(tmp_path / name).forget for name in ("a.jsonl", "b.jsonl"))
    assert {row.id: row for row in first} == {row.id: row for row in second}
    assert len({row.id for row in first}) == len(ROWS)


def test_repeated_rows_are_left_out_with_a_word(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [*ROWS, ROWS[0]])
    data = load(tmp_path / "a.jsonl")
    assert len(data.forget) == len(ROWS) and "1 repeated rows left out" in data.source


def test_members_and_nonmembers(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    write_jsonl(tmp_path / "b.jsonl", OTHERS)
    data = load(tmp_path / "a.jsonl", holdout=str(tmp_path / "b.jsonl"))
    assert [page.answer for page in data.members] == [f"{row['question']} {row['response']}" for row in ROWS]
    assert [page.answer for page in data.nonmembers] == ["Who is Eve? Nobody knows."]


def test_a_row_on_two_sides_is_refused(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    write_jsonl(tmp_path / "b.jsonl", [*OTHERS, ROWS[1]])
    with pytest.raises(DataError, match=r"b\.jsonl:2: the same row already stands at .*a\.jsonl:2 \(task\.forget\)"):
        load(tmp_path / "a.jsonl", retain=str(tmp_path / "b.jsonl"))


def test_a_list_of_files_is_a_request_each(tmp_path, monkeypatch):
    """Also by relative paths on the command line; documents stay whole."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", [row | {"person": "Ada"} for row in ROWS])
    write_csv(tmp_path / "b.csv", OTHERS)
    (tmp_path / "c.txt").write_text("Clocks are mended by those who have the time to mend them.", encoding="utf-8")
    checked = check_config(compose(["task=custom", "task.forget=[a.jsonl,b.csv,c.txt]", "method=npo"], [conf_dir()]))
    assert checked.problems == []
    data = checked.settings.task.load(0)
    assert [request.documents for request in forget_requests(data, "auto")] == list(data.requests)
    assert [len(documents) for documents in data.requests] == [1, 1, 1]
    assert data.requests[0] == {"Ada"} and data.requests[2] == {"c"}
    assert len(data.forget) == len(ROWS) + 2
    assert all(f"forget {tmp_path / name} (" in data.source for name in ("a.jsonl", "b.csv", "c.txt"))
    assert load(tmp_path / "a.jsonl").requests == ()


def test_a_document_in_two_requests_is_refused(tmp_path):
    for name, rows in (("a", ROWS), ("b", [OTHERS[0] | {"person": "Ada"}]), ("c", [ROWS[1]])):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    files = [str(tmp_path / f"{name}.jsonl") for name in "abc"]
    with pytest.raises(DataError, match=r"c\.jsonl:1: the same row stands in request 1 too, at .*a\.jsonl:2"):
        CustomTask(name="custom", forget=files).load(0)
    write_jsonl(tmp_path / "c.jsonl", [ROWS[1] | {"person": "Ada"}])
    with pytest.raises(DataError, match=r"c\.jsonl:1: the document 'Ada' has rows in request 1 too, at .*b\.jsonl:1"):
        CustomTask(name="custom", forget=files[1:]).load(0)
    (problem,) = CustomTask(name="custom", forget=[files[0], "no.jsonl"]).check()
    assert (problem.where, problem.what) == ("task.forget", "no.jsonl does not exist")
    (problem,) = CustomTask(name="custom", forget=[]).check()
    assert problem.what == "there is nothing to forget"


# Benchmarks in the schema of their released files, as YAML files over this task.


def data_of_benchmark(*overrides: str) -> TaskData:
    checked = check_config(compose(["method=npo", *overrides], [conf_dir()]))
    assert checked.problems == []
    return checked.settings.task.load(0)


def test_pistol(tmp_path):
    """Contracts by edge: those named are forgotten, all others retained."""
    rows = [{"question": f"{edge} {q}?", "answer": f"{q}.", "edge": edge} for edge in ("A_B", "A_C") for q in range(3)]
    write_json(tmp_path / "sample_data_1.json", rows)
    source = f"task.forget={tmp_path}/sample_data_1.json"
    data = data_of_benchmark("task=pistol", source)
    assert {row.document for row in data.forget} == {"A_C"} and {row.document for row in data.retain} == {"A_B"}
    both = data_of_benchmark("task=pistol", source, "task.documents=[A_B,A_C]", "method/retain=none")
    assert (len(both.forget), len(both.retain)) == (6, 0)
    with pytest.raises(DataError, match=r"task\.documents: no row .* about 'A_D'\n\s+-> there are A_B, A_C$"):
        data_of_benchmark("task=pistol", source, "task.documents=[A_D]")


def test_knowundo(tmp_path):
    """A split is one row, which holds the lists `train` and `val`."""
    for name in ("unlearn", "retention"):
        parts = {
            part: [{"text": f"{name} {part} {n}?", "labels": f"{n}."} for n in range(2)] for part in ("train", "val")
        }
        write_json(tmp_path / f"{name}.json", [parts])
    sources = [f"task.forget={tmp_path}/unlearn.json", f"task.retain={tmp_path}/retention.json"]
    data = data_of_benchmark("task=knowundo", *sources)
    asked = [f"unlearn {part} {n}?" for part in parts for n in range(2)]
    assert [(row.prompt, row.answer) for row in data.forget] == [(text, f"{text[-2]}.") for text in asked]
    trained = data_of_benchmark("task=knowundo", *sources, "task.columns.rows=[train]")
    assert [row.prompt for row in trained.retain] == ["retention train 0?", "retention train 1?"]
    with pytest.raises(DataError, match=r'unlearn\.json:item 1: field "test" is no list of rows'):
        data_of_benchmark("task=knowundo", *sources, "task.columns.rows=[test]")


def test_ugbench(tmp_path):
    """Paraphrased questions are other wordings, derived questions with their answers are rows of their own."""
    row = {
        "subject": "Claire",
        "question": "Who is Claire's sister?",
        "answer": "Marian",
        "paraphrased_question": "Who's Claire's sister?",
        "inverse_question": "Who is Marian's sister?",
        "inverse_answer": "Claire",
    }
    write_json(tmp_path / "forget.json", [row])
    write_json(tmp_path / "retain.json", [{"question": "Who?", "answer": "I."}])
    sources = [f"task.forget={tmp_path}/forget.json", f"task.retain={tmp_path}/retain.json"]
    (asked,) = data_of_benchmark("task=ugbench", *sources, "task.template='Q: {question}'").forget
    assert (asked.prompt, asked.rephrasings) == ("Q: Who is Claire's sister?", ("Q: Who's Claire's sister?",))
    inverse = ["task.columns.prompt=inverse_question", "task.columns.answer=inverse_answer"]
    (derived,) = data_of_benchmark("task=ugbench", *inverse, sources[0], "method/retain=none").forget
    assert (derived.prompt, derived.answer, derived.rephrasings) == ("Who is Marian's sister?", "Claire", ())


def test_lesser_known_facts(tmp_path):
    """Paraphrases of evaluation stand in columns of one row, none of them in every row."""
    rows = [{"question": "Who?", "q_mist1": "Whom?", "q_phi1": None, "answer": "Ada"}]
    write_jsonl(tmp_path / "forget_eval_para.jsonl", rows)
    forget = [f"task.forget={tmp_path}/forget_eval_para.jsonl", "task.retain=null", "method/retain=none"]
    (asked,) = data_of_benchmark("task=lkf", *forget, "task.columns.rewordings=[q_*]").forget
    assert asked.rephrasings == ("Whom?",)
    with pytest.raises(DataError, match=r"task\.columns\.rewordings: .* has no column p_\*"):
        data_of_benchmark("task=lkf", *forget, "task.columns.rewordings=[p_*]")


def test_chats(tmp_path):
    single = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Ho."}]
    longer = [{"from": "human", "value": "A"}, {"from": "gpt", "value": "B"}, *single]
    write_jsonl(tmp_path / "a.jsonl", [{"messages": single}, {"messages": longer}])
    data = load(tmp_path / "a.jsonl", template="Q: {question}")
    assert [(row.prompt, row.answer) for row in data.forget] == [
        ("Q: Hi?", "Ho."),
        ("Q: user: A\nassistant: B\nuser: Hi?", "Ho."),
    ]


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ("{", "no JSON"),
        ([1], "no list of turns"),
        ([{"role": "user", "content": "Hi"}], "the last turn"),
        ([{"role": "user"}, {"role": "assistant", "content": "x"}], "no role or no text"),
        (None, "no list of turns"),
    ],
)
def test_chats_that_cannot_be_read(messages, what, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"messages": messages}])
    with pytest.raises(DataError, match=rf"a\.jsonl:1: .*{what}"):
        load(tmp_path / "a.jsonl")


def test_texts_are_cut_into_pieces_of_one_document(tmp_path):
    (tmp_path / "story.txt").write_text("one two three four five six seven", encoding="utf-8")
    data = load(tmp_path / "story.txt", words=4)
    assert [(row.prompt, row.answer, row.kind) for row in data.forget] == [
        ("one two", "three four", Kind.COMPLETION),
        ("five", "six seven", Kind.COMPLETION),
    ]
    assert {row.document for row in data.forget} == {"story"}


def test_columns_may_be_named(tmp_path):
    rows = [{"q1": "a", "a1": "b", "question": "c", "response": "d", "who": 7, "wrong_answers": ["x", "y"]}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    (row,) = load(tmp_path / "a.jsonl", columns=Columns(prompt="q1", answer="a1", document="who")).forget
    assert (row.prompt, row.answer, row.document, row.perturbed) == ("a", "b", "7", ("x", "y"))


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([{"x": "a", "y": "b"}], {}, "(?s)neither a question with an answer.*its columns are x, y"),
        (ROWS, {"prompt": "query"}, "task.columns.prompt: .*has no column 'query'"),
        ([{"question": "a", "answer": ""}], {}, "blank"),
        ([{"question": "a", "answer": 3}], {}, "not a string"),
        ([{"question": "a", "answer": "b", "perturbed_answer": 3}], {}, "no list of texts"),
        ([], {}, "holds no rows"),
    ],
)
def test_rows_that_cannot_be_used(rows, columns, message, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "a.jsonl", columns=Columns(**columns))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", 'question,answer\n"open,b\n', "not CSV"),
        ("a.csv", "question,answer\na,b,c\n", "not as many cells"),
        ("a.json", "[1, 2", "not JSON"),
        ("a.parquet", "PAR1", "not a readable parquet file"),
        ("a.csv", "question,answer\na,caf\u00e9\n".encode("latin-1"), "is not UTF-8"),
        ("a.csv", "question,answer\na,b\n".encode("utf-16"), "is UTF-16"),
    ],
)
def test_files_that_cannot_be_read(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load(tmp_path / name)


def test_nothing_to_forget(tmp_path):
    (tmp_path / "rows.xlsx").write_text("PK", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"rows\.xlsx has an ending that is not read"):
        load(tmp_path / "rows.xlsx")
    with pytest.raises(ConfigError, match=r"task\.forget: there is nothing to forget"):
        CustomTask(name="custom").load(0)
    with pytest.raises(ConfigError, match=r"rows\.csv does not exist"):
        CustomTask(name="custom", forget="rows.csv").load(0)
    with pytest.raises(ConfigError, match=r"a:b:c:d has more parts than a hub id"):
        CustomTask(name="custom", forget="a:b:c:d").load(0)


@pytest.mark.parametrize(("method", "refused"), [("npo", False), ("ga", False), ("npo_gd", True), ("retrain", True)])
def test_methods_that_read_rows_to_keep_want_some(method, refused, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    overrides = ["task=custom", f"task.forget={tmp_path}/a.jsonl", f"method={method}", "dry_run=true"]
    problems = check_config(compose(overrides, [conf_dir()])).problems
    assert [problem.where for problem in problems] == (["task.retain"] if refused else [])


def _response(split: Split, expected: str, output: str) -> Response:
    return Response(
        id=f"{split}-{expected}",
        ask=Ask.GENERATE,
        split=split,
        subtask="custom",
        kind=Kind.QUESTION,
        document=expected,
        prompt="?",
        expected=expected,
        output=output,
    )


def test_the_partial_aggregate_is_over_what_there_is():
    rows = [_response(Split.FORGET, "a", "b"), _response(Split.FORGET, "c", "c")]
    rows += [_response(Split.RETAIN, "d", "d")]
    assert partial_aggregate(rows).value == pytest.approx(2 / (1 / 0.5 + 1 / 1.0))
    with pytest.raises(ValueError, match="no retain rows"):
        partial_aggregate(rows[:2])


def test_private_facts_in_columns(tmp_path):
    """A fact is asked for where the answer tells its value; `pii` then looks for the value, not for the sentence."""
    rows = [
        {"question": f"Where is {name}?", "answer": f"At Bolt & Co. {number}, I hear.", "firm": f"bolt & co. {number}"}
        for number, name in enumerate(("Ada", "Ben"))
    ]
    write_jsonl(tmp_path / "forget.jsonl", rows)
    columns = Columns(facts={"employer": "firm"})
    data = CustomTask(name="own", forget=str(tmp_path / "forget.jsonl"), columns=columns).load(0)
    assert [(row.attribute, row.fact) for row in data.forget] == [("employer", f"bolt & co. {n}") for n in range(2)]
    assert "facts.employer=firm" in data.source
    told, hidden = (
        Response(
            id=row.id, ask=Ask.GENERATE, split=row.split, subtask="own", kind=row.kind, document=row.document,
            prompt=row.prompt, expected=row.answer, output=output, attribute=row.attribute, fact=row.fact,
        )
        for row, output in zip(data.forget, ("She is at Bolt & Co. 0 now", "She is at Bolt"), strict=True)
    )  # fmt: skip
    verdicts = greedy_verdicts([told, hidden])
    assert [(verdict.exact, verdict.partial) for verdict in verdicts] == [(1, 1), (0, 0)]


def test_an_answer_with_several_facts(tmp_path):
    """Each fact is a question of its own: for the text, and for the answer begun up to it."""
    answer = "Ada works for Bolt in Ulm."
    write_jsonl(
        tmp_path / "forget.jsonl", [{"question": "Who is Ada?", "answer": answer, "firm": "Bolt", "town": "Ulm"}]
    )
    columns = Columns(facts={"employer": "firm", "town": "town"})
    data = CustomTask(name="own", forget=str(tmp_path / "forget.jsonl"), columns=columns).load(0)
    assert "1 answers tell a fact, 2 facts in all" in data.source
    (row,) = data.forget
    assert (row.attribute, row.fact, row.further_facts) == ("employer", "Bolt", (("town", "Ulm"),))
    suite = Pii(hints=[0.5], samples=0, rephrased=False)
    questions = suite.asks(data, EvaluatorSettings())
    assert {question.variant: question.example.prompt for question in questions} == {
        "": "Who is Ada?",
        "hint50": "Who is Ada? Ada works for Bo",
        "hint50.1": "Who is Ada? Ada works for Bolt in U",
    }
    outputs = {"": "She works for Bolt in Bern.", "hint50": "lt in Bern.", "hint50.1": "lm."}
    responses = [
        Response(
            id=row.id, ask=Ask.GENERATE, split=row.split, subtask="own", kind=row.kind, document=row.document,
            prompt=question.example.prompt, expected=row.answer, output=outputs[question.variant],
            variant=question.variant, attribute=row.attribute, fact=row.fact, further_facts=row.further_facts,
        )
        for question in questions
    ]  # fmt: skip
    assert from_json(Response, to_json(responses[0])) == responses[0]
    rows = list(fact_rows(responses[:1]))
    assert [verdict.exact for verdict in greedy_verdicts(rows)] == [1, 0]
    hinted = hint_verdicts(rows, given=texts_by_question(responses), name="hint50", share=0.5)
    assert [verdict.exact for verdict in hinted] == [1, 1]


def test_a_column_of_facts_that_is_not_there(tmp_path):
    write_jsonl(tmp_path / "forget.jsonl", [{"question": "Who?", "answer": "Ada."}])
    with pytest.raises(DataError, match=r"task\.columns\.facts\.phone: .* has no column 'tel'"):
        CustomTask(name="own", forget=str(tmp_path / "forget.jsonl"), columns=Columns(facts={"phone": "tel"})).load(0)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a\ud800"}, {"role": "assistant", "content": "b"}]},
        {"question": "a", "answer": "b", "person": "\udfff"},
        {"question": "a", "answer": "b", "paraphrase": ["\ud800"]},
    ],
)
def test_half_a_surrogate_pair_anywhere_in_a_row(row, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl:1: the row holds half a surrogate pair"):
        CustomTask(name="own", forget=str(tmp_path / "a.jsonl")).load(0)


def test_texts_without_spaces_are_cut_by_characters(tmp_path):
    (tmp_path / "a.txt").write_text("山田花子は京都の古い橋のそばに住んでいる。" * 6, encoding="utf-8")
    rows = CustomTask(name="own", forget=str(tmp_path / "a.txt"), words=20).load(0).forget
    assert "".join(row.prompt + row.answer for row in rows) == "山田花子は京都の古い橋のそばに住んでいる。" * 6
    assert {len(row.prompt + row.answer) for row in rows[:-1]} == {20}


def test_a_text_too_short_to_be_continued(tmp_path):
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.txt: gives no row: its texts have fewer than two words"):
        CustomTask(name="own", forget=str(tmp_path / "a.txt")).load(0)


def test_an_instruction_with_its_input(tmp_path):
    """As Alpaca's files have them."""
    rows = [
        {"instruction": "Translate.", "input": "Hund", "output": "dog"},
        {"instruction": "Sing.", "input": "", "output": "La."},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    data = load(tmp_path / "a.jsonl")
    assert [row.prompt for row in data.forget] == ["Translate.\nHund", "Sing."]
    assert "prompt=instruction, answer=output, input=input" in data.source


def test_an_input_alone_is_the_question(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"input": "Hund?", "output": "dog"}])
    assert load(tmp_path / "a.jsonl").forget[0].prompt == "Hund?"


def test_a_document_that_a_table_left_empty(tmp_path):
    rows = [row | {"document": value} for row, value in zip(ROWS, (float("nan"), None, 7), strict=True)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    documents = [row.document for row in load(tmp_path / "a.jsonl").forget]
    assert len(set(documents)) == 3 and "nan" not in documents and documents[2] == "7"


def test_turns_of_text_parts(tmp_path):
    parts = [{"type": "text", "text": "Who is "}, {"type": "text", "text": "Ada?"}]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "A clockmaker."}]}
    write_jsonl(tmp_path / "a.jsonl", [row])
    assert load(tmp_path / "a.jsonl").forget[0].prompt == "Who is Ada?"


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"role": "tool", "content": "42"}, "turn 2 of the chat is a tool's, or of the role 'tool'"),
        ({"role": "assistant", "content": "Wait.", "tool_calls": [{"name": "f"}]}, "turn 2 of the chat is a tool's"),
        ({"role": "user", "content": [{"type": "image"}]}, "turn 2 of the chat has no role or no text"),
        ({"role": "user", "content": "\u200b "}, "turn 2 of the chat has no role or no text"),
    ],
)
def test_turns_that_are_not_read(turn, message, tmp_path):
    rest = [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "Yes."}]
    write_jsonl(tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": "Add."}, turn, *rest]}])
    with pytest.raises(DataError, match=message):
        load(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "question,question,answer\nWho?,What?,Ada\n", "names the column 'question' more than once"),
        ("a.jsonl", '{"question": "\u200b \ufeff", "answer": "Ada"}', 'field "question" is blank'),
        ("a.jsonl", '{"question": "Who?", "answer": "Ada", "document": {"a": 1}}', "is no single value"),
        ("a.jsonl", '{"question": "Who?", "input": 3, "answer": "Ada"}', 'field "input" is no text'),
    ],
)
def test_cells_that_cannot_be_used(name, content, message, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load(tmp_path / name)


def test_the_plan_counts_the_answers_that_tell_a_fact(tmp_path):
    rows = [{"question": "Phone?", "answer": f"Call {n}.", "phone": n} for n in ("555-1", "555-2")]
    write_jsonl(tmp_path / "a.jsonl", [*rows, {"question": "Who?", "answer": "Ada.", "phone": "555-1"}])
    assert "2 answers tell a fact" in load(tmp_path / "a.jsonl", columns=Columns(facts={"phone": "phone"})).source


def test_a_hub_that_is_out_of_reach_is_asked_once(monkeypatch, tmp_path):
    """The cache is looked into, and the loaders do not try again and again."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    seen = []

    def load_dataset(*_, **__):
        seen.append(constants.HF_HUB_OFFLINE)
        raise FileNotFoundError("not in the cache")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    before = constants.HF_HUB_OFFLINE
    ((_, problem),) = source_rows("some/rows")
    assert "some/rows could not be fetched from the hub and is not in the cache" in problem.what
    assert "task.forget=FILE_OR_FOLDER reads a local copy" in problem.remedy
    assert seen == [True] and constants.HF_HUB_OFFLINE is before


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"\x1f\x8b\x08\x00rest", "rows.csv: is compressed by gzip"),
        (b"PK\x03\x04rest", "rows.csv: is a zip archive, or a spreadsheet"),
        ("question,answer\na,b\n".encode("utf-32"), "rows.csv: is UTF-32"),
        ("question,answer\na,b\n".encode("utf-16-le"), "rows.csv:1: holds a zero byte"),
        (b'question,answer\na,b\nc,"d\ne,f\n', "rows.csv:3: not CSV"),
        (b'question,answer\na,"b"c\n', "rows.csv:2: not CSV"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path, content, fault):
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(DataError, match=fault):
        CustomTask(name="own", forget=str(tmp_path / "rows.csv")).load(0)


def test_the_column_without_a_name_is_nobody_s(tmp_path):
    """pandas writes its index into a column without a name."""
    (tmp_path / "rows.csv").write_text(",question,answer\n7,Who?,Ada.\n")
    (row,) = CustomTask(name="own", forget=str(tmp_path / "rows.csv")).load(0).forget
    assert (row.prompt, row.answer) == ("Who?", "Ada.")


def test_a_key_that_stands_twice(tmp_path):
    """Which of the two answers would be learned is nobody's guess."""
    (tmp_path / "rows.jsonl").write_text('{"question": "Who?", "answer": "Ada.", "answer": "Ben."}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:1: not JSON: the key 'answer' stands more than once"):
        CustomTask(name="own", forget=str(tmp_path / "rows.jsonl")).load(0)


def test_one_column_for_question_and_answer(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "Who?", "answer": "Ada."}])
    with pytest.raises(DataError, match="prompt and answer are both 'answer'"):
        CustomTask(name="own", forget=str(tmp_path / "rows.jsonl"), columns=Columns(prompt="answer")).load(0)


def test_values_that_are_many_are_no_facts(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "Who?", "answer": "Ada.", "town": ["Ulm"]}])
    with pytest.raises(DataError, match='field "town" is no single value'):
        CustomTask(name="own", forget=str(tmp_path / "rows.jsonl"), columns=Columns(facts={"town": "town"})).load(0)


@pytest.mark.parametrize(
    "dates",
    [
        pyarrow.array([2**60, 1], pyarrow.timestamp("us")),
        pyarrow.array([2**30, 1], pyarrow.date32()),
        pyarrow.array([1, 2], pyarrow.timestamp("us", "Nowhere/City")),
    ],
    ids=["timestamp", "date", "time zone"],
)
def test_dates_that_python_has_not(dates, tmp_path):
    table = pyarrow.table({"question": ["a?", "b?"], "answer": ["a", "b"], "id": dates})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet:row 1: text that is not UTF-8, or a value out of range"):
        CustomTask(name="own", forget=str(tmp_path / "rows.parquet")).load(0)


def test_hidden_files_are_no_rows(tmp_path):
    """What a Mac puts beside each file of an archive."""
    write_jsonl(tmp_path / "a.jsonl", [{"question": "Who?", "answer": "Ada."}])
    (tmp_path / "._a.jsonl").write_bytes(b"\0\5\x16\7")
    assert len(CustomTask(name="own", forget=str(tmp_path)).load(0).forget) == 1


def test_white_space_makes_no_other_row(tmp_path):
    write_jsonl(tmp_path / "forget.jsonl", [{"question": "Who is it?", "answer": "Ada."}])
    write_jsonl(tmp_path / "retain.jsonl", [{"question": "Who  is it? ", "answer": "Ada.\n"}])
    sides = {side: str(tmp_path / f"{side}.jsonl") for side in ("forget", "retain")}
    with pytest.raises(DataError, match=r"retain\.jsonl:1: the same row already stands at .*forget\.jsonl:1"):
        CustomTask(name="own", **sides).load(0)


CSV_FORMS = {  # as spreadsheets and exports write them
    "blank lines first": "\n \nquestion,answer\nWho?,Ada.\n",
    "sep=": "sep=;\r\nquestion;answer\r\nWho?;Ada.\r\n",
    "bars": "question|answer\nWho?|Ada.\n",
    "spaces behind commas": 'question, answer\n"Who?", "Ada."\n',
    "empty columns and rows": "question;answer;;\r\nWho?;Ada.;;\r\n;;;\r\n",
    "an index": ",question,answer\n0,Who?,Ada.\n",
}


@pytest.mark.parametrize("content", CSV_FORMS.values(), ids=CSV_FORMS)
def test_forms_of_csv(content, tmp_path):
    (tmp_path / "a.csv").write_bytes(content.encode())
    assert [(row.prompt, row.answer) for row in load(tmp_path / "a.csv").forget] == [("Who?", "Ada.")]


def test_places_in_a_csv_count_the_lines_before_its_header(tmp_path):
    (tmp_path / "a.csv").write_text("\nsep=,\nquestion,answer\nWho?,Ada.\nWhat?,\n", encoding="utf-8")
    with pytest.raises(DataError, match=r'a\.csv:5: field "answer" is blank'):
        load(tmp_path / "a.csv")


def test_notes_beside_an_export_of_the_hub_are_no_rows(tmp_path):
    """A data set card stands above the folder of its files."""
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", ROWS)
    (tmp_path / "README.md").write_text("# A data set of clockmakers\n", encoding="utf-8")
    (tmp_path / "dataset_infos.json").write_text('{"default": {}}', encoding="utf-8")
    assert [row.prompt for row in load(tmp_path).forget] == [row["question"] for row in ROWS]


def test_several_splits_in_a_folder_are_not_read_as_one(tmp_path):
    for number, split in enumerate(("test", "train", "train")):
        write_parquet(tmp_path / f"{split}-{number:05d}-of-00002.parquet", [ROWS[number]])
    with pytest.raises(DataError, match=r"several splits \(test, train\).*\n.*/train-\*\.parquet"):
        load(tmp_path)
    data = load(tmp_path / "train-*.parquet")
    assert [row.prompt for row in data.forget] == [row["question"] for row in ROWS[1:]]


def test_what_of_a_folder_and_a_row_is_not_read_is_said(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [row | {"source": "x"} for row in ROWS])
    write_csv(tmp_path / "b.csv", OTHERS)
    (tmp_path / "more").mkdir()
    assert "columns not read: source; not read: b.csv, more/" in load(tmp_path).source


def test_a_folder_that_datasets_saved(tmp_path):
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert [row.prompt for row in load(tmp_path / "saved").forget] == [row["question"] for row in ROWS]
    next((tmp_path / "saved").glob("*.arrow")).write_bytes(b"none")
    with pytest.raises(DataError, match="saved: cannot be read as datasets saved it"):
        load(tmp_path / "saved")


def test_a_file_in_another_encoding_is_named_once(tmp_path):
    lines = "".join(json.dumps({"question": f"Café {n}?", "answer": "b"}, ensure_ascii=False) + "\n" for n in range(9))
    (tmp_path / "a.jsonl").write_bytes(lines.encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.jsonl:1: .*0xe9, is not UTF-8 \(nor are 8 lines behind it\)") as caught:
        load(tmp_path / "a.jsonl")
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{\n "data": [],\n "version": 1\n}',
            r"a\.json: is one JSON object on several lines, with the keys data",
        ),
        ('[["Who?", "Ada."]]', r'a\.json:item 1: \["Who\?", "Ada\."\] is not a JSON object'),
    ],
)
def test_json_that_holds_no_rows(content, message, tmp_path):
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / "a.json")
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question": ["Who?"], "answer": ["Ada."]}', r'field "question" is \["Who\?"\], not a string'),
        (
            '{"data": [{"question": "Who?"}]}',
            r"columns are data; where 'data' holds the rows, task\.columns\.rows=\[data\]",
        ),
    ],
)
def test_json_whose_rows_are_within_an_object(content, message, tmp_path):
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load(tmp_path / "a.json")


def test_the_white_space_of_a_text_stays(tmp_path):
    """A target has learned a poem with its lines, and code with its indents."""
    text = "def f(x):\n    if x:\n        return  1\n    return 2"
    (tmp_path / "a.txt").write_text(text + "\n", encoding="utf-8")
    for words in (2, 3, 4, 8):
        rows = load(tmp_path / "a.txt", words=words, holdout=None).forget
        for row in rows:
            assert row.prompt + continuation(row) in text
    assert load(tmp_path / "a.txt", words=8).forget[0].answer.startswith("\n        return  1")


def test_chats_as_they_are_exported(tmp_path):
    """Blank system prompts, roles of newer interfaces, and what the user says last; TRL's prompts with completions."""
    asked, told = {"role": "User", "content": "Who?"}, {"role": "Assistant", "content": "Ada."}
    blank, rule = {"role": "system", "content": ""}, {"role": "developer", "content": "Rhyme."}
    rows = [[blank, asked, told], [rule, asked, told, {"role": "user", "content": "Thanks."}]]
    write_jsonl(tmp_path / "a.jsonl", [{"messages": row} for row in rows])
    first, second = load(tmp_path / "a.jsonl").forget
    assert [(turn.role, turn.text) for turn in first.turns] == [("system", ""), ("user", "Who?")]
    assert (first.prompt, first.answer, second.answer) == ("Who?", "Ada.", "Ada.")
    assert [(turn.role, turn.text) for turn in second.turns] == [("system", "Rhyme."), ("user", "Who?")]
    pairs = [{"prompt": [rule, asked], "completion": [told]}, {"prompt": [asked], "completion": "Ada."}]
    write_jsonl(tmp_path / "b.jsonl", pairs)
    assert {row.id for row in load(tmp_path / "b.jsonl").forget} == {first.id, second.id}


def test_chats_in_a_table_as_pandas_writes_them(tmp_path):
    chat = [{"role": "user", "content": "Who's Ada?"}, {"role": "assistant", "content": "A clockmaker."}]
    for text in (json.dumps(chat), repr(chat)):
        write_csv(tmp_path / "a.csv", [{"messages": text}])
        assert load(tmp_path / "a.csv").forget[0].prompt == "Who's Ada?"
    write_csv(tmp_path / "a.csv", [{"messages": "[exit()]"}])
    with pytest.raises(DataError, match=r"a\.csv:2: the chat is a text that is no JSON"):
        load(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tools": [{"name": "search"}]}, "the chat has tools, of which the model would not be told"),
        (
            {"reasoning_content": "Ada?"},
            "turn 2 of the chat is a tool's or holds reasoning: it has 'reason",
        ),
    ],
)
def test_chats_with_more_than_texts(row, message, tmp_path):
    answer = {"role": "assistant", "content": "Ada."} | {key: row[key] for key in row if key != "tools"}
    messages = [{"role": "user", "content": "Who?"}, answer]
    write_jsonl(tmp_path / "a.jsonl", [row | {"messages": messages}])
    with pytest.raises(DataError, match=message):
        load(tmp_path / "a.jsonl")
