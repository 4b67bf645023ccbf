"""Losses and gradients against what closer-look and open-unlearning computed, through our own path.

Every case of golden/losses is run, or stands in a short list of exceptions that has its own test:
`test_every_golden_case_is_run` counts them. Rows go TokenRow -> collate -> read_signals -> Objective, the rows of all
roles fused in one batch, left-padded (vocabulary head on label positions only) and right-padded. What a
TokenRow cannot say is built as a Batch from the golden tensors, one micro-batch a side (forget, retain), with the
totals of the step. That is so for
* an EOS label that is not attended to, where something is read AT it or after it (released every-position losses, RMU);
* labels on padding (`@nomask`). Where such a label on index 0 counts, the Signals get one position more in front.
Tolerances are those of the golden README. Left-padded float64 runs use sdpa, because eager attention gives NaN
there (QUIRKS 33).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from helpers.losses import PAD, Outcome, all_parts, cached_reference, parts_of, run_step, signals_of
from helpers.shared import SHARED
from torch import Tensor
from transformers import AutoModelForCausalLM

from lume_run.methods.base import Count, Needs, Role, Signals, Totals
from lume_run.methods.distillation import CEU, UNDIAL, UNDIALCompat
from lume_run.methods.dpo import DPO, AnswerPreservation
from lume_run.methods.entropy import MaximumEntropy, MaximumEntropyCompat
from lume_run.methods.kl import RetainKL, RetainKLCompat
from lume_run.methods.likelihood import GradientAscent, GradientDescent, MismatchedAscent, Refusal
from lume_run.methods.npo import NPO, SimNPO
from lume_run.methods.objective import Dual, Objective, Part, Sum, Term
from lume_run.methods.pdu import LogitMargin, LogitMarginCompat
from lume_run.methods.rmu import RMU, AdaptiveRMU, EmbeddingDistance, direction
from lume_run.methods.weighted_ascent import SaturationImportance, WeightedAscent
from lume_run.models.batch import Batch, collate
from lume_run.models.tokenise import TokenRow
from lume_run.training.reference import ReferenceCache, row_logps
from lume_run.training.schedule import totals_of
from lume_run.training.signals import read_signals

GOLDEN = SHARED / "golden" / "losses"
VOCABULARIES = ("v97", "v131")
DTYPES = {"float64": torch.float64, "float32": torch.float32}
FILES = ("closer_look.json", "open_unlearning.json")
ROWS = 4  # in every golden batch
NO_TOTALS = Totals()
VECTOR_SEED = 4242  # the references drew their control vectors after torch.manual_seed(4242)
NEVER = 10**9  # steps
BATCH_NLL = "compute_batch_nll"

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the golden losses are not at {GOLDEN}")


# ------------------------------------------------------------------------------------------- golden inputs


@cache
def stored(vocabulary: str, name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / vocabulary / name).read_text(encoding="utf-8"))


@cache
def loaded(vocabulary: str, folder: str, dtype: str, attention: str = "eager"):
    model = AutoModelForCausalLM.from_pretrained(
        GOLDEN / vocabulary / folder, dtype=DTYPES[dtype], attn_implementation=attention
    )
    return model.eval()


@cache
def golden_batch(vocabulary: str, name: str) -> dict[str, list[list[int]]]:
    """`unlabelled` is `forget` without its labels: rows whose log-probability is 0 in every model."""
    batches = stored(vocabulary, "batches.json")
    if name == "unlabelled":
        return batches["forget"] | {"labels": [[-100] * len(row) for row in batches["forget"]["labels"]]}
    return batches[name]


def able_to_pad_left(vocabulary: str, folder: str, dtype: str):
    return loaded(vocabulary, folder, dtype, "sdpa" if dtype == "float64" else "eager")


def role_of(name: str) -> Role:
    """`forget_nomask` and `forget_edge` stand in the place of `forget`."""
    return Role.FORGET if name in ("forget_nomask", "forget_edge") else Role[name.upper()]


def golden_rows(vocabulary: str, name: str, role: Role) -> list[TokenRow]:
    """Rows up to their last label; a row without labels keeps its attended tokens."""
    batch = golden_batch(vocabulary, name)
    rows = []
    for number in range(ROWS):
        ids, labels, attention = (batch[field][number] for field in ("input_ids", "labels", "attention_mask"))
        places = [place for place, label in enumerate(labels) if label != -100]
        end = places[-1] + 1 if places else sum(attention)
        start = places[0] if places else end
        assert places == list(range(start, end))  # no holes
        side = "forget" if role.is_forget else "retain"  # one example in all its roles
        rows.append(
            TokenRow(
                example_id=f"{side}-{number}", ids=tuple(ids[:end]), answer_start=start, label_start=start, role=role
            )
        )
    return rows


def golden_tensors(vocabulary: str, batches: Mapping[Role, str], totals: Totals) -> Batch:
    """Batches as the references saw them: right-padded, positions 0 to T - 1, their own attention masks.

    Several roles stand below each other, padded on to the widest; causal attention does not see that.
    """
    given = [golden_batch(vocabulary, name) for name in batches.values()]
    width = max(len(batch["input_ids"][0]) for batch in given)

    def tensor(name: str, padding: int) -> Tensor:
        return torch.tensor([row + [padding] * (width - len(row)) for batch in given for row in batch[name]])

    input_ids, labelled = tensor("input_ids", PAD), tensor("labels", -100)[:, 1:] != -100
    return Batch(
        keys=tuple(f"{name} {number}" for name in batches.values() for number in range(ROWS)),
        input_ids=input_ids,
        attention_mask=tensor("attention_mask", 0),
        position_ids=torch.arange(width).repeat(len(input_ids), 1),
        targets=input_ids[:, 1:],
        mask=labelled,
        is_answer=labelled,
        role=torch.tensor([role.value for role in batches for _ in range(ROWS)]),
        totals=totals,
        keep=0,
    )


def golden_totals(vocabulary: str, batches: Mapping[Role, str], *, from_index: int = 1) -> Totals:
    """Counts of the golden batches themselves; labels count from this index on (one on index 0 is never predicted)."""
    counts: dict[Role, Count] = {}
    for role, name in batches.items():
        labels = golden_batch(vocabulary, name)["labels"]
        lengths = tuple(sum(label != -100 for label in row[from_index:]) for row in labels)
        tokens, positions = sum(lengths), len(labels) * len(labels[0])
        counts[role] = Count(rows=ROWS, tokens=tokens, labels=tokens, positions=positions, lengths=lengths)
    return Totals(counts=counts)


def with_first_label(s: Signals) -> Signals:
    """The same with a position in front of every row, so that the label on index 0 has a place in `mask`, R = T.

    Our batches never label a row's first token, which nothing predicts; its log-probability counts as 0.
    """

    def longer(signal: Tensor | None) -> Tensor | None:
        return None if signal is None else torch.cat([torch.zeros_like(signal[:, :1]), signal], dim=1)

    found: dict[str, Any] = {
        name: longer(getattr(s, name))
        for name in ("logps", "targets", "logits", "hidden", "ref_logps", "ref_logits", "ref_hidden")
    }
    mask = torch.cat([torch.ones_like(s.mask[:, :1]), s.mask], dim=1)
    return replace(s, **found, mask=mask, is_answer=mask)


# -------------------------------------------------------------------------------------------- golden cases


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
        if every_position or needs.hidden_layer is not None or "forget_nomask" in self.batches.values():
            return ()
        return ("right",) if needs.every_position else ("left", "right")

    def golden(self, dtype: str) -> dict[str, Any]:
        return stored(self.vocabulary, self.file)[dtype][self.section][self.name]

    def golden_parts(self, dtype: str) -> dict[str, float]:
        """What our logged parts should be, where the golden file has parts."""
        golden = self.golden(dtype)
        if "forget_loss" not in golden:
            return {}
        if not self.name.startswith("LLMU"):
            return {"forget_loss": golden["forget_loss"], "retain_loss": golden["regularization_loss"]}
        # our forget part holds the mismatched answers too; theirs is GA alone, and they regularize
        losses = stored(self.vocabulary, self.file)[dtype]["losses"]
        assert golden["regularization_loss"] == pytest.approx(losses["MISMATCH"]["loss"] + losses["KL"]["loss"])
        return {"forget_nll": -golden["forget_loss"], "retain_loss": losses["KL"]["loss"]}


def batches_of(names: list[str]) -> dict[Role, str]:
    return {role_of(name): name for name in names}


def retain_alone(name: str, part: Part) -> Objective:
    """There are no forget rows, so the forget share is 0."""
    return Objective(name=name, forget=GradientAscent(), retain=part)


def closer_look_loss(name: str, params: dict[str, Any]) -> Objective:
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
        "me_loss": MaximumEntropyCompat(masked=not name.endswith("@nomask")),
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
    golden = stored(vocabulary, file)["float64"]
    for name, one in golden["losses"].items():
        yield Case(
            vocabulary=vocabulary,
            file=file,
            section="losses",
            name=name,
            method=closer_look_loss(name, one["params"]),
            batches=batches_of(one["batches"]),
        )
    for name, one in golden["combined"].items():
        method = combination(name, one["params"])
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
    and only the plain one takes a vocabulary below 100 tokens."""
    return UNDIAL(beta=beta) if (vocabulary, inputs) == ("v97", "forget_nomask") else UNDIALCompat(beta=beta)


