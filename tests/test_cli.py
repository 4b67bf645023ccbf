"""The command line as a user meets it: help, mistakes, plans, sweeps, completion, own YAML files."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from helpers import warm
from omegaconf import OmegaConf

from lume_run import __main__ as repeat
from lume_run.cli import check_command, print_error
from lume_run.common.console import console
from lume_run.common.errors import ConfigError
from lume_run.config.command import read_command
from lume_run.config.help import FOLDED_AT, fold_names, fold_recipes
from lume_run.config.overrides import compose, conf_dir, group_options, sweep_choices

pytestmark = pytest.mark.slow

OPTIONS = group_options([conf_dir()])
CLOSED = "http://127.0.0.1:9"  # nothing listens on the discard port: the hub is out of reach wherever this runs
MINE = """# My pair: NPO that stays close to the target
defaults:
  - forget: npo
  - retain: kl
  - _self_
_target_: lume_run.methods.objective.Objective
name: mine
retain_weight: 2.0
"""


def exit_code(arguments: Sequence[str]) -> int | None:
    """What a command line is stopped with, None where Hydra may run it."""
    try:
        return check_command(read_command(list(arguments)))
    except ConfigError as error:
        print_error(error)
        return 2


def environment(**changes: str) -> dict[str, str]:
    return os.environ | {"COLUMNS": "200", **changes}


def lume_run(*arguments: str, cwd: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    return warm.run(*arguments, cwd=cwd, env=environment(**changes))


def seconds_of(*arguments: str, cwd: Path) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Processor time [s] of a command that starts anew, and what came out."""
    return processor_seconds("-m", "lume_run.cli", *arguments, cwd=cwd)


def processor_seconds(*arguments: str, cwd: Path) -> tuple[float, subprocess.CompletedProcess[str]]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


def refused(capsys, *arguments: str) -> str:
    """What check_command prints about a command line that it stops."""
    assert exit_code(arguments) == 2
    return capsys.readouterr().err


@pytest.fixture
def user_folder(tmp_path) -> Path:
    """A user's configuration folder with one method."""
    folder = tmp_path / "own"
    (folder / "method").mkdir(parents=True)
    (folder / "method" / "mine.yaml").write_text(MINE, encoding="utf-8")
    return folder


# ------------------------------------------------------------------------------------------------- help


def help_of(capsys, monkeypatch, *arguments: str) -> str:
    """What `lume-run` prints for these arguments, in this process."""
    from lume_run import cli

    monkeypatch.setattr(sys, "argv", ["lume-run", *arguments])
    cli.main()
    return capsys.readouterr().out


