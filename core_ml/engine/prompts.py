"""A job's prompts as token ids of our own tokenizer, and how many tokens its completions may have."""

from collections.abc import Sequence

from core_ml.engine.backend import Job
from core_ml.engine.errors import bad_request
from core_ml.engine.tools import begun, said
from core_ml.errors import UserError
from core_ml.tokenizer.tokenizer import Tokenizer

DEFAULT_MAX_TOKENS = 16
"""OpenAI's, for completions that name no number."""


def prompts_of(
    job: Job, tokenizer: Tokenizer, vocab_size: int
) -> tuple[list[list[int]], list[int], str | None]:
    """Token ids of each prompt, how many at its beginning are ours, and the text of a call that it begins.

    Raises: ApiError for messages and ids that the model does not know.
    """
    if job.messages is not None:
        return [(chat := _conversation(job, tokenizer))[0]], [0], chat[1]
    prompts, n_hidden = [], []
    for prompt in job.prompts:
        if isinstance(prompt, str):
            # Every document that the model has read began so.
            prompts.append([tokenizer.bos_id, *tokenizer.encode(prompt)])
            n_hidden.append(1)
            continue
        if (highest := max(prompt)) >= vocab_size:
            raise bad_request(
                f"prompt has the token id {highest}, and this model's go up to {vocab_size - 1}", "prompt"
            )
        prompts.append(prompt)
        n_hidden.append(0)
    return prompts, n_hidden, None


def _conversation(job: Job, tokenizer: Tokenizer) -> tuple[list[int], str | None]:
    assert job.messages is not None
    try:
        messages = said(job.messages, [] if job.tool_choice == "none" else job.tools)
        if job.continue_final_message:
            return tokenizer.prompt(messages[:-1]) + tokenizer.encode(messages[-1]["content"]), None
        forced, text = begun(tokenizer, job)
        return tokenizer.prompt(messages) + forced, text
    except UserError as error:
        raise bad_request(error.message, "messages") from None


def unsaid(job: Job, tokenizer: Tokenizer) -> int:
    """How many spaces at the beginning of its completions are the tokenizer's or the template's, and not the model's.

    What goes on from a text has none such: its spaces part it from what came before. Nor has what matches a pattern.
    """
    if job.messages is None or job.continue_final_message or job.guided_regex is not None:
        return 0
    return tokenizer.spaces_before_answers


def room(n_prompt: int, job: Job, context: int) -> int:
    """How many tokens one completion may have. Raises ApiError when they do not fit the context."""
    chat = job.messages is not None
    wanted = job.max_tokens
    if wanted is None:
        wanted = context - n_prompt if chat else min(DEFAULT_MAX_TOKENS, context - n_prompt)
        needed = n_prompt + max(wanted, 1)
    else:
        needed = n_prompt + wanted
    if needed > context:
        raise bad_request(
            f"This model's context is {context} tokens, and {needed} are asked for ({n_prompt} in the "
            f"{'messages' if chat else 'prompt'}, {needed - n_prompt} in the completion): shorten either",
            "messages" if chat else "prompt",
            "context_length_exceeded",
        )
    return wanted


def spelled(tokenizer: Tokenizer, id: int) -> tuple[str, bytes | None]:
    """A token as the protocol writes it, and its bytes, which a special token lacks."""
    data: bytes = tokenizer.token_bytes[id] if id < len(tokenizer.token_bytes) else b""
    if not data:
        return tokenizer.inner.id_to_token(id) or f"<|unused_{id}|>", None
    return written(data), data


def written(data: bytes | Sequence[int]) -> str:
    """Bytes of a token as OpenAI writes those that are no text alone."""
    data = bytes(data)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
