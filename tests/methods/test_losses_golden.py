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

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from helpers.golden import GOLDEN_MARKS, PRECISIONS, UNLABELLED, skip_without
from helpers.golden_cases import (
    ALL_CASES,
    BATCH_NLL,
    CASES,
    LABELS_INDEX,
    RAISED,
    SETTLED,
    Case,
    batches_of,
    has_unlabelled_row,
    trainer_method,
)
from helpers.golden_losses import (
    VOCABULARIES,
    end_id,
    golden_batch,
    golden_rows,
    golden_tensors,
    labels_everything,
    loss_model,
    pads_left,
    read_losses,
    role_of,
    row_count,
    vector_seed,
    vocabulary_size,
)
from helpers.golden_steps import check, check_gradients, check_loss, from_rows, from_tensors
from helpers.losses import all_parts, parts_of, run_step, signals_of

from lume_run.methods.altpo import AltPO
from lume_run.methods.distillation import UNDIAL, UNDIALCompat
from lume_run.methods.entropy import LogitMargin, MaximumEntropy, MaximumEntropyCompat
from lume_run.methods.jensun import JensUn, RetainJS
from lume_run.methods.kl import RetainKL, RetainKLCompat
from lume_run.methods.needs import Needs, Role, Totals
from lume_run.methods.objective import Dual, Objective, Sum, Term
from lume_run.methods.rmu import RMU, AdaptiveRMU, direction
from lume_run.models.rows.batch import collate
from lume_run.models.rows.tokenise import TokenRow
from lume_run.training.reference import row_logps
from lume_run.training.schedule import totals_of
from lume_run.training.signals import read_signals

FILES = ("closer_look.json", "open_unlearning.json")
RETAIN = Role.RETAIN
NO_TOTALS = Totals()

pytestmark = GOLDEN_MARKS


def golden_names(vocabulary: str, dtype: str) -> set[tuple[str, str, str]]:
    """(file, section, name) of everything that was computed."""
    return {
        (file, section, name)
        for file in FILES
        for section, cases in read_losses(vocabulary, file)[dtype].items()
        for name in cases
    }


def has_its_own_test(section: str, name: str) -> bool:
    """Whether a test at the end of this file runs it, over all such names that are stored."""
    return section in ("get_batch_loss", "pdu_primal_dual", "rmu_control_vectors") or name.startswith(BATCH_NLL)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_every_golden_case_is_run(vocabulary, dtype):
    """As a case with gradients, as one that raised, or in a test of its own."""
    everything = golden_names(vocabulary, dtype)
    cases, raised = ([case for case in cases if case.vocabulary == vocabulary] for cases in (CASES, RAISED))
    small = vocabulary_size(vocabulary) < LABELS_INDEX  # masked labels index no token of it
    assert raised == [case for case in (*cases, *raised) if small and isinstance(case.method.forget, UNDIALCompat)]
    apart = [(file, section, name) for file, section, name in everything if has_its_own_test(section, name)]
    together = [*(case.place for case in (*cases, *raised)), *apart]
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
    (their `Compat` forms are here), AdaptiveRMU, JensUn and AltPO were released elsewhere."""
    methods = [*(case.method for case in CASES), *(method for _, method in other_forms())]
    assert all_parts() - set().union(*map(parts_of, methods)) == {
        *(RetainKL, LogitMargin, AdaptiveRMU),
        *(JensUn, RetainJS, AltPO),
    }


# ------------------------------------------------------------------------------------------------- our path


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(
    ("case", "side"), [pytest.param(case, side, id=f"{case.id}-{side}") for case in CASES for side in case.sides]
)
def test_from_rows(case, side, dtype):
    check(from_rows(case, dtype, side), case, dtype)


@pytest.mark.parametrize("dtype", PRECISIONS)
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
        unmasked = labels_everything(case.vocabulary, case.batches.get(Role.FORGET, "retain"))
        if isinstance(method.forget, MaximumEntropyCompat) and unmasked:
            for prompts in (True, False):
                plain = MaximumEntropy(direction="from_uniform", prompts=prompts)
                yield case, replace(method, name=f"plain, prompts={prompts}", forget=plain)
        if isinstance(method.forget, UNDIALCompat) and case.section == "losses" and unmasked:
            yield case, replace(method, name="plain", forget=UNDIAL(beta=method.forget.beta))
        if isinstance(method.forget, RMU) and unmasked:
            yield case, replace(method, name="mean of rows", forget=replace(method.forget, mean="rows"))
        if case.section == "combined" and method.retain is not None:
            terms = (
                Term(part=method.forget, weight=method.forget_weight),
                Term(part=method.retain, weight=method.retain_weight),
            )
            yield case, Objective(name="sum", forget=Sum(terms=terms))


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(
    ("case", "method"), [pytest.param(*form, id=f"{form[0].id}, {form[1].name}") for form in other_forms()]
)
def test_other_forms_of_the_same(case, method, dtype):
    outcome, golden = from_tensors(replace(case, method=method), dtype), case.golden(dtype)
    check_loss(outcome.loss, golden["loss"], dtype)
    check_gradients(outcome.gradients, golden, dtype)


# ----------------------------------------------------------------------------------------------- exceptions


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("case", RAISED, ids=lambda case: case.id)
def test_released_undial_needs_a_hundred_tokens(case, dtype):
    size = vocabulary_size(case.vocabulary)
    expected = f"IndexError: index {UNLABELLED} is out of bounds for dimension 2 with size {size}"
    assert case.golden(dtype)["error"] == expected
    with pytest.raises(ValueError, match=f"at least {LABELS_INDEX} tokens, not {size}"):
        from_tensors(case, dtype)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_losses_that_are_not_a_number(vocabulary, dtype):
    """A row without labels: SimNPO counts it as NLL 0 (their gradient is finite and equals ours, see `check`); the
    released mean of RMU stays NaN."""
    cases = [case for case in CASES if case.vocabulary == vocabulary]
    not_numbers = [case for case in cases if case.golden(dtype).get("loss") == "NaN"]
    rmu = [case for case in cases if isinstance(case.method.forget, RMU) and has_unlabelled_row(case)]
    assert not_numbers == [case for case in cases if case in rmu or case in SETTLED]
    skip_without(not_numbers, "loss that is not a number")


# ------------------------------------------------------------------------------- what has no gradient stored


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("folder", ["model", "ref_model"])
def test_row_sums_are_get_batch_loss(folder, vocabulary, dtype):
    """closer-look's get_batch_loss and open-unlearning's compute_batch_nll, on every batch."""
    closer_look, open_unlearning = (read_losses(vocabulary, file)[dtype] for file in FILES)
    golden = closer_look["get_batch_loss"]
    assert set(golden) == {"model", "ref_model"}
    assert set(golden[folder]) == set(read_losses(vocabulary, "batches.json"))
    released = {
        case["params"]["inputs"]: case["value"]
        for name, case in open_unlearning["utils"].items()
        if name.startswith(BATCH_NLL) and case["params"]["model"] == folder
    }
    assert set(released) == set(golden[folder])
    for name, expected in golden[folder].items():
        ours = row_sums(vocabulary, folder, dtype, name)
        for theirs in (expected, released[name]):
            assert len(ours) == len(theirs) == row_count(golden_batch(vocabulary, name))
            for row, row_golden in zip(ours, theirs, strict=True):
                check_loss(row, row_golden, dtype, name)


def row_sums(vocabulary: str, folder: str, dtype: str, name: str) -> list[float]:
    """NLL [nats] of each row's labels."""
    if labels_everything(vocabulary, name):
        batch = golden_tensors(vocabulary, {Role.FORGET: name}, NO_TOTALS)
        with torch.no_grad():
            logps = read_signals(loss_model(vocabulary, folder, dtype), batch, needs=Needs()).logps
        return (-logps.sum(1)).tolist()
    rows = golden_rows(vocabulary, name, role_of(name))
    answers = row_logps(pads_left(vocabulary, folder, dtype), rows, pad_id=end_id(vocabulary))
    return [-float(logps.double().sum()) for logps in answers]


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_control_vectors(vocabulary, dtype):
    """The same draw from a generator of our own, which leaves the global one alone."""
    golden = read_losses(vocabulary, "open_unlearning.json")[dtype]["rmu_control_vectors"]
    parts = [case.method.forget for case in ALL_CASES if case.vocabulary == vocabulary]
    steering_of_cases = {part.steering for part in parts if isinstance(part, RMU)}
    assert steering_of_cases <= {float(name.partition("=")[2]) for name in golden}
    before = torch.get_rng_state()
    for name, expected in golden.items():
        vector = torch.tensor(expected)
        steering = float(name.partition("=")[2])
        ours = steering * direction(vector.numel(), vector_seed(), torch.zeros(1))
        torch.testing.assert_close(ours, vector[0, 0], atol=0, rtol=1e-6)
    assert torch.equal(before, torch.get_rng_state())


