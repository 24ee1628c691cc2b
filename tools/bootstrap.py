"""Create .venv with the pinned packages, or mend it after the folder was moved. Standard library only.

Written so that an old Python, 2 included, can still parse it and say what is missing.
"""

import hashlib
import os
import subprocess
import sys

OLDEST = (3, 11)
NEWEST = (3, 13)  # of those for which every pinned package has a wheel
HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(HERE, ".venv")
STAMP = os.path.join(VENV, ".installed")
FILES = ("requirements.lock", "pyproject.toml")


def wanted():
    """What the stamp must say of the pins."""
    digest = hashlib.sha256()
    for name in FILES:
        with open(os.path.join(HERE, name), "rb") as handle:
            digest.update(handle.read())
    return digest.hexdigest()


def read_stamp():
    """(pins, place) of the last complete installation; empty texts where there is none."""
    try:
        with open(STAMP) as handle:
            lines = handle.read().splitlines()
    except OSError:
        lines = []
    if len(lines) != 2:
        return "", ""
    return lines[0], lines[1]


def write_stamp():
    """Say that the installation is complete."""
    with open(STAMP + ".part", "w") as handle:
        handle.write(wanted() + "\n" + HERE + "\n")
    os.replace(STAMP + ".part", STAMP)


def pip(*arguments):
    """Run the venv's pip; end with its exit status when it fails."""
    python = os.path.join(VENV, "bin", "python")
    command = [python, "-m", "pip", "--disable-pip-version-check"]
    command.extend(arguments)
    status = subprocess.call(command)
    if status and sys.version_info[:2] > NEWEST:
        newest = "%d.%d" % NEWEST
        sys.exit("setup: pip failed; a pinned package may have no wheel for this Python: make PYTHON=python%s" % newest)
    if status:
        sys.exit("setup: pip failed; mend what it says above and run make again")


def say(line):
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def has_pip():
    """Whether the venv has a Python with a pip: the making of it may have been killed before that."""
    try:
        with open(os.devnull, "w") as null:
            command = [os.path.join(VENV, "bin", "python"), "-m", "pip", "--version"]
            return subprocess.call(command, stdout=null, stderr=null) == 0
    except OSError:
        return False


def make_venv():
    """Make the venv anew; end with one line when this Python cannot."""
    command = [sys.executable, "-m", "venv", "--clear", VENV]
    made = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    text = made.communicate()[0].strip()
    if made.returncode == 0:
        return
    try:
        import ensurepip  # noqa: F401 - Debian keeps it, or what it installs, in a package of its own

        missing = "ensurepip is not" in text  # its lines are wrapped
    except ImportError:
        missing = True
    if missing:
        way_out = "run: apt-get install python3-venv, or give another Python: make PYTHON=/path/to/python3"
        sys.exit("setup: %s cannot make a venv: %s" % (sys.executable, way_out))
    reason = text.splitlines()[-1] if text else "exit status %d" % made.returncode
    sys.exit("setup: making .venv failed: %s; mend that and run make again" % reason)


def install():
    """Create the venv and install pins and package."""
    say("setup: installing the pinned packages into .venv (several GB, a few minutes the first time)")
    if os.path.exists(STAMP):
        os.remove(STAMP)
    if not has_pip():
        make_venv()
    pip("install", "--quiet", "--requirement", os.path.join(HERE, "requirements.lock"))
    pip("install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", HERE)
    write_stamp()


def move(before):
    """Mend what holds the folder's old place: the first line of every script, and the editable install."""
    say("setup: the folder was moved: mending .venv")
    old = os.path.join(before, ".venv").encode()
    folder = os.path.join(VENV, "bin")
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.islink(path) or not os.path.isfile(path):
            continue
        with open(path, "rb") as handle:
            content = handle.read()
        if old in content and b"\0" not in content:
            with open(path, "wb") as handle:
                handle.write(content.replace(old, VENV.encode()))
    pip("install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", HERE)
    write_stamp()


def main():
    """Bring .venv to what the lock file says."""
    if sys.version_info < OLDEST:
        have = "%d.%d" % sys.version_info[:2]
        sys.exit("setup: Python %s is too old, 3.11 or newer is needed; run: make PYTHON=/path/to/python3.11" % have)
    if os.path.islink(VENV):
        return  # somebody else's environment: used as it is
    pins, place = read_stamp()
    if pins != wanted():
        install()
    elif place != HERE:
        move(place)


if __name__ == "__main__":
    main()
