"""A language model judges greedy answers: does each give what the reference says? Off unless a judge is named.

* `llm_judge.<side>.accuracy`: share of answers that it says give the reference answer
* `llm_judge.agreement.entailment`: share of verdicts that the classifier of `evaluator=closer_look` shares
* `llm_judge.agreement.exact`: share of verdicts that the rules share: disclosure of the private fact as a whole (as in
  `pii`) where a row has one, else whether the text has the answer's words in it

Prompts and answers are sent to the judge, which for an endpoint is wherever that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from lume_run.common.errors import Problem
from lume_run.common.files import fingerprint
from lume_run.common.records import Ask, Kind, Question, Response, Score, Split, TaskData
from lume_run.common.secrets import SECRET_VARIABLE, USER_INFO
from lume_run.config.fields import setting
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.metrics.answers import recall_rule
from lume_run.evaluation.metrics.bootstrap import Measure
from lume_run.evaluation.metrics.closer_look import can_entail, entailment_score
from lume_run.evaluation.metrics.pii.disclosure import disclosure_of
from lume_run.evaluation.suites.base import Answers, Judgement, mean_over
from lume_run.evaluation.suites.llm_judge.endpoint import Endpoint
from lume_run.evaluation.suites.llm_judge.prompts import LATEST, PROMPTS
from lume_run.evaluation.suites.pii.verdicts import value_of
from lume_run.methods.needs import asked_rows

JUDGE_AT = "evaluator.suites.llm_judge"
NO_JUDGE = (
    f"no judge is named: {JUDGE_AT}.url=http://HOST/v1 with {JUDGE_AT}.model=NAME, or {JUDGE_AT}.local=FOLDER_OR_ID"
)
DIRECTIONS = ("generation_first", "reference_first")  # variants of the entailment model's judgements of A Closer Look
NOT_JUDGED = "texts were not judged; run stages=[evaluate] again with this evaluator"
NO_ENTAILMENT_MODEL = "no entailment model judged the same texts; evaluator=[closer_look,llm_judge] has one"


@dataclass(frozen=True, kw_only=True)
class LlmJudge:
    """Verdicts of a language model on greedy answers, and how far others agree with them."""

    url: str | None = setting(None, help="OpenAI-compatible endpoint, up to /v1; null: none")
    model: str | None = setting(None, help="name of the model there")
    local: str | None = setting(None, help="causal LM that judges here instead: folder or hub id")
    key_variable: str | None = setting(None, help="environment variable that holds the key; null: sends none")
    prompt: int = setting(LATEST, low=1, help="version of the prompt")
    sides: list[Literal["forget", "retain"]] = setting(factory=lambda: ["forget", "retain"], help="whose answers")
    questions: int | None = setting(None, low=1, help="so many of a side, the first; null: all")
    timeout: float = setting(60.0, low=0, open_low=True, high=3600, help="longest wait for one reply [s]")
    retries: int = setting(3, low=0, high=20, help="further tries after a failure that may pass")
    max_tokens: int = setting(16, low=1, high=10**5, help="longest reply; more for a model that reasons aloud")

    def check(self) -> list[Problem]:
        """Settings that name no judge, or two, or no address that can be asked; nothing is sent."""
        problems = []
        if self.url and self.local:
            problems.append(Problem(where=f"{JUDGE_AT}.local", what="there are two judges", remedy="drop url or local"))
        if self.prompt not in PROMPTS:
            known = ", ".join(map(str, PROMPTS))
            problems.append(Problem(where=f"{JUDGE_AT}.prompt", what=f"no version {self.prompt}", remedy=known))
        if self.url and not self.model:
            problems.append(
                Problem(where=f"{JUDGE_AT}.model", what="no model is named", remedy=f"{JUDGE_AT}.model=NAME")
            )
        if self.url is not None and (fault := url_fault(self.url)):
            remedy = "http://localhost:8000/v1, say; a key stands in an environment variable"
            problems.append(Problem(where=f"{JUDGE_AT}.url", what=fault, remedy=remedy))
        if self.key_variable is not None and not SECRET_VARIABLE.search(self.key_variable):
            what = "is no name by which its value is known to be a secret, and hidden wherever it would be written"
            remedy = "a name that ends in KEY or TOKEN, such as OPENAI_API_KEY"
            problems.append(Problem(where=f"{JUDGE_AT}.key_variable", what=what, remedy=remedy))
        return problems

    @property
    def judge_name(self) -> str:
        """The judge's fingerprint: its name or the content of its folder, and the version of the prompt."""
        if self.local:
            return f"{fingerprint(self.local)} prompt={self.prompt}"
        return f"{self.model} at {self.url} prompt={self.prompt}" if self.url else ""

    def trouble(self) -> str:
        """Why a named judge cannot be asked, as far as is known without asking."""
        judge = self.judge(None) if self.url else None
        return judge.trouble() if judge is not None else ""

    def judge(self, device: Any) -> Any:
        """What replies."""
        if self.local:
            from lume_run.evaluation.suites.llm_judge.local import LocalJudge

            return LocalJudge(self.local, self.max_tokens, device)
        return Endpoint(
            url=str(self.url),
            model=str(self.model),
            key_variable=self.key_variable,
            timeout=self.timeout,
            retries=self.retries,
            max_tokens=self.max_tokens,
        )

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """Greedy answers to questions; none where the task's texts are shown nowhere."""
        if data.private:
            return []
        return [
            Question(example=row, ask=Ask.GENERATE)
            for side in self.sides
            for row in [row for row in asked_rows(data, Split(side)) if row.kind is Kind.QUESTION][: self.questions]
        ]

    def judges(self) -> list[tuple[Ask, str]]:
        """The language model, where one is named."""
        return [(Ask.VERDICT, self.judge_name)] if self.judge_name else []

    def judgements(self, answers: Answers) -> list[Judgement]:
        """Question, reference and text of every answer."""
        if not self.judge_name:
            return []
        return [
            Judgement(
                ask=Ask.VERDICT, model=self.judge_name, response=row, first=row.output or "", second=reference_of(row)
            )
            for side in self.sides
            for row in self._texts(answers, side)
            if row.output is not None
        ]

    def _texts(self, answers: Answers, side: str) -> list[Response]:
        return answers.rows(Ask.GENERATE, Split(side), kind=Kind.QUESTION)[: self.questions]

    def scores(self, answers: Answers) -> list[Score]:
        """Accuracies by side, and agreements."""
        verdicts = {row.id: row for row in answers.responses if row.ask is Ask.VERDICT}
        texts = {side: self._texts(answers, side) for side in self.sides}
        scores = [
            answers.bootstrap.score(f"llm_judge.{side}.accuracy", len(rows), self._measure(rows, verdicts, says_yes))
            for side, rows in texts.items()
        ]
        rows = [row for of_side in texts.values() for row in of_side]
        entailed = {row.id: row for row in answers.responses if row.ask is Ask.ENTAILMENT and row.variant in DIRECTIONS}

        def entails(row: Response, verdict: str) -> float | None:
            if not can_entail(recall_rule(row.subtask)(reference_of(row), row.output or "")):
                return float(verdict == "no")
            if not entailed:
                raise ValueError(NO_ENTAILMENT_MODEL)
            judgement = entailed.get(row.id)
            if judgement is None or judgement.reason:
                raise ValueError((judgement and judgement.reason) or f"some {NOT_JUDGED}")
            label = judgement.label
            return None if label is None else float(bool(entailment_score([label])) == (verdict == "yes"))

        for name, value in (("entailment", entails), ("exact", agrees_exactly)):
            measure = self._measure(rows, verdicts, value)
            scores.append(answers.bootstrap.score(f"llm_judge.agreement.{name}", len(rows), measure))
        return scores

    def _measure(
        self,
        rows: Sequence[Response],
        verdicts: dict[str, Response],
        value: Callable[[Response, str], float | None],
    ) -> Callable[[], Measure]:
        """The mean of `value` of text and verdict; ValueError with the reason where a verdict is missing."""

        def of_row(row: Response) -> float | None:
            label = verdicts[row.id].label
            return value(row, label) if label in ("yes", "no") else None

        def make() -> Measure:
            if not self.judge_name and not verdicts:
                raise ValueError(NO_JUDGE)
            if missing := sum(row.id not in verdicts for row in rows):
                raise ValueError(f"{missing} of {len(rows)} {NOT_JUDGED}")
            if reason := next((verdicts[row.id].reason for row in rows if verdicts[row.id].reason), None):
                raise ValueError(reason)
            return mean_over(rows, of_row, "verdicts")

        return make


def reference_of(row: Response) -> str:
    """The answer that counts as right, written out where the task does so."""
    return row.sentence or row.golden or row.expected


def says_yes(_row: Response, verdict: str) -> float:
    """1 where the judge finds the reference in the answer."""
    return float(verdict == "yes")


def agrees_exactly(row: Response, verdict: str) -> float:
    """1 where the rules say the same: the fact is disclosed whole, or the answer's words stand in the text."""
    text = row.output or ""
    if row.attribute:
        right = disclosure_of(row.attribute, value_of(row), text).exact
    else:
        right = " ".join(row.expected.casefold().split()) in " ".join(text.casefold().split())
    return float(right == (verdict == "yes"))


def url_fault(url: str) -> str:
    """What keeps an address from being asked; empty where nothing does."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (ValueError for one that is no number)
    except ValueError as error:
        return f"is no address: {error}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "is no http or https address"
    if USER_INFO.search(url):  # refused as what stands in any setting
        return ""
    if parts.username is not None:
        return "holds the name of a user"
    return "has a query or fragment" if parts.query or parts.fragment else ""
