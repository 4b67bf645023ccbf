"""TOFU and the real people: real files, joins of questions and false answers, malformed rows, config."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.refused import problems_by_place
from helpers.shared import SHARED

from lume_run.common.errors import ConfigError, DataError, Problem, RunError
from lume_run.common.records import Chat, Kind, Split, TaskData
from lume_run.config.overrides import compose, conf_dir
from lume_run.models.rows.text_format import TextFormat
from lume_run.pipeline.checks.config import check_config, require_settings
from lume_run.tasks.question_sets.real_world import RealWorldTask
from lume_run.tasks.question_sets.tofu import TofuTask

DATA = SHARED / "data"
TOFU, PEOPLE = DATA / "tofu", DATA / "real_world_closer_look"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not at {DATA}")
SPLITS = {"forget01": (40, 3960), "forget05": (200, 3800), "forget10": (400, 3600)}


def tofu(folder: Path = TOFU, **options) -> TofuTask:
    return TofuTask(name="tofu", data_dir=str(folder), **options)


def people(folder: Path = PEOPLE, **options) -> RealWorldTask:
    return RealWorldTask(name="real_world", data_dir=str(folder), **options)


def pair(name: str, number: int) -> dict:
    return {"question": f"What did {name} do in {number}?", "answer": f"{name} wrote book {number}."}


def false(row: dict, wrong: int = 2, **fields) -> dict:
    """A row of a perturbed set."""
    extra = {"paraphrased_answer": f"Paraphrase of {row['answer']}", "paraphrased_question": f"Re: {row['question']}"}
    return row | extra | {"perturbed_answer": [f"Wrong {number}" for number in range(wrong)]} | fields


def author(name: str, questions: int = 20) -> list[dict]:
    return [pair(name, number) for number in range(questions)]


def option(question: str) -> dict:
    return {"question": question, "answer": "Yes", "perturbed_answer": ["No"], "original_answer": f"Yes: {question}"}


def write(path: Path, rows: list) -> None:
    """`rows` as JSON lines; a string stands for itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass"))


def release(**sets: list) -> dict[str, list]:
    """A small TOFU: three authors in forget10, the first of them in forget01, two to retain."""
    forget = [*author("Ann"), *author("Bea"), *author("Cyd")]
    retain = [*author("Dan"), *author("Eve")]
    rows = {
        "forget01": forget[:20],
        "forget10": forget,
        "retain90": retain,
        "forget01_perturbed": [false(row) for row in forget[:20]],
        "forget10_perturbed": [false(row) for row in forget],
        "retain_perturbed": [false(row) for row in retain[:20]],
        "real_authors_perturbed": [option("Did Homer write?")],
        "world_facts_perturbed": [option("Is Rome old?")],
    }
    return rows | sets


def write_release(folder: Path, ending: str = "jsonl", **sets: list) -> Path:
    for name, rows in release(**sets).items():
        write(folder / f"{name}.{ending}", rows)
    return folder


def refusal_of(task: TofuTask | RealWorldTask, folder: Path) -> dict[str, list[str]]:
    """What is refused, by place ("forget10:3" is line 3 of that file)."""
    return problems_by_place(task, folder, ".jsonl")


def everything(data: TaskData) -> list:
    return [*data.forget, *data.retain, *data.members, *data.nonmembers, *data.others]


def same_but_order(data: TaskData, other: TaskData) -> bool:
    return all(
        sorted(getattr(data, side), key=lambda example: example.id)
        == sorted(getattr(other, side), key=lambda example: example.id)
        for side in ("forget", "retain", "others")
    )


# --- TOFU, real files ------------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize("split", SPLITS)
def test_real_counts(split):
    data = tofu(split=split).load(0)
    assert (len(data.forget), len(data.retain)) == SPLITS[split]
    assert Counter(example.split for example in data.others) == {Split.REAL_AUTHORS: 100, Split.WORLD_FACTS: 117}
    assert (data.members, data.nonmembers, data.leftover_nonmembers) == ((), (), False)
    assert {example.split for example in data.forget} == {Split.FORGET}
    assert {example.split for example in data.retain} == {Split.RETAIN}
    assert {(example.subtask, example.kind) for example in everything(data)} == {("tofu", Kind.QUESTION)}
    ids = [example.id for example in everything(data)]
    assert len(set(ids)) == len(ids)
    assert split in data.source and str(TOFU) in data.source


