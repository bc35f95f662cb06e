"""python -m core_ml.engine.llama: llama.cpp's own server over one GGUF file, as a process of its own.

A process, since a damaged file ends llama.cpp and not only the call, and since its memory comes back whole. It
listens on a Unix socket in a folder that only its owner enters, and leaves when the engine that started it is gone.
"""

import argparse
import os
import sys
import threading
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m core_ml.engine.llama")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens that one slot holds")
    parser.add_argument("--slots", type=int, required=True, help="completions under way together")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    from xllamacpp import CommonParams, Server

    given = CommonParams()
    given.model.path = str(options.model)
    given.n_ctx, given.n_parallel = options.context * options.slots, options.slots
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = options.threads
    given.hostnames = [str(options.socket)]
    given.warmup, given.ui, given.endpoint_slots = False, False, False
    given.verbosity = 1  # errors
    try:
        server = Server(given)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print("ready", flush=True)
    while server is not None:
        time.sleep(3600)
    return 0


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(4)


if __name__ == "__main__":
    sys.exit(main())
