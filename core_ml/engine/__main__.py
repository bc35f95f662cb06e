"""python -m core_ml.engine --root DIR (--socket PATH | --host H --port P) [--key K]"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

# Before torch is imported: threads that spin on a busy machine make a step ten to a hundred times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
import uvicorn

from core_ml.engine.address_backend import AddressBackend
from core_ml.engine.backend import Backend
from core_ml.engine.gguf_backend import GgufBackend
from core_ml.engine.loop import Loop
from core_ml.engine.models import Entry, Models
from core_ml.engine.server import build
from core_ml.engine.torch_backend import TorchBackend
from core_ml.model.device import choose

log = logging.getLogger("core_ml.engine")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m core_ml.engine", description="Serve every checkpoint.")
    parser.add_argument("--root", type=Path, required=True, help="folder of artifacts: ROOT/RUN/OUTPUT")
    parser.add_argument("--socket", type=Path, help="listen on this Unix socket")
    parser.add_argument("--host", default="127.0.0.1", help="or on this address (default: %(default)s)")
    parser.add_argument("--port", type=int, help="and this port; 0 for a free one, which is printed")
    parser.add_argument("--key", default=os.environ.get("ENGINE_KEY"), help="demand it (default: ENGINE_KEY)")
    parser.add_argument(
        "--memory", type=int, default=4096, help="MB of models to keep (default: %(default)s)"
    )
    parser.add_argument("--parent", type=int, help="leave when the parent process is no longer this one")
    options = parser.parse_args(arguments)
    if (options.socket is None) == (options.port is None):
        parser.error("name either --socket PATH or --port P")
    if options.port is not None and options.host not in LOOPBACK and not options.key:
        parser.error(
            f"{options.host} can be reached from other machines: give a --key, or listen on 127.0.0.1"
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell each request to an address
    try:
        listener = _listen(options.socket, options.host, options.port)
        listener.listen(2048)  # who connects from now on is answered as soon as the server runs
    except OSError as error:
        print(error.strerror or error, file=sys.stderr)
        return 1

    torch.set_num_threads(_n_threads())
    with contextlib.suppress(OSError):
        os.nice(5)  # pages and the database come first
    if options.parent is not None:
        threading.Thread(target=_watch, args=(options.parent,), daemon=True).start()
    device, loop = choose(), Loop()

    def open_backend(entry: Entry) -> Backend:
        if entry.address is not None:
            return AddressBackend(entry.address.endpoint(), entry.address.model)
        assert entry.path is not None
        if entry.backend == "gguf":
            return GgufBackend(entry.path, _n_threads())
        return TorchBackend(entry.path, entry.weights_sha256, loop, device)

    models = Models(options.root, open_backend, options.memory << 20)
    hosts = [*LOOPBACK, "[::1]", options.host] if options.port is not None and not options.key else None
    app = build(models, loop, device=str(device), key=options.key, hosts=hosts)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=3, lifespan="off"
    )
    log.info("%s on %s", options.root, listener.getsockname())
    print(f"listening on {_address(listener)}", flush=True)
    # uvicorn ends well on SIGTERM and then raises it again, which would pass over what comes after it.
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
    except KeyboardInterrupt:
        pass
    finally:
        models.close()
        loop.stop()
        if options.socket is not None:
            options.socket.unlink(missing_ok=True)
    return 0


def _n_threads() -> int:
    given = os.environ.get("ENGINE_THREADS", "")
    if given and not given.isdigit():
        raise SystemExit(f"ENGINE_THREADS is {given!r}, and must be a number: try ENGINE_THREADS=2")
    return max(1, int(given) if given else min(2, os.cpu_count() or 1))


def _listen(path: Path | None, host: str, port: int | None) -> socket.socket:
    """An open socket; a Unix socket for its owner alone. Raises OSError, told in one sentence."""
    if path is None:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port or 0))
        except OSError as error:
            raise OSError(
                error.errno, f"{host}:{port} cannot be used ({error.strerror}): name another port"
            ) from None
        return listener
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    if path.exists():
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))
            raise OSError(0, f"an engine listens on {path} already: stop it, or name another socket")
        except ConnectionRefusedError:
            path.unlink()  # left behind by an engine that was killed
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    return listener


def _address(listener: socket.socket) -> str:
    name = listener.getsockname()
    if isinstance(name, str):
        return f"unix://{name}"
    return f"http://{f'[{name[0]}]' if ':' in name[0] else name[0]}:{name[1]}"


def _watch(parent: int) -> None:
    """An engine without the lab that started it would hold the socket and the memory for nobody."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(4)


if __name__ == "__main__":
    sys.exit(main())
