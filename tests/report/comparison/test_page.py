"""The page of a sweep of 500 runs in a real browser: sorting, filters, comparisons, keys, narrow and dark windows."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from helpers import sweeps
from helpers.browser import CHROMIUM, NO_CHROMIUM, Browser, browser, freshly_opened  # noqa: F401 (a fixture)
from rich.console import Console

from lume_run.report.comparison.main import write_comparison

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)]
RUNS = 500
HOSTILE = "</script><img src=x onerror=window.pwned=1><script>window.pwned=1</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Methods, learning rates, betas and seeds on two tasks; and one run whose every text is hostile."""
    folder, out = tmp_path_factory.mktemp("many"), tmp_path_factory.mktemp("report")
    sweeps.write_sweep(folder, RUNS - 1)
    config = sweeps.config(HOSTILE, task="wiki", task__split=HOSTILE)
    hostile = sweeps.write_run(folder, config, sweeps.scores(0.5, 0.5), name="hostile", report={"warnings": [HOSTILE]})
    row = {"ask": "generate", "split": "forget", "subtask": "bios", "kind": "question", "attribute": "ssn"}
    texts = {
        "document": "d",
        "prompt": HOSTILE,
        "expected": "900-69-4623",
        "output": f"{HOSTILE} 😀 900-69-4623 {HOSTILE}",
    }
    (hostile / "responses.unlearned.jsonl").write_text(
        json.dumps(row | texts | {"id": HOSTILE}) + "\n", encoding="utf-8"
    )
    write_comparison([folder], out, Console(quiet=True))
    shutil.rmtree(folder)  # the page needs nothing but itself
    return out / "index.html"


@pytest.fixture
def tab(browser, page):  # noqa: F811
    with freshly_opened(browser, page) as opened:
        yield opened
    assert browser.run("window.pwned") is None
    assert [url for url in browser.requests if not url.startswith(("file:", "about:"))] == []
    assert len([url for url in browser.requests if url.startswith("file:")]) == 1  # the page and nothing else


def pick(tab: Browser, control: str, value: str) -> None:
    """Choose an option as a person does."""
    node = f"document.querySelector('#{control}')"
    tab.run(f"{node}.value = {json.dumps(value)}; {node}.dispatchEvent(new Event('change'))")


def texts(tab: Browser, selector: str, inside: str = "node.innerText") -> list[str]:
    """An expression of every node that matches."""
    return tab.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((node) => {inside})")


def place_of(tab: Browser, name: str) -> int:
    """The number of a column."""
    return tab.run(f"COLUMN.get('{name}')")


def rows(tab: Browser) -> list[list[str]]:
    """The text of every painted line, references and headings left out."""
    return texts(tab, "#table tbody tr:has(input)", "[...node.children].map((cell) => cell.innerText)")


def column(tab: Browser, title: str) -> list[float]:
    """The painted numbers of a column."""
    titles = texts(tab, "#table thead th", r"node.innerText.split(/\s/)[0]")
    return [float(row[titles.index(title)].split()[0]) for row in rows(tab) if row[titles.index(title)]]


def test_it_is_small_and_opens_at_once(browser, page):  # noqa: F811
    assert page.stat().st_size < 10 * 2**20
    assert browser.open(page) < 10  # about half a second on an idle machine
    assert browser.run("D.runs.length") == RUNS
    browser.run("document.querySelector('input[value=runs]').click()")
    assert len(rows(browser)) == 50  # painted, of 500
    assert browser.run("document.querySelectorAll('#table *').length") < 2500
    paints = "for (let turn = 0; turn < 10; turn++) paint()"
    took = browser.run(f"(() => {{ const began = performance.now(); {paints}; return performance.now() - began; }})()")
    assert took < 10_000


def test_the_answer_comes_first(tab):
    cards = tab.run("[...document.querySelectorAll('.winner')].map((card) => card.innerText)")
    assert len(cards) == 3
    bios = next(card for card in cards if card.startswith("bios on tiny"))
    best = tab.run("D.groups.find((group) => group.section === 0).label")
    assert bios.split("\n")[1] == best
    assert "retrained (reference)" in bios
    assert "unlearning [s]" in bios


def test_sorting_by_click(tab):
    pick(tab, "task", "0")
    tab.click(f"#table [data-sort='{place_of(tab, 'kept')}']")
    values = column(tab, "kept")
    assert len(values) > 30
    assert values == sorted(values, reverse=True)
    head = "document.querySelector('#table th[aria-sort]')"
    assert tab.run(f"[{head}.innerText.split(/\\s/)[0], {head}.getAttribute('aria-sort')]") == ["kept", "descending"]
    tab.click("#table th[aria-sort] button")
    values = column(tab, "kept")
    assert values == sorted(values)
    assert tab.run(f"{head}.getAttribute('aria-sort')") == "ascending"
    tab.click(f"#table [data-sort='{place_of(tab, 'cost.seconds')}']")
    assert tab.run(f"{head}.getAttribute('aria-sort')") == "ascending"  # the least seconds first