@needs_data
def test_real_wordings_and_false_answers_in_a_chat():
    """In a chat template the question is the user's turn alone, and so are its other wordings; answers stay as read."""
    plain = tofu(split="forget01").load(0)
    chats = TextFormat(chat=Chat()).data(plain)
    text = (TOFU / "forget01_perturbed.jsonl").read_text(encoding="utf-8")
    rows = {row["question"]: row for row in (json.loads(line) for line in text.split("\n") if line)}
    assert len(chats.forget) == len(rows)
    for before, example in zip(plain.forget, chats.forget, strict=True):
        row = rows[example.prompt]
        assert (example.rephrasings, example.chat) == ((row["paraphrased_question"],), Chat())
        assert (example.paraphrases, example.perturbed) == (
            (row["paraphrased_answer"],),
            tuple(row["perturbed_answer"]),
        )
        assert before.prompt == f"Question: {example.prompt}\nAnswer:"
        assert before.rephrasings == (f"Question: {row['paraphrased_question']}\nAnswer:",)
    assert {example.chat for example in (*chats.retain, *chats.others)} == {Chat()}
    assert sum(bool(example.perturbed) for example in chats.retain) == 400


@needs_data
@pytest.mark.parametrize("split", SPLITS)
def test_real_retain_sets_are_everyone_else(split):
    data, largest = tofu(split=split).load(0), tofu(split="forget10").load(0)
    forget, retain = ({(row.prompt, row.answer) for row in rows} for rows in (data.forget, data.retain))
    assert not forget & retain
    assert forget | retain == {(row.prompt, row.answer) for row in (*largest.forget, *largest.retain)}
    assert not {row.document for row in data.forget} & {row.document for row in data.retain}
    ids = {(row.prompt, row.answer): row.id for row in (*largest.forget, *largest.retain)}
    assert all(ids[row.prompt, row.answer] == row.id for row in (*data.forget, *data.retain))


@needs_data
def test_real_documents_are_authors():
    """Nearly every question of a block of 20 names its author, and no other block's questions do."""
    data = tofu().load(0)
    counts = Counter(row.document for row in (*data.forget, *data.retain))
    assert len(counts) == 200 and set(counts.values()) == {20}
    for row, name in ((data.forget[25], "Abilov"), (data.forget[399], "Tae-ho Park"), (data.retain[5], "Vasquez")):
        naming = {other.document for other in (*data.forget, *data.retain) if name in other.prompt + other.answer}
        assert naming == {row.document}
    assert len({row.document for row in data.others}) == 217


@needs_data
def test_real_joins():
    data = tofu(split="forget05").load(0)
    assert all((len(row.paraphrases), len(row.perturbed), len(row.rephrasings)) == (1, 5, 1) for row in data.forget)
    covered = [row for row in data.retain if row.perturbed]
    assert len(covered) == 400
    assert all(row.paraphrases and row.rephrasings for row in covered)
    assert not any(row.paraphrases or row.rephrasings for row in data.retain if not row.perturbed)
    assert {(len(row.paraphrases), len(row.perturbed), len(row.rephrasings)) for row in data.others} == {(0, 3, 0)}
    first = data.forget[0]
    assert first.prompt == (
        "Question: What is the full name of the author born in Kuwait City, Kuwait on 08/09/1956?\nAnswer:"
    )
    assert first.answer.endswith("is Basil Mahfouz Al-Kuwaiti.")
    assert first.paraphrases[0].startswith("Basil Mahfouz Al-Kuwaiti is the complete name")
    assert first.perturbed[0].startswith("Gregor Mendel Al-Kuwaiti")
    assert first.rephrasings[0].startswith("Question: Can you tell me the complete name")
    assert first.rephrasings[0].endswith("\nAnswer:")
    assert data.others[0].answer == "William Shakespeare"
    assert data.others[0].sentence == "The play 'Romeo and Juliet' was written by William Shakespeare."
    assert all(row.sentence and row.sentence != row.answer for row in data.others)
    assert not any(row.sentence or row.golden for row in (*data.forget, *data.retain))


