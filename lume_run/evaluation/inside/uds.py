"""UDS, the unlearning depth score: does what a model's layers hold still serve the full model to tell the answer?

Activation patching (the full model is the one before unlearning): the states that a layer gives at the positions which
predict the answer's tokens are replaced by those of another model at the same layer, and the layers above go on with
them. d1_l is by how much log p of the answer falls [nats per token] with the states of layer l of a model retrained
without the forget set, d2_l with those of the model that is judged. Over the layers with d1_l > tau:

    LER_l = clip(d2_l / d1_l, 0, 1)        UDS of a row = sum_l d1_l LER_l / sum_l d1_l

1: as little there as in the retrained model, 0: all of it still there. Rows without such a layer are left out.

Source: gnueaj/unlearning-depth-score (2026), tau = 0.05. Differs: it patches the span of the answer that is the fact,
as annotated by hand in 367 rows of TOFU; here the value of the fact where a row names one, else the whole answer
without what ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lume_run.common.records import Ask, Question, Response, Score, Split, TaskData
from lume_run.config.fields import setting
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.inside.logit_lens import has_answer
from lume_run.evaluation.metrics.bootstrap import Column, Measure, mean_of
from lume_run.evaluation.suites.base import Answers
from lume_run.methods.needs import asked_rows

NO_PATCHES = (
    "no answer was told through the states of this model in the one before unlearning: there is none to put them into "
    "(stages=[evaluate] takes one as attack.target), or stages=[score] ran without this evaluator"
)
NO_PAIRS = (
    "the retrained model was asked none of these rows through the model before unlearning, or its responses are of "
    "another task: let the run ask it"
)


@dataclass(frozen=True, kw_only=True)
class DepthScore:
    """UDS over the forget answers; its answers of a retrained model are those to the same rows."""

    threshold: float = setting(0.05, low=0, help="nats per token by which a layer must count in the retrained model")
    compares: bool = setting(True, help="a model retrained without the forget set, made where absent; false: n/a")

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """A pass with patched states over every forget answer."""
        return [Question(example=row, ask=Ask.PATCH) for row in asked_rows(data, Split.FORGET) if has_answer(row.kind)]

    def scores(self, answers: Answers) -> list[Score]:
        """`uds`: the mean over the rows that the retrained model lacks."""
        rows = answers.rows(Ask.PATCH, Split.FORGET)
        retrained = {row.id: row for row in answers.retrained or () if row.ask is Ask.PATCH}

        def make() -> Measure:
            if not rows:
                raise ValueError(NO_PATCHES)
            answers.require_retrained("evaluator.suites.uds.compares")
            return mean_of(depth_column(rows, retrained, self.threshold))

        matched = sum(row.id in retrained for row in rows)
        return [answers.bootstrap.score("uds", matched, make)]


def depth_column(rows: Sequence[Response], retrained: dict[str, Response], threshold: float) -> Column:
    """The score of every row with a layer that counts; ValueError where there is none, or a number is missing."""
    pairs = [(row, retrained[row.id]) for row in rows if row.id in retrained]
    if not pairs:
        raise ValueError(NO_PAIRS)
    drops = [(layer_drops(row), layer_drops(other)) for row, other in pairs]
    if broken := sum(len(drop) != len(other) or not drop for drop, other in drops):
        raise ValueError(f"{broken} of {len(pairs)} patched answers have no finite numbers")
    depths = [depth(other, drop, threshold) for drop, other in drops]
    known = [(value, row.document) for value, (row, _) in zip(depths, pairs, strict=True) if value is not None]
    if not known:
        raise ValueError(f"no layer of the retrained model lowers log p by more than {threshold:g}: it knows as much")
    values, documents = zip(*known, strict=True)
    return Column.of(values, documents, "patched answers")


def layer_drops(row: Response) -> tuple[float, ...]:
    """By how much log p falls with this model's states, by layer [nats per token]; () without numbers."""
    if row.logp_sum is None or not row.tokens:
        return ()
    whole = row.logp_sum / row.tokens
    return tuple(whole - patched for patched in row.layer_logps)


def depth(retrained: Sequence[float], judged: Sequence[float], threshold: float) -> float | None:
    """UDS of one row from the drops of the retrained model and of the judged one, by layer; None without a layer."""
    counted = [(gap, drop) for gap, drop in zip(retrained, judged, strict=True) if gap > threshold]
    if not counted:
        return None
    return sum(gap * min(max(drop / gap, 0.0), 1.0) for gap, drop in counted) / sum(gap for gap, _ in counted)