PRIMAL_DUAL = [
    (vocabulary, name)
    for vocabulary in VOCABULARIES
    for name in read_losses(vocabulary, "open_unlearning.json")["float64"]["pdu_primal_dual"]
]


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(("vocabulary", "name"), PRIMAL_DUAL)
def test_primal_dual(vocabulary, name, dtype):
    """Steps on unchanged weights. Ours reads what the trainer logged of the step before, theirs its own state."""
    section = read_losses(vocabulary, "open_unlearning.json")[dtype]["pdu_primal_dual"]
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
    assert golden["steps"]
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


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_released_kl_through_collate(vocabulary, dtype):
    """Retain rows without their EOS have the golden attention mask, a forget row of T tokens gives the golden width:
    then our own right padding (positions included) is the released batch."""
    cases = [case for case in CASES if case.vocabulary == vocabulary and case.section == "losses"]
    cases = [case for case in cases if isinstance(case.method.retain, RetainKLCompat) and set(case.batches) == {RETAIN}]
    skip_without(cases, "KL of retain rows alone")
    for case in cases:
        batch = golden_batch(vocabulary, case.batches[RETAIN])
        width = len(batch["input_ids"][0])
        rows = [
            TokenRow(example_id=f"retain-{number}", ids=tuple(ids[: sum(attention)]), answer_start=1, label_start=1)
            for number, (ids, attention) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True))
        ]
        wide = tuple(batch["input_ids"][0])
        rows.append(TokenRow(example_id="wide", ids=wide, answer_start=width, label_start=width, role=Role.FORGET))
        for chosen, pad_to in ((rows, 0), (rows[:-1], width)):
            totals = totals_of(chosen, [range(len(chosen))], pad_to)
            assert totals.of(RETAIN).positions == row_count(batch) * width
            fused = collate(chosen, pad_id=end_id(vocabulary), totals=totals, every_position=True, pad_to=pad_to)
            model, frozen = (loss_model(vocabulary, folder, dtype) for folder in ("model", "ref_model"))
            check(run_step(case.method, model, signals_of(case.method, model, frozen, [fused])), case, dtype)
