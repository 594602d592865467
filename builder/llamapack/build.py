"""Carries out a plan: compile the runtimes, gather the parts, write the files.

SPDX-License-Identifier: Apache-2.0
"""

from dataclasses import dataclass
from pathlib import Path

from llamapack import container, licenses, native, toolchain
from llamapack.atomic import atomic_file
from llamapack.payload import open_payload
from llamapack.plan import Output, Plan
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


def build(plan: Plan, progress: Progress | None = None) -> list[Result]:
    """Writes every output of the plan."""
    # All runtimes first: a compiler's error then comes before any file was written.
    runtimes = [toolchain.build_runtime(output.target, progress) for output in plan.outputs]
    weights = plan.weights
    if plan.quantized:
        native.load_quantizers()
    results: list[Result] = []
    for output, runtime in zip(plan.outputs, runtimes, strict=True):
        results.append(_write(plan, output, runtime, weights, progress))
        if plan.quantized and len(results) == 1 < len(plan.outputs):
            # Quantized once: the other outputs get the bytes from the first.
            entry = open_payload(output.path).model
            assert entry is not None
            weights = container.Weights(output.path, entry.data, entry.stored)
    return results


def _write(
    plan: Plan,
    output: Output,
    runtime: bytes,
    weights: container.Source | None,
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
    )
    what = f"quantizing to {quant.mix.name}" if quant and weights is quant else ""

    def copied(done: int) -> None:
        if progress and weights:
            progress(what or f"writing {output.path.name}", done, weights.size)

    with atomic_file(output.path, 0o755) as file:
        container.write_container(file, runtime, output.target, parts, weights, facts, copied)
        size = file.tell()
    return Result(
        output.target.name,
        output.path,
        size,
        len(runtime),
        weights.size if weights else 0,
        quant.mix.name if quant else "",
        (*texts.warnings, *(quant.warnings if quant else ())),
        tuple(texts.sources),
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
