"""closer-look's result sheet, made of its logs with our metrics."""

from __future__ import annotations

import statistics

from lume_run.evaluation.metrics import closer_look
from lume_run.evaluation.metrics.tofu import (
    options_probability,
    probability,
    truth_ratio,
)

TASKS = {  # file of closer-look -> its name in the results
    "eval_real_author_wo_options.json": "Real Authors",
    "eval_real_world_wo_options.json": "Real World",
    "eval_log.json": "Retain",
    "eval_log_forget.json": "Forget",
}
FIELDS = {  # name in the results -> field
    "ROUGE": "rouge",
    "Probability": "probability",
    "Truth Ratio": "truth_ratio",
    "Token Entropy": "token_entropy",
    "Cosine Similarity": "cosine",
    "Entailment Score": "entailment",
}


def set_means(file, log):
    """The six means of one closer-look log."""
    losses, wrong = log["avg_gt_loss"], log["average_perturb_loss"]
    ratios = [truth_ratio([right], others) for right, others in zip(log["avg_paraphrased_loss"], wrong, strict=True)]
    truth = closer_look.forget_truth_ratio if "forget" in file else closer_look.utility_truth_ratio
    return closer_look.SetMeans(
        rouge=statistics.fmean(log["rougeL_recall"]),
        probability=statistics.fmean(
            [probability(-loss, 1) for loss in losses]
            if "eval_log" in file
            else map(options_probability, losses, wrong)
        ),
        truth_ratio=truth(ratios),
        token_entropy=statistics.fmean(log["token_entropy"]),
        cosine=statistics.fmean(log["cosine_similarity"]),
        entailment=closer_look.entailment_score(log["entailment_labels"]),
    )


def sheet(logs):
    """closer-look's result of its logs."""
    means = {TASKS[file]: set_means(file, log) for file, log in logs.items()}
    utility = [means[name] for name in means if name != "Forget"]
    forget = closer_look.forget_efficacy(means["Forget"]) if "Forget" in means else None
    return {
        **{f"{name} {metric}": getattr(means[name], field) for name in means for metric, field in FIELDS.items()},
        "Model Utility Retain": closer_look.closer_look_utility([means["Retain"]]),
        "Model Utility": closer_look.closer_look_utility(utility),
        "Forget Efficacy": forget,
    }