def test_help_is_one_screen_with_every_group_option_and_recipe(tmp_path):
    seconds, done = seconds_of("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert seconds < 2
    lines = done.stdout.split("\n")
    assert len(lines) <= 42
    assert max(map(len, lines)) <= 120
    text = " ".join(done.stdout.split())
    for group, names in OPTIONS.items():
        if group != "experiment":
            assert f"{group}= {', '.join(fold_names(names, FOLDED_AT.get(group, '-')))}" in text
    families: dict[str, list[str]] = {}
    for recipe in OPTIONS["experiment"]:
        families.setdefault(recipe.partition("/")[0], []).append(recipe.partition("/")[2])
    assert families.keys() == {"closer_look", "muse", "open_unlearning", "rwku", "semeval", "simnpo", "wmdp"}
    for family, names in families.items():
        assert f"{family}/ {', '.join(fold_recipes(names))}" in text
    for shown in (
        "method=npo task=bios model=7b",
        "dry_run=true",
        "debug=default",
        "-m method=ga,gd,kl,npo",
        "--help GROUP",
        "--config-dir",
        "-sc install",
    ):
        assert shown in done.stdout


@pytest.mark.parametrize("group", OPTIONS)
def test_help_of_a_group_has_a_line_for_each_option(group, capsys, monkeypatch):
    first, *lines = help_of(capsys, monkeypatch, "--help", group).rstrip("\n").split("\n")
    parts = [name for name in OPTIONS if name.startswith(f"{group}/")]
    assert first == f"{group}="
    assert dict(line.split(maxsplit=1) for line in lines[: len(OPTIONS[group])]) == OPTIONS[group]
    assert all(OPTIONS[group].values()), f"a YAML file of {group} does not begin with a comment"
    assert lines[len(OPTIONS[group]) :] == (
        [f"Parts: {', '.join(f'lume-run --help {name}' for name in parts)}"] if parts else []
    )
    assert group == "experiment" or len(lines) <= 41  # one screen, but for the recipes


def test_help_of_a_group_that_there_is_none_of(capsys, monkeypatch):
    with pytest.raises(SystemExit) as stopped:
        help_of(capsys, monkeypatch, "--help", "metod")
    assert stopped.value.code == 2
    assert "there is no group 'metod'\n      -> did you mean 'method'?" in capsys.readouterr().err


def test_help_imports_neither_torch_nor_hydra():
    probe = (
        "import sys; sys.argv = ['lume-run', '--help']\n"
        "from lume_run import cli; cli.main()\n"
        "print(*sorted({'torch', 'hydra', 'transformers', 'numpy'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "method/retain=" in done.stdout
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("flag", ["--config-dir", "-cd"])
def test_help_shows_a_users_own_options(user_folder, flag, capsys, monkeypatch):
    for arguments in ([flag, str(user_folder)], [f"{flag}={user_folder}"]):
        text = help_of(capsys, monkeypatch, *arguments, "--help", "method")
        assert "  mine           My pair: NPO that stays close to the target" in text
        assert "method= adaptive_rmu" in " ".join(help_of(capsys, monkeypatch, *arguments, "--help").split())
        assert "mine" in help_of(capsys, monkeypatch, "--help", *arguments)


def test_cfg_job_prints_the_config_and_leaves_nothing(tmp_path):
    done = lume_run("--cfg", "job", "method=npo", "seed=7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert {"task", "model", "method", "evaluator", "trainer", "launch", "seed", "stages"} <= config.keys()
    assert (config["seed"], config["method"]["name"], config["method"]["retain"]) == (7, "npo", {})
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- mistakes


def test_all_typos_at_once_without_a_traceback(tmp_path):
    arguments = ("method=nppo", "sede=3", "trainer.unlearn.learning_rat=1", "model.max_length=abc", "npo", "seed=-1")
    seconds, done = seconds_of(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    unit, _ = processor_seconds("-c", "import torch", cwd=tmp_path)  # 1.6 s alone, twice that on crowded cores
    assert seconds < 3 * unit
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for message in (
        "The configuration has problems (6):",
        "method: there is no method 'nppo'\n      -> did you mean 'npo'?",
        "sede: unknown key\n      -> did you mean 'seed'?",
        "trainer.unlearn.learning_rat: unknown key\n      -> did you mean 'trainer.unlearn.learning_rate'?",
        "npo: neither a flag nor an override\n      -> write it as path=value",
        "model.max_length: expected a whole number, got 'abc'",
        "seed: -1 is out of range",
    ):
        assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task=bois", "did you mean 'bios'?"),
        ("model=zzz", f"choose from: {', '.join(OPTIONS['model'])}"),
        ("method/retain=kll", "did you mean 'kl'?"),
        ("evaluator=lum", "did you mean 'lume'?"),
        ("model=null", f"choose from: {', '.join(OPTIONS['model'])}"),
        ("evalator.mmlu.shots=3", "did you mean 'evaluator.mmlu.shots'?"),
        ("zzz=3", "top level: "),
        ("debug=on", "choose from: default"),
        ("method.beta=1", "did you mean 'method.forget.beta'?"),
        ("+method.beta=1", "did you mean 'method.forget.beta'?"),
        ("learning_rate=1", "did you mean 'trainer.train.learning_rate' or 'trainer.unlearn.learning_rate'?"),
        ("experiment=semeval_npo", "did you mean 'semeval/npo'?"),
        ("experiment/semeval=npo", "experiment=semeval/npo"),
        ("model.path.deeper=1", "model.path.deeper: unknown key"),
        ("method=ga,npo", "add -m to sweep over them"),
        ("+method=npo", "Multiple values for method"),
        ("+seed=3", "An item is already at 'seed'"),
        ("++sede=3", "did you mean 'seed'?"),
        ("~zzz", "'zzz' does not exist"),
        ("~method", "method: missing"),
        ("model.path=~/model", "needs quotes inside quotes"),
        ("model.path=${", "needs quotes inside quotes"),
        ("model.path=${nowhere}", "Interpolation key 'nowhere' not found"),
        ("model=hf", "model.path: Missing mandatory value"),
        ("hydra.job.chdir=maybe", "hydra.job.chdir=maybe: "),
        ("stages=[]", "-> stages=[train,unlearn,evaluate], [evaluate] or [score]"),  # no brackets lost as markup
        ('task.subtasks=["[/x]"]', "unknown subtask '[/x]'"),
        ('task.subtasks=["file:100:"]', "unknown subtask 'file:100:'"),  # no emoji
    ],
)
def test_one_mistake_one_problem(override, message, capsys):
    text = refused(capsys, override)
    assert message in text
    assert "has problems (1)" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "expected ',' or ']'"),
        ("defaults:\n  - forget: nothing\n", "Could not find 'method/forget/nothing'"),
        ("3\n", "broken.yaml: is no mapping"),
        ("_target_: lume_run.methods.npo.NPO\n", "NPO does not belong here"),
        ("_target_: os.system\nname: x\n", "'os.system' is not from lume_run"),
    ],
)
def test_mistakes_in_a_users_own_file(user_folder, text, message, capsys):
    (user_folder / "method" / "broken.yaml").write_text(text, encoding="utf-8")
    assert message in refused(capsys, "method=broken", "--config-dir", str(user_folder))


