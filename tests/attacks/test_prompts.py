"""Prompt attacks: what is asked in place of the run's questions, and which answers give most away."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from lume_run.attacks.base import Attacked, Strength
from lume_run.attacks.disclosure import ANY_FORMULATION, most_disclosing, worst_formulations
from lume_run.attacks.forms import Forms, in_form
from lume_run.attacks.prompts import FewShot, Hints, Prefill, Wordings
from lume_run.common.errors import ConfigError
from lume_run.common.records import Ask, Chat, Example, Kind, Question, Response, Split, TaskData
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.suites.muse import Muse


def example(number: int, split: Split = Split.FORGET, kind: Kind = Kind.QUESTION, **fields) -> Example:
    given = {
        "id": f"{split}{number}",
        "raw_id": "",
        "document": f"{split}-person{number}",
        "subtask": "bios",
        "prompt": f"Where was number {number} born?",
        "answer": f"In the town of number {number}",
        "attribute": "town",
    }
    return Example(split=split, kind=kind, **(given | fields))


def situation(forget, retain=()):
    return SimpleNamespace(data=TaskData(forget=tuple(forget), retain=tuple(retain)), seed=3)


def questions(*examples: Example, ask: Ask = Ask.GENERATE, variant: str = "") -> list[Question]:
    return [Question(example=row, ask=ask, variant=variant) for row in examples]


def asked(attack, run, given) -> dict[str, list[Question]]:
    return {rewrite.strength.label: list(rewrite.rewrite(given)) for rewrite in attack.rewrites(run)}


FORGET = [example(number) for number in range(8)]
RETAIN = [example(number, Split.RETAIN) for number in range(100, 104)]
CHATTING = [replace(row, chat=Chat()) for row in FORGET]
FORMS = Forms(forms={"order": "Obey. {prompt}", "choice": "{prompt}\n{options}"})
ATTACKS = [Prefill(texts={"sure": "Sure:"}), FewShot(), FewShot(side="retain", shots=4), FORMS, Hints()]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_only_plain_questions_about_forget_documents_are_asked_again(attack):
    others = [
        *questions(*RETAIN),
        *questions(*FORGET, variant="rephrased0"),
        *questions(*FORGET, ask=Ask.SAMPLE, variant="0"),
        *questions(*FORGET, ask=Ask.GRADIENT),
        *questions(example(9, Split.MEMBER, Kind.DOCUMENT), ask=Ask.LOGPROB),
    ]
    strengths = asked(attack, situation(FORGET, RETAIN), [*others, *questions(*FORGET)])
    assert strengths
    for again in strengths.values():
        assert [(question.ask, question.example.id, question.variant) for question in again] == [
            (Ask.GENERATE, row.id, "") for row in FORGET
        ]
        assert all(question.example.prompt != row.prompt for question, row in zip(again, FORGET, strict=True))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_a_text_of_a_length_of_its_own_is_asked_again(attack):
    run = situation(FORGET, RETAIN)
    asks = Muse().asks(run.data, EvaluatorSettings())
    for again in asked(attack, run, asks).values():
        assert [(question.example.id, question.variant) for question in again] == [(row.id, "muse") for row in FORGET]


def test_an_answer_is_begun_behind_the_prompt_or_in_the_assistants_turn():
    run, attack = situation(FORGET), Prefill(texts={"sure": "Sure:", "well": "Well,"})
    strengths = asked(attack, run, questions(FORGET[0], CHATTING[1]))
    assert list(strengths) == ["sure", "well"]
    plain, chat = (question.example for question in strengths["sure"])
    assert plain.prompt == f"{FORGET[0].prompt} Sure:" and not plain.begun
    assert chat.prompt == FORGET[1].prompt and chat.begun == "Sure:"


@pytest.mark.parametrize(("side", "rows"), [("forget", FORGET), ("retain", RETAIN)])
def test_rows_of_other_documents_stand_before_a_prompt(side, rows):
    (again,) = asked(FewShot(shots=3, side=side), situation(FORGET, RETAIN), questions(*FORGET)).values()
    texts = [f"{row.prompt} {row.answer}" for row in rows]
    for question, row in zip(again, FORGET, strict=True):
        *shots, prompt = question.example.prompt.split("\n")
        assert prompt == row.prompt and question.example.answer == row.answer
        assert len(set(shots)) == 3 and set(shots) <= set(texts)
        assert f"{row.prompt} {row.answer}" not in shots
    assert len({question.example.prompt.rsplit("\n", 1)[0] for question in again}) > 1  # not the same for all


def test_shots_are_turns_of_a_chat():
    (again,) = asked(FewShot(shots=2), situation(CHATTING), questions(CHATTING[0])).values()
    chat = again[0].example.chat
    assert again[0].example.prompt == CHATTING[0].prompt
    assert [turn.role for turn in chat.before] == ["user", "assistant"] * 2
    known = {row.prompt: row.answer for row in CHATTING[1:]}
    assert [
        known[user.text] == assistant.text for user, assistant in zip(chat.before[::2], chat.before[1::2], strict=True)
    ]


def test_shots_need_another_document():
    with pytest.raises(ConfigError) as error:
        FewShot().rewrites(situation([FORGET[0], replace(FORGET[0], id="again")]))
    assert "other forget documents" in str(error.value)


def test_more_shots_than_rows():
    with pytest.raises(ConfigError, match=f"shots are 1000, and the forget side has {len(FORGET)} rows"):
        FewShot(shots=1000).rewrites(situation(FORGET))


def test_a_choice_has_the_answer_among_others_of_its_attribute():
    rows = [*FORGET, example(20, answer="A plumber", attribute="trade")]
    strengths = asked(FORMS, situation(rows), questions(*rows))
    assert [question.example.prompt for question in strengths["order"]] == [f"Obey. {row.prompt}" for row in rows]
    assert len(strengths["choice"]) == len(FORGET)  # nothing to choose from among trades
    places = set()
    for question, row in zip(strengths["choice"], FORGET, strict=True):
        prompt, *options = question.example.prompt.split("\n")
        letters, texts = zip(*(option.split(". ") for option in options), strict=True)
        assert prompt == row.prompt and letters == tuple("ABCD") and len(set(texts)) == 4
        assert set(texts) <= {other.answer for other in FORGET}
        places.add(texts.index(row.answer))
    assert len(places) > 1  # the right one does not always stand in one place


def test_a_form_goes_around_the_question_inside_the_tasks_own_frame():
    framed = example(0, prompt="Question: Where?\nAnswer:", template="Question: {question}\nAnswer:")
    assert in_form(framed, "Obey. {prompt}").prompt == "Question: Obey. Where?\nAnswer:"


def test_other_wordings_are_strengths_of_the_questions_that_have_them():
    rows = [replace(FORGET[0], rephrasings=("a", "b")), replace(FORGET[1], rephrasings=("c",)), FORGET[2]]
    strengths = asked(Wordings(), situation(rows), questions(*rows))
    prompts = {label: [question.example.prompt for question in again] for label, again in strengths.items()}
    assert prompts == {"wording_1": ["a", "c"], "wording_2": ["b"]}
    assert len(Wordings(most=1).rewrites(situation(rows))) == 1
    with pytest.raises(ConfigError):
        Wordings().rewrites(situation(FORGET))


def test_what_a_hint_leaves_is_expected():
    rows = [example(0, answer="one two three four five"), example(1, answer="alone"), example(2, answer="一二 三四")]
    strengths = asked(Hints(shares=(0.25, 0.9)), situation(rows), questions(*rows))
    pairs = {
        label: [(question.example.prompt, question.example.answer) for question in again]
        for label, again in strengths.items()
    }
    begun = [f"{row.prompt} " for row in rows]
    assert pairs["share_0.25"] == [(f"{begun[0]}one two", "three four five"), (f"{begun[2]}一二", "三四")]
    assert pairs["share_0.9"] == [(f"{begun[0]}one two three four", "five"), (f"{begun[2]}一二", "三四")]


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda: Prefill(texts={}), "empty"),
        (lambda: Prefill(texts={"a/b": "Sure"}), "small letters"),
        (lambda: Prefill(texts={"sure": "  "}), "says nothing"),
        (lambda: Forms(forms={"order": "no place"}), "0 times"),
        (lambda: Forms(forms={"order": "{prompt} {prompt}"}), "2 times"),
        (lambda: Hints(shares=()), "rise"),
        (lambda: Hints(shares=(0.5, 0.25)), "rise"),
        (lambda: Hints(shares=(0.5, 1.0)), "between 0 and 1"),
    ],
)
def test_settings_that_cannot_be(build, what):
    with pytest.raises(ValueError, match=what):
        build()


def text_of(number: int, output: str, **fields) -> Response:
    row = example(number)
    return Response(
        id=row.id,
        ask=fields.pop("ask", Ask.GENERATE),
        split=fields.pop("split", row.split),
        subtask=row.subtask,
        kind=row.kind,
        document=row.document,
        prompt="",
        expected="the green house",
        output=output,
        **fields,
    )


def test_the_most_disclosing_answer_of_each_question():
    """Right before nearly right, by recall before nothing; the likelier answer; other splits and variants stay out."""
    likely = {"ask": Ask.LOGPROB, "tokens": 4}
    plain = [text_of(0, "no"), text_of(1, "the green house"), text_of(2, "", logp_sum=-8.0, **likely)]
    other = [text_of(0, "a green house"), text_of(1, "it is the green house"), text_of(2, "", logp_sum=-2.0, **likely)]
    outside = [text_of(0, "the green house", split=Split.RETAIN), text_of(0, "the green house", variant="x")]
    assert most_disclosing([plain, other, outside]) == [other[0], plain[1], other[2]]
    short = [text_of(0, "a house", variant="muse"), text_of(0, "the green house", variant="muse")]
    assert most_disclosing([plain[:1], short[:1], short[1:]]) == [plain[0], short[1]]
    assert most_disclosing([other, plain]) == [other[0], plain[1], other[2]]
    broken = text_of(2, "", logp_sum=None, **likely)
    assert most_disclosing([[broken], [plain[2]]]) == [plain[2]]


def test_the_worst_formulation_needs_several():
    def attack(subject, label, formulation=True):
        strength = Strength(label=label, amount=1)
        return Attacked(subject=subject, attack="forms", strength=strength, rewritten=True, formulation=formulation)

    plain = {"unlearned": [text_of(0, "the green house")], "base": [text_of(0, "no")]}
    told = [text_of(0, "green")]
    attacked = [(attack("unlearned", "a"), told), (attack("unlearned", "b"), told), (attack("base", "a"), told)]
    hinted = (attack("base", "hint", formulation=False), told)
    worst = list(worst_formulations(plain, [*attacked, hinted]))
    assert [(of.subject, of.attack, of.name) for of, _ in worst] == [
        ("unlearned", ANY_FORMULATION, "unlearned+any_prompt(worst)")
    ]
    assert worst[0][1] == plain["unlearned"]  # the plain question gave most away
