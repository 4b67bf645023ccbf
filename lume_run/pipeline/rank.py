"""A rank, one of several processes that make an artifact: `python -m lume_run.pipeline.rank RUN_FOLDER ARTIFACT`."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from lume_run.common.devices import rank
from lume_run.common.errors import LumeError
from lume_run.common.files import full_disk_error
from lume_run.config.resolve import read_config
from lume_run.launch.agent import join_ranks, write_rank_error
from lume_run.launch.preemption import STOP_FILE_VARIABLE, Preempted, install_signal_handlers, stop_if_requested
from lume_run.launch.world import STOP, World
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.memory.remedies import explain_out_of_memory
from lume_run.pipeline.plan import plan
from lume_run.pipeline.run import Run


def main() -> NoReturn:
    """Build this rank's share of the artifact that the command line names, and end."""
    folder, artifact = map(Path, sys.argv[1:])
    end_process(make_share(folder, artifact))


def make_share(folder: Path, path: Path) -> int:
    """Build this rank's share of the artifact at `path`, and write down for the driver what failed; the exit code."""
    install_signal_handlers()
    partial = path.with_name(path.name + ".partial")
    join_ranks(partial)
    try:
        settings, _ = require_settings(read_config(folder / "config.yaml"))
        run = Run(settings, folder, World.read(folder))
        artifact = next(artifact for artifact in plan(run).artifacts if artifact.path == path)
        with explain_out_of_memory(run, artifact.stage, artifact.name):
            artifact.build(partial)
        stop_if_requested("making " + artifact.name)
    except Preempted:
        for stop_file in (partial / STOP, Path(os.environ[STOP_FILE_VARIABLE])):  # for the driver, for other ranks
            stop_file.touch()
        return 0
    except BaseException as error:
        with suppress(OSError):  # a full disk, which the driver sees too
            write_failure(error, folder, path)
        return 1
    return 0


def end_process(code: int) -> NoReturn:
    """End this rank at once.

    At an orderly exit a rank that failed would wait for the others in a collective, and Python now and then aborts a
    process that is done while it ends threads of C++.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def write_failure(error: BaseException, folder: Path, path: Path) -> None:
    """Write into the run folder what this rank failed with."""
    error = full_disk_error(error, path) or error
    known = {2: "InputError", 1: "LumeError"}
    text = f"{known[error.exit_code]}\n{error}" if isinstance(error, LumeError) else traceback.format_exc()
    write_rank_error(folder, f"rank-{rank()}", text)


if __name__ == "__main__":
    main()
