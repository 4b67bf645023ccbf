"""The entries of the catalogue for open-unlearning's overall score."""

from __future__ import annotations

from lume_run.evaluation.definitions import Definition, ScoreGroup, Wanted
from lume_run.evaluation.entries.attacks import OPEN_UNLEARNING

OF_PARTS = {
    "memorisation": ("Mem", "harmonic mean of 1 - ES, 1 - EM, 1 - probability in other words, 1 - p / (p + wrong p)"),
    "privacy": ("Priv", "harmonic mean over four attacks of 1 - abs(AUC - retrained AUC) / retrained AUC"),
    "utility": ("Util", "harmonic mean of model utility and fluency, as shares of those before unlearning"),
    "overall": ("Agg", "harmonic mean of the three"),
}
OF_OPEN_UNLEARNING = tuple(
    Definition(
        pattern=f"open_unlearning.{name}",
        symbol=symbol,
        what=what,
        low=0,
        high=1,
        wanted=Wanted.HIGHER,
        group=ScoreGroup.OVERALL,
        source=OPEN_UNLEARNING,
        detail=0,
    )
    for name, (symbol, what) in OF_PARTS.items()
)