def test_filters(tab):
    tab.run("document.querySelector('input[value=runs]').click()")
    tab.run("document.querySelector('#find').focus()")
    tab.type("npo_gd kept>0.8 learning_rate=5e-5")
    tab.wait("document.querySelector('#status').textContent.includes('without filters')")
    painted = rows(tab)
    assert painted
    assert all("npo_gd" in row[1] and "learning_rate=5e-05" in row[1] for row in painted)
    assert all(value > 0.8 for value in column(tab, "kept"))
    total = int(tab.run("document.querySelector('#status').textContent").split(" of ")[1].split()[0])
    rate = "config(run).get('trainer.unlearn.learning_rate')"
    kept = f"run.mean[{place_of(tab, 'kept')}]"
    wanted = f"D.runs.filter((run) => run.method === 'npo_gd' && {kept} > 0.8 && {rate} === 5e-5).length"
    assert total == tab.run(wanted)
    tab.click("#clear")
    assert len(rows(tab)) == 50
    pick(tab, "state", "failed")
    failed = rows(tab)
    assert len(failed) == tab.run("D.runs.filter((run) => run.state === 'failed').length") > 5
    assert all("failed" in row[1] for row in failed)
    tab.run("document.querySelector('#find').value = 'no such thing'; paint()")
    assert "Nothing matches" in tab.run("document.querySelector('#table').innerText")


def test_plots_follow_the_filters(tab):
    pytest.importorskip("matplotlib")
    count = "document.querySelectorAll('#kept-1 a').length"
    assert tab.run(count) == tab.run("D.groups.filter((group) => group.section === 0 && group.mean.length).length")
    assert tab.run("document.querySelectorAll('#kept-1 a.off').length") == 0
    pick(tab, "method", "ga")
    method = "BY_ID.get(node.getAttribute('xlink:href').slice(1)).method"
    assert set(texts(tab, "#kept-1 a:not(.off)", method)) == {"ga"}


def test_pages(tab):
    tab.run("document.querySelector('input[value=runs]').click()")
    first = [row[1] for row in rows(tab)]
    tab.click("#pager button:last-child")
    assert tab.run("document.querySelector('#pager span').textContent") == "page 2 of 10"
    assert not {tuple(row) for row in first} & {tuple(row[1]) for row in rows(tab)}


def test_a_comparison(tab):
    boxes = "document.querySelectorAll('#table tbody input')"
    tab.run(f"[0, 3].forEach((place) => {boxes}[place].click())")
    assert tab.run("document.querySelector('#basket').innerText").startswith("2 chosen")
    tab.click("#compare")
    tab.wait("document.querySelector('#panel').open")
    text = tab.run("document.querySelector('#panel').innerText")
    assert text.startswith("Comparison of 2")
    for part in ("Scores", "Settings", "Training", "Prompts", "expected", "before"):
        assert part in text
    names = tab.run("[0, 3].map((place) => D.groups[place].label)")
    assert all(name in text for name in names)
    settings = tab.run(
        "[...document.querySelectorAll('[aria-label=\"settings that differ\"] tbody th')].map((cell) => cell.innerText)"
    )
    first, other = (dict(tab.run(f"[...config(first(D.groups[{place}]))]")) for place in (0, 3))
    expected = {path for path, value in first.items() if other[path] != value}
    assert set(settings) == expected != set()
    assert tab.run("document.querySelectorAll('.curves polyline').length") == 4  # two runs, two losses
    assert tab.run("document.querySelectorAll('.prompt:first-of-type .answers > div').length") == 4
    assert tab.run("location.hash").startswith("#compare=group")
    tab.press("Escape")
    tab.wait("!document.querySelector('#panel').open")
    assert tab.run("location.hash") == ""


def test_one_run(tab):
    leaky = "D.runs.find((run) => run.prompts.some(([, , after]) => leaking(after)) && run.seed === 1)"
    tab.run(f"location.hash = {leaky}.id")
    tab.wait("document.querySelector('#panel').open")
    tab.run("document.querySelector('#leaks').click()")
    marked = texts(
        tab,
        ".prompt.forget .answers > div:last-child mark",
        "[node.className, node.title, node.textContent]",
    )
    assert marked
    assert {name for name, _, _ in marked} <= {"exact", "partial", "same"}
    title, text = next((title, text) for name, title, text in marked if name == "exact")
    assert title.split(":")[0] in sweeps.ATTRIBUTES
    cards = tab.run("[...document.querySelectorAll('.prompt.forget')].map((one) => one.innerText)")
    assert any(text in card for card in cards)
    differs = tab.run("document.querySelector('[aria-label=\"how it differs from the other runs\"]').innerText")
    assert "trainer.unlearn.learning_rate" in differs
    assert "model.name" not in differs


