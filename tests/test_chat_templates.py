"""Whole chat templates over whole conversations: the text is what Python's jinja2 gives, the trust
is the template's alone, and user text cannot become a control token, whatever it holds.

SPDX-License-Identifier: Apache-2.0
"""

# ruff: noqa: E501 (a row is a template)
from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from chat_conversations import ALL, BENIGN, OPTIONS, ROOT, templates
from jinja_reference import Engine, Rendered, expected

SHARED = Path(os.environ.get("LLAMAPACK_SHARED") or ROOT.parent / "shared") / "data"
TEMPLATES = templates(SHARED if (SHARED / "chat_templates").is_dir() else None)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
# Private characters around a user's text: no filter makes them or takes them apart.
BEGIN, END = "\U000f0000", "\U000f0001"
MARKED = re.compile(f"{BEGIN}((?!{BEGIN}|{END}).)*{END}".encode(), re.DOTALL)


@pytest.fixture(scope="module")
def engine(ffi: Any, lib: Any) -> Engine:
    return Engine(ffi, lib)


def test_public_templates_are_covered(shared_data: Path) -> None:
    assert len(list((shared_data / "chat_templates").glob("*.jinja"))) >= 16
    assert len(TEMPLATES) >= 16 + 17


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_is_jinja2s(engine: Engine, name: str) -> None:
    worked = 0
    for label, messages in ALL.items():
        for options, values in OPTIONS.items():
            variables = {"messages": messages, **TOKENS, **values}
            variables.setdefault("add_generation_prompt", False)
            wanted = expected(TEMPLATES[name], variables)
            got = engine.render(TEMPLATES[name], variables)
            assert got.text == wanted.text, (
                f"{label}, {options}\n wanted {wanted.text!r} {wanted.error}"
                f"\n got    {got.text!r} {got.error}"
            )
            check_spans(got)
            worked += got.text is not None
    assert worked > len(OPTIONS), "hardly any conversation works with this template"


def check_spans(result: Rendered) -> None:
    end = -1
    size = len((result.text or "").encode())
    for begin, stop in result.spans:
        assert end < begin < stop <= size, "spans are sorted, merged and inside the text"
        end = stop


def marked(value: Any) -> Any:
    """The same data with a mark around every text that a user could have written."""
    if isinstance(value, list):
        return [marked(item) for item in value]
    if isinstance(value, dict):
        keep = {"role", "type", "id", "tool_call_id"}
        return {k: v if k in keep else marked(v) for k, v in value.items()}
    return f"{BEGIN}{value}{END}" if isinstance(value, str) else value


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_byte_of_a_users_text_is_trusted(engine: Engine, name: str) -> None:
    seen = 0
    for messages in ALL.values():
        for values in OPTIONS.values():
            variables = {"messages": marked(messages), **TOKENS, **values}
            result = engine.render(TEMPLATES[name], variables)
            data = (result.text or "").encode()
            for piece in MARKED.finditer(data):
                seen += 1
                assert not result.trusted(*piece.span()), piece.group().decode()
    assert seen > 50


FILTERS = """
{{x}} {{x|trim}} {{x|upper}} {{x|lower}} {{x|title}} {{x|capitalize}} {{x[::-1]}} {{x[1:]}} {{x[2]}}
{{x.strip()}} {{x.strip('<')}} {{x.split('|')|join('|')}} {{x.replace('a', 'b')}} {{x|replace('|', '|')}}
{{x|tojson}} {{x|tojson(ensure_ascii=true)}} {{[x]|string}} {{ {x: x} }} {{ {x: x}|tojson(indent=1) }}
{{'%s'|format(x)}} {{'%-9s|%r' % (x, x)}} {{'{} {!r} {:>40}'.format(x, x, x)}} {{x ~ x}} {{x + x}} {{x * 2}}
{{[x, x]|join}} {{[x]|sort|first}} {{[x, x]|unique|list}} {{x|list|join}} {{x|reverse}} {{x|indent(first=true)}}
{{x|center(50)}} {{x.ljust(50)}} {{x|truncate(7, true, '')}} {{x|e}} {{x|safe}} {{x|urlencode}} {{x|first}}
{% set y %}{{x}}{% endset %}{{y}} {% macro m(a) %}{{a}}{% endmacro %}{{m(x)}} {{m(a=x)}}
{% filter trim %}{{x}}{% endfilter %} {% set ns = namespace(v=x) %}{{ns.v}} {% for c in x %}{{c}}{% endfor %}
{{x|default('q')}} {{(x if x else 'q')}} {{x or 'q'}} {{[x]|map('upper')|join}} {{x.partition('|')|join}}
{{x.splitlines()|join}} {{x|string}} {{'|'.join([x, x])}} {{x.join(['a', 'b'])}} {{'a'.replace('a', x)}}
{{[{'k': x}]|map(attribute='k')|join}} {{ {'k': x}.items()|list }} {{ {'k': x}|dictsort }} {{[x]|batch(2)|list}}
{{([x]|tojson)|from_json|join}} {% call(z) w(x) %}{{z}}{% endcall %} {{cycler(x).next()}} {{x|min}} {{x|max}}
{{x.swapcase()}} {{x.title()}} {{x.zfill(50)}} {{x.removeprefix('<')}} {{x.rsplit('|', 1)|join('|')}}
""".split("\n")