@needs_data
def test_a_question_that_stands_twice_is_joined_by_its_answer():
    rows = [row for row in tofu().load(0).retain if "What is the full name of the author?" in row.prompt]
    assert [(row.answer[-17:], bool(row.perturbed)) for row in rows] == [
        ("Aurelio Beltrán.".rjust(17), True),
        (" Isabel Martínez.", False),
    ]


# --- TOFU, small files -----------------------------------------------------------------------------------------------


def test_json_lines_by_either_ending(tmp_path):
    data = tofu(write_release(tmp_path / "a", "jsonl")).load(0)
    assert everything(data) == everything(tofu(write_release(tmp_path / "b", "json")).load(0))
    write(tmp_path / "a" / "forget10.json", ["broken"])  # where both stand, .jsonl is read
    assert everything(data) == everything(tofu(tmp_path / "a").load(0))


def test_ids_do_not_depend_on_the_order_of_authors(tmp_path):
    rows = release()
    turned = {
        "forget10": rows["forget10"][40:] + rows["forget10"][:40],
        "retain90": rows["retain90"][20:] + rows["retain90"][:20],
        "retain_perturbed": rows["retain_perturbed"][::-1],
    }
    ordered, turned_data = (
        tofu(write_release(tmp_path / name, **sets)).load(0) for name, sets in (("a", {}), ("b", turned))
    )
    assert ordered.forget != turned_data.forget
    assert same_but_order(ordered, turned_data)


def test_a_retain_set_of_its_own_goes_first(tmp_path):
    """retain99 where it stands; else retain90 with what is left of forget10."""
    folder = write_release(tmp_path)
    assert len(tofu(folder, split="forget01").load(0).retain) == 80
    write(folder / "retain99.jsonl", [*release()["retain90"], *author("Fay")])
    data = tofu(folder, split="forget01").load(0)
    assert len(data.retain) == 60
    assert data.retain[-1].answer == "Fay wrote book 19."
    assert len(tofu(folder, split="forget10").load(0).retain) == 40


def test_rows_that_are_no_whole_authors_stand_alone(tmp_path):
    folder = write_release(tmp_path, retain90=author("Dan", 19), retain_perturbed=[false(pair("Dan", 3))])
    data = tofu(folder).load(0)
    assert len({row.document for row in data.retain}) == 19
    assert {row.id for row in data.retain} == {f"{row.document}qa0" for row in data.retain}
    assert len({row.document for row in data.forget}) == 3


def test_lines_end_at_newlines_only(tmp_path):
    odd = {"question": "What\u2028now?", "answer": "This\u0085that."}
    data = tofu(write_release(tmp_path, retain90=[odd, pair("Dan", 1)], retain_perturbed=[false(odd)])).load(0)
    assert data.retain[0].answer == "This\u0085that."
    assert data.retain[0].perturbed == ("Wrong 0", "Wrong 1")


def test_template(tmp_path):
    folder = write_release(tmp_path)
    data = tofu(folder, template="[INST] {question} {x} [/INST]").load(0)
    assert data.forget[0].prompt == "[INST] What did Ann do in 0? {x} [/INST]"
    assert data.forget[0].rephrasings == ("[INST] Re: What did Ann do in 0? {x} [/INST]",)
    assert data.others[0].prompt == "[INST] Did Homer write? {x} [/INST]"


def test_a_template_needs_a_place_for_the_question(tmp_path):
    for task in (tofu(write_release(tmp_path), template="Question:"), people(PEOPLE, template="{Question}")):
        assert "task.template" in [problem.where for problem in task.check()]
        with pytest.raises(ConfigError, match=r"has no \{question\}"):
            task.load(0)


def test_num_documents(tmp_path):
    folder = write_release(tmp_path)
    all_, two, again, single = (tofu(folder, num_documents=count).load(3) for count in (None, 2, 2, 1))
    assert two == again
    for side in ("forget", "retain"):
        rows = getattr(two, side)
        assert Counter(Counter(row.document for row in rows).values()) == {20: 2}
        assert [row for row in getattr(all_, side) if row in rows] == list(rows)
        assert set(getattr(single, side)) < set(rows)
    assert two.others == all_.others
    assert "forget 2 of 3 documents (40 rows)" in two.source
    assert len({tofu(folder, num_documents=1).load(seed).forget for seed in range(8)}) > 1


