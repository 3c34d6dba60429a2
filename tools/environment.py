"""Make the virtual environment that `make` works in, on a machine that may have Python and pip only.

Usage: python3 tools/environment.py DIRECTORY REQUIREMENT...

Debian splits `ensurepip` off into python3-venv, so three ways are tried: venv with pip; venv without pip, filled by
the pip that is there; virtualenv, fetched into a temporary directory. Nothing outside DIRECTORY is changed.
Written for any Python since 3.6, so that an old one gets a message and not a SyntaxError.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

OLDEST = (3, 11)


def main(argv):
    if len(argv) < 2:
        sys.exit(__doc__)
    directory, requirements = argv[1], argv[2:]
    if sys.version_info < OLDEST:
        sys.exit(
            f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed, {sys.executable} is {sys.version.split()[0]}. "
            "Say which one to use: make PYTHON=python3.12 ..."
        )
    if not has_pip(directory):
        create(directory)
    if requirements:
        run([python_of(directory), "-m", "pip", "install", "--quiet", *requirements])


def python_of(directory):
    return str(Path(directory, "Scripts" if os.name == "nt" else "bin", "python"))


def run(command):
    """Run a step that must succeed."""
    print("+ " + " ".join(command), flush=True)
    code = subprocess.call(command)
    if code:
        sys.exit(f"failed with exit code {code}: {' '.join(command)}")


def succeeds(command):
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def has_pip(directory):
    python = python_of(directory)
    return Path(python).exists() and succeeds([python, "-m", "pip", "--version"])


def create(directory):
    """Leave an environment with pip in `directory`, or exit with what to do."""
    for way in (with_venv, with_venv_and_this_pip, with_virtualenv):
        shutil.rmtree(directory, ignore_errors=True)
        print(f"creating {directory} with {sys.executable} {way.__name__.replace('_', ' ')}", flush=True)
        way(directory)
        if has_pip(directory):
            return
    shutil.rmtree(directory, ignore_errors=True)
    sys.exit(
        f"cannot create a virtual environment with {sys.executable}: neither venv nor pip works there.\n"
        "On Debian and Ubuntu: apt-get install python3-venv (or python3-pip). Or name another Python: "
        "make PYTHON=/path/to/python3 ..."
    )


def with_venv(directory):
    succeeds([sys.executable, "-m", "venv", directory])


def with_venv_and_this_pip(directory):
    if succeeds([sys.executable, "-m", "venv", "--without-pip", directory]):
        succeeds([sys.executable, "-m", "pip", "--python", python_of(directory), "install", "--quiet", "pip"])


def with_virtualenv(directory):
    if succeeds([sys.executable, "-m", "virtualenv", directory]):
        return
    with tempfile.TemporaryDirectory() as place:
        if succeeds([sys.executable, "-m", "pip", "install", "--quiet", "--target", place, "virtualenv"]):
            environment = dict(os.environ, PYTHONPATH=place)
            subprocess.run([sys.executable, "-m", "virtualenv", "--quiet", directory], env=environment)


if __name__ == "__main__":
    main(sys.argv)
