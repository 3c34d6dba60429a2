"""What the answers of the real services mean. The bodies are as their documentation shows them, shortened."""

from __future__ import annotations

import pytest
from obstore import exceptions as foreign

from icechunk_virtual.containers.troubles import Trouble, region_of_answer, trouble_of_answer
from icechunk_virtual.errors import ObjectNotFound, PermissionDenied, StorageError, TransientStorageError
from icechunk_virtual.repo.foreign_errors import diagnose, refuses_credentials, translate, without_debug_text

ANSWERS: list[tuple[int, str, Trouble | None]] = [
    # Amazon
    (404, "<Error><Code>NoSuchBucket</Code><BucketName>b</BucketName></Error>", Trouble.NO_BUCKET),
    (404, "<Error><Code>NoSuchKey</Code><Key>k</Key></Error>", None),
    (
        400,
        "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>",
        Trouble.EXPIRED,
    ),
    (400, "<Error><Code>TokenRefreshRequired</Code></Error>", Trouble.EXPIRED),
    (403, "<Error><Code>RequestTimeTooSkewed</Code><ServerTime>2026</ServerTime></Error>", Trouble.CLOCK),
    (
        301,
        "<Error><Code>PermanentRedirect</Code><Endpoint>b.s3-eu-west-1.amazonaws.com</Endpoint></Error>",
        Trouble.WRONG_REGION,
    ),
    (
        400,
        "<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region 'us-east-1' is wrong</Message></Error>",
        Trouble.WRONG_REGION,
    ),
    (
        400,
        "<Error><Code>AuthorizationHeaderMalformed</Code><Message>a non-empty Access Key</Message></Error>",
        Trouble.WRONG_CREDENTIALS,
    ),
    (
        403,
        "<Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>A</AWSAccessKeyId></Error>",
        Trouble.WRONG_CREDENTIALS,
    ),
    (403, "<Error><Code>SignatureDoesNotMatch</Code></Error>", Trouble.WRONG_CREDENTIALS),
    (400, "<Error><Code>InvalidToken</Code></Error>", Trouble.WRONG_CREDENTIALS),
    (403, "<Error><Code>AccessDenied</Code></Error>", Trouble.DENIED),
    (403, "", Trouble.DENIED),
    (401, "", Trouble.WRONG_CREDENTIALS),
    (503, "<Error><Code>SlowDown</Code></Error>", None),
    (400, "<Error><Code>RequestTimeout</Code></Error>", None),
    # Google
    (401, "<Error><Code>AuthenticationRequired</Code></Error>", Trouble.WRONG_CREDENTIALS),
    (403, "<Error><Code>InvalidSecurity</Code></Error>", Trouble.WRONG_CREDENTIALS),
    (400, "<Error><Code>UserProjectMissing</Code></Error>", Trouble.PAYER),
    (
        400,
        '{"error": {"message": "Bucket is a requester pays bucket but no user project provided."}}',
        Trouble.PAYER,
    ),
    # Azure
    (404, "<Error><Code>ContainerNotFound</Code></Error>", Trouble.NO_BUCKET),
    (404, "<Error><Code>BlobNotFound</Code></Error>", None),
    (
        401,
        "<Error><Code>InvalidAuthenticationInfo</Code><A>Lifetime validation failed. The token is expired.</A></Error>",
        Trouble.EXPIRED,
    ),
    (
        403,
        "<Error><Code>AuthenticationFailed</Code><A>Signature not valid in the specified time frame</A></Error>",
        Trouble.EXPIRED,
    ),
    (
        403,
        "<Error><Code>AuthenticationFailed</Code><A>Request date header too old: 'x'</A></Error>",
        Trouble.CLOCK,
    ),
    (403, "<Error><Code>AuthenticationFailed</Code></Error>", Trouble.WRONG_CREDENTIALS),
    (401, "<Error><Code>NoAuthenticationInformation</Code></Error>", Trouble.NO_CREDENTIALS),
    (409, "<Error><Code>PublicAccessNotPermitted</Code></Error>", Trouble.NO_CREDENTIALS),
]


