"""Carries out a plan: compile the runtimes, gather the parts, write the files.

SPDX-License-Identifier: Apache-2.0
"""

from dataclasses import dataclass
from pathlib import Path

from llamapack import container, licenses, system_kv, toolchain
from llamapack.atomic import atomic_file
from llamapack.plan import Output, Plan, check_room
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
    warnings: tuple[str, ...]
    license_texts: tuple[Path, ...]
    prepared: Prepared | None  # the system prompt, evaluated


def build(plan: Plan, progress: Progress | None = None) -> list[Result]:
    """Writes every output of the plan."""
    # All runtimes first: a compiler's error then comes before any file was written.
    runtimes = [toolchain.build_runtime(output.target, progress) for output in plan.outputs]
    prepared, remarks = _prepare(plan, progress)
    return [
        _write(plan, output, runtime, prepared, remarks, progress)
        for output, runtime in zip(plan.outputs, runtimes, strict=True)
    ]


def _prepare(plan: Plan, progress: Progress | None) -> tuple[Prepared | None, tuple[str, ...]]:
    """The system prompt evaluated, if there is one and it is wanted; and what must be said."""
    if plan.model is None or not plan.embed_kv:
        return None, ()
    if not system_kv.system_text(plan.system, plan.args):
        return None, ()
    made = system_kv.prepare(
        plan.model, plan.system, plan.args, live_date=plan.live_date, progress=progress
    )
    if isinstance(made, str):
        return None, (made,)
    check_room(plan.model.size + len(made.data), plan.outputs)
    return made, made.warnings


def _write(
    plan: Plan,
    output: Output,
    runtime: bytes,
    prepared: Prepared | None,
    remarks: tuple[str, ...],
    progress: Progress | None,
) -> Result:
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
        system_kv=prepared.facts if prepared else None,
        date=prepared.date if prepared else None,
    )
    weights = container.Weights(model.path, model.offset, model.size) if model else None

    def copied(done: int) -> None:
        if progress and model:
            progress(f"writing {output.path.name}", done, model.size)

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
        model.size if model else 0,
        (*texts.warnings, *remarks),
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
