"""Carries out a plan: compile the runtimes, gather the parts, write the files.

SPDX-License-Identifier: Apache-2.0
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llamapack import container, licenses, native, system_kv, toolchain
from llamapack.atomic import atomic_file, scratch_file
from llamapack.payload import open_payload
from llamapack.plan import Output, Plan, check_room
from llamapack.quantize import Quantized
from llamapack.sources import Model, find_model
from llamapack.system_kv import Prepared
from llamapack.toolchain import Progress

__all__ = ["Result", "build"]

# Formats that are compressed already; deflating them again gains nothing.
_PACKED = (".png", ".jpg", ".jpeg", ".woff2", ".gz", ".webp", ".ico")


@dataclass(frozen=True, slots=True)
class Result:
    target: str
    path: Path
    size: int
    runtime_size: int
    model_size: int
    quant: str  # the mix that the weights were quantized to; "" as they came
    warnings: tuple[str, ...]
    license_texts: tuple[Path, ...]
    prepared: Prepared | None  # the system prompt, evaluated


def build(plan: Plan, progress: Progress | None = None) -> list[Result]:
    """Writes every output of the plan."""
    # All runtimes first: a compiler's error then comes before any file was written.
    runtimes = [toolchain.build_runtime(output.target, progress) for output in plan.outputs]
    if plan.quantized:
        native.load_quantizers()
    with _shipped(plan, progress) as (weights, model):
        prepared, remarks = _prepare(plan, model, progress)
        results: list[Result] = []
        for output, runtime in zip(plan.outputs, runtimes, strict=True):
            results.append(_write(plan, output, runtime, weights, prepared, remarks, progress))
            if weights is plan.quantized and len(results) == 1 < len(plan.outputs):
                # Quantized once: the other outputs get the bytes from the first.
                entry = open_payload(output.path).model
                assert entry is not None
                weights = container.Weights(output.path, entry.data, entry.stored)
    return results


def _embeds(plan: Plan) -> bool:
    return (
        plan.model is not None
        and plan.embed_kv
        and bool(system_kv.system_text(plan.system, plan.args))
    )


@contextmanager
def _shipped(
    plan: Plan, progress: Progress | None
) -> Iterator[tuple[container.Source | None, Model | None]]:
    """The weights that go into the outputs, and the model to evaluate the system prompt with. That
    must be the quantized one, which is therefore written to a file of its own first."""
    if plan.quantized is None or not _embeds(plan):
        yield plan.weights, plan.model
        return
    quant = plan.quantized
    check_room(quant.size, [*plan.outputs, plan.outputs[0]])
    with scratch_file(plan.outputs[0].path, _counted(quant, progress)) as path:
        model = find_model(str(path))
        yield container.Weights(model.path, model.offset, model.size), model


def _counted(quant: Quantized, progress: Progress | None) -> Iterator[bytes]:
    done = 0
    for piece in quant.pieces():
        yield piece
        done += len(piece)
        if progress:
            progress(f"quantizing to {quant.mix.name}", done, quant.size)


def _prepare(
    plan: Plan, model: Model | None, progress: Progress | None
) -> tuple[Prepared | None, tuple[str, ...]]:
    """The system prompt evaluated, if there is one and it is wanted; and what must be said."""
    if model is None or not _embeds(plan):
        return None, ()
    assert plan.model is not None
    made = system_kv.prepare(
        model,
        plan.system,
        plan.args,
        live_date=plan.live_date,
        called=str(plan.model.path),  # not the scratch file
        progress=progress,
    )
    if isinstance(made, str):
        return None, (made,)
    check_room(model.size + len(made.data), plan.outputs)
    return made, made.warnings


def _write(
    plan: Plan,
    output: Output,
    runtime: bytes,
    weights: container.Source | None,
    prepared: Prepared | None,
    remarks: tuple[str, ...],
    progress: Progress | None,
) -> Result:
    model, quant = plan.model, plan.quantized
    texts = licenses.collect(
        model.gguf if model else None,
        plan.licenses,
        model.embedded if model else {},
        output.target,
    )
    parts = sorted([*texts.parts, *page_parts()], key=lambda part: part.name)
    facts = container.Facts(
        name=plan.name,
        system=plan.system,
        args=tuple(plan.args),
        chat_template_sha256=model.gguf.template_sha256 if model else "",
        license_name=texts.name,
        license_files=tuple(part.name for part in texts.parts),
        notice=texts.notice,
        quantized=quant.record if quant else {},
        system_kv=prepared.facts if prepared else None,
        date=prepared.date if prepared else None,
    )
    what = f"quantizing to {quant.mix.name}" if quant and weights is quant else ""

    def copied(done: int) -> None:
        if progress and weights:
            progress(what or f"writing {output.path.name}", done, weights.size)

    with atomic_file(output.path, 0o755) as file:
        container.write_container(
            file,
            runtime,
            output.target,
            parts,
            weights,
            facts,
            copied,
            prepared.sealed if prepared else None,
        )
        size = file.tell()
    return Result(
        output.target.name,
        output.path,
        size,
        len(runtime),
        weights.size if weights else 0,
        quant.mix.name if quant else "",
        (*texts.warnings, *(quant.warnings if quant else ()), *remarks),
        tuple(texts.sources),
        prepared,
    )


def page_parts() -> list[container.Part]:
    """The built page, when this checkout or wheel has it."""
    folder = toolchain.find_tree().generated / "web"
    if not folder.is_dir():
        return []
    return [
        container.Part(
            f"web/{path.relative_to(folder).as_posix()}",
            path.read_bytes(),
            deflate=path.suffix not in _PACKED,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    ]
