"""MUSE (Shi et al., arXiv:2407.06460): forget news articles or novels; asked for knowledge, wording and membership.

A folder holds `news/` or `books/` with JSON arrays: knowmem (questions about forget and retain texts, and examples to
put before them), verbmem (forget texts and their continuations) and privleak (forget and held-out texts). Here the
questions and continuations themselves are learned, forgotten and retained, as in LUME, so results are not those of the
paper's protocol, which trains and unlearns on raw text: that is `muse_raw.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lume_run.common.errors import ConfigError, Problem
from lume_run.common.records import TaskData
from lume_run.config.fields import setting
from lume_run.tasks.corpora.muse_files import ArrayReader, CorpusFiles, probes
from lume_run.tasks.documents import choose_by_side, describe_selection
from lume_run.tasks.question_files import folder_problems
from lume_run.tasks.row_files import refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class MuseTask:
    """Which corpus, and how it is asked about: MUSE puts ten worked examples before a question.

    Every row is a document of its own: files do not say which article a question is about, and repeat some questions
    of the books. Continuations came without the white space before them, and a third of those that could be looked up
    begin within a word, where a space is put all the same. One retain question of the books is among its examples.
    The books have no verbmem and privleak at hand; without privleak there is no membership inference. Its members are
    texts that a target of MUSE was trained on: one trained here has not seen them, and its AUC says nothing.
    """

    name: str
    data_dir: str | None = setting(None, help="folder with news/ and books/")
    corpus: Literal["news", "books"] = setting("news", help="BBC articles, or Harry Potter")
    shots: int = setting(10, low=0, help="worked examples before each question")
    num_documents: int | None = setting(None, low=1, help="rows of each kind per split; null: all")

    def check(self) -> list[Problem]:
        """Problems visible without reading rows."""
        return folder_problems(self.data_dir) or self._layout.problems(self.shots)

    def load(self, seed: int) -> TaskData:
        """The examples of the experiment; DataError with every problem."""
        if problems := self.check():
            raise ConfigError(problems)
        reader = ArrayReader()
        parts = probes(reader, self._layout, self.corpus, self.shots)
        if reader.problems:
            refuse(reader.problems)
        origin = self._layout.origin
        kept = choose_by_side(parts, self.num_documents, seed, origin)
        return TaskData(
            forget=kept["forget knowmem"] + kept.get("forget verbmem", ()),
            retain=kept["retain knowmem"],
            members=kept.get("member privleak", ()),
            nonmembers=kept.get("nonmember privleak", ()),
            source=f"{origin} (MUSE {self.corpus}; {describe_selection(kept, parts)}; {self.shots} shots; no raw text)",
        )

    @property
    def _layout(self) -> CorpusFiles:
        return CorpusFiles(folder=Path(str(self.data_dir)).expanduser() / self.corpus)
