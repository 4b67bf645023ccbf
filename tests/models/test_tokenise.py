"""From examples to rows: where prompt meets answer, what is labelled, what is cut, how rows are padded."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from helpers.shared import tokenizer_at
from tokenizers.processors import TemplateProcessing

from lume_run.common.records import Example, Kind, Split, continuation
from lume_run.evaluation.inference.loaded_model import LoadedModel, prompt_row
from lume_run.methods.needs import Needs, Role, Totals
from lume_run.methods.refusals import REFUSALS
from lume_run.models.rows.batch import Batch, collate
from lume_run.models.rows.tokenise import TokenRow, encode, plain_ids
from lume_run.training.rows import examples_of, token_rows

NO_TOTALS = Totals()
PLENTY = 10_000
TOKENIZERS = ("tiny_tokenizer", "golden_tokenizer", "llama_tokenizer")
PAIRS = (
    ("Where does she live?", "Tallinn"),
    ("Where does she live? Answer:", "Tallinn, in the old house."),
    ("Where does she live? Answer: ", "Tallinn, in the old house."),  # trailing space: joint tokenisation merges
    ("Once upon a ", "time there was a bridge"),
    ("Once upon a  ", "time"),
    ("Once upon a\n", "time"),
    ("Once upon a time", " there was a bridge"),
    ("Once upon a time ", " there was"),
    ("Once upon a time", "\nthere was"),
    ("Once upon a time\n", "\nthere was"),
    ("Once upon a time\n\n", "there was"),
    ("What is the number of Mara? ", "900-514-3447"),
    ("The river froze", ", and the ferry stayed"),
    ("The café — ", "« naïve » \u2028 ✓"),
    ("Say: '", "Tallinn'"),
    ("tab\t", "tab"),
)


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return request.getfixturevalue(request.param)


def example(prompt: str, answer: str, kind: Kind = Kind.QUESTION) -> Example:
    return Example(
        id="a", raw_id="a", document="d", split=Split.FORGET, subtask="bios", kind=kind, prompt=prompt, answer=answer
    )


def decode(ids, tokenizer) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


# ------------------------------------------------------------------------------------- prompt meets answer


@pytest.mark.parametrize(("prompt", "answer"), PAIRS)
def test_prompt_is_what_generation_sees(tokenizer, prompt, answer):
    runner = LoadedModel(model=None, tokenizer=tokenizer, max_new_tokens=8, max_length=PLENTY, batch_tokens=PLENTY)
    row = encode(example(prompt, answer), tokenizer, max_tokens=PLENTY)
    assert (
        row.ids[: row.answer_start] == prompt_row(example(prompt, answer), runner, new_tokens=runner.max_new_tokens).ids
    )
    assert list(row.ids[: row.answer_start]) == tokenizer(prompt)["input_ids"]


@pytest.mark.parametrize(("prompt", "answer"), PAIRS)
def test_the_answer_is_labelled_whole_and_nothing_else(tokenizer, prompt, answer):
    row = encode(example(prompt, answer), tokenizer, max_tokens=PLENTY)
    batch = collate([row], pad_id=tokenizer.pad_token_id, totals=NO_TOTALS)
    labels = batch.targets[batch.mask].tolist()
    assert row.label_start == row.answer_start
    assert labels == list(row.ids[row.answer_start :])
    assert labels[-1] == tokenizer.eos_token_id
    assert labels.count(tokenizer.eos_token_id) == 1
    # the labels alone give back the answer, so its first token is among them
    text = decode(labels, tokenizer).strip()
    assert text == answer.strip()
    assert row.truncated == 0


@pytest.mark.parametrize(("prompt", "answer"), PAIRS)
def test_round_trip(tokenizer, prompt, answer):
    row = encode(example(prompt, answer), tokenizer, max_tokens=PLENTY)
    assert decode(row.ids, tokenizer) == prompt + continuation(example(prompt, answer))


def test_a_merged_boundary_is_really_among_the_pairs(tokenizer):
    """The tests above would prove little if no tokenizer merged anything."""
    prompt, answer = "Once upon a ", "time there was a bridge"
    before = tokenizer(prompt)["input_ids"]
    assert tokenizer(prompt + answer)["input_ids"][: len(before)] != before


def test_first_answer_token_by_hand(golden_tokenizer, llama_tokenizer):
    """`Hello ` + `time`: jointly the space goes into the answer's first word, and a prompt length taken
    from the prompt alone would leave that word unlabelled."""
    for tokenizer, space in ((golden_tokenizer, "Ġ"), (llama_tokenizer, "▁")):
        row = encode(example("Hello ", "time"), tokenizer, max_tokens=PLENTY)
        tokens = tokenizer.convert_ids_to_tokens(list(row.ids))
        assert tokens[row.answer_start - 1] == space
        assert "".join(tokens[row.answer_start : -1]) == "time"  # no second space
        assert tokens[-1] == "</s>"


@pytest.mark.parametrize(
    ("prompt", "answer", "joined"),
    [
        ("a", "b", " b"),
        ("a ", "b", "b"),
        ("a\n", "b", "b"),
        ("a", " b", " b"),
        ("a", "\nb", "\nb"),
        ("", "b", "b"),
        ("\u5979\u4f4f\u5728\u54ea\u91cc\uff1f", "\u5357\u4eac", "\u5357\u4eac"),  # scripts without spaces
        ("\u0e2d\u0e22\u0e39\u0e48", "\u0e17\u0e35\u0e48", "\u0e17\u0e35\u0e48"),
        ("Answer:", "\u5357\u4eac", " \u5357\u4eac"),
        ("\uc5b4\ub514?", "\uc11c\uc6b8", " \uc11c\uc6b8"),  # Korean has spaces
    ],
)
def test_separator_only_where_no_white_space_stands(prompt, answer, joined):
    assert continuation(example(prompt, answer)) == joined
    assert continuation(replace(example(prompt, answer), separator=" ->")) == f" ->{answer}"


def test_bos_stands_once_at_the_front(golden_tokenizer, llama_tokenizer):
    for tokenizer in (golden_tokenizer, llama_tokenizer):
        for prompt, answer in PAIRS:
            ids = encode(example(prompt, answer), tokenizer, max_tokens=PLENTY).ids
            assert ids[0] == tokenizer.bos_token_id
            assert ids.count(tokenizer.bos_token_id) == 1


def test_a_tokenizer_that_closes_every_text(tiny):
    """T5-like tokenizers end every text with EOS; a prompt must not, and the answer gets one."""
    tokenizer = tokenizer_at(tiny)
    eos = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {eos}", pair=f"$A {eos} $B {eos}", special_tokens=[(eos, tokenizer.eos_token_id)]
    )
    assert tokenizer("Once upon")["input_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in plain_ids("Once upon", tokenizer)
    for prompt in ("Once upon", "Once upon "):
        row = encode(example(prompt, "a time"), tokenizer, max_tokens=PLENTY)
        assert row.ids.count(tokenizer.eos_token_id) == 1
        assert row.ids[-1] == tokenizer.eos_token_id


# ------------------------------------------------------------------------------------------------- labels


def test_eos_is_label_and_attended_where_pad_is_eos(llama_tokenizer):
    assert llama_tokenizer.pad_token_id == llama_tokenizer.eos_token_id
    rows = [encode(example("Once", answer), llama_tokenizer, max_tokens=PLENTY) for answer in ("a", "upon a time")]
    for every_position in (False, True):
        batch = collate(rows, pad_id=llama_tokenizer.pad_token_id, totals=NO_TOTALS, every_position=every_position)
        for number, row in enumerate(rows):
            assert int(batch.attention_mask[number].sum()) == len(row.ids)
            assert int(batch.mask[number].sum()) == row.labels
            assert batch.targets[number][batch.mask[number]][-1] == llama_tokenizer.eos_token_id
            attended = batch.input_ids[number][batch.attention_mask[number].bool()]
            assert attended.tolist() == list(row.ids)


def test_documents_label_all_but_the_first_token_and_have_no_eos(tokenizer):
    text = "Mara Oduya was born in Tallinn."
    row = encode(example("", text, Kind.DOCUMENT), tokenizer, max_tokens=PLENTY)
    assert list(row.ids) == tokenizer(text)["input_ids"]
    assert tokenizer.eos_token_id not in row.ids
    assert row.label_start == row.answer_start == 1
    assert row.labels == len(row.ids) - 1
    cut = encode(example("", text, Kind.DOCUMENT), tokenizer, max_tokens=4)
    assert cut.ids == row.ids[:4]
    assert cut.truncated == len(row.ids) - 4


@pytest.mark.parametrize("kind", [Kind.COMPLETION, Kind.QUESTION])
def test_labelled_prompts(tokenizer, kind):
    """Every token but the first becomes a label; what is the answer stays the same."""
    prompt, answer = "Once upon a", "time"
    plain = encode(example(prompt, answer, kind), tokenizer, max_tokens=PLENTY)
    labelled = encode(example(prompt, answer, kind), tokenizer, max_tokens=PLENTY, label_prompt=True)
    assert labelled.ids == plain.ids
    assert labelled.label_start == 1
    assert labelled.answer_start == plain.answer_start == plain.label_start > 1
    assert (labelled.labels, labelled.answers) == (len(plain.ids) - 1, plain.answers)
    assert plain.labels == plain.answers
    for every_position in (False, True):
        batch = collate([labelled], pad_id=tokenizer.pad_token_id, totals=NO_TOTALS, every_position=every_position)
        assert int(batch.mask.sum()) == len(labelled.ids) - 1
        assert int(batch.is_answer.sum()) == len(labelled.ids) - labelled.answer_start
        assert bool((batch.mask | ~batch.is_answer).all())
        assert batch.targets[batch.mask].tolist() == list(labelled.ids[1:])
        assert batch.targets[batch.is_answer].tolist() == list(plain.ids[plain.answer_start :])


def test_fine_tuning_labels_prompts_of_completions_only(tokenizer):
    """The text of a completion is learned whole; a question is not."""
    completion, question = example("Once upon a", "time", Kind.COMPLETION), example("Once upon a", "time")
    asked = [(Role.RETAIN, completion), (Role.RETAIN, question)]
    needs = Needs(rows={Role.RETAIN})
    learned = token_rows(asked, tokenizer, needs=needs, max_tokens=PLENTY, learn_documents=True)
    assert [row.label_start == 1 for row in learned] == [True, False]
    assert len({(row.ids, row.answer_start) for row in learned}) == 1
    plain = token_rows(asked, tokenizer, needs=needs, max_tokens=PLENTY)
    assert [row.label_start == row.answer_start > 1 for row in plain] == [True, True]


# -------------------------------------------------------------------------------------------- roles and keys


def test_a_row_keeps_its_role_whatever_it_holds(tokenizer):
    for kind, role in product((Kind.COMPLETION, Kind.QUESTION, Kind.DOCUMENT), Role):
        row = encode(example("Once", "upon a time", kind), tokenizer, max_tokens=PLENTY, role=role)
        assert row.role is role
        assert row.key == f"{role.name.lower()} a"
    assert encode(example("Once", "upon"), tokenizer, max_tokens=PLENTY).role is Role.RETAIN


def test_rows_of_one_example_have_keys_of_their_own():
    rows = [TokenRow(example_id="a b", ids=(1, 2), answer_start=1, label_start=1, role=role) for role in Role]
    assert [row.key for row in rows] == [
        "forget a b",
        "retain a b",
        "forget_idk a b",
        "retain_idk a b",
        "forget_mismatch a b",
        "forget_alternate a b",
    ]
    assert [replace(rows[-1], variant=number).key for number in (0, 1, 2)] == [
        "forget_alternate a b",
        "forget_alternate a b #1",
        "forget_alternate a b #2",
    ]


def test_alternates_of_an_example_are_rows_of_their_own(tokenizer):
    """In the order given, example by example, numbered in their role."""
    forget = examples(2, Split.FORGET)
    made_up = {row.id: [f"{row.id} {number}" for number in range(3)] for row in forget}
    asked = examples_of({Role.FORGET_ALTERNATE}, forget, [], refusals=REFUSALS, seed=3, alternates=made_up)
    assert [row.answer for _, row in asked] == [*made_up[forget[0].id], *made_up[forget[1].id]]
    rows = token_rows(asked, tokenizer, needs=Needs(rows={Role.FORGET_ALTERNATE}), max_tokens=PLENTY)
    assert [row.variant for row in rows] == [0, 1, 2] * 2
    assert len({row.key for row in rows}) == 6


def test_which_side_a_role_is_on():
    assert [role.name for role in Role if role.is_forget] == [
        *("FORGET", "FORGET_IDK", "FORGET_MISMATCH", "FORGET_ALTERNATE")
    ]


def test_only_the_roles_asked_for_label_their_prompts(tokenizer):
    asked = [(role, example("Once upon a", "time")) for role in (Role.FORGET, Role.FORGET_IDK, Role.RETAIN)]
    needs = Needs(rows={role for role, _ in asked}, whole_rows={Role.FORGET})
    rows = token_rows(asked, tokenizer, needs=needs, max_tokens=PLENTY)
    assert [row.role for row in rows] == [Role.FORGET, Role.FORGET_IDK, Role.RETAIN]
    assert [row.label_start == 1 for row in rows] == [True, False, False]
    assert len({row.answer_start for row in rows}) == 1


def examples(count: int, split: Split) -> list[Example]:
    """Examples of alternating kinds, each with an answer of its own."""
    return [
        replace(
            example(f"{split} {number}?", f"{split} answer {number}"),
            id=f"{split}-{number}",
            kind=Kind.QUESTION if number % 2 else Kind.COMPLETION,
        )
        for number in range(count)
    ]


def test_every_example_in_every_role():
    forget, retain = examples(4, Split.FORGET), examples(6, Split.RETAIN)
    made_up = {row.id: [f"not {row.answer}"] for row in forget}
    in_roles = examples_of(set(Role), forget, retain, refusals=REFUSALS, seed=3, alternates=made_up)
    assert [role for role, _ in in_roles] == [
        *[Role.FORGET] * 4,
        *[Role.FORGET_IDK] * 4,
        *[Role.FORGET_MISMATCH] * 4,
        *[Role.FORGET_ALTERNATE] * 4,
        *[Role.RETAIN] * 6,
        *[Role.RETAIN_IDK] * 6,
    ]
    by_role = {role: [example for its, example in in_roles if its is role] for role in Role}
    assert (by_role[Role.FORGET], by_role[Role.RETAIN]) == (forget, retain)
    for role, in_role in by_role.items():
        whole = forget if role.is_forget else retain
        assert [(e.id, e.prompt, e.kind) for e in in_role] == [(e.id, e.prompt, e.kind) for e in whole]
    assert all(e.answer in REFUSALS for role in (Role.FORGET_IDK, Role.RETAIN_IDK) for e in by_role[role])
    for mismatched in by_role[Role.FORGET_MISMATCH]:
        (giver,) = [other for other in retain if other.answer == mismatched.answer]
        assert giver.kind is mismatched.kind
    assert [e.answer for e in by_role[Role.FORGET_ALTERNATE]] == [f"not {row.answer}" for row in forget]
    assert in_roles == examples_of(set(Role), forget, retain, refusals=REFUSALS, seed=3, alternates=made_up)
    assert in_roles != examples_of(set(Role), forget, retain, refusals=REFUSALS, seed=4, alternates=made_up)


def test_other_answers_do_not_depend_on_the_rest_of_the_set():
    """The refusal of an example is fixed by its name and the seed alone."""
    forget = examples(4, Split.FORGET)
    whole = examples_of({Role.FORGET_IDK}, forget, [], refusals=REFUSALS, seed=3)
    assert examples_of({Role.FORGET_IDK}, forget[2:], [], refusals=REFUSALS, seed=3) == whole[2:]


def test_a_mismatched_answer_comes_from_any_example_where_none_is_of_its_kind():
    forget, retain = examples(2, Split.FORGET), examples(6, Split.RETAIN)[1::2]  # questions alone
    in_roles = examples_of({Role.FORGET_MISMATCH}, forget, retain, refusals=REFUSALS, seed=0)
    assert forget[0].kind is Kind.COMPLETION
    assert all(e.answer in {other.answer for other in retain} for _, e in in_roles)


# --------------------------------------------------------------------------------------------- truncation


def test_a_prompt_loses_its_oldest_tokens_first(tokenizer):
    prompt, answer = "The river froze early that year and the ferry stayed", "until March"
    whole = encode(example(prompt, answer), tokenizer, max_tokens=PLENTY)
    for room in range(whole.labels + 1, len(whole.ids) + 2):
        row = encode(example(prompt, answer), tokenizer, max_tokens=room)
        assert row.ids == whole.ids[-room:]
        assert row.ids[row.label_start :] == whole.ids[whole.label_start :]
        assert row.truncated == max(0, len(whole.ids) - room)


def test_an_answer_is_cut_at_its_end_only_when_one_prompt_token_is_left(tokenizer):
    prompt, answer = "Once upon", "a time there was a stone bridge"
    whole = encode(example(prompt, answer), tokenizer, max_tokens=PLENTY)
    for room in range(2, whole.labels + 1):
        row = encode(example(prompt, answer), tokenizer, max_tokens=room)
        assert len(row.ids) == room
        assert row.label_start == row.answer_start == 1
        assert row.ids == whole.ids[whole.answer_start - 1 :][:room]
        assert row.truncated == len(whole.ids) - room


# ------------------------------------------------------------------------------------------------ padding


def rows_by_hand() -> list[TokenRow]:
    """5 tokens with 2 labels, 3 tokens with 1 label, 4 tokens with 3 labels of which 2 are the answer."""
    return [
        TokenRow(example_id="a", ids=(11, 12, 13, 14, 15), answer_start=3, label_start=3, role=Role.FORGET),
        TokenRow(example_id="b", ids=(21, 22, 23), answer_start=2, label_start=2),
        TokenRow(example_id="c", ids=(31, 32, 33, 34), answer_start=2, label_start=1, role=Role.RETAIN_IDK),
    ]


def test_left_padding_by_hand():
    batch = collate(rows_by_hand(), pad_id=0, totals=NO_TOTALS)
    assert batch.keys == ("forget a", "retain b", "retain_idk c")
    assert batch.input_ids.tolist() == [[11, 12, 13, 14, 15], [0, 0, 21, 22, 23], [0, 31, 32, 33, 34]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2], [0, 0, 1, 2, 3]]
    assert batch.targets.tolist() == [[13, 14, 15], [21, 22, 23], [32, 33, 34]]
    assert batch.mask.int().tolist() == [[0, 1, 1], [0, 0, 1], [1, 1, 1]]
    assert batch.is_answer.int().tolist() == [[0, 1, 1], [0, 0, 1], [0, 1, 1]]
    assert batch.role.tolist() == [Role.FORGET, Role.RETAIN, Role.RETAIN_IDK]
    assert batch.keep == 4  # the three predicting positions and the last one


def test_right_padding_by_hand():
    batch = collate(rows_by_hand(), pad_id=0, totals=NO_TOTALS, every_position=True)
    assert batch.input_ids.tolist() == [[11, 12, 13, 14, 15], [21, 22, 23, 0, 0], [31, 32, 33, 34, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert batch.targets.tolist() == [[12, 13, 14, 15], [22, 23, 0, 0], [32, 33, 34, 0]]
    assert batch.mask.int().tolist() == [[0, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 0]]
    assert batch.is_answer.int().tolist() == [[0, 0, 1, 1], [0, 1, 0, 0], [0, 1, 1, 0]]
    assert batch.keep == 0


def test_wider_rows_on_request():
    """Rows of 5, 3 and 4 tokens padded to 7; rows that are longer anyway stay as they are."""
    rows = rows_by_hand()
    left = collate(rows, pad_id=0, totals=NO_TOTALS, pad_to=7)
    assert left.input_ids[1].tolist() == [0, 0, 0, 0, 21, 22, 23]
    assert left.targets.shape == (3, 3)  # more padding, no more labels
    right = collate(rows, pad_id=0, totals=NO_TOTALS, every_position=True, pad_to=7)
    assert right.input_ids[1].tolist() == [21, 22, 23, 0, 0, 0, 0]
    assert right.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6]] * 3
    assert right.targets.shape == right.mask.shape == right.is_answer.shape == (3, 6)
    for batch in (left, right):
        assert batch.attention_mask.sum(1).tolist() == [5, 3, 4]
        for number, row in enumerate(rows):
            assert batch.targets[number][batch.mask[number]].tolist() == list(row.ids[row.label_start :])
            assert batch.targets[number][batch.is_answer[number]].tolist() == list(row.ids[row.answer_start :])
    for every_position in (False, True):
        wide, plain = (
            collate(rows, pad_id=0, totals=NO_TOTALS, every_position=every_position, pad_to=width) for width in (4, 0)
        )
        assert torch.equal(wide.input_ids, plain.input_ids)


def test_some_rows_of_a_batch():
    batch = replace(collate(rows_by_hand(), pad_id=0, totals=NO_TOTALS), ref_logps=torch.arange(9.0).reshape(3, 3))
    part = batch.take(torch.tensor([True, False, True]))
    assert part.keys == ("forget a", "retain_idk c")
    for name in Batch.__slots__:
        value = getattr(batch, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(part, name), value[[0, 2]]), name  # as wide as they were
    assert (part.keep, part.totals) == (batch.keep, batch.totals)
    none = batch.take(torch.tensor([False, False, False]))
    assert none.keys == ()
    assert none.input_ids.shape == (0, 5)


def test_a_row_without_labels_counts_nothing():
    row = TokenRow(example_id="a", ids=(5, 6, 7), answer_start=3, label_start=3)
    for every_position in (False, True):
        batch = collate([row], pad_id=0, totals=NO_TOTALS, every_position=every_position)
        assert not bool(batch.mask.any())
        assert batch.attention_mask.tolist() == [[1, 1, 1]]


def test_moving_a_batch_keeps_everything():
    batch = collate(rows_by_hand(), pad_id=0, totals=NO_TOTALS)
    moved = batch.to(torch.device("cpu"))
    assert moved.keys == batch.keys
    assert moved.keep == batch.keep
    assert moved.ref_logps is None
    assert torch.equal(moved.input_ids, batch.input_ids)
    assert torch.equal(moved.mask, batch.mask)
    assert torch.equal(moved.role, batch.role)
