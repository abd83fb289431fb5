"""Object stores and web servers, through fsspec: opened, called in bounded time, retried, explained.

The clients retry in their own ways: botocore, gcsfs and Azure's client any request, aiohttp never. Here one
policy replaces that of clients that can be told not to retry (S3, http); for the others it adds what they
leave out. `explain` turns what a client raises into a sentence that says what to check.

Why names of exceptions are matched here, and obstore is not used instead (tried with 0.12.1 against moto and
a server that fails): its errors have neither status nor code, only text, so that a denied listing, a
throttled one and a wrong region are all `GenericError`; a write to a missing bucket is a FileNotFoundError;
and a conditional write that S3 answers with 409, "try again", is `AlreadyExistsError`, as if another process
had written the object, which a commit must not take for granted. Moreover, `storage_options` of job files are
fsspec's, and Arrow reads through fsspec.
"""

from __future__ import annotations

import datetime as dt
import errno
import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Literal, ParamSpec, TypeVar

import fsspec
import stamina
from fsspec.asyn import sync

from camtrap_batch.errors import InputError, MissingExtra

CONNECT_S = 10.0
"""Maximum seconds to get a connection."""
SILENCE_S = 20.0
"""Maximum seconds without a byte arriving."""
ANSWER_S = 40.0
"""Maximum seconds for the answer to a small question: does this bucket, this folder exist?"""
TRIES = 5

Family = Literal["s3", "gs", "az", "http", "other"]

_FAMILIES: dict[str, Family] = {
    "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az",
    "http": "http", "https": "http",
}  # fmt: skip
_EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure"}
_CONNECTIONS = 64

_CHECKSUMS = ("md5Hash", "ETag", "etag", "content_md5", "CRC")
_TIMES = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "created")

