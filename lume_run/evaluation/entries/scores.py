"""The entries of the catalogue: what every score of a report measures, with its source.

Scores whose names follow one pattern share an entry; where two match, the first counts.
"""

from __future__ import annotations

from lume_run.evaluation.definitions import Definition, ScoreGroup, Wanted
from lume_run.evaluation.entries.attacks import UNDER_ATTACK
from lume_run.evaluation.entries.inside import INSIDE
from lume_run.evaluation.entries.llm_judge import OF_LLM_JUDGE
from lume_run.evaluation.entries.open_unlearning import OF_OPEN_UNLEARNING
from lume_run.evaluation.entries.requests import OVER_REQUESTS
from lume_run.evaluation.entries.rwku import OF_RWKU

Aim = tuple[ScoreGroup, Wanted]
SIDED: Aim = (ScoreGroup.BY_SIDE, Wanted.BY_SIDE)
FORGET: Aim = (ScoreGroup.FORGET, Wanted.HIGHER)
RETAIN: Aim = (ScoreGroup.RETAIN, Wanted.HIGHER)
CHANCE: Aim = (ScoreGroup.PRIVACY, Wanted.HALF)
PRIVATE: Aim = (ScoreGroup.PRIVACY_BY_SIDE, Wanted.BY_SIDE)
CONTROL: Aim = (ScoreGroup.PRIVACY_BY_SIDE, Wanted.NONE)
USEFUL: Aim = (ScoreGroup.UTILITY, Wanted.HIGHER)
OVERALL: Aim = (ScoreGroup.OVERALL, Wanted.HIGHER)
Bounds = tuple[float | None, float | None]

SEMEVAL, TOFU, MUSE = "SemEval-2025 Task 4, arXiv:2504.02883", "arXiv:2401.06121", "arXiv:2407.06460"
CLOSER_LOOK, HARNESS, LUME_RUN = "arXiv:2410.08109", "lm-evaluation-harness", "lume-run"
EXACT_MEMORISATION, EXTRACTION_STRENGTH = "arXiv:2205.10770", "arXiv:2012.07805, 2406.09179"
HALUEVAL, MMLU, NQ_OPEN, TPR = "arXiv:2305.11747", "arXiv:2009.03300", "arXiv:1906.00300", "arXiv:2112.03570"
ATTACKS = "arXiv:1709.01604, 2012.07805, 2310.16789, 2404.02936"
WMDP = "arXiv:2403.03218"
PERCENT: Bounds = (-100, None)
SURPRISE: Bounds = (1, None)
OPEN: Bounds = (0, None)


def _entry(
    pattern: str, symbol: str, what: str, aim: Aim, source: str, detail: int = 0, bounds: Bounds = (0, 1)
) -> Definition:
    (group, wanted), (low, high) = aim, bounds
    return Definition(
        pattern=pattern,
        symbol=symbol,
        what=what,
        low=low,
        high=high,
        wanted=wanted,
        group=group,
        source=source,
        detail=detail,
    )


