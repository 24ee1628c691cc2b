"""tools/bootstrap.py: what it says on an old Python, when it installs, and how it mends a moved folder."""

from __future__ import annotations

import ast
import importlib.util
import shlex
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "bootstrap.py"


DEBIAN = """The virtual environment was not created successfully because ensurepip is not
available.  On Debian/Ubuntu systems, you need to install the python3-venv
package using the following command.

    apt install python3.11-venv

Failing command: /project/.venv/bin/python3
"""


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, its project an empty folder, its pip a list of calls (`calls`)."""
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text(name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    write_program(tmp_path / ".venv" / "bin" / "python", "exit 0")
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(module, "HERE", str(tmp_path))
    monkeypatch.setattr(module, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(module, "STAMP", str(tmp_path / ".venv" / ".installed"))
    monkeypatch.setattr(module, "real_pip", module.pip, raising=False)
    monkeypatch.setattr(module, "pip", lambda *words: calls.append(words))
    monkeypatch.setattr(module, "calls", calls, raising=False)
    return module


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 6, 9), (3, 5, 2)])
def test_a_too_old_python_is_one_line(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit) as caught:
        bootstrap.main()
    message = str(caught.value.code)
    assert f"Python {version[0]}.{version[1]} is too old" in message and "3.11" in message
    assert "make PYTHON=" in message and "\n" not in message
    assert bootstrap.calls == []


def test_the_oldest_python_is_that_of_the_project(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert wanted == ">=" + ".".join(map(str, bootstrap.OLDEST))
    monkeypatch.setattr(sys, "version_info", (*bootstrap.OLDEST, 0))
    bootstrap.main()
    assert len(bootstrap.calls) == 2


def test_an_old_python_can_parse_the_script() -> None:
    """Otherwise it would show a SyntaxError instead of its line; f-strings and annotated names came with 3.6.

    Python 2 knows no `print(..., flush=True)`, no star in a list or before the end of a call, no annotations, and no
    text that is not ASCII.
    """
    assert SCRIPT.read_text(encoding="utf-8").isascii()
    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 5))
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Match)
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, newer)] == []
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if node.args.posonlyargs or node.args.kwonlyargs or node.returns] == []
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"] == []
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Starred)] == []
    raised = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    assert [node.lineno for node in raised if node.cause is not None] == []


def test_a_failed_installation_by_a_python_without_wheels_says_which_to_take(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap.subprocess, "call", lambda command: 1)
    monkeypatch.setattr(bootstrap, "pip", bootstrap.real_pip)
    for newest, words in (
        ((3, 10), "may have no wheel for this Python: make PYTHON=python3.10"),
        ((9, 0), "mend what"),
    ):
        monkeypatch.setattr(bootstrap, "NEWEST", newest)
        with pytest.raises(SystemExit) as stopped:
            bootstrap.pip("install")
        assert words in str(stopped.value)


def test_it_installs_once_and_again_when_the_pins_change(bootstrap: ModuleType, tmp_path: Path) -> None:
    bootstrap.main()
    assert [words[0] for words in bootstrap.calls] == ["install", "install"]
    assert str(tmp_path / "requirements.lock") in bootstrap.calls[0]
    bootstrap.main()
    assert len(bootstrap.calls) == 2
    (tmp_path / "requirements.lock").write_text("other pins")
    bootstrap.main()
    assert len(bootstrap.calls) == 4


def test_an_installation_that_broke_off_is_repeated(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*words: str) -> None:
        raise SystemExit("no network")

    with monkeypatch.context() as broken:
        broken.setattr(bootstrap, "pip", fail)
        with pytest.raises(SystemExit):
            bootstrap.main()
    bootstrap.main()
    assert len(bootstrap.calls) == 2


def test_a_moved_folder_is_mended_without_installing_all(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap.main()
    before, after = tmp_path, tmp_path.with_name(tmp_path.name + "_moved")
    script = before / ".venv" / "bin" / "tool"
    script.write_text(f"#!{before}/.venv/bin/python\nprint('{before}/data')\n")
    binary = before / ".venv" / "bin" / "binary"
    content = b"\0" + str(before / ".venv").encode()
    binary.write_bytes(content)
    before.rename(after)
    for name, value in (("HERE", after), ("VENV", after / ".venv"), ("STAMP", after / ".venv" / ".installed")):
        monkeypatch.setattr(bootstrap, name, str(value))
    bootstrap.calls.clear()
    bootstrap.main()
    assert len(bootstrap.calls) == 1 and "--editable" in bootstrap.calls[0]
    assert (after / ".venv" / "bin" / "tool").read_text().splitlines()[0] == f"#!{after}/.venv/bin/python"
    assert (after / ".venv" / "bin" / "binary").read_bytes() == content
    bootstrap.main()
    assert len(bootstrap.calls) == 1


@pytest.fixture
def host(bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Replace the Python that runs the script by a shell script; what it was called with, one line a call."""
    program, record = tmp_path / "python3", tmp_path / "calls"

    def replace(script: str) -> list[str]:
        write_program(program, f'echo "$@" >> {shlex.quote(str(record))}\n{script}')
        monkeypatch.setattr(sys, "executable", str(program))
        return record.read_text().splitlines() if record.exists() else []

    return replace