_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_TRANSIENT_CODE = frozenset(
    {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling", "ThrottlingException"}
    | {"RequestLimitExceeded", "OperationAborted", "ConditionalRequestConflict", "ServerBusy"}
)
_TRANSIENT_ERRNO = frozenset(
    {errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EPIPE, errno.ETIMEDOUT, errno.EAGAIN}
    | {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EIO, errno.ESTALE, errno.EINTR}
)
# Exceptions of clients that need not be installed, so only their names are used.
_NO_ANSWER = frozenset(
    {"EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError", "ClientConnectorDNSError"}
    | {"ConnectionTimeoutError", "ProxyConnectionError", "ServiceRequestError", "gaierror"}
    | {"ConnectionRefusedError", "ClientProxyConnectionError"}
)
_CUT_OFF = frozenset(
    {"ClientPayloadError", "ServerDisconnectedError", "ClientOSError", "ConnectionClosedError"}
    | {"ResponseStreamingError", "IncompleteRead", "IncompleteReadError", "ResponseParserError"}
    | {"HTTPClientError", "ReadTimeoutError", "ServiceResponseError", "ChecksumError", "ConnectionResetError"}
    | {"ClientConnectionResetError", "SocketTimeoutError", "ServerTimeoutError", "PayloadEncodingError"}
)
_ENDS_EARLY = frozenset(
    {"PayloadEncodingError", "ClientPayloadError", "ResponseStreamingError", "IncompleteReadError"}
)
_NO_CREDENTIALS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "RefreshError"}
    | {"CredentialRetrievalError", "ProfileNotFound", "CredentialUnavailableError", "TokenRetrievalError"}
    | {"SSOTokenLoadError", "UnauthorizedSSOTokenError"}
)
_OTHER_REGION = frozenset(
    {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound"})
_WRONG_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException", "InvalidToken"}
    | {"TokenRefreshRequired", "RequestTimeTooSkewed", "AuthenticationFailed", "InvalidAuthenticationInfo"}
)
_SECRETS = re.compile(r"(?<=://)[^/@\s]*@|[?][^\s'\"<>)]*")

# Pauses of 0.2, 0.6, 1.8 and 5.4 s, each with up to 0.3 s added.
_POLICY: dict[str, Any] = {
    "attempts": TRIES,
    "timeout": 45,
    "wait_initial": 0.2,
    "wait_exp_base": 3,
    "wait_jitter": 0.3,
    "wait_max": 10,
}

_T = TypeVar("_T")
_P = ParamSpec("_P")

# A file that can't be read in the end gets a status; which attempt it was does not matter.
logging.getLogger("stamina").setLevel(logging.CRITICAL)
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


class HttpStatusError(OSError):
    """A web server's answer that is not the file. `status` is HTTP's, `retry_after` in seconds if it was
    given."""

    def __init__(self, status: int, reason: str | None, retry_after: float | None = None) -> None:
        super().__init__(f"HTTP {status} {reason or ''}".strip())
        self.status, self.retry_after = status, retry_after


def family_of(url: str) -> Family:
    """Which kind of client a URL needs.

    >>> family_of("gs://bucket/x"), family_of("https://example.org"), family_of("memory://x")
    ('gs', 'http', 'other')
    """
    return _FAMILIES.get(url.partition("://")[0], "other")


def open_store(
    url: str, options: Mapping[str, Any] | None = None, *, client_tries: int, key: str = ""
) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the URL's path in it. No request is made yet.

    Equal arguments give the same file system within a process. It keeps no listings.

    Parameters
    ----------
    client_tries : how often the client itself tries a request, if that can be set (S3); 1: once
    key : key of the job file that the URL is from, for the message

    Raises
    ------
    UserError
        The URL's kind is not known, its package is not installed, or an option is wrong.
    """
    family = family_of(url)
    told = {**_defaults(family, client_tries), **(options or {})}
    for name in ("config_kwargs", "client_kwargs"):
        if name in told:
            told[name] = {**_defaults(family, client_tries).get(name, {}), **told[name]}
    where = f"{redacted(url)} ({key})" if key else redacted(url)
    if family == "gs":
        # gcsfs asks over gRPC for the kind of the bucket, and if it is not allowed to, again before each
        # read.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **told)
    except ImportError as problem:
        if family in _EXTRAS:
            raise MissingExtra(_EXTRAS[family], where) from None
        raise InputError(f"{where}: {problem}") from None
    except Exception as problem:
        raise InputError(explain(url, problem, key)) from None
    if family == "s3":
        # Retried here for the body of an answer, which botocore leaves to the caller.
        filesystem.retries = 1 if client_tries == 1 else 2
    return filesystem, str(path).rstrip("/")


def call(filesystem: Any, method: str, *args: Any, timeout_s: float | None = None, **options: Any) -> Any:
    """Call a method of a file system, in bounded time if it is asynchronous. Raises what the client
    raises."""
    if getattr(filesystem, "async_impl", False):
        function = getattr(filesystem, f"_{method}")
        return sync(filesystem.loop, function, *args, timeout=timeout_s, **options)
    return getattr(filesystem, method)(*args, **options)


def with_retries(url: str, function: Callable[_P, _T], /, *args: _P.args, **options: _P.kwargs) -> _T:
    """`function(*args)`, tried up to `TRIES` times while the error may pass, with a longer pause each time.

    A pause that the server asks for is observed. Raises what the last attempt raised.
    """
    family = family_of(url)
    return stamina.RetryingCaller(**_POLICY)(
        lambda problem: _pause(family, problem), function, *args, **options
    )


async def with_retries_async(
    url: str, function: Callable[_P, Awaitable[_T]], /, *args: _P.args, **options: _P.kwargs
) -> _T:
    """Like `with_retries`, for a coroutine."""
    family = family_of(url)
    caller = stamina.AsyncRetryingCaller(**_POLICY)
    return await caller(lambda problem: _pause(family, problem), function, *args, **options)


def is_transient(problem: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    status, code = status_of(problem), _code_of(problem)
    if status is not None or code is not None:
        return status in _TRANSIENT_STATUS or code in _TRANSIENT_CODE
    for one in _chain(problem):
        if isinstance(one, TimeoutError | ConnectionError) or _names(one) & (_CUT_OFF | _NO_ANSWER):
            return True
        if isinstance(one, OSError) and one.errno in _TRANSIENT_ERRNO:
            return True
    return False


def status_of(problem: BaseException) -> int | None:
    """The HTTP status behind an error; None if there was no answer."""
    for one in _chain(problem):
        if (value := _answer(one).get("ResponseMetadata", {}).get("HTTPStatusCode")) is not None:
            return int(value)
        if _names(one) & _CUT_OFF:
            return None  # aiohttp calls a body that is too short a 400
        for name in ("status", "status_code", "code"):
            value = getattr(one, name, None)
            if isinstance(value, int | str) and str(value).isdecimal() and 100 <= int(value) < 600:
                return int(value)
    return None


def is_missing(problem: BaseException) -> bool:
    """Whether an error says that there is no such file, folder or bucket."""
    return isinstance(problem, FileNotFoundError) or status_of(problem) == 404


def is_missing_bucket(problem: BaseException) -> bool:
    """Whether an error says that there is no such bucket."""
    return _code_of(problem) in _NO_BUCKET


def as_os_error(url: str, problem: BaseException) -> OSError:
    """Why reading one file failed, as FileNotFoundError or another OSError; its text names no path or URL."""
    if is_missing(problem) and not is_missing_bucket(problem):
        return FileNotFoundError(errno.ENOENT, "no such file")
    return OSError(_diagnosis(family_of(url), problem, has_options=False)[0])


def version_of(info: Mapping[str, Any], *first: str) -> str:
    """The detail of an fsspec file that changes with its content: a checksum, an etag or a time; "" if none.

    Each client has its own names for these. `first`: keys that take precedence.
    """
    return str(next((info[key] for key in (*first, *_CHECKSUMS, *_TIMES) if info.get(key)), ""))


def modified_of(info: Mapping[str, Any]) -> float | None:
    """When an fsspec file was last written, in seconds since 1970."""
    for key in _TIMES:
        value = info.get(key)
        if isinstance(value, str):
            try:
                value = dt.datetime.fromisoformat(value)
            except ValueError:
                continue
        if isinstance(value, dt.datetime):
            return (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None


def redacted(url: str) -> str:
    """A URL without what may be secret in it: query (signatures, tokens), user name and password.

    >>> redacted("https://me:hush@host/a.zip?sig=hush"), redacted("/data/which?")
    ('https://host/a.zip', '/data/which?')
    """
    return _SECRETS.sub("", url) if "://" in url else url


def plain(problem: BaseException) -> str:
    """An error's message on one short line, without the query of any URL; the same in every run."""
    told = getattr(problem, "strerror", None) or str(problem)
    text = re.sub(r" at 0x[0-9a-f]+", "", _SECRETS.sub("", " ".join(str(told).split())))
    return text.encode("utf-8", "replace").decode()[:200] or type(problem).__name__


def explain(url: str, problem: BaseException, key: str = "") -> str:
    """URL, what went wrong, and what to check, on one line.

    Parameters
    ----------
    key : key of the job file that the URL is from; the run folder has no options, so none are suggested
    """
    family = family_of(url)
    where = f"{redacted(url)} ({key})" if key else redacted(url)
    what, check = _diagnosis(family, problem, has_options=bool(key))
    return f"{where}: {what}" + (f"; {check}" if check else "")


def cant_read(path: str, problem: BaseException, key: str) -> str:
    """Why a file that a key of the job file names can't be read, on one line: missing, or out of reach."""
    fault = _fault_of_connection(problem)
    if fault == _MISSING:
        return f"{redacted(path)}: no such file ({key})"
    if fault is not None:
        return explain(path, problem, key)
    return f"{redacted(path)}: can't be read ({key}): {plain(problem)}"


def is_of_the_store(problem: BaseException) -> bool:
    """Whether an error concerns the store as a whole: the credentials, the bucket, its region."""
    code = _code_of(problem)
    return code in _NO_BUCKET | _OTHER_REGION | _WRONG_CREDENTIALS or any(
        _names(one) & _NO_CREDENTIALS for one in _chain(problem)
    )


def is_refused(problem: BaseException) -> bool:
    """Whether an error will recur: no permission, or one that concerns the store as a whole."""
    return (
        status_of(problem) in (301, 307, 401, 403)
        or isinstance(problem, PermissionError)
        or str(problem).startswith("Forbidden")  # gcsfs
        or is_of_the_store(problem)
    )


def has_anything(filesystem: Any, path: str, family: Family) -> bool:
    """Whether a bucket or a folder in it exists, without listing it. Raises what the client raises."""
    if family not in ("s3", "gs", "az"):
        return bool(call(filesystem, "isdir", path, timeout_s=ANSWER_S))
    bucket, name, _ = filesystem.split_path(path)
    prefix = f"{name}/" if name else ""
    first = {"s3": _first_object, "gs": _first_at_google, "az": _first_at_azure}[family]
    # A bucket may be empty; an empty folder does not exist.
    return sync(filesystem.loop, first, filesystem, bucket, prefix, timeout=ANSWER_S) or not name


async def _first_object(filesystem: Any, bucket: str, prefix: str) -> bool:
    page = await filesystem._call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
    return bool(page.get("Contents"))


async def _first_at_google(filesystem: Any, bucket: str, prefix: str) -> bool:
    page = await filesystem._call("GET", "b/{}/o", bucket, prefix=prefix, maxResults=1, json_out=True)
    return bool(page.get("items"))


async def _first_at_azure(filesystem: Any, container: str, prefix: str) -> bool:
    async with filesystem.service_client.get_container_client(container=container) as client:
        async for _ in client.list_blobs(name_starts_with=prefix, results_per_page=1):
            return True
    return False


def _pause(family: Family, problem: Exception) -> bool | float:
    """Whether to try again; a number means after this many seconds."""
    if not is_transient(problem):
        return False
    if family in ("gs", "az") and not isinstance(problem, TimeoutError):
        return False  # gcsfs and Azure's client have already retried for half a minute or more
    for one in _chain(problem):
        headers = _answer(one).get("ResponseMetadata", {}).get("HTTPHeaders", {})
        asked = getattr(one, "retry_after", None) or seconds(headers.get("retry-after"))
        if asked is not None:
            return min(asked, SILENCE_S)
    return True


def seconds(header: str | None) -> float | None:
    """A `Retry-After` that is a number of seconds (it may also be a date)."""
    return float(header) if header is not None and header.strip().isdecimal() else None


def _defaults(family: Family, client_tries: int) -> dict[str, Any]:
    if family == "s3":
        config = {
            "connect_timeout": CONNECT_S,
            "read_timeout": SILENCE_S,
            "max_pool_connections": _CONNECTIONS,
            "retries": {"mode": "standard", "total_max_attempts": client_tries},
        }
        # With more than one request at a time for an object, its size would be requested first.
        return {"use_listings_cache": False, "max_concurrency": 1, "config_kwargs": config}
    if family == "gs":
        return {"use_listings_cache": False, "requests_timeout": _aiohttp_timeout()}
    if family == "az":
        return {
            "use_listings_cache": False,
            "connection_timeout": int(CONNECT_S),
            "read_timeout": int(SILENCE_S),
        }
    if family == "http":
        return {"client_kwargs": {"timeout": _aiohttp_timeout()}}
    return {}


def _aiohttp_timeout() -> Any:
    import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)


