"""Calls that run what somebody else wrote: none in what ships, but those that stand here with their reason.

ruff's S rules say much of it on each line, where a comment can silence them; this list cannot be silenced in passing, and knows
what ruff does not: `torch.load`, code of models, command lines that are one string, shells by name.
"""

import ast
from collections.abc import Iterator

import pytest

from tests.support.dotted_names import dotted, imported
from tests.support.paths import ROOT

SHIPPED = ("app", "migrations", "docker", "requirements")
# (file, what) -> why it may be there.
ALLOWED: dict[tuple[str, str], str] = {}

NEVER = {
    *("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"),
    *("os.system", "os.popen", "pty.spawn", "asyncio.create_subprocess_shell"),
    *("subprocess.getoutput", "subprocess.getstatusoutput"),
    *("tempfile.mktemp", "numpy.load", "joblib.load", "marshal.load", "marshal.loads", "shelve.open"),
    *("yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "yaml.full_load_all", "yaml.unsafe_load_all"),
}
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle"}
# A command line in one string would be split, or found on PATH with whatever is in it.
COMMANDS = {f"subprocess.{name}" for name in ("run", "Popen", "call", "check_call", "check_output")}
PROGRAMS = {"asyncio.create_subprocess_exec", *(f"os.{name}" for name in ("execv", "execve", "execvp", "execvpe", "posix_spawn"))}
SHELLS = {"sh", "bash", "dash", "zsh", "/bin/sh", "/bin/bash", "cmd", "powershell"}
# Keywords whose value may only be this one, wherever they stand.
ONLY = {"shell": False, "trust_remote_code": False, "allow_pickle": False, "weights_only": True}


def first(call: ast.Call) -> ast.expr | None:
    """The command of a call that starts a program."""
    return call.args[0] if call.args else next((each.value for each in call.keywords if each.arg == "args"), None)


def in_call(call: ast.Call, name: str) -> Iterator[str]:
    """What is wrong with a call of a name."""
    if name in NEVER:
        yield name
    if name in {"torch.load", "torch.jit.load"} and not any(each.arg == "weights_only" for each in call.keywords):
        yield f"{name} of any object"
    for each in call.keywords:
        if each.arg in ONLY and not (isinstance(each.value, ast.Constant) and each.value.value is ONLY[each.arg]):
            yield f"{each.arg}={ast.unparse(each.value)}"
        if each.arg == "verify" and isinstance(each.value, ast.Constant) and not each.value.value:
            yield f"verify={each.value.value}"  # a context or a file of authorities may stand there
    command = first(call)
    program = command.elts[0] if isinstance(command, ast.List | ast.Tuple) and command.elts else command
    if name in COMMANDS and (isinstance(command, ast.JoinedStr | ast.BinOp) or isinstance(getattr(command, "value", None), str)):
        yield f"{name} of a string"
    if name in COMMANDS | PROGRAMS and isinstance(program, ast.Constant) and program.value in SHELLS:
        yield f"{name} of a shell"


def dangers(source: str) -> set[str]:
    """Everything in a module that is not to be in one."""
    tree = ast.parse(source)
    names = imported(tree)
    found = {f"import {name}" for name in names.values() if name.partition(".")[0] in MODULES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found |= set(in_call(node, dotted(node.func, names)))
    return found


def test_nothing_of_it_ships() -> None:
    """And nothing is allowed that is not there any more."""
    files = [path for part in SHIPPED for path in (ROOT / part).rglob("*.py")]
    assert {part for part in SHIPPED if not any(path.is_relative_to(ROOT / part) for path in files)} == set()
    found = {(path.relative_to(ROOT).as_posix(), what) for path in files for what in dangers(path.read_text())}
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import subprocess as s\ns.run(['a'], shell=True)", "shell=True"),
        ("import subprocess\nsubprocess.run(['a'], shell=user)", "shell=user"),
        ("from subprocess import Popen as P\nP('a b')", "subprocess.Popen of a string"),
        ("import subprocess\nsubprocess.run(args=f'ls {x}')", "subprocess.run of a string"),
        ("import subprocess\nsubprocess.run('ls ' + x)", "subprocess.run of a string"),
        ("import subprocess\nsubprocess.run(['sh', '-c', x])", "subprocess.run of a shell"),
        ("import asyncio\nasyncio.create_subprocess_exec('bash', '-c', x)", "asyncio.create_subprocess_exec of a shell"),
        ("import asyncio\nasyncio.create_subprocess_shell(x)", "asyncio.create_subprocess_shell"),
        ("import os\nos.system('ls')", "os.system"),
        ("def f():\n    from os import popen\n    popen('ls')", "os.popen"),
        ("eval(x)", "eval"),
        ("exec(x)", "exec"),
        ("import pickle", "import pickle"),
        ("from pickle import loads", "import pickle.loads"),
        ("import yaml\nyaml.load(x, Loader=yaml.SafeLoader)", "yaml.load"),
        ("import torch\ntorch.load(x)", "torch.load of any object"),
        ("import torch as t\nt.load(x, weights_only=False)", "weights_only=False"),
        ("import numpy\nnumpy.load(x)", "numpy.load"),
        ("A.from_pretrained(x, trust_remote_code=True)", "trust_remote_code=True"),
        ("import tempfile\ntempfile.mktemp()", "tempfile.mktemp"),
        ("import httpx\nhttpx.Client(verify=False)", "verify=False"),
    ],
)
def test_it_is_found(source: str, what: str) -> None:
    """Each kind, by whatever name it was imported."""
    assert dangers(source) == {what}


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess, sys\nsubprocess.run([sys.executable, '-m', x], shell=False)",
        "import torch\ntorch.load(x, weights_only=True)",
        "model.eval()\nre.compile(x)\nA.from_pretrained(x, trust_remote_code=False)",
        "import yaml\nyaml.safe_load(x)\nimport tempfile\ntempfile.mkdtemp()",
    ],
)
def test_what_is_harmless_is_not(source: str) -> None:
    """Or the list of exceptions would teach to make them."""
    assert dangers(source) == set()
