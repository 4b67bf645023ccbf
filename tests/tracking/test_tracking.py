"""What W&B and TensorBoard get to see of a run: their real files read back, kills, lost networks, secrets, agents."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from helpers import warm
from helpers.shared import ROOT, shape
from helpers.wandb_server import KEY, Server, running_server

from lume_run.cli import name_sweep
from lume_run.common.errors import RunError
from lume_run.common.files import LIVE, content_hash
from lume_run.common.jsonl import read_jsonl
from lume_run.common.records import Ask, Kind, Response, Score, Split
from lume_run.common.secrets import HIDDEN, without_secrets
from lume_run.common.store import Artifact
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.resolve import run_identity
from lume_run.config.settings import Settings
from lume_run.pipeline.checks.config import check_config, require_settings
from lume_run.report.results import Report
from lume_run.tracking.backends import in_netrc
from lume_run.tracking.closing import generation_table
from lume_run.tracking.messages import SENT, START
from lume_run.tracking.sender import Series
from lume_run.tracking.start import SWEEP_VARIABLE, SWEPT_VARIABLE, start_message, wandb_mode
from lume_run.tracking.tracker import track_run
from lume_run.tracking.wandb_file import last_logged_step, read_history, read_records, truncate_torn_record, wandb_files

pytestmark = pytest.mark.slow

SCRIPTS = ROOT / "scripts"
TOKEN = "hf_" + "s3cr3t" * 5
SMALL = (
    "task.num_documents=2",
    *shape(32, 2, 64),
    "trainer.train.epochs=2",
    "trainer.train.stop_accuracy=null",
    "trainer.checkpoint_every=10",
    "evaluator.max_new_tokens=24",
    "evaluator.resamples=20",
    "launch=single",
    "logger.tags=[mine]",
)
LONG = ("trainer.unlearn.epochs=120", "trainer.checkpoint_every=25", "logger.mode=online")
UNLEARNED = "unlearn/unlearned"
SECONDS = 300.0  # far above what anything takes, for machines with much else to do


def environment(tmp: Path, **variables: str) -> dict[str, str]:
    """This machine's, without what it has of W&B, with a secret."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "LUME_RUN_"))}
    names = {"WANDB_CONFIG_DIR": "config", "WANDB_CACHE_DIR": "cache", "NETRC": "none"}
    places = {name: str(tmp / place) for name, place in names.items()}
    return clean | places | {"COLUMNS": "200", "HF_TOKEN": TOKEN, **variables}