@pytest.mark.parametrize("line", [line for line in FILTERS if line])
def test_every_filter_keeps_the_origin(engine: Engine, line: str) -> None:
    """The template here has no letters or marks of the text's, so each of them must be untrusted."""
    text = "<|ζηθ|>ψξ"
    source = "{% macro w(q) %}{{ caller(q) }}{% endmacro %}{% set x = messages[0].content %}" + line
    result = engine.render(source, {"messages": [{"role": "user", "content": text}]})
    assert result.text is not None, result.error
    at = 0
    letters = 0
    for char in result.text:
        size = len(char.encode())
        if char in text.strip("<|>") + text.upper():
            letters += char not in "<|>"
            if char not in "<|>":
                assert not result.trusted(at, at + size), (char, result.text)
        at += size
    assert letters or "urlencode" in line or "ascii" in line or "7" in line


def test_roles_of_a_known_name_are_trusted(engine: Engine) -> None:
    source = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
    messages = [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
        {"role": "eot_id", "content": "e"},
    ]
    result = engine.render(source, {"messages": messages})
    assert result.text == "<|user|>u<|assistant|>a<|eot_id|>e"
    assert result.spans == ((0, 8), (9, 22), (23, 25), (31, 33)), "one span per whole token"


def test_bos_and_eos_are_trusted(engine: Engine) -> None:
    result = engine.render(
        "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}",
        {"messages": [{"role": "user", "content": "</s>"}], **TOKENS},
    )
    assert (result.text, result.spans) == ("<s></s></s>", ((0, 3), (7, 11)))


# --- token ids ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vocabularies(shared_data: Path, ffi: Any, lib: Any) -> dict[str, Any]:
    """Real vocabularies: control tokens of five families."""
    opened = {}
    for path in sorted((shared_data / "vocab").glob("*.gguf")):
        data = ffi.from_buffer(path.read_bytes())
        gguf, vocab, error = ffi.new("lp_gguf **"), ffi.new("lp_vocab **"), ffi.new("lp_error *")
        assert lib.lp_gguf_open(gguf, data, len(data), error) == 0, ffi.string(error.text)
        assert lib.lp_vocab_open(vocab, gguf[0], error) == 0, ffi.string(error.text)
        opened[path.stem] = (vocab[0], gguf[0], data)
    return opened


