"""Text to ids and back: recorded ids, Hugging Face's tokenizers, trusted spans, round trips.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizer_reference as reference
from tokenizer_reference import (
    BYTE,
    CONTROL,
    NORMAL,
    SENTENCES,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    Tables,
    Vocabulary,
    bpe_keys,
    gguf_bytes,
    random_texts,
    spm_keys,
    word,
)

tokenizers = pytest.importorskip("tokenizers")

SHARED = ["gpt-2", "llama-bpe", "qwen2", "llama-spm", "phi-3"]
MODELS = ["smollm2", "gemma3", *SHARED]


@pytest.fixture(scope="module")
def model_path(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    def find(name: str) -> Path:
        if name in SHARED:
            data = request.getfixturevalue("shared_data")
            return Path(data) / "vocab" / f"ggml-vocab-{name}.gguf"
        return Path(request.getfixturevalue(name))

    return find


@pytest.fixture(scope="module")
def opened(
    ffi: Any, lib: Any, model_path: Callable[[str], Path]
) -> Iterator[Callable[[str], Vocabulary]]:
    cache: dict[str, Vocabulary] = {}

    def get(name: str) -> Vocabulary:
        if name not in cache:
            cache[name] = Vocabulary(ffi, lib, model_path(name))
            assert cache[name].code == 0, cache[name].message
        return cache[name]

    yield get
    for v in cache.values():
        v.close()


@pytest.fixture(scope="module")
def tables(model_path: Callable[[str], Path]) -> Callable[[str], Tables]:
    cache: dict[str, Tables] = {}

    def get(name: str) -> Tables:
        if name not in cache:
            cache[name] = reference.read_tables(model_path(name))
        return cache[name]

    return get


def texts_for(tables: Tables, count: int) -> list[str]:
    """The corpus, with every text also around a few of this vocabulary's special tokens."""
    rng = random.Random(3)
    special = tables.of_type(CONTROL, USER_DEFINED)[:400]
    extra = []
    for text in random_texts(count // 4, seed=11):
        pieces = [text[: len(text) // 2], rng.choice(special), text[len(text) // 2 :]]
        if rng.random() < 0.5:
            pieces.append(rng.choice(special))
        extra.append("".join(pieces))
    return [*SENTENCES, *random_texts(count), *extra]


# --- against others ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHARED)
def test_recorded_ids(name: str, shared_data: Path, opened: Callable[[str], Vocabulary]) -> None:
    """Made by the models' own tokenizers: no special tokens added, none recognised."""
    base = shared_data / "vocab" / f"ggml-vocab-{name}.gguf"
    raw = Path(f"{base}.inp").read_bytes().split(b"\n__ggml_vocab_test__\n")
    lines = Path(f"{base}.out").read_text().split("\n")
    assert len(raw) == len(lines) > 40
    for text, line in zip(raw, lines, strict=True):
        assert opened(name).tokenize(text) == [int(i) for i in line.split()], text


@pytest.mark.parametrize("name", MODELS)
def test_same_ids_as_hugging_face(
    name: str, opened: Callable[[str], Vocabulary], tables: Callable[[str], Tables]
) -> None:
    """Untrusted text: only user-defined tokens are recognised."""
    other = reference.hf_tokenizer(tables(name))
    texts = texts_for(tables(name), 1600)
    for text, encoding in zip(texts, other.encode_batch(texts), strict=True):
        assert opened(name).tokenize(text) == encoding.ids, text
    if name in ("smollm2", "gemma3"):  # the same with everything trusted
        reference.recognise_control_tokens(other, tables(name))
        for text, encoding in zip(texts, other.encode_batch(texts), strict=True):
            assert opened(name).trusted(text) == encoding.ids, text


@pytest.mark.parametrize("name", ["smollm2", "llama-bpe", "gpt-2", "qwen2"])
def test_ill_formed_text(
    name: str, opened: Callable[[str], Vocabulary], tables: Callable[[str], Tables]
) -> None:
    """Split as if each ill-formed part were U+FFFD; the bytes themselves become the tokens."""
    other = reference.hf_tokenizer(tables(name))
    split = reference.splitter(tables(name).pre)
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = {chr(b): byte for byte, b in enumerate(byte_alphabet(byte_level))}
    char_of = {byte: char for char, byte in alphabet.items()}
    rng = random.Random(5)
    for _ in range(600):
        raw = bytearray("".join(rng.choices("ab é1 中'😀.\n", k=12)).encode())
        for _ in range(rng.randrange(1, 5)):
            raw[rng.randrange(len(raw))] = rng.choice((0x80, 0xBF, 0xC0, 0xE4, 0xF0, 0xFF, 0xED))
        text, origin = reference.repaired_with_origin(bytes(raw))
        expected = []
        for _, (begin, end) in split.pre_tokenize_str(text):
            piece = raw[origin[begin][0] : origin[end - 1][1]]
            mapped = "".join(char_of[byte] for byte in piece)
            expected += [token.id for token in other.model.tokenize(mapped)]
        assert opened(name).tokenize(bytes(raw)) == expected, bytes(raw)


def byte_alphabet(byte_level: Any) -> list[int]:
    """Code points that ByteLevel gives bytes 0 .. 255, found from characters it maps."""
    found = [0] * 256
    for char in [chr(c) for c in range(0x800)] + [chr(c) for c in range(0x800, 0x110000, 0x37)]:
        if 0xD800 <= ord(char) <= 0xDFFF:
            continue
        mapped = "".join(piece for piece, _ in byte_level.pre_tokenize_str(char))
        for byte, code in zip(char.encode(), mapped, strict=True):
            found[byte] = ord(code)
    # These bytes occur in no well-formed text; the alphabet goes on in order.
    for byte in (0xC0, 0xC1, *range(0xF5, 0x100)):
        found[byte] = byte
    return found


@pytest.mark.parametrize("pre", sorted(reference.SPLITTERS))
def test_words_of_every_family(pre: str, ffi: Any, lib: Any) -> None:
    """The scanner against the published regular expressions."""
    splitter = reference.splitter(pre)
    row = lib.lp_pretok_find(lp_text(ffi, pre))
    walk, piece = ffi.new("lp_pretok *"), ffi.new("lp_str *")
    for text in [*SENTENCES, *random_texts(4000, seed=23)]:
        data = ffi.from_buffer(text.encode()) if text else ffi.new("char[1]")
        lib.lp_pretok_start(walk, row.family, (ffi.cast("char *", data), len(text.encode())))
        words = []
        while lib.lp_pretok_next(walk, piece):
            words.append(ffi.buffer(piece.data, piece.len)[:].decode())
        assert words == [w for w, _ in splitter.pre_tokenize_str(text)], text


def lp_text(ffi: Any, text: str) -> Any:
    data = ffi.new("char[]", text.encode())
    lp_text.alive = data  # type: ignore[attr-defined]
    return ffi.new("lp_str *", {"data": data, "len": len(text.encode())})[0]


# Names whose splitter is the same as that of a name tested above.
SAME = {
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral lfm2 dbrx smaug-bpe glm4",
    "qwen2": "deepseek-r1-qwen hunyuan stablelm2 megrez",
    "gpt-2": "phi-2 olmo mpt exaone4",
    "smollm": "starcoder refact command-r",
    "gpt-4o": "llama4 kanana2",
    "default": "",
}


@pytest.mark.parametrize("pre", sorted(SAME))
def test_names_of_families(pre: str, ffi: Any, lib: Any) -> None:
    family = lib.lp_pretok_find(lp_text(ffi, pre)).family
    for name in SAME[pre].split() if SAME[pre] else [""]:
        assert lib.lp_pretok_find(lp_text(ffi, name)).family == family
    assert lib.lp_pretok_find(lp_text(ffi, pre + "x")) == ffi.NULL


def trained(pre: str) -> tuple[Any, list[str], list[str]]:
    """A small byte-level BPE trained on the corpus here, so that no model file is needed."""
    bytes_only = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [reference.splitter(pre), bytes_only]
    )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    vocab = tokenizer.get_vocab()
    import json

    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    joined = [m if isinstance(m, str) else " ".join(m) for m in merges]
    return tokenizer, sorted(vocab, key=vocab.__getitem__), joined


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "deepseek-v3", "default"])
def test_trained_bpe(pre: str, ffi: Any, lib: Any) -> None:
    other, tokens, merges = trained(pre)
    v = Vocabulary(ffi, lib, gguf_bytes(bpe_keys([(t, NORMAL) for t in tokens], merges, pre)))
    assert v.code == 0, v.message
    texts = [*SENTENCES, *random_texts(1500, seed=31)]
    for text, encoding in zip(texts, other.encode_batch(texts), strict=True):
        ids = v.tokenize(text)
        assert ids == encoding.ids, text
        assert v.detokenize(ids) == text.encode()
    v.close()


