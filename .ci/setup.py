"""Create .venv with the locked packages, or see at a glance that it is there already.

Runs with any Python from 3.7 on, if only to say which one is needed. A set-up that was interrupted
is begun anew; one that is finished is known by .venv/mmsr-setup.json, which names what it was made
from.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "mmsr-setup.json")
UNDER_WAY = os.path.join(VENV, "mmsr-setup-under-way")
LOG = os.path.join(VENV, "mmsr-setup.log")
LOCK = os.path.join(ROOT, ".ci", "requirements.txt")
SOURCES = (LOCK, os.path.join(ROOT, "pyproject.toml"))
FITTING = ((3, 11), (3, 12), (3, 13))


def main():
    """Set up, unless that is done."""
    if sys.version_info[:2] not in FITTING:
        run_with_a_fitting_python()
    stamp = wanted_stamp()
    if read_stamp() == stamp and not os.path.exists(UNDER_WAY):
        return
    start_s = time.monotonic()
    begin()
    with open(LOCK) as lock:
        packages = sum(line[:1].isalnum() for line in lock)
    what = f"install {packages} locked packages (about 3 GB the first time)"
    pip(what, "--require-hashes", "-r", LOCK)
    pip("install mmsr itself", "--no-deps", "--no-build-isolation", "-e", ROOT)
    with open(STAMP, "w") as file:
        json.dump(stamp, file, indent=2)
    os.remove(UNDER_WAY)
    print(f"setup: done in {time.monotonic() - start_s:.0f} s")


def run_with_a_fitting_python():
    """Replace this process by one of a fitting Python on the PATH, or end with one line."""
    for major, minor in reversed(FITTING):
        found = shutil.which(f"python{major}.{minor}")
        if found and subprocess.call([found, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            os.execv(found, [found, os.path.abspath(__file__)])  # noqa: S606
    version = ".".join(map(str, sys.version_info[:3]))
    sys.exit(
        f"error: {sys.executable} is Python {version}; MMSR needs Python 3.11, 3.12 or 3.13: "
        "install one, or name it: make setup PYTHON=/path/to/python"
    )


def wanted_stamp():
    """Return what a finished set-up was made from: a change of any of it means set-up again."""
    hashes = {}
    for path in SOURCES:
        with open(path, "rb") as file:
            hashes[os.path.relpath(path, ROOT)] = hashlib.sha256(file.read()).hexdigest()
    return {"python": list(sys.version_info[:2]), "root": ROOT, "sha256": hashes}


def read_stamp():
    """Return the stamp of the last finished set-up; empty where there is none."""
    try:
        with open(STAMP) as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def begin():
    """Make the empty environment, or keep the one that is there if it is whole."""
    if not usable():
        if os.path.lexists(VENV) and not is_environment():
            sys.exit(f"error: {VENV} is there and is no Python environment; move it away")
        step("create .venv with Python {}.{}.{}".format(*sys.version_info[:3]), create)
    with open(UNDER_WAY, "w"):
        pass


def usable():
    """Say whether .venv works, was not left half-way, and has this Python and this place."""
    if os.path.exists(UNDER_WAY) or read_stamp().get("root", ROOT) != ROOT:
        return False
    code = "import pip, sys; print(list(sys.version_info[:2]))"
    try:
        done = subprocess.run([PYTHON, "-c", code], stdout=subprocess.PIPE)
    except OSError:
        return False
    return done.stdout.decode().strip() == str(list(sys.version_info[:2]))


def is_environment():
    """Say whether .venv may be removed: it is an environment, or the mere start of one."""
    return os.path.isdir(VENV) and (
        os.path.exists(os.path.join(VENV, "pyvenv.cfg")) or os.path.exists(UNDER_WAY)
    )


def create():
    """Create the environment; an old one is removed first."""
    shutil.rmtree(VENV, ignore_errors=True)
    os.makedirs(VENV, exist_ok=True)
    with open(UNDER_WAY, "w"):
        pass
    return subprocess.run(
        [sys.executable, "-m", "venv", VENV], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def pip(what, *arguments):
    """Run `pip install` with its output in the log."""
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check"]
    command = [PYTHON, "-m", "pip", "install", *quiet, *arguments]

    def install():
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        with open(LOG, "ab") as log:
            log.write(done.stdout)
        return done

    step(what, install)


def step(what, action):
    """Run `action` and print how long it took; if it fails, print the end of what it said."""
    print(f"setup: {what} ...", end="", flush=True)
    start_s = time.monotonic()
    done = action()
    print(f" {time.monotonic() - start_s:.0f} s", flush=True)
    if done.returncode:
        lines = done.stdout.decode(errors="replace").strip().splitlines()
        sys.exit("\n".join([f"error: setup could not {what}:", *lines[-15:]]))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nsetup: interrupted; the next one begins anew")