def test_too_many_documents(tmp_path):
    problems = refusal_of(tofu(write_release(tmp_path), num_documents=4), tmp_path)
    assert sorted(what for whats in problems.values() for what in whats) == [
        "4 documents were asked for and there are 2",
        "4 documents were asked for and there are 3",
    ]


def test_holdout_rows_are_nonmembers(tmp_path):
    held_out = author("Zoe")
    folder = write_release(tmp_path, holdout10=held_out)
    data = tofu(folder).load(0)
    assert (len(data.members), len(data.nonmembers)) == (60, 20)
    assert data.members[0].answer == "Question: What did Ann do in 0?\nAnswer: Ann wrote book 0."
    assert data.nonmembers[0].answer == "Question: What did Zoe do in 0?\nAnswer: Zoe wrote book 0."
    assert {(row.kind, row.prompt, row.perturbed) for row in (*data.members, *data.nonmembers)} == {
        (Kind.DOCUMENT, "", ())
    }
    assert [row.document for row in data.members] == [row.document for row in data.forget]
    assert data.members[0].id == f"{data.forget[0].id}doc"
    assert {row.split for row in data.members} | {row.split for row in data.nonmembers} == {
        Split.MEMBER,
        Split.NONMEMBER,
    }
    ids = [row.id for row in everything(data)]
    assert len(set(ids)) == len(ids)
    assert tofu(folder, split="forget01").load(0).nonmembers == ()  # holdout10 belongs to forget10
    assert len(tofu(folder, num_documents=1).load(0).members) == 20
    spaced = tofu(folder, template="Q: {question}\nA: ").load(0)
    assert spaced.members[0].answer == "Q: What did Ann do in 0?\nA: Ann wrote book 0."


# --- TOFU, what is wrong ---------------------------------------------------------------------------------------------


def test_malformed_rows_of_all_files_are_reported_together(tmp_path):
    rows = release()
    folder = write_release(
        tmp_path,
        forget10=[*rows["forget10"][:2], "{", *rows["forget10"][3:]],
        retain90=[{"question": "Who?"}, {"question": " ", "answer": 3}, [], *rows["retain90"][3:]],
        forget10_perturbed=[
            {**rows["forget10_perturbed"][0], "perturbed_answer": "one"},
            {**rows["forget10_perturbed"][1], "perturbed_answer": []},
            {**rows["forget10_perturbed"][2], "perturbed_answer": ["fine", "", 7]},
            {key: text for key, text in rows["forget10_perturbed"][3].items() if key != "paraphrased_answer"},
        ],
        world_facts_perturbed=[{"question": "Is Rome old?", "answer": "Yes"}, option("Is it?") | {"answer": ""}],
        real_authors_perturbed=[],
    )
    problems = refusal_of(tofu(folder), folder)
    assert [what[:9] for what in problems.pop("forget10:3")] == ["not JSON:"]
    assert problems == {
        "retain90:1": ['field "answer" is missing'],
        "retain90:2": ['field "question" is blank', 'field "answer" is 3, not a string'],
        "retain90:3": ["[] is not a JSON object"],
        "forget10_perturbed:1": ['field "perturbed_answer" is missing or no list'],
        "forget10_perturbed:2": ['field "perturbed_answer" is missing or no list'],
        "forget10_perturbed:3": [
            'field "perturbed_answer[1]" is blank',
            'field "perturbed_answer[2]" is 7, not a string',
        ],
        "forget10_perturbed:4": ['field "paraphrased_answer" is missing'],
        "world_facts_perturbed:1": [
            'field "original_answer" is missing',
            'field "perturbed_answer" is missing or no list',
        ],
        "world_facts_perturbed:2": ['field "answer" is blank'],
        f"folder {folder}, real_authors_perturbed": ["the set has no rows"],
    }


