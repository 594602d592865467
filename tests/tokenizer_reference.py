"""Second opinions for the tokenizer tests: Hugging Face tokenizers made from a GGUF's own tables,
texts of many kinds, and a vocabulary opened through the C library.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import codecs
import mmap
import random
import struct
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"

# The splitters as the model makers publish them (tokenizer.json), in sequence.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _K + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _TAIL
_QWEN2 = _K + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _TAIL
_QWEN35 = _K + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _TAIL
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_P = r"[^\r\n\p{L}\p{N}]?"
_GPT4O = (
    f"{_P}{_UPPER}*{_LOWER}+{_K}?|{_P}{_UPPER}+{_LOWER}*{_K}?"
    + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    + _TAIL
)
_TEKKEN = (
    f"{_P}{_UPPER}*{_LOWER}+|{_P}{_UPPER}+{_LOWER}*" + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _TAIL
)
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    + r"| ?[\p{P}\p{S}]+[\r\n]*|"
    + _TAIL
)
SPLITTERS: dict[str, list[str]] = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [_LLAMA3],
    "qwen2": [_QWEN2],
    "qwen35": [_QWEN35],
    "gpt-4o": [_GPT4O],
    "tekken": [_TEKKEN],
    "deepseek-v3": [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
}


# --- the vocabulary of a file, read by the gguf package ----------------------------------------


@dataclass(frozen=True)
class Tables:
    name: str
    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]
    add_space_prefix: bool

    def of_type(self, *types: int) -> list[str]:
        return [t for t, kind in zip(self.tokens, self.types, strict=True) if kind in types]


def read_tables(path: Path) -> Tables:
    fields = read_keys(path.read_bytes())

    def get(key: str, otherwise: Any) -> Any:
        return fields.get(f"tokenizer.ggml.{key}", otherwise)

    def texts(key: str) -> list[str]:
        return [raw.decode() for raw in get(key, [])]

    tokens = texts("tokens")
    return Tables(
        fields.get("general.name", b"").decode(),
        get("model", b"").decode(),
        get("pre", b"default").decode(),
        tokens,
        list(get("token_type", [NORMAL] * len(tokens))),
        list(get("scores", [])),
        texts("merges"),
        get("add_space_prefix", True),
    )


# A reader of our own in a few lines: the gguf package takes a minute for 280,000 merges.
_FORMATS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9


def read_keys(data: bytes) -> dict[str, Any]:
    """All keys of a GGUF; strings stay bytes."""
    at = 0

    def take(format_: str) -> tuple[Any, ...]:
        nonlocal at
        values = struct.unpack_from("<" + format_, data, at)
        at += struct.calcsize("<" + format_)
        return values

    def string() -> bytes:
        nonlocal at
        (length,) = take("Q")
        at += length
        return data[at - length : at]

    def value(kind: int) -> Any:
        if kind == _STRING:
            return string()
        if kind == _ARRAY:
            element, count = take("IQ")
            if element == _STRING:
                return [string() for _ in range(count)]
            return take(f"{count}{_FORMATS[element]}")
        return take(_FORMATS[kind])[0]

    magic, _version, _tensors, n_keys = take("4sIqq")
    assert magic == b"GGUF"
    return {string().decode(): value(take("I")[0]) for _ in range(n_keys)}


# --- Hugging Face ------------------------------------------------------------------------------


def splitter(pre: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r), "isolated") for r in SPLITTERS[pre]]
    )


def hf_tokenizer(tables: Tables) -> Any:
    """The same vocabulary in Hugging Face's library, with user-defined tokens recognised."""
    tokenizer = _hf_bpe(tables) if tables.model == "gpt2" else _hf_spm(tables)
    tokenizer.add_tokens([_added(tables, text) for text in tables.of_type(USER_DEFINED)])
    return tokenizer


def recognise_control_tokens(tokenizer: Any, tables: Tables) -> None:
    tokenizer.add_special_tokens([_added(tables, text) for text in tables.of_type(CONTROL)])


def _added(tables: Tables, text: str) -> Any:
    from tokenizers import AddedToken

    # What Phi-3's tokenizer_config.json says of its tokens; a GGUF cannot say it.
    phi3 = "phi3" in tables.name.lower().replace("-", "")
    strips = phi3 and text not in ("<unk>", "<s>", "<|endoftext|>")
    return AddedToken(text, normalized=False, rstrip=strips)