def test_everything_by_keyboard(tab):
    tab.press("/")
    assert tab.run("document.activeElement.id") == "find"
    for _ in range(60):
        tab.press("Tab")
        if tab.run("document.activeElement.dataset.sort === 'label'"):
            break
    assert tab.run("document.activeElement.dataset.sort") == "label"
    assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.press("Enter")
    assert (
        tab.run("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"
    )  # and keeps the focus
    labels = [row[1].split("\n")[0].split(" front")[0] for row in rows(tab)][:20]
    assert labels == sorted(labels)
    for _ in range(60):
        tab.press("Tab")
        if tab.run("document.activeElement.matches('#table tbody input')"):
            break
    tab.press(" ", "Tab")
    assert tab.run("chosen.size") == 1
    opener = tab.run("document.activeElement.textContent")
    tab.press("Enter")
    tab.wait("document.querySelector('#panel').open")
    assert tab.run("document.querySelector('#panel-title').textContent") == opener
    for _ in range(40):  # the focus stays in the dialog, or leaves the document for the browser's own bar
        tab.press("Tab")
        assert tab.run("document.activeElement === document.body || !!document.activeElement.closest('#panel')")
    tab.press("Escape")
    tab.wait("!document.querySelector('#panel').open")
    assert tab.run("document.activeElement.textContent") == opener


@pytest.mark.parametrize("width", [360, 768])
def test_no_window_scrolls_sideways(tab, width):
    tab.size(width, 740)
    sizes = "[document.documentElement.scrollWidth, document.body.scrollWidth]"
    assert max(tab.run(sizes)) <= width
    tab.run("for (const node of document.querySelectorAll('#chooser, #published details')) node.open = true")
    assert max(tab.run(sizes)) <= width
    tab.run("location.hash = D.groups[0].id")
    tab.wait("document.querySelector('#panel').open")
    assert tab.run(
        "document.querySelector('.panel-body').scrollWidth <= document.querySelector('.panel-body').clientWidth"
    )
    tab.run(
        "location.hash = 'compare=' + [0, 1, 2, 3].map((place) => encodeURIComponent(D.groups[place].id)).join(',')"
    )
    tab.wait("document.querySelector('#panel-title').textContent === 'Comparison of 4'")
    assert tab.run(
        "document.querySelector('.panel-body').scrollWidth <= document.querySelector('.panel-body').clientWidth"
    )
    assert max(tab.run(sizes)) <= width


def test_narrow_lines_name_their_numbers(tab):
    tab.size(360, 740)
    cell = "document.querySelector('#table tbody td.num[data-title]:not([data-title=runs])')"
    assert tab.run(f"getComputedStyle({cell}, '::before').content") == f'"{tab.run(cell + ".dataset.title")}"'
    assert tab.run("getComputedStyle(document.querySelector('#table tbody tr:has(input)')).display") == "grid"


def test_dark_and_light(tab):
    def luminance(selector: str, what: str) -> float:
        node = f"getComputedStyle(document.querySelector('{selector}'))"
        channels = re.findall(r"[\d.]+", tab.run(f"{node}.{what}"))[:3]
        parts = [float(part) / 255 for part in channels]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(inner: str, outer: str) -> float:
        low, high = sorted([luminance(inner, "color"), luminance(outer, "backgroundColor")])
        return (high + 0.05) / (low + 0.05)

    pairs = [
        ("body", "body"),
        (".help", "body"),
        ("td.best", "td.best"),
        ("button.link", ".winner"),
        ("#theme", "#theme"),
    ]
    assert luminance("body", "backgroundColor") > 0.9
    assert min(contrast(*pair) for pair in pairs) > 4.5  # WCAG AA
    tab.prefers("dark")
    assert luminance("body", "backgroundColor") < 0.05
    assert min(contrast(*pair) for pair in pairs) > 4.5
    tab.click("#theme")
    assert tab.run("document.querySelector('#theme').textContent") == "Theme: light"
    assert luminance("body", "backgroundColor") > 0.9  # the switch beats the system
    tab.click("#theme")
    assert luminance("body", "backgroundColor") < 0.05
    tab.click("#theme")
    assert tab.run("document.documentElement.dataset.theme") is None


def test_hostile_text_is_text(tab):
    run = "D.runs.find((run) => run.name === 'hostile')"
    tab.run(f"location.hash = {run}.id")
    tab.wait("document.querySelector('#panel').open")
    assert HOSTILE[:20] in tab.run("document.querySelector('#panel-title').textContent")
    after = tab.run("document.querySelector('.prompt .answers > div:last-child').innerText")
    assert HOSTILE in after
    assert (
        tab.run("document.querySelector('.prompt mark.exact').textContent") == "900-69-4623"
    )  # after a wide character
    assert HOSTILE in tab.run("document.querySelector('.panel-body').innerText")
    assert tab.run("document.querySelectorAll('img, iframe, object').length") == 0
    assert tab.run("document.scripts.length") == 2
    tab.run("document.querySelector('#panel').close(); location.hash = 'run=%E0%A4'")  # not even an address
    tab.run("location.hash = 'compare=nothing'")
    assert not tab.run("document.querySelector('#panel').open")
