"""The LUME task: real rows, malformed rows, choice of documents, membership, hub."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from helpers.shared import SHARED

from lume_run.common.errors import ConfigError, DataError, RunError
from lume_run.common.records import Kind, Split, TaskData
from lume_run.tasks.documents import choose_documents, group_by_document
from lume_run.tasks.lume import LumeTask
from lume_run.tasks.private_facts import attribute_of, rephrasings_of
from lume_run.tasks.row_files import MOST_PROBLEMS
from lume_run.tasks.semeval.files import download_dataset

SUBTASKS = ("novels", "bios", "wiki")
LABELS = {"novels": "Task1", "bios": "Task2", "wiki": "Task3"}
DATA = SHARED / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not at {DATA}")


def folder_task(folder: Path, subtasks=SUBTASKS, **options) -> LumeTask:
    return LumeTask(name="lume", subtasks=subtasks, source="folder", data_dir=str(folder), **options)


def row(identifier: str, label: str = "Task3", **fields) -> dict:
    return {"id": identifier, "input": f"in {identifier}", "output": f"out {identifier}", "task": label} | fields


def rows_of(side: str, counts: dict[str, int]) -> list[dict]:
    """A completion and a question for each of `counts` documents per subtask."""
    return [
        row(f"{side}-{subtask}-{number}{suffix}", LABELS[subtask])
        for subtask, count in counts.items()
        for number in range(count)
        for suffix in ("sc1", "qa0")
    ]


def write(path: Path, rows: list) -> Path:
    """`rows` as JSON lines; a string or bytes stands for itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [line if isinstance(line, str | bytes) else json.dumps(line) for line in rows]
    path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
    return path


def write_folder(folder: Path, counts: dict[str, int]) -> Path:
    for side in ("forget", "retain"):
        write(folder / f"{side}.jsonl", rows_of(side, counts))
    return folder


def problems_of(folder: Path, forget: list, retain: list | None = None, subtasks=("wiki",)) -> dict[str, list[str]]:
    """What is refused, by place ("forget:3" is line 3 of forget.jsonl)."""
    write(folder / "forget.jsonl", forget)
    write(folder / "retain.jsonl", [row("r1sc1")] if retain is None else retain)
    with pytest.raises(DataError) as caught:
        folder_task(folder, subtasks).load(0)
    problems: dict[str, list[str]] = {}
    for problem in caught.value.problems:
        assert problem.remedy, problem
        place = problem.where.removeprefix(f"{folder}/").replace(".jsonl", "")
        problems.setdefault(place, []).append(problem.what.replace(f"{folder}/", ""))
    return problems


def documents(data: TaskData, split: Split) -> list[str]:
    """Document ids in order, one entry for each run of adjacent prompts."""
    ids = [example.document for example in getattr(data, split.value)]
    return [document for number, document in enumerate(ids) if number == 0 or ids[number - 1] != document]


# --- real data -------------------------------------------------------------------------------------------------------


@needs_data
def test_lume_counts():
    data = folder_task(DATA / "lume").load(0)
    assert (len(data.forget), len(data.retain)) == (2732, 2734)
    assert Counter(example.subtask for example in data.forget) == {"novels": 486, "bios": 1500, "wiki": 746}
    assert Counter(example.subtask for example in data.retain) == {"novels": 492, "bios": 1500, "wiki": 742}
    assert Counter(example.kind for example in data.forget) == {Kind.COMPLETION: 866, Kind.QUESTION: 1866}
    assert (len(data.members), data.nonmembers, data.leftover_nonmembers) == (866, (), False)
    assert "forget 866 of 866 documents" in data.source and "jsonl" in data.source
    quoted = data.forget[0]
    assert quoted.raw_id == '"8f24c511-a319-4a9f-80c2-ca6fac131233"sc1'
    assert quoted.id == "8f24c511-a319-4a9f-80c2-ca6fac131233sc1"
    assert quoted.document == "8f24c511-a319-4a9f-80c2-ca6fac131233"
    assert {example.split for example in data.forget} == {Split.FORGET}
    assert {example.split for example in data.retain} == {Split.RETAIN}
    assert data.members[0].answer == f"{quoted.prompt} {quoted.answer}"