def lume_run(output_dir: Path, *overrides: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return warm.run(*SMALL, f"output_dir={output_dir}", *overrides, cwd=output_dir.parent, env=env, timeout=SECONDS)


def sync(path: Path, server: Server, tmp: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`wandb sync`, as a user would."""
    env = environment(tmp, WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
    command = [sys.executable, "-m", "wandb", "sync", *options, str(path)]
    return subprocess.run(command, cwd=tmp, env=env, capture_output=True, text=True, timeout=60)


def unlearning_steps(folder: Path) -> int:
    """Steps of unlearning."""
    return len(json.loads((folder / "unlearned" / "history.json").read_text(encoding="utf-8")))


def steps_of(rows: list[dict[str, Any]], series: str) -> list[int]:
    return [row[f"{series}/step"] for row in rows if f"{series}/step" in row]


# ------------------------------------------------------------------------------------------------ a killed run


@dataclass(frozen=True)
class KilledRun:
    """A run whose processes were all killed while it unlearned, and which was then started again."""

    folder: Path
    before: list[dict[str, Any]]  # rows in W&B's file after the kill
    printed: str

    @property
    def home(self) -> Path:
        return self.folder / "wandb"

    @property
    def start(self) -> dict[str, Any]:
        return json.loads((self.home / START).read_text(encoding="utf-8"))

    @property
    def files(self) -> list[Path]:
        return wandb_files(self.home, self.start["init"]["id"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for file in self.files for row in read_history(file)]

    def records(self, kind: str) -> list[Any]:
        """Those of the last start."""
        return [record for record in read_records(self.files[-1]) if record.WhichOneof("record_type") == kind]

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def table(self, name: str) -> dict[str, Any]:
        (path,) = self.files[-1].parent.glob(f"files/media/table/{name}_*.table.json")
        return json.loads(path.read_text(encoding="utf-8"))


def kill_all(process: warm.Process) -> None:
    """The driver and all that it started, at once: what the end of a SLURM allocation does."""
    doomed = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in doomed:
        each.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(doomed[1:], timeout=10)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="module")
def offline(place) -> dict[str, str]:
    """A key is there, but the run is to stay offline; what W&B's own variables say wins over settings."""
    return environment(place, WANDB_API_KEY=KEY, WANDB_MODE="offline", WANDB_PROJECT="theirs")


def is_between_checkpoints(output_dir: Path) -> bool:
    """Whether rows are in W&B's file, which it writes once a second, and unlearning is well between two checkpoints."""
    if not any(read_history(file) for file in output_dir.glob("bios-*/wandb/*/*.wandb")):
        return False
    lines = [line for path in output_dir.glob(f"bios-*/unlearned.partial/{LIVE}") for line in path.open("rb")]
    return len(lines) > 25 and 5 <= len(lines) % 25 <= 10


@pytest.fixture(scope="module")
def killed(place, offline) -> KilledRun:
    output_dir = place / "out"
    overrides = (*SMALL, f"output_dir={output_dir}", *LONG)
    with (place / "printed.txt").open("wb") as printed:
        process = warm.start(*overrides, module="lume_run.cli", cwd=place, log=printed, env=offline)
    deadline = time.monotonic() + SECONDS
    while not is_between_checkpoints(output_dir):
        assert process.poll() is None and time.monotonic() < deadline, (place / "printed.txt").read_text()
        time.sleep(0.005)
    kill_all(process)
    (folder,) = output_dir.glob("bios-*")
    rows = [row for file in (folder / "wandb").glob("offline-run-*/*.wandb") for row in read_history(file)]
    done = lume_run(output_dir, *LONG, env=offline)
    assert done.returncode == 0, done.stderr
    return KilledRun(folder=folder, before=rows, printed=done.stderr)


def test_a_killed_run_continues_the_same_wandb_run(killed):
    first, second = (
        next(record.run for record in read_records(file) if record.HasField("run")) for file in killed.files
    )
    assert first.run_id == second.run_id == killed.start["init"]["id"]
    assert first.run_id == content_hash([killed.json("manifest.json")["config_hash"], str(killed.folder.resolve())])
    assert "resuming from checkpoint" in killed.printed
    assert [record.WhichOneof("record_type") for record in read_records(killed.files[0])][-1] != "exit"
    (end,) = killed.records("exit")
    assert end.exit.exit_code == 0


def test_every_step_arrives_once(killed):
    """Steps behind the last checkpoint were trained twice, and some that were sent had not reached W&B's file."""
    places = [row["_step"] for row in killed.rows]
    assert places == list(range(1, len(places) + 1))
    assert 0 < len(killed.before) < len(places) - 1
    for series, file in (("train/target", None), (UNLEARNED, killed.folder / "unlearned" / "history.json")):
        steps = steps_of(killed.rows, series)
        assert steps == list(range(1, len(steps) + 1))
        if file is not None:
            assert len(steps) == len(json.loads(file.read_text(encoding="utf-8")))
    lines = (killed.folder / "unlearned" / LIVE).read_text(encoding="utf-8").split("\n")
    steps = Counter(json.loads(line)["step"] for line in lines if line)
    assert max(steps.values()) == 2, "no step was trained twice, so this test shows nothing"


def test_curves_have_their_own_steps_and_all_that_is_logged(killed):
    axes = {record.metric.glob_name: record.metric.step_metric for record in killed.records("metric")}
    assert axes[f"{UNLEARNED}/*"] == f"{UNLEARNED}/step"
    assert axes["train/target/*"] == "train/target/step"
    expected = killed.json("unlearned/history.json")
    rows = [row for row in killed.rows if f"{UNLEARNED}/step" in row]
    names = ("loss", "forget_loss", "retain_loss", "grad_norm", "learning_rate", "tokens")
    for row, entry in zip(rows, expected, strict=True):
        assert [row[f"{UNLEARNED}/{name}"] for name in names] == [entry[name] for name in names]
        assert row[f"{UNLEARNED}/tokens_per_second"] > 0
        assert 0.05 < row[f"{UNLEARNED}/memory_gib"] < 20


def test_config_name_and_tags(killed):
    run = next(record.run for record in read_records(killed.files[-1]) if record.HasField("run"))
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["trainer"]["unlearn"]["epochs"] == 120
    assert config["method"]["forget"]["_target_"] == "NPO"
    assert config["launch"]["name"] == "single"
    manifest = killed.json("manifest.json")
    assert [config["manifest"][key] for key in ("git", "versions", "hardware")] == [
        manifest[key] for key in ("git", "versions", "hardware")
    ]
    assert run.display_name == "npo_gd-bios-tiny-seed0"
    assert list(run.tags) == ["npo_gd", "bios", "tiny", "single", "mine"]
    assert (run.project, run.run_group) == ("theirs", "")


def test_scores_are_the_summary(killed):
    summary: dict[str, Any] = {}
    for record in killed.records("summary"):
        summary |= {item.key: json.loads(item.value_json) for item in record.summary.update if item.key}
    words = {"target": "before", "unlearned": "after", "change": "change"}
    scores = killed.json("report.json")["scores"]
    assert {"target.forget.bios.knowledge", "unlearned.mia.auc", "change.task_aggregate"} <= set(scores)
    for name, value in scores.items():
        subject, _, score = name.partition(".")
        assert summary.get(f"{words[subject]}/{score.replace('.', '/')}") == value, name


def test_tables_hold_scores_and_what_the_models_wrote(killed):
    scores = killed.table("scores")
    assert scores["columns"][:6] == ["group", "score", "wanted", "before", "after", "change"]
    by_name = {row[1]: row for row in scores["data"]}
    flat = killed.json("report.json")["scores"]
    row = by_name["forget.bios.knowledge"]
    assert row[2:6] == ["lower", *(flat[f"{who}.forget.bios.knowledge"] for who in ("target", "unlearned", "change"))]
    assert by_name["mmlu.accuracy"][3:5] == [None, None]
    assert "no MMLU responses" in by_name["mmlu.accuracy"][-1]
    texts = killed.table("generations")
    assert texts["columns"] == ["id", "side", "task", "prompt", "expected", "before", "after"]
    wrote = {
        name: {response.id: response for response in read_jsonl(path, Response) if response.ask is Ask.GENERATE}
        for name in ("target", "unlearned")
        for path in [killed.folder / f"responses.{name}.jsonl"]
    }
    assert len(texts["data"]) == len(wrote["target"]) == 24
    assert [row[1] for row in texts["data"][:4]] == ["forget", "retain", "forget", "retain"]
    for key, _, _, prompt, expected, before, after in texts["data"]:
        assert (prompt, expected, before) == (
            wrote["target"][key].prompt,
            wrote["target"][key].expected,
            wrote["target"][key].output,
        )
        assert after == wrote["unlearned"][key].output


def test_report_and_plots_are_files(killed):
    names = {file.path for record in killed.records("files") for file in record.files.files}
    assert {"report/report.md", "report/report.json", "report/config.yaml", "report/manifest.json"} <= names
    folder = killed.files[-1].parent / "files"
    assert (folder / "report" / "report.md").read_bytes() == (killed.folder / "report.md").read_bytes()
    if importlib.util.find_spec("matplotlib"):
        assert (folder / "report" / "report.png").read_bytes() == (killed.folder / "report.png").read_bytes()
        assert any(name.startswith("media/images/plots/report_") for name in names)


def test_no_secret_is_written(killed):
    files = [path for path in killed.folder.parent.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    for secret in (KEY, TOKEN):
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
        assert secret not in killed.printed


def test_a_finished_run_is_not_sent_again(killed, place, offline):
    before = {path: path.stat().st_mtime_ns for path in killed.home.rglob("*")}
    done = lume_run(place / "out", *LONG, env=offline)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in killed.home.rglob("*")} == before
    line = f"  W&B, offline: wandb sync {killed.home}"
    assert done.stderr.count(line) == killed.printed.count(line) == 1


def test_wandb_sync_takes_the_files(killed, tmp_path):
    with running_server() as server:
        done = sync(killed.home, server, tmp_path)
        assert done.returncode == 0, done.stderr
        assert [row["_step"] for row in server.rows] == [row["_step"] for row in killed.rows]
        assert {run["name"] for run in server.runs} == {killed.start["init"]["id"]}
        assert server.runs[0]["displayName"] == "npo_gd-bios-tiny-seed0"
        assert server.runs[0]["tags"] == ["npo_gd", "bios", "tiny", "single", "mine"]
        assert {"report/report.md", "report/config.yaml", "wandb-summary.json"} <= set(server.files)
        summary = json.loads(server.files["wandb-summary.json"])
        assert summary["after/task_aggregate"] == killed.json("report.json")["scores"]["unlearned.task_aggregate"]
    assert [path.name for path in killed.home.rglob("*.synced")] == [f"{file.name}.synced" for file in killed.files]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.999])