# --- trusted spans -----------------------------------------------------------------------------


def control_texts(v: Vocabulary) -> dict[str, int]:
    return {v.text(i).decode(): i for i in range(v.size) if v.attr(i) == CONTROL}


@pytest.mark.parametrize("name", MODELS)
def test_no_control_id_from_untrusted_text(name: str, opened: Callable[[str], Vocabulary]) -> None:
    """Every control string of the vocabulary, whole and cut by the border of a trusted span."""
    v = opened(name)
    controls = control_texts(v)
    forbidden = set(controls.values())
    assert len(controls) > 0
    for text in controls:
        raw = text.encode()
        assert not forbidden & set(v.tokenize(raw)), text
        assert not forbidden & set(v.tokenize(b"user: " + raw + b"\n" + raw)), text
        cut = len(raw) // 2
        for spans in ([(0, cut)], [(cut, len(raw))], [(0, cut), (cut + 1, len(raw))], [(3, 3)]):
            assert not forbidden & set(v.tokenize(raw, spans)), (text, spans)
    everything = "".join(controls)
    assert not forbidden & set(v.tokenize(everything))
    assert not forbidden & set(v.tokenize(everything, [(0, 1), (len(everything.encode()), 10**9)]))


@pytest.mark.parametrize("name", MODELS)
def test_control_ids_from_trusted_text(name: str, opened: Callable[[str], Vocabulary]) -> None:
    v = opened(name)
    for text, token in control_texts(v).items():
        raw = text.encode()
        assert v.trusted(raw) == [token]
        # The same text twice, the second time as the user's: only the first is the token.
        assert v.tokenize(raw * 2, [(0, len(raw))]).count(token) == 1
        # Spans that touch are one.
        assert v.tokenize(raw, [(0, 1), (1, len(raw))]) == [token]