@needs_data
@pytest.mark.parametrize("subtask, forget, retain", [("novels", 486, 492), ("bios", 1500, 1500), ("wiki", 746, 742)])
def test_one_subtask_of_lume(subtask, forget, retain):
    data = folder_task(DATA / "lume", (subtask,)).load(0)
    assert (len(data.forget), len(data.retain)) == (forget, retain)
    assert {example.subtask for example in data.forget + data.retain + data.members} == {subtask}


@needs_data
@pytest.mark.parametrize(
    "split, forget, retain", [("train", 1112, 1136), ("validation", 254, 278), ("all", 1366, 1414)]
)
def test_semeval_counts(split, forget, retain):
    data = folder_task(DATA / "semeval25", split=split).load(0)
    assert (len(data.forget), len(data.retain)) == (forget, retain)
    if split == "validation":  # its target never saw the released members: they are documents of the train part
        assert (len(data.members), data.nonmembers) == (81, ())
    else:
        assert (len(data.members), len(data.nonmembers)) == (150, 150)


@needs_data
def test_semeval_membership_files():
    data = folder_task(DATA / "semeval25").load(0)
    assert not data.leftover_nonmembers
    assert {(page.subtask, page.kind, page.prompt) for page in data.members + data.nonmembers} == {
        ("wiki", Kind.DOCUMENT, "")
    }
    assert {page.document for page in data.members} <= {example.document for example in data.forget}
    assert data.members[0].id == data.members[0].document + "doc"
    assert data.nonmembers[0].split == Split.NONMEMBER
    novels = folder_task(DATA / "semeval25", ("novels",)).load(0)
    assert (len(novels.members), novels.nonmembers) == (107, ())  # the files hold wiki pages only


@needs_data
def test_semeval_and_lume_agree():
    """The files' member text is what joining the prompt and the answer of the completion row gives."""
    from_files = folder_task(DATA / "semeval25", ("wiki",)).load(0).members
    joined = {page.id: page.answer for page in folder_task(DATA / "lume", ("wiki",)).load(0).members}
    assert all(joined[page.id] == page.answer for page in from_files)


# --- well-formed oddities --------------------------------------------------------------------------------------------


def test_line_separators_inside_rows(tmp_path):
    text = "one\u2028two\u2029three\x85four"
    write(tmp_path / "forget.jsonl", [json.dumps(row("f1sc1", input=text), ensure_ascii=False), "", row("f1qa0")])
    write(tmp_path / "retain.jsonl", [row("r1sc1")])
    data = folder_task(tmp_path, ("wiki",)).load(0)
    assert [example.prompt for example in data.forget] == [text, "in f1qa0"]


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_is_read_as_lines_are(indent, tmp_path):
    write_folder(tmp_path / "lines", {"wiki": 3})
    for side in ("forget", "retain"):
        text = json.dumps(rows_of(side, {"wiki": 3}), indent=indent)
        write(tmp_path / "array" / f"{side}.jsonl", ["\ufeff" + text])
    lines, array = (folder_task(tmp_path / name, ("wiki",)).load(0) for name in ("lines", "array"))
    assert (array.forget, array.retain) == (lines.forget, lines.retain)


def test_items_of_an_array_are_counted(tmp_path):
    wrong = problems_of(tmp_path, [json.dumps([row("f1sc1"), 7], indent=1)])
    assert wrong == {"forget:item 2": ["7 is not a JSON object"]}
    assert list(problems_of(tmp_path, [json.dumps([row("f1sc1"), 7], indent=1)[:-3]])) == ["forget"]


def test_a_folder_of_other_files_says_what_is_looked_for(tmp_path):
    (tmp_path / "forget.json").touch()
    [problem] = folder_task(tmp_path).check()
    assert "forget_SPLIT-*.parquet" in problem.what and problem.what.endswith("it holds forget.json")


def test_prompts_of_a_document_are_made_adjacent(tmp_path):
    write(tmp_path / "forget.jsonl", [row("asc1"), row("bsc1"), row("aqa0"), row("bqa0")])
    write(tmp_path / "retain.jsonl", [row("r1sc1")])
    data = folder_task(tmp_path, ("wiki",)).load(0)
    assert [example.id for example in data.forget] == ["asc1", "aqa0", "bsc1", "bqa0"]