def test_what_a_kill_cut_is_removed_and_nothing_else(killed, tmp_path, share):
    """Cut at two bytes on end, one of which is inside a record."""
    whole = killed.files[-1].read_bytes()
    run = killed.start["init"]["id"]
    (tmp_path / f"offline-run-1-{run}").mkdir()
    path = tmp_path / f"offline-run-1-{run}" / f"run-{run}.wandb"
    removed = []
    for cut in (int(len(whole) * share), int(len(whole) * share) + 1):
        path.write_bytes(whole[:cut])
        before = list(read_records(path))
        truncate_torn_record(tmp_path, run)
        kept = path.read_bytes()
        assert list(read_records(path)) == before == list(read_records(killed.files[-1]))[: len(before)]
        assert whole.startswith(kept)
        removed.append(cut - len(kept))
    assert max(removed) > 0
    truncate_torn_record(tmp_path, run)
    assert path.read_bytes() == kept
    with running_server() as server:
        done = sync(tmp_path, server, tmp_path)
        assert "incomplete" not in done.stderr and [*tmp_path.rglob("*.synced")]
        assert len(server.rows) == len(read_history(path))


# ------------------------------------------------------------------------------------------------ networks


def test_a_network_lost_on_the_way_ends_no_run(place, tmp_path):
    """The server takes the first rows and then never answers again; the rest is sent by hand later."""
    with running_server() as server:
        env = environment(place, WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
        overrides = (*SMALL, f"output_dir={place / 'out'}", "trainer.unlearn.epochs=61", "logger.patience=25")
        with (tmp_path / "printed.txt").open("wb") as printed:
            process = warm.start(*overrides, module="lume_run.cli", cwd=place, log=printed, env=env)
        deadline = time.monotonic() + SECONDS
        while not server.runs and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        server.hangs = True
        code, ended = process.wait(SECONDS), time.time()
        text = (tmp_path / "printed.txt").read_text(encoding="utf-8")
        assert code == 0, text
        arrived = [row["_step"] for row in server.rows]
    (warning,) = [line for line in text.split("\n") if "did not take everything" in line]
    command, _, place_of_rest = warning.rpartition(" ")
    assert command.endswith("wandb sync --include-online")
    folder = Path(place_of_rest)
    report = folder.parents[1] / "report.md"
    assert ended - report.stat().st_mtime < 25 + 30  # the server would keep it waiting for 600
    assert not (folder.parent / SENT).exists()
    (file,) = folder.glob("*.wandb")
    steps = [row["_step"] for row in read_history(file)]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps_of(read_history(file), UNLEARNED)) == unlearning_steps(folder.parents[1])
    assert len(arrived) < len(steps)
    with running_server() as server:
        done = sync(folder, server, tmp_path, "--include-online")
        assert done.returncode == 0, done.stderr
        assert [row["_step"] for row in server.rows] == steps


