"""What a client may ask: the bodies of both completion endpoints, with OpenAI's names and bounds.

Unknown fields are passed over, since clients send many. A known field that this engine does not have is
refused unless it says "off": an answer that silently lacks what was asked for would be worse.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from core_ml.engine.errors import ApiError, bad_request
from core_ml.tokenizer.tokenizer import Message

MAX_CHOICES = 512
"""Completions that one request may ask for, over all its prompts."""
MAX_STOPS = 4
OFF: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "best_of": (1,),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "audio": (),
    "modalities": (["text"],),
}

WANTED = {
    "prompt": "a text, a list of texts, a list of token ids, or a list of such lists",
    "stop": f"a text, or a list of at most {MAX_STOPS} texts, none of them empty",
    "messages": "a list of messages, at least one",
}
"""How a field that takes several types is asked for; pydantic would name only one of them."""

Stop = Annotated[str, Field(min_length=1, max_length=1000)]
TokenId = Annotated[int, Field(ge=0)]
Request = TypeVar("Request", bound="SamplingRequest")


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool = False


class SamplingRequest(BaseModel):
    """The fields that both endpoints have; `top_k` goes beyond OpenAI's."""

    model_config = ConfigDict(strict=True)

    model: str
    max_tokens: int | None = Field(None, ge=0)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    top_k: int | None = Field(None, ge=1)
    n: int = Field(1, ge=1, le=128)
    stop: Stop | list[Stop] = Field(default_factory=list)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool = False
    stream_options: StreamOptions | None = None

    @field_validator("temperature", "top_p", "n", "stop", "stream", mode="before")
    @classmethod
    def _null_is_the_default(cls, value: Any, info: Any) -> Any:
        return (
            cls.model_fields[info.field_name].get_default(call_default_factory=True)
            if value is None
            else value
        )

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str]) -> str | list[str]:
        if isinstance(value, list) and len(value) > MAX_STOPS:
            raise ValueError(f"stop has {len(value)} strings, and may have at most {MAX_STOPS}")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(SamplingRequest):
    """POST /v1/completions. A prompt in token ids is read as it stands; text begins a document, after `<|bos|>`."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False

    @field_validator("echo", mode="before")
    @classmethod
    def _null_is_false(cls, value: Any) -> Any:
        return False if value is None else value

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)  # type: ignore[arg-type]


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None

    def plain(self) -> Message:
        """The message as the chat protocol writes it; OpenAI's newer "developer" is our "system"."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(SamplingRequest):
    """POST /v1/chat/completions. `continue_final_message` goes on with an assistant's begun last message."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=0)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    continue_final_message: bool = False

    @field_validator("logprobs", mode="before")
    @classmethod
    def _null_is_false(cls, value: Any) -> Any:
        return False if value is None else value


def parse(schema: type[Request], body: Any) -> Request:
    """The request in a JSON body. Raises ApiError 400, which names the field."""
    if not isinstance(body, dict):
        raise bad_request("the body must be a JSON object")
    for name, neutral in OFF.items():
        if body.get(name) is not None and body[name] not in neutral:
            raise bad_request(f"{name} is not supported by this engine: leave it out", name)
    try:
        request = schema.model_validate(body)
    except ValidationError as error:
        raise _explained(error) from None
    if isinstance(request, CompletionRequest):
        if not request.prompts or [] in request.prompts:
            raise bad_request("prompt is empty: give a text, or at least one token id", "prompt")
        if len(request.prompts) * request.n > MAX_CHOICES:
            asked = len(request.prompts) * request.n
            raise bad_request(f"{asked} completions are asked for, and may be at most {MAX_CHOICES}", "n")
    if isinstance(request, ChatRequest):
        if request.top_logprobs is not None and not request.logprobs:
            raise bad_request("top_logprobs needs logprobs: true", "top_logprobs")
        if request.continue_final_message and request.messages[-1].role != "assistant":
            raise bad_request(
                "continue_final_message needs an assistant's message at the end", "continue_final_message"
            )
    return request


def _explained(error: ValidationError) -> ApiError:
    # Of a field that takes several types every branch complains: the longest path is the branch that was meant.
    first = max(error.errors(), key=lambda e: len(e["loc"]))
    path = [str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier()]
    param = path[0] if path else None
    if first["type"] == "missing":
        return bad_request(f"{'.'.join(path)} is missing", param)
    if first["type"] == "value_error":
        return bad_request(first["msg"].removeprefix("Value error, "), param)
    wanted = first["msg"].removeprefix("Input should be ")
    if param in ("prompt", "stop") or first["loc"] == ("messages",):
        wanted, path = WANTED[str(param)], [str(param)]
    elif first["loc"][-1] == "str":
        wanted, path = "a text or a list of text parts", path[:-1]
    value = repr(first["input"])
    value = value if len(value) <= 60 else value[:57] + "..."
    return bad_request(f"{'.'.join(path)} is {value}, and must be {wanted}", param)
