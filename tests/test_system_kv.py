"""`build --system` evaluates the system prompt: what users and their executables see of it.

Small models packed by the builder and run; one real model. What the cache was good for is read
from the server's usage.prompt_tokens_details.cached_tokens.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from gguf import GGUFValueType as VType
from llamapack import container, payload
from llamapack.errors import LlamapackError
from server_process import Server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and descriptor limits")

Cli = Callable[..., int]

SYSTEM = "You are a helpful assistant. Once upon a time there was a small model that said little."
DAY = 86400

DATED = (
    "{{ '<|im_start|>system\n' }}{% if not date_string is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ 'Today: ' + date_string + '\n' }}{% if messages[0].role == 'system' %}"
    "{{ messages[0].content }}{% set messages = messages[1:] %}{% endif %}{{ '<|im_end|>\n' }}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def save(folder: Path, arch: str = "llama", template: str = "", seed: int = 4) -> Path:
    model = tiny_model.build(arch, "Q8_0", seed=seed)
    if template:
        model.kv["tokenizer.chat_template"] = (template, VType.STRING)
    return model.save(folder / f"{arch}{seed}.gguf")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tmp_path)


@pytest.fixture
def pack(tmp_path: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """pack("chat", MODEL, options...) gives the executable and the row of --json."""

    def run(name: str, source: Path, *options: str) -> tuple[Path, dict[str, Any]]:
        out = tmp_path / name
        capsys.readouterr()
        code = run_cli("build", str(source), "-o", str(out), "--json", *options)
        captured = capsys.readouterr()
        assert code == 0, captured.err
        (row,) = json.loads(captured.out)["outputs"]
        return out, row

    return run


def manifest_of(path: Path) -> dict[str, Any]:
    return payload.open_payload(path).manifest


def answer(path: Path, *options: str, prompt: str = "One, two") -> str:
    words = [str(path), "-p", prompt, "-n", "16", *options]
    if "--seed" not in options:
        words += ["--temp", "0"]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@contextmanager
def serving(path: Path, *options: str) -> Iterator[Server]:
    with Server(path, *options) as server:
        yield server


def cached(server: Server, text: str = "One, two", **fields: Any) -> tuple[int, int]:
    """Tokens of the prompt, and how many of them were not evaluated."""
    usage = server.chat(text, max_tokens=4, **fields)["usage"]
    return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


# --- what it is good for ----------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["llama", "gemma3"])  # gemma's template merges the system turn
def test_the_same_answers_and_only_the_rest_evaluated(
    tmp_path: Path, pack: Callable[..., Any], arch: str
) -> None:
    path, row = pack("chat", save(tmp_path, arch), "--system", SYSTEM)
    plain, none = pack("plain", save(tmp_path, arch), "--system", SYSTEM, "--no-embed-kv")
    kv = row["system_kv"]
    assert none["system_kv"] is None
    assert (kv["act"], kv["kv_type"], kv["date"]) == ("int16", "f16", None)
    # Beside its own size it costs nothing but a few headers and a row of the manifest.
    assert 0 <= row["size"] - none["size"] - kv["size"] < 4096 + 1024
    for options in ([], ["--seed", "5", "--temp", "1"], ["--cpu", "ref", "--act", "int8"]):
        want = answer(plain, *options)
        assert answer(path, *options) == answer(path, *options, "--no-embedded-kv") == want
    with serving(path, "--parallel", "2") as server:
        n, hit = cached(server)
        assert hit >= kv["tokens"] > 0.6 * n
        # A longer system prompt, and another one, share what they share.
        longer = {"messages": [{"role": "system", "content": SYSTEM + " Be brief."},
                               {"role": "user", "content": "Hi"}]}  # fmt: skip
        usage = server.post("/v1/chat/completions", {**longer, "max_tokens": 1}).json()["usage"]
        shared = usage["prompt_tokens_details"]["cached_tokens"]
        assert kv["tokens"] - 12 < shared < kv["tokens"]
    for options in (["--no-embedded-kv"], ["--act", "int8"], ["--kv-type", "f32"]):
        with serving(path, *options) as server:
            assert cached(server)[1] == 0


def test_with_quantized_weights_it_is_theirs(tmp_path: Path, pack: Callable[..., Any]) -> None:
    half = tiny_model.build("llama", "F16").save(tmp_path / "half.gguf")
    path, row = pack("chat", half, "--quant", "Q8_0", "--system", SYSTEM)
    assert row["quant"] == "Q8_0"
    assert row["system_kv"]["tokens"] > 10
    with serving(path) as server:
        prompt, from_cache = cached(server)
        assert row["system_kv"]["tokens"] <= from_cache < prompt
    assert answer(path) == answer(path, "--no-embedded-kv")
    assert not list(tmp_path.glob(".*lp-tmp*"))
    first = path.read_bytes()
    path, _ = pack("chat", half, "--quant", "Q8_0", "--system", SYSTEM)
    assert path.read_bytes() == first


def test_two_sequences_start_from_it_at_once(model: Path, pack: Callable[..., Any]) -> None:
    path, row = pack("chat", model, "--system", SYSTEM)
    with serving(path, "--parallel", "2") as server:
        hits: list[int] = []

        def ask(text: str) -> None:
            hits.append(cached(server, text, ignore_eos=True)[1])

        threads = [threading.Thread(target=ask, args=(text,)) for text in ("One", "Two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert hits == [row["system_kv"]["tokens"]] * 2


def test_a_real_model(smollm2: Path, pack: Callable[..., Any]) -> None:
    system = "You are a pirate. Answer every question in one short sentence, like a pirate would."
    path, row = pack("chat", smollm2, "--system", system)
    assert row["system_kv"]["tokens"] > 15
    want = answer(path, "--no-embedded-kv", prompt="Who are you?")
    assert len(want) > 20 and answer(path, prompt="Who are you?") == want


def test_the_terminal_chat_tells(model: Path, pack: Callable[..., Any]) -> None:
    path, row = pack("chat", model, "--system", SYSTEM)
    done = subprocess.run(
        [str(path), "chat", "-n", "4"], input="One\n/stats\n/exit\n",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f", {row['system_kv']['tokens']} of them from the cache" in done.stdout


# --- what is recorded -------------------------------------------------------------------------


def test_builds_are_the_same_and_say_how_it_was_computed(
    model: Path,
    pack: Callable[..., Any],
    run_cli: Cli,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    path, row = pack("chat", model, "--system", SYSTEM)
    again, _ = pack("again", model, "--system", SYSTEM)
    assert path.read_bytes() == again.read_bytes()
    kv = row["system_kv"]
    manifest = manifest_of(path)
    assert "date" not in manifest
    assert manifest["system_kv"] == {
        "entry": "system.kv",
        **{k: kv[k] for k in ("tokens", "cpu", "act", "kv_type")},
    }
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("system.kv")
        assert (info.compress_type, info.file_size) == (zipfile.ZIP_STORED, kv["size"])
        data = archive.read("system.kv")
    opened = payload.open_payload(path)
    assert opened.entries["system.kv"].data % 4096 == 0
    rows = {entry["name"]: entry for entry in manifest["entries"]}
    assert data[32:64].hex() == rows["model.gguf"]["sha256"]

    capsys.readouterr()
    assert run_cli("verify", str(path)) == 0
    assert run_cli("inspect", str(path), "--json") == 0
    facts = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert facts["system_kv"] == {k: v for k, v in kv.items() if k != "date"}
    assert run_cli("inspect", str(path)) == 0
    assert f"{kv['tokens']} tokens of system prompt" in capsys.readouterr().out
    assert run_cli("build", str(model), "-o", str(again), "--system", SYSTEM) == 0
    assert f"of {kv['tokens']} prepared tokens" in capsys.readouterr().out

    assert run_cli("extract", str(path), "-d", str(tmp_path / "x"), "--all") == 0
    assert (tmp_path / "x" / "system.kv").read_bytes() == data
    assert run_cli("extract", str(path), "-d", str(tmp_path / "y")) == 0
    assert [p.name for p in (tmp_path / "y").iterdir()] == ["model.gguf"]

    info_json = subprocess.run([str(path), "info", "--json"], capture_output=True, check=True)
    told = json.loads(info_json.stdout)
    assert (told["system_kv_tokens"], told["system_kv_bytes"]) == (kv["tokens"], kv["size"])
    assert told["system_kv_path"] == f"--cpu {kv['cpu']} --act int16 --kv-type f16"
    assert subprocess.run([str(path), "verify"], capture_output=True, check=True).stdout


def test_computed_as_the_executable_will_run(model: Path, pack: Callable[..., Any]) -> None:
    """Baked-in options count: modes, the system prompt, thinking."""
    for arg, key, value in (
        ("--act int8", "act", "int8"),
        ("--act f32", "kv_type", "f32"),  # asked for by name, f32 brings its cache along
        ("--kv-type f32", "kv_type", "f32"),
    ):
        path, row = pack("chat", model, "--system", SYSTEM, "--arg", arg)
        assert row["system_kv"][key] == value
        with serving(path) as server:
            assert cached(server)[1] == row["system_kv"]["tokens"]
    path, row = pack("chat", model, "--arg", "--system " + SYSTEM)
    with serving(path) as server:
        assert cached(server)[1] == row["system_kv"]["tokens"] > 30
    assert pack("chat", model)[1]["system_kv"] is None
    none = pack("chat", model, "--system", SYSTEM, "--arg", "--no-embedded-kv")[1]
    assert none["system_kv"] is None and "--no-embedded-kv" in none["warnings"][-1]


def test_repacking_keeps_the_system_prompt(model: Path, pack: Callable[..., Any]) -> None:
    path, row = pack("chat", model, "--system", SYSTEM)
    again, same = pack("again", path)
    assert again.read_bytes() == path.read_bytes()
    assert same["system_kv"] == row["system_kv"]
    assert manifest_of(pack("other", path, "--system", "Be brief.")[0])["system"] == "Be brief."
    bare, none = pack("bare", path, "--system", "")
    assert none["system_kv"] is None and manifest_of(bare)["system"] == ""


def test_what_cannot_be_prepared(
    tmp_path: Path, pack: Callable[..., Any], run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    """A template that does not run is said and packed all the same; a prompt larger than the
    context is an error, and nothing is written."""
    broken = save(tmp_path, template="{% for %}", seed=1)
    path, row = pack("broken", broken, "--system", SYSTEM)
    assert row["system_kv"] is None and "template line 1" in row["warnings"][-1]
    assert answer(path, "--raw")
    out = tmp_path / "long"
    capsys.readouterr()
    assert run_cli("build", str(save(tmp_path)), "-o", str(out), "--system", SYSTEM * 40) == 1
    assert "the model's context holds 512" in capsys.readouterr().err
    assert not out.exists()


def test_a_host_that_cannot_evaluate_says_what_to_do(
    model: Path, tmp_path: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    def no_library() -> None:
        raise LlamapackError("cannot build a library for this machine")

    monkeypatch.setattr("llamapack.system_kv.load", no_library)
    words = ["build", str(model), "-o", str(tmp_path / "c"), "--system", SYSTEM]
    assert run_cli(*words) == 1
    assert "this machine (needed to evaluate the system prompt; --no-embed-kv" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "c").exists()
    assert run_cli(*words, "--no-embed-kv") == 0


# --- dates ------------------------------------------------------------------------------------


def test_a_template_with_a_date_gets_the_builds(
    tmp_path: Path, pack: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save(tmp_path, template=DATED, seed=9)
    day = int(datetime.datetime(2026, 3, 5, tzinfo=datetime.UTC).timestamp())
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(day + 12345))
    path, row = pack("chat", model, "--system", SYSTEM)
    assert manifest_of(path)["date"] == row["system_kv"]["date"] == day
    # Another time of the same day: the same bytes. Another day: another date.
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(day + 86399))
    assert pack("again", model, "--system", SYSTEM)[0].read_bytes() == path.read_bytes()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(day + 86400))
    assert manifest_of(pack("later", model, "--system", SYSTEM)[0])["date"] == day + DAY
    prefix = row["system_kv"]["tokens"]
    with serving(path) as server:
        n, hit = cached(server)
        assert hit == prefix > 0.6 * n
        for date, shares in (("05 Mar 2026", True), ("06 Mar 2026", False)):
            hit = cached(server, chat_template_kwargs={"date_string": date})[1]
            assert hit >= prefix if shares else hit < 20
    with serving(path, "--live-date") as server:
        assert cached(server)[1] < 20
    # Without a prepared prompt there is nothing to fix the date for.
    assert "date" not in manifest_of(pack("c", model, "--system", SYSTEM, "--no-embed-kv")[0])
    path, row = pack("live", model, "--system", SYSTEM, "--live-date")
    assert "date" not in manifest_of(path) and 0 < row["system_kv"]["tokens"] < 20
    with serving(path) as server:
        assert row["system_kv"]["tokens"] <= cached(server)[1] < 20
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    before = datetime.datetime.now(datetime.UTC).date()
    date = manifest_of(pack("now", model, "--system", SYSTEM)[0])["date"]
    after = datetime.datetime.now(datetime.UTC).date()
    assert before <= datetime.datetime.fromtimestamp(date, datetime.UTC).date() <= after


def test_a_date_that_is_none(
    tmp_path: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    model = save(tmp_path, template=DATED, seed=9)
    for value in ("yesterday", "-1", "1e9", "123456789012", "\N{ARABIC-INDIC DIGIT ONE}"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
        assert run_cli("build", str(model), "-o", str(tmp_path / "c"), "--system", "Hi") == 1
        assert "SOURCE_DATE_EPOCH is not a number" in capsys.readouterr().err
        assert not (tmp_path / "c").exists()


# --- files that were changed ------------------------------------------------------------------


def rewritten(
    path: Path, out: Path, change: Callable[[dict[str, bytes], dict[str, Any]], None]
) -> Path:
    """The executable with other entries and manifest rows, sealed as if the builder had done it."""
    opened = payload.open_payload(path)
    raw = path.read_bytes()
    parts = {name: raw[e.data : e.data + e.stored] for name, e in opened.entries.items()}
    manifest = dict(opened.manifest)
    change(parts, manifest)
    runtime = raw[: payload.number(manifest["runtime"], "size")]
    with out.open("wb+") as file:
        writer = container._Writer(file, runtime)
        for name, data in parts.items():
            if name == "manifest.json":
                continue
            align = 65536 if name == "model.gguf" else 4096
            deflated = opened.entries[name].method if name in opened.entries else 0
            if deflated:
                continue  # the page is not needed
            writer.add(container.Part(name, data, align=align))
        roots = {r["name"]: r for r in manifest["entries"]}
        manifest["entries"] = [
            roots["model.gguf"] if r["name"] == "model.gguf" else r for r in writer.rows
        ]
        writer.finish(json.dumps(manifest).encode())
    out.chmod(0o755)
    return out


def test_damage_is_found_by_verify_and_harms_nobody(
    model: Path, pack: Callable[..., Any], tmp_path: Path
) -> None:
    path, _ = pack("chat", model, "--system", SYSTEM)
    want = answer(path)
    raw, entry = path.read_bytes(), payload.open_payload(path).entries["system.kv"]
    for at in (0, 9, 13, 17, 25, 40, 66, 73, 77, 81, 89, 97, 113, 130, entry.stored - 1):
        bad = bytearray(raw)
        bad[entry.data + at] ^= 0x40
        other = tmp_path / "bad"
        other.write_bytes(bad)
        other.chmod(0o755)
        assert answer(other) == want, at
        verified = subprocess.run([str(other), "verify"], capture_output=True, check=False)
        assert verified.returncode == 1, at
        with pytest.raises(LlamapackError, match=r"system\.kv differs from its hash"):
            payload.verify(payload.open_payload(other))
        other.unlink()
    info = subprocess.run([str(path), "info"], capture_output=True, text=True, check=True)
    assert "tokens prepared" in info.stdout


def test_of_other_weights(model: Path, pack: Callable[..., Any], tmp_path: Path) -> None:
    """Hashes all right, but the entry belongs to another model: never used, and verify says so."""
    path, _ = pack("chat", model, "--system", SYSTEM)
    stranger, _ = pack("stranger", save(tmp_path, seed=5), "--system", SYSTEM)
    with zipfile.ZipFile(stranger) as archive:
        foreign = archive.read("system.kv")

    def exchange(parts: dict[str, bytes], manifest: dict[str, Any]) -> None:
        del manifest
        parts["system.kv"] = foreign

    mixed = rewritten(path, tmp_path / "mixed", exchange)
    assert answer(mixed) == answer(path)
    with serving(mixed) as server:
        assert cached(server)[1] == 0
    with pytest.raises(LlamapackError, match=r"system\.kv does not belong to model\.gguf"):
        payload.verify(payload.open_payload(mixed))
    for command, code in (("verify", 1), ("info", 0)):
        done = subprocess.run([str(mixed), command], capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert "is of other weights" in done.stdout + done.stderr
    # The same weights from elsewhere: with their hash they are known, without it they are not.
    for weights, uses in ((model, False), (stranger, False), (path, True)):
        with serving(path, "-m", str(weights)) as server:
            assert (cached(server)[1] > 0) == uses, weights


def test_manifest_rows_that_make_no_sense(
    model: Path, pack: Callable[..., Any], tmp_path: Path
) -> None:
    path, _ = pack("chat", model, "--system", SYSTEM)
    want = answer(path)
    rows: list[Any] = [7, [], {}, {"entry": 5}]
    rows += [{"entry": name} for name in ("", "no.kv", "model.gguf", "manifest.json")]
    for row in rows:

        def change(parts: dict[str, bytes], manifest: dict[str, Any], row: Any = row) -> None:
            del parts
            manifest["system_kv"] = row

        other = rewritten(path, tmp_path / "other", change)
        assert answer(other) == want, row
    for date in ("2026", -1, 2**50, 1.5):

        def dated(parts: dict[str, bytes], manifest: dict[str, Any], date: object = date) -> None:
            del parts
            manifest["date"] = date

        other = rewritten(path, tmp_path / "other", dated)
        done = subprocess.run([str(other), "info"], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and '"date" is not a time' in done.stderr