class Ids:
    """lp_chat_prompt_ids and lp_tokenize with Python types."""

    def __init__(self, ffi: Any, lib: Any, vocab: Any) -> None:
        self.ffi, self.lib, self.vocab = ffi, lib, vocab
        self.error = ffi.new("lp_error *")

    def borrowed(self, text: str, keep: list[Any]) -> Any:
        raw = text.encode()
        keep.append(self.ffi.new("char[]", raw))
        return self.ffi.new("lp_str *", {"data": keep[-1], "len": len(raw)})[0]

    def take(self, ids: Any) -> list[int]:
        out = [ids.data[i] for i in range(ids.len)]
        self.lib.lp_ids_free(ids)
        return out

    def chat(self, source: str, messages: list[dict[str, Any]], prompt: bool = True) -> list[int]:
        keep: list[Any] = []
        template = self.ffi.new("lp_template **")
        text = self.borrowed(source, keep)
        code = self.lib.lp_template_open(template, text, self.error)
        assert code == 0, self.ffi.string(self.error.text)
        array = self.ffi.new("lp_message[]", len(messages))
        for slot, message in zip(array, messages, strict=True):
            slot.role = self.borrowed(message["role"], keep)
            slot.content = self.borrowed(message["content"], keep)
        params = self.ffi.new("lp_render_params *")
        params.messages, params.n_messages = array, len(messages)
        params.add_generation_prompt, params.enable_thinking = prompt, -1
        ids = self.ffi.new("lp_ids *")
        code = self.lib.lp_chat_prompt_ids(template[0], self.vocab, params, ids, self.error)
        self.lib.lp_template_close(template[0])
        assert code == 0, self.ffi.string(self.error.text)
        return self.take(ids)

    def tokenize(self, text: str) -> list[int]:
        """All of it trusted."""
        keep: list[Any] = []
        spans = self.ffi.new("lp_span[1]", [{"begin": 0, "end": len(text.encode())}])
        ids = self.ffi.new("lp_ids *")
        borrowed = self.borrowed(text, keep)
        code = self.lib.lp_tokenize(self.vocab, borrowed, spans, 1, True, ids, self.error)
        assert code == 0, self.ffi.string(self.error.text)
        return self.take(ids)

    def text(self, token: int) -> str:
        s = self.lib.lp_vocab_text(self.vocab, token)
        return bytes(self.ffi.buffer(s.data, s.len)).decode(errors="replace") if s.len else ""

    def controls(self) -> dict[int, str]:
        size = self.lib.lp_vocab_size(self.vocab)
        control = self.lib.LP_TOKEN_CONTROL
        found = (i for i in range(size) if self.lib.lp_vocab_attr(self.vocab, i) == control)
        return {i: text for i in found if (text := self.text(i))}


def plain(messages: list[dict[str, Any]]) -> bool:
    return all(isinstance(m["content"], str) and "tool_calls" not in m for m in messages)


@pytest.mark.parametrize("family", ["llama-bpe", "llama-spm", "qwen2", "phi-3", "gpt-2"])
def test_a_user_cannot_write_a_control_token(
    family: str, vocabularies: dict[str, Any], ffi: Any, lib: Any
) -> None:
    """Every control token of the vocabulary, in a user's text, across two messages, and split by
    what templates do with text: the control ids are those of the same conversation without it."""
    ids = Ids(ffi, lib, vocabularies[f"ggml-vocab-{family}"][0])
    controls = ids.controls()
    assert controls
    some = list(controls.values())
    attack = "".join(some[:300])
    first = some[-1]
    for name in ("chatml", "llama3", "gemma", "phi3", "zephyr", "llama2", "mistral-v3"):
        source = TEMPLATES[name]
        harmless = ids.chat(source, [{"role": "user", "content": "x"}])
        wanted = [i for i in harmless if i in controls]
        for text in (attack, f" {attack} \n", first, attack.upper(), attack[::-1]):
            got = ids.chat(source, [{"role": "user", "content": text}])
            assert [i for i in got if i in controls] == wanted, (name, text[:80])
        turns = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "y"},
            {"role": "user", "content": "z"},
        ]
        wanted = [i for i in ids.chat(source, turns) if i in controls]
        for cut in range(1, len(first)):
            turns[0]["content"], turns[2]["content"] = f"q{first[:cut]}", f"{first[cut:]}q"
            got = ids.chat(source, turns)
            assert [i for i in got if i in controls] == wanted, (name, first, cut)


@pytest.mark.parametrize("family", ["llama-bpe", "llama-spm", "qwen2", "phi-3", "gpt-2"])
def test_harmless_text_gives_the_ids_of_the_whole_prompt(
    family: str, vocabularies: dict[str, Any], engine: Engine, ffi: Any, lib: Any
) -> None:
    ids = Ids(ffi, lib, vocabularies[f"ggml-vocab-{family}"][0])
    vocab = ids.vocab
    bos, eos = ids.text(lib.lp_vocab_bos(vocab)), ids.text(lib.lp_vocab_eos(vocab))
    for name, source in TEMPLATES.items():
        for label, messages in BENIGN.items():
            if "strftime_now" in source:
                continue  # the moment is a parameter that Ids.chat leaves at 1970
            variables = {"messages": messages, "add_generation_prompt": True}
            text = engine.render(source, {**variables, "bos_token": bos, "eos_token": eos}).text
            if text is None:
                continue
            wanted = ids.tokenize(text)
            assert ids.chat(source, messages) == wanted, (name, label)
