"""Asks the probes of the metrics port, which are answered whatever the load. Knows no gRPC."""

import http.client
import urllib.error
import urllib.request

from mmsr.engine.errors import Unavailable

MOST_BYTES = 1000  # of an answer


def check_url(url: str, timeout_s: float) -> None:
    """Raise `Unavailable` unless GET `url` is answered with 200 within the time."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s):  # noqa: S310 (http:// alone comes here)
            return
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(MOST_BYTES).decode(errors="replace").strip()
        raise Unavailable(f"{url}: {error.code}: {said}") from None
    except urllib.error.URLError as error:
        raise Unavailable(f"{url}: {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable(f"{url}: {error}") from None