def test_arguments_are_told_apart(tmp_path):
    folder = f"--config-dir={tmp_path}"
    command = read_command(["seed=1", "-m", folder, "~method.retain", "npo", "+x=1"])
    assert command.flags == ("-m", folder)
    assert command.overrides == ("seed=1", "~method.retain", "npo", "+x=1")
    assert command.folders == (conf_dir(), tmp_path)
    assert command.sweeping and not command.asks_hydra
    assert command.arguments == ["-m", folder, "seed=1", "~method.retain", "npo", "+x=1"]


@pytest.mark.parametrize(
    ("short", "long", "beside"),
    [
        ("model.lora=true", "model.lora.enabled=true", "model.lora.rank=4"),
        ("model.chat=never", "model.chat.use=never", "model.chat.system=Hi"),
        ("model.lora=true,false", "model.lora.enabled=true,false", "model.lora.rank=4,8"),
    ],
)
def test_a_short_form_and_a_setting_beside_it_in_any_order(short, long, beside):
    sweeps = ["-m"] if "," in short else []
    for arguments in ([short, beside], [beside, short]):
        assert long in read_command(arguments).overrides
        assert exit_code([*arguments, "launch.device=cpu", *sweeps]) == (
            2 if sweeps else None
        )  # a rank without adapters


@pytest.mark.parametrize(
    "override",
    ["model.lora={enabled: true}", "model.lora=", "model.chat=${model.other}", "model.lora", "model.lora=true"],
)
def test_what_is_no_short_form_stays_as_it_is(override):
    assert read_command([override]).overrides == (override,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope"], "--nope: no flag of lume-run"),
        (["-z", "seed=1"], "-z: no flag"),
        (["--multi"], "--multi: no flag"),
        (["--"], "--: no flag"),
        (["--config-dir"], "--config-dir: expected one argument"),
        (["--config-dir", "nowhere"], "nowhere is no folder"),
        (["--config-name", "mine"], "lume-run has its own configuration"),
        (["-m", "--cfg", "job"], "--multirun and --cfg: they exclude each other"),
        (["--cfg", "everything"], "--cfg: invalid choice"),
        (["--experimental-rerun", "x.pickle"], "it would unpickle a file"),
    ],
)
def test_flags_that_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_command(arguments)


# ------------------------------------------------------------------------------------------------- sweeps


def test_choices_of_a_sweep():
    assert sweep_choices("method=ga,npo") == ["method=ga", "method=npo"]
    assert sweep_choices("seed=3") == ["seed=3"]
    assert sweep_choices("stages=[train,unlearn]") == ["stages=[train,unlearn]"]
    assert sweep_choices("stages=[train],[train,unlearn]") == ["stages=[train]", "stages=[train,unlearn]"]
    assert sweep_choices("seed=range(0,3)") == sweep_choices("method=glob(*)") == []