def ceu(inputs: str, ignored: int) -> CEU:
    """The reference counts a label on index 0 among the first n; our batches have none there."""
    return CEU(ignore_first=max(0, ignored - 1) if inputs == "forget_nomask" else ignored)


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
            layer = int(given["module_regex"][-1])
            return RMU(layer=layer, steering=given["steering_coeff"], vector_seed=VECTOR_SEED, mean="released")
        case "UNDIAL":
            return undial(vocabulary, inputs, given["beta"])
        case "WGA":
            return WeightedAscent(beta=given["beta"])
        case "SatImp":
            return SaturationImportance(beta1=given["beta1"], beta2=given["beta2"])
        case "CEU":
            return ceu(inputs, given["ignore_first_n_answer_tokens"])
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
            return Objective(name=function, forget=ceu(inputs, params["ignore_first_n_answer_tokens"])), forget
    raise AssertionError(f"no method for {function}")


def open_unlearning_cases(vocabulary: str) -> Iterator[Case]:
    """Every trainer object, and every bare function that has a gradient."""
    file = "open_unlearning.json"
    golden = stored(vocabulary, file)["float64"]
    for name, one in golden["losses"].items():
        yield Case(
            vocabulary=vocabulary,
            file=file,
            section="losses",
            name=name,
            method=trainer_method(vocabulary, name, one["class"], one["batches"], one["method_args"]),
            batches=batches_of(one["batches"]),
            counts_first=name.endswith("@nomask") and one["class"] in ("SimNPO", "RMU", "PDU"),
        )
    for name, one in golden["utils"].items():
        function = name.partition("|")[0]
        if function != BATCH_NLL:  # no gradient stored
            method, batches = function_method(vocabulary, function, one["params"])
            yield Case(vocabulary=vocabulary, file=file, section="utils", name=name, method=method, batches=batches)


