"""command: what a script says and which status it ends with, whatever happens to the job, its log or its terminal."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.command import Log, reporting, run
from pipeline.errors import DataError
from pipeline.files import write_text

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
SLEEPER = """
import sys, time
from pathlib import Path
from pipeline.command import run
def job(log):
    log("ready")
    time.sleep(60)
run(job, Path(sys.argv[1]), "unet-1")
"""
NO_SPACE = os.strerror(errno.ENOSPC)


def stopped_by(number: signal.Signals, log: Path) -> tuple[int, str]:
    """The exit status and the terminal of a script that got a signal in its job."""
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(log)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background shell ignores it
    ) as child:
        assert child.stderr is not None
        ready = child.stderr.readline()
        child.send_signal(number)
        text = ready + child.stderr.read()
        return child.wait(30), text


def failed(job: BaseException | None, log: Path | None, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """The exit status and the terminal of a job that logs one line and raises `job`."""

    def work(log: Log) -> None:
        log("begin")
        if job is not None:
            raise job

    status: object = 0
    try:
        run(work, log, "unet-1")
    except SystemExit as end:
        status = end.code
    return status, capsys.readouterr().err


def test_lines_go_to_the_terminal_and_to_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "logs" / "train" / "x.log"
    assert failed(None, path, capsys) == (0, "unet-1: begin\n")
    assert path.read_text() == "begin\n"


def test_an_error_for_people_is_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.log"
    status, text = failed(DataError("class 7\n  is unknown"), path, capsys)
    assert (status, text) == (1, "unet-1: begin\nunet-1: error: class 7 is unknown\n")
    assert path.read_text() == "begin\nerror: class 7 is unknown\n"


def test_a_defect_is_a_traceback_in_both_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.log"
    status, text = failed(KeyError("width"), path, capsys)
    assert status == 1
    for shown in (text, path.read_text()):
        assert "Traceback" in shown and shown.endswith("KeyError: 'width'\n")


def test_an_exit_keeps_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(SystemExit(3), None, capsys) == (3, "unet-1: begin\n")


def test_ctrl_c_is_one_line_and_status_130(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    assert stopped_by(signal.SIGINT, path) == (130, "unet-1: ready\nunet-1: interrupted\n")
    assert path.read_text() == "ready\ninterrupted\n"


def test_sigterm_prints_no_traceback(tmp_path: Path) -> None:
    assert stopped_by(signal.SIGTERM, tmp_path / "x.log") == (-signal.SIGTERM, "unet-1: ready\n")


def test_a_log_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "x.log", tmp_path / "file" / "train" / "x.log"):
        status, text = failed(None, path, capsys)
        assert status == 1 and text.count("\n") == 1, text
        assert text.startswith(f"unet-1: error: cannot write the log {path}: ")


@needs_full
def test_a_log_that_cannot_be_written_does_not_stop_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(None, FULL, capsys) == (0, "unet-1: begin\n")
    assert failed(DataError("no chips"), FULL, capsys) == (1, "unet-1: begin\nunet-1: error: no chips\n")
    status, text = failed(KeyError("width"), FULL, capsys)
    assert status == 1 and text.endswith("KeyError: 'width'\n") and text.count("Traceback") == 1


@needs_full
def test_a_log_on_a_full_disk_leaves_no_complaint_at_the_end() -> None:
    script = (
        "from pathlib import Path\nfrom pipeline.command import run\nrun(lambda log: log('begin'), Path('/dev/full'))"
    )
    done = subprocess.run([sys.executable, "-X", "dev", "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "begin\n")


def test_a_file_name_that_is_not_utf_8_can_be_logged(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from pipeline.command import run\n"
    script += "run(lambda log: open(sys.argv[1]), Path('x.log'))"
    done = subprocess.run([sys.executable, "-c", script, b"caf\xe9.tif"], capture_output=True, text=True, cwd=tmp_path)
    line = "error: No such file or directory: caf\\udce9.tif\n"
    assert (done.returncode, done.stderr) == (1, line)
    assert (tmp_path / "x.log").read_text().endswith(line)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, NO_SPACE, "data/x.npy"), f"{NO_SPACE}: data/x.npy"),
        (OSError(errno.ENOSPC, NO_SPACE), NO_SPACE),
        (OSError("4096 requested\nand 0 written"), "4096 requested and 0 written"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_an_error_of_the_system_is_one_line(
    error: OSError, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.log"
    assert failed(error, path, capsys) == (1, f"unet-1: begin\nunet-1: error: {line}\n")
    log = path.read_text()
    assert "Traceback" in log and log.endswith(f"\nerror: {line}\n")


def test_an_error_without_a_file_name_says_where_it_came_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, NO_SPACE)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit) as end, reporting(Log()):
        write_text(tmp_path / "x.json", "{}")
    text = capsys.readouterr().err
    assert end.value.code == 1 and text.count("\n") == 1
    assert text.startswith(f"error: {NO_SPACE} (in atomic_file, pipeline/files.py, line ")