def test_a_glob_over_recipes(tmp_path):
    """Hydra's own glob, over options in folders; files of shared values are no options."""
    done = lume_run("-m", "--dry-run", 'experiment=glob("semeval/*g*")', "model=tiny", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5 jobs, 0 finished" in done.stderr + done.stdout  # ga, gd, ails_ntua_agad and both of snuffleupagus


def test_a_sweep_with_a_bad_choice_starts_no_job(tmp_path):
    done = lume_run("-m", "method=ga,nppo,npo", "seed=0,1", f"output_dir={tmp_path}/runs", cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no method 'nppo'\n      -> did you mean 'npo'?" in done.stderr
    assert "Launching" not in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("seed=-1,0",), ["seed: -1 is out of range"]),
        (("seed=0,-1",), ["seed: -1 is out of range"]),
        (("seed=-1,-2", "model=hf,tiny"), ["seed: -1", "seed: -2", "model.path: Missing mandatory value"]),
        (("method=ga,npo", "stages=[train,unlearn],[trian]"), ["did you mean 'train'?"]),
        (("model=tiny,7b", "task.source=builtin"), ["task.source: the released target never saw"]),
        (("model=7b,tiny", "task.source=builtin"), ["task.source: the released target never saw"]),
        (("method=ga,nppo", "sede=1,2"), ["no method 'nppo'", "sede: unknown key"]),
        (("hydra/launcher=slrm", "hydra/swepper=grid"), ["did you mean 'slurm'?", "did you mean 'hydra/sweeper'?"]),
        (("hydra/launcher=slurm", "hydra.launcher.partitoin=gpu"), ["did you mean 'hydra.launcher.partition'?"]),
    ],
)
@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_every_choice_of_a_sweep_is_checked(flag, arguments, message, capsys):
    text = refused(capsys, flag, *arguments)
    assert all(part in text for part in message)


@pytest.mark.parametrize("line", ["not json", '{"id": "a1sc1", "input": "x", "output": "", "task": "Task2"}', "[]"])
def test_a_plan_refuses_malformed_data(line, tmp_path, capsys):
    for side in ("forget", "retain"):
        (tmp_path / f"{side}.jsonl").write_text(line + "\n", encoding="utf-8")
    assert "forget.jsonl:1" in refused(capsys, f"task.data_dir={tmp_path}", "dry_run=true")


def test_a_good_sweep_goes_on():
    assert exit_code(["-m", "method=ga,gd,kl,npo", "model=tiny,7b", "seed=range(0,9)", "task=glob(*)"]) is None


# ------------------------------------------------------------------------------------------------- plans


