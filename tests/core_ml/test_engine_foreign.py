"""The engine with a model whose tokenizer writes a space before each text, as SentencePiece's do: by torch and by llama.cpp."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from core_ml import artifact
from core_ml.engine import gguf_backend
from core_ml.exchange import gguf
from core_ml.tokenizer.tokenizer import Tokenizer
from tests.core_ml.test_import_model import bring, released
from tests.engines import KEY, running

BY_LLAMA = pytest.mark.skipif(not gguf_backend.is_installed(), reason="xllamacpp is not installed")
BACKENDS = ("in", pytest.param("in f16", marks=BY_LLAMA))
TEXT = "the cat, 日本語 says"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> artifact.Folder:
    root = tmp_path_factory.mktemp("foreign")
    released(root / "in", "llama")
    (root / "runs").mkdir()
    return bring(root / "runs", path=str(root / "in"), role="chat")


@pytest.fixture(scope="module")
def client(made: artifact.Folder) -> Iterator[openai.OpenAI]:
    root = made.path.parent.parent
    writer = artifact.Writer(
        root / "bbbb2222" / "export", id="bbbb2222-export", kind="export", name="in f16", origin=artifact.Origin(recipe="export")
    )  # fmt: skip
    gguf.save(writer.path / "in.gguf", made.path, "f16", name="in", role="chat")
    writer.finish({"role": "chat"})
    with running(root) as url, openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def bias(made: artifact.Folder) -> dict[str, int]:
    """Makes a model write " the" and nothing else."""
    id = Tokenizer.load(made.path).inner.token_to_id("▁the")
    return {str(id): 100}


@pytest.mark.parametrize("model", BACKENDS)
def test_a_chat_answer_begins_with_its_first_word_streamed_and_whole(
    model: str, client: openai.OpenAI, bias: dict[str, int]
) -> None:
    asked: Any = {"model": model, "messages": [{"role": "user", "content": TEXT}], "max_tokens": 3}
    asked |= {"logit_bias": bias, "temperature": 0, "logprobs": True}
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.message.content == "the the the"
    assert whole.logprobs and whole.logprobs.content and len(whole.logprobs.content) == 3
    chunks = client.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "the the the"


@pytest.mark.parametrize("model", BACKENDS)
def test_a_completion_keeps_the_space_that_parts_it_from_its_prompt(
    model: str, client: openai.OpenAI, bias: dict[str, int]
) -> None:
    asked: Any = {"model": model, "prompt": TEXT, "max_tokens": 2, "logit_bias": bias, "temperature": 0}
    assert client.completions.create(**asked).choices[0].text == " the the"
    echoed = client.completions.create(**asked, echo=True, logprobs=1).choices[0]
    assert echoed.text == TEXT + " the the"
    assert echoed.logprobs and echoed.logprobs.text_offset and echoed.logprobs.tokens
    # What stands at each token's offset is what the token spells; the rules' own space before the text is nowhere.
    starts = zip(echoed.logprobs.text_offset, echoed.logprobs.tokens, strict=True)
    spelt = [(at, token) for at, token in starts if not token.startswith("bytes:")]
    assert spelt[0] == (0, " the") and len(spelt) > 5
    assert all(echoed.text.startswith(token, at) for at, token in spelt[1:])
