"""What a report shows of attacks: shares, curves with the control's band, pages of texts; what W&B gets."""

from __future__ import annotations

import json

import pytest

from lume_run.attacks.base import Attacked, ReturnedText, Strength
from lume_run.attacks.results import AttackedScore, AttackResults, worst_scores
from lume_run.attacks.texts import MOST_TEXTS, returned_texts
from lume_run.common.records import Ask, Kind, Response, Score, Split
from lume_run.report.attack_curves import attack_curves, control_band, write_attack_plot
from lume_run.report.attacks import attack_section, shaded, text_pages
from lume_run.report.write import write_texts
from lume_run.tracking.closing import attack_series, attack_summary, attack_table, returned_table

KNOWLEDGE, KEPT = "forget.knowledge", "retain.knowledge"


def number(value: float | None, low: float | None = None, high: float | None = None) -> Score:
    return Score(name="s", value=value, n=4, low=low, high=high, reason=None if value is not None else "why not")


def row(
    amount: float, after: float, control: float, series: str = "lr=0.001", attack: str = "relearn"
) -> AttackedScore:
    """Knowledge: 0.9 before unlearning, 0.1 after; the control had 0."""
    share = (after - 0.1) / 0.8
    return AttackedScore(
        attack=attack,
        strength=Strength(label=f"steps={amount:g},{series}", amount=amount, series=series),
        score=KNOWLEDGE,
        target=number(0.9),
        before=number(0.1),
        after=number(after),
        control_before=number(0.0),
        control_after=number(control),
        recovered=number(share, share - 0.1, share + 0.1),
    )


def kept(after: float) -> AttackedScore:
    strength = Strength(label="steps=10,lr=0.001", amount=10, series="lr=0.001")
    scores = {"target": number(1.0), "before": number(0.9), "after": number(after)}
    return AttackedScore(
        attack="relearn", strength=strength, score=KEPT, control_before=None, control_after=None, **scores
    )


ROWS = (row(10, 0.3, 0.1), row(50, 0.7, 0.5), row(10, 0.2, 0.0, "lr=0.002"), row(50, 0.9, 0.7, "lr=0.002"), kept(0.8))
TEXT = ReturnedText(
    attack="relearn",
    strength="steps=50,lr=0.002",
    id="a",
    document="d",
    subtask="bios",
    kind="question",
    attribute="ssn",
    prompt="Who?",
    expected="900-11-2222",
    target="900-11-2222",
    before="no ~~~ idea",
    after="900-11-2222",
)
RESULTS = AttackResults(
    subject="unlearned",
    control="retrained",
    rows=ROWS,
    worst=worst_scores(ROWS, {"relearn": "relearning"}),
    texts=(TEXT,),
)


def test_the_panel_has_a_line_a_score_and_a_column_an_attack():
    text = attack_section(RESULTS)
    assert "| score | [relearn](attacks/texts.relearn.md) |" in text
    (line,) = [line for line in text.split("\n") if line.startswith(f"| {KNOWLEDGE} |")]
    assert line.startswith(f"| {KNOWLEDGE} | █ 1.000")  # the worst of 0.25, 0.75, 0.125 and 1
    assert "attacks.png" not in text
    assert "![scores against steps](attacks.png)" in attack_section(RESULTS, plotted=True)
    assert "**robustness" not in text
    assert attack_section(None) == ""


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0, "░ 0.000"), (0.25, "▒ 0.250"), (0.6, "▓ 0.600"), (1.0, "█ 1.000"), (None, "n/a")]
)
def test_blocks_say_the_quarter_and_the_number_stands_beside(share, shown):
    assert shaded(number(share)) == shown
    assert shaded(None) == ""


def test_curves_begin_before_the_attack():
    first, second = attack_curves(RESULTS)
    assert first.points == ((0.0, 0.1, 0.0), (10, 0.3, 0.1), (50, 0.7, 0.5))
    assert (first.target, second.series) == (0.9, "lr=0.002")
    assert control_band([first, second]) == [(0.0, 0.0, 0.0), (10, 0.0, 0.1), (50, 0.5, 0.7)]


