"""What a client may ask: the bodies of both completion endpoints, with OpenAI's names and bounds.

Unknown fields are passed over, since clients send many. A known field that this engine does not have is
refused unless it says "off": an answer that silently lacks what was asked for would be worse.
"""

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from core_ml.engine.errors import ApiError, bad_request

MAX_CHOICES = 512
"""Completions that one request may ask for, over all its prompts."""
MAX_STOPS = 4
BEYOND: dict[str, Any] = {
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "logit_bias": None,
    "response_format": None,
    "guided_regex": None,
    "tools": [],
}
"""Fields that not every backend knows, with the value that asks for nothing."""
OFF: dict[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "best_of": (1,),
    "functions": ([],),
    "audio": (),
    "modalities": (["text"],),
}
"""Fields that no backend knows, with the values that ask for nothing."""

WANTED = {
    "prompt": "a text, a list of texts, a list of token ids, or a list of such lists",
    "stop": f"a text, or a list of at most {MAX_STOPS} texts, none of them empty",
    "messages": "a list of messages, at least one",
}
"""How a field that takes several types is asked for; pydantic would name only one of them."""

Stop = Annotated[str, Field(min_length=1, max_length=1000)]
TokenId = Annotated[int, Field(ge=0)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Request = TypeVar("Request", bound="SamplingRequest")


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool = False


class SamplingRequest(BaseModel):
    """The fields that both endpoints have; `top_k`, `min_p` and `repetition_penalty` go beyond OpenAI's."""

    model_config = ConfigDict(strict=True)

    model: str
    max_tokens: int | None = Field(None, ge=0)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    top_k: int | None = Field(None, ge=1)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[str, Bias] | None = Field(None, max_length=1024)
    response_format: dict[str, Any] | None = None
    guided_regex: str | None = Field(None, min_length=1, max_length=10_000)
    n: int = Field(1, ge=1, le=128)
    stop: Stop | list[Stop] = Field(default_factory=list)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Whose request it is, where one caller asks for several: each takes turns as a client of its own."""

    @field_validator(
        "temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "n",
        "stop", "stream", mode="before",
    )  # fmt: skip
    @classmethod
    def _null_is_the_default(cls, value: Any, info: Any) -> Any:
        return (
            cls.model_fields[info.field_name].get_default(call_default_factory=True)
            if value is None
            else value
        )

    @model_validator(mode="before")
    @classmethod
    def _as_vllm_writes_it(cls, body: dict[str, Any]) -> dict[str, Any]:
        """`guided_json`, and `structured_outputs` with json or regex, are other names of two fields."""
        given = body.get("structured_outputs")
        if given is not None and (not isinstance(given, dict) or len(given.keys() & {"json", "regex"}) != 1):
            raise ValueError("structured_outputs must have either json, a schema, or regex")
        schema = (given or {}).get("json", body.get("guided_json"))
        if isinstance(schema, str):
            schema = json.loads(schema)
        regex = (given or {}).get("regex", body.get("guided_regex"))
        if schema is not None:
            body = body | {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
        if regex is not None and body.get("response_format", {}).get("type", "text") != "text":
            raise ValueError("guided_regex and a JSON schema cannot both be met: give one of them")
        return body if regex is None else body | {"guided_regex": regex}

    @field_validator("logit_bias")
    @classmethod
    def _biases_name_ids(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        wrong = next((key for key in value or {} if not key.isdecimal() or len(key) > 9), None)
        if wrong is not None:
            raise ValueError(f"logit_bias has the key {wrong[:40]!r}, and its keys must be token ids")
        return value

    @field_validator("response_format")
    @classmethod
    def _text_is_the_default(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        kind = None if value is None else value.get("type")
        if value is not None and kind not in ("text", "json_object", "json_schema"):
            raise ValueError("response_format must have the type text, json_object or json_schema")
        if kind == "json_schema" and not isinstance(value.get("json_schema", {}).get("schema"), dict):  # type: ignore[union-attr]
            raise ValueError("response_format lacks json_schema.schema")
        return None if kind == "text" else value

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


class CalledFunction(BaseModel):
    model_config = ConfigDict(strict=True)

    name: Name
    arguments: str = ""


class ToolCall(BaseModel):
    model_config = ConfigDict(strict=True)

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Function(BaseModel):
    model_config = ConfigDict(strict=True)

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Literal["function"]
    function: Function


class NamedFunction(BaseModel):
    name: Name


class NamedTool(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Literal["function"]
    function: NamedFunction


class ChatMessage(BaseModel):
    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[ToolCall] | None = Field(None, max_length=128)
    tool_call_id: str | None = None

    def plain(self) -> dict[str, Any]:
        """The message with its content as one text; OpenAI's newer "developer" is our "system"."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        role = "system" if self.role == "developer" else self.role
        said: dict[str, Any] = {"role": role, "content": text}
        if self.tool_calls:
            said["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        return said if self.tool_call_id is None else said | {"tool_call_id": self.tool_call_id}


class ChatRequest(SamplingRequest):
    """POST /v1/chat/completions. `continue_final_message` goes on with an assistant's begun last message."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=0)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    continue_final_message: bool = False
    tools: list[Tool] = Field(default_factory=list, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None

    @field_validator("logprobs", mode="before")
    @classmethod
    def _null_is_false(cls, value: Any) -> Any:
        return False if value is None else value

    @field_validator("tools", mode="before")
    @classmethod
    def _null_is_none(cls, value: Any) -> Any:
        return [] if value is None else value

    @property
    def choice(self) -> str | None:
        """How tools are to be used; the name of one that must be called."""
        return self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else self.tool_choice


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
        _check_tools(request)
    return request


def _check_tools(request: ChatRequest) -> None:
    names = [tool.function.name for tool in request.tools]
    if len(set(names)) < len(names):
        raise bad_request("tools names a tool twice", "tools")
    if request.choice not in (None, "none", "auto") and not names:
        raise bad_request("tool_choice asks for a call, and there are no tools", "tool_choice")
    if isinstance(request.tool_choice, NamedTool) and request.choice not in names:
        raise bad_request(
            f"tool_choice names {request.choice!r}, which is not among the tools", "tool_choice"
        )


def check_known(request: SamplingRequest, takes: frozenset[str], backend: str) -> None:
    """Raises ApiError 400 for a field that the model's backend does not know: silence would be worse."""
    for name, neutral in BEYOND.items():
        value = getattr(request, name, neutral)
        if value and value != neutral and name not in takes:
            raise bad_request(f"{name} is not supported by {backend}: leave it out", name)


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
