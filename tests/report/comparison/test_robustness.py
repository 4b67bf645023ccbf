"""What lume-run-report makes of attacks: columns, a table on the terminal, and the panel of the page in a browser."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import sweeps
from helpers.browser import CHROMIUM, NO_CHROMIUM, Browser, browser, freshly_opened  # noqa: F401 (a fixture)
from rich.console import Console

from lume_run.report.comparison.columns import BASES, column_direction, recovered_shares
from lume_run.report.comparison.main import write_comparison
from lume_run.report.comparison.page.robustness import read_attacks
from lume_run.report.comparison.run_folders import read_run

HOSTILE = "</script><img src=x onerror=window.pwned=1>"
SECRET = "900-69-4623"


def strength(amount: int, after: float, control: float, score: str = "forget.knowledge") -> dict[str, Any]:
    return {
        "attack": "relearn",
        "strength": {"label": f"steps={amount}", "amount": amount, "series": "lr=0.001"},
        "score": score,
        "target": 1.0,
        "before": 0.1,
        "after": after,
        "control_before": 0.0,
        "control_after": control,
        "recovered": (after - 0.1) / 0.9,
    }


def attacked_run(folder: Path, method: str, seed: int, share: float, **more: Any) -> Path:
    """A run of which relearning brought back a share of knowledge, and 0.05 of regurgitation; prefill nothing."""
    after = sweeps.scores(
        0.1,
        0.9,
        **{
            "attack.relearn.forget.knowledge.recovered": share,
            "attack.relearn.forget.regurgitation.recovered": 0.05,
            "attack.relearn.mia.auc.recovered": 0.99,  # forgotten is not made from it
            "attack.prefill.forget.knowledge.recovered": 0.0,
        },
    )
    rows = [strength(10, 0.1 + 0.9 * share / 2, 0.05), strength(50, 0.1 + 0.9 * share, 0.3)]
    prefill = {**strength(1, 0.1, 0.0), "attack": "prefill", "strength": {"label": "sure", "amount": 1, "series": ""}}
    report = {
        "attacks": {"subject": "unlearned", "control": "retrained", "rows": [*rows, prefill]},
        "intervals": {"unlearned.attack.relearn.forget.knowledge.recovered": [share - 0.1, share + 0.1]},
        **more,
    }
    run = sweeps.write_run(folder, sweeps.config(method, seed=seed), after, report=report)
    text = {
        "attack": "relearn",
        "strength": "steps=50",
        "id": "a",
        "document": "d",
        "subtask": "bios",
        "kind": "question",
        "attribute": "ssn",
        "prompt": f"What is it? {HOSTILE}",
        "expected": SECRET,
        "target": SECRET,
        "before": "I would rather not say",
        "after": f"It is {SECRET}. {HOSTILE}",
    }
    (run / "attacks").mkdir()
    (run / "attacks" / "texts.json").write_text(json.dumps([text]), encoding="utf-8")
    return run


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> tuple[Path, str]:
    """(where the report is, what the terminal showed) of two methods, the first with two seeds."""
    folder, out = tmp_path_factory.mktemp("outputs"), tmp_path_factory.mktemp("report")
    for seed, share in enumerate((0.8, 0.6)):
        attacked_run(folder, "npo_gd", seed, share)
    attacked_run(folder, "rmu", 0, 0.2)
    sweeps.write_run(folder, sweeps.config("ga"), sweeps.scores(0.0, 0.1))  # nothing was tried
    console = Console(width=150, record=True, file=io.StringIO())
    write_comparison([folder], out, console, plots=False)
    return out, console.export_text()


def test_the_largest_share_of_what_forgotten_is_made_from():
    scores = {
        "attack.relearn.forget.knowledge.recovered": 0.4,
        "attack.relearn.forget.regurgitation.recovered": 0.5,
        "attack.relearn.mia.auc.recovered": 0.9,
        "attack.prune.mia.auc.recovered": 0.3,
        "attack.relearn.forget.knowledge.excess": 1.0,
    }
    assert recovered_shares(scores, BASES[0]) == {
        "recovered": 0.5,
        "recovered.relearn": 0.5,
        "recovered.prune": 0.3,  # judged by nothing else
    }
    assert recovered_shares(scores, None)["recovered"] == 0.9
    assert recovered_shares({"forget.knowledge": 0.1}, BASES[0]) == {}
    assert {str(column_direction(name)) for name in ("recovered", "recovered.prune")} == {"lower"}


def test_columns_on_the_terminal_and_in_files(comparison):
    out, shown = comparison
    assert "recovered by attacks" in shown
    (line,) = [line for line in shown.split("\n") if "rmu" in line and "0.200" in line and "0.000" in line]
    assert line.split()[-1] in ("0.000", "0.200")
    (npo,) = [line for line in shown.split("\n") if line.strip().startswith("npo_gd") and "0.700 ± 0.141" in line][-1:]
    assert npo
    rows = list(csv.DictReader((out / "runs.csv").open(encoding="utf-8", newline="")))
    by_name = {(row["method"], row["seed"]): row for row in rows}
    assert float(by_name["npo_gd", "1"]["recovered.relearn"]) == pytest.approx(0.6)
    assert by_name["ga", "0"]["recovered"] == ""
    assert float(by_name["rmu", "0"]["attack.relearn.mia.auc.recovered"]) == pytest.approx(0.99)


def test_a_narrow_terminal_says_which_attacks_it_leaves_out(tmp_path):
    after = sweeps.scores(0.1, 0.9, **{f"attack.a{number}.forget.knowledge.recovered": 0.5 for number in range(5)})
    sweeps.write_run(tmp_path, sweeps.config(), after)
    console = Console(width=80, record=True, file=io.StringIO())
    write_comparison([tmp_path], tmp_path / "report", console, plots=False)
    assert "runs.csv: a2, a3, a4" in console.export_text()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("report.json", {"attacks": []}),
        ("report.json", {"attacks": {"rows": [1, {"strength": 2, "recovered": 1}, {"recovered": "x", "score": []}]}}),
        (
            "report.json",
            {"attacks": {"rows": 3}, "intervals": {"unlearned.attack.relearn.forget.knowledge.recovered": 1}},
        ),
        ("attacks/texts.json", {"a": 1}),
        ("attacks/texts.json", [1, {"id": 2}, {"attack": "x"}]),
    ],
)
def test_files_of_something_else_show_nothing(tmp_path, name, content):
    run = attacked_run(tmp_path, "npo_gd", 0, 0.5)
    if name == "report.json":
        content = {**json.loads((run / name).read_text(encoding="utf-8")), **content}
    (run / name).write_text(json.dumps(content), encoding="utf-8")
    record = read_run(run)
    assert record is not None
    attacks = read_attacks(record)
    if name == "report.json":
        assert attacks is None or attacks.rows == ()
    else:
        assert attacks is not None and attacks.texts == {}


# --------------------------------------------------------------------------------------------------- the page


@pytest.fixture
def tab(browser, comparison):  # noqa: F811
    with freshly_opened(browser, comparison[0] / "index.html") as opened:
        yield opened
    assert browser.run("window.pwned") is None
    assert [url for url in browser.requests if not url.startswith(("file:", "about:"))] == []


def cells(tab: Browser) -> list[list[str]]:
    script = (
        "[...document.querySelectorAll('#attacked tr')].map((row) => [...row.children].map((cell) => cell.innerText))"
    )
    return tab.run(script)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_methods_by_attacks(tab):
    head, *lines = cells(tab)
    assert head == ["method", "relearn", "prefill"]
    by_method = {line[0]: line[1:] for line in lines}
    assert set(by_method) == {"npo_gd", "rmu"}  # what was not attacked has no line
    assert by_method["npo_gd"][0].split() == ["0.700", "±", "0.141"]
    assert by_method["rmu"][0].split("\n") == ["0.200", "[0.100, 0.300]"]
    shades = tab.run("[...document.querySelectorAll('#attacked td.heat')].map((cell) => cell.style.background)")
    assert len(set(shades)) == 3
    assert tab.run("document.querySelectorAll('#attack-curves polyline').length") == 2
    assert tab.run("document.querySelectorAll('#attack-curves polygon.band').length") == 1


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_another_score(tab):
    tab.run(
        "const pick = document.querySelector('#attacked-score'); pick.value = 'forget.regurgitation'; "
        "pick.dispatchEvent(new Event('change'))"
    )
    assert {line[0]: line[1].split() for line in cells(tab)[1:]} == {
        "npo_gd": ["0.050", "±", "0.000"],
        "rmu": ["0.050"],
    }
    assert {line[2] for line in cells(tab)[1:]} == {"n/a"}  # prefill is not judged by it


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_one_click_from_a_share_to_the_texts(tab):
    tab.click("#attacked td.heat button")
    tab.wait("document.querySelector('#panel').open")
    titles = tab.run("[...document.querySelectorAll('.prompt .answers h4')].map((node) => node.innerText)")
    assert titles == ["expected", "before unlearning", "unlearned", "attacked"]
    assert HOSTILE in tab.run("document.querySelector('.prompt .answers > div:last-child').innerText")
    assert SECRET in tab.run("[...document.querySelectorAll('.prompt mark.exact')].map((node) => node.innerText)")
    strengths = tab.run("[...document.querySelectorAll('.panel-body tbody th')].map((node) => node.innerText)")
    assert strengths == ["steps=10", "steps=50"]
    assert tab.run("document.querySelectorAll('.panel-body polygon.band').length") == 1
    tab.run("document.querySelector('#panel').close(); location.hash = 'attack=nothing:relearn'")
    assert not tab.run("document.querySelector('#panel').open")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_numbers_are_legible_on_every_shade(tab, theme):
    """WCAG AA against the background as painted."""
    tab.prefers(theme)
    script = """(() => {
      const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
      const light = (colour) => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255)
          .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      return [0, 0.25, 0.5, 0.75, 1].flatMap((share) => {
        const cell = heat(document.querySelector('#attacked td.heat'), share);
        return ['button', 'small'].map((inner) => {
          const back = getComputedStyle(cell).backgroundColor;
          const pair = [light(getComputedStyle(cell.querySelector(inner)).color), light(back)];
          return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        });
      });
    })()"""
    assert min(tab.run(script)) > 4.5