ALL_CASES = [
    case
    for vocabulary in VOCABULARIES
    if GOLDEN.is_dir()
    for case in (*closer_look_cases(vocabulary), *open_unlearning_cases(vocabulary))
]
RAISED = [case for case in ALL_CASES if "error" in case.golden("float64")]
CASES = [case for case in ALL_CASES if "error" not in case.golden("float64")]
SETTLED = [case for case in CASES if case.name == "SimNPO_d0.5_b2.5_g1_a0@edge"]  # a number here, NaN there


def golden_names(vocabulary: str, dtype: str) -> set[tuple[str, str, str]]:
    """(file, section, name) of everything that was computed."""
    return {
        (file, section, name)
        for file in FILES
        for section, found in stored(vocabulary, file)[dtype].items()
        for name in found
    }


def has_its_own_test(section: str, name: str) -> bool:
    """Whether a test at the end of this file runs it, over all such names that are stored."""
    return section in ("get_batch_loss", "pdu_primal_dual", "rmu_control_vectors") or name.startswith(BATCH_NLL)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_every_golden_case_is_run(vocabulary, dtype):
    """As a case with gradients, as one that raised, or in a test of its own."""
    everything = golden_names(vocabulary, dtype)
    cases, raised = ([case.place for case in found if case.vocabulary == vocabulary] for found in (CASES, RAISED))
    apart = [(file, section, name) for file, section, name in everything if has_its_own_test(section, name)]
    assert len(raised) == (5 if vocabulary == "v97" else 0)  # UNDIAL, with a vocabulary below 100 tokens
    assert len(cases) + len(raised) == 24 + 30 + 64 + 21  # losses and combined of closer-look, losses and utils
    assert len(apart) == 2 + 3 + 14 + 3  # get_batch_loss, pdu_primal_dual, compute_batch_nll, rmu_control_vectors
    together = [*cases, *raised, *apart]
    assert len(together) == len(set(together))
    assert set(together) == everything