@dataclass(frozen=True)
class Stage:
    """A run without a model: its one artifact logs some steps and is done."""

    settings: Settings
    data: dict[str, Any]
    folder: Path
    home: Path

    def run(self, steps: int, *, fails: bool = False) -> None:
        """What launch does with a tracker."""
        record = {"config_hash": content_hash(self.data), "started": "now"}

        def build(folder: Path) -> None:
            lines = [json.dumps({"loss": 1 / step, "epoch": 0.5, "step": step}) for step in range(1, steps + 1)]
            (folder / LIVE).write_text("\n".join(lines) + "\n", encoding="utf-8")
            if fails:
                raise RunError(f"no memory for {TOKEN}")

        artifact = Artifact(stage="unlearn", name="unlearned", path=self.folder / "unlearned", inputs={}, build=build)
        with track_run(self.settings, self.folder, self.data, record) as tracker:
            tracker.follow(artifact)
            artifact.make()
            report = Report(
                name="x",
                scores={"target": {"a.b": Score(name="a.b", value=1.0, n=1)}},
                gate=None,
                gate_rule="",
                seconds={},
                manifest=record,
                source="",
            )
            tracker.finish(report, {})


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Makes one with some overrides, in an environment without W&B's variables."""
    kept = environment(tmp_path)
    for name in [name for name in os.environ if name not in kept]:
        monkeypatch.delenv(name)
    for name, value in kept.items():
        monkeypatch.setenv(name, value)

    def make_stage(*overrides: str) -> Stage:
        settings, data = require_settings(compose([*overrides, "logger.patience=25"], [conf_dir()]))
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        return Stage(settings=settings, data=run_identity(data), folder=folder, home=folder / settings.logger.name)

    return make_stage


