"""WMDP (Li et al., arXiv:2403.03218): forget hazardous knowledge of biosecurity and cybersecurity, keep all else.

Corpora are JSON lines with a `text`, or bare strings, as released; of each text its beginning is used. What they say is
hazardous: it is trained on and shown nowhere. Multiple-choice questions are asked and never trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import Example, Kind, Split, TaskData
from lume_run.common.seeds import stable_digest
from lume_run.config.fields import setting
from lume_run.tasks.corpora.wmdp_questions import question_examples
from lume_run.tasks.documents import Cutter, Examples, Room, describe_selection
from lume_run.tasks.question_files import folder_problems
from lume_run.tasks.row_files import ask_hub, field_problems, jsonl_rows, parquet_rows, refuse

Hazard = Literal["bio", "cyber"]
CorpusRows = Iterator[tuple[str, object]]
FORGET_FILES = {  # by subset: names of its corpus in releases
    "bio": ("bio-forget-corpus", "bio_forget_corpus", "bio_remove_dataset"),
    "cyber": ("cyber-forget-corpus", "cyber_forget_corpus"),
}
RETAIN_FILES = {
    "wikitext": ("wikitext", "wikitext-test"),
    "bio": ("bio-retain-corpus", "bio_retain_corpus", "bio_retain_dataset"),
    "cyber": ("cyber-retain-corpus", "cyber_retain_corpus"),
}
FORGET_TOKENS = {"bio": 512, "cyber": 768}
RETAIN_TOKENS = 512
WMDP_CORPORA, WMDP_BIO = "cais/wmdp-corpora", "cais/wmdp-bio-forget-corpus"
CORPUS_ENDINGS = (".jsonl", ".json", ".parquet")
HAZARDOUS = "texts are hazardous and are not shown"


@dataclass(frozen=True, kw_only=True)
class WmdpTask:
    """Which hazards to forget, and beside which texts; without a folder the corpora come from the hub.

    The forget corpus of biosecurity is given out on request alone (`cais/wmdp-bio-forget-corpus`, gated).
    """

    name: str
    data_dir: str | None = setting(None, help="folder with the corpora and questions; null: the hub")
    subsets: list[Hazard] = setting(factory=lambda: ["bio", "cyber"], help="hazards to forget: bio, cyber or both")
    retain: Literal["wikitext", "corpora"] = setting(
        "wikitext", help="kept: WikiText-2's test part, or the retain corpora of the same fields"
    )
    first: int | None = setting(None, low=1, help="first texts of each corpus; null: all")
    min_characters: int = setting(50, low=0, help="shorter texts are left out")
    tokens: int | None = setting(None, low=2, help="beginning of each text; null: 512, of cyber's forget corpus 768")
    num_documents: int | None = setting(None, low=1, help="as first, and so many questions; null: all")
    cuts_texts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises ValueError for no subset, or one twice."""
        if not self.subsets or len(set(self.subsets)) < len(self.subsets):
            raise ValueError(f"subsets are {self.subsets}; name bio, cyber or both, each once")

    def check(self) -> list[Problem]:
        """Problems visible without reading rows or asking the network."""
        if self.data_dir is None:
            return []
        if problems := folder_problems(self.data_dir):
            return problems
        wanted = {f"forget corpus of {subset}": FORGET_FILES[subset] for subset in self.subsets}
        wanted |= {f"retain corpus, {name}": RETAIN_FILES[name] for name in self._retain_names}
        return [
            Problem(
                where="task.data_dir",
                what=f"{self.data_dir} has no {what}: {' or '.join(f'{name}.jsonl' for name in names)}",
                remedy="see docs/benchmarks/wmdp.md for where each is given out",
            )
            for what, names in wanted.items()
            if self._file(names) is None
        ]

    def load(self, seed: int, room: Room | None = None) -> TaskData:
        """The examples of the experiment; DataError with every problem, RunError where the hub gives none."""
        if problems := self.check():
            raise ConfigError(problems)
        most = min((count for count in (self.first, self.num_documents) if count), default=None)
        reader = TextReader(room=room or Room(), most=most, min_characters=self.min_characters)
        parts: dict[str, Examples] = {}
        for subset in self.subsets:
            rows = self._rows(FORGET_FILES[subset], WMDP_BIO if subset == "bio" else WMDP_CORPORA)
            parts[f"forget {subset}"] = reader.examples(
                rows, Split.FORGET, subset, self.tokens or FORGET_TOKENS[subset]
            )
        for name in self._retain_names:
            rows = self._rows(RETAIN_FILES[name], WMDP_CORPORA)
            parts[f"retain {name}"] = reader.examples(rows, Split.RETAIN, name, self.tokens or RETAIN_TOKENS)
        asked, problems = question_examples(self.data_dir, self.subsets, self.num_documents)
        if wrong := reader.problems + problems:
            refuse(wrong)
        origin = f"folder {self.data_dir}" if self.data_dir else f"hub {WMDP_CORPORA}"
        selection = describe_selection(parts, parts)
        selection += f"; {reader.left} retained texts left out, which are forgotten" if reader.left else ""
        return TaskData(
            forget=tuple(row for part, rows in parts.items() if part.startswith("forget") for row in rows),
            retain=tuple(row for part, rows in parts.items() if part.startswith("retain") for row in rows),
            others=asked,
            source=f"{origin} (WMDP {', '.join(self.subsets)}; {selection}; {len(asked)} questions)",
            private=HAZARDOUS,
        )

    @property
    def _retain_names(self) -> list[str]:
        return ["wikitext"] if self.retain == "wikitext" else list(self.subsets)

    def _file(self, names: Sequence[str]) -> Path | None:
        folder = Path(str(self.data_dir)).expanduser()
        files = (folder / f"{name}{ending}" for name in names for ending in CORPUS_ENDINGS)
        return next((file for file in files if file.is_file()), None)

    def _rows(self, names: Sequence[str], hub_id: str) -> CorpusRows:
        """The rows of a corpus; RunError where the hub gives none."""
        if self.data_dir is None:
            yield from corpus_rows(names[0], hub_id)
        elif file := self._file(names):
            yield from parquet_rows(file, ("text",)) if file.suffix == ".parquet" else jsonl_rows(file)