def test_rows_that_do_not_fit_together(tmp_path):
    rows = release()
    folder = write_release(
        tmp_path,
        retain90=[*rows["retain90"], pair("Ann", 0), rows["retain90"][1]],
        forget10_perturbed=[
            *rows["forget10_perturbed"],
            false(pair("Nobody", 1)),
            false(pair("Ann", 5), answer="She did not."),
            rows["forget10_perturbed"][0],
        ],
        retain_perturbed=[false(pair("Bea", 0))],  # a forget row
        holdout10=[pair("Eve", 2)],
    )
    assert refusal_of(tofu(folder), folder) == {
        "retain90:41": ["the same text already stands at forget10:1"],
        "retain90:42": ["the same text already stands at retain90:2"],
        "holdout10:1": ["the same text already stands at retain90:23"],
        "forget10_perturbed:61": ["no row has this question"],
        "forget10_perturbed:62": ["the answer is not the one at forget10:6"],
        "forget10_perturbed:63": ["the same text already stands at forget10_perturbed:1"],
        "retain_perturbed:1": [
            "the same text already stands at forget10_perturbed:21",
            "no row has this question",
        ],
    }


def test_what_is_forgotten_is_found_where_it_is_kept_from(tmp_path):
    """A retain set put together would otherwise keep the row of forget10 that a reworded one of forget01 stands for."""
    rows = release()
    reworded = rows["forget01"][3] | {"answer": "Otherwise."}
    folder = write_release(
        tmp_path,
        forget01=[*rows["forget01"][:3], reworded, *rows["forget01"][4:]],
        forget01_perturbed=[false(reworded)],
        retain90=[*rows["retain90"], rows["forget01"][7]],
    )
    problems = refusal_of(tofu(folder, split="forget01"), folder)
    assert problems.pop("forget01:4") == ["the answer is not the one at forget10:4"]
    assert problems == {"retain90:41": ["the same text already stands at forget01:8"]}
    assert len(tofu(write_release(tmp_path / "fine"), split="forget01").load(0).retain) == 80


def test_a_broken_byte(tmp_path):
    folder = write_release(tmp_path)
    path = folder / "retain90.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Dan wrote book 4", b"D\xffn wrote book 4"))
    assert list(refusal_of(tofu(folder), folder)) == ["retain90:5"]


@pytest.mark.parametrize(
    ("split", "gone", "named"),
    [
        ("forget10", ("forget10", "world_facts_perturbed"), "forget10, world_facts_perturbed"),
        ("forget10", ("retain90",), "retain90"),
        ("forget01", ("retain90", "retain_perturbed"), "retain90, retain_perturbed"),
        ("forget01", ("forget10",), "forget10"),
        ("forget01", ("forget01_perturbed",), "forget01_perturbed"),
        ("forget05", (), "forget05, forget05_perturbed"),
    ],
)
def test_missing_sets(tmp_path, split, gone, named):
    folder = write_release(tmp_path)
    for name in gone:
        (folder / f"{name}.jsonl").unlink()
    [problem] = tofu(folder, split=split).check()
    assert (problem.where, problem.what) == ("task.data_dir", f"folder {folder} has no {named}")
    with pytest.raises(ConfigError):
        tofu(folder, split=split).load(0)


@pytest.mark.parametrize("task", [tofu, people])
def test_no_such_folder(tmp_path, task):
    assert [problem.what for problem in task(tmp_path / "gone").check()] == [f"{tmp_path / 'gone'} does not exist"]
    (tmp_path / "file").touch()
    assert [problem.what for problem in task(tmp_path / "file").check()] == [f"{tmp_path / 'file'} is not a folder"]


# --- the hub ---------------------------------------------------------------------------------------------------------


def fake_hub(monkeypatch, sets: dict[str, list]) -> list[tuple]:
    """`datasets` as far as it is used, without the network; what was asked for is noted."""
    asked = []

    def load_dataset(*arguments, split):
        asked.append((*arguments, split))
        return sets[arguments[1]]

    module = SimpleNamespace(load_dataset=load_dataset, get_dataset_config_names=lambda hub_id: list(sets))
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: None)
    return asked