def test_dry_run_prints_the_plan_and_touches_nothing(tmp_path):
    output_dir = tmp_path / "runs"
    output_dir.mkdir()
    done = lume_run("dry_run=true", f"output_dir={output_dir}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for message in (
        f"plan {output_dir}/bios-tiny-npo_gd-",
        "data: built-in generator (seed 0)",
        "rows: 72 forget, 72 retain, 12 members, 12 non-members",
        "180 steps of 8 forget + 8 retain examples",
        "1080 steps",
        "168 prompts",
        "built from model.shape: 1.6 M parameters",
        "unlearning on one cpu device, estimated",
        f"python -m lume_run {output_dir}/bios-tiny-npo_gd-",
    ):
        assert message in done.stderr
    stages = [line.split("│")[1].strip() for line in done.stderr.split("\n") if line.count("│") == 5]
    assert list(dict.fromkeys(stages)) == ["train", "unlearn", "evaluate"]
    assert list(tmp_path.iterdir()) == [output_dir]
    assert list(output_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("method=npo",), "180 steps of 8 forget examples"),
        (("method=ga", "method.stop_when.retain_nll=9"), "180 steps of 8 forget + 8 retain examples"),
        (("trainer.unlearn.retain_ratio=3",), "180 steps of 8 forget + 24 retain examples"),
        (("trainer.unlearn.alternate=true",), "360 steps of 8 forget + 8 retain examples"),
        (("trainer.unlearn.alternate=true", "trainer.unlearn.retain_ratio=3"), "720 steps of 8 forget + 24 retain"),
        (("trainer.unlearn.chunk_size=25",), "181 steps of 8 forget"),  # 63 + 63 + 55: 500, 500 and 440 rows
        (("method=idk_ap",), "180 steps of 8 forget + 8 retain examples; reference: none"),
        (("method=dpo_gd",), "log-probs of 144 rows under the frozen target"),
        (("method=rmu",), "reference: one frozen copy of the target"),
        (("method=rmu", "model.lora=true"), "reference: the model with its adapters off"),
        (("method=ties", "model.lora=true"), "2 adapters merged by ties"),
        (("method=task_vector", "method.alpha=0.7"), "target - 0.7 x (reinforced - target)"),
        (("method=whp", "method.alpha=0.7"), "prompts, beside the reinforced model at alpha 0.7"),
        (("method=retrain",), "72 rows, 540 steps at most"),
        (("task.num_documents=4", "trainer.unlearn.epochs=2", "trainer.unlearn.batch_size=6"), "8 steps of 6 forget"),
        (("method=kl",), "frozen reference │ 0.01"),
        (("model.lora=true",), "gradients │ 0.00"),
        (("stages=[train]",), "plan"),
    ],
)
def test_the_plan_follows_the_settings(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(console, "_width", 200)  # COLUMNS may have been read when it was made
    assert exit_code(["dry_run=true", f"output_dir={tmp_path}", *arguments]) == 0
    assert message in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_the_released_target_without_the_hub(tmp_path):
    """The issue's own command line on a machine with no way out: a plan, and what to do about it."""
    closed = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), CLOSED)
    offline = {"HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": "", "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": ""}
    arguments = ("method=npo", "task=bios", "model=7b", "dry_run=true", f"output_dir={tmp_path}/runs")
    done = lume_run(*arguments, cwd=tmp_path, **offline, **closed)
    assert done.returncode == 0, done.stderr
    for message in (
        "llmunlearningsemeval2025organization/olmo-finetuned-semeval25-unlearning",
        "llmunlearningsemeval2025organization/semeval25-unlearning-dataset-public",
        "HF_TOKEN",
        "HF_HOME",
        "model.path=",
        "task.data_dir=",
        "6,888.1 M parameters (from model.shape)",
        "unlearning on one cpu device, estimated",
        f"python -m lume_run {tmp_path}/runs/bios-7b-npo-",
    ):
        assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


# ------------------------------------------------------------------------------------------ own files, completion


def test_a_users_own_method_composes(user_folder, tmp_path):
    done = lume_run("--config-dir", str(user_folder), "method=mine", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    method = yaml.safe_load(done.stdout)["method"]
    assert (method["name"], method["retain_weight"]) == ("mine", 2.0)
    assert method["forget"]["_target_"] == "lume_run.methods.npo.NPO"
    assert method["retain"]["_target_"] == "lume_run.methods.kl.RetainKL"


def test_a_users_own_method_is_planned_and_its_name_completed(user_folder, capsys, tmp_path):
    assert exit_code(["--config-dir", str(user_folder), "method=mine", "dry_run=true", f"output_dir={tmp_path}/o"]) == 0
    assert f"plan {tmp_path}/o/bios-tiny-mine-" in capsys.readouterr().err
    assert "did you mean 'mine'?" in refused(capsys, "method=minne", "--config-dir", str(user_folder))
    assert "no method 'mine'" in refused(capsys, "method=mine")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lume-run method=", {f"method={name}" for name in OPTIONS["method"]}),
        ("lume-run method=npo_", {"method=npo_gd", "method=npo_kl"}),
        ("lume-run task=bios model=", {f"model={name}" for name in OPTIONS["model"]}),
        ("lume-run method/retain=k", {"method/retain=kl", "method/retain=kl_compat", "method/retain=kl_gd"}),
        ("lume-run trainer.unlearn.learn", {"trainer.unlearn.learning_rate="}),
        ("lume-run exp", {"experiment="}),
        ("lume-run experiment=", {f"experiment={recipe}" for recipe in OPTIONS["experiment"]}),
        ("lume-run experiment=semeval/snuff", {f"experiment=semeval/snuffleupagus_{size}" for size in ("1b", "7b")}),
    ],
)
def test_completion_candidates(line, expected, tmp_path):
    changes = {"COMP_LINE": line, "COMP_CWORD": str(len(line.split()) - 1), "COMP_POINT": str(len(line))}
    done = lume_run("-sc", "query=bash", cwd=tmp_path, **changes)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == expected
    assert list(tmp_path.iterdir()) == []


