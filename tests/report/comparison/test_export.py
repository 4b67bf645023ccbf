"""What lume-run-report writes and prints: CSV, JSON, LaTeX, the terminal, plots, prompts with what they give away."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest
from helpers import sweeps
from rich.console import Console

from lume_run.report.comparison.export.tables import escape_formula, escape_latex, format_mean
from lume_run.report.comparison.main import main, write_comparison
from lume_run.report.comparison.page.prompts import disclosing_spans, find_marks, prompts_of, read_answers
from lume_run.report.comparison.run_folders import read_run

HOSTILE = "</script><script>pwned=1</script><img src=x onerror=pwned=1>"
FACTS = (("ssn", "900-69-4623"), ("email", "mara.oduya9@dovemail.example"), ("birth_date", "1976-02-02"))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Two methods with two seeds, one failed, one diverged, one hostile."""
    folder = tmp_path_factory.mktemp("outputs") / "night"
    for seed in (0, 1):
        sweeps.write_run(folder, sweeps.config("npo_gd", seed=seed), sweeps.scores(0.1 + 0.1 * seed, 0.9), texts=True)
        sweeps.write_run(folder, sweeps.config("ga", seed=seed), sweeps.scores(0.0, 0.1 + 0.01 * seed), texts=True)
    sweeps.write_run(folder, sweeps.config("gd", seed=0), None, error="[red]no memory[/red]\ntake a smaller batch")
    sweeps.write_run(folder, sweeps.config("gd", seed=1), sweeps.scores(0.5, 0.5), diverged="the loss was nan")
    sweeps.write_run(folder, sweeps.config(f"$\\frac{HOSTILE}"), sweeps.scores(0.5, 0.6), name="hostile & 100 %")
    return folder


@pytest.fixture(scope="module")
def comparison(sweep, tmp_path_factory) -> tuple[Path, str]:
    """(where the report is, what the terminal showed)."""
    out = tmp_path_factory.mktemp("report")
    console = Console(width=150, record=True, file=io.StringIO())
    write_comparison([sweep], out, console)
    return out, console.export_text()


def test_terminal(comparison):
    _, text = comparison
    lines = text.split("\n")
    (npo,) = [line for line in lines if line.startswith(" npo_gd")]
    assert "0.874 ± 0.037 ★" in npo  # of 0.9, and of 2 / (1 / 0.8 + 1 / 0.9)
    (ga,) = [line for line in lines if line.startswith(" ga")]
    assert "1.000 ± 0.000 ★" in ga
    assert any(line.split() == ["1", "failed"] for line in lines)
    assert any(re.fullmatch(r"  bios-tiny-gd-\w{8}: \[red\]no memory\[/red\]", line.rstrip()) for line in lines)
    assert "take a smaller batch" not in text
    assert any(line.startswith("1 diverged") for line in lines)
    assert "forgotten: 1 - mean of forget.regurgitation, forget.knowledge" in text
    assert "retrained without" in text


@pytest.mark.parametrize("width", [80, 110, 200])
def test_no_number_is_cut_off(sweep, tmp_path, width):
    console = Console(width=width, record=True, file=io.StringIO())
    write_comparison([sweep], tmp_path, console, plots=False)
    lines = console.export_text().split("\n")
    (npo,) = [line for line in lines if line.startswith(" npo_gd")]
    cells = re.split(r"  +", npo.strip())[2:]
    assert len(cells) >= 2
    assert all(re.fullmatch(r"\d+\.\d{3} ± \d+\.\d{3}( ★)?", cell) for cell in cells), npo
    assert "task_aggregate ↑" in "".join(lines[:6])