@pytest.mark.parametrize(("status", "body", "trouble"), ANSWERS)
def test_answers(status: int, body: str, trouble: Trouble | None) -> None:
    assert trouble_of_answer(status, body) is trouble


@pytest.mark.parametrize(
    ("body", "region"),
    [
        ("<Region>eu-west-1</Region>", "eu-west-1"),
        ("the region 'us-east-1' is wrong; expecting 'eu-west-1'", "eu-west-1"),
        ('<Region>x"); evil(</Region>', None),
        ("<Region></Region>", None),
        ("", None),
    ],
)
def test_regions(body: str, region: str | None) -> None:
    assert region_of_answer(body) == region


def told(text: str, debug: str = "") -> foreign.GenericError:
    return foreign.GenericError(f"Generic S3 error: {text}" + (f"\n\nDebug source:\n{debug}" if debug else ""))


@pytest.mark.parametrize(
    ("debug", "words", "trouble", "kind"),
    [
        ("kind: ConnectionRefused", "the connection was refused", None, TransientStorageError),
        ("source: TimedOut", "nothing came for too long", None, TransientStorageError),
        ("IncompleteMessage", "the connection was cut", None, TransientStorageError),
        ('"dns error"', "there is no host of that name", Trouble.NO_HOST, TransientStorageError),
        ("InvalidCertificate(UnknownIssuer)", "is not trusted here", Trouble.UNTRUSTED, StorageError),
        ("InvalidContentType", "does not speak TLS", Trouble.NO_TLS, StorageError),
        ("BadScheme", "plain http is not allowed", Trouble.PLAIN_HTTP, StorageError),
    ],
)
def test_why_there_is_no_answer(debug: str, words: str, trouble: Trouble | None, kind: type[StorageError]) -> None:
    error = told("Error performing GET http://h/b/f in 1.2ms - HTTP error: error sending request", debug)
    found, diagnosis = diagnose(error)
    assert (found, diagnosis.trouble, diagnosis.status) == (kind, trouble, None)
    assert words in diagnosis.reason
    assert "1.2ms" not in diagnosis.reason
    assert debug not in str(translate(error, "k")) + str(without_debug_text(error))


def test_what_a_server_says_is_not_taken_for_what_the_library_says() -> None:
    error = told("Error performing GET http://h/f - Server returned non-2xx status code: 403 Forbidden: dns error")
    assert diagnose(error)[1].trouble is Trouble.DENIED


def test_a_busy_metadata_service_is_no_missing_one() -> None:
    address = "Error performing GET http://169.254.169.254/latest/x - Server returned non-2xx status code:"
    assert diagnose(told(f"{address} 503 Busy: "))[0] is TransientStorageError
    kind, diagnosis = diagnose(told(f"{address} 404 Not Found: "))
    assert (kind, diagnosis.trouble, diagnosis.status) == (PermissionDenied, Trouble.NO_CREDENTIALS, None)


def test_long_answers_are_cut_and_on_one_line() -> None:
    error = told("x - Server returned non-2xx status code: 400 Bad Request: <html>\n" + "    import os\n" * 500)
    reason = diagnose(error)[1].reason
    assert "\n" not in reason
    assert len(reason) < 700


def test_status_is_a_fact() -> None:
    error = translate(FileNotFoundError("x - Server returned non-2xx status code: 404 Not Found: "), "k")
    assert type(error) is ObjectNotFound
    assert error.status == 404  # type: ignore[attr-defined]


def test_refused_credentials() -> None:
    def refusal(text: str) -> StorageError:
        error = PermissionDenied("x")
        error.__cause__ = told(f"x - Server returned non-2xx status code: {text}")
        return error

    assert refuses_credentials(refusal("401 Unauthorized: "))
    assert refuses_credentials(refusal("400 Bad Request: <Code>ExpiredToken</Code>"))
    assert not refuses_credentials(refusal("403 Forbidden: <Code>AccessDenied</Code>"))
    assert not refuses_credentials(PermissionDenied("x"))
