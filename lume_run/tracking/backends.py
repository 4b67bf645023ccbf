"""Where the numbers of a run go: Weights & Biases or TensorBoard. Used by `sender.py`, in a process beside the run."""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import partial
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from lume_run.common.secrets import without_secrets
from lume_run.common.text import first_line
from lume_run.tracking.messages import message_driver
from lume_run.tracking.wandb_file import last_logged_step, truncate_torn_record

CLOUD = ("api.wandb.ai", "api.forge.coreweave.com")  # one server under two names
PLOT_SUFFIX = ".png"
INIT_SHARE, TABLES_SHARE, FINISH_SHARE = 0.3, 0.2, 0.4  # of the driver's patience; tables ask the server
FLUSH_SECONDS = 1.0  # between writes to W&B's file: what a kill of all processes at once may cost


class Recipient(Protocol):
    """Who the numbers are for: `where` people see them, and the command that sends the rest if any (`sync`)."""

    where: str
    sync: str
    online: bool

    def begin_series(self, series: str) -> None:
        """A series of rows is about to come."""
        ...

    def log_row(self, series: str, entry: Mapping[str, Any], place: int) -> None:
        """One step of a training stage; ignored where it arrived before."""
        ...

    def close(self, closing: Mapping[str, Any], place: int) -> str:
        """Send what the driver left at the end; why not all of it arrived, empty where it did."""
        ...


