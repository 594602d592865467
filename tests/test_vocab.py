"""The token table: what it reads from a file, and what it makes of hostile ones.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizer_reference import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    Value,
    Vocabulary,
    bpe_keys,
    flag,
    floats,
    gguf_bytes,
    int32s,
    spm_keys,
    strings,
    u32,
    word,
)

FORMAT, UNSUPPORTED, MEMORY = 2, 3, 5

Open = Callable[[dict[str, Value]], Vocabulary]
LETTERS = [(chr(c), NORMAL) for c in range(0x21, 0x7F)] + [("Ġ", NORMAL)]
SPM = [
    ("<unk>", UNKNOWN, 0.0),
    ("<s>", CONTROL, 0.0),
    ("</s>", CONTROL, 0.0),
    *((f"<0x{b:02X}>", BYTE, 0.0) for b in range(256)),
    (SPACE, NORMAL, -1.0),
    ("a", NORMAL, -2.0),
    ("b", NORMAL, -3.0),
    ("ab", NORMAL, -0.5),
    (SPACE + "ab", NORMAL, -0.25),
]


@pytest.fixture
def vocab(ffi: Any, lib: Any) -> Iterator[Open]:
    opened: list[Vocabulary] = []

    def make(keys: dict[str, Value]) -> Vocabulary:
        opened.append(Vocabulary(ffi, lib, gguf_bytes(keys)))
        return opened[-1]

    yield make
    for v in opened:
        v.close()


def bpe(tokens: list[tuple[str, int]], merges: list[str] | None = None) -> dict[str, Value]:
    return bpe_keys([*LETTERS, *tokens], merges or ["h i"])


# --- reading -----------------------------------------------------------------------------------


def test_spm_defaults(vocab: Open, lib: Any) -> None:
    v = vocab(spm_keys(SPM))
    assert v.code == 0, v.message
    pointer = v.pointer[0]
    assert v.size == len(SPM)
    assert [v.text(i).decode() for i in range(v.size)] == [t for t, _, _ in SPM]
    assert [v.attr(i) for i in range(v.size)] == [kind for _, kind, _ in SPM]
    assert (lib.lp_vocab_bos(pointer), lib.lp_vocab_eos(pointer)) == (1, 2)
    assert lib.lp_vocab_adds_bos(pointer)
    assert not lib.lp_vocab_adds_eos(pointer)
    assert v.ends() == {b"</s>"}
    assert v.tokenize("ab b") == [
        v.find(f"{SPACE}ab".encode()),
        v.find(SPACE.encode()),
        v.find(b"b"),
    ]


def test_flags_of_the_file_win(vocab: Open) -> None:
    keys = spm_keys(SPM)
    keys["tokenizer.ggml.add_bos_token"] = flag(False)
    keys["tokenizer.ggml.add_eos_token"] = flag(True)
    keys["tokenizer.ggml.add_space_prefix"] = flag(False)
    v = vocab(keys)
    assert v.tokenize("ab", add_special=True) == [v.find(b"ab"), 2]
    keys = spm_keys(SPM)
    v = vocab(keys)
    assert v.tokenize("ab", add_special=True) == [1, v.find(f"{SPACE}ab".encode())]


def test_every_text_is_found_again(vocab: Open, smollm2: Path, ffi: Any, lib: Any) -> None:
    v = Vocabulary(ffi, lib, smollm2)
    assert v.code == 0, v.message
    for i in range(v.size):
        assert v.find(v.text(i)) == i
    assert v.find(b"no such token") == -1
    assert v.find(b"") == -1
    assert v.text(-1) == v.text(v.size) == b""
    v.close()


def test_a_large_vocabulary_is_small_in_memory(gemma3: Path, ffi: Any, lib: Any) -> None:
    v = Vocabulary(ffi, lib, gemma3)
    assert v.size == 262_144
    before = lib.lp_alloc_live()
    again = ffi.new("lp_vocab **")
    lib.lp_alloc_peak_reset()
    assert lib.lp_vocab_open(again, v.gguf[0], v.error) == 0
    assert lib.lp_alloc_live() - before < 8_000_000
    assert lib.lp_alloc_peak() - before < 8_000_000
    lib.lp_vocab_close(again[0])
    assert lib.lp_alloc_live() == before
    v.close()


# --- ends of a generation ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "keys", "expected"),
    [
        ([("<|im_end|>", CONTROL), ("<|im_start|>", CONTROL)], {}, {"<|im_end|>"}),
        ([("<|eot_id|>", CONTROL), ("<|eom_id|>", NORMAL)], {}, {"<|eot_id|>", "<|eom_id|>"}),
        ([("x1", CONTROL), ("x2", CONTROL)], {"eos": 0, "eot": 1}, {"x1", "x2"}),
        ([("x1", CONTROL), ("x2", CONTROL)], {"eom": 1}, {"x2"}),
        ([("<fim_pad>", CONTROL), ("p", CONTROL)], {"fim_pad": 1}, {"p"}),
        ([("<fim_pad>", CONTROL), ("<|repo_name|>", CONTROL)], {}, {"<fim_pad>", "<|repo_name|>"}),
        ([("<|file_sep|>", CONTROL), ("<|eot|>", CONTROL)], {}, {"<|file_sep|>", "<|eot|>"}),
        ([("<end_of_turn>", CONTROL), ("<eos>", CONTROL)], {}, {"<end_of_turn>", "<eos>"}),
        ([("<｜end▁of▁sentence｜>", CONTROL)], {}, {"<｜end▁of▁sentence｜>"}),
        # An HTML tag in some vocabularies, the end of sequence in others.
        ([("</s>", CONTROL)], {}, {"</s>"}),
        ([("</s>", NORMAL)], {}, set()),
        ([("</s>", USER_DEFINED)], {}, set()),
        ([("</s>", USER_DEFINED)], {"eos": 0}, {"</s>"}),
        # Harmony: <|end|> closes a message only.
        (
            [("<|return|>", CONTROL), ("<|call|>", CONTROL), ("<|end|>", CONTROL)],
            {},
            {"<|return|>", "<|call|>"},
        ),
        ([("<|end|>", CONTROL)], {}, {"<|end|>"}),
        ([("<|end|>", UNKNOWN)], {}, {"<|end|>"}),
    ],
)
def test_ends(
    vocab: Open, tokens: list[tuple[str, int]], keys: dict[str, int], expected: set[str]
) -> None:
    file = bpe(tokens)
    for name, index in keys.items():
        file[f"tokenizer.ggml.{name}_token_id"] = u32(len(LETTERS) + index)
    v = vocab(file)
    assert v.code == 0, v.message
    assert {e.decode() for e in v.ends()} == expected


def test_an_end_that_the_file_calls_normal_is_a_control_token(vocab: Open) -> None:
    v = vocab(bpe([("<|im_end|>", NORMAL), ("<|eot_id|>", USER_DEFINED)]))
    for text in (b"<|im_end|>", b"<|eot_id|>"):
        assert v.attr(v.find(text)) == CONTROL
        assert v.find(text) not in v.tokenize(text)
        assert v.trusted(text) == [v.find(text)]


# --- hostile and odd files ---------------------------------------------------------------------

TYPES = [*range(13)]


def wrong(kind: int) -> Value:
    """A small value of any GGUF type."""
    if kind == 8:
        return word("x")
    if kind == 9:
        return Value(9, [1, 2], 4)
    return Value(kind, {6: 1.5, 12: 1.5, 7: True}.get(kind, 1))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "key",
    "model pre tokens token_type merges scores bos_token_id eot_token_id unknown_token_id "
    "fim_pad_token_id add_bos_token add_space_prefix".split(),
)
def test_wrong_types(vocab: Open, key: str, kind: int) -> None:
    base = spm_keys(SPM) if key in ("scores", "add_space_prefix") else bpe([])
    right = {
        "model": {8}, "pre": {8}, "tokens": set(), "token_type": set(), "merges": set(),
        "scores": set(), "add_bos_token": {7}, "add_space_prefix": {7},
    }.get(key, {0, 1, 2, 3, 4, 5, 10, 11})  # fmt: skip
    v = vocab({**base, f"tokenizer.ggml.{key}": wrong(kind)})
    if kind in right:
        assert v.code in (0, UNSUPPORTED), v.message
    else:
        assert v.code == FORMAT
        assert f"tokenizer.ggml.{key}" in v.message


@pytest.mark.parametrize("element", [t for t in TYPES if t != 9])
@pytest.mark.parametrize("key", ["tokens", "token_type", "merges", "scores"])
def test_wrong_element_types(vocab: Open, key: str, element: int) -> None:
    base = spm_keys(SPM) if key == "scores" else bpe([])
    n = len(base["tokenizer.ggml.tokens"].data)
    item: Any = {8: "x", 6: 1.0, 12: 1.0, 7: True}.get(element, 1)
    v = vocab({**base, f"tokenizer.ggml.{key}": Value(9, [item] * n, element)})
    whole = {0, 1, 2, 3, 4, 5, 7, 10, 11}  # any integer will do, and either float
    right = {"tokens": {8}, "token_type": whole, "merges": {8}, "scores": {6, 12}}[key]
    assert v.code == (0 if element in right else FORMAT), v.message


@pytest.mark.parametrize(("key", "make"), [("token_type", int32s), ("scores", floats)])
def test_tables_of_another_length(vocab: Open, key: str, make: Any) -> None:
    for extra, code in ((-1, FORMAT), (0, 0), (1, 0)):
        v = vocab({**spm_keys(SPM), f"tokenizer.ggml.{key}": make([1] * (len(SPM) + extra))})
        assert v.code == code, v.message
        if code:
            assert f"tokenizer.ggml.{key} has {len(SPM) - 1} elements" in v.message


@pytest.mark.parametrize("key", ["model", "tokens", "scores"])
def test_missing_keys_of_spm(vocab: Open, key: str) -> None:
    keys = spm_keys(SPM)
    del keys[f"tokenizer.ggml.{key}"]
    v = vocab(keys)
    assert v.code == FORMAT
    assert f"tokenizer.ggml.{key}" in v.message


def test_missing_merges_and_empty_table(vocab: Open) -> None:
    keys = bpe([])
    del keys["tokenizer.ggml.merges"]
    v = vocab(keys)
    assert v.code == FORMAT
    assert "tokenizer.ggml.merges" in v.message
    v = vocab(spm_keys([]))
    assert v.code == FORMAT
    assert "tokenizer.ggml.tokens is empty" in v.message


@pytest.mark.parametrize(
    ("model", "pre"), [("bert", None), ("none", None), ("gpt2", "no-such\x1b")]
)
def test_unknown_names(vocab: Open, model: str, pre: str | None) -> None:
    keys = bpe_keys(LETTERS, ["h i"], pre)
    keys["tokenizer.ggml.model"] = word(model)
    v = vocab(keys)
    assert v.code == UNSUPPORTED
    assert (pre or model).replace("\x1b", "?") in v.message


@pytest.mark.parametrize("kind", ["spm", "bpe"])
def test_one_token(vocab: Open, lib: Any, kind: str) -> None:
    """Special ids, given or defaulted, never lie outside the table."""
    base = spm_keys([("a", NORMAL, 0.0)]) if kind == "spm" else bpe_keys([("a", NORMAL)], [])
    v = vocab(base)
    assert v.code == 0, v.message
    assert lib.lp_vocab_bos(v.pointer[0]) == lib.lp_vocab_eos(v.pointer[0]) == -1
    assert v.tokenize("abc", add_special=True) == [0]
    for name in ("bos", "eos", "eot", "eom", "unknown", "fim_pad", "fim_rep", "fim_sep"):
        key = f"tokenizer.ggml.{name}_token_id"
        for value, code in (
            (0, 0),
            (1, FORMAT),
            (2**31, FORMAT),
            (2**32 - 2, FORMAT),
            (2**32 - 1, 0),
        ):
            v = vocab({**base, key: u32(value)})
            assert v.code == code, (key, value, v.message)
            if code:
                assert key in v.message
            else:
                v.tokenize("xa", add_special=True)


def test_odd_byte_tokens(vocab: Open) -> None:
    odd = ["<0x-1>", "<0xZZ>", "<0x1>", "<0x100>", "<0x>", "<0x 1>", "<0x+1>", "<0x41"]
    v = vocab(spm_keys([*SPM, *((t, BYTE, 0.0) for t in odd)]))
    assert v.code == 0, v.message
    for text in odd:
        token = v.find(text.encode())
        assert v.detokenize([token], special=True) == b""
        assert token not in v.tokenize(text)
        assert token not in v.trusted(text)
    assert v.tokenize("c")[1:] == [v.find(b"<0x63>")]


def test_no_byte_tokens(vocab: Open) -> None:
    """Without byte tokens a strange character is the unknown token, or nothing."""
    v = vocab(spm_keys([t for t in SPM if t[1] != BYTE]))
    assert v.tokenize("a?a")[1:] == [v.find(b"a"), 0, v.find(b"a")]
    v = vocab(spm_keys([(SPACE, NORMAL, 0.0), ("a", NORMAL, 0.0)]))
    assert v.tokenize("a?a") == [0, 1, 1]
    for token in (1, 2):  # not even where the file names BOS or EOS as the unknown token
        keys = spm_keys([t for t in SPM if t[1] != BYTE])
        v = vocab({**keys, "tokenizer.ggml.unknown_token_id": u32(token)})
        assert v.tokenize("a?a")[1:] == [v.find(b"a")] * 2


def test_duplicates(vocab: Open) -> None:
    v = vocab(spm_keys([*SPM, ("ab", NORMAL, 9.0), ("ab", CONTROL, 9.0), ("<s>", NORMAL, 9.0)]))
    assert v.code == 0, v.message
    first = next(i for i, t in enumerate(SPM) if t[0] == "ab")
    assert v.find(b"ab") == first
    assert v.tokenize("bab")[-1] == first
    assert v.trusted("ab") == [len(SPM) + 1]  # the control token of that text


def test_all_the_same(vocab: Open) -> None:
    """A table of equal texts must not make opening quadratic."""
    v = vocab(spm_keys([("same", NORMAL, 0.0)] * 150_000))
    assert v.code == 0, v.message
    assert v.find(b"same") == 0
    v = vocab(bpe_keys([("same", CONTROL)] * 150_000, ["a b"] * 150_000))
    assert v.code == 0, v.message
    assert v.trusted("same") == [0]


def test_token_length(vocab: Open) -> None:
    limit = 64 * 1024
    v = vocab(spm_keys([*SPM, ("a" * limit, NORMAL, 1.0)]))
    assert v.code == 0, v.message
    assert v.find(b"a" * limit) == len(SPM)
    v = vocab(spm_keys([*SPM, ("a" * (limit + 1), NORMAL, 1.0)]))
    assert v.code == FORMAT
    assert f"tokenizer.ggml.tokens[{len(SPM)}] is 65537 bytes long" in v.message


def test_special_tokens_beyond_512_bytes_are_text(vocab: Open) -> None:
    """The search for special tokens looks at a bounded number of bytes."""
    v = vocab(spm_keys([*SPM, ("a" * 512, CONTROL, 0.0), ("b" * 513, CONTROL, 0.0)]))
    assert v.code == 0, v.message
    assert v.trusted("a" * 512) == [len(SPM)]
    assert len(SPM) + 1 not in v.trusted("b" * 513)


@pytest.mark.parametrize("score", [float("nan"), -float("nan"), float("inf"), -float("inf"), -0.0])
def test_odd_scores(vocab: Open, score: float) -> None:
    v = vocab(spm_keys([*SPM, ("ba", NORMAL, score), ("aab", NORMAL, score)]))
    assert v.code == 0, v.message
    for text in ("aabab", "bbaab ab", "abababab"):
        assert v.detokenize(v.tokenize(text)) == text.encode()


def test_empty_texts(vocab: Open) -> None:
    empty = [("", kind, 9.0) for kind in (0, *range(NORMAL, BYTE + 1), 77)]
    v = vocab(spm_keys([*SPM, *empty]))
    assert v.code == 0, v.message
    assert v.find(b"") == -1
    assert v.trusted("ab ab") == [v.find(f"{SPACE}ab".encode())] * 2
    assert v.detokenize(range(len(SPM), v.size), special=True) == b""


def test_odd_merges(vocab: Open) -> None:
    """Merges that are no pair, or name pieces without a token, never apply or fall apart."""
    merges = ["", " ", "hi", "h  i", " h", "h ", "zz q", "x y", "h i"]
    v = vocab(bpe([("hi", NORMAL)], merges))
    assert v.code == 0, v.message
    hi, x, y = v.find(b"hi"), v.find(b"x"), v.find(b"y")
    assert v.tokenize("hixy") == [hi, x, y]  # "xy" joins, is no token, and is given byte by byte


def test_ill_formed_token_texts(vocab: Open) -> None:
    v = vocab(spm_keys([*SPM, (b"\xff\xfe", NORMAL, 5.0), (b"\xe2\x96", CONTROL, 5.0)]))
    assert v.code == 0, v.message
    assert v.detokenize([len(SPM), len(SPM) + 1], special=True) == b"\xff\xfe\xe2\x96"
    assert v.tokenize(b"\xff\xfe")[-1] == len(SPM)
    assert v.trusted(b"\xe2\x96\x81")[0] == len(SPM) + 1


@pytest.mark.parametrize("kind", ["spm", "bpe"])
def test_memory_runs_out(ffi: Any, lib: Any, kind: str) -> None:
    """Every allocation of opening and tokenizing may fail, and nothing is left behind."""
    raw = gguf_bytes(spm_keys(SPM) if kind == "spm" else bpe([("hi", NORMAL)]))
    v = Vocabulary(ffi, lib, raw)
    assert v.code == 0, v.message
    live = lib.lp_alloc_live()
    text = ffi.new("lp_str *", {"data": ffi.new("char[]", b"hi ab"), "len": 5})
    data = ffi.new("char[]", b"hi ab")
    text.data = data
    failures = 0
    for n in range(1000):
        pointer, ids = ffi.new("lp_vocab **"), ffi.new("lp_ids *")
        lib.lp_alloc_fail_at(n)
        code = lib.lp_vocab_open(pointer, v.gguf[0], v.error)
        if code == 0:
            code = lib.lp_tokenize(pointer[0], text[0], ffi.NULL, 0, True, ids, v.error)
        lib.lp_alloc_fail_at(-1)
        lib.lp_ids_free(ids)
        lib.lp_vocab_close(pointer[0])
        assert lib.lp_alloc_live() == live
        if code == 0:
            break
        assert code == MEMORY, v.message
        failures += 1
    assert failures > 5
    v.close()


def test_absent_types(vocab: Open) -> None:
    keys = spm_keys(SPM)
    del keys["tokenizer.ggml.token_type"]
    v = vocab(keys)
    assert v.code == 0, v.message
    assert {v.attr(i) for i in range(v.size)} == {NORMAL}
    ids = v.tokenize("abc")
    assert ids[-1] == v.find(b"<0x63>")
    assert v.detokenize(ids) == b"abc"


def test_strings_over_the_end_are_refused_before(vocab: Open, ffi: Any, lib: Any) -> None:
    """Each truncation of a small file is an error of the reader or of the table, never a crash."""
    raw = gguf_bytes({**spm_keys(SPM[:20]), "tokenizer.ggml.merges": strings(["a b"])})
    for end in range(len(raw)):
        v = Vocabulary(ffi, lib, raw[:end])
        assert v.code != 0
        v.close()


@pytest.mark.parametrize("kind", ["spm", "bpe"])
def test_mutated_files(ffi: Any, lib: Any, kind: str) -> None:
    """A damaged table either fails to open or tokenizes and prints without harm."""
    keys = spm_keys(SPM[:3] + SPM[-40:]) if kind == "spm" else bpe([("<|im_end|>", CONTROL)])
    original = gguf_bytes({**keys, "tokenizer.ggml.eot_token_id": u32(2)})
    rng = random.Random(kind)
    usable = 0
    for _ in range(1500):
        raw = bytearray(original)
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(raw))
            raw[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, raw[at] ^ (1 << rng.randrange(8))))
        v = Vocabulary(ffi, lib, bytes(raw))
        if v.code == 0:
            usable += 1
            ids = v.tokenize("ab hi<|im_end|></s> \xff\n", [(3, 18)], add_special=True)
            assert all(0 <= i < v.size for i in ids)
            v.detokenize([*ids, *range(v.size)], special=True)
            v.ends()
        v.close()
    assert usable > 100
