"""Code that errors print: how it is found and pasted, on a machine that has no credentials of its own."""

from __future__ import annotations

import re
import sys
import textwrap
import types
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import icechunk_virtual as icv
from tests.support.proxy import Answer, Proxy


def snippets(error: BaseException) -> list[str]:
    """The indented blocks of a message."""
    return [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n?)+", str(error), re.MULTILINE)]


def paste(code: str, *values: tuple[str, str], **names: Any) -> dict[str, Any]:
    """Run code as a user would who puts it into a module."""
    for placeholder, value in values:
        assert placeholder in code
        code = code.replace(placeholder, value)
    module = types.ModuleType("pasted")
    sys.modules["pasted"] = module  # functions are pickled by their name
    module.__dict__.update(names, icechunk_virtual=icv)
    exec(code, module.__dict__)
    return module.__dict__


@contextmanager
def machine_without_credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing in the environment, and a proxy that plays a machine without any.

    Clients look for credentials at the metadata service of their machine, in the end.
    """
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")

    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies of its first use

    async def nobody(*_: object) -> Answer:
        return Answer(404)

    with Proxy() as proxy:
        proxy.handle = nobody
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "127.0.0.1")
        yield