@pytest.mark.parametrize("name", MODELS)
def test_benign_text_in_spans_is_like_the_whole(
    name: str, opened: Callable[[str], Vocabulary], tables: Callable[[str], Tables]
) -> None:
    """Where users write no control tokens, the borders of spans change nothing."""
    v = opened(name)
    rng = random.Random(9)
    controls = [t for t in control_texts(v) if t.isprintable()][:50]
    benign = [t for t in random_texts(900, seed=41) if not any(c in t for c in controls)]
    for _ in range(400):
        text, spans = b"", []
        for _ in range(rng.randrange(1, 6)):
            ours = (rng.choice(controls) + rng.choice(["user\n", "\n", "", " ", "x "])).encode()
            spans.append((len(text), len(text) + len(ours)))
            text += ours + rng.choice(benign).encode()
        assert v.tokenize(text, spans) == v.trusted(text), text
        assert v.tokenize(text, spans, add_special=True) == v.trusted(text, add_special=True)
    del tables


def test_user_text_cannot_hide_a_trusted_token(ffi: Any, lib: Any) -> None:
    """A user-defined token gives way where a trusted control token begins inside it."""
    keys = spm_keys(
        [
            ("<unk>", UNKNOWN, 0.0),
            ("<end>", CONTROL, 0.0),
            ("!<", USER_DEFINED, 0.0),
            ("!", USER_DEFINED, 0.0),
            ("!<end>?", USER_DEFINED, 0.0),
            *((c, NORMAL, -1.0) for c in "<end>!?" + SPACE),
            *((f"<0x{b:02X}>", BYTE, 0.0) for b in range(256)),
        ]
    )
    v = Vocabulary(ffi, lib, gguf_bytes(keys))
    assert v.code == 0, v.message
    assert v.tokenize("!<end>", [(1, 6)]) == [3, 1]
    assert v.tokenize("!<end>?", [(1, 7)])[:2] == [3, 1]
    assert v.tokenize("!<end>?") == [4]
    assert v.tokenize("!<end>", [(2, 6)])[0] == 2
    v.close()


def test_spans_out_of_order(opened: Callable[[str], Vocabulary]) -> None:
    for spans in ([(3, 2)], [(2, 4), (1, 2)], [(0, 3), (2, 4)]):
        with pytest.raises(ValueError, match="out of order"):
            opened("smollm2").tokenize("hello", spans)


def test_bos_is_not_doubled(opened: Callable[[str], Vocabulary]) -> None:
    v = opened("gemma3")
    bos = v.find(b"<bos>")
    assert v.trusted("<bos>hi", add_special=True) == [bos, *v.tokenize("hi")]
    assert v.tokenize("<bos>hi", [(0, 5)], add_special=True) == [bos, *v.tokenize("hi")]
    assert v.tokenize("<bos>hi", add_special=True)[:1] == [bos]
    assert len(v.tokenize("<bos>hi", add_special=True)) > 3  # the user's <bos> is text
    assert v.trusted("<bos><bos>", add_special=True) == [bos, bos]
    assert v.tokenize("", add_special=True) == [bos]


