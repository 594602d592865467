"""Renders a template twice: with Python's jinja2, set up as transformers does, and with ours.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import datetime
import functools
import json
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2026, 3, 7, 9, 5, 3)


class Generation(jinja2.ext.Extension):
    """{% generation %}: a body that is called, as transformers' extension does it."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_body")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    @staticmethod
    def _body(caller: Any) -> str:
        return str(caller())


class Namespace(jinja2.utils.Namespace):
    """Refuses names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, rest = args[0], args[1:]
        values = dict(*rest, **kwargs)
        for name in values:
            Namespace.check(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        Namespace.check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(name)


class Dict:
    """The function dict, without the methods of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def environment() -> ImmutableSandboxedEnvironment:
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.filters["from_json"] = json.loads
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    env.globals["dict"] = Dict()
    env.globals["namespace"] = Namespace
    return env


@functools.lru_cache(maxsize=256)
def compiled(source: str) -> jinja2.Template:
    return environment().from_string(source)


@dataclass
class Rendered:
    """text is None when the template failed; error says how."""

    text: str | None
    error: str = ""
    spans: tuple[tuple[int, int], ...] = ()

    def trusted(self, begin: int, end: int) -> bool:
        """Whether any byte of begin..end is trusted."""
        return any(a < end and begin < b for a, b in self.spans)


def expected(source: str, variables: dict[str, Any]) -> Rendered:
    try:
        text = compiled(source).render(**variables)
        text.encode()
    except Exception as error:  # any of Python's errors is "it fails"
        return Rendered(None, f"{type(error).__name__}: {error}")
    return Rendered(text)


class Engine:
    """Our engine through cffi."""

    def __init__(self, ffi: Any, lib: Any) -> None:
        self.ffi = ffi
        self.lib = lib

    def string(self, text: bytes) -> tuple[Any, Any]:
        data = self.ffi.new("char[]", text)
        return data, self.ffi.new("lp_str *", {"data": data, "len": len(text)})[0]

    def render(self, source: str | bytes, variables: dict[str, Any]) -> Rendered:
        """variables travel as JSON; bos_token, eos_token and the like as parameters."""
        return self.open_and_run(source, variables, fitted=False)

    def render_fitted(self, source: str | bytes, variables: dict[str, Any]) -> Rendered:
        """The same, with messages fitted to what the template can do."""
        return self.open_and_run(source, variables, fitted=True)

    def open_and_run(
        self, source: str | bytes, variables: dict[str, Any], fitted: bool
    ) -> Rendered:
        raw = source.encode() if isinstance(source, str) else source
        keep, text = self.string(raw)
        out = self.ffi.new("lp_template **")
        error = self.ffi.new("lp_error *")
        if self.lib.lp_template_open(out, text, error) != self.lib.LP_OK:
            return Rendered(None, self.ffi.string(error.text).decode())
        try:
            return self.run(out[0], variables, fitted)
        finally:
            self.lib.lp_template_close(out[0])
            del keep

    def run(self, template: Any, variables: dict[str, Any], fitted: bool) -> Rendered:
        rest = dict(variables)
        params = self.ffi.new("lp_render_params *")
        params.add_generation_prompt = bool(rest.pop("add_generation_prompt", False))
        thinking = rest.pop("enable_thinking", None)
        params.enable_thinking = -1 if thinking is None else int(thinking)
        params.now = int((NOW - datetime.datetime(1970, 1, 1)).total_seconds())
        bos, params.bos_token = self.string(rest.pop("bos_token", "").encode())
        eos, params.eos_token = self.string(rest.pop("eos_token", "").encode())
        extra, params.extra_json = self.string(json.dumps(rest).encode())
        error = self.ffi.new("lp_error *")
        prompt = self.ffi.new("lp_prompt *")
        self.lib.lp_prompt_init(prompt)
        function = self.lib.lp_chat_prompt if fitted else self.lib.lp_template_render
        if function(template, params, prompt, error) != self.lib.LP_OK:
            return Rendered(None, self.ffi.string(error.text).decode())
        text = bytes(self.ffi.buffer(prompt.text.data, prompt.text.len)) if prompt.text.len else b""
        spans = tuple((prompt.spans[i].begin, prompt.spans[i].end) for i in range(prompt.n_spans))
        self.lib.lp_prompt_free(prompt)
        del bos, eos, extra
        return Rendered(text.decode(), "", spans)