def test_completion_in_bash(tmp_path):
    """What the line in `--help` installs, driven as bash drives it."""
    program = Path(sys.executable).with_name("lume-run")
    if not program.exists() or shutil.which("bash") is None:
        pytest.skip("needs bash, and lume-run installed beside this Python")
    script = """
        eval "$(lume-run -sc install=bash)"
        complete -p lume-run
        COMP_LINE="lume-run method=n" COMP_POINT=17 COMP_CWORD=1
        hydra_bash_completion
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    env = environment(PATH=f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    installed, *candidates = done.stdout.split("\n")
    assert "hydra_bash_completion lume-run" in installed
    assert [name for name in candidates if name] == ["method=none", "method=npo", "method=npo_gd", "method=npo_kl"]


# --------------------------------------------------------------------------------- repeating a run from its folder


def test_repeating_needs_a_folder_of_a_run(tmp_path, capsys):
    assert repeat.main([str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert f"{tmp_path}: no config.yaml here" in message
    assert "give the folder of a run" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--help"]])
def test_repeating_says_how_it_is_used(arguments, capsys):
    assert repeat.main(arguments) == 2
    assert "usage: python -m lume_run RUN_FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "message"), [("seed: -1\n", "seed: -1 is out of range"), ("", "task: missing")])
def test_repeating_checks_the_config(tmp_path, capsys, text, message):
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert repeat.main([str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a: [b\n", "- a\n- b\n"])
def test_repeating_with_a_broken_config(text, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert repeat.main([str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "config.yaml" in message and "Traceback" not in message


PLANTED = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
from dataclasses import dataclass
from lume_run.tasks.lume import LumeTask

@dataclass(frozen=True, kw_only=True)
class Mine(LumeTask):
    pass
"""


@pytest.fixture
def planted(tmp_path, monkeypatch) -> Path:
    """A package beside which a file appears once it is imported; its name is not that of any other."""
    (tmp_path / "planted_package.py").write_text(PLANTED, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "planted_package", raising=False)
    return tmp_path


MINE_TASK = ("task._target_=planted_package.Mine", "dry_run=true")


def written_config(folder: Path, *overrides: str) -> Path:
    """A run folder as somebody may hand it over."""
    config = compose([*overrides, "task.num_documents=2"], [conf_dir()])
    OmegaConf.save(config, folder / "config.yaml")
    return folder


def test_a_run_folder_cannot_allow_itself_code(planted, capsys):
    folder = written_config(planted, "allow_external=[planted_package]", MINE_TASK[0])
    for typed in ([], ["allow_external=[other]"], ["model.trust_remote_code=true"]):
        assert repeat.main([str(folder), *typed]) == 2
        message = capsys.readouterr().err
        assert "allow_external: [planted_package] lets code run" in message
        assert "add 'allow_external=[planted_package]' to the command" in message
    assert not (planted / "ran").exists()


@pytest.mark.parametrize(
    ("override", "permission"),
    [
        ("model.trust_remote_code=true", "model.trust_remote_code"),
        ("+evaluator.suites.lm_eval.include_path=tasks", "evaluator.suites.lm_eval.include_path"),
    ],
)
def test_no_permission_of_a_folder_counts(override, permission, tmp_path, capsys):
    assert repeat.main([str(written_config(tmp_path, override))]) == 2
    assert f"{permission}: " in capsys.readouterr().err


@pytest.mark.parametrize("flags", [(), ("-m",)])
def test_a_recipe_cannot_allow_itself_code(flags, planted, capsys):
    recipe = planted / "conf" / "experiment" / "theirs.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(
        "# @package _global_\nallow_external: [planted_package]\ntask: {_target_: planted_package.Mine}\n",
        encoding="utf-8",
    )
    arguments = (*flags, "--config-dir", str(planted / "conf"), "experiment=theirs", "dry_run=true")
    assert "allow_external: [planted_package] lets code run" in refused(capsys, *arguments)
    assert not (planted / "ran").exists()