def test_csv_has_a_line_a_run(comparison):
    with (comparison[0] / "runs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    by_seed = {row["seed"]: row for row in rows if row["method"] == "npo_gd"}
    assert float(by_seed["1"]["forgotten"]) == pytest.approx(0.8)
    assert by_seed["0"]["config.trainer.unlearn.learning_rate"] == "0.0001"
    assert float(by_seed["0"]["before.forget.knowledge"]) == 1.0
    assert float(by_seed["0"]["retrained.retain.knowledge"]) == 0.98
    (failed,) = [row for row in rows if row["state"] == "failed"]
    assert (failed["error"].split("\n")[0], failed["forgotten"]) == ("[red]no memory[/red]", "")


def test_spreadsheets_compute_nothing():
    assert escape_formula("=HYPERLINK(1)") == "'=HYPERLINK(1)"
    assert [escape_formula(value) for value in ("+cmd", "@x", "-1e-5", "-2", -3.0, "plain")] == [
        "'+cmd",
        "'@x",
        "-1e-5",
        "-2",
        -3.0,
        "plain",
    ]


def test_json_is_strict_and_whole(comparison):
    def refuse(constant):
        raise AssertionError(constant)

    data = json.loads((comparison[0] / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    (section,) = data["sections"]
    assert (section["sorted_by"], len(data["runs"])) == ("task_aggregate", 7)
    npo = next(group for group in section["groups"] if group["method"] == "npo_gd")
    assert npo["values"]["forgotten"] == {
        "mean": pytest.approx(0.85),
        "deviation": pytest.approx(0.0707106, abs=1e-6),
        "n": 2,
    }
    assert "task_aggregate" in npo["best_in"]
    assert section["fronts"]["kept"]["groups"] == ["npo_gd", "ga"]


def test_latex(comparison):
    text = (comparison[0] / "groups.tex").read_text(encoding="utf-8")
    rows = [line for line in text.split("\n") if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1  # as many cells in every row
    (npo,) = [row for row in rows if row.startswith("npo\\_gd")]
    assert r"\textbf{0.874 $\pm$ 0.037}" in npo
    assert text.count("{") == text.count("}")
    assert r"\$\textbackslash{}frac\textless{}/script\textgreater{}" in text
    assert escape_latex("100 % & 50 #_~^") == r"100 \% \& 50 \#\_\textasciitilde{}\textasciicircum{}"


def test_numerals():
    assert [format_mean(value) for value in (0.0, 2e-5, 0.12345, -1e-9, 12345.6)] == [
        "0.000",
        "2e-05",
        "0.123",
        "-1e-09",
        "12,346",
    ]


def test_plots_are_files_and_parts_of_the_page(comparison):
    pytest.importorskip("matplotlib")
    plots = comparison[0] / "plots"
    names = {path.name for path in plots.iterdir()}
    assert {"kept-1.png", "kept-1.svg", "scores.png", "training-1.svg"} <= names
    for path in plots.glob("*.svg"):
        xml.etree.ElementTree.parse(path)
    page = (comparison[0] / "index.html").read_text(encoding="utf-8")
    assert page.count("<figure ") == len(list(plots.glob("*.svg")))
    svg = page[page.index('<figure id="kept-1"') : page.index("</figure>")]
    assert svg.count("#group=0.") == 4
    assert "var(--c0)" in svg
    assert "#2563a8" not in svg


def test_the_page_cannot_be_broken_out_of(comparison):
    page = (comparison[0] / "index.html").read_text(encoding="utf-8")
    assert HOSTILE not in page
    assert len(re.findall(r"<script", page)) == 2
    assert re.findall(r"<(?:img|link|iframe|object)\b", page) == []
    assert re.findall(r"(?:src|href)=\"(?!#)", page) == []
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src 'none'" in policy
    assert "unsafe-inline'; img" in policy  # styles only
    assert "script-src 'sha256-" in policy


def test_an_older_plot_goes_and_a_file_of_somebody_else_stays(sweep, tmp_path):
    pytest.importorskip("matplotlib")
    plots = tmp_path / "plots"
    plots.mkdir()
    for name in ("kept-7.png", "mine.png"):
        (plots / name).write_bytes(b"")
    write_comparison([sweep], tmp_path, Console(quiet=True))
    assert not (plots / "kept-7.png").exists()
    assert (plots / "mine.png").exists()


def test_without_matplotlib_everything_else_is_made(sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([str(sweep), "--out", str(tmp_path)]) == 0
    assert "no plots: pip install 'lume-run[plots]'" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["groups.tex", "index.html", "report.json", "runs.csv"]
    assert "they need matplotlib" in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{sweep}/nowhere"], "There is no folder"),
        (["{empty}"], "There are no runs in"),
        (["{sweep}", "--sort", "task_agregate"], "no run has the score 'task_agregate'"),
        (["{sweep}", "--columns", "kept,keept"], "no run has keept"),
    ],
)
def test_mistakes_are_explained_in_a_line(sweep, tmp_path, capsys, arguments, message):
    given = [part.replace("{sweep}", str(sweep)).replace("{empty}", str(tmp_path)) for part in arguments]
    assert main([*given, "--out", str(tmp_path / "out"), "--no-plots"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_as_a_command_without_torch(sweep, tmp_path):
    """Reports are made on laptops too."""
    probe = (
        "import sys; from lume_run.report.comparison.main import main\n"
        f"code = main([{str(sweep)!r}, '--out', {str(tmp_path)!r}, '--no-plots', '--columns', 'kept'])\n"
        "print(code, 'torch' in sys.modules, 'hydra' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().split("\n")[-1] == "0 False False", done.stderr


# ------------------------------------------------------------------------------------------------------- prompts


def test_spans_are_the_shortest_words_that_disclose_a_fact():
    text = "Her number is (900) 69 4623, and again 900-69-4623."
    assert [text[start:end] for start, end in disclosing_spans("ssn", "900-69-4623", text)] == [
        "(900) 69 4623",
        "900-69-4623",
    ]
    assert list(disclosing_spans("ssn", "900-69-4623", "nothing of it: 123")) == []
    born = "She was born, they say, on 2 February 1976 in Tallinn"
    assert [born[start:end] for start, end in disclosing_spans("birth_date", "1976-02-02", born)] == ["2 February 1976"]


def test_marks():
    text = "Write to mara.oduya9@dovemail.example; the last four are 4623."
    spans = find_marks(text, "no", FACTS, only_facts=True)
    assert [(text[start:end], kind, name) for start, end, kind, name in spans] == [
        ("mara.oduya9@dovemail.example", "exact", "email"),
        ("4623", "partial", "ssn"),
    ]
    expected = "The stone bridge was built by nobody in particular, ages ago."
    again = "Perhaps the Stone bridge was built by me, or by nobody in particular."
    spans = find_marks(again, expected, (), only_facts=False)
    assert [(again[start:end], kind) for start, end, kind, _ in spans] == [("the Stone bridge was built by", "same")]


def test_prompts_of_a_run(tmp_path):
    folder = sweeps.write_run(tmp_path, sweeps.config(), sweeps.scores(0.3, 0.9), texts=True)
    prompts = prompts_of(read_run(folder), 6)
    assert [prompt.side for prompt in prompts] == ["forget"] * 6 + ["retain"] * 6
    assert {prompt.kind for prompt in prompts[2:6]} == {"question", "completion"}
    rows = read_answers(folder / "responses.unlearned.jsonl")
    for prompt in prompts:
        assert prompt.after.text == rows[prompt.id]["output"].strip()
        assert prompt.before.text == prompt.expected.text
    leaking = [prompt for prompt in prompts[:2] if any(kind == "exact" for _, _, kind, _ in prompt.after.marks)]
    assert len(leaking) == 2  # a third of the six, before the others
    file = folder / "responses.unlearned.jsonl"
    lines = file.read_text(encoding="utf-8").replace('"ask": "generate"', '"ask": "generate", "variant": "muse"')
    file.write_text(lines, encoding="utf-8")
    assert prompts_of(read_run(folder), 6) == prompts  # of a suite with a length of its own
    question = next(prompt for prompt in prompts if prompt.kind == "question" and prompt.before)
    assert [(kind, name) for _, _, kind, name in question.before.marks] == [("exact", question.attribute)]


def test_all_runs_of_a_task_show_the_same_prompts(tmp_path):
    folders = [
        sweeps.write_run(tmp_path, sweeps.config(seed=seed), sweeps.scores(0.0, 0.9), texts=True) for seed in range(2)
    ]
    first, second = ([prompt.id for prompt in prompts_of(read_run(folder), 5)] for folder in folders)
    assert first == second
    assert len(set(first)) == 10


def test_what_the_prompt_says_itself_is_not_disclosed(tmp_path):
    folder = sweeps.write_run(tmp_path, sweeps.config(), sweeps.scores(0.0, 0.9))
    common = {"ask": "generate", "split": "forget", "subtask": "bios", "document": "d"}
    rows = [
        {
            **common,
            "id": "dqa0",
            "kind": "question",
            "attribute": "ssn",
            "prompt": "Her SSN?",
            "expected": "900-69-4623",
        },
        {**common, "id": "dsc1", "kind": "completion", "prompt": "Her SSN is 900-69-4623 and", "expected": "so on"},
    ]
    lines = [json.dumps(row | {"output": "it is 900-69-4623"}) for row in rows]
    lines += ["not json", '{"ask": "generate"}', json.dumps(rows[0] | {"id": "x", "output": 3}), '"generate"']
    (folder / "responses.unlearned.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    prompts = {prompt.id: prompt for prompt in prompts_of(read_run(folder), 4)}
    assert set(prompts) == {"dqa0", "dsc1"}
    assert [kind for _, _, kind, _ in prompts["dqa0"].after.marks] == ["exact"]
    assert prompts["dsc1"].after.marks == ()
    assert prompts["dsc1"].before is None