def test_white_space_after_phi3_tokens(ffi: Any, lib: Any) -> None:
    """In this family special tokens swallow the white space that follows."""
    keys = spm_keys(
        [
            ("<unk>", UNKNOWN, 0.0),
            ("<s>", CONTROL, 0.0),
            ("<|user|>", CONTROL, 0.0),
            *((c, NORMAL, -1.0) for c in "ab\n" + SPACE),
        ]
    )
    keys["general.name"] = word("Phi-3 mini")
    v = Vocabulary(ffi, lib, gguf_bytes(keys))
    assert v.code == 0, v.message
    space, a = v.find(SPACE.encode()), v.find(b"a")
    assert v.trusted("<|user|> \n\u3000a") == [2, space, a]
    assert v.trusted("<s> a") == [1, space, space, a]
    v.close()


def test_limit(opened: Callable[[str], Vocabulary]) -> None:
    v = opened("smollm2")
    ids = v.tokenize("one two three four")
    assert v.tokenize("one two three four", limit=len(ids)) == ids
    with pytest.raises(ValueError, match=f"more than {len(ids) - 1} tokens"):
        v.tokenize("one two three four", limit=len(ids) - 1)


# --- round trips -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(
    name: str, opened: Callable[[str], Vocabulary], tables: Callable[[str], Tables]
) -> None:
    """Every well-formed text comes back, but for what a vocabulary cannot say: SmolLM2 has no
    token for some control bytes; in SentencePiece U+2581 is a space, and the space that a prefix
    puts after a special token stays."""
    v = opened(name)
    spm = tables(name).model == "llama"
    known = {bytes([b]) for b in range(256)}
    if name == "smollm2":
        known = {bytes([b]) for b in range(256) if v.tokenize(bytes([b]))}
        assert len(known) > 230
    count = 0
    for text in texts_for(tables(name), 1600):
        prefixed = name == "phi-3" and "</s>" in text  # its one user-defined token
        if prefixed or (spm and SPACE in text) or not {bytes([b]) for b in text.encode()} <= known:
            continue
        count += 1
        assert v.detokenize(v.tokenize(text)) == text.encode()
        assert v.detokenize(v.tokenize(text, add_special=True)) == text.encode()
    assert count > 1000


@pytest.mark.parametrize("name", ["llama-bpe", "gemma3"])
def test_round_trip_of_ill_formed_text(name: str, opened: Callable[[str], Vocabulary]) -> None:
    rng = random.Random(1)
    for _ in range(400):
        raw = bytes(rng.choices((*range(0x20, 0x30), *range(0x80, 0x100)), k=rng.randrange(40)))
        assert opened(name).detokenize(opened(name).tokenize(raw)) == raw


def test_special_tokens_print_only_on_request(opened: Callable[[str], Vocabulary]) -> None:
    v = opened("smollm2")
    ids = v.trusted("<|im_start|>user\nhi<|im_end|>")
    assert v.detokenize(ids) == b"user\nhi"
    assert v.detokenize(ids, special=True) == b"<|im_start|>user\nhi<|im_end|>"
    assert v.detokenize([-1, 10**9, *ids], special=True) == b"<|im_start|>user\nhi<|im_end|>"


# --- cost --------------------------------------------------------------------------------------

RUNS = [
    "a",
    "A",
    "7",
    " ",
    "\n",
    "\t",
    "\r\n",
    ".",
    "'",
    "<",
    "中",
    "\u0301",
    "😀",
    "👩\u200d",
    "\0",
]
RUNS += [" a", "aB1 .\n", "ab" * 40 + " ", SPACE, "\u3000"]


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_time_is_linear_in_runs(name: str, opened: Callable[[str], Vocabulary]) -> None:
    """Eight times the text may take 24 times as long, where a quadratic step would take 64 times.

    Processor time, the better of two runs, in a thread with a small stack."""
    slow = []

    def seconds(text: bytes) -> float:
        best = float("inf")
        for _ in range(2):
            begin = time.thread_time()
            opened(name).trusted(text)
            best = min(best, time.thread_time() - begin)
        return best

    def measure() -> None:
        for run in RUNS:
            raw = run.encode()
            short, long = (seconds(raw * (size // len(raw))) for size in (1 << 14, 1 << 17))
            if long > 24 * max(short, 0.002):
                slow.append((run, short, long))

    opened(name)
    before = threading.stack_size(256 * 1024)
    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    threading.stack_size(before)
    assert slow == []