def run_id(home: Path) -> str:
    return str(json.loads((home / START).read_text(encoding="utf-8"))["init"]["id"])


def only_file(home: Path) -> Path:
    (file,) = (file for file in wandb_files(home, run_id(home)) if file.parent.name.startswith("offline"))
    return file


def exit_code(file: Path) -> int:
    (code,) = [record.exit.exit_code for record in read_records(file) if record.HasField("exit")]
    return int(code)


def test_a_server_that_is_not_there_means_offline_files(stage, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    run = stage()
    run.run(5)
    printed = " ".join(capfd.readouterr().err.split())
    assert "W&B cannot be reached, offline files instead:" in printed
    assert f"W&B, offline: wandb sync {run.home}" in printed
    assert steps_of(read_history(only_file(run.home)), UNLEARNED) == [1, 2, 3, 4, 5]
    assert exit_code(only_file(run.home)) == 0


@pytest.mark.parametrize(("overrides", "warned"), [((), False), (("logger.mode=online",), True)])
def test_without_a_key_nobody_is_asked(stage, capfd, overrides, warned):
    run = stage(*overrides)
    run.run(2)
    printed = " ".join(capfd.readouterr().err.split())
    assert ("W&B has no key, offline files instead" in printed) is warned
    assert f"W&B, offline: wandb sync {run.home}" in printed
    assert [row["_step"] for row in read_history(only_file(run.home))] == [1, 2, 3]  # the last one has the tables


def test_a_failed_run_is_a_failed_one_there_too(stage):
    run = stage("logger.mode=offline")
    with pytest.raises(RunError):
        run.run(3, fails=True)
    file = only_file(run.home)
    assert exit_code(file) == 1
    assert steps_of(read_history(file), UNLEARNED) == [1, 2, 3]
    errors = [
        json.loads(item.value_json)
        for record in read_records(file)
        for item in record.summary.update
        if item.key == "error"
    ]
    assert errors == [f"no memory for {HIDDEN}"]
    assert not (run.home / SENT).exists()


def test_a_driver_that_dies_leaves_whole_files_and_no_process(stage):
    """Its pipe ends, and nobody says how the run went."""
    run = stage("logger.mode=offline")
    run.home.mkdir()
    partial = run.folder / "unlearned.partial"
    partial.mkdir()
    (partial / LIVE).write_text('{"loss": 1.0, "step": 1}\n{"loss": 0.5, "ste', encoding="utf-8")
    start = start_message(run.settings, run.folder, run.data, {"config_hash": "x"})
    (run.home / START).write_text(json.dumps(start), encoding="utf-8")
    message = {"series": UNLEARNED, "partial": str(partial), "path": str(run.folder / "unlearned"), "done": False}
    command = [sys.executable, "-m", "lume_run.tracking.sender", str(run.home)]
    done = subprocess.run(command, input=json.dumps(message), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sync"] == f"wandb sync {run.home}"
    assert steps_of(read_history(only_file(run.home)), UNLEARNED) == [1]
    assert exit_code(only_file(run.home)) == 1
    assert last_logged_step(run.home, run_id(run.home)) == 1
    assert [each for each in psutil.process_iter(["cmdline"]) if str(run.home) in (each.info["cmdline"] or ())] == []


def test_online_only_what_the_server_lacks_is_sent(stage, monkeypatch, capfd):
    with running_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        server.last_step = 3
        run = stage("logger.group=mine", "logger.entity=me")
        run.run(6)
        assert [row["_step"] for row in server.rows] == [4, 5, 6, 7]
        assert server.runs[0]["groupName"] == "mine"
        assert "report/report.md" not in server.files  # this run has none
        sent = json.loads((run.home / SENT).read_text(encoding="utf-8"))
    assert sent["where"] == f"{server.url}/me/lume-run/runs/{run_id(run.home)}"
    assert capfd.readouterr().err.count(f"W&B: {sent['where']}") == 1


# ------------------------------------------------------------------------------------------------ W&B sweeps


def test_a_wandb_agent_drives_lume_run(place, tmp_path):
    """The real agent, told by a server to run one job of our example."""
    config = yaml.safe_load((SCRIPTS / "wandb_sweep.yaml").read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "lume_run.cli", *SMALL, f"output_dir={place / 'out'}"]
    config["command"] = [*command, *(part for part in config["command"] if part not in ("${env}", "${program}"))]
    args = {"method": {"value": "npo_gd"}, "trainer.unlearn.learning_rate": {"value": 1e-4}}
    args |= {"trainer.unlearn.epochs": {"value": 2}}
    assert set(args) == set(config["parameters"])
    with running_server() as server:
        server.sweep = config
        server.commands = [{"type": "run", "run_id": "agentsrun", "program": config["program"], "args": args}]
        env = environment(place, WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
        agent = [sys.executable, "-m", "wandb", "agent", "--count", "1", "me/theirs/sweep001"]
        done = subprocess.run(agent, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr
        assert {run["name"] for run in server.runs} == {"agentsrun"}
        assert {run["sweep"] for run in server.runs if run["sweep"]} == {"sweep001"}
        assert {run["project"] for run in server.runs} == {"theirs"}
        (folder,) = (
            path.parents[1] for path in (place / "out").glob(f"*/wandb/{START}") if "agentsrun" in path.read_text()
        )
        assert steps_of(server.rows, UNLEARNED) == list(range(1, unlearning_steps(folder) + 1))
        summary = json.loads(server.files["wandb-summary.json"])
    assert config["metric"]["name"] in summary


def test_the_example_is_made_of_what_there_is():
    config = yaml.safe_load((SCRIPTS / "wandb_sweep.yaml").read_text(encoding="utf-8"))
    for method in config["parameters"]["method"]["values"]:
        settings, _ = require_settings(compose(["task=bios", f"method={method}"], [conf_dir()]))
        assert settings.method.name == method


# ------------------------------------------------------------------------------------------------ TensorBoard, none


def test_tensorboard_has_the_same_numbers_once(stage, capfd):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = stage("logger=tensorboard")
    run.run(4)
    (run.home / SENT).unlink()
    run.run(4)
    events = EventAccumulator(str(run.home), size_guidance={"tensors": 0}).Reload()
    losses = [(event.step, float(event.tensor_proto.float_val[0])) for event in events.Tensors(f"{UNLEARNED}/loss")]
    assert losses == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)]
    assert {event.step for event in events.Tensors("before/a/b")} == {0}
    assert f"TensorBoard: {run.home}" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    ("overrides", "mode"), [(("logger=none",), ""), ((), "disabled"), (("logger.mode=disabled",), "")]
)
def test_no_logger_means_no_file(stage, monkeypatch, overrides, mode):
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    run = stage(*overrides)
    run.run(1)
    assert sorted(path.name for path in run.folder.iterdir()) == ["unlearned", "unlearned.lock"]


# ------------------------------------------------------------------------------------------------ parts


def test_the_logger_does_not_change_the_run():
    hashes = {
        content_hash(run_identity(require_settings(compose(overrides, [conf_dir()]))[1]))
        for overrides in ([], ["logger=none"], ["logger=tensorboard"], ["logger.project=x", "logger.tags=[y]"])
    }
    assert len(hashes) == 1


def test_only_the_process_beside_the_run_knows_wandb():
    package = Path(sys.modules["lume_run"].__file__ or "").parent
    texts = {path.name: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    know = {name for name, text in texts.items() if "import wandb" in text or "from wandb" in text}
    assert know == {"backends.py", "wandb_file.py"}


@pytest.mark.parametrize(("configured", "variable", "mode"), [("auto", "", "auto"), ("online", "dryrun", "offline")])
def test_the_variable_wins(monkeypatch, configured, variable, mode):
    monkeypatch.setenv("WANDB_MODE", variable)
    settings, _ = require_settings(compose([f"logger.mode={configured}"], [conf_dir()]))
    assert wandb_mode(settings.logger) == mode


@pytest.mark.parametrize(
    ("override", "variable", "where"),
    [
        ("logger.project='a/b'", "", "logger.project"),
        ("logger.entity='a b'", "", "logger.entity"),
        ("logger.group=" + "x" * 200, "", "logger.group"),
        ("logger.tags=[" + "x" * 65 + "]", "", "logger.tags"),
        ("logger.project=fine", "a/b", "WANDB_PROJECT"),
        ("logger.project=fine", "file:///etc/passwd", "WANDB_BASE_URL"),
        ("logger.project=fine", "nowhere", "WANDB_BASE_URL"),
    ],
)
def test_names_that_wandb_does_not_take(monkeypatch, override, variable, where):
    monkeypatch.setenv(where if where.startswith("WANDB") else "WANDB_PROJECT", variable)
    problems = check_config(compose([override], [conf_dir()])).problems
    assert [problem.where for problem in problems] == [where]


@pytest.mark.parametrize(
    ("machine", "url", "expected"),
    [
        ("api.wandb.ai", "https://api.forge.coreweave.com", True),
        ("wandb.example:8080", "http://wandb.example:8080", True),
        ("wandb.example", "http://other.example", False),
    ],
)
def test_a_key_in_netrc_is_a_key(tmp_path, monkeypatch, machine, url, expected):
    path = tmp_path / "netrc"
    path.write_text(f"machine {machine}\n  login user\n  password {KEY}\n", encoding="utf-8")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))
    assert in_netrc(url) is expected


