"""MUSE: real files, worked examples before questions, malformed arrays, config."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from helpers.muse_corpus import arrays, qa, write
from helpers.refused import problems_by_place
from helpers.shared import SHARED

from lume_run.common.errors import ConfigError
from lume_run.common.records import Kind, Split, TaskData
from lume_run.config.overrides import compose, conf_dir
from lume_run.pipeline.checks.config import check_config, require_settings
from lume_run.tasks.corpora.muse import MuseTask

DATA = SHARED / "data" / "muse"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not at {DATA}")


def muse(folder: Path = DATA, **options) -> MuseTask:
    return MuseTask(name="muse", data_dir=str(folder), **options)


def remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / "news" / f"{name}.json").unlink()


def everything(data: TaskData) -> list:
    return [*data.forget, *data.retain, *data.members, *data.nonmembers]


def refusal_of(task: MuseTask, folder: Path) -> dict[str, list[str]]:
    return problems_by_place(task, folder / "news", ".json")


# --- real files ------------------------------------------------------------------------------------------------------


@needs_data
def test_news():
    data = muse().load(0)
    assert Counter((row.subtask, row.kind, row.split) for row in everything(data)) == {
        ("knowmem", Kind.QUESTION, Split.FORGET): 100,
        ("knowmem", Kind.QUESTION, Split.RETAIN): 100,
        ("verbmem", Kind.COMPLETION, Split.FORGET): 100,
        ("privleak", Kind.DOCUMENT, Split.MEMBER): 100,
        ("privleak", Kind.DOCUMENT, Split.NONMEMBER): 100,
    }
    assert (len(data.members), len(data.nonmembers), data.others) == (100, 100, ())
    assert not data.leftover_nonmembers
    assert len({row.id for row in everything(data)}) == len({row.document for row in everything(data)}) == 500
    assert {len(row.id) - len(row.document) for row in everything(data)} == {3}
    assert "MUSE news" in data.source and "no raw text" in data.source


@needs_data
def test_books_have_questions_only():
    """Some of them twice, with one id each."""
    data = muse(corpus="books").load(0)
    assert (len(data.forget), len(data.retain), data.members, data.nonmembers) == (100, 100, (), ())
    assert len({row.prompt for row in data.forget}) == 98
    assert len({row.id for row in everything(data)}) == 200


@needs_data
def test_the_few_shot_prompt_of_the_news():
    data = muse().load(0)
    first = data.forget[0]
    blocks = first.prompt.split("\n\n")
    assert len(blocks) == 11
    assert blocks[-2].startswith(
        "Question: What was the name of Silvio Berlusconi's first construction company?\nAnswer: "
    )
    assert blocks[-1] == "Question: What year did the Orkney Islands become part of Scotland?\nAnswer: "
    assert first.answer == "1472"
    assert data.retain[0].prompt.startswith("Question: Who apologized to Mr. Farage")
    assert {row.prompt[: first.prompt.rindex("Question:")] for row in data.forget if row.subtask == "knowmem"} == {
        first.prompt[: first.prompt.rindex("Question:")]
    }


# --- small files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shots", "before"),
    [
        (0, ""),
        (1, "Question: before forget 0?\nAnswer: before forget, 0.\n\n"),
        (
            2,
            "Question: before forget 0?\nAnswer: before forget, 0.\n\n"
            "Question: before forget 1?\nAnswer: before forget, 1.\n\n",
        ),
    ],
)
def test_shots(tmp_path, shots, before):
    data = muse(write(tmp_path), shots=shots).load(0)
    assert data.forget[1].prompt == f"{before}Question: forget 1?\nAnswer: "
    assert data.retain[0].prompt == f"{before.replace('forget', 'retain')}Question: retain 0?\nAnswer: "


def test_continuations_and_texts(tmp_path):
    data = muse(write(tmp_path), shots=0).load(0)
    assert [(row.prompt, row.answer) for row in data.forget[3:]] == [("It went", "on."), ("It ended.\n", "Then")]
    assert [(row.id, row.document) for row in data.forget[2:4]] == [
        ("news-knowmem-forget-3qa0", "news-knowmem-forget-3"),
        ("news-verbmem-forget-1sc1", "news-verbmem-forget-1"),
    ]
    assert [(row.id, row.prompt, row.answer) for row in data.members] == [
        ("news-privleak-member-1doc", "", "seen one"),
        ("news-privleak-member-2doc", "", "seen two"),
    ]


def test_the_retain_questions_have_two_names(tmp_path):
    data = muse(write(tmp_path / "a"), shots=1).load(0)
    two = {f"knowmem__retain_qa{end}": arrays()[f"knowmem__retain2_qa{end}"] for end in ("", "_icl")}
    folder = write(tmp_path / "b", **two)
    remove(folder, "knowmem/retain2_qa", "knowmem/retain2_qa_icl")
    assert everything(muse(folder, shots=1).load(0)) == everything(data)


def test_num_documents(tmp_path):
    folder = write(tmp_path)
    data = muse(folder, shots=0, num_documents=2).load(1)
    assert Counter((row.subtask, row.split) for row in everything(data)) == {
        ("knowmem", Split.FORGET): 2,
        ("knowmem", Split.RETAIN): 2,
        ("verbmem", Split.FORGET): 2,
        ("privleak", Split.MEMBER): 2,
        ("privleak", Split.NONMEMBER): 2,
    }
    assert data == muse(folder, shots=0, num_documents=2).load(1)
    assert len({muse(folder, shots=0, num_documents=1).load(seed).retain for seed in range(9)}) == 3
    assert sorted(refusal_of(muse(folder, shots=0, num_documents=3), folder)) == [
        f"folder {folder}/news, forget rows of verbmem",
        f"folder {folder}/news, member rows of privleak",
    ]


def test_only_what_there_is(tmp_path):
    folder = write(tmp_path)
    remove(folder, "privleak/forget", "privleak/holdout", "verbmem/forget")
    data = muse(folder, shots=0).load(0)
    assert (len(data.forget), len(data.retain), data.members, data.nonmembers) == (3, 3, (), ())


# --- what is wrong ---------------------------------------------------------------------------------------------------


def test_malformed_rows_of_all_files_are_reported_together(tmp_path):
    folder = write(
        tmp_path,
        knowmem__forget_qa=[{"question": "Who?"}, *qa("forget"), {"question": 3, "answer": " "}],
        knowmem__forget_qa_icl=[{"question": "Who?", "answer": "Me", "more": 1}],
        knowmem__retain2_qa="[{",
        knowmem__retain2_qa_icl={"question": "Who?", "answer": "Me"},
        verbmem__forget=["text", {"prompt": "It went", "gt": ""}],
        privleak__forget=["", 4, "fine"],
        privleak__holdout=[],
    )
    problems = refusal_of(muse(folder, shots=2), folder)
    assert [what[:9] for what in problems.pop("knowmem/retain2_qa")] == ["not JSON:"]
    assert problems == {
        "knowmem/forget_qa:item 1": ['field "answer" is missing'],
        "knowmem/forget_qa:item 5": ['field "question" is 3, not a string', 'field "answer" is blank'],
        "knowmem/forget_qa_icl": ["2 examples were asked for and there are 1"],
        "knowmem/retain2_qa_icl": ["is not a JSON array"],
        "verbmem/forget:item 1": ['"text" is not a JSON object'],
        "verbmem/forget:item 2": ['field "gt" is blank'],
        "privleak/forget:item 1": ['field "text" is blank'],
        "privleak/forget:item 2": ['field "text" is 4, not a string'],
        "privleak/holdout": ["holds no rows"],
    }


def test_a_text_on_both_sides(tmp_path):
    folder = write(
        tmp_path,
        knowmem__retain2_qa=[*qa("retain"), qa("forget")[1]],
        privleak__forget=["seen one", "seen two", "seen one"],  # twice on one side is no harm
        privleak__holdout=["unseen", "seen two"],
    )
    assert refusal_of(muse(folder, shots=0), folder) == {
        "knowmem/retain2_qa:item 4": ["the same text already stands at knowmem/forget_qa:item 2"],
        "privleak/holdout:item 2": ["the same text already stands at privleak/forget:item 2"],
    }


@pytest.mark.parametrize(
    ("gone", "where", "what"),
    [
        (("knowmem/forget_qa",), "task.data_dir", "there is no {}/knowmem/forget_qa.json"),
        (
            ("knowmem/forget_qa", "knowmem/retain2_qa"),
            "task.data_dir",
            "there is no {0}/knowmem/forget_qa.json, no {0}/knowmem/retain2_qa.json",
        ),
        (("knowmem/retain2_qa_icl",), "task.shots", "{}/knowmem has no retain2_qa_icl.json"),
        (("privleak/holdout",), "task.data_dir", "{}/privleak has forget.json without its counterpart"),
        (("privleak/forget",), "task.data_dir", "{}/privleak has holdout.json without its counterpart"),
    ],
)
def test_missing_files(tmp_path, gone, where, what):
    folder = write(tmp_path)
    remove(folder, *gone)
    [problem] = muse(folder).check()
    assert (problem.where, problem.what) == (where, what.format(folder / "news"))
    with pytest.raises(ConfigError):
        muse(folder).load(0)


def test_examples_are_not_missed_without_shots(tmp_path):
    folder = write(tmp_path)
    remove(folder, "knowmem/retain2_qa_icl", "knowmem/forget_qa_icl")
    assert muse(folder, shots=0).check() == []
    assert "task.shots=0" in muse(folder).check()[0].remedy


# --- config ----------------------------------------------------------------------------------------------------------


def cfg_of(*overrides: str):
    return compose(overrides, [conf_dir()])


@needs_data
@pytest.mark.parametrize("corpus", ["news", "books"])
def test_it_composes(corpus):
    settings, _ = require_settings(cfg_of("task=muse", f"task.data_dir={DATA}", f"task.corpus={corpus}"))
    assert settings.task == muse(corpus=corpus)


@pytest.mark.parametrize(
    ("overrides", "where", "what"),
    [
        ((), "task.data_dir", "no folder is given"),
        (("task.data_dir=/gone",), "task.data_dir", "/gone does not exist"),
        (("task.corpus=films",), "task.corpus", "unknown value 'films'"),
        (("task.shots=-1",), "task.shots", "-1 is out of range"),
        (("task.num_documents=0",), "task.num_documents", "0 is out of range"),
    ],
)
def test_config_mistakes(overrides, where, what):
    problems = check_config(cfg_of("task=muse", *overrides))[1]
    assert [(problem.where, problem.what) for problem in problems] == [(where, what)]
    assert problems[0].remedy
