"""Texts of servers and libraries without the secrets that they may repeat: signed URLs, headers, tokens.

A server that refuses a request may tell what it was told: S3 does so with expired tokens and wrong signatures. Pure.
"""

from __future__ import annotations

import re

from icechunk_virtual.containers.container import HIDDEN

_LONGEST = 200  # characters of what is no sentence
_NOT_PRINTABLE = re.compile(r"[^\n\t -~]")

# Repetitions are bounded: servers choose these texts.
_NAME = re.compile(r"sig|token|credential|key|secret|password", re.IGNORECASE)
_PARAMETER = re.compile(r"""(?<=[?&;\s"'])([^=&?;\s"'<>]{1,100})=([^&;\s"'<>)]+)""")
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # headers
    (
        re.compile(
            r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-amz-[a-z-]{0,40}token|[a-z-]{0,40}api-?key)"
            r"(\s{0,9}[:=]\s{0,9})[^\r\n<]+",
            re.IGNORECASE,
        ),
        rf"\1\2{HIDDEN}",
    ),
    (
        re.compile(r"\b(Bearer|Basic|SharedKey(?:Lite)?|AWS4-HMAC-SHA256)\s{1,9}[^\s<][^\r\n<]*", re.IGNORECASE),
        rf"\1 {HIDDEN}",
    ),
    # elements of answers of S3 and Azure
    (
        re.compile(
            r"<(\w{0,30}?Token[\w-]{0,30}|AWSAccessKeyId|StringToSign\w{0,9}|CanonicalRequest\w{0,9}|SignatureProvided|"
            r"AuthenticationErrorDetail)>.*?(?:</\1>|\Z)",
            re.DOTALL | re.IGNORECASE,
        ),
        rf"<\1>{HIDDEN}</\1>",
    ),
)


def shown(text: str) -> str:
    """A short text of a stranger, such as an etag, as a message may have it: nothing that a terminal would obey."""
    short = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    return short if short.isprintable() else _NOT_PRINTABLE.sub(_escaped, short)


def _escaped(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else found[0].encode("unicode_escape").decode()


def hushed(text: str) -> str:
    """The text with everything replaced that may be a secret of the caller's, or that a terminal would obey."""
    text = _PARAMETER.sub(lambda found: f"{found[1]}={HIDDEN}" if _NAME.search(found[1]) else found[0], text)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text if text.isprintable() else _NOT_PRINTABLE.sub(_escaped, text)
