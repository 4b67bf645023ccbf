"""Repeat or resume a run from its folder: `python -m lume_run RUN_FOLDER`.

The folder's config.yaml is all it takes; the command that made the folder is not needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.markup import escape

from lume_run.common.console import console
from lume_run.common.errors import LumeError
from lume_run.config.resolve import read_config, run_identity
from lume_run.launch.preemption import REQUEUE, Preempted
from lume_run.pipeline.checks import require_settings
from lume_run.pipeline.driver import run_pipeline


def main(arguments: list[str] | None = None) -> int:
    """Run the folder's stages; 0 when all went well."""
    words = sys.argv[1:] if arguments is None else arguments
    if len(words) != 1 or words[0].startswith("-"):
        console.print("usage: python -m lume_run RUN_FOLDER")
        return 2
    folder = Path(words[0]).resolve()
    try:
        settings, data = require_settings(read_config(folder / "config.yaml"))
        run_pipeline(settings, folder, identity=run_identity(data), command=["python", "-m", "lume_run", str(folder)])
    except Preempted as error:
        console.print(escape(str(error)), soft_wrap=True)
        return REQUEUE
    except LumeError as error:
        console.print("[bold red]error:[/]", escape(str(error)), soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; the same command resumes from here")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
