"""The process in which modules are imported and rendered to HTML as `pydoc` does; it may die, its parent may not.

Run as `python -m core_ml.crawl.pydoc_child FD`: names of top-level modules arrive on standard input, one a
line, and messages leave on the pipe FD, one JSON object a line: {"begin": name}, {"kind", "name", "html"},
{"end": name}. Standard output and error go nowhere, since imported modules print; a module that exits or hangs
takes this process with it, and the parent starts another one for the modules that are left.
"""

import contextlib
import importlib
import inspect
import json
import os
import pkgutil
import pydoc
import re
import sys
import threading
import time
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOPICS = "topics"
_ADDRESS = re.compile(r"(?:,? |,?&nbsp;)(?:at|handle)(?: |&nbsp;)(?:0x)?[0-9a-fA-F]{8,16}\b")


def main() -> None:
    names = sys.stdin.read().split()
    pipe = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8")
    forget_place()
    silence()
    warnings.simplefilter("ignore")
    remember_comments()
    threading.Thread(target=leave_with_parent, args=(os.getppid(),), daemon=True).start()

    def send(**message: str) -> None:
        pipe.write(json.dumps(message) + "\n")
        pipe.flush()

    for name in names:
        send(begin=name)
        for kind, full_name, html in topics() if name == TOPICS else pages(name):
            send(kind=kind, name=full_name, html=html)
        send(end=name)
    pipe.close()
    os._exit(0)  # threads that an imported module left behind would keep the process


def forget_place() -> None:
    """Pages show the environment, the search path and the command: they should be the same in every run."""
    os.environ.pop("PYTHONPATH", None)
    here = {str(Path(__file__).parents[2]), str(Path.cwd())}
    sys.path[:] = [path for path in sys.path if path not in here]
    sys.path_importer_cache.clear()
    sys.argv[:] = sys.orig_argv[:] = [""]


def silence() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)


def leave_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def pages(top: str) -> Iterator[tuple[str, str, str]]:
    """(kind, dotted name, HTML) of a top-level module, its submodules, and their own classes and functions."""
    document = pydoc.HTMLDoc()
    for name in modules(top):
        module = quiet_import(name)
        if module is None:
            continue
        yield from rendered(document, "module", name, module)
        for key, member in sorted(vars(module).items(), key=lambda item: str(item[0])):
            kind = "class" if inspect.isclass(member) else "function" if inspect.isroutine(member) else None
            # A name imported from elsewhere is documented where it was defined.
            if kind and defined_as(member) == (name, key):
                yield from rendered(document, kind, f"{name}.{key}", member)


def modules(top: str) -> Iterator[str]:
    yield top
    module = quiet_import(top)
    if module is None or not hasattr(module, "__path__"):
        return
    for found in pkgutil.walk_packages(module.__path__, f"{top}.", onerror=lambda _: None):
        if ".test" not in found.name and "__main__" not in found.name:
            yield found.name


def quiet_import(name: str) -> types.ModuleType | None:
    try:
        return importlib.import_module(name)
    except BaseException:  # SystemExit too: an import that ends the program is an import that failed
        return None


def defined_as(member: Any) -> tuple[Any, Any]:
    try:
        return member.__module__, member.__name__
    except Exception:  # objects of the library may compute their attributes, and fail at it
        return None, None


def rendered(document: pydoc.HTMLDoc, kind: str, name: str, thing: Any) -> Iterator[tuple[str, str, str]]:
    with contextlib.suppress(Exception):
        html = document.page(name, document.document(thing, name))
        # An object's address is another one in every process: noise, and every page would differ each time.
        yield kind, name, _ADDRESS.sub("", html)


def topics() -> Iterator[tuple[str, str, str]]:
    """The topics of `help()`, which pydoc keeps as plain text."""
    document = pydoc.HTMLDoc()
    texts: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    for name, text in sorted(texts.items()):
        body = document.bigsection(name, "title", f"<pre>{document.markup(text)}</pre>")
        yield "topic", name, document.page(name, body)


def remember_comments() -> None:
    """Look for the comments above an undocumented object once.

    pydoc asks anew on each page that shows the object, and inspect parses the whole module each time: nearly
    half of the time of a rendering.
    """
    find = inspect.getcomments
    known: dict[int, tuple[Any, str | None]] = {}  # holding the object keeps its id from being given again

    def getcomments(object: object) -> str | None:
        if id(object) not in known:
            known[id(object)] = object, find(object)
        return known[id(object)][1]

    inspect.getcomments = getcomments


if __name__ == "__main__":
    main()
