"""WMDP: corpora in their released layouts (harmless texts of our own), questions, and texts that are shown nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.configs import CONF, settings_of

from lume_run.common.errors import ConfigError, DataError, RunError
from lume_run.common.records import Ask, Kind, Response, Split
from lume_run.config.overrides import compose
from lume_run.evaluation.datasets.wmdp import Wmdp
from lume_run.evaluation.suites.base import Answers
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.driver import run_pipeline
from lume_run.pipeline.dry_run import show_plan
from lume_run.tasks.corpora.wmdp import WmdpTask
from lume_run.tasks.documents import Room, byte_chunks

BIO = [f"Bread number {number} rises when yeast is kept warm, as every baker knows by heart." for number in range(4)]
CYBER = [f"A door number {number} is locked with a key that hangs beside it, for all to see." for number in range(3)]
WIKI = [
    "",
    " = Rain = \n",
    *(f"It rained {number} days on end in the hills above the lake, and then it stopped." for number in range(5)),
]
QUESTION = {"question": "What rises?", "choices": ["stone", "bread", "iron", "glass"], "answer": 1}


def folder_of(folder: Path, **files: list) -> Path:
    """The corpora as JSON lines: bio with objects, cyber with bare strings, as the first release had them."""
    contents = {
        "bio_remove_dataset.jsonl": [{"title": "Bread", "abstract": "", "text": text, "doi": "-"} for text in BIO],
        "cyber-forget-corpus.jsonl": CYBER,
        "wikitext.jsonl": [{"text": text} for text in WIKI],
        "wmdp-bio.json": [QUESTION, QUESTION | {"answer": 0}],
        "cyber_questions.json": [QUESTION],
    }
    for name, rows in (contents | files).items():
        text = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def wmdp(folder: Path, **options) -> WmdpTask:
    return WmdpTask(name="wmdp", data_dir=str(folder), **options)


def test_corpora_and_questions(tmp_path):
    data = wmdp(folder_of(tmp_path)).load(0)
    assert [row.answer for row in data.forget] == BIO + CYBER
    assert [row.answer for row in data.retain] == WIKI[2:]  # longer than 50 characters
    assert {row.kind for row in (*data.forget, *data.retain)} == {Kind.CHUNK}
    assert [(row.subtask, row.kind, row.answer) for row in data.others] == [
        ("bio", Kind.CHOICE, "B"),
        ("bio", Kind.CHOICE, "A"),
        ("cyber", Kind.CHOICE, "B"),
    ]
    assert data.others[2].prompt == (
        "The following are multiple choice questions (with answers) about cybersecurity.\n\n"
        "What rises?\nA. stone\nB. bread\nC. iron\nD. glass\nAnswer:"
    )
    rows = (*data.forget, *data.retain, *data.others)
    assert len({row.id for row in rows}) == len(rows)


def test_one_hazard_its_first_texts_and_their_beginnings(tmp_path):
    room = Room(tokens=20, cut=byte_chunks)
    data = wmdp(folder_of(tmp_path), subsets=["cyber"], first=2).load(0, room)
    assert [row.answer for row in data.forget] == [text[:20] for text in CYBER[:2]]
    assert len(data.retain) == 2
    assert {row.subtask for row in data.others} == {"cyber"}


def test_retain_corpora_of_the_same_fields(tmp_path):
    folder = folder_of(tmp_path, **{"bio-retain-corpus.jsonl": [{"text": WIKI[2]}]})
    data = wmdp(folder, subsets=["bio"], retain="corpora").load(0)
    assert [(row.subtask, row.answer) for row in data.retain] == [("bio", WIKI[2])]


def test_files_that_are_not_there(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "bio_remove_dataset.jsonl").unlink()
    (folder / "wikitext.jsonl").unlink()
    whats = [problem.what for problem in wmdp(folder).check()]
    assert ["bio-forget-corpus.jsonl" in what for what in whats] == [True, False]
    assert "wikitext.jsonl" in whats[1]
    with pytest.raises(ConfigError):
        wmdp(folder).load(0)
    with pytest.raises(ValueError, match="each once"):
        wmdp(folder, subsets=["bio", "bio"])


def test_bad_rows_are_named_without_their_text(tmp_path):
    folder = folder_of(
        tmp_path,
        **{
            "cyber-forget-corpus.jsonl": [*CYBER, {"body": CYBER[0]}, 3],
            "wmdp-bio.json": [QUESTION | {"answer": 4}, QUESTION | {"choices": ["a"]}, {"question": ""}],
        },
    )
    with pytest.raises(DataError) as caught:
        wmdp(folder).load(0)
    places = [problem.where.replace(f"{folder}/", "") for problem in caught.value.problems]
    assert places == [
        "cyber-forget-corpus.jsonl:4",
        "cyber-forget-corpus.jsonl:5",
        *(f"wmdp-bio.json:item {n}" for n in (1, 2, 3)),
    ]
    assert CYBER[0] not in str(caught.value)


def test_texts_that_are_forgotten_are_not_retained(tmp_path):
    folder = folder_of(tmp_path, **{"wikitext.jsonl": [{"text": text} for text in (WIKI[2], f"{BIO[0]} ", WIKI[3])]})
    data = wmdp(folder, subsets=["bio"]).load(0)
    assert [row.answer for row in data.retain] == [WIKI[2], WIKI[3]]
    assert "1 retained texts left out" in data.source


def test_what_is_no_text_is_named_without_it(tmp_path):
    bad = [{"text": text} for text in (f"{BIO[0]}\ud800", f"{BIO[1]}\0", " " * 60, " ")]
    folder = folder_of(tmp_path, **{"bio_remove_dataset.jsonl": [{"text": BIO[2]}, *bad]})
    (folder / "cyber_questions.json").unlink()
    (folder / "cyber_questions.json").mkdir()
    with pytest.raises(DataError) as caught:
        wmdp(folder).load(0)
    places = [problem.where.replace(f"{folder}/", "") for problem in caught.value.problems]
    assert places == [*(f"bio_remove_dataset.jsonl:{line}" for line in (2, 3, 4)), "cyber_questions.json"]
    assert "rises" not in str(caught.value)


def test_accuracy(tmp_path):
    settings = settings_of("task=bios", "evaluator=wmdp")
    asked = Wmdp().asks(wmdp(folder_of(tmp_path)).load(0), settings.evaluator)
    assert {(question.ask, question.example.kind) for question in asked} == {(Ask.CHOICE, Kind.CHOICE)}
    rows = [
        Response(
            id=example.id,
            ask=Ask.CHOICE,
            split=Split.FORGET,
            subtask=example.subtask,
            kind=example.kind,
            document=example.document,
            prompt=example.prompt,
            expected=example.answer,
            choices=example.choices,
            choice_logps=(-3.0, -1.0, -2.0, -4.0),
        )
        for example in (question.example for question in asked)
    ]
    scores = {score.name: score for score in Wmdp().scores(Answers(responses=rows, evaluator=settings.evaluator))}
    assert {name: score.value for name, score in scores.items()} == {
        "wmdp.bio.accuracy": 0.5,
        "wmdp.cyber.accuracy": 1.0,
        "mmlu.accuracy": None,
    }


def test_a_plan_shows_no_text_of_the_corpora(tmp_path, capsys):
    folder = folder_of(tmp_path)
    overrides = ["experiment=wmdp/rmu_bio_cyber", "model=tiny", f"task.data_dir={folder}", "model.trainable=null"]
    settings, _ = require_settings(compose([*overrides, "method.forget.layer=-1"], [CONF]))
    show_plan(settings, tmp_path / "run")
    shown = "".join(capsys.readouterr())
    assert "texts are hazardous and are not shown" in shown
    assert not any(words in shown for words in ("Bread", "yeast", "door", "locked"))


def test_a_layer_that_the_model_lacks_is_named_while_the_texts_are_out_of_reach(tmp_path, monkeypatch):
    def unreachable(*_arguments, **_options):
        raise RunError("no network")

    monkeypatch.setattr("lume_run.tasks.corpora.wmdp.ask_hub", unreachable)
    settings, _ = require_settings(compose(["experiment=wmdp/rmu_cyber", "model=tiny", "model.trainable=null"], [CONF]))
    with pytest.raises(ConfigError, match="layer 7 is read, but the last layer is 1"):
        show_plan(settings, tmp_path)


def test_no_prompt_is_shown_with_a_refusal_where_none_is_asked(tmp_path):
    words = ["task=wmdp", "evaluator=wmdp", "method=icu", "model=tiny", f"task.data_dir={folder_of(tmp_path)}"]
    with pytest.raises(ConfigError, match="'icu' shows forget prompts with refusals, and this task asks about none"):
        show_plan(require_settings(compose(words, [CONF]))[0], tmp_path / "run")
    instruction = "method.instruction='You know nothing of kitchens.'"
    words += ["method.forget_examples=0", "method.retain_examples=0", instruction]
    show_plan(require_settings(compose(words, [CONF]))[0], tmp_path / "run")


@pytest.mark.slow
def test_a_run_shows_no_text_of_the_corpora(tmp_path):
    """In no file of its folder: report, scores, responses, settings, offline tracking."""
    folder = tmp_path / "data"
    folder.mkdir()
    folder_of(folder)
    overrides = ["experiment=wmdp/rmu_bio_cyber", "model=tiny", f"task.data_dir={folder}", "model.trainable=null"]
    overrides += ["method.forget.layer=-1", f"output_dir={tmp_path}/out", "trainer=tiny", "trainer.train.epochs=1"]
    overrides += ["logger.mode=offline"]
    settings, _ = require_settings(compose(overrides, [CONF]))
    run_pipeline(settings, tmp_path / "run", identity={}, command=["lume-run"])
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert any(file.name == "report.md" for file in files)
    for file in files:
        content = file.read_bytes()
        assert not any(words in content for words in (b"yeast is kept", b"hangs beside")), file