def test_the_inputs_of_a_case_are_the_same_everywhere():
    """Cases are made from the float64 half of a file; the float32 half has the same arguments."""
    for case in ALL_CASES:
        wide, narrow = case.golden("float64"), case.golden("float32")
        for key in ("params", "class", "method_args", "batches", "error"):
            assert wide.get(key) == narrow.get(key)
        assert ("loss" in wide or "value" in wide) != ("error" in wide)


def test_every_part_with_a_released_counterpart_is_checked():
    """The others are in neither repository: RetainKL and LogitMargin mask and shift where the released code does not
    (their `Compat` forms are here), AdaptiveRMU was released elsewhere."""
    methods = [*(case.method for case in CASES), *(method for _, method in other_forms())]
    assert all_parts() - set().union(*map(parts_of, methods)) == {RetainKL, LogitMargin, AdaptiveRMU}


# ------------------------------------------------------------------------------------------------- our path


@cache
def reference_logps(vocabulary: str, dtype: str, name: str, role: Role):
    """The cache is always computed from left-padded rows."""
    frozen = able_to_pad_left(vocabulary, "ref_model", dtype)
    return cached_reference(frozen, golden_rows(vocabulary, name, role)).logps


def attached(batch: Batch, case: Case, dtype: str) -> Batch:
    """With the cached log-probs of all rows that need them."""
    found: dict[str, Tensor] = {}
    for role in case.method.needs.reference_logps:
        found |= reference_logps(case.vocabulary, dtype, case.batches[role], role)
    return ReferenceCache(found).attach(batch, case.method.needs.reference_logps)


def from_rows(case: Case, dtype: str, side: str) -> Outcome:
    """One batch of TokenRows in all roles."""
    rows = [row for role, name in case.batches.items() for row in golden_rows(case.vocabulary, name, role)]
    totals = totals_of(rows, [range(len(rows))])
    batch = attached(collate(rows, pad_id=PAD, totals=totals, every_position=side == "right"), case, dtype)
    model, frozen = (
        able_to_pad_left(case.vocabulary, folder, dtype) if side == "left" else loaded(case.vocabulary, folder, dtype)
        for folder in ("model", "ref_model")
    )
    return run_step(case.method, model, signals_of(case.method, model, frozen, [batch]))


