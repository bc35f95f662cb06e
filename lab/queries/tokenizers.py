"""A tokenizer opened for people to look at, and its vocabulary searched."""

from functools import lru_cache

from core_ml.tokenizer import inspect
from core_ml.tokenizer.tokenizer import Tokenizer
from lab.models import Artifact
from lab.queries import artifacts


@lru_cache(maxsize=8)
def _load(path: str) -> Tokenizer:
    """An artifact never changes, so what was read of it stays true."""
    return Tokenizer.load(path)


def load(artifact: Artifact) -> Tokenizer:
    return _load(str(artifacts.path(artifact) / "tokenizer.json"))


def spelled(token: inspect.TokenView) -> str:
    """A token as a page writes it: line ends are seen, and half a character is its bytes."""
    text = token["text"]
    if "\N{REPLACEMENT CHARACTER}" in text and not token["special"]:
        text = "".join(f"‹{byte:02x}›" for byte in token["bytes"])
    return text.replace("\n", "↵\n").replace("\t", "⇥\t")


def vocabulary(tokenizer: Tokenizer, q: str = "") -> list[inspect.TokenView]:
    """The tokens in the order of their ids, or those in whose spelling `q` stands, or whose id it is."""
    tokens = inspect.views(tokenizer, range(tokenizer.vocab_size))
    return [
        token for token in tokens if not q or q.lower() in spelled(token).lower() or q == str(token["id"])
    ]
