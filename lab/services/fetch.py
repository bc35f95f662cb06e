"""Fetching a file from an address that somebody typed, without becoming a way into the network around the lab.

Every address of the host must be a public one, the connection goes to the very address that was looked at
(a second look-up could answer differently), redirects are not followed, and bytes are counted as they come.
"""

import time
from pathlib import Path

import httpx

from core_ml.engine import network
from core_ml.errors import UserError
from lab.errors import FieldError, Invalid

TIMEOUT = httpx.Timeout(30, connect=10)
DEADLINE = 600  # seconds for the whole file; a server that drips would hold a thread for ever
FIELD = "url"


def download(url: str, target: Path, max_bytes: int) -> None:
    """Write what an address answers to a file. Raises Invalid with what is wrong with the address or the answer."""
    pinned, header, host = _pinned(url)
    headers = {
        "Host": header,
        # What is unpacked on the way could be endless; a file that is packed itself is measured later.
        "Accept-Encoding": "identity",
        "User-Agent": "move37",
    }
    end = time.monotonic() + DEADLINE
    try:
        # No proxy from the environment: it would look the name up itself.
        with httpx.Client(trust_env=False, timeout=TIMEOUT, follow_redirects=False) as client:
            with client.stream("GET", pinned, headers=headers, extensions={"sni_hostname": host}) as answer:
                _write(answer, target, max_bytes, end)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise _wrong(f"{host} cannot be read: {str(error) or type(error).__name__}") from error


def _write(answer: httpx.Response, target: Path, max_bytes: int, end: float) -> None:
    if answer.is_redirect:
        raise _wrong("the address redirects elsewhere: give the address that it leads to")
    if answer.status_code != 200:
        raise _wrong(f"the server answers {answer.status_code} {answer.reason_phrase}")
    n = 0
    with target.open("wb") as file:
        for chunk in answer.iter_raw(1 << 16):
            n += len(chunk)
            if n > max_bytes:
                raise _wrong(f"the file is larger than {max_bytes:,} bytes")
            if time.monotonic() > end:
                raise _wrong(f"the file did not arrive within {DEADLINE} seconds")
            file.write(chunk)


def _pinned(url: str) -> tuple[str, str, str]:
    """As `network.pinned`. Raises Invalid."""
    try:
        return network.pinned(url)
    except UserError as error:
        here = "not a public address" in error.message
        hint = ": files of this network are imported by path or upload" if here else ""
        raise _wrong(error.message + hint) from None


def _wrong(message: str) -> Invalid:
    return Invalid([FieldError(FIELD, message)])