def from_tensors(case: Case, dtype: str, last: Mapping[str, float] | None = None) -> Outcome:
    """The golden tensors, one micro-batch a side."""
    model, frozen = (loaded(case.vocabulary, folder, dtype) for folder in ("model", "ref_model"))
    totals = golden_totals(case.vocabulary, case.batches, from_index=0 if case.counts_first else 1)
    sides = [
        {role: name for role, name in case.batches.items() if role.is_forget == forget} for forget in (True, False)
    ]
    batches = [golden_tensors(case.vocabulary, side, totals) for side in sides if side]
    if case.method.needs.reference_logps:
        with torch.no_grad():
            batches = [replace(one, ref_logps=read_signals(frozen, one, needs=Needs()).logps) for one in batches]
    signals = signals_of(case.method, model, frozen, batches, last)
    if case.counts_first:
        signals = (with_first_label(s) if s.rows(Role.FORGET).any() else s for s in signals)
    return run_step(case.method, model, signals)


def entry(gradients: dict[str, Tensor], place: str) -> float:
    """`parameter[3,7]` or `parameter[5]`."""
    name, _, index = place.partition("[")
    return float(gradients[name][tuple(int(number) for number in index.rstrip("]").split(","))])


def close(expected: float | str, absolute: float, relative: float) -> Any:
    """The golden README's bound: absolute + relative x |golden|; not-a-number equals itself."""
    value = float(expected)
    return pytest.approx(value, abs=absolute + (0 if math.isnan(value) else relative * abs(value)), rel=0, nan_ok=True)


def check_loss(ours: float, golden: float | str, dtype: str, what: str = "loss") -> None:
    absolute, relative = (1e-6, 1e-5) if dtype == "float64" else (2e-6, 2e-5)
    assert ours == close(golden, absolute, relative), what


def check_gradients(gradients: dict[str, Tensor], golden: dict[str, Any], dtype: str) -> None:
    """Global and per-parameter norms and single entries, at the tolerances of the golden README."""
    wide = dtype == "float64"
    norms = {name: gradient.double().norm().item() for name, gradient in gradients.items()}
    relative, whole = (1e-5 if wide else 1e-4), float(golden["grad_l2"])
    size = 0.0 if math.isnan(whole) else whole
    assert math.hypot(*norms.values()) == close(whole, 0, relative)
    for name, expected in golden.get("grad_l2_per_param", {}).items():
        assert norms[name] == close(expected, 1e-6 * size, relative), name
    relative, of_norm = (1e-4, 2e-6) if wide else (1e-3, 1e-5)
    for place, expected in golden.get("grad_entries", {}).items():
        assert entry(gradients, place) == close(expected, of_norm * size, relative), place


def check(outcome: Outcome, case: Case, dtype: str) -> None:
    golden = case.golden(dtype)
    loss = golden["loss"] if "loss" in golden else golden["value"]
    assert len(golden["grad_entries"]) == 10
    assert dtype == "float32" or case.section != "losses" or len(golden["grad_l2_per_param"]) == len(outcome.gradients)
    check_gradients(outcome.gradients, golden, dtype)
    if case in SETTLED:  # NaN there; here the row without labels counts as one of NLL 0
        assert loss == "NaN"
        assert math.isfinite(outcome.loss)
        return
    check_loss(outcome.loss, loss, dtype)
    for name, expected in case.golden_parts(dtype).items():
        check_loss(outcome.parts.get(name, 0.0), expected, dtype, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("case", "side"), [pytest.param(case, side, id=f"{case.id}-{side}") for case in CASES for side in case.sides]
)
def test_from_rows(case, side, dtype):
    check(from_rows(case, dtype, side), case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [case for case in CASES if not case.sides], ids=lambda case: case.id)
def test_from_golden_tensors(case, dtype):
    check(from_tensors(case, dtype), case, dtype)


