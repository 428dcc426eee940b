"""One HTTP request for one picture: its bytes, or why not and whether to ask again."""

import http.client
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any
from urllib.parse import quote, urlsplit

from mmsr.bundle.preprocess import ImageError, ImagePreprocess, open_image

USER_AGENT = (
    f"mmsr-train/{version('mmsr')} (mmsr: recommender training; prepares a public data set)"
)
PASSING_STATUSES = {408, 425, 429, *range(500, 600)}
BUSY_STATUSES = {429, 503}
REFUSED_STATUSES = {401, 403}
CHUNK_BYTES = 1 << 16
# What a link may hold as it is; a blank or an accent is quoted, "%2B" is not quoted again.
LINK_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"


class PassingError(Exception):
    """A fault that may pass. `wait_s` is what the host asks for, if it does."""

    def __init__(self, detail: str, busy: bool = False, wait_s: float | None = None) -> None:
        super().__init__(detail)
        self.busy = busy  # the host has too much to do: nothing else should be asked either
        self.wait_s = wait_s


class LastingError(Exception):
    """A fault that the next request would meet again."""


class RefusedError(LastingError):
    """The host does not want to be asked."""


def host_of(url: str) -> str:
    """Return the host of a link; `LastingError` if it is not http or https."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise LastingError("not a link") from None
    if parts.scheme not in ("http", "https") or not host:
        raise LastingError("not a link to http or https")
    return host


class Requester:
    """Asks for pictures over HTTP and HTTPS alone, proxies as the environment says."""

    def __init__(self, timeout_s: float, download_s: float, max_bytes: int) -> None:
        self.timeout_s = timeout_s  # of one silence
        self.download_s = download_s  # of a whole answer
        self.max_bytes = max_bytes
        self.max_pixels = ImagePreprocess().max_pixels
        self.opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.UnknownHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            self.opener.add_handler(handler)

    def picture(self, url: str) -> bytes:
        """Return the bytes of a picture; `PassingError` or `LastingError` if there are none."""
        host_of(url)  # the opener has no handler for anything else either
        request = urllib.request.Request(  # noqa: S310
            quote(url, safe=LINK_CHARACTERS),
            headers={"User-Agent": USER_AGENT, "Accept": "image/*"},
        )
        try:
            with self.opener.open(request, timeout=self.timeout_s) as response:
                data = self._body(response)
        except urllib.error.HTTPError as error:
            with error:
                raise _fault(error) from None
        except http.client.InvalidURL:
            raise LastingError("not a link") from None
        except (OSError, http.client.HTTPException) as error:  # no route, silence, cut off
            reason = getattr(error, "reason", error)  # what urllib wraps
            raise PassingError(str(reason) or type(reason).__name__) from None
        self._check(data)
        return data

    def _body(self, response: Any) -> bytes:
        declared = response.headers.get("Content-Length", "")
        length = int(declared) if declared.isdecimal() else None
        if length is not None and length > self.max_bytes:
            raise LastingError(f"{length} bytes, at most {self.max_bytes}")
        deadline_s = time.monotonic() + self.download_s
        data = bytearray()
        while chunk := response.read(CHUNK_BYTES):
            data += chunk
            if len(data) > self.max_bytes:
                raise LastingError(f"more than {self.max_bytes} bytes")
            if time.monotonic() > deadline_s:
                raise PassingError(f"not whole after {self.download_s:g} s")
        if length is not None and len(data) != length:
            raise PassingError(f"cut off after {len(data)} of {length} bytes")
        return bytes(data)

    def _check(self, data: bytes) -> None:
        try:
            image = open_image(data, self.max_pixels)
        except ImageError as error:
            raise LastingError(str(error)) from None
        if image.width * image.height == 1:  # what Amazon sends where a picture is gone
            raise LastingError("a placeholder of one pixel")


def _fault(error: urllib.error.HTTPError) -> PassingError | LastingError:
    detail = f"HTTP {error.code}"
    if error.code in PASSING_STATUSES:
        return PassingError(detail, error.code in BUSY_STATUSES, _asked_wait_s(error.headers))
    return (RefusedError if error.code in REFUSED_STATUSES else LastingError)(detail)


def _asked_wait_s(headers: Message) -> float | None:
    """Return what Retry-After asks for: seconds, or a date (counted from the answer's own)."""
    asked = (headers.get("Retry-After") or "").strip()
    if asked.isdecimal():
        return float(asked)
    try:
        until = parsedate_to_datetime(asked)
        sent = headers.get("Date")
        now = parsedate_to_datetime(sent) if sent else datetime.now(UTC)
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError):  # neither, or a date without a zone
        return None
