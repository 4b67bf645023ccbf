"""The entries of the catalogue for what is read inside a model: the logit lens, the unlearning depth score."""

from __future__ import annotations

from lume_run.evaluation.definitions import Definition, ScoreGroup, Wanted

LENS_SOURCE, DEPTH_SOURCE = "nostalgebraist 2020", "gnueaj/unlearning-depth-score"
AT_BEST = "at the layer that has most of it"


def _of_lens(pattern: str, what: str, wanted: Wanted, detail: int) -> Definition:
    return Definition(
        pattern=f"logit_lens.<side>.{pattern}",
        symbol="",
        what=what,
        low=0,
        high=1,
        wanted=wanted,
        group=ScoreGroup.BY_SIDE,
        source=LENS_SOURCE,
        detail=detail,
    )


INSIDE = (
    _of_lens("probability", f"probability of answer tokens through norm and head, {AT_BEST}", Wanted.BY_SIDE, 0),
    _of_lens("reciprocal_rank", f"mean reciprocal rank of answer tokens there, {AT_BEST}", Wanted.BY_SIDE, 1),
    _of_lens("<layer>.probability", "the same of one layer's output; the last is the model's own", Wanted.NONE, 2),
    _of_lens("<layer>.reciprocal_rank", "the same of one layer's output", Wanted.NONE, 2),
    Definition(
        pattern="uds",
        symbol="UDS",
        what="how far the layers' states lack what the retrained model's lack, by activation patching",
        low=0,
        high=1,
        wanted=Wanted.HIGHER,
        group=ScoreGroup.FORGET,
        source=DEPTH_SOURCE,
        detail=0,
    ),
)