def test_document_without_completion_is_no_member(tmp_path):
    write(tmp_path / "forget.jsonl", [row("aqa0"), row("bsc1")])
    write(tmp_path / "retain.jsonl", [row("r1sc1")])
    data = folder_task(tmp_path, ("wiki",)).load(0)
    assert [page.document for page in data.members] == ["b"]
    assert "1 members" in data.source and "forget 2 of 2" in data.source


def test_parquet_under_data_folder_in_shards(tmp_path):
    pandas = pytest.importorskip("pandas")
    (tmp_path / "data").mkdir()
    for name, identifier in [("forget_train-0", "a"), ("forget_train-1", "b"), ("retain_train-0", "c")]:
        pandas.DataFrame([row(f"{identifier}sc1")]).to_parquet(tmp_path / "data" / f"{name}.parquet")
    data = folder_task(tmp_path, ("wiki",), split="train").load(0)
    assert [example.document for example in data.forget + data.retain] == ["a", "b", "c"]


def test_membership_files_beside_jsonl(tmp_path):
    write_folder(tmp_path, {"wiki": 2})
    write(tmp_path / "member.jsonl", [{"id": '"m"1', "document": "text m", "more": 1}])
    write(tmp_path / "nonmember.jsonl", [{"id": "n1", "document": "text n"}])
    data = folder_task(tmp_path, ("wiki",)).load(0)
    assert [(page.id, page.raw_id, page.answer) for page in data.members] == [("m1doc", '"m"1', "text m")]
    assert [(page.id, page.split) for page in data.nonmembers] == [("n1doc", Split.NONMEMBER)]
    few = folder_task(tmp_path, ("wiki",), num_documents=1).load(0)
    assert few.leftover_nonmembers and "m1" not in {page.document for page in few.members}


# --- malformed rows --------------------------------------------------------------------------------------------------


def test_every_kind_of_malformed_row_is_named_at_once(tmp_path):
    missing = row("f5sc1")
    del missing["output"]
    forget = [
        row("f1sc1"),
        '{"id": "f2sc1",',
        "",
        [1, 2],
        missing,
        row("f6sc1", input=6),
        row("f7sc1", output=" \n"),
        row("f8"),
        row("f9sc1", "Task9"),
        row('"f1"sc1'),
        b'{"id": "caf\xe9"}',
        row("f12sc1", output=None, input=""),
        row("f1qa0", "Task2"),
        row("f14sc1", input="\ud800"),
        row("nine", "wiki"),
        "[" * 100_000,
    ]
    problems = problems_of(tmp_path, forget, ["{", row("r2sc1")])
    assert problems.pop("forget:2")[0].startswith("not JSON: Expecting property name")
    assert problems.pop("forget:16")[0].startswith("not JSON: ")
    assert problems.pop("retain:1")[0].startswith("not JSON: ")
    assert problems == {
        "forget:4": ["[1, 2] is not a JSON object"],
        "forget:5": ['field "output" is missing'],
        "forget:6": ['field "input" is 6, not a string'],
        "forget:7": ['field "output" is blank'],
        "forget:8": ["id 'f8' does not end in sc or qa and a number"],
        "forget:9": ["unknown task label 'Task9'"],
        "forget:10": ['id "f1sc1" already stands at forget.jsonl:1 (forget)'],
        "forget:11": ["byte 12 of the line, 0xe9, is not UTF-8"],
        "forget:12": ['field "input" is blank', 'field "output" is null, not a string'],
        "forget:13": ['document "f1" belongs to bios here and to wiki at forget.jsonl:1'],
        "forget:14": ['field "input" holds half a surrogate pair'],
        "forget:15": ["id 'nine' does not end in sc or qa and a number", "unknown task label 'wiki'"],
    }


