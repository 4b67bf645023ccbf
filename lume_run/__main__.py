"""Repeat or resume a run from its folder: `python -m lume_run RUN_FOLDER`.

The folder's config.yaml is all it takes; the command that made the folder is not needed. What lets code run that is not
lume-run's must be typed again: `python -m lume_run RUN_FOLDER 'allow_external=[my_package]'`.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the working directory, which `python -m` puts there: it may be the folder that was handed over

from pathlib import Path

from rich.markup import escape

from lume_run.common.console import console, set_library_defaults
from lume_run.common.errors import ConfigError, LumeError, Problem
from lume_run.common.places import place_fault
from lume_run.config.permissions import PERMISSIONS, missing_permissions
from lume_run.config.resolve import read_config, run_identity
from lume_run.launch.preemption import REQUEUE, Preempted
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.driver import run_pipeline


def main(arguments: list[str] | None = None) -> int:
    """Run the folder's stages; 0 when all went well."""
    set_library_defaults()
    words = sys.argv[1:] if arguments is None else arguments
    given = words[1:]
    if not words or words[0].startswith("-") or any(word.partition("=")[0] not in PERMISSIONS for word in given):
        console.print(escape(f"usage: python -m lume_run RUN_FOLDER [{'|'.join(PERMISSIONS)}=...]"), soft_wrap=True)
        return 2
    folder = Path(os.path.realpath(words[0]))  # as resolve(), which raises at a loop of links
    try:
        config = read_config(folder / "config.yaml")
        if problems := list(missing_permissions(config, given)):
            raise ConfigError(problems)
        settings, data = require_settings(config)
        for where, place in {str(folder): folder, "output_dir": settings.store}.items():
            if fault := place_fault(place):
                raise ConfigError([Problem(where=where, what=fault, remedy="make room for it, or copy the folder")])
        run_pipeline(settings, folder, identity=run_identity(data), command=["python", "-m", "lume_run", str(folder)])
    except Preempted as error:
        console.print(escape(str(error)), soft_wrap=True)
        return REQUEUE
    except LumeError as error:
        console.print("[bold red]error:[/]", escape(str(error)), soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        console.print("interrupted; the same command resumes from here")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
