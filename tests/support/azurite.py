"""Microsoft's emulator of Azure Blob Storage on the loopback interface: ``with azurite_server() as url``.

It is a Node.js program. The first use installs the version of ``tests/servers/package-lock.json`` into the Python
environment, which takes half a minute; where it cannot be had, `Unavailable` says why.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

WANTED = Path(__file__).parents[1] / "servers"
INSTALLED = Path(sys.prefix) / "share" / "servers-for-tests"
PROGRAM = INSTALLED / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"

ACCOUNT = "acc"
KEY = base64.b64encode(b"key of the tests").decode()
PATIENCE = 300


class Unavailable(Exception):
    """Why there is no such server on this machine."""


def install() -> None:
    """Install the program, unless this version is there."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Unavailable("there is no Node.js with npm")
    try:
        INSTALLED.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"it cannot be installed: {error}") from error
    with (INSTALLED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of several test runs does it
        wanted, done = (WANTED / "package-lock.json").read_bytes(), INSTALLED / "done"
        if done.exists() and done.read_bytes() == wanted:
            return
        for name in ("package.json", "package-lock.json"):
            shutil.copy(WANTED / name, INSTALLED)
        options = "--ignore-scripts --omit=optional --no-audit --no-fund --fetch-retries=1 --fetch-timeout=30000"
        command = ["npm", "ci", *options.split()]
        try:
            subprocess.run(command, cwd=INSTALLED, check=True, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"npm cannot install it: {error.stderr.strip()[-300:]}") from error
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"npm has not installed it within {PATIENCE} s") from error
        done.write_bytes(wanted)


@contextmanager
def azurite_server() -> Iterator[str]:
    """Start Azurite on a free port, with nothing in it, and stop it."""
    install()
    options = ("--inMemoryPersistence", "--blobPort", "0", "--disableTelemetry", "--silent")
    command = ["node", str(PROGRAM), *options]
    environment = {**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, cwd=INSTALLED
    ) as process:
        try:
            yield _address(process)
        finally:
            process.terminate()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        if "successfully listens on" in line:
            return line.split()[-1]
        said.append(line)
    raise Unavailable(f"it does not start: {''.join(said)[-300:]}")


def make_container(url: str, name: str) -> str:
    """Create a container; anybody may read its blobs, of whom they know the names."""
    date, version = formatdate(usegmt=True), "2021-08-06"
    signed = "\n".join(
        [
            *("PUT", *[""] * 11),
            f"x-ms-blob-public-access:blob\nx-ms-date:{date}\nx-ms-version:{version}",
            f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container",
        ]
    )
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)).decode()
    headers = {
        "x-ms-blob-public-access": "blob",
        "x-ms-date": date,
        "x-ms-version": version,
        "Authorization": f"SharedKey {ACCOUNT}:{signature}",
    }
    request = urllib.request.Request(
        f"{url}/{ACCOUNT}/{name}?restype=container", method="PUT", headers=headers, data=None
    )
    with urllib.request.urlopen(request, timeout=30):
        return name