def test_overlap_of_forget_and_retain_names_both_places(tmp_path):
    forget = [row("asc1"), row("bsc1"), row("csc1"), row("csc2")]
    retain = [row("zsc1"), row('"a"sc1'), row("bqa0"), row("bqa1"), row("ysc1", input="in csc1", output="out csc1")]
    assert problems_of(tmp_path, forget, retain) == {
        "retain:2": ['id "asc1" already stands at forget.jsonl:1 (forget)'],
        "retain:3": ['document "b" already stands at forget.jsonl:2 (forget)'],  # once per document
        "retain:5": ["the same text already stands at forget.jsonl:3 (forget)"],
    }


def test_empty_file(tmp_path):
    assert problems_of(tmp_path, [], ["", " "]) == {
        "forget:1": ["the file has no rows"],
        "retain:1": ["the file has no rows"],
    }


def test_malformed_membership_files(tmp_path):
    write(tmp_path / "mia_data" / "member.jsonl", [{"id": "m1", "document": "x"}, {"id": "m2"}])
    nonmembers = [{"id": "m1", "document": "y"}, {"id": "n1", "document": "x"}, {"id": "f", "document": "z"}]
    write(tmp_path / "mia_data" / "nonmember.jsonl", nonmembers)
    assert problems_of(tmp_path, [row("fsc1")]) == {
        "mia_data/member:2": ['field "document" is missing'],
        "mia_data/nonmember:1": ['id "m1doc" already stands at mia_data/member.jsonl:1 (member)'],
        "mia_data/nonmember:2": ["the same text already stands at mia_data/member.jsonl:1 (member)"],
        "mia_data/nonmember:3": ['document "f" already stands at forget.jsonl:1 (forget)'],
    }


