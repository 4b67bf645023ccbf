"""Has the language model of a run's evaluator judge what no stored verdict is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lume_run.common.devices import device_of
from lume_run.common.files import content_hash
from lume_run.common.records import Response
from lume_run.config.settings import Settings
from lume_run.evaluation.suites.base import Judgement, Suite, judgement_response
from lume_run.evaluation.suites.llm_judge.suite import LlmJudge
from lume_run.evaluation.suites.llm_judge.verdicts import verdicts_on


def verdict_responses(
    settings: Settings, suites: Iterable[Suite], name: str, judgements: Sequence[Judgement]
) -> list[Response]:
    """The verdicts of the judge of this fingerprint; those in the store are not asked for again."""
    suite = next(suite for suite in suites if isinstance(suite, LlmJudge) and suite.judge_name == name)
    asked = [(judgement.response.prompt, judgement.second, judgement.first) for judgement in judgements]
    folder = settings.store / "verdicts" / content_hash([name])
    judge = suite.judge(device_of(settings.launch.device))
    verdicts = verdicts_on(asked, judge, name=name, version=suite.prompt, folder=folder)
    return [judgement_response(pair[0], name, **pair[1]) for pair in zip(judgements, verdicts, strict=True)]


def judge_troubles(suites: Iterable[Suite]) -> list[str]:
    """Why language models that are named as judges cannot be asked, known before anything is trained."""
    return [reason for suite in suites if isinstance(suite, LlmJudge) and (reason := suite.trouble())]
