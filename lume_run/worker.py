"""Run, or go on with, a run folder: `python -m lume_run.worker RUN_FOLDER`.

Everything needed stands in the folder's config.yaml, so a run can be repeated from its folder
alone, without the command that made it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lume_run.config import checked, identity
from lume_run.errors import ConfigError, LumeError, Problem
from lume_run.launch import launch
from lume_run.runtime import console


def main(arguments: list[str] | None = None) -> int:
    """Run the folder's stages; 0 when all went well."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1 or given[0].startswith("-"):
        console.print("usage: python -m lume_run.worker RUN_FOLDER")
        return 2
    folder = Path(given[0]).resolve()
    try:
        if not (folder / "config.yaml").exists():
            raise ConfigError(
                [Problem(where=str(folder), what="no config.yaml here", remedy="give a folder that lume-run made")]
            )
        cfg = OmegaConf.load(folder / "config.yaml")
        assert isinstance(cfg, DictConfig)  # lume-run writes a mapping
        settings, data = checked(cfg)
        launch(settings, folder, identity=identity(data), command=["python", "-m", "lume_run.worker", str(folder)])
    except LumeError as error:
        console.print(f"[bold red]error:[/] {error}", soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