def test_code_that_the_command_allows_runs(planted):
    assert exit_code(["allow_external=[planted_package]", *MINE_TASK]) == 0
    assert (planted / "ran").exists()


def test_the_working_directory_is_not_on_the_path(tmp_path):
    """A library's name in the folder from which a run is repeated."""
    for name in ("rich", "yaml", "omegaconf"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(77)", encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "lume_run", "gone"], cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 2
    assert b"no config.yaml here" in done.stderr


def test_a_sweep_goes_on_after_a_failed_job(tmp_path):
    """The first job's data are malformed, the second's are built in; the exit code remembers the first."""
    data = tmp_path / "data"
    data.mkdir()
    for side in ("forget", "retain"):
        (data / f"{side}.jsonl").write_text("not json\n", encoding="utf-8")
    done = lume_run(
        "-m", f"task.data_dir={data},null", "stages=[train]", "task.num_documents=1", "trainer.train.epochs=1",
        f"output_dir={tmp_path / 'out'}", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "forget.jsonl:1" in done.stderr
    assert list((tmp_path / "out").glob("store/target/*/model.safetensors"))


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["model.chat.arguments={enable_thinking: false}"], "enable_thinking: false"),
        (["model.chat.arguments.date_string='10 Apr 2025'"], "date_string: 10 Apr 2025"),
        (["experiment=open_unlearning/tofu_npo", "model.chat.arguments={x: 1}"], "x: 1"),
        (["task=custom", "task.columns.facts={phone: phone_number}"], "phone: phone_number"),
    ],
)
def test_groups_whose_keys_are_the_users(words, shown, tmp_path):
    """As the docs write them; every other group keeps to the keys that it has."""
    done = lume_run(*words, "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


COMPUTING = {"torch", "transformers", "datasets", "wandb", "matplotlib", "pandas", "scipy"}
IMPORTS_PROBE = f"""
import sys
from lume_run import cli
sys.argv[0] = "lume-run"
code = 0
try:
    cli.main()
except SystemExit as ended:
    code = ended.code
print("imported:", *sorted({COMPUTING!r} & sys.modules.keys()), "code:", code, file=sys.stderr)
"""


def imported_by(*arguments: str, cwd: Path, **changes: str) -> str:
    """What of the libraries that compute a command imports, and its exit code, as the last line says."""
    command = [sys.executable, "-c", IMPORTS_PROBE, *arguments]
    env = environment(HF_HUB_OFFLINE="1", WANDB_MODE="offline", **changes)
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    return done.stderr.strip().split("\n")[-1]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--cfg", "job"), 0),
        (("method=nppo", "seed=-1", "model=7b"), 2),
        (("-m", "method=npo,nppo"), 2),
        (("dry_run=true",), 0),
        (("dry_run=true", "method=kl", "model.lora=true"), 0),
        (("dry_run=true", "method=rmu", "evaluator=[lume,tofu]"), 0),
        (("dry_run=true", "method=npo", "task=bios", "model=7b"), 0),
        (("-m", "dry_run=true", "method=ga,npo"), 0),
    ],
)
def test_what_computes_nothing_imports_nothing_that_computes(arguments, code, tmp_path):
    """torch alone takes two seconds of processor time; a machine with a GPU is asked for it."""
    assert imported_by(*arguments, "launch.device=cpu", cwd=tmp_path) == f"imported: code: {code}"


def test_completion_imports_nothing_that_computes(tmp_path):
    changes = {"COMP_LINE": "lume-run method=", "COMP_CWORD": "1", "COMP_POINT": "16"}
    assert imported_by("-sc", "query=bash", cwd=tmp_path, **changes) == "imported: code: 0"


def test_a_plan_imports_no_model_code(tmp_path):
    """It would take seconds of every refusal."""
    imports = "import sys, lume_run.pipeline.dry_run, lume_run.pipeline.driver"
    code = f"{imports}; print('transformers.modeling_utils' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "False"
