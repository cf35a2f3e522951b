"""Signed requests to S3, for what pyarrow's client lacks: one version of an object.

The signature is AWS Signature Version 4:
https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import quote, urlsplit

from services.platform.settings import Settings

_REGION, _SERVICE = "us-east-1", "s3"
_TIMEOUT_S = 30.0
_NOT_FOUND = (400, 404)
# The version of an object that was written while its bucket kept none.
_UNVERSIONED = "null"


@dataclass(frozen=True)
class Answer:
    """An answer of S3.

    Attributes:
        status: HTTP status.
        version: Version of the object, "null" without one.
        body: Its body, up to the limit that was asked for.
    """

    status: int
    version: str
    body: bytes


def get_version(settings: Settings, bucket: str, key: str, version: str, max_bytes: int) -> bytes:
    """One version of an object, its first `max_bytes`.

    Raises:
        FileNotFoundError: there is no such object or version.
        OSError: S3 does not answer, or refuses.
    """
    answer = request(settings, "GET", f"/{bucket}/{key}", {"versionId": version}, max_bytes)
    # SeaweedFS sends the newest object of a bucket without versions, whatever version is asked for.
    ignored = answer.status == 200 and answer.version != version
    if answer.status in _NOT_FOUND or ignored:
        raise FileNotFoundError(f"{bucket}/{key}: no version {version!r}")
    if answer.status != 200:
        raise OSError(f"{bucket}/{key}, version {version!r}: S3 answers {answer.status}")
    return answer.body


def request(
    settings: Settings,
    method: str,
    path: str,
    query: Mapping[str, str],
    max_bytes: int,
    body: bytes = b"",
) -> Answer:
    """The answer to a signed request, with the first `max_bytes` of its body.

    Raises:
        OSError: there is none.
    """
    url = urlsplit(settings.s3)
    connect = HTTPSConnection if url.scheme == "https" else HTTPConnection
    connection = connect(url.netloc, timeout=_TIMEOUT_S)
    try:
        headers = _signed(settings, method, url.netloc, path, query, body, datetime.now(UTC))
        connection.request(method, f"{_quoted(path)}?{_query(query)}", body or None, headers)
        response = connection.getresponse()
        version = response.headers.get("x-amz-version-id") or _UNVERSIONED
        return Answer(response.status, version, response.read(max_bytes))
    except HTTPException as error:
        raise OSError(f"S3 does not answer: {error!r}") from error
    finally:
        connection.close()


def _signed(
    settings: Settings,
    method: str,
    host: str,
    path: str,
    query: Mapping[str, str],
    body: bytes,
    now: datetime,
) -> dict[str, str]:
    """The headers of a request, with its signature."""
    time, date = f"{now:%Y%m%dT%H%M%SZ}", f"{now:%Y%m%d}"
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": time}
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = "\n".join([method, _quoted(path), _query(query), lines, names, digest])
    scope = f"{date}/{_REGION}/{_SERVICE}/aws4_request"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", time, scope, hashed])
    key = f"AWS4{settings.plain_password}".encode()
    for part in (date, _REGION, _SERVICE, "aws4_request", text):
        key = hmac.digest(key, part.encode(), "sha256")
    credential = f"Credential={settings.user}/{scope}"
    authorization = f"AWS4-HMAC-SHA256 {credential},SignedHeaders={names},Signature={key.hex()}"
    return {**headers, "authorization": authorization}


def _quoted(path: str) -> str:
    return quote(path, safe="/-_.~")


def _query(query: Mapping[str, str]) -> str:
    return "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted(query.items()))
