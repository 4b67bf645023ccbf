"""Every golden loss as a case: our method for it, and the golden batches of each role."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from helpers.golden import label_places
from helpers.golden_losses import (
    VOCABULARIES,
    golden_batch,
    labels_everything,
    read_losses,
    role_of,
    vector_seed,
    vocabulary_size,
)
from lume_run.methods.distillation import CEU, UNDIAL, UNDIALCompat
from lume_run.methods.dpo import DPO, AnswerPreservation
from lume_run.methods.entropy import LogitMarginCompat, MaximumEntropyCompat
from lume_run.methods.kl import RetainKLCompat
from lume_run.methods.likelihood import (
    GradientAscent,
    GradientDescent,
    MismatchedAscent,
    Refusal,
    SaturationImportance,
    WeightedAscent,
)
from lume_run.methods.needs import Role
from lume_run.methods.npo import NPO, SimNPO
from lume_run.methods.objective import Dual, Objective, Part
from lume_run.methods.rmu import RMU, EmbeddingDistance

LABELS_INDEX = 100  # a label of -100 is an index into a vocabulary of this many tokens
NEVER = 10**9  # steps
BATCH_NLL = "compute_batch_nll"
REGULARIZERS = {"mismatch_loss", "kl_loss"}  # of LLMU


@dataclass(frozen=True, kw_only=True)
class Case:
    """One golden number and our method for it, over one golden batch for each role.

    `counts_first`: labels on index 0 count.
    """

    vocabulary: str
    file: str
    section: str
    name: str
    method: Objective
    batches: Mapping[Role, str]
    counts_first: bool = False

    @property
    def id(self) -> str:
        return f"{self.vocabulary}-{self.file.partition('_')[0]}-{self.section}-{self.name}"

    @property
    def place(self) -> tuple[str, str, str]:
        return self.file, self.section, self.name

    @property
    def sides(self) -> tuple[str, ...]:
        """Which padding TokenRows can take; none where only the golden tensors will do."""
        needs = self.method.needs
        masked = isinstance(self.method.forget, MaximumEntropyCompat) and self.method.forget.masked
        every_position = isinstance(self.method.retain, RetainKLCompat) or (needs.every_position and not masked)
        unmasked = any(labels_everything(self.vocabulary, name) for name in self.batches.values())
        if every_position or needs.hidden_layer is not None or unmasked:
            return ()
        return ("right",) if needs.every_position else ("left", "right")

    def golden(self, dtype: str) -> dict[str, Any]:
        return read_losses(self.vocabulary, self.file)[dtype][self.section][self.name]

    def golden_parts(self, dtype: str) -> dict[str, float]:
        """What our logged parts should be, where the golden file has parts."""
        golden = self.golden(dtype)
        if "forget_loss" not in golden:
            return {}
        if not self.is_llmu:
            return {"forget_loss": golden["forget_loss"], "retain_loss": golden["regularization_loss"]}
        # our forget part holds the mismatched answers too; theirs is GA alone, and they regularize
        parts = {"forget_nll": -golden["forget_loss"]}
        losses = read_losses(self.vocabulary, self.file)[dtype]["losses"].values()
        alone = {case["params"]["fn"]: case["loss"] for case in losses if case["params"]["fn"] in REGULARIZERS}
        if set(alone) == REGULARIZERS:
            assert golden["regularization_loss"] == pytest.approx(sum(alone.values()))
            parts["retain_loss"] = alone["kl_loss"]
        return parts

    @property
    def is_llmu(self) -> bool:
        """Whether it is closer-look's LLMU, whose mismatched answers count as regularization."""
        return self.section == "combined" and isinstance(self.method.forget, MismatchedAscent)


def batches_of(names: list[str]) -> dict[Role, str]:
    return {role_of(name): name for name in names}


def retain_alone(name: str, part: Part) -> Objective:
    """There are no forget rows, so the forget share is 0."""
    return Objective(name=name, forget=GradientAscent(), retain=part)


