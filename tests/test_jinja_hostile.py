"""A template is code from a stranger: whatever it does, the engine answers within its budgets, with
an error that names line and column, and gives back all memory.

SPDX-License-Identifier: Apache-2.0
"""

# ruff: noqa: E501 (a row is a template)
from __future__ import annotations

import time
from typing import Any

import pytest
from chat_conversations import ALL, WEATHER
from jinja_reference import Engine

HELLO = {"messages": [{"role": "user", "content": "hi"}]}
LIMIT = (
    "too wide",
    "specification",
    "steps",
    "deep",
    "grows beyond",
    "larger than",
    "more than",
    "longer than",
    "64 bits",
)

EATERS = {
    "parentheses": "{{ " + "(" * 1_000_000 + " }}",
    "balanced parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "lists": "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "dicts": "{{ " + "{1:" * 5000 + "1" + "}" * 5000 + " }}",
    "subscripts": "{{ " + "a[" * 5000 + "1" + "]" * 5000 + " }}",
    "calls": "{{ " + "f(" * 5000 + ")" * 5000 + " }}",
    "ifs": "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "fors": "{% for x in [1] %}" * 5000,
    "macros": "{% macro a() %}" * 5000,
    "minuses": "{{ " + "- " * 100_000 + "1 }}",
    "else chain": "{{ " + "1 if 0 else " * 50_000 + "1 }}",
    "tuples in targets": "{% for " + "(" * 5000 + "a" + ")" * 5000 + " in x %}{% endfor %}",
    "range": "{{ range(10 ** 9) }}",
    "range of huge bounds": "{% for i in range(-9223372036854775807, 9223372036854775807) %}x{% endfor %}",
    "loops": "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}x"
    "{% endfor %}{% endfor %}{% endfor %}",
    "empty loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "text times": "{{ 'a' * 10 ** 12 }}",
    "empty text times": "{{ ('' * 10 ** 18) ~ ([] * 10 ** 18) }}{{ 'ab' * 10 ** 18 }}",
    "list times": "{{ [1] * 10 ** 12 }}",
    "doubling": "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}"
    "{% endfor %}",
    "doubling lists": "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}"
    "{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "nested lists": "{% set ns = namespace(s=[1]) %}{% for i in range(999) %}"
    "{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
    "nested lists as JSON": "{% set ns = namespace(s=[1]) %}{% for i in range(50) %}"
    "{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s|tojson }}",
    "nested lists compared": "{% set ns = namespace(s=[1], t=[1]) %}{% for i in range(50) %}"
    "{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ ns.s == ns.t }}",
    "nested tuples as keys": "{% set ns = namespace(s=(1,)) %}{% for i in range(50) %}"
    "{% set ns.s = (ns.s, ns.s) %}{% endfor %}{{ {ns.s: 1} }}",
    "a namespace in itself": "{% set ns = namespace() %}{% set ns.s = ns %}{{ ns }}",
    "join": "{{ (['a' * 4000] * 4000)|join('b' * 4000) }}",
    "replace": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "replace nothing": "{{ ('a' * 2000000).replace('', 'bbbbbbbb') }}",
    "widths": "{{ '%999999999d' % 1 }}",
    "wide format": "{{ '{:999999999}'.format(1) }}",
    "wide star": "{{ '%*d' % (10 ** 12, 1) }}",
    "center": "{{ 'a'.center(10 ** 15) }}",
    "zfill": "{{ 'a'.zfill(10 ** 15) }}",
    "indent": "{{ ('\\n' * 100000)|indent(100000, blank=true) }}",
    "indented JSON": "{{ ([1] * 50000)|tojson(indent=100000) }}",
    "sort": "{% for i in range(99999) %}{{ range(99999)|sort|first }}{% endfor %}",
    "sorted JSON": "{% set ns = namespace(d={}) %}{% for i in range(99999, 0, -1) %}"
    "{% set ns.d = dict(ns.d, **{'k' ~ i: 1}) %}{% endfor %}{{ ns.d|tojson(sort_keys=true) }}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "two macros": "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
    "a macro with itself as default": "{% macro m(x=m()) %}{% endmacro %}{{ m() }}",
    "exponential macros": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}"
    "{% endmacro %}{{ m(30) }}",
    "a caller that calls": "{% macro m() %}{{ caller() }}{% endmacro %}{% macro n() %}"
    "{% call m() %}{{ n() }}{% endcall %}{% endmacro %}{{ n() }}",
    "a recursive loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "map of map": "{{ ['a']|map(" + "'map', " * 5000 + "'upper')|list }}",
    "power": "{{ 2 ** 64 }}",
    "more power": "{{ 9 ** 9 ** 9 }}",
    "a long number": "{{ " + "9" * 10_000 + " }}",
    "sums": "{{ 9223372036854775807 + 1 }}",
    "factorial": "{% set ns = namespace(n=1) %}{% for i in range(1, 99) %}{% set ns.n = ns.n * i %}"
    "{% endfor %}",
    "split": "{{ ('a,' * 500000).split(',')|length }}",
    "characters": "{% for c in 'a' * 1000000 %}{{ c }}{% endfor %}",
    "slices": "{% for i in range(99999) %}{{ ('ä' * 1000000)[::-1]|length }}{% endfor %}",
    "count": "{% set s = 'a' * 4000000 %}{% for i in range(99999) %}{% set x = s.count('b') %}{% endfor %}",
    "find": "{% set s = 'a' * 4000000 %}{% for i in range(99999) %}{% set x = 'b' in s %}{% endfor %}",
    "rfind": "{% set s = 'a' * 100000 %}{% for i in range(99999) %}{% set x = s.rfind('b' ~ s[1:]) %}"
    "{% endfor %}",
    "startswith": "{% set s = 'a' * 4000000 %}{% for i in range(99999) %}{% set x = s == s ~ '' %}{% endfor %}",
    "strip": "{% set s = ' ' * 2000000 %}{% for i in range(99999) %}{% set x = s|trim %}{% endfor %}",
    "strip a set": "{{ ('ab' * 1000000).strip('zyxwvutsrqponmlkjihgfedcba' * 1000) }}",
    "words": "{% set s = 'a ' * 1000000 %}{% for i in range(99999) %}{% set x = s|wordcount %}{% endfor %}",
    "is questions": "{% set s = 'a' * 4000000 %}{% for i in range(99999) %}{% set x = s.isalpha() %}{% endfor %}",
    "case": "{% set s = 'ä' * 1000000 %}{% for i in range(99999) %}{% set x = s|upper %}{% endfor %}",
    "lower test": "{% set s = 'ä' * 1000000 %}{% for i in range(99999) %}{% set x = s is lower %}{% endfor %}",
    "indexing": "{% set s = 'ä' * 1000000 %}{% for i in range(99999) %}{% set x = s[999999] %}{% endfor %}",
    "escaping": "{% set s = 'a' * 4000000 %}{% for i in range(99999) %}{% set x = s|e %}{% endfor %}",
    "formats": "{% set s = 'a' * 4000000 %}{% for i in range(99999) %}{% set x = s % () %}{% endfor %}",
    "lines": "{% set s = 'a' * 4000000 %}{% for i in range(99999) %}{% set x = s.splitlines() %}{% endfor %}",
    "from_json": "{% set s = '[' ~ '1,' * 99999 ~ '1]' %}{% for i in range(99999) %}"
    "{% set x = s|from_json %}{% endfor %}",
    "many variables": "".join(f"{{% set v{i} = 1 %}}" for i in range(20_000))
    + "{% for i in range(99999) %}{{ nope }}{% endfor %}",
    "many keywords": "{{ dict(" + ", ".join(f"a{i}=1" for i in range(40_000)) + ") }}",
    "a long template": "x" * 1_100_000,
    "many tags": "{{ 1 }}" * 140_000,
    "JSON in depth": "{{ ('[' * 5000)|from_json }}",
}
# These stay within their budgets: they end with a text.
HARMLESS = {"a long number", "a macro with itself as default", "empty text times", "count", "find"}


