"""What can be wrong between a program and a store, as far as somebody can repair it; found in answers and errors.

One vocabulary for every transport: who speaks to servers says which trouble it is, `remedies` says what to do. Pure
values. Knows no transport and no store.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class Trouble(enum.Enum):
    """Its value says it in words. Each has a remedy of its own, see `remedies`."""

    NO_CREDENTIALS = "there are no credentials"  # none were given, none were found
    NO_ANSWER_OF_FUNCTION = "the function that gets credentials failed"
    WRONG_CREDENTIALS = "the credentials are not valid"
    EXPIRED = "the credentials have expired"
    DENIED = "permission denied"  # the credentials are valid, but not for this
    PAYER = "whoever reads has to pay"
    WRONG_REGION = "the bucket is in another region"
    NO_BUCKET = "the bucket or container does not exist"
    CLOCK = "the clock of this machine and the server's differ"
    UNTRUSTED = "the certificate of the server is not trusted here"
    NO_TLS = "the server does not speak TLS"
    PLAIN_HTTP = "plain http is not allowed"
    NO_HOST = "there is no host of that name"


STALE = frozenset({Trouble.EXPIRED, Trouble.WRONG_CREDENTIALS})
"""After these other credentials may do."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is known of a request that failed.

    Attributes
    ----------
    reason
        What happened, without final stop.
    status
        HTTP status; None: no answer came.
    trouble
        None: nothing that somebody could repair here.
    region
        Where the bucket is, if the answer says so.
    """

    reason: str
    status: int | None = None
    trouble: Trouble | None = None
    region: str | None = None


_BY_CODE: tuple[tuple[re.Pattern[str], Trouble], ...] = (  # the first that is found in an answer of a server
    (re.compile("<Code>(NoSuchBucket|ContainerNotFound|ContainerBeingDeleted)</Code>"), Trouble.NO_BUCKET),
    (
        re.compile(
            "<Code>(ExpiredToken|ExpiredTokenException|TokenRefreshRequired)</Code>|[Tt]oken (is|has) expired|"
            "Lifetime validation failed|[Ss]ignature not valid in the specified time frame"
        ),
        Trouble.EXPIRED,
    ),
    (re.compile("<Code>RequestTimeTooSkewed</Code>|[Rr]equest date header too old"), Trouble.CLOCK),
    (
        re.compile(
            "<Code>(PermanentRedirect|TemporaryRedirect|IncorrectEndpoint|IllegalLocationConstraintException)</Code>|"
            "region '[^']*' is wrong|<Region>"
        ),
        Trouble.WRONG_REGION,
    ),
    (re.compile("<Code>UserProjectMissing</Code>|requester pays bucket"), Trouble.PAYER),
    (
        re.compile(
            "<Code>(InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|InvalidSecurity|AuthenticationFailed|"
            "AuthenticationRequired|InvalidAuthenticationInfo|AuthorizationHeaderMalformed)</Code>"
        ),
        Trouble.WRONG_CREDENTIALS,
    ),
    (re.compile("<Code>(NoAuthenticationInformation|PublicAccessNotPermitted)</Code>"), Trouble.NO_CREDENTIALS),
)
_REGION = re.compile(r"<Region>([A-Za-z0-9-]{1,40})</Region>|expecting '([A-Za-z0-9-]{1,40})'")


def trouble_of_answer(status: int, text: str) -> Trouble | None:
    """What an answer of an object store complains about, by the codes that S3, Google and Azure have."""
    for pattern, trouble in _BY_CODE:
        if pattern.search(text):
            return trouble
    return {301: Trouble.WRONG_REGION, 401: Trouble.WRONG_CREDENTIALS, 403: Trouble.DENIED}.get(status)


def region_of_answer(text: str) -> str | None:
    """The region that an answer of S3 names as the right one."""
    found = _REGION.search(text)
    return None if found is None else found[1] or found[2]