def _diagnosis(family: Family, problem: BaseException, *, has_options: bool) -> tuple[str, str]:
    """What went wrong, and what to check."""
    return (
        _fault_of_access(family, problem, has_options=has_options)
        or _fault_of_connection(problem)
        or (_reason(problem), "")
    )


def _fault_of_access(family: Family, problem: BaseException, *, has_options: bool) -> tuple[str, str] | None:
    """What is wrong with the account, the credentials or the bucket."""
    status, code = status_of(problem), _code_of(problem)
    set_them = _what_to_set(family, has_options=has_options)
    if family == "az" and "account_name" in str(problem):
        return "the storage account is not specified", (
            "set AZURE_STORAGE_ACCOUNT_NAME" + (", or storage_options: {account_name: NAME}" * has_options)
        )
    if _all_names(problem) & _NO_CREDENTIALS:
        return "no credentials", set_them
    if code in _OTHER_REGION or status in (301, 307):
        region = _region_of(problem)
        told = f"AWS_DEFAULT_REGION={region or 'REGION'}"
        options = f", or storage_options: {{client_kwargs: {{region_name: {region or 'REGION'}}}}}"
        return f"the bucket is in another region{f', {region}' if region else ''}", (
            f"set {told}" + options * has_options
        )
    if code in _NO_BUCKET:
        return "no such bucket", "check its name" + (", and the account" if family == "az" else "")
    denied = isinstance(problem, PermissionError) or str(problem).startswith("Forbidden")
    if status in (401, 403) or code in _WRONG_CREDENTIALS or (denied and family != "other"):
        said = " ".join(dict.fromkeys(str(part) for part in (status or 403, code) if part))
        return f"access denied ({said})", (
            f"check the credentials and what they are allowed to do: {set_them}"
            if set_them
            else "check who may read it"
            + (", and whether the URL's signature has expired" * (family == "http"))
        )
    return None


