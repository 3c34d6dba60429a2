"""Texts of servers and libraries without the secrets that they may repeat: signed URLs, headers, tokens.

A server that refuses a request may tell what it was told: S3 does so with expired tokens and wrong signatures. Pure.
"""

from __future__ import annotations

import re

from icechunk_virtual.containers.container import HIDDEN

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # name=value of a URL's query, or of what was made of one
    (
        re.compile(
            r"""([?&;\s"'][^=&?;\s"'<>]*(?:sig|signature|token|credential|key|secret|password)[^=&?;\s"'<>]*=)"""
            r"""[^&;\s"'<>)]+""",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    # headers
    (
        re.compile(
            r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-amz-[a-z-]*token|[a-z-]*api-?key)(\s*[:=]\s*)[^\r\n<]+",
            re.IGNORECASE,
        ),
        rf"\1\2{HIDDEN}",
    ),
    (
        re.compile(r"\b(Bearer|Basic|SharedKey(?:Lite)?|AWS4-HMAC-SHA256)\s+[^\s<]+[^\r\n<]*", re.IGNORECASE),
        rf"\1 {HIDDEN}",
    ),
    # elements of answers of S3 and Azure
    (
        re.compile(
            r"<((?:\w*Token[\w-]*)|AWSAccessKeyId|StringToSign\w*|CanonicalRequest\w*|SignatureProvided|"
            r"AuthenticationErrorDetail)>.*?(?:</\1>|\Z)",
            re.DOTALL | re.IGNORECASE,
        ),
        rf"<\1>{HIDDEN}</\1>",
    ),
)


def hushed(text: str) -> str:
    """The text with everything replaced that may be a secret of the caller's."""
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text