def test_the_hub_gives_what_a_folder_gives(tmp_path, monkeypatch):
    sets = release(holdout10=author("Zoe"))
    asked = fake_hub(monkeypatch, sets)
    data = TofuTask(name="tofu").load(0)
    assert everything(data) == everything(tofu(write_release(tmp_path, **sets)).load(0))
    assert ("locuslab/TOFU", "forget10", "train") in asked
    assert data.source.startswith("hub locuslab/TOFU")


def test_problems_of_hub_rows(monkeypatch):
    fake_hub(monkeypatch, release(forget10=[{"question": "Who?", "answer": None}]))
    with pytest.raises(DataError, match=r"hub locuslab/TOFU, forget10:row 1.*not a string"):
        TofuTask(name="tofu").load(0)
    fake_hub(monkeypatch, {"full": []})
    with pytest.raises(DataError, match=r"task\.hub_id: hub mine has no forget10, retain90, forget10_perturbed, "):
        TofuTask(name="tofu", hub_id="mine").load(0)


def test_an_unreachable_hub_says_what_to_do(monkeypatch):
    fake_hub(monkeypatch, {})

    def fail(hub_id):
        raise ConnectionError("no route\nto the host")

    sys.modules["datasets"].get_dataset_config_names = fail
    with pytest.raises(RunError) as caught:
        TofuTask(name="tofu").load(0)
    assert "locuslab/TOFU could not be fetched" in str(caught.value)
    assert "ConnectionError: no route)" in str(caught.value)
    assert "task.data_dir=FOLDER" in str(caught.value)


# --- real people -----------------------------------------------------------------------------------------------------


@needs_data
def test_real_people_counts():
    data = people().load(0)
    assert (len(data.forget), len(data.retain), len(data.others)) == (400, 400, 400)
    assert {(row.split, row.subtask) for row in everything(data)} == {
        (Split.FORGET, "real_world"),
        (Split.RETAIN, "real_world"),
        (Split.NEIGHBORS, "real_world"),
    }
    assert {(row.split, row.subtask) for row in data.others} == {(Split.NEIGHBORS, "real_world")}
    for rows in (data.forget, data.retain, data.others):
        assert Counter(Counter(row.document for row in rows).values()) == {20: 20}
    ids = [row.id for row in everything(data)]
    assert len(set(ids)) == len(ids)
    for rows in (data.forget, data.others):
        assert all((len(row.paraphrases), len(row.perturbed), len(row.rephrasings)) == (1, 5, 1) for row in rows)
    assert not any(row.paraphrases or row.perturbed or row.rephrasings for row in data.retain)


@needs_data
def test_own_and_golden_answers():
    with_own, with_golden = people().load(0), people(reference="golden").load(0)
    assert with_own.forget[1].document == "Eddie Van Halen"
    assert with_own.forget[1].answer.startswith("Eddie Van Halen was an American musician, songwriter")
    assert with_own.forget[1].golden == with_golden.forget[1].answer == "Eddie Van Halen was American."
    assert with_own.forget[1].perturbed == with_golden.forget[1].perturbed
    assert with_golden.others[0].answer == with_own.others[0].golden == "Nick Frost was born on 28 March 1972."
    assert [row.id for row in everything(with_own)] == [row.id for row in everything(with_golden)]
    assert "own answers" in with_own.source and "golden answers" in with_golden.source


@needs_data
def test_a_golden_answer_stands_beside_another_one_only():
    """16 of the 400 answers of the model are the golden ones word for word."""
    with_own, with_golden = people().load(0), people(reference="golden").load(0)
    assert sum(not row.golden for row in with_own.forget) == 16
    assert with_own.forget[0].answer == "Eddie Van Halen was born on January 26, 1955."
    assert not any(row.golden for row in everything(with_golden))
    pairs = zip(everything(with_own), everything(with_golden), strict=True)
    assert all((row.golden or row.answer) == other.answer for row, other in pairs)


@needs_data
def test_some_real_people():
    data = people(num_documents=3).load(0)
    assert (len(data.forget), len(data.retain), len(data.others)) == (60, 60, 400)
    with pytest.raises(DataError, match="21 documents were asked for and there are 20"):
        people(num_documents=21).load(0)