@pytest.fixture(scope="module")
def engine(ffi: Any, lib: Any) -> Engine:
    return Engine(ffi, lib)


@pytest.mark.parametrize("name", EATERS)
def test_an_eater_meets_its_budget(engine: Engine, name: str) -> None:
    live = engine.lib.lp_alloc_live()
    engine.lib.lp_alloc_peak_reset()
    begin = time.process_time()
    result = engine.render(EATERS[name], HELLO)
    seconds = time.process_time() - begin
    assert result.text is None or len(result.text) <= 4 * 1024 * 1024
    if result.text is None:
        assert result.error.startswith("template line ") or "larger than" in result.error
        assert any(word in result.error for word in LIMIT), result.error
    assert engine.lib.lp_alloc_live() == live, "memory stays behind"
    assert engine.lib.lp_alloc_peak() < 600 * 1024 * 1024
    # Three trial renders and the real one; generous, for slow machines.
    assert seconds < 10, f"{seconds:.1f} s"


def test_the_budgets_leave_room_for_long_conversations(engine: Engine) -> None:
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": f"message {i} " + "word " * 60}
        for i in range(2000)
    ]
    source = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content']|trim "
        "+ '<|im_end|>' }}{% endfor %}"
    )
    result = engine.render(source, {"messages": messages})
    assert result.text is not None, result.error
    assert result.text.count("<|im_start|>") == 2000
    big = engine.render(source, {"messages": [{"role": "user", "content": "x" * 3_000_000}]})
    assert big.text is not None, big.error


