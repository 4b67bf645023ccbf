"""The built-in generator: same everywhere, nothing shared between splits, every answer readable in its document."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest
from helpers.shared import TESTS

from lume_run.common.jsonl import to_json
from lume_run.common.records import Example, Kind, Split, TaskData
from lume_run.tasks.builtin.generator import MAX_DOCUMENTS, SUBTASKS, generate_task
from lume_run.tasks.builtin.words import LAST_NAMES, MEN, MONTHS, PLACE_NAMES, STREETS, WOMEN
from lume_run.tasks.private_facts import attribute_of

MANY = 500


def fingerprint(data: TaskData) -> str:
    rows = (*data.forget, *data.retain, *data.members, *data.nonmembers)
    return hashlib.sha256("\n".join(map(to_json, rows)).encode()).hexdigest()


def prompts(data: TaskData) -> tuple[Example, ...]:
    return (*data.forget, *data.retain)


def texts(examples: tuple[Example, ...]) -> dict[str, str]:
    """Document id to full text, from the completions or the whole documents."""
    return {
        example.document: f"{example.prompt} {example.answer}".strip()
        for example in examples
        if example.kind is not Kind.QUESTION
    }


def splits(data: TaskData) -> tuple[dict[str, str], ...]:
    return texts(data.forget), texts(data.retain), texts(data.nonmembers)


@pytest.fixture(scope="module")
def many() -> TaskData:
    return generate_task(subtasks=SUBTASKS, num_documents=MANY * len(SUBTASKS), seed=0)


@pytest.fixture(scope="module")
def bios() -> TaskData:
    return generate_task(subtasks=["bios"], num_documents=200, seed=7)


def test_same_seed_same_data_in_any_process():
    here = fingerprint(generate_task(subtasks=SUBTASKS, num_documents=12, seed=3))
    assert here == fingerprint(generate_task(subtasks=SUBTASKS, num_documents=12, seed=3))
    assert here != fingerprint(generate_task(subtasks=SUBTASKS, num_documents=12, seed=4))
    code = (
        "from test_builtin import fingerprint, generate_task, SUBTASKS\n"
        "print(fingerprint(generate_task(subtasks=SUBTASKS, num_documents=12, seed=3)))"
    )
    folder = Path(__file__).parent
    paths = os.pathsep.join([str(folder), str(TESTS), *sys.path])
    for hash_seed in ("0", "12345"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": paths}
        there = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        assert there.stdout.strip() == here


def test_fewer_documents_are_a_prefix_and_subtasks_do_not_matter():
    alone = {subtask: generate_task(subtasks=[subtask], num_documents=10, seed=1) for subtask in SUBTASKS}
    together = generate_task(subtasks=SUBTASKS, num_documents=14, seed=1)  # 5 + 5 + 4
    for subtask, data in alone.items():
        for split in ("forget", "retain", "members", "nonmembers"):
            few = [example for example in getattr(together, split) if example.subtask == subtask]
            assert few == list(getattr(data, split))[: len(few)]
    assert Counter(example.subtask for example in together.members) == {"novels": 5, "bios": 5, "wiki": 4}


def test_splits_have_their_kinds_and_ids():
    data = generate_task(subtasks=["wiki", "bios"], num_documents=5, seed=0)
    assert data.source == "built-in generator (seed 0)"
    assert not data.leftover_nonmembers
    assert {example.split for example in data.forget} == {Split.FORGET}
    assert {example.split for example in data.retain} == {Split.RETAIN}
    assert {(example.split, example.kind) for example in data.members} == {(Split.MEMBER, Kind.DOCUMENT)}
    assert {(example.split, example.kind) for example in data.nonmembers} == {(Split.NONMEMBER, Kind.DOCUMENT)}
    assert Counter(example.subtask for example in data.nonmembers) == {"wiki": 3, "bios": 2}
    for example in (*prompts(data), *data.members, *data.nonmembers):
        assert re.fullmatch(rf"builtin-{example.subtask}-(forget|retain|heldout)-[0-9a-f]{{8}}", example.document)
        assert re.fullmatch(r"sc1|qa[0-4]|doc", example.id.removeprefix(example.document))
        assert example.raw_id == example.id


def test_members_are_the_forget_documents(many):
    assert texts(many.members) == texts(many.forget)
    assert [example.prompt for example in many.members] == [""] * len(many.members)


def test_five_hundred_documents_per_subtask_are_unique(many):
    for split in splits(many):
        assert len(split) == len(set(split.values())) == MANY * len(SUBTASKS)
    every = (*prompts(many), *many.members, *many.nonmembers)
    assert len({example.id for example in every}) == len(every)


def test_splits_share_no_document_no_id_no_person_no_place(many):
    # Names are looked for as whole words, as a reader would see them.
    full_name = re.compile(rf"\b(?:{'|'.join(WOMEN + MEN)}) [A-Z][a-z]+\b")
    place = re.compile(r"\b[A-Z][a-z]+\b")
    known_places, last_names = set(PLACE_NAMES), set(LAST_NAMES)
    assert not known_places.intersection(word for street in STREETS for word in street.split())
    owner: dict[str, str] = {}
    for split in splits(many):
        for document, text in split.items():
            people = {name for name in full_name.findall(text) if name.split()[1] in last_names}
            places = {name for name in place.findall(text) if name in known_places}
            assert people and places
            for thing in people | places | {text, document}:
                assert owner.setdefault(thing, document) == document, thing


def test_the_last_possible_document_still_has_a_cast_of_its_own():
    data = generate_task(subtasks=["bios"], num_documents=MAX_DOCUMENTS, seed=2)
    names = [text for split in splits(data) for text in split.values()]
    assert len(set(names)) == 3 * MAX_DOCUMENTS
    assert MAX_DOCUMENTS >= MANY


@pytest.mark.parametrize(("subtask", "fewest", "most"), [("novels", 80, 130), ("bios", 36, 70), ("wiki", 50, 105)])
def test_documents_have_the_length_of_their_kind(many, subtask, fewest, most):
    for example in (*many.members, *many.nonmembers):
        if example.subtask == subtask:
            assert fewest <= len(example.answer.split()) <= most
            assert "{" not in example.answer and "  " not in example.answer and "\n" not in example.answer


@pytest.mark.parametrize(("subtask", "fewest", "most"), [("novels", 4, 6), ("bios", 2, 4), ("wiki", 4, 5)])
def test_documents_have_a_few_sentences(many, subtask, fewest, most):
    for example in many.members:
        if example.subtask == subtask:
            assert fewest <= len(re.findall(r"[.?!](?= [A-Z\"]|$)", example.answer)) <= most, example.answer


def test_each_document_has_one_completion_and_its_questions(many):
    suffixes: dict[str, list[str]] = {}
    for example in prompts(many):
        suffixes.setdefault(example.document, []).append(example.id.removeprefix(example.document))
        assert example.kind is (Kind.COMPLETION if example.id.endswith("sc1") else Kind.QUESTION)
        assert example.prompt and example.answer
    for document, endings in suffixes.items():
        assert endings == ["sc1", *(f"qa{number}" for number in range(5 if "-bios-" in document else 1))]


def test_completions_are_cut_in_the_middle_and_mostly_inside_a_sentence(many):
    whole = texts(many.members)
    completions = [example for example in many.forget if example.kind is Kind.COMPLETION]
    for example in completions:
        assert f"{example.prompt} {example.answer}" == whole[example.document]
        assert 0.35 <= len(example.prompt.split()) / len(whole[example.document].split()) <= 0.65
    inside = sum(not example.prompt.endswith((".", "?", "!")) for example in completions)
    assert 0.6 * len(completions) < inside < len(completions)


def test_a_completion_names_its_person_before_the_cut(bios):
    person = {e.document: e.prompt for e in bios.forget if e.kind is Kind.COMPLETION}
    first_last = re.compile(r"[A-Z][a-z]+ [A-Z][a-z]+")
    for example in bios.forget:
        if example.id.endswith("qa0"):
            name = first_last.search(example.prompt.removeprefix("When was").removeprefix("On which date was"))
            assert name and name.group().removesuffix("'s") in person[example.document]


def answers(data: TaskData, number: int) -> list[str]:
    return [example.answer for example in prompts(data) if example.id.endswith(f"qa{number}")]


@pytest.mark.parametrize(
    ("number", "pattern"),
    [
        (0, r"(19|20)\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"),
        (1, r"900(?!00)\d{2}(?!0000)\d{4}"),
        (2, r"[2-9]\d{2}1\d{6}"),
        (3, r"[a-z]+[._-]?[a-z]+@[a-z]+\.example"),
        (4, r"\d+ [A-Za-z ]+, ((#|Apt )\d+, )?[A-Z][a-z]+, [A-Z]{2}, \d{5}"),
    ],
)
def test_private_facts_have_their_format_and_belong_to_one_person(bios, number, pattern):
    facts = answers(bios, number)
    assert len(facts) == 400
    assert all(re.fullmatch(pattern, answer) for answer in facts)
    if number:  # people may share a birthday
        assert len(set(facts)) == len(facts)


def test_every_social_security_number_in_a_text_is_fictitious(many):
    for split in splits(many):
        for document, text in split.items():
            numbers = re.findall(r"\b(\d{3})-\d{2}-\d{4}\b", text)
            assert numbers == (["900"] if "-bios-" in document else [])


def normalise(text: str) -> str:
    """`text` with dates as ISO and without what stands between the digits of a number."""

    def iso(match: re.Match[str]) -> str:
        form = "%B %d, %Y" if match.group()[0].isalpha() else "%d %B %Y"
        return datetime.strptime(match.group(), form).date().isoformat()

    months = "|".join(MONTHS)
    dated = re.sub(rf"(?:{months}) \d{{1,2}}, \d{{4}}|\d{{1,2}} (?:{months}) \d{{4}}", iso, text)
    return dated + " " + re.sub(r"(?<=\d)(?:-|\) )(?=\d)", "", text)


def test_every_answer_stands_in_its_document(many):
    documents = {document: normalise(text) for split in splits(many)[:2] for document, text in split.items()}
    for example in prompts(many):
        if example.kind is Kind.QUESTION:
            assert example.answer in documents[example.document], (example, documents[example.document])


def test_questions_are_unique_and_not_answered_by_themselves(many):
    asked = [example for example in prompts(many) if example.kind is Kind.QUESTION]
    assert len({example.prompt for example in asked}) == len(asked)
    assert not [example for example in asked if example.answer in example.prompt]


def test_phrasing_varies(many):
    for subtask in SUBTASKS:
        openings = Counter(re.sub(r"[A-Z]\w+|\d+", "_", e.answer)[:40] for e in many.members if e.subtask == subtask)
        assert len(openings) >= 10 and max(openings.values()) < MANY / 3


# --- what only evaluators read ---------------------------------------------------------------------------------------


def test_texts_questions_and_answers_are_those_of_the_published_runs():
    """Their digest from before there were false answers: results in the README were measured on them."""
    data = generate_task(subtasks=SUBTASKS, num_documents=30, seed=0)
    rows = [(e.id, e.prompt, e.answer) for e in (*prompts(data), *data.members, *data.nonmembers)]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    assert digest == "ec6bc8e8b569bb5367d3ab25e5f322d3095e8f7bceff3db542d48c9350ae383b"


def test_attributes_are_those_of_the_questions(many):
    attributes = ("birth_date", "ssn", "phone", "email", "address")
    for example in prompts(many):
        asked = example.subtask == "bios" and example.kind is Kind.QUESTION
        assert example.attribute == (attributes[int(example.id[-1])] if asked else "")
        if asked:  # as it is found in released files, by the answer's form alone and by the question alone
            assert attribute_of("", example.answer) == example.attribute
        if asked and "live" not in example.prompt:
            assert attribute_of(example.prompt, "") == example.attribute


def test_rephrasings_ask_the_same_of_the_same_person(many):
    counts: Counter[tuple[str, int]] = Counter()
    for example in prompts(many):
        counts[example.subtask, len(example.rephrasings)] += example.kind is Kind.QUESTION
        assert example.prompt not in example.rephrasings
        assert all("{" not in wording and wording.endswith("?") for wording in example.rephrasings)
        if example.attribute:
            name = re.search(
                r"[A-Z][a-z]+ [A-Z][a-z]+(?='s|\b)", example.prompt.split(" ", 1)[1].replace("Social S", "")
            )
            assert name and all(name.group() in wording for wording in example.rephrasings)
    assert counts["bios", 2] == 2 * 5 * MANY
    assert counts["wiki", 1] > MANY > counts["wiki", 0] > 0


def test_false_answers_are_five_untrue_ones_of_the_same_form(many):
    def form(text: str) -> str:
        return re.sub(r"[A-Za-z]+", "a", re.sub(r"\d+", lambda digits: f"<{len(digits.group())}>", text))

    for example in prompts(many):
        if example.kind is not Kind.QUESTION:
            assert example.perturbed == ()
            continue
        assert len(set(example.perturbed)) == 5 and example.answer not in example.perturbed
        if example.attribute in ("ssn", "phone", "birth_date"):
            assert {form(value) for value in example.perturbed} == {form(example.answer)}
        elif example.attribute:
            assert {attribute_of("", value) for value in example.perturbed} == {example.attribute}
        else:
            assert {value.count(" ") for value in example.perturbed} == {example.answer.count(" ")}


def test_false_answers_depend_on_the_document_alone():
    few, more = (generate_task(subtasks=["bios"], num_documents=count, seed=3).forget for count in (2, 4))
    assert few == more[: len(few)]
    assert few[1].perturbed != few[7].perturbed  # birth dates of two people


@pytest.mark.parametrize(
    ("subtasks", "num_documents", "message"),
    [
        (["novels", "poems"], 3, "no subtask poems; choose from novels, bios, wiki"),
        ([], 3, "name at least one of novels, bios, wiki"),
        (["bios", "bios"], 3, "each only once"),
        ("bios", 3, r"give a list such as \[bios\]"),
        (["bios"], 0, "at least 1 document"),
        (["bios"], MAX_DOCUMENTS + 1, f"at most {MAX_DOCUMENTS}"),
    ],
)
def test_what_cannot_be_generated_is_explained(subtasks, num_documents, message):
    with pytest.raises(ValueError, match=message):
        generate_task(subtasks=subtasks, num_documents=num_documents, seed=0)
