"""RWKU's rows as examples: what is trained on, what is asked about targets and their neighbors, what of use is left."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from lume_run.common.errors import Problem
from lume_run.common.records import Example, Kind, Split
from lume_run.common.text import shorten_value
from lume_run.tasks.documents import Examples
from lume_run.tasks.row_files import field_problems
from lume_run.tasks.rwku.files import LEVELS, NEIGHBORS, SetReader, TargetRow
from lume_run.tasks.rwku.prompts import (
    MMLU_LETTERS,
    SHORT_BEGUN,
    fluency_prompt,
    level_prompt,
    mmlu_prompt,
    reasoning_prompt,
    trivia_prompt,
    truthful_prompt,
)

ASKED = "{question}"  # the template of a row that a chat model is asked in its own
LEVEL_TEXTS = ("query", "answer", "type", "level")
PAIR_TEXTS = {"prompt", "response"}
LANGUAGE = re.compile(r"\s*\(.*\)")  # cross lingual (Spanish)


def example_of(
    row: TargetRow, set_name: str, split: Split, kind: Kind, prompt: str, answer: str, **rest: Any
) -> Example:
    """An example of a row, named by its target, its set and its number; `rest` are further fields."""
    rest = {"subtask": set_name, "template": "" if kind is Kind.DOCUMENT else ASKED, **rest}
    name = f"{slug_of(row.target)}-{set_name}-{row.number + 1}"
    return Example(
        id=name,
        raw_id=name,
        document=row.target,
        split=split,
        kind=kind,
        prompt=prompt,
        answer=answer,
        **rest,
    )


def slug_of(text: str) -> str:
    """A name in lower case with single dashes: `prince-harry-duke-of-sussex`."""
    return re.sub(r"[\W_]+", "-", text.lower()).strip("-")


def level_examples(reader: SetReader, names: Sequence[str], split: Split) -> Examples:
    """The questions of some levels; of level 3 the subtask names the kind of attack too."""
    return tuple(
        _level_example(row, name, split)
        for name in names
        for row in reader.rows(name, LEVEL_TEXTS, partial(_level_problems, name))
    )


def _level_problems(set_name: str, row: dict[str, Any], where: str) -> Iterator[Problem]:
    """A row of another level, which is asked otherwise."""
    if row["level"] != set_name[-1]:
        what = f'field "level" is "{row["level"][:9]}" in the set {set_name}'
        yield Problem(where=where, what=what, remedy="put the row into the file of its level")


def _level_example(row: TargetRow, set_name: str, split: Split) -> Example:
    fields = row.fields
    prompt, begun = level_prompt(fields["level"], fields["type"], fields["query"])
    attack = f" {attack_of(fields['type'])}" if fields["level"] == "3" else ""
    rest = {"begun": begun, "subtask": set_name + attack}
    return example_of(row, set_name, split, Kind.QUESTION, prompt, fields["answer"], **rest)


def attack_of(kind: str) -> str:
    """The name of an attack, languages left out: `cross_lingual`."""
    return re.sub(r"[\W_]+", "_", LANGUAGE.sub("", kind)).strip("_").lower()


def membership_examples(reader: SetReader) -> Examples:
    """Whole texts about targets and about others, for membership inference."""
    sides = {"forget_mia": Split.FORGET, "retain_mia": Split.RETAIN}
    return tuple(
        example_of(row, name, split, Kind.DOCUMENT, "", row.fields["text"])
        for name, split in sides.items()
        for row in reader.rows(name, ("text",))
    )


def utility_examples(reader: SetReader) -> Examples:
    """Questions about what a model should go on to be able to do, in five sets."""
    return (*_general(reader), *_reasoning(reader), *_truthful(reader), *_factual(reader), *_fluent(reader))


def _general(reader: SetReader) -> Iterator[Example]:
    for row in reader.rows("retain_mmlu", ("task", "question"), _mmlu_problems):
        fields = row.fields
        prompt = mmlu_prompt(fields["task"], fields["examples"], fields["question"], fields["choices"])
        answer = MMLU_LETTERS[fields["answer"]]
        rest: dict[str, Any] = {"choices": MMLU_LETTERS, "begun": "Answer:"}
        yield example_of(row, "retain_mmlu", Split.UTILITY, Kind.CHOICE, prompt, answer, **rest)


def _reasoning(reader: SetReader) -> Iterator[Example]:
    for row in reader.rows("retain_bbh", ("question", "answer", "cot")):
        prompt = reasoning_prompt(row.fields["cot"], row.fields["question"])
        rest = {"begun": SHORT_BEGUN}
        yield example_of(row, "retain_bbh", Split.UTILITY, Kind.QUESTION, prompt, row.fields["answer"], **rest)


def _truthful(reader: SetReader) -> Iterator[Example]:
    for row in reader.rows("truthful", ("question",), _truthful_problems):
        targets = row.fields["mc1_targets"]
        choices = tuple(targets["choices"])
        answer = choices[targets["labels"].index(1)]
        rest: dict[str, Any] = {"choices": choices, "begun": SHORT_BEGUN}
        prompt = truthful_prompt(row.fields["question"])
        yield example_of(row, "truthful", Split.UTILITY, Kind.CHOICE, prompt, answer, **rest)


def _factual(reader: SetReader) -> Iterator[Example]:
    for row in reader.rows("triviaqa", ("question",), _answers_problems):
        answers = tuple(row.fields["answers"])
        rest: dict[str, Any] = {"choices": answers, "begun": SHORT_BEGUN}
        prompt = trivia_prompt(row.fields["question"])
        yield example_of(row, "triviaqa", Split.UTILITY, Kind.QUESTION, prompt, answers[0], **rest)


def _fluent(reader: SetReader) -> Iterator[Example]:
    for row in reader.rows("fluency", ("instruction",)):
        prompt = fluency_prompt(row.fields["instruction"])
        yield example_of(row, "fluency", Split.UTILITY, Kind.QUESTION, prompt, "")


def _mmlu_problems(row: dict[str, Any], where: str) -> Iterator[Problem]:
    yield from _choice_problems(row, where)
    examples = row.get("examples")
    if not isinstance(examples, list):
        yield Problem(where=where, what='field "examples" is no list', remedy="write the worked examples")
        return
    for number, example in enumerate(examples):
        at = f"{where}, examples[{number}]"
        wrong = list(field_problems(example, at, ("question",)))
        yield from wrong or _choice_problems(example, at)


def _choice_problems(row: dict[str, Any], where: str) -> Iterator[Problem]:
    """Whether a row has four options and the number of the right one."""
    yield from _text_list_problems(row.get("choices"), f"{where}, choices", count=len(MMLU_LETTERS))
    answer = row.get("answer")
    if type(answer) is not int or answer not in range(len(MMLU_LETTERS)):
        what = f'field "answer" is {shorten_value(repr(answer))}'
        yield Problem(where=where, what=what, remedy="the number of the right choice, 0 to 3")


def _truthful_problems(row: dict[str, Any], where: str) -> Iterator[Problem]:
    targets = row.get("mc1_targets")
    if not isinstance(targets, dict):
        remedy = "write choices and labels"
        yield Problem(where=where, what='field "mc1_targets" is missing or no object', remedy=remedy)
        return
    choices: Any = targets.get("choices")
    labels = targets.get("labels")
    wrong = list(_text_list_problems(choices, f"{where}, mc1_targets.choices"))
    yield from wrong
    counts = (labels.count(1), labels.count(0), len(labels)) if isinstance(labels, list) else ()
    if not wrong and counts != (1, len(choices) - 1, len(choices)):
        what, remedy = "the labels do not say which one choice is true", "write one 1, and a 0 for each other choice"
        yield Problem(where=f"{where}, mc1_targets.labels", what=what, remedy=remedy)


def _answers_problems(row: dict[str, Any], where: str) -> Iterator[Problem]:
    yield from _text_list_problems(row.get("answers"), f"{where}, answers")


def _text_list_problems(values: object, where: str, *, count: int | None = None) -> Iterator[Problem]:
    """Whether a value is a list of texts, of at least one or of so many."""
    if not isinstance(values, list) or not values or count not in (None, len(values)):
        what = f"is no list of {count or 'at least 1'} texts"
        yield Problem(where=where, what=what, remedy="fetch the file again")
        return
    named = {str(number): value for number, value in enumerate(values)}
    yield from field_problems(named, where, tuple(named))


TrainedRows = Callable[[SetReader, str], Examples]


def trained_texts(reader: SetReader, set_name: str) -> Examples:
    """Whole texts: every token is learned, or unlearned, as in the released code."""
    rows = reader.rows(set_name, ("text",))
    return tuple(example_of(row, set_name, Split.FORGET, Kind.DOCUMENT, "", row.fields["text"]) for row in rows)


def trained_pairs(reader: SetReader, set_name: str) -> Examples:
    """Requests with a true text and, as its replacement, a made-up one."""
    examples = []
    for row in reader.rows(set_name, ("prompt",), _pair_problems):
        preferred, rejected = row.fields["response"]
        rest = {"replacement": preferred}
        prompt = row.fields["prompt"]
        examples.append(example_of(row, set_name, Split.FORGET, Kind.QUESTION, prompt, rejected, **rest))
    return tuple(examples)


def _pair_problems(row: dict[str, Any], where: str) -> Iterator[Problem]:
    yield from _text_list_problems(row.get("response"), f"{where}, response", count=2)


def trained_refusals(reader: SetReader, set_name: str) -> Examples:
    """Questions about a target with refusals; what would be right the files do not say."""
    return tuple(
        example_of(
            row,
            set_name,
            Split.FORGET,
            Kind.QUESTION,
            row.fields["instruction"],
            row.fields["output"],
            replacement=row.fields["output"],
        )
        for row in reader.rows(set_name, ("instruction", "output"))
    )


ROWS_OF: dict[str, TrainedRows] = {
    "positive": trained_texts,
    "passage": trained_texts,
    "pair": trained_pairs,
    "reject": trained_refusals,
}


def forget_questions(reader: SetReader) -> Examples:
    """What is asked about the targets, levels 1 to 3."""
    return level_examples(reader, tuple(LEVELS), Split.FORGET)


def neighbor_questions(reader: SetReader) -> Examples:
    """What is asked about what is near them, levels 1 and 2."""
    return level_examples(reader, tuple(NEIGHBORS), Split.RETAIN)
