"""What attacks brought back, for the page: shares by attack and score, scores by strength, and texts of each attack.

All of it is read from a run's report.json and from `attacks/texts.json`, which nobody should trust.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lume_run.evaluation.catalogue import definition_of
from lume_run.evaluation.metrics.pii.disclosure import RULES
from lume_run.report.comparison.columns import RECOVERED_SHARE
from lume_run.report.comparison.page.packing import PackedData, round_value
from lume_run.report.comparison.page.prompts import LONGEST_ID, PromptAnswers, facts_of, mark_row
from lume_run.report.comparison.run_folders import LONGEST_SCORE_NAME, RunRecord
from lume_run.report.comparison.untrusted import as_list, as_mapping, clean_name, finite_number, read_json_if_sound

STRENGTH_TERMS = ("target", "before", "after", "control_before", "control_after", "recovered")
TEXT_FIELDS = ("id", "document", "subtask", "kind", "attribute", "prompt", "expected", "after")
MOST_STRENGTH_ROWS = 600  # of a run
MOST_STRENGTH_ROWS_OF_ALL = 20_000
MOST_ATTACK_TEXTS = 3000  # of all runs
SHOWN_SCORES = 1  # detail of scores, as in `Definition`


@dataclass
class TextBudget:
    """How many texts the page still has room for, and whether some were left out."""

    left: int = MOST_ATTACK_TEXTS
    rows_left: int = MOST_STRENGTH_ROWS_OF_ALL
    short: bool = False


@dataclass(frozen=True, kw_only=True)
class AttackedRun:
    """What a run's files say of its attacks: `shares` are (attack, score, value, low, high), `rows` one a strength."""

    subject: str
    control: str
    shares: tuple[tuple[str, str, float, float | None, float | None], ...]
    rows: tuple[tuple[str, str, float, str, str, tuple[float | None, ...]], ...]
    texts: Mapping[str, tuple[str, list[tuple[PromptAnswers, PromptAnswers]]]] = field(default_factory=dict)


def read_attacks(run: RunRecord) -> AttackedRun | None:
    """The attacks of a run; None where nothing was tried, or the report cannot be read."""
    report = as_mapping(read_json_if_sound(run.folder / "report.json")) if run.scores else {}
    attacks = as_mapping(report.get("attacks"))
    if not attacks:
        return None
    return AttackedRun(
        subject=clean_name(attacks.get("subject") or "model"),
        control=clean_name(attacks.get("control") or ""),
        shares=tuple(shares_of(run, as_mapping(report.get("intervals")))),
        rows=tuple(strength_rows(as_list(attacks.get("rows")))),
        texts=texts_of(read_json_if_sound(run.folder / "attacks" / "texts.json")),
    )


def shares_of(
    run: RunRecord, intervals: Mapping[str, Any]
) -> Iterator[tuple[str, str, float, float | None, float | None]]:
    """The largest recovered share of each attack and shown score, with its interval."""
    for name, value in run.scores[run.subject].items():
        match = RECOVERED_SHARE.fullmatch(name)
        if match and is_shown_score(match[2]):
            ends = [finite_number(end) for end in as_list(intervals.get(f"{run.subject}.{name}"))]
            low, high = ends if len(ends) == 2 else (None, None)
            yield match[1], match[2], value, low, high


def is_shown_score(name: str) -> bool:
    """Whether a score is a headline or a part of one."""
    definition = definition_of(name)
    return definition is None or definition.detail <= SHOWN_SCORES


def strength_rows(rows: Sequence[Any]) -> Iterator[tuple[str, str, float, str, str, tuple[float | None, ...]]]:
    """(attack, strength, amount, series, score, numbers as in `STRENGTH_TERMS`) of scores that can come back."""
    for row in map(as_mapping, rows):
        strength = as_mapping(row.get("strength"))
        amount = finite_number(strength.get("amount"))
        score = clean_name(row.get("score") or "", LONGEST_SCORE_NAME)
        if "recovered" in row and amount is not None and is_shown_score(score):
            label, series = (clean_name(strength.get(name) or "") for name in ("label", "series"))
            numbers = tuple(finite_number(row.get(term)) for term in STRENGTH_TERMS)
            yield clean_name(row.get("attack") or ""), label, amount, series, score, numbers


def texts_of(entries: Any) -> dict[str, tuple[str, list[tuple[PromptAnswers, PromptAnswers]]]]:
    """By attack its strength and the texts: each as (unlearned and attacked, before unlearning and attacked)."""
    rows = [entry for entry in map(as_mapping, as_list(entries)) if is_text_entry(entry)]
    rows = [{**row, "attribute": row["attribute"] if row["attribute"] in RULES else ""} for row in rows]
    facts = facts_of(rows)
    texts: dict[str, tuple[str, list[tuple[PromptAnswers, PromptAnswers]]]] = {}
    for row in rows:
        answer = {**row, "split": "forget", "output": row["after"]}
        others = [{"output": row[name]} if isinstance(row.get(name), str) else None for name in ("before", "target")]
        unlearned, target = (mark_row(answer, other, facts) for other in others)
        attack = clean_name(row.get("attack") or "")
        texts.setdefault(attack, (clean_name(row.get("strength") or ""), []))[1].append((unlearned, target))
    return texts


def is_text_entry(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of texts.json has texts where they belong."""
    return all(isinstance(entry.get(name), str) for name in TEXT_FIELDS) and len(entry["id"]) <= LONGEST_ID


def pack_attacks(packed: PackedData, attacked: AttackedRun | None, budget: TextBudget) -> dict[str, Any] | None:
    """The attacks of a run by number: names of attacks, scores, strengths and series stand in `names`."""
    if attacked is None:
        return None
    place = packed.names.place
    rows = attacked.rows[: min(MOST_STRENGTH_ROWS, budget.rows_left)]
    budget.rows_left -= len(rows)
    budget.short |= len(rows) < len(attacked.rows)
    return {
        "subject": attacked.subject,
        "control": attacked.control,
        "shares": [
            [place(attack), place(score), *map(rounded, (value, low, high))]
            for attack, score, value, low, high in attacked.shares
        ],
        "rows": [
            [place(attack), place(label), amount, place(series), place(score), *map(rounded, numbers)]
            for attack, label, amount, series, score, numbers in rows
        ],
        "texts": {
            str(place(attack)): [place(label), pack_texts(packed, texts, budget)]
            for attack, (label, texts) in attacked.texts.items()
        },
    }


def pack_texts(
    packed: PackedData, texts: Sequence[tuple[PromptAnswers, PromptAnswers]], budget: TextBudget
) -> list[list[int | None]]:
    """Numbers of prompt, answer before unlearning, after it, and under the attack, as far as there is room."""
    kept = texts[: budget.left]
    budget.left -= len(kept)
    budget.short |= len(kept) < len(texts)
    numbers = []
    for unlearned, target in kept:
        prompt, before, after = packed.prompt(unlearned)
        numbers.append([prompt, packed.answer(target.before), before, after])
    return numbers


def rounded(value: float | None) -> float | None:
    """A number that may be missing, to four digits that count."""
    return None if value is None else round_value(value)