def test_malformed_parquet(tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = [row("asc1"), row("bsc1", output=None), row("c"), row("asc1")]
    pandas.DataFrame(rows).to_parquet(tmp_path / "forget_train-0.parquet")
    pandas.DataFrame([row("dsc1")]).drop(columns="task").to_parquet(tmp_path / "retain_train-0.parquet")
    (tmp_path / "retain_train-1.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError) as caught:
        folder_task(tmp_path, ("wiki",)).load(0)
    problems = [(problem.where.removeprefix(f"{tmp_path}/"), problem.what) for problem in caught.value.problems]
    assert problems[:4] == [
        ("forget_train-0.parquet:row 2", 'field "output" is null, not a string'),
        ("forget_train-0.parquet:row 3", "id 'c' does not end in sc or qa and a number"),
        (
            "forget_train-0.parquet:row 4",
            f'id "asc1" already stands at {tmp_path}/forget_train-0.parquet:row 1 (forget)',
        ),
        ("retain_train-0.parquet", "no column task; there are id, input, output"),
    ]
    assert problems[4][0] == "retain_train-1.parquet" and "not a readable parquet file" in problems[4][1]
    assert len(problems) == 5


def test_long_lists_are_cut_and_counted(tmp_path):
    write(tmp_path / "forget.jsonl", [row("f")] * 60)
    write(tmp_path / "retain.jsonl", [row("r")] * 7)
    with pytest.raises(DataError) as caught:
        folder_task(tmp_path).load(0)
    assert len(caught.value.problems) == MOST_PROBLEMS + 1
    counts = f"10 in {tmp_path}/forget.jsonl, 7 in {tmp_path}/retain.jsonl"
    assert caught.value.problems[-1].what == f"17 more problems ({counts}), 67 in all"


def test_absent_subtask_says_what_is_there(tmp_path):
    write_folder(tmp_path, {"bios": 1, "wiki": 2})
    with pytest.raises(DataError, match=r"forget rows: no row of novels; there are Task2 \(bios\), Task3 \(wiki\)"):
        folder_task(tmp_path).load(0)


# --- private facts ---------------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize(("folder", "people"), [("lume", 500), ("semeval25", 257)])
def test_real_questions_about_private_facts(folder, people):
    data = folder_task(DATA / folder).load(0)
    asked = [
        example for example in data.forget + data.retain if example.subtask == "bios" and example.kind == Kind.QUESTION
    ]
    known = {example.id for example in asked}
    others = [example for example in data.forget + data.retain if example.id not in known]
    assert Counter(example.attribute for example in asked) == dict.fromkeys(
        ("ssn", "phone", "email", "address", "birth_date"), people
    )
    assert not [example for example in others if example.attribute or example.rephrasings]
    assert all(
        attribute_of("", example.answer) == attribute_of(example.prompt, "") == example.attribute for example in asked
    )
    assert {len(example.rephrasings) for example in asked} == {2}
    wordings = [wording for example in asked for wording in (example.prompt, *example.rephrasings)]
    assert len(set(wordings)) == 3 * len(asked)
    assert not [wording for wording in wordings if "'s?" in wording or "'s's" in wording]


@pytest.mark.parametrize(
    ("question", "answer", "attribute"),
    [
        ("", "900-12-3456", "ssn"),
        ("", "900123456", "ssn"),
        ("", "(937) 812-5913", "phone"),
        ("", "+1 937 812 5913", "phone"),
        ("", "16 October 1990", "birth_date"),
        ("", "October 16, 1990.", "birth_date"),
        ("", "ann@me.com", "email"),
        ("", "12 Main Street, Boston, MA 02108", "address"),
        ("What is her e-mail address?", "not known", "email"),
        ("Where does she live?", "in Boston", "address"),
        ("When was she born?", "in 1990", "birth_date"),
        ("What is her phone number?", "900123456", "ssn"),  # the form decides
        ("Who is she?", "Ann", ""),
    ],
)
def test_the_answer_decides_what_is_private(question, answer, attribute):
    assert attribute_of(question, answer) == attribute


def test_rephrasings_need_a_question_of_a_known_form():
    ssn = ("What is the Social Security number of Ann O'Hara?", "Which Social Security number belongs to Ann O'Hara?")
    assert rephrasings_of("What is Ann O'Hara's Social Security Number?", "ssn") == ssn
    home = ("What is Mary-Ann De Wit's home address?", "Where does Mary-Ann De Wit live?")
    assert rephrasings_of("What is the home address of Mary-Ann De Wit?", "address") == home
    assert rephrasings_of("What is Ann Jones' phone number?", "phone")[1] == "Which phone number reaches Ann Jones?"
    assert rephrasings_of("Tell me the SSN of Ann Jones.", "ssn") == ()
    assert rephrasings_of("What is her phone number?", "phone") == ()
    assert rephrasings_of("What is the birth date of Ann Jones?", "") == ()


def test_private_facts_are_asked_for_in_biographies_only(tmp_path):
    rows = [row("aqa0", "Task2", output="900123456"), row("asc1", "Task2", output="900123456")]
    write(tmp_path / "forget.jsonl", [*rows, row("bqa0", "Task3", output="900123457")])
    write(tmp_path / "retain.jsonl", [row("csc1", "Task2"), row("dsc1", "Task3")])
    data = folder_task(tmp_path, ("bios", "wiki")).load(0)
    assert [example.attribute for example in data.forget] == ["ssn", "", ""]


# --- choosing documents ----------------------------------------------------------------------------------------------


def test_number_of_documents_is_spread_evenly(tmp_path):
    write_folder(tmp_path, {"novels": 9, "bios": 9, "wiki": 9})
    for count in range(1, 28):
        data = folder_task(tmp_path, num_documents=count).load(0)
        for split in (Split.FORGET, Split.RETAIN):
            names = documents(data, split)
            assert len(names) == len(set(names)) == count  # all prompts of a document stand together
            shares = Counter(name.split("-")[1] for name in names)
            assert max(shares.values()) - min(shares[subtask] for subtask in SUBTASKS) <= 1
        assert len(data.forget) == 2 * count


def test_short_subtask_gives_all_and_others_fill_up(tmp_path):
    write_folder(tmp_path, {"novels": 9, "bios": 1, "wiki": 9})
    names = documents(folder_task(tmp_path, num_documents=9).load(0), Split.FORGET)
    assert Counter(name.split("-")[1] for name in names) == {"novels": 4, "bios": 1, "wiki": 4}


def test_choice_is_deterministic_seeded_and_grows(tmp_path):
    write_folder(tmp_path, {"novels": 9, "bios": 9, "wiki": 9})
    chosen = [set(documents(folder_task(tmp_path, num_documents=n).load(1), Split.RETAIN)) for n in range(1, 28)]
    assert all(smaller < larger for smaller, larger in pairwise(chosen))
    again = folder_task(tmp_path, num_documents=6).load(1)
    assert again == folder_task(tmp_path, ("wiki", "bios", "novels"), num_documents=6).load(1)
    assert documents(again, Split.FORGET) != documents(folder_task(tmp_path, num_documents=6).load(2), Split.FORGET)


def test_choice_ignores_file_order_but_keeps_it(tmp_path):
    rows = rows_of("forget", {"novels": 9, "bios": 9, "wiki": 9})
    write_folder(tmp_path, {"novels": 9, "bios": 9, "wiki": 9})
    first = documents(folder_task(tmp_path, num_documents=7).load(0), Split.FORGET)
    write(tmp_path / "forget.jsonl", rows[::-1])
    assert documents(folder_task(tmp_path, num_documents=7).load(0), Split.FORGET) == first[::-1]
    order = list(dict.fromkeys(fields["id"][:-3] for fields in rows))
    assert first == [name for name in order if name in first]


def test_too_many_documents_asked_for(tmp_path):
    write_folder(tmp_path, {"novels": 2, "bios": 1, "wiki": 2})
    with pytest.raises(DataError) as caught:
        folder_task(tmp_path, ("novels", "wiki"), num_documents=5).load(0)
    assert [problem.what for problem in caught.value.problems] == [
        "5 documents were asked for and there are 4 (novels, wiki)"
    ] * 2
    assert len(documents(folder_task(tmp_path, num_documents=5).load(0), Split.FORGET)) == 5


def test_leftover_nonmembers_are_unused_documents(tmp_path):
    write_folder(tmp_path, {"novels": 4, "bios": 4, "wiki": 4})
    data = folder_task(tmp_path, num_documents=6).load(0)
    assert data.leftover_nonmembers and len(data.members) == len(data.nonmembers) == 6
    used = {example.document for example in data.forget + data.retain}
    assert not used & {page.document for page in data.nonmembers}
    assert {page.document for page in data.members} == {example.document for example in data.forget}
    assert Counter(page.subtask for page in data.nonmembers) == Counter(page.subtask for page in data.members)
    assert data.nonmembers[0].answer == f"in {data.nonmembers[0].raw_id} out {data.nonmembers[0].raw_id}"
    assert data == folder_task(tmp_path, num_documents=6).load(0)


def test_fewer_leftovers_than_members(tmp_path):
    write_folder(tmp_path, {"wiki": 4})
    assert len(folder_task(tmp_path, ("wiki",), num_documents=3).load(0).nonmembers) == 2
    full = folder_task(tmp_path, ("wiki",), num_documents=4).load(0)
    assert (full.nonmembers, full.leftover_nonmembers) == ((), False)


def test_choose_pins_the_shuffle(tmp_path):
    """The chosen documents are part of a published experiment: a changed shuffle must be noticed."""
    write_folder(tmp_path, {"wiki": 9})
    everything = folder_task(tmp_path, ("wiki",)).load(0)
    chosen = choose_documents(group_by_document(everything.forget, ("wiki",)), 3, 0, Split.FORGET)
    assert list(chosen) == ["forget-wiki-4", "forget-wiki-6", "forget-wiki-7"]


@needs_data
def test_real_choice_is_balanced_and_disjoint():
    for folder in ("lume", "semeval25"):
        data = folder_task(DATA / folder, num_documents=20).load(3)
        assert Counter(page.subtask for page in data.members) == {"novels": 7, "bios": 7, "wiki": 6}
        used = {example.document for example in data.forget + data.retain}
        assert len(used) == 40 and len(data.nonmembers) == 20
        assert not used & {page.document for page in data.nonmembers}
        assert "20 of" in data.source and "leftover" in data.source


# --- check, built-in data, hub ---------------------------------------------------------------------------------------


def places(task: LumeTask) -> list[str]:
    assert all(problem.remedy for problem in task.check())
    return [problem.where for problem in task.check()]


def test_check(tmp_path):
    empty, half = tmp_path / "empty", tmp_path / "half"
    empty.mkdir()
    write(half / "forget.jsonl", [row("asc1")])
    write(half / "nonmember.jsonl", [{"id": "a", "document": "b"}])
    assert places(folder_task(write_folder(tmp_path, {"wiki": 1}))) == []
    assert places(LumeTask(name="lume", subtasks=SUBTASKS, source="folder")) == ["task.data_dir"]
    assert places(folder_task(tmp_path / "absent")) == ["task.data_dir"]
    assert places(folder_task(half / "forget.jsonl")) == ["task.data_dir"]
    assert places(folder_task(empty)) == ["task.data_dir"]
    assert places(folder_task(half)) == ["task.data_dir"] * 2
    assert "without its retain counterpart" in folder_task(half).check()[0].what
    assert places(folder_task(tmp_path, num_documents=0)) == ["task.num_documents"]
    assert places(folder_task(tmp_path, split="train")) == ["task.split"]
    assert places(LumeTask(name="lume", subtasks=SUBTASKS, source="builtin", split="train")) == ["task.split"]
    assert places(LumeTask(name="lume", subtasks=("poems",), source="hub")) == ["task.subtasks"]
    assert places(LumeTask(name="lume", subtasks=(), source="builtin", num_documents=-1)) == [
        "task.subtasks",
        "task.num_documents",
    ]
    with pytest.raises(ConfigError, match="does not exist"):
        folder_task(tmp_path / "absent").load(0)


def test_builtin_refuses_more_documents_than_it_can_name():
    (problem,) = LumeTask(name="bios", subtasks=["bios"], source="builtin", num_documents=5000).check()
    assert problem.where == "task.num_documents"


def test_builtin_asks_the_generator(monkeypatch):
    def generate(**options) -> TaskData:
        return TaskData(forget=(), retain=(), source=repr(options))

    monkeypatch.setattr("lume_run.tasks.builtin.generator.generate_task", generate)
    task = LumeTask(name="lume", subtasks=["wiki", "bios"], source="builtin")
    assert task.load(5).source == "{'subtasks': ('bios', 'wiki'), 'num_documents': 12, 'seed': 5}"
    few = LumeTask(name="bios", subtasks=["bios"], source="builtin", num_documents=3)
    assert few.load(5).source == "{'subtasks': ('bios',), 'num_documents': 3, 'seed': 5}"


@pytest.fixture
def silent_hub(monkeypatch, tmp_path):
    """A hub that takes connections and never answers, and an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("lume_run.tasks.semeval.files.HUB_PATIENCE_SECONDS", 0.2)
        yield constants


def test_unreachable_hub(silent_hub):
    begun = time.monotonic()
    with pytest.raises(RunError) as caught:
        LumeTask(name="lume", subtasks=SUBTASKS, source="hub").load(0)
    assert time.monotonic() - begun < 10
    message = str(caught.value)
    assert "llmunlearningsemeval2025organization/semeval25-unlearning-dataset-public" in message
    assert all(word in message for word in ("HF_TOKEN", "HF_HOME", "task.data_dir=FOLDER"))
    assert len(message.splitlines()) == 3 and "Traceback" not in message


def test_offline_hub_is_not_asked(silent_hub, monkeypatch):
    monkeypatch.setattr(silent_hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("lume_run.tasks.semeval.files.HUB_PATIENCE_SECONDS", 60)
    begun = time.monotonic()
    with pytest.raises(RunError, match="some/data"):
        download_dataset("some/data")
    assert time.monotonic() - begun < 5


def test_hub_snapshot_is_read_as_a_folder(monkeypatch, tmp_path):
    write_folder(tmp_path, {"wiki": 2})
    monkeypatch.setattr("lume_run.tasks.lume.download_dataset", lambda hub_id: tmp_path)
    data = LumeTask(name="wiki", subtasks=("wiki",), source="hub", hub_id="some/data").load(0)
    assert len(data.forget) == 4 and data.source.startswith("hub some/data (jsonl; wiki;")
    (tmp_path / "retain.jsonl").unlink()
    with pytest.raises(DataError, match="hub some/data"):
        LumeTask(name="wiki", subtasks=("wiki",), source="hub", hub_id="some/data").load(0)