def test_jobs_of_a_sweep_share_a_group_and_say_what_differs(stage, monkeypatch):
    monkeypatch.setenv(SWEEP_VARIABLE, "")  # to be put back
    monkeypatch.setenv(SWEPT_VARIABLE, "")
    swept = ["-m", "method=npo,ga", "trainer.unlearn.learning_rate=1e-5,2e-5", "evaluator.resamples=0", "seed=0,1"]
    name_sweep(swept)
    group = os.environ[SWEEP_VARIABLE]
    run = stage("method=ga", "trainer.unlearn.learning_rate=2e-5", "seed=1")
    init = start_message(run.settings, run.folder, run.data, {"config_hash": "x"})["init"]
    assert init["name"] == "ga-bios-tiny-seed1-learning_rate=2e-05"
    assert init["group"] == group
    name_sweep([*reversed(swept), "hydra/launcher=joblib"])
    assert os.environ[SWEEP_VARIABLE] == group
    name_sweep([*swept, "task=novels"])
    assert os.environ[SWEEP_VARIABLE] != group


def test_rows_are_read_while_they_are_written(tmp_path):
    partial, path = tmp_path / "x.partial", tmp_path / "x"
    series = Series(name="a/b", partial=partial, path=path, done=False)
    path.mkdir()
    (path / LIVE).write_text('{"step": 9}\n', encoding="utf-8")  # made from other things; about to be replaced
    assert list(series.rows()) == []
    partial.mkdir()
    with (partial / LIVE).open("a", encoding="utf-8") as file:
        file.write('{"step": 1}\n{"step": 2}\n{"st')
        file.flush()
        assert [row["step"] for row in series.rows()] == [1, 2]
        file.write('\n{"step": 2, "again": true}\n{"step": 3}\n')  # cut off, then trained again from step 1
    assert [row["step"] for row in series.rows()] == [3]
    (path / LIVE).unlink()
    path.rmdir()
    partial.rename(path)
    assert list(series.rows(whole=True)) == []
    with (path / LIVE).open("a", encoding="utf-8") as file:
        file.write('{"step": 4}\n')
    assert [row["step"] for row in series.rows(whole=True)] == [4]


