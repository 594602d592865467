"""Which files a build writes and how large each will be, to the byte, before anything is written.

An output whose weights would make it larger than its system starts, or all of them with --split,
gets a small executable; the weights go into one file that these share.

SPDX-License-Identifier: Apache-2.0
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamapack import system_kv
from llamapack.container import Facts, Part, Partner, Source, container_size, weights_size
from llamapack.errors import LlamapackError
from llamapack.formats import FORMATS
from llamapack.licenses import Licenses
from llamapack.mixes import MIXES
from llamapack.plan import Output, Plan, weights_path
from llamapack.quantize import Quantized, quantized
from llamapack.sizes import LEAST_LIMIT, exact_text
from llamapack.system_kv import Prepared

__all__ = ["Job", "Layout", "choose_quant", "lay_out"]


@dataclass(frozen=True, slots=True)
class Job:
    """An output with all that goes into it but the weights."""

    output: Output
    runtime: bytes
    parts: list[Part]
    texts: Licenses
    facts: Facts

    @property
    def slices(self) -> list[Part]:
        """The other systems' runtimes in a universal file."""
        return [part for part in self.parts if part.name.startswith("runtime/")]

    @property
    def model_parts(self) -> list[Part]:
        """The licence texts that belong to the weights, wherever they are."""
        return [part for part in self.parts if part.name.startswith("licenses/model/")]

    @property
    def limit(self) -> int | None:
        """The largest file that the target's system starts."""
        size: int | None = FORMATS[self.output.target.format].max_size
        return size

    def facts_with(self, plan: Plan, prepared: Prepared | None, partner: Partner | None) -> Facts:
        quant = plan.quantized
        return dataclasses.replace(
            self.facts,
            quantized=quant.record if quant else plan.kept.quantized,
            system_kv=prepared.facts if prepared else None,
            date=prepared.date if prepared else None,
            partner=partner,
        )


@dataclass(frozen=True, slots=True)
class Layout:
    files: list[tuple[Path, int]]  # all that will be written
    apart: frozenset[Path] = frozenset()  # the outputs whose weights are in a file of their own
    weights_path: Path = Path()  # that file
    forced: bool = False  # by --split, not by a limit
    splits: frozenset[Path] = frozenset()  # those that --split would make fit every file system

    def is_split(self, job: Job) -> bool:
        return job.output.path in self.apart

    def note(self, jobs: Sequence[Job]) -> str:
        """What whoever passes a split build on must know."""
        names = ", ".join(job.output.path.name for job in jobs)
        need = "needs" if len(jobs) == 1 else "need"
        why = "" if self.forced else " (the system starts no program of 4 GiB or more)"
        return f"{names} {need} {self.weights_path.name} beside it{why}: pass both on together"


def lay_out(plan: Plan, jobs: Sequence[Job], prepared: Prepared | None, more: int = 0) -> Layout:
    """more: bytes that will come into every executable, when they are not yet known."""
    weights = plan.weights

    def measured(job: Job, source: Source | None, partner: Partner | None) -> int:
        kv = (lambda *_: prepared.data) if prepared else None
        facts = job.facts_with(plan, prepared, partner)
        target = job.output.target
        return container_size(job.runtime, target, job.parts, source, facts, kv) + more

    if weights is None:
        return Layout([(job.output.path, measured(job, None, None)) for job in jobs])
    whole = {job.output.path: measured(job, weights, None) for job in jobs}
    apart = [job for job in jobs if plan.split or _over(job, whole[job.output.path])]
    partner = weights_size(jobs[0].model_parts, weights, jobs[0].texts.name)
    if not apart:
        fits = partner.size <= LEAST_LIMIT
        return Layout(list(whole.items()), splits=frozenset(whole if fits else ()))
    path = weights_path(plan, [job.output for job in apart])
    partner = dataclasses.replace(partner, file=path.name)
    files = [(path, partner.size)]
    for job in jobs:
        size = measured(job, None, partner) if job in apart else whole[job.output.path]
        if _over(job, size):
            raise LlamapackError(
                f"{job.output.path}: {exact_text(size)} without the weights, and "
                f"{job.output.target.name} starts no program of 4 GiB or more; a shorter --system, "
                "or --no-embed-kv, makes it smaller"
            )
        files.append((job.output.path, size))
    return Layout(files, frozenset(job.output.path for job in apart), path, plan.split)


def _over(job: Job, size: int) -> bool:
    return job.limit is not None and size > job.limit


def choose_quant(plan: Plan, jobs: Sequence[Job]) -> tuple[str, ...]:
    """--max-size: sets plan.quantized to the best mix with which every file fits, or leaves the
    weights as they are; says what it did. No file is read for that but the model's header."""
    if plan.max_size is None:
        return ()
    assert plan.model is not None
    more = system_kv.most_bytes(plan) if system_kv.wanted(plan) else 0
    limit = exact_text(plan.max_size)
    found: list[tuple[int, str]] = []
    for candidate in _candidates(plan):
        plan.quantized = candidate
        size = max(size for _, size in lay_out(plan, jobs, None, more).files)
        name = f"as {candidate.mix.name}" if candidate else "as it is"
        if size <= plan.max_size:
            return (f"the model {name} fits into {limit}: {exact_text(size)} at most",)
        found.append((size, name))
    size, name = min(found)
    raise LlamapackError(
        f"--max-size: the model does not fit into {limit}; the smallest file possible has "
        f"{exact_text(size)} (the model {name})"
    )


def _candidates(plan: Plan) -> Iterator[Quantized | None]:
    """The source, then what makes it smaller, best first."""
    yield None
    assert plan.model is not None
    for mix in reversed(MIXES):
        try:
            yield quantized(plan.model, mix.name)
        except LlamapackError:  # it would not be smaller
            continue
