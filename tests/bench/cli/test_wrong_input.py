"""Wrong command lines and grids: each gets one sentence and exit status 2, before any work, and nothing is stored."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from bench.cli.main import main

GRID = 'methods = ["adamw"]\ntasks = ["notes_two"]\nseeds = [1]\n[set]\nsteps = 2\n'
RUN = "run --method adamw --task notes_two --set steps=2"

# command line -> a part of the sentence
LINES = {
    # commands and options
    "gird good.toml": "no command 'gird'. Did you mean 'grid'",
    "grid": "needs GRID",
    "grid good.toml --worker 2": "no option --worker. Did you mean '--workers'",
    "grid good.toml good.toml": "unexpected extra argument",
    "grid good.toml --workers": "requires an argument",
    "grid good.toml --workers two": "--workers 'two' is not a whole number",
    "grid good.toml --dry-run=no": "does not take a value",
    "run --task notes_two": "needs --method",
    "status good.toml --threads 2": "no option --threads",
    "list method": "Did you mean 'methods'",
    "compare papers": "'papers' is unknown",
    "leaderboard --check --add runs": "--check writes nothing",
    # numbers
    "grid good.toml --workers 0": "--workers 0: use 1 to 1024",
    "plan good.toml --workers 0": "--workers 0: use 1 to 1024",
    "grid good.toml --workers -3": "--workers -3: use 1 to 1024",
    "grid good.toml --workers 1000000": "--workers 1000000",
    "grid good.toml --max-parallel -1": "--max-parallel -1",
    "grid good.toml --retries 0": "--retries 0",
    "grid good.toml --threads 0": "--threads 0",
    "grid good.toml --threads 100000": "--threads 100000",
    "grid good.toml --threads 99999999999999999999": "--threads 99999999999999999999",
    "grid good.toml --claim-seconds nan": "--claim-seconds nan",
    "grid good.toml --claim-seconds inf": "--claim-seconds inf",
    "grid good.toml --claim-seconds 1e300": "--claim-seconds 1e+300",
    "grid good.toml --claim-seconds -1": "--claim-seconds -1",
    "grid good.toml --claim-seconds 0": "--claim-seconds 0",
    "grid good.toml --checkpoint-seconds nan": "--checkpoint-seconds nan",
    "grid good.toml --checkpoint-seconds -1": "--checkpoint-seconds -1",
    "logs abcd --lines 0": "--lines 0",
    "logs abcd --lines -5": "--lines -5",
    f"{RUN} --seed -1": "The seed -1",
    f"{RUN} --seed 99999999999": "The seed 99999999999",
    f"{RUN} --seed 1.5": "--seed '1.5' is not a whole number",
    f"{RUN} --eval-every -1": "--eval-every -1",
    "family good.toml --item -1": "--item -1",
    # devices
    "grid good.toml --device gpu": "--device 'gpu'",
    "grid good.toml --device cuda:": "--device 'cuda:'",
    "grid good.toml --device cuda:-1": "--device 'cuda:-1'",
    "grid good.toml --device mps": "--device 'mps'",
    f"{RUN} --device cuda:99999999999999999999": "--device 'cuda:99999999999999999999'",
    f"{RUN} --device cuda:77": "--device cuda:77",
    f"{RUN} --device cpu --graphs": "--graphs",
    # names
    "run --method adamv --task notes_two": "no method 'adamv'. Did you mean 'adamw'",
    "run --method adamw --task notes_tow": "no task 'notes_tow'. Did you mean 'notes_two'",
    "run --method '' --task notes_two": "no method ''",
    f"{RUN} --eval-task arcc": "no task 'arcc'. Did you mean 'arc_c'",
    f"{RUN} --eval-task arc_c": "cannot be evaluated on 'arc_c'",
    f"{RUN} --protocol papers": "no protocol 'papers'. Did you mean 'paper'",
    f"{RUN} --variant '<b>'": "The variant '<b>'",
    "grid good.toml --launcher slrum": "no launcher 'slrum'. Did you mean 'slurm'",
    "grid good.toml --launcher local --with partition=gpu": "The launcher 'local' has no settings",
    "grid good.toml --launcher slurm --with partitoin=gpu": "partitoin",
    "grid good.toml --launcher slurm --with partition": "--with 'partition'",
    "run --method bayes_optimal --task arc_e": "whose answer distribution is known",
    # settings
    f"{RUN} --set step=5": "no setting 'step'. Did you mean 'steps'",
    f"{RUN} --set steps": "--set 'steps': write it as name=value",
    f"{RUN} --set =3": "--set '=3': write it as name=value",
    f"{RUN} --set steps=many": "steps",
    f"{RUN} --set steps=0": "steps",
    f"{RUN} --set steps=-1": "steps",
    f"{RUN} --set steps=1.5": "steps",
    f"{RUN} --set lr=nan": "lr",
    f"{RUN} --set batch_size=0": "batch_size",
    f"{RUN} --set lora.r=0": "lora.r",
    f"{RUN} --set lora.q=1": "no setting 'lora.q'",
    f"{RUN} --set lora=1": "lora is 1",
    f"{RUN} --set adamw.lr=-1": "adamw.lr",
    f"{RUN} --set adamw.lrr=1": "'adamw' has no hyperparameter 'lrr'. Did you mean 'lr'",
    f"{RUN} --set per_task.nowhere.steps=3": "per_task names 'nowhere'",
    f"{RUN} --set steps.x=3": "steps",
    f"{RUN} --set 'steps=[1'": "steps",
    # the model
    f"{RUN} --revision main": "--revision",
    f"{RUN} --model folder --revision main": "--revision",
    f"{RUN} --model folder": "folder",
    f"{RUN} --model good.toml": "good.toml",
    f"{RUN} --quantization int4": "Did you mean 'int8'",
    f"{RUN} --dtype float8": "float8",
    f"{RUN} --dtype half": "half",
    f"{RUN} --model ''": "--model",
    # files and folders
    "grid missing.toml": "There is no file missing.toml",
    "grid folder": "folder cannot be read",
    "grid binary.toml": "binary.toml cannot be read as TOML",
    "grid good.toml --runs good.toml": "good.toml",
    "grid good.toml --runs good.toml/runs": "good.toml",
    "run --method adamw --task notes_two --runs good.toml": "good.toml",
    "status good.toml --runs good.toml": "good.toml",
    "show abcd --runs good.toml": "good.toml",
    "report --runs good.toml": "good.toml",
    "report --runs nowhere": "nowhere",
    "report --out good.toml": "good.toml",
    "leaderboard --runs nowhere": "nowhere",
    "leaderboard --out folder": "folder",
    "leaderboard --out nowhere/board.csv": "nowhere",
    "merge nowhere": "nowhere",
    "merge runs": "runs",
    "compare published --out good.toml": "good.toml",
    "show zz": "'zz' is not a key",
    "show ../etc": "'../etc' is not a key",
    "show abcd": "No result starts with 'abcd'",
    "logs ''": "'' is not a key",
    "logs abcd": "abcd",
    "family missing.jsonl --item 0": "missing.jsonl",
    "family good.toml --item 0": "good.toml",
    "grid good.toml --data-dir .": "Nothing would read . (--data-dir, or data_dir in the grid): the rows of notes_two",
    f"{RUN} --seed 1 --data-dir .": "Nothing would read .",
    "grid good.toml --max-parallel 2": "--max-parallel means nothing to the launcher 'local'",
    "grid good.toml --launcher print --workers 2": "--workers means nothing to the launcher 'print'",
    "grid good.toml --data-dir nowhere": "There is no folder nowhere",
    "grid good.toml --data-dir good.toml": "good.toml",
    "status ~no_such_user/good.toml": "there is no user of that name",
    # plug-ins
    f"{RUN} --plugin no_such_module": "no such module",
    f"{RUN} --plugin plug/in.py": "is not a module name",
    f"{RUN} --plugin ''": "is not a module name",
    f"{RUN} --plugin raises_key_error": "raises_key_error",
    f"{RUN} --plugin raises_runtime_error": "raises_runtime_error",
    f"{RUN} --plugin exits": "exits",
    f"{RUN} --plugin recursion": "recursion",
    f"{RUN} --plugin syntax": "syntax",
    f"{RUN} --plugin no_method": "no_method",
    "list methods --plugin exits": "exits",
    "list tasks --plugin no_such_module": "no such module",
}

# content of a grid file -> a part of the sentence
GRIDS = {
    "": "bad.toml",
    "methods = ": "bad.toml cannot be read as TOML",
    'methods = ["adamw"]': "names no tasks",
    GRID.replace("[1]", "[]"): "names no seeds",
    GRID.replace("[1]", "1"): "seeds",
    GRID.replace("[1]", '["1"]'): "seeds",
    GRID.replace("[1]", "[true]"): "seeds",
    GRID.replace("[1]", "[-1]"): "seed",
    GRID.replace('["adamw"]', '"adamw"'): "methods",
    GRID.replace('"adamw"', "3"): "methods",
    GRID.replace("adamw", "adamv"): "Did you mean 'adamw'",
    GRID.replace("notes_two", "notes_to"): "Did you mean 'notes_two'",
    GRID.replace("methods", "method"): "method",
    "protocol = 3\n" + GRID: "protocol",
    'protocol = "papr"\n' + GRID: "Did you mean 'paper'",
    "eval_every = -1\n" + GRID: "eval_every",
    "eval_every = true\n" + GRID: "eval_every",
    "data_dir = 3\n" + GRID: "data_dir",
    'data_dir = "nowhere"\n' + GRID: "nowhere",
    'plugins = "softened"\n' + GRID: "plugins",
    "set = 3\n" + GRID.replace("[set]\nsteps = 2\n", ""): "set is 3",
    GRID + "stepz = 3\n": "Did you mean 'steps'",
    GRID + "[model]\nid = 3\n": "id",
    GRID + "[model]\nname = 'x'\n": "name",
    GRID + '[model]\nrevision = "main"\n': "revision",
    GRID + "[variants]\nx = 1\n": "variants.x",
    GRID + '[variants.x]\ninclude = "nowhere.toml"\n': "nowhere.toml",
    GRID + "[variants.x]\nmethods = []\n": "variants.x.methods",
    GRID + '[variants."a/b"]\nsteps = 3\n': "a/b",
    GRID + '[eval]\narc_e = ["arc_c"]\n': "arc_e",
    GRID + '[eval]\nnotes_two = "arc_c"\n': "eval.notes_two",
    GRID + "[sweep.ivon]\ntau = [1]\n": "ivon",
    GRID + "[sweep.adamw]\nlr = [1]\n": "sweep.adamw.lr",
    GRID + "[tune]\nholdout = 2\n": "tune.holdout",
    GRID + '[tune]\ncriterion = "accuracy"\n': "tune.criterion",
    GRID + "[tune.adamw]\nlr = 1\n": "tune.adamw.lr",
    GRID + "[slurm]\npartitoin = 'gpu'\n": "partitoin",
    GRID + "[local]\nworkers = 2\n": "local",
    "x = " + "[" * 3000 + "]" * 3000: "bad.toml",
    GRID.replace("[1]", "[9223372036854775808]"): "seed",
    GRID.replace("steps = 2", "steps = 1e30"): "steps",
    GRID.replace("steps = 2", 'steps = "2; rm -rf"'): "steps",
}

PLUGINS = {
    "raises_key_error": "{}['x']",
    "raises_runtime_error": "raise RuntimeError('two\\nlines')",
    "exits": "import sys; sys.exit(3)",
    "recursion": "def f(): return f()\nf()",
    "syntax": "def (",
    "no_method": "from bench.method import register_method\n@register_method\nclass Mine:\n    name = 'mine'\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a good grid, an empty folder, a broken file and plug-ins; no work may be done in it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "good.toml").write_text(GRID)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name, text in PLUGINS.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr("sys.dont_write_bytecode", True)

    def work(*arguments: object, **options: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr("bench.run.runner.Runner.run", work)
    monkeypatch.setattr("bench.run.context.load_model", work)
    monkeypatch.setattr("subprocess.Popen", work)
    return tmp_path


def check(arguments: list[str], part: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    status = main(arguments)
    said = capsys.readouterr()
    assert re.fullmatch(r"bench: [^\n]+\n", said.err), said.err
    assert part in said.err and status == 2
    assert said.out == ""
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("line", "part"), LINES.items())
def test_a_wrong_command_line_gets_one_sentence(
    line: str, part: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "cuda:" in line and torch.cuda.is_available() and "77" in line and torch.cuda.device_count() > 77:
        pytest.skip("there is such a GPU")
    check(shlex.split(line), part, folder, capsys)


@pytest.mark.parametrize("command", ["grid", "status", "tune", "cancel"])
@pytest.mark.parametrize(("content", "part"), GRIDS.items())
def test_a_wrong_grid_gets_one_sentence(
    content: str, part: str, command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.toml").write_text(content)
    if command == "tune":
        part = ""  # these grids have no [tune] table, which may be the first thing that is said
    elif "data_dir" in content and command != "grid":
        pytest.skip("the state of a grid can be seen without its data")
    check([command, "bad.toml"], part, folder, capsys)


def test_there_are_at_least_a_hundred_of_them() -> None:
    assert len(LINES) >= 100 and len(GRIDS) >= 40
