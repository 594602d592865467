"""What is inside a file, for people and for machines; and getting entries out again.

SPDX-License-Identifier: Apache-2.0
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llamapack import payload
from llamapack.console import size_text
from llamapack.errors import LlamapackError
from llamapack.gguf import Gguf, read_gguf
from llamapack.launchers import payload_file
from llamapack.sources import read_head
from llamapack.toolchain import Progress
from llamapack.ziprecords import Entry

__all__ = ["describe", "extract_files", "lines"]


def describe(path: Path) -> dict[str, Any]:
    """Facts about a packed executable or a GGUF, ready for JSON."""
    if not payload.is_packed(read_head(payload_file(path))):
        return {"file": str(path), "size": path.stat().st_size, "model": _model(read_gguf(path))}
    opened = payload.open_payload(path)
    manifest = opened.manifest
    facts: dict[str, Any] = {"file": str(path), "size": opened.file_size}
    for key in ("builder", "target", "name", "system", "args", "license", "runtime", "date"):
        facts[key] = manifest.get(key)
    if isinstance(version := manifest.get("version"), str):
        facts["version"] = version
    if "slices" in manifest:
        facts["slices"] = manifest["slices"]
    if "quantized" in manifest:
        facts["quantized"] = manifest["quantized"]
    if isinstance(program := manifest.get("program"), dict):  # of an application
        facts["runtime"] = program
    facts["system_kv"] = _system_kv(opened)
    facts["entries"] = [
        {"name": e.name, "size": e.size, "stored": e.stored, "offset": e.data}
        for e in opened.entries.values()
    ]
    if opened.weights is not None:
        facts["weights"] = _weights(opened)
        if opened.partner is None:
            return facts
    entry = opened.holder.model
    if entry is not None and entry.size == entry.stored:
        facts["model"] = _model(read_gguf(opened.holder.path, entry.data, entry.stored))
    return facts


def _weights(opened: payload.Payload) -> dict[str, Any]:
    row, partner = opened.weights or {}, opened.partner
    return {
        "file": payload.text(row, "file"),
        "size": payload.number(row, "size"),
        "path": str(partner.path) if partner else None,
        "problem": opened.partner_problem,
    }


def _system_kv(opened: payload.Payload) -> dict[str, Any] | None:
    row = opened.system_kv
    if row is None:
        return None
    facts: dict[str, Any] = {"size": opened.entries[row["entry"]].size}
    facts["tokens"] = payload.number(row, "tokens")
    return facts | {key: payload.text(row, key) for key in ("cpu", "act", "kv_type")}


def _model(gguf: Gguf) -> dict[str, Any]:
    arch = gguf.architecture
    return {
        "architecture": arch,
        "name": gguf.text("general.name"),
        "license": gguf.text("general.license"),
        "gguf_version": gguf.version,
        "parameters": gguf.parameters,
        "size": gguf.size,
        "tensors": len(gguf.tensors),
        "types": gguf.type_counts(),
        "layers": gguf.number(f"{arch}.block_count"),
        "width": gguf.number(f"{arch}.embedding_length"),
        "context": gguf.number(f"{arch}.context_length"),
        "tokenizer": gguf.text("tokenizer.ggml.model"),
        "pre_tokenizer": gguf.text("tokenizer.ggml.pre"),
        "vocabulary": gguf.arrays.get("tokenizer.ggml.tokens", 0),
        "chat_template_sha256": gguf.template_sha256,
    }


def lines(facts: dict[str, Any]) -> Iterator[str]:
    """The same facts as text."""
    yield f"{facts['file']}  {size_text(facts['size'])}"
    for key in ("builder", "target", "name", "version", "system"):
        if facts.get(key):
            yield _line(key, facts[key])
    if isinstance(facts.get("slices"), list):
        yield _line("starts on", " ".join(map(str, facts["slices"])))
    if kv := facts.get("system_kv"):
        yield _line("prepared", f"{kv['tokens']} tokens of system prompt, {size_text(kv['size'])}, "
                    f"--cpu {kv['cpu']} --act {kv['act']} --kv-type {kv['kv_type']}")  # fmt: skip
    if isinstance(facts.get("date"), int):
        yield _line("date", f"{time.strftime('%Y-%m-%d', time.gmtime(facts['date']))}, in prompts")
    if facts.get("args"):
        yield _line("args", " ".join(map(str, facts["args"])))
    if isinstance(facts.get("license"), dict):
        named = facts["license"]
        yield _line("licence", named.get("name") or "not stated")
        if named.get("notice"):
            yield _line("notice", named["notice"])
    if isinstance(facts.get("quantized"), dict):
        quantized = facts["quantized"]
        before = quantized.get("from")
        types = ", ".join(before) if isinstance(before, dict) else "?"
        yield _line("quantized", f"to {quantized.get('type')} from {types}")
    if isinstance(facts.get("runtime"), dict):
        runtime = facts["runtime"]
        yield _line("runtime", f"{runtime.get('size')} bytes, sha256 {runtime.get('sha256')}")
    if weights := facts.get("weights"):
        where = weights["problem"] or f"found as {weights['path']}"
        yield _line("weights in", f"{weights['file']}, {size_text(weights['size'])}; {where}")
    yield from _model_lines(facts.get("model"))
    for entry in facts.get("entries", []):
        yield f"  {entry['size']:>13,}  {entry['name']}"


def _model_lines(model: dict[str, Any] | None) -> Iterator[str]:
    if model is None:
        return
    name = f" ({model['name']})" if model["name"] else ""
    yield _line("model", f"{model['architecture']}{name}, {model['parameters']:,} parameters")
    types = ", ".join(f"{name} {size_text(size)}" for name, size in model["types"].items())
    yield _line("weights", f"{size_text(model['size'])}: {types}")
    shape = f"{model['layers']} layers of {model['width']}, context {model['context']}"
    yield _line("shape", shape)
    tokens = f"{model['tokenizer']} {model['pre_tokenizer']}".strip()
    yield _line("tokenizer", f"{tokens}, {model['vocabulary']:,} tokens")
    yield _line("licence", model["license"] or "not stated")
    yield _line("template", model["chat_template_sha256"] or "none in the file")


def _line(key: str, value: object) -> str:
    return f"  {key:10} {value}"


def extract_files(
    path: Path, folder: Path, progress: Progress | None = None, *, everything: bool = False
) -> list[Path]:
    """Writes the model (or every entry) under folder; existing files are not replaced."""
    opened = payload.open_payload(path)
    entries = [(opened, entry) for entry in opened.entries.values()] if everything else []
    if not everything or opened.weights is not None:
        entries.append(_only_model(opened))
    for _, entry in entries:
        if (folder / entry.name).exists():
            raise LlamapackError(f"{folder / entry.name} is there already; name another -d DIR")
    made = []
    for source, entry in entries:
        out = folder / entry.name
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LlamapackError(f"cannot make {out.parent}: {error.strerror}") from None
        payload.extract(source, entry, out, _shower(progress, entry))
        made.append(out)
    return made


def _only_model(opened: payload.Payload) -> tuple[payload.Payload, Entry]:
    holder = opened.holder
    if holder.model is None:
        raise LlamapackError(f"{opened.path}: this executable holds no weights")
    return holder, holder.model


def _shower(progress: Progress | None, entry: Entry) -> payload.Progress | None:
    if progress is None:
        return None
    return lambda done, total: progress(f"extracting {entry.name}", done, total)