def test_the_plot_is_of_curves_alone(tmp_path):
    pytest.importorskip("matplotlib")
    assert write_attack_plot(RESULTS, tmp_path / "attacks.png")
    assert (tmp_path / "attacks.png").read_bytes().startswith(b"\x89PNG")
    single = AttackResults(subject="unlearned", control="", rows=ROWS[:1])
    assert not write_attack_plot(single, tmp_path / "none.png")
    assert not write_attack_plot(None, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_text_ends_no_fence(tmp_path):
    (page,) = text_pages(RESULTS.texts).values()
    assert page.count("~~~text\n") == page.count("\n~~~\n") == 5
    assert "no ~ ~ ~ idea" in page
    write_texts(RESULTS.texts, tmp_path / "attacks")
    assert json.loads((tmp_path / "attacks" / "texts.json").read_text(encoding="utf-8"))[0]["before"] == "no ~~~ idea"
    assert (tmp_path / "attacks" / "texts.relearn.md").read_text(encoding="utf-8") == page


# --------------------------------------------------------------------------------------------------- texts


def answer(name: str, text: str, split: Split = Split.FORGET, variant: str = "") -> Response:
    return Response(
        id=name,
        ask=Ask.GENERATE,
        split=split,
        subtask="bios",
        kind=Kind.QUESTION,
        document=name,
        prompt=f"{name}?",
        expected="blue house",
        output=text,
        variant=variant,
    )


def test_texts_are_those_that_gained_most_at_the_strength_that_brought_back_most():
    names = [f"row{number}" for number in range(MOST_TEXTS + 2)]
    responses = {
        "target": [answer(name, "blue house") for name in names],
        "unlearned": [answer(name, "blue house" if name == "row0" else "no") for name in names],
    }
    weak = [answer(name, "no") for name in names]
    strong = [answer(name, "blue house" if name in ("row0", "row5", "row6") else "no blue") for name in names]
    strong += [answer("kept", "blue house", Split.RETAIN), answer("row1", "blue house", variant="other")]
    attacked = [
        (Attacked(subject=subject, attack="relearn", strength=of.strength), texts)
        for subject in ("unlearned", "retrained")
        for of, texts in ((ROWS[0], weak), (ROWS[3], strong))
    ]
    texts = list(returned_texts(RESULTS, responses, attacked))
    assert [text.id for text in texts] == ["row5", "row6", "row1", "row2", "row3"]  # row0 was never forgotten
    assert {text.strength for text in texts} == {"steps=50,lr=0.002"}
    assert (texts[0].target, texts[0].before, texts[0].after) == ("blue house", "no", "blue house")


def test_where_nothing_came_back_the_last_strength_is_shown():
    rows = (row(10, 0.1, 0.0), row(50, 0.0, 0.0))
    results = AttackResults(subject="unlearned", control="", rows=rows)
    attacked = [
        (Attacked(subject="unlearned", attack="relearn", strength=of.strength), [answer("a", "no")]) for of in rows
    ]
    (text,) = returned_texts(results, {}, attacked)
    assert (text.strength, text.target, text.before) == ("steps=50,lr=0.001", None, None)


# --------------------------------------------------------------------------------------------------- tracking


def test_wandb_gets_curves_tables_and_worst_cases():
    series = attack_series(RESULTS)
    assert list(series) == ["attack/relearn/lr_0_001/forget/knowledge", "attack/relearn/lr_0_002/forget/knowledge"]
    assert series["attack/relearn/lr_0_001/forget/knowledge"] == [
        {"step": 0, "attacked": 0.1, "control": 0.0},
        {"step": 10, "attacked": 0.3, "control": 0.1},
        {"step": 50, "attacked": 0.7, "control": 0.5},
    ]
    table = attack_table(RESULTS)
    assert len(table["rows"]) == len(ROWS)
    first = dict(zip(table["columns"], table["rows"][0], strict=True))
    assert (first["attack"], first["amount"], first["attacked"]) == ("relearn", 10, 0.3)
    assert first["recovered"] == pytest.approx(0.25)
    assert attack_summary(RESULTS)["attack/relearn/forget/knowledge/recovered"] == pytest.approx(1.0)
    assert [line[-1] for line in returned_table(RESULTS, 10)["rows"]] == ["900-11-2222"]
    assert returned_table(RESULTS, 0)["rows"] == []