def closer_look_loss(vocabulary: str, name: str, params: dict[str, Any], batches: list[str]) -> Objective:
    """One function of trainer/losses.py. MISMATCH: without forget rows nothing ascends."""
    beta = params.get("beta", 0.1)
    retain: dict[str, Part] = {
        "gd_loss": GradientDescent(),
        "kl_loss": RetainKLCompat(),
        "ap_loss": AnswerPreservation(beta=beta),
    }
    forget: dict[str, Part] = {
        "ga_loss": GradientAscent(),
        "npo_loss": NPO(beta=beta),
        "dpo_loss": DPO(beta=beta),
        "me_loss": MaximumEntropyCompat(masked=not labels_everything(vocabulary, batches[0])),
        "idk_loss": Refusal(),
        "mismatch_loss": MismatchedAscent(),
    }
    function = params["fn"]
    return retain_alone(name, retain[function]) if function in retain else Objective(name=name, forget=forget[function])


def combination(name: str, params: dict[str, Any]) -> Objective:
    """trainer/trainer.py: `forget_coeff` x forget + `regularization_coeff` x regularization."""
    forget_weight, retain_weight, beta = (params[key] for key in ("forget_coeff", "regularization_coeff", "beta"))
    forget, _, retain = params["loss_type"].partition("+")
    if forget == "LLMU":  # the forget coefficient scales GA alone, the mismatched answers count as regularization
        part, retain = MismatchedAscent(mismatch_weight=retain_weight / forget_weight), "KL"
    else:
        forgets: dict[str, Part] = {
            "GA": GradientAscent(),
            "NPO": NPO(beta=beta),
            "DPO": DPO(beta=beta),
            "IDK": Refusal(),
            "ME": MaximumEntropyCompat(masked=True),
        }
        part = forgets[forget]
    retains: dict[str, Part | None] = {
        "": None,
        "GD": GradientDescent(),
        "KL": RetainKLCompat(),
        "AP": AnswerPreservation(beta=beta),
    }
    return Objective(
        name=name, forget=part, retain=retains[retain], forget_weight=forget_weight, retain_weight=retain_weight
    )


def closer_look_cases(vocabulary: str) -> Iterator[Case]:
    """Every function of trainer/losses.py, and every combination type|fc|rc."""
    file = "closer_look.json"
    golden = read_losses(vocabulary, file)["float64"]
    for name, case in golden["losses"].items():
        yield Case(
            vocabulary=vocabulary,
            file=file,
            section="losses",
            name=name,
            method=closer_look_loss(vocabulary, name, case["params"], case["batches"]),
            batches=batches_of(case["batches"]),
        )
    for name, case in golden["combined"].items():
        method = combination(name, case["params"])
        yield Case(
            vocabulary=vocabulary,
            file=file,
            section="combined",
            name=name,
            method=method,
            batches={role: role.name.lower() for role in sorted(method.needs.rows)},
        )


def undial(vocabulary: str, inputs: str, beta: float) -> Part:
    """Released, or the plain mean over labels where every position but the last is one: then they are the same thing,
    and only the plain one takes a vocabulary that -100 does not index."""
    small = vocabulary_size(vocabulary) < LABELS_INDEX
    return UNDIAL(beta=beta) if small and labels_everything(vocabulary, inputs) else UNDIALCompat(beta=beta)


def ceu(vocabulary: str, inputs: str, ignored: int) -> CEU:
    """The reference counts a label on index 0 among the first n; our batches have none there."""
    return CEU(ignore_first=max(0, ignored - 1) if labels_everything(vocabulary, inputs) else ignored)


def trainer_part(vocabulary: str, kind: str, inputs: str, given: dict[str, Any]) -> Part:
    """The forget objective of one class of src/trainer/unlearn."""
    match kind:
        case "GradAscent" | "GradDiff":
            return GradientAscent()
        case "NPO":
            return NPO(beta=given.get("beta", 1.0))
        case "SimNPO":
            return SimNPO(beta=given["beta"], delta=given["delta"])
        case "DPO":
            return DPO(beta=given["beta"])
        case "RMU":
            layer = int(re.findall(r"\d+", given["module_regex"])[-1])
            return RMU(layer=layer, steering=given["steering_coeff"], vector_seed=vector_seed(), mean="released")
        case "UNDIAL":
            return undial(vocabulary, inputs, given["beta"])
        case "WGA":
            return WeightedAscent(beta=given["beta"])
        case "SatImp":
            return SaturationImportance(beta1=given["beta1"], beta2=given["beta2"])
        case "CEU":
            return ceu(vocabulary, inputs, given["ignore_first_n_answer_tokens"])
        case "PDU":
            return LogitMarginCompat()
    raise AssertionError(f"no method for {kind}")


