"""`lume-run-publish RUN --to ID`: the unlearned model of a run, its card and its report as a repository on the hub.

The token is read from the environment as huggingface_hub does (HF_TOKEN, or a login); the repository is private unless
`--public` says otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from lume_run.common.console import console
from lume_run.common.errors import ConfigError, LumeError, Problem, RunError
from lume_run.common.files import damage_of
from lume_run.common.store import files_written
from lume_run.common.text import first_line
from lume_run.models.hub import adapter_base
from lume_run.report.card import CARD, LIBRARY, without_folders

REPORT_TEXTS = ("report.md", "report.json")
PUBLISHED_REPORTS = (*REPORT_TEXTS, "report.png")
RUN_HELP = "the folder of a run that unlearned a model: outputs/<run>"


def files_to_publish(run: Path, *, adapter: bool) -> dict[str, Path]:
    """Names in the repository and the files that go there: what the run wrote, and nothing that was put beside it.

    ConfigError where the run has no whole model or no card.
    """
    folder, part = run / "unlearned", "adapter" if adapter else "model"
    files = files_written(folder)
    names = [name for name in files if name.startswith(f"{part}/") and name.count("/") == 1]
    if not names:
        what, remedy = f"no unlearned {part}", f"give {RUN_HELP}"
        raise _mistake(run, what, "model.lora.save=true saves one" if adapter and files else remedy)
    if damage := damage_of(folder, {name: files[name] for name in names}, thorough=True):
        raise _mistake(folder, f"is damaged: {damage}", "start the command of the run again, which makes it anew")
    card = folder / "model" / CARD
    if not card.is_file():
        raise _mistake(run, "no model card: it was not evaluated", "start its command again with stage evaluate")
    if missing := [name for name in REPORT_TEXTS if not (run / name).exists()]:
        raise _mistake(run, f"no {missing[0]}", "start the command of the run again, which writes it anew")
    if adapter and Path(base := str(adapter_base(str(folder / part)))).exists():
        remedy = "publish the merged model, or train on a hub id (model.path=ID model.is_target=true)"
        raise _mistake(folder / part, f"the adapter belongs to a model in a folder here, {base}", remedy)
    reports = {name: run / name for name in PUBLISHED_REPORTS if (run / name).is_file()}
    return {**{Path(name).name: folder / name for name in names}, **reports, CARD: card}


def _mistake(where: Path, what: str, remedy: str) -> ConfigError:
    return ConfigError([Problem(where=str(where), what=what, remedy=remedy)])


def publish(run: Path, repository: str, *, adapter: bool, public: bool, dry_run: bool) -> None:
    """Push the files of a run, or say which they are."""
    files = files_to_publish(run, adapter=adapter)
    for name, file in sorted(files.items()):
        console.print(f"  {escape(name)}  {file.stat().st_size / 2**20:,.1f} MiB", soft_wrap=True)
    if dry_run:
        kind = "public" if public else "private"
        console.print(f"  would go to the {kind} repository {escape(repository)}; nothing was sent", soft_wrap=True)
        return
    from huggingface_hub import CommitOperationAdd, HfApi

    hub = HfApi()
    try:
        url = hub.create_repo(repository, private=not public, exist_ok=True)
        if not public and not hub.repo_info(repository).private:
            raise RunError(f"{repository} is there already, and public\n  - --public, or another name for --to")
        operations = [CommitOperationAdd(name, content_of(name, file, adapter=adapter)) for name, file in files.items()]
        hub.create_commit(repository, operations, commit_message=f"lume-run: {run.name}")
    except LumeError:
        raise
    except Exception as error:  # the client's errors share no base
        raise RunError(
            f"{repository} could not be written: {first_line(str(error))}\n"
            "  - a token that may write there: HF_TOKEN, or hf auth login\n"
            "  - no network here: --dry-run shows the files, which any machine can upload"
        ) from error
    console.print(f"  published: {escape(str(url))}", soft_wrap=True)


def content_of(name: str, file: Path, *, adapter: bool) -> Path | bytes:
    """What goes into the repository: reports without the places of folders, the card of an adapter as one of peft."""
    if name in REPORT_TEXTS:
        return without_folders(file.read_text(encoding="utf-8")).encode()
    if name == CARD and adapter:
        text = file.read_text(encoding="utf-8").replace(f"library_name: {LIBRARY}\n", "library_name: peft\n", 1)
        return text.replace("It is an ordinary transformers model.", "This is the adapter alone, for peft.").encode()
    return file


def arguments_of(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(prog="lume-run-publish", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help=RUN_HELP)
    parser.add_argument("--to", required=True, metavar="OWNER/NAME", help="the repository on the hub")
    parser.add_argument("--adapter", action="store_true", help="the adapter alone, where model.lora.save=true kept it")
    parser.add_argument("--public", action="store_true", help="make the repository public if it is new")
    parser.add_argument("--dry-run", action="store_true", help="show the files and stop")
    arguments = parser.parse_args(words)
    if fault := repository_fault(arguments.to):
        parser.error(f"--to {arguments.to}: {fault}")
    if not arguments.run.is_dir():
        parser.error(f"{arguments.run} is no folder; give {RUN_HELP}")
    return arguments


def repository_fault(name: str) -> str:
    """Why a name is none that the hub takes with its owner; empty where it is."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        return first_line(str(error))
    return "" if name.count("/") == 1 else "a repository is OWNER/NAME"


def main(words: Sequence[str] | None = None) -> None:
    """Publish; exit code 1 where that does not work, 2 for a mistake in the command."""
    arguments = arguments_of(words)
    try:
        publish(
            arguments.run,
            arguments.to,
            adapter=arguments.adapter,
            public=arguments.public,
            dry_run=arguments.dry_run,
        )
    except LumeError as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
