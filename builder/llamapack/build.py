"""Carries out a plan: compile the runtimes, gather the parts, write the files.

SPDX-License-Identifier: Apache-2.0
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llamapack import container, launchers, licenses, native, system_kv, toolchain
from llamapack.atomic import Finish, atomic_files, explained, scratch_file
from llamapack.container import Facts, Part, Partner
from llamapack.errors import LlamapackError
from llamapack.formats import FORMATS, pe, resources, universal
from llamapack.icons import standard_icon
from llamapack.layout import Job, Layout, choose_quant, lay_out
from llamapack.payload import open_payload, verify_alone
from llamapack.plan import Output, Plan
from llamapack.quantize import Quantized
from llamapack.sizes import check_files, check_space
from llamapack.sources import Model, find_model
from llamapack.system_kv import Prepared
from llamapack.targets import Target
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
    notes: tuple[str, ...]  # what was decided, and what that means for whoever passes it on
    warnings: tuple[str, ...]
    license_texts: tuple[Path, ...]
    prepared: Prepared | None  # the system prompt, evaluated
    weights: Path | None = None  # the file with the weights, when they are not in `path`
    weights_size: int = 0  # of that file


def build(plan: Plan, progress: Progress | None = None) -> list[Result]:
    """Writes every output of the plan."""
    # All runtimes first: a compiler's error then comes before any file was written.
    targets = list(dict.fromkeys(target for output in plan.outputs for target in output.runtimes))
    made = toolchain.build_runtimes(targets, progress)
    runtimes = {
        target.name: _dressed(plan, target, data)
        for target, data in zip(targets, made, strict=True)
    }
    jobs = [_job(plan, output, runtimes) for output in plan.outputs]
    notes = choose_quant(plan, jobs)
    if plan.quantized:
        native.load_quantizers()
    layout = lay_out(plan, jobs, None)
    _check(layout)
    with _shipped(plan, layout, progress) as (weights, model):
        prepared, remarks = _prepare(plan, model, progress)
        layout = lay_out(plan, jobs, prepared)
        _check(layout)
        writer = _Writer(plan, layout, weights, prepared, notes, remarks, progress)
        return writer.write(jobs)


def _job(plan: Plan, output: Output, runtimes: dict[str, bytes]) -> Job:
    """All of an output but the weights and what is evaluated with them."""
    model = plan.model
    texts = licenses.collect(
        model.gguf if model else None, plan.licenses, plan.kept.licenses, output.runtimes
    )
    whole = _whole(output, runtimes)
    # An application's archive is a file called "model": the program then needs a name of its own.
    stem = output.path.stem if output.app else ""
    facts = Facts(
        name=plan.name or stem,
        system=plan.system,
        args=tuple(plan.args),
        chat_template_sha256=model.gguf.template_sha256 if model else "",
        license_name=texts.name,
        license_files=tuple(part.name for part in texts.parts),
        notice=texts.notice,
        program=launchers.program_row(whole.runtime, stem) if output.app else None,
        slices=tuple(target.name for target in output.slices),
        version=plan.version,
    )
    icon = [Part(plan.icon_file.entry, plan.icon_file.data)] if plan.icon_file else []
    parts = sorted([*texts.parts, *icon, *page_parts()], key=lambda part: part.name)
    slices = [Part(piece.entry, piece.data, align=universal.BLOCK) for piece in whole.slices]
    return Job(output, whole.runtime, [*slices, *parts], texts, facts)


def _whole(output: Output, runtimes: dict[str, bytes]) -> universal.Universal:
    """What the container is written around; only a universal file has slices beside it."""
    if not output.slices:
        return universal.Universal(runtimes[output.target.name], ())
    script = toolchain.find_tree().root / "templates" / "launch" / "universal.sh"
    windows = next(runtimes[row.name] for row in output.slices if row.windows)
    others = {row.name: runtimes[row.name] for row in output.slices if not row.windows}
    return universal.assemble(windows, others, script.read_text(encoding="utf-8"))


def _dressed(plan: Plan, target: Target, runtime: bytes) -> bytes:
    """The runtime with what its system shows of a program: on Windows icon, version and name."""
    if not target.windows:
        return runtime
    manifest = toolchain.find_tree().root / "templates" / "launch" / "windows.manifest"
    return pe.add_resources(
        runtime,
        resources.describe_program(
            plan.title, plan.version, plan.icon or standard_icon(), manifest.read_bytes()
        ),
    )


def _check(layout: Layout, *more: tuple[Path, int]) -> None:
    """Before anything is written, and before the system prompt is evaluated, which takes long."""
    check_files([*layout.files, *more], layout.splits)
    check_space([*layout.files, *more])


@contextmanager
def _shipped(
    plan: Plan, layout: Layout, progress: Progress | None
) -> Iterator[tuple[container.Source | None, Model | None]]:
    """The weights that go into the outputs, and the model to evaluate the system prompt with. That
    must be the quantized one, which is therefore written to a file of its own first."""
    if plan.quantized is None or not system_kv.wanted(plan):
        yield plan.weights, plan.model
        return
    quant = plan.quantized
    first = plan.outputs[0].path
    _check(layout, (first, quant.size))
    with scratch_file(first, _counted(quant, progress)) as path:
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
    if model is None or not system_kv.wanted(plan):
        return None, ()
    assert plan.model is not None
    if (kept := system_kv.kept_prefix(plan)) is not None:
        return kept, ()
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
    return made, made.warnings


class _Writer:
    """Writes all outputs, and the file of weights that some of them may share. Executables appear
    together or not at all; applications, which are directories, before them one by one."""

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        weights: container.Source | None,
        prepared: Prepared | None,
        notes: tuple[str, ...],
        remarks: tuple[str, ...],
        progress: Progress | None,
    ) -> None:
        self._plan, self._layout, self._weights = plan, layout, weights
        self._prepared, self._notes, self._remarks = prepared, notes, remarks
        self._progress = progress

    def write(self, jobs: list[Job]) -> list[Result]:
        results: dict[Path, Result] = {}
        for job in jobs:
            if job.output.app:
                results[job.output.path] = self._write_application(job)
        if files := [job for job in jobs if not job.output.app]:
            results |= self._write_files(files)
        if self._plan.desktop:
            for output in (job.output for job in jobs if job.output.target.system == "linux"):
                title = self._plan.name or output.path.name
                launchers.write_desktop(output.path, title, self._plan.pictures)
        return [results[job.output.path] for job in jobs]

    def _write_application(self, job: Job) -> Result:
        path, plan = job.output.path, self._plan
        with launchers.application(
            path, job.runtime, job.output.target, job.facts.name, plan.pictures, plan.version
        ) as file:
            self._container(file, job, self._weights, None)
            size = file.tell() + len(job.runtime)
        self._share(path)
        return self._result(job, size)

    def _write_files(self, jobs: list[Job]) -> dict[Path, Result]:
        path = self._layout.weights_path
        apart = [job for job in jobs if self._layout.is_split(job)]
        wanted = [(path, 0o644)] if apart else []
        wanted += [(job.output.path, 0o755) for job in jobs]
        signers = {job.output.path: self._signer(job.output) for job in jobs}
        finish = {path: signer for path, signer in signers.items() if signer}
        partner: Partner | None = None
        sizes: list[int] = []
        with atomic_files(wanted, finish) as files:
            if apart:
                partner = self._write_weights(files[0], apart[0])
            for job, file in zip(jobs, files[1:] if apart else files, strict=True):
                with explained(job.output.path):
                    if self._layout.is_split(job):
                        self._container(file, job, None, partner)
                    else:
                        self._container(file, job, self._weights, None)
                        self._share_from(file)
                    sizes.append(file.tell())
        if self._plan.sign:
            sizes = [job.output.path.stat().st_size for job in jobs]
        results = {}
        for job, size in zip(jobs, sizes, strict=True):
            results[job.output.path] = self._result(job, size)
            if partner and self._layout.is_split(job):
                results[job.output.path] = dataclasses.replace(
                    results[job.output.path],
                    weights=path,
                    weights_size=partner.size,
                    notes=(*self._notes, self._layout.note(apart)),
                )
        return results

    def _write_weights(self, file: BinaryIO, job: Job) -> Partner:
        """The file of their own, with the licence texts of one of the jobs that need it."""
        path, weights = self._layout.weights_path, self._weights
        assert weights is not None
        with explained(path):
            partner = container.write_weights(
                file, path.name, job.model_parts, weights, job.texts.name, self._copied(path)
            )
            self._share_from(file)
        return partner

    def _signer(self, output: Output) -> Finish | None:
        """What signs this output and checks that it is still whole and can start."""
        sign = self._plan.sign
        if sign is None:
            return None

        def run(path: Path) -> None:
            if self._progress:
                self._progress(f"signing {output.path.name}", 0, 1)
            sign.run(path, output.target.name)
            try:
                verify_alone(open_payload(path))
            except LlamapackError as error:
                what = str(error).removeprefix(f"{path}: ")
                raise LlamapackError(f"--sign-cmd: {sign.tool} broke {path.name}: {what}") from None
            limit = FORMATS[output.target.format].max_size
            if limit is not None and path.stat().st_size > limit:
                raise LlamapackError(f"--sign-cmd: {path.name} exceeds 4 GiB with its signature")

        return run

    def _share(self, path: Path) -> None:
        """Read, quantized and hashed once: what else is written gets the bytes from this file."""
        weights = self._weights
        if weights is None or (isinstance(weights, container.Weights) and weights.known):
            return
        opened = open_payload(path)
        entry = opened.model
        assert entry is not None
        (row,) = (row for row in opened.manifest["entries"] if row["name"] == entry.name)
        known = container.Checksums(entry.crc32, tuple(map(bytes.fromhex, row["chunks"])))
        self._weights = container.Weights(opened.path, entry.data, entry.stored, known=known)

    def _share_from(self, file: BinaryIO) -> None:
        """The same of a file that does not have its name yet, and keeps its place until all do."""
        file.flush()
        self._share(Path(file.name))

    def _container(
        self,
        file: BinaryIO,
        job: Job,
        weights: container.Source | None,
        partner: Partner | None,
    ) -> None:
        container.write_container(
            file,
            b"" if job.output.app else job.runtime,
            job.output.target,
            job.parts,
            weights,
            job.facts_with(self._plan, self._prepared, partner),
            self._copied(job.output.path),
            self._prepared.sealed if self._prepared else None,
        )

    def _copied(self, path: Path) -> Callable[[int], None]:
        weights, quant, progress = self._weights, self._plan.quantized, self._progress
        quantizes = quant is not None and weights is quant
        what = f"quantizing to {quant.mix.name}" if quant and quantizes else f"writing {path.name}"

        def show(done: int) -> None:
            if progress and weights:
                progress(what, done, weights.size)

        return show

    def _result(self, job: Job, size: int) -> Result:
        quant = self._plan.quantized
        unused = [
            f"{option}: none of the outputs shows it; it is kept for packing again"
            for option in self._plan.unused
        ]
        return Result(
            job.output.target.name,
            job.output.path,
            size,
            len(job.runtime) + sum(len(part.data) for part in job.slices),
            self._weights.size if self._weights else 0,
            quant.mix.name if quant else "",
            self._notes,
            (*job.texts.warnings, *(quant.warnings if quant else ()), *self._remarks, *unused),
            tuple(job.texts.sources),
            self._prepared,
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
