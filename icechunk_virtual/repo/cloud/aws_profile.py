"""Key pair and region of a profile in AWS's configuration files, which the library does not read.

Takes the environment as a mapping. Profiles whose keys must be fetched by a login or a program are refused by name.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping

from icechunk_virtual.containers.credentials import S3StaticCredentials
from icechunk_virtual.containers.snippets import literal
from icechunk_virtual.errors import StorageError

_BY_BOTO = """\
    import boto3
    def keys():
        found = boto3.Session(profile_name={name}).get_credentials().get_frozen_credentials()
        return icechunk_virtual.S3StaticCredentials(found.access_key, found.secret_key, found.token)"""
_OTHER_MEANS = ("role_arn", "sso_session", "sso_start_url", "credential_process", "credential_source")


def profile_key(environment: Mapping[str, str]) -> S3StaticCredentials | None:
    """Return the key pair of the chosen profile, ``None`` where the environment has one itself or there is none.

    Raises
    ------
    StorageError
        The profile gets its keys by other means, or does not exist although it was asked for.
    """
    if environment.get("AWS_ACCESS_KEY_ID"):
        return None
    name = _name(environment)
    settings = _settings(environment)
    access, secret = settings.get("aws_access_key_id"), settings.get("aws_secret_access_key")
    if access is not None and secret is not None:
        return S3StaticCredentials(access, secret, settings.get("aws_session_token"))
    means = [key for key in _OTHER_MEANS if key in settings]
    if means:
        raise StorageError(
            f"storage error: the AWS profile {name!r} gets its keys through {means[0]}, which boto3 can do. Give this "
            "function as get_credentials=keys, to s3_storage or s3_credentials:\n" + _BY_BOTO.format(name=literal(name))
        )
    if environment.get("AWS_PROFILE") and not settings:
        raise StorageError(f"storage error: AWS_PROFILE names the profile {name!r}, which is in none of AWS's files")
    return None


def profile_region(environment: Mapping[str, str]) -> str | None:
    """Return the region of the chosen profile, if it has one."""
    return _settings(environment).get("region")


def _name(environment: Mapping[str, str]) -> str:
    return environment.get("AWS_PROFILE") or "default"


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Settings of the chosen profile in both files; the file of credentials wins."""
    name = _name(environment)
    settings: dict[str, str] = {}
    for variable, file, section in (
        ("AWS_CONFIG_FILE", "config", name if name == "default" else f"profile {name}"),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name),
    ):
        named = environment.get(variable) or f"~/.aws/{file}"
        path = os.path.expanduser(named)  # noqa: PTH111  # Path's fails where nobody has a home, as in some containers
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise StorageError(
                f"storage error: the AWS configuration file {path} cannot be read: {_fault(error)}. Correct the file."
            ) from None  # the error's own text quotes the line
        if parser.has_section(section):
            settings.update(parser.items(section))
    return settings


def _fault(error: configparser.Error | UnicodeDecodeError) -> str:
    """What is wrong with a file, without its text, which may be a secret."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    line = getattr(error, "lineno", None)
    lines = [number for number, _ in getattr(error, "errors", ())] if line is None else [line]
    return f"the line {', '.join(map(str, lines))} is not understood" if lines else type(error).__name__