def other_forms() -> Iterator[tuple[Case, Objective]]:
    """Golden cases with another method that comes to the same there.

    Where every position but the last is labelled, all rows are equally long and nothing is left to mask: plain and
    released means agree. A weighted `Sum` is the objective of its parts.
    """
    for case in CASES:
        method = case.method
        if case.name == "ME@nomask":
            for prompts in (True, False):
                plain = MaximumEntropy(direction="from_uniform", prompts=prompts)
                yield case, replace(method, name=f"plain, prompts={prompts}", forget=plain)
        if isinstance(method.forget, UNDIALCompat) and case.section == "losses" and case.name.endswith("@nomask"):
            yield case, replace(method, name="plain", forget=UNDIAL(beta=method.forget.beta))
        if isinstance(method.forget, RMU) and case.name in ("RMU_layer0_s2_NLL@nomask", "RMU_layer1_s6.5_a0@nomask"):
            yield case, replace(method, name="mean of rows", forget=replace(method.forget, mean="rows"))
        if case.section == "combined" and method.retain is not None:
            terms = (
                Term(part=method.forget, weight=method.forget_weight),
                Term(part=method.retain, weight=method.retain_weight),
            )
            yield case, Objective(name="sum", forget=Sum(terms=terms))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("case", "method"), [pytest.param(*form, id=f"{form[0].id}, {form[1].name}") for form in other_forms()]
)
def test_other_forms_of_the_same(case, method, dtype):
    outcome, golden = from_tensors(replace(case, method=method), dtype), case.golden(dtype)
    check_loss(outcome.loss, golden["loss"], dtype)
    check_gradients(outcome.gradients, golden, dtype)