def _what_to_set(family: Family, *, has_options: bool) -> str:
    """How users identify themselves."""
    credentials = {
        "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        "gs": "GOOGLE_APPLICATION_CREDENTIALS",
        "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    }.get(family, "")
    option = {"s3": "{anon: true}", "gs": "{token: anon}", "az": "{account_name: NAME, anon: true}"}.get(
        family
    )
    anonymous = f"a public bucket is read with storage_options: {option}" if option and has_options else ""
    return ", or ".join(part for part in (f"set {credentials}" if credentials else "", anonymous) if part)


def _fault_of_connection(problem: BaseException) -> tuple[str, str] | None:
    """What is wrong between here and the server, or with the server; or that the file does not exist."""
    status, names = status_of(problem), _all_names(problem)
    if names & _NO_ANSWER:
        return f"can't be reached: {_reason(problem)}", "check the host's name, the endpoint and the network"
    if names & _ENDS_EARLY:
        return "the answer ends early", ""
    if any(isinstance(one, TimeoutError) for one in _chain(problem)) or names & {"ReadTimeoutError"}:
        return "no answer in time", "check the endpoint, the network and its proxy"
    if status is not None and status >= 500:
        code = _code_of(problem)
        return f"the server fails ({status}{f' {code}' if code else ''})", "try again later"
    if is_missing(problem):
        # A bucket's listing is empty if there is no such folder; it fails if there is no bucket.
        return _MISSING
    return None


_MISSING = ("no such bucket or folder", "check its name")


def _reason(problem: BaseException) -> str:
    text = plain(problem)
    return text if isinstance(problem, OSError) or " " in text else f"{type(problem).__name__}: {text}"


def _region_of(problem: BaseException) -> str | None:
    for one in _chain(problem):
        headers = _answer(one).get("ResponseMetadata", {}).get("HTTPHeaders", {})
        if region := headers.get("x-amz-bucket-region") or _answer(one).get("Error", {}).get("Region"):
            return str(region)
    return None


def _code_of(problem: BaseException) -> str | None:
    """The store's own code for an error, such as S3's SlowDown."""
    for one in _chain(problem):
        code = _answer(one).get("Error", {}).get("Code") or getattr(one, "error_code", None)
        if code:
            return str(getattr(code, "value", code))
    return None


def _answer(problem: BaseException) -> Mapping[str, Any]:
    """What botocore keeps from an answer."""
    answer = getattr(problem, "response", None)
    return answer if isinstance(answer, dict) else {}


def _chain(problem: BaseException) -> Iterator[BaseException]:
    """An error, and the errors it was raised from."""
    seen: set[int] = set()
    one: BaseException | None = problem
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _names(problem: BaseException) -> set[str]:
    return {base.__name__ for base in type(problem).__mro__}


def _all_names(problem: BaseException) -> set[str]:
    """Names of the classes of an error, and of the errors it was raised from."""
    return {name for one in _chain(problem) for name in _names(one)}
