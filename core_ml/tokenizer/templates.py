"""Which protocol a chat template writes.

A template is a program, and a stranger's is not run here. It is read as far as it can be: it must write the marks
of a protocol that is known and none of the things that those do not have.
"""

import re
from collections.abc import Collection

from core_ml.errors import UserError
from core_ml.tokenizer.protocol import Protocol

MAX_CHARS = 100_000
CHATML = Protocol(name="ChatML", opening=("<|im_start|>", "{role}\n"), end="<|im_end|>", closing=("\n",))
LLAMA3 = Protocol(
    name="Llama 3",
    begin=("<|begin_of_text|>",),
    opening=("<|start_header_id|>", "{role}", "<|end_header_id|>", "\n\n"),
    end="<|eot_id|>",
    trims=True,
)
GEMMA = Protocol(
    name="Gemma",
    begin=("<bos>",),
    opening=("<start_of_turn>", "{role}\n"),
    end="<end_of_turn>",
    closing=("\n",),
    roles=("user", "assistant"),
    assistant="model",
    trims=True,
    tokens=("<bos>", "<start_of_turn>", "<end_of_turn>"),
)
KNOWN = "ChatML, those of Llama 2 and 3, Mistral's and Gemma's are"
# What a template may do that these protocols do not have: it changes what is written with the day or a switch.
BEYOND = (
    *("strftime_now", "date_string", "Today Date", "custom_instructions", "reasoning_mode"),
    *("true == true", "USE_DEFAULT_PROMPT", "[SYSTEM_PROMPT]"),
)
_SYSTEM = re.compile(r"<\|im_start\|>system\\n([^'\"{}<]+)<\|im_end\|>")
_CONTENT = r"""(?:message\[["']content["']\]|message\.content|content)\s*(?P<trims>\.strip\(\)|\|\s*trim)?"""
_QUESTION = re.compile(
    r"""(?P<bos>bos_token\s*\+\s*)?(["'])(?P<begin><s>)?(?P<before> ?\[INST\] ?)\2\s*\+\s*"""
    + _CONTENT
    + r"""\s*\+\s*(["'])(?P<after> ?\[/INST\] ?)\6"""
)
_ANSWER = re.compile(
    r"""(?:(["'])(?P<before> ?)\1\s*\+\s*)?"""
    + _CONTENT
    + r"""\s*\+\s*(?:(["'])(?P<after> ?)\4\s*\+\s*)?(?:eos_token(?P<behind>\s*\+\s*["'] ["'])?|["']</s>["']\s*\}\}(?P<space> )?)"""
)
_BEGIN = re.compile(r"\{\{-?\s*bos_token\s*-?\}\}|(?:^|%\})<s>(?:$|\{%)")
_SAID = r"""(?:system_message|messages\[0\]\[["']content["']\])"""
_SYS = re.compile(r"""(["'])<<SYS>>\\n\1\s*\+\s*""" + _SAID + r"""\s*\+\s*(["'])\\n<</SYS>>\\n\\n\2""")
_HEAD = re.compile(
    r"""loop\.first and system_message is defined\s*-?%\}\s*\{\{-?\s*(["']) ?\[INST\] ?\1\s*\+\s*system_message\s*\+\s*(["'])\\n\\n\2"""
    r"""|set head = "" \+ messages\[0\]\['content'\] \+ "\\n\\n" %\}"""
)


def recognize(template: str, specials: Collection[str] = ()) -> Protocol:
    """The protocol that a chat template writes. Raises UserError that tells what is in the way.

    Args:
        specials: the special tokens of its tokenizer; the same template may be text to one and marks to another.
    """
    if len(template) > MAX_CHARS:
        raise UserError("its chat template is too long to be read: import it as a base model")
    beyond = next((word for word in BEYOND if word in template), None)
    if beyond is not None:
        raise UserError(
            f"its chat template writes more than what is said ({beyond}), which cannot be mapped: "
            "import it as a base model, to be completed or fine-tuned"
        )
    if LLAMA3.marks - {"<|begin_of_text|>"} <= {mark for mark in LLAMA3.marks if mark in template}:
        return LLAMA3
    if "<|im_start|>assistant\\n" in template and CHATML.end in template:
        system = _SYSTEM.search(template)
        return CHATML.model_copy(update={"default_system": _unescaped(system[1]) if system else None})
    if "<start_of_turn>model\\n" in template and GEMMA.end in template:
        return GEMMA.model_copy(update={"trims": "trim" in template})
    found = _of_questions(template, specials)
    if found is None:
        raise UserError(f"its chat template is of a protocol that is not covered: {KNOWN}")
    return found


def _of_questions(template: str, specials: Collection[str]) -> Protocol | None:
    """Llama 2's or Mistral's; their templates differ in spaces, which are tokens."""
    question, answer = _QUESTION.search(template), _ANSWER.search(template)
    each = question is not None and bool(question["bos"] or question["begin"])
    sys, head = _SYS.search(template), _HEAD.search(template)
    unclear = ("<<SYS>>" in template and sys is None) or not (each or _BEGIN.search(template))
    if question is None or answer is None or unclear:
        return None
    before, after = _cut(question["before"], specials), _cut(question["after"], specials)
    system = ("<<SYS>>\n", "\n<</SYS>>\n\n") if sys else ("", "\n\n") if head else None
    trims = question["trims"] is not None
    return Protocol(
        name="Llama 2" if each else "Mistral",
        begin=() if each else ("<s>",),
        opening=(),
        end="</s>",
        closing=(" ",) if answer["behind"] or answer["space"] else (),
        roles=("user", "assistant") if system is None else ("system", "user", "assistant"),
        trims=trims,
        tokens=("<s>", "</s>", *(mark for mark in ("[INST]", "[/INST]") if mark in specials)),
        question=(("<s>", *before) if each else before, after),
        answer=(answer["before"] or "", answer["after"] or ""),
        trims_answers=answer["trims"] is not None and not trims,
        system=system,
    )


def _cut(text: str, specials: Collection[str]) -> tuple[str, ...]:
    """A text of a template at the special tokens in it."""
    mark = text.strip()
    if mark not in specials:
        return (text,)
    begin, _, end = text.partition(mark)
    return tuple(piece for piece in (begin, mark, end) if piece)


def _unescaped(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\'", "'")
