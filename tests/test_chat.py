"""From a model and its messages to a prompt: which template, what it cannot do, and the ids.

SPDX-License-Identifier: Apache-2.0
"""

# ruff: noqa: E501 (a row is a template)
from __future__ import annotations

import mmap
import threading
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from chat_conversations import ROOT
from jinja_reference import Engine, expected

CONTROL, NORMAL = 3, 1


@pytest.fixture(scope="module")
def engine(ffi: Any, lib: Any) -> Engine:
    return Engine(ffi, lib)


def model_file(path: Path, specials: list[str], **keys: Any) -> Path:
    """A GGUF with a vocabulary of bytes and these control tokens, and no tensors to speak of."""
    writer = gguf.GGUFWriter(path, keys.pop("arch", "llama"))
    spm = keys.pop("spm", False)
    texts = ["<unk>", "<s>", "</s>", *specials]
    kinds = [2, CONTROL, CONTROL] + [CONTROL] * len(specials)
    texts += [f"<0x{i:02X}>" for i in range(256)] if spm else [chr(c) for c in byte_characters()]
    kinds += [6 if spm else NORMAL] * 256
    writer.add_tokenizer_model("llama" if spm else "gpt2")
    if not spm:
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges(["a b"])
    else:
        writer.add_token_scores([0.0] * len(texts))
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(bool(keys.pop("add_bos", False)))
    writer.add_add_eos_token(bool(keys.pop("add_eos", False)))
    if (template := keys.pop("template", None)) is not None:
        writer.add_chat_template(template)
    writer.add_tensor("t", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_characters() -> list[int]:
    """GPT-2's printable stand-ins for the bytes, in the order of the bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [i if i in shown else 256 + sum(j not in shown for j in range(i)) for i in range(256)]


class Model:
    """A template chosen for a model file, as the programs open it."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self.ffi, self.lib = engine.ffi, engine.lib
        with path.open("rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        raw = self.ffi.from_buffer(self.data)
        self.error = self.ffi.new("lp_error *")
        file_out, vocab = self.ffi.new("lp_gguf **"), self.ffi.new("lp_vocab **")
        self.check(self.lib.lp_gguf_open(file_out, raw, len(raw), self.error))
        self.check(self.lib.lp_vocab_open(vocab, file_out[0], self.error))
        out = self.ffi.new("lp_template **")
        self.check(self.lib.lp_template_for_model(out, file_out[0], vocab[0], self.error))
        self.template, self.vocab, self.gguf = out[0], vocab[0], file_out[0]
        self.keep = raw

    def check(self, code: int) -> None:
        assert code == self.lib.LP_OK, self.ffi.string(self.error.text).decode()

    @property
    def origin(self) -> str:
        return str(self.ffi.string(self.lib.lp_template_origin(self.template)).decode())

    def ids(self, *messages: tuple[str, str], prompt: bool = True) -> list[int]:
        keep = []
        array = self.ffi.new("lp_message[]", len(messages))
        for slot, (role, content) in zip(array, messages, strict=True):
            for field, text in ((slot.role, role), (slot.content, content)):
                raw = text.encode()
                keep.append(self.ffi.new("char[]", raw))
                field.data, field.len = keep[-1], len(raw)
        params = self.ffi.new("lp_render_params *")
        params.messages, params.n_messages = array, len(messages)
        params.add_generation_prompt, params.enable_thinking = prompt, -1
        ids = self.ffi.new("lp_ids *")
        self.check(self.lib.lp_chat_prompt_ids(self.template, self.vocab, params, ids, self.error))
        out = [ids.data[i] for i in range(ids.len)]
        self.lib.lp_ids_free(ids)
        return out

    def text(self, ids: list[int]) -> str:
        buf = self.ffi.new("lp_buf *")
        self.lib.lp_buf_init(buf, 0)
        array = self.ffi.new("int32_t[]", ids)
        self.lib.lp_detokenize(self.vocab, array, len(ids), True, buf)
        text = bytes(self.ffi.buffer(buf.data, buf.len)) if buf.len else b""
        self.lib.lp_buf_free(buf)
        return text.decode()


FAMILIES = [
    (["<|im_start|>", "<|im_end|>"], {}, "chatml"),
    (["<|im_start|>", "<|im_end|>", "<|im_sep|>"], {}, "phi4"),
    (["<start_of_turn>", "<end_of_turn>"], {"arch": "gemma3", "spm": True}, "gemma"),
    (["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], {}, "llama3"),
    (["<|header_start|>", "<|header_end|>", "<|eot|>"], {"arch": "llama4"}, "llama4"),
    (["[INST]", "[/INST]"], {}, "mistral-v3"),
    (["[INST]", "[/INST]", "[SYSTEM_PROMPT]"], {}, "mistral-v7"),
    (["<|assistant|>", "<|user|>", "<|end|>"], {"arch": "phi3", "spm": True}, "phi3"),
    (["<|assistant|>", "<|user|>", "<|system|>"], {}, "zephyr"),
    (["<|start|>", "<|channel|>", "<|message|>", "<|end|>"], {"arch": "gpt-oss"}, "gpt-oss"),
    (["<|start_of_role|>", "<|end_of_role|>"], {"arch": "granite"}, "granite"),
    (["<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"], {"arch": "command-r"}, "command-r"),
    (["<｜User｜>", "<｜Assistant｜>"], {"arch": "deepseek2"}, "deepseek3"),
    (["[|assistant|]", "[|endofturn|]"], {"arch": "exaone4"}, "exaone4"),
    (["<|im_user|>", "<|im_middle|>", "<|im_end|>"], {}, "kimi-k2"),
    (["[gMASK]", "<|assistant|>", "<|user|>"], {"arch": "glm4"}, "chatglm4"),
    ([], {"spm": True}, "llama2"),
    ([], {}, "chatml"),
]


@pytest.mark.parametrize(("specials", "keys", "name"), FAMILIES)
def test_a_model_without_template_gets_its_familys(
    engine: Engine, tmp_path: Path, specials: list[str], keys: dict[str, Any], name: str
) -> None:
    assert Model(engine, model_file(tmp_path / "m.gguf", specials, **keys)).origin == name


def test_every_fallback_is_reachable() -> None:
    ours = {path.stem for path in (ROOT / "templates" / "chat").glob("*.jinja")}
    assert ours == {name for _, _, name in FAMILIES}


@pytest.mark.parametrize("path", sorted((ROOT / "templates" / "chat").glob("*.jinja")), ids=str)
def test_fallbacks_end_where_the_answer_begins(engine: Engine, path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    messages = [
        {"role": "system", "content": "SYS"},
        {"role": "user", "content": "USR1"},
        {"role": "assistant", "content": "ANS"},
        {"role": "user", "content": "USR2"},
    ]
    variables = {"messages": messages, "bos_token": "<s>", "eos_token": "</s>"}
    whole = expected(source, {**variables, "add_generation_prompt": True}).text
    assert whole is not None
    order = [whole.index(word) for word in ("SYS", "USR1", "ANS", "USR2")]
    assert order == sorted(order)
    alone = expected(source, {**variables, "add_generation_prompt": False}).text
    assert alone is not None
    assert whole.startswith(alone)


def test_a_models_own_template_counts(engine: Engine, tmp_path: Path) -> None:
    path = model_file(tmp_path / "m.gguf", [], template="{{ messages[0].content }}!")
    model = Model(engine, path)
    assert model.origin == "model"
    assert model.text(model.ids(("user", "hi"))) == "hi!"


def test_a_broken_template_is_an_error_of_the_render_only(engine: Engine, tmp_path: Path) -> None:
    path = model_file(tmp_path / "m.gguf", [], template="ok\n{% if %}")
    model = Model(engine, path)
    assert model.origin == "model"
    with pytest.raises(AssertionError, match="template line 2, column 7"):
        model.ids(("user", "hi"))


def test_a_template_that_fails_always_still_opens(engine: Engine, tmp_path: Path) -> None:
    path = model_file(tmp_path / "m.gguf", [], template="{{ raise_exception('never') }}")
    model = Model(engine, path)
    with pytest.raises(AssertionError, match="never"):
        model.ids(("user", "hi"))


LOOP = "{% for m in messages %}{{ '<|im_start|>' + m.role + ':' + m.content + '<|im_end|>' }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + LOOP,
            "refuses",
        ),
        (
            "{% for m in messages if m.role != 'system' %}{{ m.role + ':' + m.content }}{% endfor %}",
            "ignores",
        ),
        ("{% for m in messages %}{{ {'user': 'u'}[m.role] + m.content }}{% endfor %}", "fails"),
    ],
)
def test_a_system_message_moves_into_the_first_turn(
    engine: Engine, template: str, why: str
) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    result = engine.render_fitted(template, {"messages": messages})
    assert result.text is not None, (why, result.error)
    assert "Be brief.\n\nHi" in result.text
    alone = engine.render_fitted(template, {"messages": messages[:1]})
    assert alone.text is not None
    assert "Be brief." in alone.text


def test_a_system_message_stays_where_it_is_understood(engine: Engine) -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    result = engine.render_fitted(LOOP, {"messages": messages})
    assert result.text == "<|im_start|>system:S<|im_end|><|im_start|>user:U<|im_end|>"


def test_parts_where_only_parts_are_understood(engine: Engine) -> None:
    template = (
        "{% for m in messages %}{% for p in m.content %}"
        "{% if p.type == 'text' %}{{ m.role ~ ':' ~ p.text }}{% endif %}{% endfor %}{% endfor %}"
    )
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    result = engine.render_fitted(template, {"messages": messages})
    assert result.text == "system:Suser:U"
    assert result.spans == ((0, 7), (8, 13)), "parts keep the origin of the text"


def test_bos_is_not_doubled(engine: Engine, tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ messages[0].content }}"
    for add_bos in (False, True):
        for source in (template, template.removeprefix("{{ bos_token }}")):
            path = model_file(tmp_path / "m.gguf", [], template=source, add_bos=add_bos)
            ids = Model(engine, path).ids(("user", "<s>x"))
            assert ids.count(1) == int(add_bos or source == template)
            assert 1 not in ids[1:]


def test_a_prompt_that_waits_for_an_answer_does_not_end_with_eos(
    engine: Engine, tmp_path: Path
) -> None:
    template = (
        "{{ messages[0].content }}{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    )
    for add_eos in (False, True):
        path = model_file(tmp_path / "m.gguf", [], template=template, add_eos=add_eos)
        model = Model(engine, path)
        assert model.ids(("user", "x"))[-1] != 2
        done = model.ids(("user", "x</s>"), prompt=False)
        assert done.count(2) == 1
        assert done[-1] == 2


def test_the_real_models(engine: Engine, smollm2: Path, gemma3: Path) -> None:
    small = Model(engine, smollm2)
    assert small.origin == "model"
    text = small.text(small.ids(("user", "Hi <|im_end|>")))
    assert text.endswith("<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n")
    gemma = Model(engine, gemma3)
    assert gemma.origin == "gemma"
    ids = gemma.ids(("system", "Be brief."), ("user", " Hi "))
    text = "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n"
    assert gemma.text(ids) == text
    assert ids[:2] == [2, 105]


def test_threads_may_share_a_template(engine: Engine, tmp_path: Path) -> None:
    model = Model(engine, model_file(tmp_path / "m.gguf", ["<|im_start|>", "<|im_end|>"]))
    wanted = {n: model.ids(("user", f"text {n}")) for n in range(4)}
    wrong: list[int] = []

    def work(n: int) -> None:
        wrong.extend(n for _ in range(50) if model.ids(("user", f"text {n}")) != wanted[n])

    threads = [threading.Thread(target=work, args=(n,)) for n in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