def _hf_bpe(tables: Tables) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocab = {text: i for i, text in enumerate(tables.tokens)}
    merges = [tuple(m.split(" ")) for m in tables.merges]
    ignore_merges = tables.pre in ("llama-bpe", "tekken")
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([splitter(tables.pre), bytes_only])
    return tokenizer


def _hf_spm(tables: Tables) -> Any:
    from tokenizers import Tokenizer, models, normalizers

    vocab = {text: i for i, text in enumerate(tables.tokens)}
    model = models.BPE(
        vocab=vocab,
        merges=_merges_of_scores(tables, vocab),
        unk_token=tables.of_type(UNKNOWN, CONTROL)[0],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    steps: list[Any] = [normalizers.Prepend(SPACE)] if tables.add_space_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    return tokenizer


def _merges_of_scores(tables: Tables, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every split of a token into two tokens, best score first: what SentencePiece would join."""
    usable = {
        text
        for text, kind in zip(tables.tokens, tables.types, strict=True)
        if kind in (NORMAL, UNUSED)
    }
    found = []
    for text in usable:
        score = -tables.scores[vocab[text]]
        for i in range(1, len(text)):
            if text[:i] in usable and text[i:] in usable:
                found.append((score, vocab[text], i, text))
    found.sort()
    return [(text[:i], text[i:]) for _, _, i, text in found]


# --- texts -------------------------------------------------------------------------------------

SENTENCES = [
    "",
    " ",
    "  ",
    "   leading and trailing   ",
    "Hello, world! It's 3.14 o'clock; we'RE done, they'LL see. I'd've known.",
    "'s 't 'RE 'Ve 'M 'lL 'D ' '' ''s 'sst '\u017f '\u017ftop",
    "tabs\tand\t\ttabs\n\nnewlines\r\n\r\n  indented\n\t\n   \n x",
    "1 12 123 1234 12345 1,234,567.89 ½ ⅷ ٣٤٥ १२३ 𝟙𝟚𝟛 ²³",
    "def f(x: int) -> str:\n    return f'{x!r}'  # comment\n\n\nclass A:\n\tpass\n",
    '#include <stdio.h>\nint main(void) { return printf("%d\\n", 0x7fffffff) >> 2; }\r\n',
    '<html><body class="a">&nbsp;<br/></body></html> https://example.org/a?b=c&d=%20#x',
    "SELECT * FROM t WHERE a != 'b' AND c >= 10; -- ok",
    "Ünïcödé ﬁne ﬂag Straße ŒUVRE ĲSSEL ǅungla ǈ ŉ",
    "Русский текст с ёлкой, ЗАГЛАВНЫЕ и Смешанные.",
    "Ελληνικά κείμενο με τόνους ΚΑΙ ΚΕΦΑΛΑΙΑ",
    "العربية مع تَشْكِيل و١٢٣ أرقام",
    "עברית עם נִקּוּד וסימנים",
    "हिन्दी में देवनागरी लिपि और संयुक्ताक्षर क्ष त्र",
    "ภาษาไทยไม่มีช่องว่าง และสระเอ้า",
    "한국어 문장입니다. 조합형 각힣",
    "日本語のテキスト、カタカナ、ひらがな。漢字ー々〆〇",
    "我想在apple工作1314151天~ 中文,标点。「引号」",
    "កាន់តែពិសេសអាច ខ្មែរ မြန်မာ ລາວ",
    "தமிழ் తెలుగు ಕನ್ನಡ മലയാളം বাংলা ਗੁਰਮੁਖੀ",
    "አማርኛ ქართული Հայերեն ᏣᎳᎩ",
    "😀😁 🚀 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 😶‍🌫️ ☺️ ✅ ❤",
    "e\u0301 a\u0308\u0323 \u0301\u0302 x\u200dy\u200cz \u202eabc\u202c \ufeffBOM",
    "\u00a0nbsp\u2003em\u3000ideographic\u2028line\u2029para\u0085nel\u180evowel",
    "\x00\x01\x02\x07\x08\x0b\x0c\x0e\x1b[31mred\x1b[0m\x7f\x80\x9f",
    "\U0001d400\U0001d552 \U00020000\U0002a6df \ue000 \U000e0041 \U0010fffd",
    "aaaa" * 40,
    "=" * 70 + "\n" + "-" * 33 + "~" * 9,
    "." * 50 + " " * 50 + "\n" * 50 + "\t" * 50 + "!" * 50,
    "ThisIsCamelCase ALLCAPSWord mixedCASEWord XMLHttpRequest iPhone's McDONALD'S",
    "the quick brown fox jumps over the lazy dog. " * 8,
    "<|im_start|>user\nhi<|im_end|>\n<s>[INST] x [/INST]</s><bos><start_of_turn><0x41><unk>",
    "<|begin_of_text|><|eot_id|><|endoftext|> <|start_header_id|>system<|end_header_id|>",
    "/a//b/// c/ \n/ path/to/file.txt\\back\\slash",
]

ALPHABETS: list[Sequence[str]] = [
    "abcdefghij ABC'sStTrRvVeEmMlLdD",
    " \t\n\r\u00a0\u3000ab1.",
    "0123456789 ab.,½٣",
    "'\"!?.,;:-_()[]{}<>|/\\ \n@#$%^&*~`+=a1",
    "éÉßöÖçñaA \u0301\u0308\u0323'",
    "ǅǈʰªºⅷ²ΣσςЖжßſKÅ ' s",
    "中文字日本語カタひら한글 a1。,",
    "हिन्दीक्षไทยภاعربي٣ a",
    "😀👍🏽\u200d\ufe0f🇩🇪❤ a!\n",
    "\x00\x01\x1b\x7f\x85\u200b\u202e\ufeff\ue000a 1'",
    "ab▁ _Ġ",
]


def stable(char: str) -> bool:
    """Assigned since this interpreter's Unicode at least: versions of libraries differ beyond."""
    return unicodedata.category(char) not in ("Cn", "Cs")


def random_texts(count: int, seed: int = 7) -> list[str]:
    """Reproducible strings from one alphabet, from several, or from all of Unicode."""
    rng = random.Random(seed)
    everything = [chr(c) for c in range(0x20000) if stable(chr(c))]
    mixed = [c for alphabet in ALPHABETS for c in alphabet]
    texts = []
    for i in range(count):
        alphabet = [*ALPHABETS, mixed, everything][i % (len(ALPHABETS) + 2)]
        text = "".join(rng.choices(alphabet, k=rng.randrange(1, 60)))
        if rng.random() < 0.3:
            text += rng.choice(text) * rng.randrange(1, 40)
        texts.append(text)
    return texts


def repaired_with_origin(raw: bytes) -> tuple[str, list[tuple[int, int]]]:
    """Text with U+FFFD for each ill-formed part, and the bytes each character stands for."""
    lengths: list[tuple[int, int]] = []

    def replace(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        lengths.append((error.start, error.end))
        return "\ufffd", error.end

    codecs.register_error("lp-origin", replace)
    text = raw.decode("utf-8", "lp-origin")
    bad = dict(lengths)
    origin, at = [], 0
    for char in text:
        end = bad.get(at, at + len(char.encode()))
        origin.append((at, end))
        at = end
    return text, origin


# --- the C library -----------------------------------------------------------------------------


class Vocabulary:
    """lp_vocab of a GGUF file or of bytes, and the calls on it."""

    def __init__(self, ffi: Any, lib: Any, source: Path | bytes) -> None:
        self.ffi, self.lib = ffi, lib
        self.error = ffi.new("lp_error *")
        if isinstance(source, bytes):
            self.bytes = ffi.from_buffer(source)
        else:
            with source.open("rb") as file:
                self.bytes = ffi.from_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self.gguf = ffi.new("lp_gguf **")
        self.pointer = ffi.new("lp_vocab **")
        data = ffi.cast("uint8_t *", self.bytes)
        self.code = lib.lp_gguf_open(self.gguf, data, len(self.bytes), self.error)
        if self.code == 0:
            self.code = lib.lp_vocab_open(self.pointer, self.gguf[0], self.error)

    def close(self) -> None:
        self.lib.lp_vocab_close(self.pointer[0])
        self.lib.lp_gguf_close(self.gguf[0])

    @property
    def message(self) -> str:
        return str(self.ffi.string(self.error.text).decode())

    @property
    def size(self) -> int:
        return int(self.lib.lp_vocab_size(self.pointer[0]))

    def _str(self, raw: bytes) -> tuple[Any, Any]:
        data = self.ffi.new("char[]", raw or b"\0")
        return self.ffi.new("lp_str *", {"data": data, "len": len(raw)})[0], data

    def text(self, token: int) -> bytes:
        text = self.lib.lp_vocab_text(self.pointer[0], token)
        return bytes(self.ffi.buffer(text.data, text.len)) if text.len else b""

    def attr(self, token: int) -> int:
        return int(self.lib.lp_vocab_attr(self.pointer[0], token))

    def find(self, raw: bytes) -> int:
        text, _alive = self._str(raw)
        return int(self.lib.lp_vocab_find(self.pointer[0], text))

    def ends(self) -> set[bytes]:
        ids = range(self.size)
        return {self.text(i) for i in ids if self.lib.lp_vocab_is_end(self.pointer[0], i)}

    def tokenize(
        self,
        raw: bytes | str,
        trusted: Sequence[tuple[int, int]] = (),
        *,
        add_special: bool = False,
        limit: int = 0,
    ) -> list[int]:
        raw = raw.encode() if isinstance(raw, str) else raw
        text, _alive = self._str(raw)
        spans = self.ffi.new("lp_span[]", list(trusted) or 1)
        ids = self.ffi.new("lp_ids *", {"limit": limit})
        self.code = self.lib.lp_tokenize(
            self.pointer[0], text, spans, len(trusted), add_special, ids, self.error
        )
        result = list(self.ffi.unpack(ids.data, ids.len)) if ids.len else []
        self.lib.lp_ids_free(ids)
        if self.code != 0:
            raise ValueError(self.message)
        return result

    def trusted(self, raw: bytes | str, *, add_special: bool = False) -> list[int]:
        raw = raw.encode() if isinstance(raw, str) else raw
        return self.tokenize(raw, [(0, len(raw))], add_special=add_special)

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> bytes:
        out = self.ffi.new("lp_buf *")
        self.lib.lp_buf_init(out, 0)
        array = self.ffi.new("int32_t[]", list(ids) or 1)
        self.lib.lp_detokenize(self.pointer[0], array, len(ids), special, out)
        raw = bytes(self.ffi.buffer(out.data, out.len)) if out.len else b""
        self.lib.lp_buf_free(out)
        return raw


# --- small files made for a test ---------------------------------------------------------------


@dataclass(frozen=True)
class Value:
    """A value with a GGUF type of one's choice; `element` makes it an array."""

    type: int
    data: Any
    element: int | None = None


def gguf_bytes(keys: dict[str, Value]) -> bytes:
    def text(data: str | bytes) -> bytes:
        raw = data.encode() if isinstance(data, str) else data
        return struct.pack("<Q", len(raw)) + raw

    def one(kind: int, data: Any) -> bytes:
        return text(data) if kind == _STRING else struct.pack("<" + _FORMATS[kind], data)

    out = [b"GGUF", struct.pack("<Iqq", 3, 0, len(keys))]
    for key, value in keys.items():
        out += [text(key), struct.pack("<I", value.type)]
        if value.element is None:
            out.append(one(value.type, value.data))
        else:
            out.append(struct.pack("<IQ", value.element, len(value.data)))
            out += [one(value.element, item) for item in value.data]
    return b"".join(out)


def strings(data: Sequence[str | bytes]) -> Value:
    return Value(_ARRAY, data, _STRING)


def int32s(data: Sequence[int]) -> Value:
    return Value(_ARRAY, data, 5)


def floats(data: Sequence[float]) -> Value:
    return Value(_ARRAY, data, 6)


def word(data: str) -> Value:
    return Value(_STRING, data)


def u32(data: int) -> Value:
    return Value(4, data)


def flag(data: bool) -> Value:
    return Value(7, data)


def spm_keys(tokens: Sequence[tuple[str | bytes, int, float]]) -> dict[str, Value]:
    """Keys of a SentencePiece vocabulary of (text, type, score)."""
    return {
        "tokenizer.ggml.model": word("llama"),
        "tokenizer.ggml.tokens": strings([t for t, _, _ in tokens]),
        "tokenizer.ggml.token_type": int32s([kind for _, kind, _ in tokens]),
        "tokenizer.ggml.scores": floats([score for _, _, score in tokens]),
    }


def bpe_keys(
    tokens: Sequence[tuple[str | bytes, int]], merges: Sequence[str], pre: str | None = "gpt-2"
) -> dict[str, Value]:
    keys = {
        "tokenizer.ggml.model": word("gpt2"),
        "tokenizer.ggml.tokens": strings([t for t, _ in tokens]),
        "tokenizer.ggml.token_type": int32s([kind for _, kind in tokens]),
        "tokenizer.ggml.merges": strings(merges),
    }
    return keys if pre is None else {**keys, "tokenizer.ggml.pre": word(pre)}