class WeightsAndBiases:
    """A W&B run. Online where that can be, else files that `wandb sync` takes."""

    def __init__(self, start: Mapping[str, Any], home: Path) -> None:
        import wandb

        self.wandb, self.start, self.home = wandb, start, home
        with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
            wandb.setup()  # without `wandb/settings` of the working directory: it could name another server for the key
        truncate_torn_record(home, start["init"]["id"])
        self.run, self.online = self._start_run()
        self.where = str(self.run.url) if self.online else str(home)
        self.sync = shlex.join(
            ["wandb", "sync", *(["--include-online", str(Path(self.run.dir).parent)] if self.online else [str(home)])]
        )
        self.last = int(self.run.step) - 1 if self.online else last_logged_step(home, start["init"]["id"])

    def _start_run(self) -> tuple[Any, bool]:
        mode = self.start["mode"]
        if mode != "offline" and self._has_key(warn=mode == "online"):
            try:
                return self._init("online"), True
            except Exception as error:
                message_driver(warning=f"W&B cannot be reached, offline files instead: {error_line(error)}")
                self.wandb.teardown()  # the id would be taken otherwise
        return self._init("offline"), False

    def _has_key(self, *, warn: bool) -> bool:
        """Whether a key is configured for the server, without asking anybody."""
        configured = bool(os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"))
        if not configured:
            settings = self.wandb.setup().settings
            configured = bool(settings.api_key) or in_netrc(settings.base_url)
        if warn and not configured:
            message_driver(warning="W&B has no key, offline files instead: `wandb login` or WANDB_API_KEY sets one")
        return configured

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        options: dict[str, Any] = {
            "console": "off",
            "silent": True,
            "disable_git": True,  # the commit is in the config; a remote's URL may hold a password
            "disable_code": True,
            "disable_job_creation": True,
            "x_disable_meta": True,  # command line, user and mail address
            "x_save_requirements": False,  # versions are in the config
            "x_stats_pid": os.getppid(),
            "x_stats_track_process_tree": True,
            "x_transaction_log_flush_interval": FLUSH_SECONDS,
            "init_timeout": INIT_SHARE * self.start["patience"],
            "finish_timeout": FINISH_SHARE * self.start["patience"],
            "finish_timeout_raises": True,
        }
        known = self.wandb.Settings.model_fields
        init = {name: value for name, value in self.start["init"].items() if value is not None}
        return self.wandb.init(
            **init,
            mode=mode,
            dir=str(self.home.parent),
            resume="allow",
            reinit="create_new",
            settings=self.wandb.Settings(**{name: value for name, value in options.items() if name in known}),
        )

    def begin_series(self, series: str) -> None:
        """Let its curves be drawn over its own steps."""
        self.run.define_metric(f"{series}/step", hidden=True)
        self.run.define_metric(f"{series}/*", step_metric=f"{series}/step")

    def log_row(self, series: str, entry: Mapping[str, Any], place: int) -> None:
        """Log it at its place."""
        if place > self.last:
            self.last = place
            self.run.log({f"{series}/{name}": value for name, value in entry.items()}, step=place, commit=True)

    def close(self, closing: Mapping[str, Any], place: int) -> str:
        """Scores as the summary, plots, files and tables."""
        failed = {"error": closing["error"]} if "error" in closing else {}
        self.run.summary.update(closing.get("summary", {}) | failed)
        last, trouble = max(place, self.last) + 1, ""
        for part in (self._log_plots, self._save_files, self._log_tables):
            trouble = trouble or run_within(TABLES_SHARE * self.start["patience"], partial(part, closing, last))
        if closing.get("preempted"):
            self.run.mark_preempting()
        try:
            self.run.finish(exit_code=1 if failed else 0)
        except TimeoutError as error:
            trouble = trouble or error_line(error)
        return trouble

    def _log_plots(self, closing: Mapping[str, Any], place: int) -> None:
        plots = [path for path in map(Path, closing.get("files", ())) if path.suffix == PLOT_SUFFIX]
        if plots:
            self.run.log({f"plots/{path.stem}": self.wandb.Image(str(path)) for path in plots}, step=place)

    def _save_files(self, closing: Mapping[str, Any], place: int) -> None:
        for path in map(Path, closing.get("files", ())):
            copy = Path(self.run.dir) / "report" / path.name  # W&B has a config.yaml of its own
            copy.parent.mkdir(exist_ok=True)
            data = path.read_bytes()
            copy.write_bytes(data if path.suffix == PLOT_SUFFIX else without_secrets(data.decode("utf-8")).encode())
            self.run.save(str(copy), base_path=self.run.dir, policy="now")

    def _log_tables(self, closing: Mapping[str, Any], place: int) -> None:
        for name, table in closing.get("tables", {}).items():
            rows = self.wandb.Table(columns=table["columns"], data=table["rows"], allow_mixed_types=True)
            self.run.log({name: rows}, step=place)


class TensorBoard:
    """Event files; steps that are in them already are left out."""

    online = False
    sync = ""

    def __init__(self, start: Mapping[str, Any], home: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.summary import Writer

        self.where = str(home)
        written = EventAccumulator(str(home), size_guidance={"tensors": 0}).Reload()
        steps = {tag: written.Tensors(tag)[-1].step for tag in written.Tags()["tensors"]}
        self.last: dict[str, int] = {}
        for tag, step in steps.items():
            series = tag.rpartition("/")[0]
            self.last[series] = max(step, self.last.get(series, 0))
        self.writer = Writer(str(home))

    def begin_series(self, series: str) -> None:
        """Nothing to prepare."""

    def log_row(self, series: str, entry: Mapping[str, Any], place: int) -> None:
        """Write its numbers at its step."""
        step = int(entry["step"])
        if step > self.last.get(series, -1):
            self.last[series] = step
            for name, value in entry.items():
                if name != "step":
                    self.writer.add_scalar(f"{series}/{name}", value, step)

    def close(self, closing: Mapping[str, Any], place: int) -> str:
        """Scores as one point each."""
        for name, value in closing.get("summary", {}).items():
            if isinstance(value, (int, float)):
                self.writer.add_scalar(name, value, 0)
        self.writer.close()
        return ""


# ------------------------------------------------------------------------------------------------ small things


def in_netrc(url: str) -> bool:
    """Whether the user's netrc file has an entry for a server."""
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        entries = netrc(path)
    except (OSError, NetrcParseError):
        return False
    host = urlsplit(url).netloc
    hosts = CLOUD if host in CLOUD else (host,)
    return any(entries.authenticators(host) for host in hosts)


def run_within(seconds: float, work: Callable[[], None]) -> str:
    """Do the work; why it failed or took too long, empty where it did neither."""
    trouble = [f"no answer in {seconds:.0f} s"]

    def run_work() -> None:
        try:
            work()
            trouble.clear()
        except Exception as error:
            trouble[0] = error_line(error)

    thread = threading.Thread(target=run_work, daemon=True)
    thread.start()
    thread.join(seconds)
    return next(iter(trouble), "")


def error_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return str(without_secrets(first_line(str(error)) or type(error).__name__))
