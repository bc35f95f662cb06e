"""Where a lab keeps its state: everything below LAB_HOME, readable by its owner alone."""

import fcntl
import hashlib
import os
import secrets
import tempfile
from pathlib import Path
from typing import BinaryIO

MAX_SOCKET_PATH = 100  # the system's limit is about 108 characters


def home() -> Path:
    path = Path(os.environ.get("LAB_HOME") or Path(__file__).resolve().parent.parent / "var").absolute()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def inside(name: str) -> Path:
    """A folder of the lab's home, made when it is missing."""
    path = home() / name
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def lock() -> BinaryIO | None:
    """Hold this lab for as long as the file stays open; None when another process holds it.

    Two queues over one folder would overwrite each other's log.
    """
    file = (home() / "lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def socket(name: str) -> Path:
    """The path of a Unix socket of this lab; in the system's temporary folder where LAB_HOME is too deep."""
    path = inside("sockets") / name
    if len(str(path)) <= MAX_SOCKET_PATH:
        return path
    digest = hashlib.sha256(str(home()).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"move37-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
        raise PermissionError(f"{folder} belongs to somebody else: set LAB_HOME to a shorter path")
    return folder / name


def secret_key() -> str:
    """SECRET_KEY from the environment, or one made for this lab and kept in its home."""
    if given := os.environ.get("SECRET_KEY"):
        return given
    path = home() / "secret_key"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48))
    except FileExistsError:
        pass
    return path.read_text()
