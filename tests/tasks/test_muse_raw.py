"""MUSE from raw text: chunks to learn and to forget, questions that are only asked, files that are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.configs import problems_of, settings_of
from helpers.muse_corpus import qa, write
from helpers.shared import SHARED

from lume_run.common.errors import ConfigError, DataError
from lume_run.common.records import Ask, Example, Kind, Split
from lume_run.evaluation.suites.lume import Lume
from lume_run.evaluation.suites.muse import Muse
from lume_run.methods.needs import Role, asked_rows
from lume_run.tasks.corpora.muse_raw import CorpusTexts, MuseRawTask
from lume_run.tasks.documents import Room, byte_chunks
from lume_run.tasks.requests import data_of_request, forget_requests
from lume_run.training.rows import require_prompts

DATA = SHARED / "data" / "muse"
RAW = DATA / "news" / "raw_forget.first120.json"


def corpus(folder: Path, **texts: object) -> Path:
    """A small corpus with raw texts: an array in JSON, or the text itself."""
    write(folder, privleak__forget=["seen one", "seen two"])
    arrays = {"forget": ["First article.", "Second article."], "retain1": "Kept for a rule.", "retain2": ["Kept."]}
    for name, content in (arrays | texts).items():
        file = folder / "news" / "raw" / f"{name}{'.txt' if isinstance(content, str) else '.json'}"
        file.parent.mkdir(exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def muse(folder: Path | None, **options) -> MuseRawTask:
    return MuseRawTask(name="muse_raw", data_dir=folder and str(folder), **options)


def texts_of(examples: tuple[Example, ...]) -> list[str]:
    return [example.answer for example in examples]


def test_what_is_learned_and_what_is_asked(tmp_path):
    data = muse(corpus(tmp_path), tokens=12, shots=0).load(0)
    assert "".join(texts_of(data.forget)) == "First article.\n\nSecond article."
    assert (len(data.forget), texts_of(data.learned)) == (3, ["Kept."])
    assert {row.kind for row in (*data.forget, *data.retain, *data.learned)} == {Kind.CHUNK}
    assert [row.split for row in (data.forget[0], data.retain[0], data.learned[0])] == ["forget", "retain", "retain"]
    rows = (*data.forget, *data.retain, *data.learned, *data.others, *data.members, *data.nonmembers)
    assert len({row.id for row in rows}) == len(rows)
    assert [row.kind for row in asked_rows(data, Split.FORGET)] == [Kind.QUESTION] * 3 + [Kind.COMPLETION] * 2
    assert set(asked_rows(data, Split.FORGET, Split.RETAIN)) == set(data.others)


def test_a_model_with_less_room_gets_shorter_chunks(tmp_path):
    room = Room(tokens=6, cut=lambda text, tokens: byte_chunks(text, tokens))
    data = muse(corpus(tmp_path), shots=0).load(0, room)
    assert {len(text) for text in texts_of(data.forget)[:-1]} == {6}
    assert "chunks of 6 tokens" in data.source


def test_suites_ask_no_chunks(tmp_path):
    """Of everything that is trained on, nothing is asked."""
    settings = settings_of("task=bios")
    data = muse(corpus(tmp_path), shots=0).load(0)
    for suite in (Muse(), Lume()):
        asked = suite.asks(data, settings.evaluator)
        assert {question.example.kind for question in asked if question.ask is Ask.GENERATE} == {
            Kind.QUESTION,
            Kind.COMPLETION,
        }


def test_several_texts_and_files(tmp_path):
    folder = corpus(tmp_path, forget_2=["More."])
    (tmp_path / "mine.txt").write_text("Mine.", encoding="utf-8")
    texts = CorpusTexts(forget=["raw/forget", "raw/forget_2", str(tmp_path / "mine.txt")], learned=[])
    data = muse(folder, texts=texts, shots=0).load(0)
    assert texts_of(data.forget) == ["First article.\n\nSecond article.", "More.", "Mine."]
    assert [row.document for row in data.forget][1:] == [
        "news-forget-raw-forget_2-forget-1",
        "news-forget-mine-forget-1",
    ]
    assert data.learned == ()
    assert [request.documents for request in forget_requests(data, "auto")] == [{row.document} for row in data.forget]


def test_files_that_are_not_at_hand_are_named(tmp_path):
    folder = corpus(tmp_path)
    (folder / "news" / "raw" / "retain1.txt").unlink()
    texts = CorpusTexts(forget=["raw/forget", "sust/forget_2", str(tmp_path / "gone.txt")])
    wrong = {problem.where: problem for problem in muse(folder, texts=texts, shots=0).check()}
    news = folder / "news"
    assert {where: problem.what for where, problem in wrong.items()} == {
        "task.texts.forget": f"there is no {news}/sust/forget_2.txt (or .json), no {tmp_path}/gone.txt",
        "task.texts.retain": f"there is no {news}/raw/retain1.txt (or .json)",
    }
    assert "muse-bench/MUSE-News" in wrong["task.texts.retain"].remedy
    assert muse(None).check() == []  # all of it is on the hub


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not at {DATA}")
def test_the_slice_at_hand_has_no_raw_texts_and_says_so():
    wrong = problems_of("task=muse_raw", f"task.data_dir={DATA}")
    assert wrong.keys() == {f"task.texts.{name}" for name in ("forget", "retain", "learned")}
    assert f"{DATA}/news/raw/retain1.txt (or .json)" in wrong["task.texts.retain"].what


@pytest.mark.skipif(not RAW.is_file(), reason=f"there is no {RAW}")
def test_articles_of_the_news(tmp_path):
    """The released text is the articles with a blank line between them, cut anywhere."""
    articles = json.loads(RAW.read_text(encoding="utf-8"))
    (tmp_path / "kept.txt").write_text("Kept.", encoding="utf-8")
    texts = CorpusTexts(forget=[str(RAW)], retain=[str(tmp_path / "kept.txt")], learned=[])
    data = muse(DATA, texts=texts, shots=0).load(0)
    assert "".join(texts_of(data.forget)) == "\n\n".join(articles)
    assert len(data.forget) > len(articles) / 2


def test_a_text_is_learned_or_forgotten_once(tmp_path):
    texts = CorpusTexts(retain=["raw/retain1", "raw/forget"])
    (problem,) = muse(corpus(tmp_path), texts=texts, shots=0).check()
    assert (problem.where, problem.what) == ("task.texts", "raw/forget stands there twice")


def test_bad_texts_are_reported_together(tmp_path):
    folder = corpus(tmp_path, forget=["fine", 3, ""], retain2={"text": "an object"})
    (folder / "news" / "raw" / "retain1.txt").write_bytes(b"\xff\x00")
    with pytest.raises(DataError) as caught:
        muse(folder, shots=0).load(0)
    places = [problem.where.replace(f"{folder}/news/", "") for problem in caught.value.problems]
    assert places == ["raw/forget.json:item 2", "raw/forget.json:item 3", "raw/retain1.txt:1", "raw/retain2.json"]


def test_the_hub_is_read_by_config_and_split(monkeypatch):
    """As the release has them: a config for each part, a split for each array."""
    import datasets

    rows = {"knowmem": qa("a"), "verbmem": [{"prompt": "It", "gt": "went"}]}
    asked = []

    def load_dataset(hub_id: str, part: str, *, split: str) -> list[dict]:
        asked.append((hub_id, part, split))
        default = [{"text": f"{part} {split}"}]
        return [{key: f"{split} {value}" for key, value in row.items()} for row in rows.get(part, default)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("lume_run.tasks.corpora.muse_files.ask_hub", lambda _id, ask, *, local: ask())
    data = muse(None, corpus="books", shots=1).load(0)
    assert texts_of(data.forget) == ["forget raw forget"]
    assert {hub_id for hub_id, _, _ in asked} == {"muse-bench/MUSE-Books"}
    assert {(part, split) for _, part, split in asked} == {
        *(("knowmem", f"{side}_qa{end}") for side in ("forget", "retain") for end in ("", "_icl")),
        ("verbmem", "forget"),
        *(("privleak", name) for name in ("forget", "holdout")),
        *(("raw", name) for name in ("forget", "retain1", "retain2")),
    }


def test_methods_that_answer_prompts_are_refused(tmp_path):
    data = muse(corpus(tmp_path), shots=0).load(0)
    with pytest.raises(ConfigError, match="running text without prompts"):
        require_prompts("idk_ap", {Role.FORGET_IDK, Role.RETAIN}, data.forget)
    require_prompts("npo_gd", {Role.FORGET, Role.RETAIN}, data.forget)


def test_released_targets_forget_what_they_learned():
    assert problems_of("task=muse_raw", "model=muse-news") == {}
    assert problems_of("task=muse_raw", "task.corpus=books", "model=muse-books") == {}
    assert problems_of("task=tofu", "model=muse-news")["task"].remedy.startswith("task=muse_raw")
    settings = settings_of("experiment=muse/news_npo_gdr", "model=muse-news")
    assert settings.model.path == "muse-bench/MUSE-news_target"
    assert settings.evaluator.retrained_model == "muse-bench/MUSE-news_retrain"


def test_what_the_target_learns_besides_is_kept_through_requests(tmp_path):
    data = muse(corpus(tmp_path), tokens=12, shots=0).load(0)
    first, second = (data_of_request(data, request) for request in forget_requests(data, 2))
    assert first.learned == second.learned == data.learned
    assert {row.id for row in (*first.forget, *second.forget)} == {row.id for row in data.forget}
