"""In which region a bucket of S3 is: asked for when an error is to name it, and never otherwise.

S3 says so in a header of every answer about a bucket, of refusals too. The library does not hand headers on.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import urllib.error
import urllib.request

_HEADER = "x-amz-bucket-region"
_REGION = re.compile(r"[A-Za-z0-9-]{1,40}")
_SECONDS = 10


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirects."""

    def redirect_request(self, *_: object) -> None:  # as its base
        return None


async def region_of(url: str) -> str | None:
    """The region of a bucket at a URL, by an unsigned request; None if the server does not tell."""
    return await asyncio.to_thread(_region_of, url)


def _region_of(url: str) -> str | None:
    opener = urllib.request.build_opener(_Stay)
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310  # an endpoint, whose scheme is http or https
    try:
        with opener.open(request, timeout=_SECONDS) as answer:
            region = answer.headers.get(_HEADER)
    except urllib.error.HTTPError as error:
        with error:
            region = error.headers.get(_HEADER)
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return region if region is not None and _REGION.fullmatch(region) else None