@pytest.mark.parametrize("missing", ["python3-venv", "python3-pip-whl"])
def test_a_debian_without_venv_is_one_line(
    bootstrap: ModuleType,
    host: Callable[[str], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    missing: str,
) -> None:
    host(f"echo {shlex.quote(DEBIAN)}; exit 1")
    if missing == "python3-venv":
        monkeypatch.setitem(sys.modules, "ensurepip", None)  # importing it fails
    (tmp_path / ".venv" / "bin" / "python").unlink()
    with pytest.raises(SystemExit) as caught:
        bootstrap.main()
    message = str(caught.value.code)
    assert "apt-get install python3-venv" in message and "make PYTHON=" in message and "\n" not in message
    out, err = capfd.readouterr()
    assert (out.count("\n"), err) == (1, "")  # the line that says it begins
    assert bootstrap.calls == []


def test_a_venv_that_fails_otherwise_gives_its_own_reason(
    bootstrap: ModuleType, host: Callable[[str], list[str]], tmp_path: Path
) -> None:
    (tmp_path / ".venv" / "bin" / "python").unlink()
    for script, reason in (
        ("echo one; echo No space left on device >&2; echo; exit 1", "No space left"),
        ("exit 7", "7"),
    ):
        host(script)
        with pytest.raises(SystemExit) as caught:
            bootstrap.main()
        message = str(caught.value.code)
        assert message.startswith("setup: ") and reason in message and "\n" not in message
        assert "python3-venv" not in message


@pytest.mark.parametrize("python", ["exit 1", None], ids=["no pip", "not a program"])
def test_a_venv_without_pip_is_made_anew(
    bootstrap: ModuleType, host: Callable[[str], list[str]], tmp_path: Path, python: str | None
) -> None:
    path = tmp_path / ".venv" / "bin" / "python"
    write_program(path, python or "")
    if python is None:
        path.chmod(0o644)
    host(f"cp /bin/true {shlex.quote(str(path))}; chmod 755 {shlex.quote(str(path))}")
    bootstrap.main()
    assert host("exit 1") == [f"-m venv --clear {tmp_path / '.venv'}"]
    assert len(bootstrap.calls) == 2
    (tmp_path / ".venv" / ".installed").unlink()  # with its pip it is kept
    bootstrap.main()
    assert len(bootstrap.calls) == 4


def test_a_real_venv_without_pip_gets_one(bootstrap: ModuleType, tmp_path: Path) -> None:
    venv.create(tmp_path / ".venv", clear=True, with_pip=False)
    left = tmp_path / ".venv" / "left"
    left.touch()
    bootstrap.main()
    python = tmp_path / ".venv" / "bin" / "python"
    assert subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
    assert not left.exists() and len(bootstrap.calls) == 2


def test_a_linked_venv_is_used_as_it_is(
    bootstrap: ModuleType, host: Callable[[str], list[str]], tmp_path: Path
) -> None:
    write_program(tmp_path / ".venv" / "bin" / "python", "exit 1")
    (tmp_path / ".venv").rename(tmp_path / "shared")
    (tmp_path / ".venv").symlink_to(tmp_path / "shared")
    host("exit 1")
    bootstrap.main()
    assert host("exit 1") == [] and bootstrap.calls == []
