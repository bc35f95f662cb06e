"""What the engine refuses, as the real `openai` package is told."""

import httpx
import openai
import pytest

from tests.engines import CONTEXT, KEY

QUESTION = [{"role": "user", "content": "the cat"}]


def test_a_stranger_is_turned_away(url: str) -> None:
    for key in ("wrong", KEY + "x"):
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError, match="key"):
                stranger.models.list()
    for method, path in (
        ("GET", "/v1/models"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/chat/completions"),
    ):
        assert httpx.request(method, url + path, json={}).status_code == 401
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("n", 0, "greater than or equal to 1"),
        ("n", True, "integer"),
        ("temperature", 3, "less than or equal to 2"),
        ("temperature", "hot", "number"),
        ("top_p", -0.1, "greater than or equal to 0"),
        ("top_k", 0, "greater than or equal to 1"),
        ("max_tokens", -1, "greater than or equal to 0"),
        ("seed", 10**22, "less than"),
        ("logprobs", 21, "less than or equal to 20"),
        ("stop", ["a"] * 5, "at most 4"),
        ("stop", "", "none of them empty"),
        ("prompt", [], "empty"),
        ("prompt", [[]], "empty"),
        ("prompt", {"a": 1}, "a text, a list of texts"),
        ("prompt", [1, "a"], "a text, a list of texts"),
        ("prompt", [304], "go up to 303"),
        ("prompt", "a" * 200, f"context is {CONTEXT} tokens"),
        ("frequency_penalty", 3, "less than or equal to 2"),
        ("logit_bias", {"cat": 1}, "token ids"),
        ("best_of", 3, "leave it out"),
        ("stream", "yes", "boolean"),
    ],
)
def test_a_bad_parameter_is_named_with_its_mend(
    client: openai.OpenAI, field: str, value: object, says: str
) -> None:
    body = {"model": "tiny", "prompt": "a", field: value}
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/completions", body=body, cast_to=object)
    assert caught.value.param == field and says in caught.value.body["message"]  # type: ignore[index]
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"messages": []}, "messages", "at least one"),
        ({"messages": "hello"}, "messages", "a list of messages"),
        ({"messages": [{"role": "pirate", "content": "a"}]}, "messages", "'system', 'developer'"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages", "text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "'text'"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"tools": [{"type": "function"}]}, "tools", "function is missing"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"continue_final_message": True}, "continue_final_message", "assistant"),
    ],
)
def test_a_bad_chat_is_named_with_its_mend(
    client: openai.OpenAI, change: dict[str, object], param: str, says: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post(
            "/chat/completions", body={"model": "tiny", "messages": QUESTION} | change, cast_to=object
        )
    assert caught.value.param == param and says in caught.value.body["message"]  # type: ignore[index]


def test_a_conversation_beyond_the_context_is_refused_with_the_protocols_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x" * 500}])
    assert caught.value.code == "context_length_exceeded"


def test_an_unknown_model_is_told_with_those_there_are(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="tiny") as caught:
        client.completions.create(model="nobody", prompt="a")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError, match="twin:cccc3333-checkpoint"):
        client.completions.create(model="twin", prompt="a")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="scorer", prompt="a")


def test_what_is_no_json_is_refused(url: str) -> None:
    def post(content: bytes, kind: str = "application/json") -> httpx.Response:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": kind}
        return httpx.post(f"{url}/v1/completions", content=content, headers=headers)

    for content in (b"", b"{", b"[" * 100_000, b"\xff", b"[]", b'"a"'):
        assert post(content).status_code == 400
        assert "JSON" in post(content).json()["error"]["message"]
    assert post(b"{}", "text/plain").status_code == 415
    assert post(b'"' + b"a" * (9 << 20) + b'"').status_code == 413


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"guided_regex": "("}, "guided_regex"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "?"}}}},
            "response_format",
        ),
        ({"structured_outputs": {"choice": ["a"]}}, None),
        ({"guided_json": "{"}, None),
        ({"guided_json": {}, "guided_regex": "a"}, None),
    ],
)
def test_a_grammar_that_cannot_be_used_is_refused(
    client: openai.OpenAI, more: dict, param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="tiny", prompt="the", extra_body=more)
    assert error.value.param == param
