"""Storages of repositories as what `remedies` can repair: by a line that makes the storage anew.

Knows no provider: places say how they are spelt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from icechunk_virtual.containers.container import S3Options, shown_options
from icechunk_virtual.containers.remedies import KEYS


@dataclass(frozen=True, slots=True)
class StorageSubject:
    """A storage.

    Attributes
    ----------
    service
        ``s3``, ``gcs`` or ``azure``.
    options
        How the service is reached.
    credentials
        Of the storage.
    code
        Makes the code of such a storage, from options and from arguments for its credentials.
    """

    service: str
    options: S3Options | Mapping[str, str]
    credentials: object
    code: Callable[[Any, str], str]

    @property
    def has_function(self) -> bool:
        """Whether the credentials come from a function of the user."""
        return hasattr(self.credentials, "pickled_function")

    def changed(self, **options: object) -> str:
        """Code that makes it anew, with other options."""
        if isinstance(self.options, S3Options):
            return self._code(replace(self.options, **options), self._arguments())  # type: ignore[arg-type]  # its fields
        return self._code({**shown_options(self.options), **options}, self._arguments())

    def with_credentials(self, arguments: str) -> str:
        """Code that makes it anew, with other credentials."""
        options = self.options if isinstance(self.options, S3Options) else shown_options(self.options)
        return self._code(options, arguments)

    def _code(self, options: S3Options | Mapping[str, object], arguments: str) -> str:
        return f"storage = {self.code(options, arguments)}"

    def _arguments(self) -> str:
        """How the present credentials are given."""
        kind = type(self.credentials).__qualname__.rpartition(".")[2]
        if self.has_function:
            return "get_credentials=new_credentials"
        return {"Anonymous": "anonymous=True", "FromEnv": ""}.get(kind, KEYS[self.service])


def call(function: str, *arguments: str) -> str:
    """Code that calls a function of the package; empty arguments are left out."""
    return f"icechunk_virtual.{function}({', '.join(filter(None, arguments))})"
