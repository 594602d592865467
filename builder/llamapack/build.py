"""Carries out a plan: compile the runtimes, gather the parts, write the files.

SPDX-License-Identifier: Apache-2.0
"""

from dataclasses import dataclass
from pathlib import Path

from llamapack import container, licenses, toolchain
from llamapack.atomic import atomic_file
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
    warnings: tuple[str, ...]
    license_texts: tuple[Path, ...]


def build(plan: Plan, progress: Progress | None = None) -> list[Result]:
    """Writes every output of the plan."""
    # All runtimes first: a compiler's error then comes before any file was written.
    runtimes = [toolchain.build_runtime(output.target, progress) for output in plan.outputs]
    return [
        _write(plan, output, runtime, progress)
        for output, runtime in zip(plan.outputs, runtimes, strict=True)
    ]


def _write(plan: Plan, output: Output, runtime: bytes, progress: Progress | None) -> Result:
    model = plan.model
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
    )
    weights = container.Weights(model.path, model.offset, model.size) if model else None

    def copied(done: int) -> None:
        if progress and model:
            progress(f"writing {output.path.name}", done, model.size)

    with atomic_file(output.path, 0o755) as file:
        container.write_container(file, runtime, output.target, parts, weights, facts, copied)
        size = file.tell()
    return Result(
        output.target.name,
        output.path,
        size,
        len(runtime),
        model.size if model else 0,
        tuple(texts.warnings),
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