def trainer_method(vocabulary: str, name: str, kind: str, names: list[str], given: dict[str, Any]) -> Objective:
    """One trainer object; gamma and alpha are 1 and the retain loss is the NLL where nothing was given."""
    forget = trainer_part(vocabulary, kind, names[0], given)
    if "retain" not in names:
        return Objective(name=name, forget=forget)
    retains: dict[str, Part] = {"NLL": GradientDescent(), "KL": RetainKLCompat()}
    if isinstance(forget, RMU):
        retains["EMBED_DIFF"] = EmbeddingDistance(layer=forget.layer, mean="released")
    dual = Dual()
    if kind == "PDU":  # without primal-dual updates the weight stays what it is, but the bound still enters the loss
        updates = given["primal_dual"]
        dual = Dual(
            bound=given["retain_loss_eps"],
            step_size=given["dual_step_size"] if updates else 1.0,
            warmup_steps=given["dual_warmup_epochs"] if updates else NEVER,  # an epoch has at least one step
        )
    return Objective(
        name=name,
        forget=forget,
        retain=retains[given.get("retain_loss_type", "NLL")],
        forget_weight=given.get("gamma", 1.0),
        retain_weight=given.get("alpha", 1.0),
        dual=dual,
    )


def function_method(vocabulary: str, function: str, params: dict[str, Any]) -> tuple[Objective, dict[Role, str]]:
    """One bare function of src/trainer/utils.py, and the batches it was called with."""
    inputs, beta = params.get("inputs"), params.get("beta")
    forget = {Role.FORGET: inputs}
    match function:
        case "compute_kl_divergence":
            return retain_alone(function, RetainKLCompat()), {Role.RETAIN: inputs}
        case "compute_dpo_loss":
            win, lose = params["win_inputs"], params["lose_inputs"]
            if win is None:
                return Objective(name=function, forget=NPO(beta=beta)), {Role.FORGET: lose}
            return Objective(name=function, forget=DPO(beta=beta)), {
                Role.FORGET: lose or "unlabelled",  # a winner alone: the loser's log ratio is 0
                Role.FORGET_IDK: win,
            }
        case "compute_undial_loss":
            return Objective(name=function, forget=undial(vocabulary, inputs, beta)), forget
        case "compute_wga_loss":
            return Objective(name=function, forget=WeightedAscent(beta=beta)), forget
        case "compute_satimp_loss":
            part = SaturationImportance(beta1=params["beta1"], beta2=params["beta2"])
            return Objective(name=function, forget=part), forget
        case "compute_batch_ceu":
            part = ceu(vocabulary, inputs, params["ignore_first_n_answer_tokens"])
            return Objective(name=function, forget=part), forget
    raise AssertionError(f"no method for {function}")


def open_unlearning_cases(vocabulary: str) -> Iterator[Case]:
    """Every trainer object, and every bare function that has a gradient."""
    file = "open_unlearning.json"
    golden = read_losses(vocabulary, file)["float64"]
    for name, case in golden["losses"].items():
        unmasked = labels_everything(vocabulary, case["batches"][0])
        yield Case(
            vocabulary=vocabulary,
            file=file,
            section="losses",
            name=name,
            method=trainer_method(vocabulary, name, case["class"], case["batches"], case["method_args"]),
            batches=batches_of(case["batches"]),
            counts_first=unmasked and case["class"] in ("SimNPO", "RMU", "PDU"),
        )
    for name, case in golden["utils"].items():
        function = name.partition("|")[0]
        if function != BATCH_NLL:  # no gradient stored
            method, batches = function_method(vocabulary, function, case["params"])
            yield Case(vocabulary=vocabulary, file=file, section="utils", name=name, method=method, batches=batches)


def has_unlabelled_row(case: Case) -> bool:
    """Whether a forget row has no label at all."""
    labels = golden_batch(case.vocabulary, case.batches.get(Role.FORGET, "retain"))["labels"]
    return any(not label_places(row) for row in labels)


ALL_CASES = [
    case for vocabulary in VOCABULARIES for case in (*closer_look_cases(vocabulary), *open_unlearning_cases(vocabulary))
]
RAISED = [case for case in ALL_CASES if "error" in case.golden("float64")]
CASES = [case for case in ALL_CASES if "error" not in case.golden("float64")]
# A number here, NaN there: SimNPO of a row without labels.
SETTLED = [case for case in CASES if isinstance(case.method.forget, SimNPO) and has_unlabelled_row(case)]