# ----------------------------------------------------------------------------------------------- exceptions


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", RAISED, ids=lambda case: case.id)
def test_released_undial_needs_a_hundred_tokens(case, dtype):
    assert case.golden(dtype)["error"] == "IndexError: index -100 is out of bounds for dimension 2 with size 97"
    with pytest.raises(ValueError, match="at least 100 tokens, not 97"):
        from_tensors(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_losses_that_are_not_a_number(vocabulary, dtype):
    """A row without labels: SimNPO counts it as NLL 0 (their gradient is finite and equals ours, see `check`); the
    released mean of RMU stays NaN."""
    found = {case.name for case in CASES if case.vocabulary == vocabulary and case.golden(dtype).get("loss") == "NaN"}
    rmu = {"RMU_layer1_s20_EMBED_DIFF_a0.5@edge", "RMU_layer1_s6.5_a0@edge"}
    assert found == rmu | {case.name for case in SETTLED}


# ------------------------------------------------------------------------------- what has no gradient stored


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("folder", ["model", "ref_model"])
def test_row_sums_are_get_batch_loss(folder, vocabulary, dtype):
    """closer-look's get_batch_loss and open-unlearning's compute_batch_nll, on every batch."""
    closer_look, open_unlearning = (stored(vocabulary, file)[dtype] for file in FILES)
    golden = closer_look["get_batch_loss"]
    assert set(golden) == {"model", "ref_model"}
    assert set(golden[folder]) == set(stored(vocabulary, "batches.json"))
    assert len([name for name in open_unlearning["utils"] if name.startswith(BATCH_NLL)]) == 2 * len(golden[folder])
    for name, expected in golden[folder].items():
        ours = row_sums(vocabulary, folder, dtype, name)
        released = open_unlearning["utils"][f"{BATCH_NLL}|{folder}|{name}"]
        assert released["params"] == {"model": folder, "inputs": name}
        for theirs in (expected, released["value"]):
            assert len(ours) == len(theirs) == ROWS
            for mine, one in zip(ours, theirs, strict=True):
                check_loss(mine, one, dtype, name)


def row_sums(vocabulary: str, folder: str, dtype: str, name: str) -> list[float]:
    """NLL [nats] of each row's labels."""
    if name == "forget_nomask":
        batch = golden_tensors(vocabulary, {Role.FORGET: name}, NO_TOTALS)
        with torch.no_grad():
            logps = read_signals(loaded(vocabulary, folder, dtype), batch, needs=Needs()).logps
        return (-logps.sum(1)).tolist()
    rows = golden_rows(vocabulary, name, role_of(name))
    found = row_logps(able_to_pad_left(vocabulary, folder, dtype), rows, pad_id=PAD)
    return [-float(logps.double().sum()) for logps in found]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_control_vectors(vocabulary, dtype):
    """The same draw from a generator of our own, which leaves the global one alone."""
    golden = stored(vocabulary, "open_unlearning.json")[dtype]["rmu_control_vectors"]
    assert set(golden) == {"steering_coeff=2", "steering_coeff=20", "steering_coeff=6.5"}
    before = torch.get_rng_state()
    for name, expected in golden.items():
        vector = torch.tensor(expected)
        steering = float(name.partition("=")[2])
        ours = steering * direction(vector.numel(), VECTOR_SEED, torch.zeros(1))
        torch.testing.assert_close(ours, vector[0, 0], atol=0, rtol=1e-6)
    assert torch.equal(before, torch.get_rng_state())


def primal_dual_names() -> list[str]:
    return sorted(stored("v97", "open_unlearning.json")["float64"]["pdu_primal_dual"]) if GOLDEN.is_dir() else []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("name", primal_dual_names())
def test_primal_dual(name, vocabulary, dtype):
    """Three steps on unchanged weights. Ours reads what the trainer logged of the step before, theirs its own state."""
    section = stored(vocabulary, "open_unlearning.json")[dtype]["pdu_primal_dual"]
    assert sorted(section) == primal_dual_names()
    golden = section[name]
    method = trainer_method(vocabulary, name, "PDU", golden["batches"], golden["method_args"])
    case = Case(
        vocabulary=vocabulary,
        file="open_unlearning.json",
        section="pdu_primal_dual",
        name=name,
        method=method,
        batches=batches_of(golden["batches"]),
    )
    assert len(golden["steps"]) == 3
    last: dict[str, float] = {}
    for number, step in enumerate(golden["steps"], start=1):
        outcome = from_tensors(case, dtype, last)
        check_loss(outcome.loss, step["loss"], dtype)
        check_gradients(outcome.gradients, step, dtype)
        for part in ("forget_loss", "retain_loss"):
            check_loss(outcome.parts[part], step["logged"][part], dtype, part)
        last = {"step": number, "loss": outcome.loss, **outcome.parts}  # the log entry that the trainer writes
        forget_weight, retain_weight = step["preferences_after"]
        assert method.forget_weight == forget_weight
        check_loss(from_tensors(case, dtype, last).parts["retain_weight"], retain_weight, dtype, "weight")


def test_the_first_dual_update_follows_the_first_step_after_the_warm_up():
    dual = Dual(bound=0.5, step_size=2.0, warmup_steps=5)
    weights = [dual.weight({"step": step, "retain_weight": 1.0, "retain_loss": 0.75}, 9.0, 0.5) for step in (4, 5, 6)]
    assert weights == [1.0, 1.0, 1.0 + 2.0 * 0.25]
    assert dual.weight({}, 9.0, 0.5) == 9.0


# ------------------------------------------------------------------------------------ through our own padding


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_released_kl_through_collate(vocabulary, dtype):
    """Retain rows without their EOS have the golden attention mask, a forget row of T tokens gives the golden width:
    then our own right padding (positions included) is the released batch."""
    batch = golden_batch(vocabulary, "retain")
    width = len(batch["input_ids"][0])
    rows = [
        TokenRow(example_id=f"retain-{number}", ids=tuple(ids[: sum(attention)]), answer_start=1, label_start=1)
        for number, (ids, attention) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True))
    ]
    wide = tuple(range(3, 3 + width))
    rows.append(TokenRow(example_id="wide", ids=wide, answer_start=width, label_start=width, role=Role.FORGET))
    case = next(case for case in CASES if case.vocabulary == vocabulary and case.name == "KL")
    for chosen, pad_to in ((rows, 0), (rows[:-1], width)):
        totals = totals_of(chosen, [range(len(chosen))], pad_to)
        assert totals.of(Role.RETAIN).positions == ROWS * width
        fused = collate(chosen, pad_id=PAD, totals=totals, every_position=True, pad_to=pad_to)
        model, frozen = (loaded(vocabulary, folder, dtype) for folder in ("model", "ref_model"))
        check(run_step(case.method, model, signals_of(case.method, model, frozen, [fused])), case, dtype)