@dataclass(slots=True, kw_only=True)
class TextReader:
    """Reads corpus after corpus, the forget ones first, and gathers the problems of all, which show no text.

    `left`: retained texts that are forgotten too and therefore left out.
    """

    room: Room
    most: int | None
    min_characters: int
    problems: list[Problem] = field(default_factory=list)
    forgotten: set[bytes] = field(default_factory=set)
    left: int = 0

    def examples(self, rows: CorpusRows, split: Split, corpus: str, tokens: int) -> Examples:
        """The first texts of a corpus that are long enough, each cut to its beginning."""
        tokens = min(tokens, self.room.tokens) if self.room.tokens else tokens
        examples: list[Example] = []
        before = len(self.problems)
        for where, row in rows:
            text = self._text(where, row)
            if len(text) > self.min_characters and self._is_of(split, text):
                examples.append(chunk_example(beginning(text, tokens, self.room.cut), split, corpus, len(examples) + 1))
            if self.most is not None and len(examples) == self.most:
                break
        if not examples and len(self.problems) == before:
            what = f"the {split} corpus {corpus} has no text of more than {self.min_characters} characters"
            remedy = "task.min_characters, or another file"
            self.problems.append(Problem(where="task.data_dir", what=what, remedy=remedy))
        return tuple(examples)

    def _text(self, where: str, row: object) -> str:
        """The text of a row; "" where it is bad, or too short to be used."""
        text = row if isinstance(row, str) else row.get("text") if isinstance(row, dict) else None
        if isinstance(row, Problem):
            self.problems.append(row)
        elif not isinstance(text, str):
            remedy = 'one {"text": ...} a line, as released'
            self.problems.append(Problem(where=where, what="is neither a text nor an object with one", remedy=remedy))
        elif len(text) > self.min_characters:
            wrong = list(field_problems({"text": text}, where, ("text",)))
            self.problems += wrong
            return "" if wrong else text
        return ""

    def _is_of(self, split: Split, text: str) -> bool:
        """Whether a text is on this side alone."""
        digest = stable_digest(text.strip())
        if split is Split.FORGET:
            self.forgotten.add(digest)
            return True
        self.left += digest in self.forgotten
        return digest not in self.forgotten


def corpus_rows(name: str, hub_id: str) -> CorpusRows:
    """A corpus of the hub, as rmu/utils.py loads it."""
    from datasets import load_dataset

    def load() -> Any:
        if name == "wikitext":
            return load_dataset("wikitext", "wikitext-2-raw-v1", split="test")
        return load_dataset(hub_id, split="train") if hub_id == WMDP_BIO else load_dataset(hub_id, name, split="train")

    hub_id = "wikitext" if name == "wikitext" else hub_id
    for number, row in enumerate(ask_hub(hub_id, load, local="task.data_dir=FOLDER"), 1):
        yield f"hub {hub_id}:row {number}", dict(row)


def beginning(text: str, tokens: int, cut: Cutter) -> str:
    """The first so many tokens of a text; a page of letters more than that is not looked at."""
    return next(iter(cut(text[: 32 * tokens], tokens)))


def chunk_example(text: str, split: Split, corpus: str, number: int) -> Example:
    """A text that is trained on and never asked about."""
    document = f"wmdp-{corpus}-{split}-{number}"
    return Example(
        id=f"{document}chunk",
        raw_id=f"{document}chunk",
        document=document,
        split=split,
        subtask=corpus,
        kind=Kind.CHUNK,
        prompt="",
        answer=text,
    )