INERT = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__']['__mro__'] }}",
    "{{ [].__class__.__base__.__subclasses__() }}",
    "{{ {}.__class__.__base__ }}",
    "{{ ().__class__.__bases__[0].__subclasses__()[40]('/etc/passwd').read() }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''|attr('__class__')|attr('__mro__') }}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "{{ [''] | map(attribute='__class__') | list }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__.os.popen('id').read() }}",
    "{{ namespace.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ range.__class__ }}",
    "{{ config }}{{ config.items() }}",
    "{{ request.application.__globals__ }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ url_for.__globals__ }}",
    "{{ __builtins__ }}",
    "{{ __import__('os').system('id') }}",
    "{{ eval('1+1') }}",
    "{{ exec('import os') }}",
    "{{ open('/etc/passwd').read() }}",
    "{{ globals() }}",
    "{{ messages.__class__ }}",
    "{{ messages[0].__class__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ messages[0].pop('role') }}",
    "{{ messages.clear() }}",
    "{{ messages[0].setdefault('x', 1) }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(namespace) }}",
    "{{ '{x.__class__}'.format(x=1) }}",
    "{{ '{0[__class__]}'.format({}) }}",
    "{{ '%s'.__mod__('x') }}",
    "{{ ''.format_map({'a': 1}) }}",
    "{{ ('a'|safe).__html__() }}",
    "{{ ''.join.__self__ }}",
    "{{ loop.__class__ }}",
    "{% for i in [1] %}{{ loop.__class__ }}{{ loop._iterable }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ m._func }}{{ m._environment }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{% set ns = namespace(__class__=1) %}",
    "{% set ns = namespace() %}{{ ns.__class__ }}{{ ns._Namespace__attrs }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% from 'os' import system %}",
    "{% extends '/etc/passwd' %}",
    "{% autoescape true %}{% endautoescape %}",
    "{{ dict.__class__ }}{{ dict.fromkeys }}",
    "{{ dict.mro() }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__self__ }}",
    "{{ strftime_now('%Y' * 10) }}",
    "{{ (1).__class__ }}{{ (1.5).__class__ }}{{ none.__class__ }}{{ true.__class__ }}",
    "{{ 1.__class__ }}",
    "{{ messages|map('attr', '__class__')|list }}",
    "{{ [1]|groupby('__class__')|list }}",
    "{{ [messages]|sort(attribute='__class__') }}",
]
FORBIDDEN = ("<class", "<built-in", "module", "root:", "uid=", "function ", "object at", "os.")


@pytest.mark.parametrize("source", INERT)
def test_injections_are_inert(engine: Engine, source: str) -> None:
    result = engine.render(source, HELLO)
    assert not any(word in (result.text or "") for word in FORBIDDEN), result.text


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("{{ x", "line 1, column 5"),
        ("a\nb {{ 1 + }}", "line 2, column 10"),
        ("\n\n  {% nonsense %}", "line 3, column 6"),
        ("ünï {{ nope.x }}", "line 1, column 12"),
        ("{% for x in 5 %}{% endfor %}", "line 1, column 1"),
        ("a\r\nb\r{{ 1 / 0 }}", "line 3, column 6"),
        ("{{ raise_exception('my words') }}", "column 19: my words"),
        ("{% macro m() %}\n{{ 1 + 'a' }}{% endmacro %}{{ m() }}", "line 2, column 6"),
    ],
)
def test_errors_say_where(engine: Engine, source: str, place: str) -> None:
    result = engine.render(source, HELLO)
    assert result.text is None
    assert place in result.error or place.split(", column")[0] in result.error, result.error
    assert "template line" in result.error


def test_every_refused_allocation_is_an_error_and_leaks_nothing(engine: Engine) -> None:
    """The 0th, 1st, 2nd ... allocation fails, until the whole render succeeds."""
    lib = engine.lib
    source = (
        "{% macro m(a) %}{{ a|tojson(indent=2) }}{{ varargs }}{% endmacro %}"
        "{% set ns = namespace(s='') %}{% for x in messages %}{% set ns.s = ns.s + x.content|upper %}"
        "{{ m(x, 1) }}{% endfor %}{{ ns.s|trim|replace('A', 'bb') }}{{ '%s' % ns.s }}"
        "{{ range(3000)|map('string')|join(', ') }}{{ '{\"a\": [1]}'|from_json }}{{ 'x' * 100000 }}"
        "{{ [3, 1]|sort }}{{ {'k': 1}|dictsort }}{{ messages|groupby('role')|list|length }}"
    )
    variables = {"messages": ALL["turns"], "tools": [WEATHER]}
    whole = engine.render(source, variables)
    assert whole.text is not None, whole.error
    refused = 0
    for n in range(10_000):
        live = lib.lp_alloc_live()
        lib.lp_alloc_fail_at(n)
        result = engine.render(source, variables)
        lib.lp_alloc_fail_at(-1)
        assert lib.lp_alloc_live() == live, f"allocation {n} failed, memory stays behind"
        if result.text is not None:
            assert result.text == whole.text
            break
        assert "memory" in result.error, (n, result.error)
        refused += 1
    assert refused >= 5
    for n in range(0, refused, 3):
        live = lib.lp_alloc_live()
        lib.lp_alloc_fail_from(n)
        result = engine.render(source, variables)
        lib.lp_alloc_fail_at(-1)
        assert result.text is None
        assert lib.lp_alloc_live() == live
