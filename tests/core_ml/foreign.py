"""Small tokenizers of the kinds that other labs publish, learned from a few texts, in the form of their files."""

import json
from functools import cache
from typing import Any

import tokenizers
import transformers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "the cat sees a tree, the dog likes the sea",
    "What is 1 + 2? It is 3, the answer says.",
    "été, naïve, déjà vu: über alle Vögel, niño",
    "[INST] Hi, tell me a tale! [/INST] There is a tale.",
] * 20
SPACE = "▁"


@cache
def learned(head: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges as SentencePiece's: special tokens, bytes, then pieces of letters."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE)
    inner.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=220, show_progress=False))
    model = json.loads(inner.to_str())["model"]
    known = model["vocab"]
    # Every way in which a piece falls into two others, as those have who convert SentencePiece's models.
    merges = [
        (piece[:at], piece[at:])
        for piece in known
        for at in range(1, len(piece))
        if piece[:at] in known and piece[at:] in known
    ]
    pieces = [*head, *(f"<0x{byte:02X}>" for byte in range(256)), *known]
    return {piece: id for id, piece in enumerate(pieces)}, merges


def special(inner: tokenizers.Tokenizer, *names: str) -> tokenizers.Tokenizer:
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return inner


def begins(inner: tokenizers.Tokenizer, name: str) -> None:
    inner.post_processor = processors.TemplateProcessing(
        single=f"{name} $A", special_tokens=[(name, inner.token_to_id(name))]
    )


def llama2(*more: str) -> tokenizers.Tokenizer:
    """As Llama 2's and Mistral's files are: a space before each text, bytes for what has no token."""
    vocab, merges = learned(("<unk>", "<s>", "</s>", *more))
    inner = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    steps = [
        decoders.Replace(SPACE, " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    inner.decoder = decoders.Sequence(steps)
    special(inner, "<unk>", "<s>", "</s>", *more)
    begins(inner, "<s>")
    return inner


def llama(**options: Any) -> tokenizers.Tokenizer:
    """As `transformers` makes Llama's anew: a space before a document alone."""
    vocab, merges = learned(("<unk>", "<s>", "</s>"))
    return transformers.LlamaTokenizerFast(
        vocab=dict(vocab), merges=list(merges), **options
    ).backend_tokenizer


def gemma() -> tokenizers.Tokenizer:
    """As `transformers` makes Gemma's, with its marks of turns and a run of spaces as a word."""
    vocab, merges = learned(
        ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
    )
    vocab, merges = {**vocab, SPACE * 2: len(vocab)}, [(SPACE, SPACE), *merges]
    inner = transformers.GemmaTokenizer(vocab=vocab, merges=merges).backend_tokenizer
    special(inner, "<start_of_turn>", "<end_of_turn>")
    inner.add_tokens([AddedToken(SPACE * 2, normalized=False), AddedToken("<table>", normalized=False)])
    return inner


def unigram() -> tokenizers.Tokenizer:
    """As T5's and many translators' are."""
    names = ["<pad>", "</s>", "<unk>"]
    pieces = [piece for piece in learned(tuple(names))[0] if not piece.startswith("<")]
    scores = [(piece, -8.0 + min(len(piece), 7) - place / 1024) for place, piece in enumerate(pieces)]
    inner = tokenizers.Tokenizer(models.Unigram([(name, 0.0) for name in names] + scores, unk_id=2))
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE)
    inner.decoder = decoders.Metaspace(replacement=SPACE)
    return special(inner, *names)


def wordpiece() -> tokenizers.Tokenizer:
    """As BERT's is: small letters, words cut at signs."""
    inner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=150, show_progress=False, special_tokens=names)
    inner.train_from_iterator(TEXTS, trainer)
    return inner


def words() -> tokenizers.Tokenizer:
    """Whole words, joined by spaces."""
    inner = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.train_from_iterator(
        TEXTS, trainers.WordLevelTrainer(special_tokens=["<s>", "</s>", "<unk>"], show_progress=False)
    )
    return inner


def ends_of_words() -> tokenizers.Tokenizer:
    """As GPT-1's is: BPE whose tokens say where a word ends."""
    inner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=150, end_of_word_suffix="</w>", special_tokens=["<s>", "<unk>"], show_progress=False
    )
    inner.train_from_iterator(TEXTS, trainer)
    return inner


KINDS = {
    "llama 2": llama2,
    "llama": llama,
    "gemma": gemma,
    "unigram": unigram,
    "wordpiece": wordpiece,
    "words": words,
    "ends of words": ends_of_words,
}
