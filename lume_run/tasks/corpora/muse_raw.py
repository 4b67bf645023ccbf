"""MUSE as published (Shi et al., arXiv:2407.06460): a model learns running text and forgets a part of it.

Text is cut into chunks of 2,048 tokens without regard to where articles begin. The target learns the forget text and
both retain texts, a retrained model the retain texts; unlearning has the chunks of retain1 as its retain set, and
questions are about retain2. Questions, continuations and whole texts for membership inference are asked, never learned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from lume_run.common.errors import ConfigError, DataError, Problem
from lume_run.common.records import Kind, Split, TaskData
from lume_run.common.seeds import stable_digest
from lume_run.common.text_files import file_fault, read_utf8
from lume_run.config.fields import setting
from lume_run.tasks.corpora.muse_files import (
    DATA_DIR,
    REFETCH,
    TEXT,
    ArrayReader,
    Corpus,
    CorpusFiles,
    CorpusHub,
    corpus_examples,
    load_array,
    probes,
)
from lume_run.tasks.documents import Cutter, Examples, Room, choose_by_side, describe_selection
from lume_run.tasks.question_files import folder_problems
from lume_run.tasks.row_files import VISIBLE, refuse

RELEASES = {"news": "muse-bench/MUSE-News", "books": "muse-bench/MUSE-Books"}
ENDINGS = (".txt", ".json")
BETWEEN = "\n\n"  # articles, as the release joins them
TEXT_HELP = "names such as raw/forget or sust/forget_2 in the corpus' folder (or on the hub), or .txt and .json files"


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusTexts:
    """What is learned, forgotten and retained: texts by name, or files; several are read one after another."""

    forget: list[str] = setting(factory=lambda: ["raw/forget"], help=f"to forget: {TEXT_HELP}")
    retain: list[str] = setting(factory=lambda: ["raw/retain1"], help="that regularises unlearning")
    learned: list[str] = setting(
        factory=lambda: ["raw/retain2"], help="that target and retrained model learn besides; [] with released ones"
    )


@dataclass(frozen=True, kw_only=True)
class MuseRawTask:
    """Which corpus, and where its texts are; without a folder all of it comes from the hub."""

    name: str
    data_dir: str | None = setting(None, help="folder with news/ and books/; null: the hub")
    corpus: Literal["news", "books"] = setting("news", help="BBC articles, or Harry Potter")
    texts: CorpusTexts = setting(factory=CorpusTexts, help="running text, see CorpusTexts")
    tokens: int = setting(2048, low=2, help="tokens of a chunk, fewer where the model has room for fewer")
    shots: int = setting(10, low=0, help="worked examples before each question")
    num_documents: int | None = setting(None, low=1, help="chunks and questions of each kind per split; null: all")
    cuts_texts: ClassVar[bool] = True

    def check(self) -> list[Problem]:
        """Problems visible without reading rows or asking the network."""
        problems = folder_problems(self.data_dir) if self.data_dir is not None else []
        if not problems and isinstance(self._corpus, CorpusFiles):
            problems = self._corpus.problems(self.shots)
        for name in ("forget", "retain"):
            if not getattr(self.texts, name):
                what, remedy = "no text is named", f"task.texts.{name}=[...], {TEXT_HELP}"
                problems.append(Problem(where=f"task.texts.{name}", what=what, remedy=remedy))
        return problems + list(self._text_problems())

    def load(self, seed: int, room: Room | None = None) -> TaskData:
        """The examples of the experiment; DataError with every problem, RunError where the hub gives none."""
        if problems := self.check():
            raise ConfigError(problems)
        room, reader = room or Room(), ArrayReader()
        tokens = min(self.tokens, room.tokens) if room.tokens else self.tokens
        parts = probes(reader, self._corpus, self.corpus, self.shots)
        homes: dict[bytes, str] = {}
        for name, split in (("forget", Split.FORGET), ("retain", Split.RETAIN), ("learned", Split.RETAIN)):
            if sources := getattr(self.texts, name):
                texts = {source: self._text(reader, source) for source in sources}
                reader.problems += running_text_problems(name, texts, homes) if not reader.problems else []
                parts[f"{name} text"] = self._chunks(texts, split, name, tokens, room.cut)
        if reader.problems:
            refuse(reader.problems)
        kept = choose_by_side(parts, self.num_documents, seed, self._corpus.origin)
        selection = describe_selection(kept, parts)
        by_text: dict[str, set[str]] = {}
        for row in parts["forget text"]:
            by_text.setdefault(row.subtask, set()).add(row.document)
        asked = [examples for part, examples in kept.items() if part.endswith(("knowmem", "verbmem"))]
        return TaskData(
            forget=kept["forget text"],
            retain=kept["retain text"],
            learned=kept.get("learned text", ()),
            members=kept.get("member privleak", ()),
            nonmembers=kept.get("nonmember privleak", ()),
            others=tuple(example for examples in asked for example in examples),
            requests=tuple(frozenset(documents) for documents in by_text.values()) if len(by_text) > 1 else (),
            source=f"{self._corpus.origin} (MUSE {self.corpus}, chunks of {tokens} tokens; {selection})",
        )

    @cached_property
    def _corpus(self) -> Corpus:
        if self.data_dir is None:
            return CorpusHub(hub_id=RELEASES[self.corpus])
        return CorpusFiles(folder=Path(self.data_dir).expanduser() / self.corpus)

    def _text_problems(self) -> Iterator[Problem]:
        """CorpusTexts that are named twice, and those that are neither there nor on the hub."""
        named = Counter(stem_of(source) for texts in asdict(self.texts).values() for source in texts)
        if twice := [stem.replace("-", "/", 1) for stem, count in named.items() if count > 1]:
            what, remedy = f"{', '.join(twice)} stands there twice", "one side for each text, each file another name"
            yield Problem(where="task.texts", what=what, remedy=remedy)
        for name in ("forget", "retain", "learned"):
            sources = getattr(self.texts, name)
            absent = [source for source in sources if self._file(source) is None and not self._is_on_hub(source)]
            if not absent:
                continue
            folder = self._corpus.folder if isinstance(self._corpus, CorpusFiles) else Path()
            files = (f"{folder / source}{'' if is_file(source) else '.txt (or .json)'}" for source in absent)
            remedy = f"the hub's {RELEASES[self.corpus]} has it, without {DATA_DIR}; or task.texts.{name}=[FILE.txt]"
            remedy += "; or [] with a released target, which has learned it" if name == "learned" else ""
            yield Problem(where=f"task.texts.{name}", what=f"there is no {', no '.join(files)}", remedy=remedy)

    def _is_on_hub(self, source: str) -> bool:
        return self.data_dir is None and not is_file(source) and source.count("/") == 1

    def _file(self, source: str) -> Path | None:
        """The file that a source is, as it stands or by its name in the corpus' folder."""
        path = Path(source).expanduser()
        if is_file(source):
            return path if not file_fault(path) else None
        if not isinstance(self._corpus, CorpusFiles):
            return None
        files = (self._corpus.folder / f"{source}{ending}" for ending in ENDINGS)
        return next((file for file in files if not file_fault(file)), None)

    def _chunks(self, texts: Mapping[str, str], split: Split, side: str, tokens: int, cut: Cutter) -> Examples:
        """The chunks of texts by their source, each text cut on its own, numbered within it."""
        chunks: list[Any] = []
        for source, text in texts.items():
            pairs = [("", chunk) for chunk in cut(text, tokens)]
            chunks += corpus_examples(pairs, f"{self.corpus}-{side}", split, stem_of(source), Kind.CHUNK)
        return tuple(chunks)

    def _text(self, reader: ArrayReader, source: str) -> str:
        """A text, the articles of an array with a blank line between them; "" where there are problems."""
        file = self._file(source)
        if file is not None and file.suffix == ".txt":
            try:
                return read_utf8(file, remedy=REFETCH)
            except DataError as error:
                reader.problems += error.problems
                return ""
        part, _, name = source.partition("/")
        array_of = (lambda: (str(file), load_array(file))) if file else lambda: self._corpus.array(part, name)
        return BETWEEN.join(item["text"] for _, item in reader.read(array_of, TEXT))


def running_text_problems(side: str, texts: Mapping[str, str], homes: dict[bytes, str]) -> Iterator[Problem]:
    """Texts of a side, by source, that are blank or stand in `homes` already; those that do not are added there."""
    for source, text in texts.items():
        where = f"task.texts.{side}"
        home = homes.setdefault(stable_digest(text.strip()), f"{source} ({where})")
        if not VISIBLE.search(text):
            name = source if is_file(source) else f"{source}.txt"
            yield Problem(where=where, what=f"{name} has no text", remedy=REFETCH)
        elif home != f"{source} ({where})":
            what = f"the text of {source} is that of {home}"
            yield Problem(where=where, what=what, remedy="one side for each text")


def stem_of(source: str) -> str:
    """What a text is called in ids."""
    return Path(source).stem if is_file(source) else source.replace("/", "-")


def is_file(source: str) -> bool:
    """Whether a source is a file, not a name in a corpus."""
    return source.endswith(ENDINGS)