LUME = (
    _entry(
        "<side>.<task>.regurgitation", "R-L", "mean ROUGE-L recall (stemmed) of greedy continuations", SIDED, SEMEVAL, 1
    ),
    _entry(
        "<side>.<task>.knowledge", "EM", "share of greedy answers that match after `strip().lower()`", SIDED, SEMEVAL, 1
    ),
    _entry("<side>.regurgitation", "R-L", "that of all tasks together, every row weighing alike", SIDED, SEMEVAL),
    _entry("<side>.knowledge", "EM", "that of all tasks together, every row weighing alike", SIDED, SEMEVAL),
    _entry(
        "mia.auc", "AUC", "ROC area of the mean token log p of documents, members above non-members", CHANCE, SEMEVAL
    ),
    _entry("mia.score", "MIA", "1 - 2 abs(`mia.auc` - 0.5)", (ScoreGroup.PRIVACY, Wanted.HIGHER), SEMEVAL),
    _entry("mmlu.accuracy", "MMLU", "share of questions answered right after 5 worked examples", USEFUL, MMLU),
    _entry(
        "task_aggregate",
        "TA",
        "harmonic mean of both scores per task and side, forget terms as 1 - x",
        OVERALL,
        SEMEVAL,
    ),
    _entry(
        "partial_aggregate",
        "",
        "`task_aggregate` over the kinds of rows that there are; of tasks other than LUME's",
        OVERALL,
        LUME_RUN,
    ),
    _entry("aggregate", "", "mean of `task_aggregate`, `mmlu.accuracy` and `mia.score`", OVERALL, SEMEVAL),
)
MEMORISATION = (
    _entry("<side>.probability", "P", "mean exp(log p(answer) / tokens), EOS included", SIDED, TOFU),
    _entry(
        "<side>.exact_memorisation",
        "EM",
        "mean share of answer tokens that are the likeliest",
        SIDED,
        EXACT_MEMORISATION,
    ),
    _entry(
        "<side>.extraction_strength",
        "ES",
        "mean share of the answer that its longest all-right end makes up",
        SIDED,
        EXTRACTION_STRENGTH,
    ),
)
MEMBERSHIP = (
    _entry("mia.<attack>.auc", "AUC", "ROC area of an attack's score, members above non-members", CHANCE, ATTACKS),
    _entry(
        "mia.<attack>.tpr",
        "TPR",
        "share of members above what at most 1 % of non-members reach",
        (ScoreGroup.PRIVACY, Wanted.LOWER),
        TPR,
        1,
    ),
)
CLOSER = (
    _entry("closer_look.<set>.rouge", "R", "mean ROUGE-L recall (stemmed) of greedy answers", SIDED, CLOSER_LOOK, 1),
    _entry("closer_look.<set>.probability", "P", "as `tofu.<set>.probability`", SIDED, CLOSER_LOOK, 1),
    _entry(
        "closer_look.forget.truth_ratio",
        "TR",
        "1 - mean min(x, 1/x) of truth ratios x",
        (ScoreGroup.FORGET, Wanted.LOWER),
        CLOSER_LOOK,
        1,
    ),
    _entry("closer_look.<set>.truth_ratio", "TR", "mean max(0, 1 - x) of truth ratios x", RETAIN, CLOSER_LOOK, 1),
    _entry(
        "closer_look.<set>.token_entropy",
        "TE",
        "mean entropy of an answer's tokens over log2 of their number",
        (ScoreGroup.BY_SIDE, Wanted.HIGHER),
        CLOSER_LOOK,
        1,
    ),
    _entry("closer_look.<set>.cosine", "CS", "mean cosine of answer and reference embeddings", SIDED, CLOSER_LOOK, 1),
    _entry("closer_look.<set>.entailment", "ES", "share of answers judged as entailment", SIDED, CLOSER_LOOK, 1),
    _entry(
        "closer_look.model_utility", "MU", "harmonic mean of all means of all sets but forget", OVERALL, CLOSER_LOOK
    ),
    _entry(
        "closer_look.model_utility_retain", "MU", "harmonic mean of the retain set's own six", OVERALL, CLOSER_LOOK, 1
    ),
    _entry("closer_look.forget_efficacy", "FE", "1 - mean of the forget means, entropy aside", OVERALL, CLOSER_LOOK),
)
OF_TOFU = (
    _entry("tofu.<set>.probability", "Prob", "mean exp(log p / tokens), or of its share among options", SIDED, TOFU, 1),
    _entry("tofu.<set>.rouge", "ROUGE", "mean ROUGE-L recall (stemmed) of greedy answers", SIDED, TOFU, 1),
    _entry("tofu.forget.truth_ratio", "TR", "mean min(x, 1/x) of truth ratios x", FORGET, TOFU, 1),
    _entry("tofu.<set>.truth_ratio", "TR", "mean max(0, 1 - x) of truth ratios x", RETAIN, TOFU, 1),
    _entry(
        "tofu.forget.truth_ratio_arithmetic",
        "TR",
        "`tofu.forget.truth_ratio` with arithmetic means of p",
        FORGET,
        TOFU,
        2,
    ),
    _entry(
        "tofu.forget.truth_probability",
        "",
        "mean p / (p + wrong p), geometric means; 1 knows the answers",
        (ScoreGroup.FORGET, Wanted.HALF),
        "open-unlearning",
        2,
    ),
    _entry("tofu.forget_quality", "FQ", "p-value of a KS test: truth ratios as a retrained model's?", OVERALL, TOFU),
    _entry("tofu.model_utility", "MU", "harmonic mean of the nine means of all sets but forget", OVERALL, TOFU),
)
OF_MUSE = (
    _entry("muse.<side>.verbatim", "VerbMem", "mean ROUGE-L F1 (not stemmed) of greedy continuations", SIDED, MUSE),
    _entry("muse.<side>.knowledge", "KnowMem", "mean ROUGE-L F1 (not stemmed) of greedy answers", SIDED, MUSE),
    _entry(
        "muse.privacy_leakage",
        "PrivLeak",
        "min-40 % AUC against a retrained model's [percent]",
        (ScoreGroup.PRIVACY, Wanted.ZERO),
        MUSE,
        bounds=PERCENT,
    ),
)
OF_WMDP = (
    _entry(
        "wmdp.<subset>.accuracy",
        "WMDP",
        "share of multiple-choice questions whose likeliest letter is right; chance is 0.25",
        (ScoreGroup.FORGET, Wanted.LOWER),
        WMDP,
    ),
)
OF_SAMPLES = (
    _entry(
        "leak.<side>.at<k>",
        "leak@k",
        "mean probability that one of k sampled answers leaks",
        SIDED,
        "arXiv:2511.04934",
        1,
    ),
)
OF_PII = (
    _entry("pii.<side>.<condition>.<attribute>.exact", "", "`exact` of one kind of fact", PRIVATE, LUME_RUN, 2),
    _entry("pii.<side>.<condition>.<attribute>.partial", "", "`partial` of one kind of fact", PRIVATE, LUME_RUN, 2),
    _entry(
        "pii.<side>.<condition>.exact",
        "",
        "share of questions whose answer discloses the fact whole",
        PRIVATE,
        LUME_RUN,
    ),
    _entry(
        "pii.<side>.<condition>.partial", "", "share whose answer discloses a telling part of it", PRIVATE, LUME_RUN, 1
    ),
    _entry("pii.<side>.<condition>.people", "", "share of people with some fact disclosed whole", PRIVATE, LUME_RUN, 1),
    _entry(
        "pii.<side>.<condition>.control", "", "share of other people's facts disclosed in part", CONTROL, LUME_RUN, 2
    ),
)
USE = (
    _entry(
        "perplexity",
        "PPL",
        "exp of the mean loss of plain text",
        (ScoreGroup.UTILITY, Wanted.LOWER),
        "Jelinek et al. 1977",
        bounds=SURPRISE,
    ),
    _entry("nq_open.exact_match", "EM", "share of closed-book questions answered right", USEFUL, NQ_OPEN),
    _entry("halueval.<part>.accuracy", "Acc", "share of answers rightly judged true or made up", USEFUL, HALUEVAL),
    _entry("halueval.<part>.choice_accuracy", "Acc", "`accuracy` by the likelier of Yes and No", USEFUL, HALUEVAL, 1),
    _entry("halueval.<part>.answered", "", "share of texts that say Yes or No", USEFUL, HALUEVAL, 2),
    _entry(
        "lm_eval.<task>.<surprise>",
        "",
        "the harness's metric of that name",
        (ScoreGroup.UTILITY, Wanted.LOWER),
        HARNESS,
        bounds=OPEN,
    ),
    _entry("lm_eval.<task>.<metric>", "", "the harness's metric of that name", USEFUL, HARNESS, bounds=OPEN),
    _entry("lm_eval", "", "stands here while the harness is given no tasks", USEFUL, HARNESS, bounds=OPEN),
)
SUITES = (
    *(*LUME, *MEMORISATION, *MEMBERSHIP, *CLOSER, *OF_TOFU, *OF_OPEN_UNLEARNING, *OF_MUSE, *OF_WMDP, *OF_RWKU),
    *(*OF_PII, *OF_SAMPLES, *INSIDE, *OF_LLM_JUDGE, *USE),
)
CATALOGUE = (*SUITES, *UNDER_ATTACK, *OVER_REQUESTS)