def person(name: str, number: int) -> dict:
    return {"name": name, **pair(name, number), "golden_answer": f"Book {number}."}


def write_people(folder: Path, **sets: list) -> Path:
    forget = [person("Ann", 1), person("Ann", 2)]
    rows = {
        "forget": forget,
        "neighbor": [person("Bea", 1)],
        "forget_perturbed": [false(row) for row in forget],
        "neighbor_perturbed": [false(person("Cyd", 1))],
    }
    for name, lines in (rows | sets).items():
        write(folder / f"{name}.jsonl", lines)
    return folder


def test_malformed_people(tmp_path):
    folder = write_people(
        tmp_path,
        forget=["[]", person("Ann", 2) | {"golden_answer": ""}, person("Ann", 1) | {"name": None}],
        neighbor_perturbed=[person("Cyd", 1)],
    )
    assert refusal_of(people(folder), folder) == {
        "forget:1": ["[] is not a JSON object"],
        "forget:2": ['field "golden_answer" is blank'],
        "forget:3": ['field "name" is null, not a string'],
        "neighbor_perturbed:1": [
            'field "paraphrased_answer" is missing',
            'field "paraphrased_question" is missing',
            'field "perturbed_answer" is missing or no list',
        ],
    }


def test_people_in_two_sets(tmp_path):
    folder = write_people(
        tmp_path,
        neighbor=[person("Bea", 1), person("Ann", 3), person("Ann", 4)],
        forget_perturbed=[false(person("Ann", 9))],
        neighbor_perturbed=[false(person("Bea", 1))],
    )
    assert refusal_of(people(folder), folder) == {
        "forget_perturbed:1": ["no row has this question"],
        "neighbor:2": ["Ann already stands at forget:1 (forget)"],
        "neighbor_perturbed:1": [
            "the same text already stands at neighbor:1",
            "Bea already stands at neighbor:1 (neighbor)",
        ],
    }


def test_missing_people(tmp_path):
    assert [problem.what for problem in RealWorldTask(name="real_world").check()] == ["no folder is given"]
    (write_people(tmp_path) / "neighbor.jsonl").unlink()
    assert [problem.what for problem in people(tmp_path).check()] == [f"folder {tmp_path} has no neighbor"]


# --- config ----------------------------------------------------------------------------------------------------------


def cfg_of(*overrides: str):
    return compose(overrides, [conf_dir()])


def problems_of(*overrides: str) -> dict[str, Problem]:
    return {problem.where: problem for problem in check_config(cfg_of(*overrides))[1]}


@needs_data
@pytest.mark.parametrize("split", SPLITS)
def test_tofu_composes(split):
    settings, data = require_settings(cfg_of("task=tofu", f"task.data_dir={TOFU}", f"task.split={split}"))
    assert settings.task == tofu(split=split)
    assert data["task"]["template"] == "Question: {question}\nAnswer:"


def test_tofu_of_the_hub_composes():
    settings, _ = require_settings(cfg_of("task=tofu"))
    assert settings.task == TofuTask(name="tofu")


@needs_data
def test_real_people_compose():
    settings, _ = require_settings(cfg_of("task=real_world", f"task.data_dir={PEOPLE}", "task.reference=golden"))
    assert settings.task == people(reference="golden")


@pytest.mark.parametrize(
    ("overrides", "where", "what"),
    [
        (("task=tofu", "task.split=forget20"), "task.split", "unknown value 'forget20'"),
        (("task=tofu", "task.num_documents=0"), "task.num_documents", "0 is out of range"),
        (("task=tofu", "task.template=Question"), "task.template", "'Question' has no {question}"),
        (("task=tofu", "task.data_dir=/gone"), "task.data_dir", "/gone does not exist"),
        (("task=tofu", "+task.subtasks=[bios]"), "task.subtasks", "unknown key"),
        (("task=real_world",), "task.data_dir", "no folder is given"),
        (("task=real_world", "task.reference=gold"), "task.reference", "unknown value 'gold'"),
    ],
)
def test_config_mistakes(overrides, where, what):
    problems = problems_of(*overrides)
    assert problems.keys() == {where}
    assert problems[where].what == what
    assert problems[where].remedy