def test_artifacts_from_before_there_were_live_rows(tmp_path):
    (tmp_path / "history.json").write_text('[{"loss": 2.0, "step": 1}, {"loss": 1.0, "step": 2}]', encoding="utf-8")
    series = Series(name="a/b", partial=tmp_path / "none", path=tmp_path, done=True)
    assert [row["loss"] for row in series.rows()] == [2.0, 1.0]
    assert list(series.rows(whole=True)) == []


def test_secrets_are_hidden_and_prompts_are_not(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "abcdefgh12345")
    monkeypatch.setenv("SHORT_TOKEN", "a")
    monkeypatch.setenv("HIDDEN_AWAY", "innocent words")
    given = {
        "trainer": {"hf_token": "x", "max_new_tokens": 256, "api_key": None},
        "command": ["lume-run", "model.path=https://me:abc@host/x", "a=abcdefgh12345"],
        "prompt": "The password: swordfish. Innocent words stay a.",
    }
    assert without_secrets(given) == {
        "trainer": {"hf_token": HIDDEN, "max_new_tokens": 256, "api_key": None},
        "command": ["lume-run", f"model.path=https://{HIDDEN}@host/x", f"a={HIDDEN}"],
        "prompt": "The password: swordfish. Innocent words stay a.",
    }
    assert (
        without_secrets("task:\n  hf_token: x y\n  pad_token: z\n") == f"task:\n  hf_token: {HIDDEN}\n  pad_token: z\n"
    )


def test_generations_come_in_turn_from_each_side():
    def response(side: str, number: int) -> Response:
        return Response(
            id=f"{side}{number}",
            ask=Ask.GENERATE,
            split=Split(side),
            subtask="bios",
            kind=Kind.QUESTION,
            document="d",
            prompt=f"p{number}",
            expected="e",
            output=f"{side} {number}",
        )

    asked = [*(response("forget", number) for number in range(3)), *(response("retain", number) for number in range(3))]
    table = generation_table({"model": asked}, 3)
    assert table["columns"] == ["id", "side", "task", "prompt", "expected", "model"]
    assert [row[0] for row in table["rows"]] == ["forget0", "retain0", "forget1"]
    assert table["rows"][0][-1] == "forget 0"
