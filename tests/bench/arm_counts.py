"""Executed ARM64 instructions of the kernels and of a whole model, counted under qemu-user.

    python tests/bench/arm_counts.py kernels [--levels i8mm,dotprod,neon] [--types Q4_0,Q4_K] [--detail]
    python tests/bench/arm_counts.py model MODEL.gguf [--levels i8mm,dotprod] [--act int8]
    python tests/bench/arm_counts.py program "PROGRAM ARGS {}" --from 32 --to 96

kernels: a product of ROWS x K by K x N. MACs per instruction of the prefill tile (its cost per row,
from two numbers of rows), instructions per weight of packing (what does not depend on rows), and MACs
per instruction of decode (one row), beside what the dot instruction alone does: SMMLA 32, SDOT 16,
SMLAL 8. --detail: shares of the tile's instructions by what they do.
model: instructions per token of prefill and decode of `bench`, from two lengths each.
program: the same of any static ARM64 program, per unit of the number put in place of {}.

Counts are exact and repeatable; they are not times. No ARM machine is at hand: a processor may take
one or several cycles for an instruction, and memory is not in them at all.
Wants qemu-aarch64 with plugins (Debian: qemu-user), and a C compiler for this machine: zig cc.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / "builder"), str(ROOT / "tests")]

import kernel_cases as cases  # noqa: E402
from llamapack import build, plan, toolchain  # noqa: E402
from llamapack.targets import find_target  # noqa: E402

CPU = "max,sve=off"
K, N = 2048, 48
ROWS = (120, 240)  # whole tiles of every level
MACS = {"i8mm": 32, "dotprod": 16, "neon": 8}
FLOAT_MACS = 4  # FMLA, BFMLALB and BFMLALT

# (mask, value, class) of A64 encodings, first match wins; the rest of the vector ones is "integer".
# Arm Architecture Reference Manual, C4.1, "A64 instruction set encoding".
VECTOR = (
    (0x9F208400, 0x0E008400, "dot"),  # three same, extra: SDOT, SMMLA, BFMLAL
    (0xBF00F400, 0x0F00E000, "dot"),  # SDOT by element
    (0x9F20BC00, 0x0E208000, "dot"),  # SMLAL, SMLAL2
    (0x9F20FC00, 0x0E20C000, "dot"),  # SMULL, SMULL2
    (0xBF208C00, 0x0E000800, "move"),  # ZIP, UZP, TRN
    (0xBFE08400, 0x2E000000, "move"),  # EXT
    (0xBFE08C00, 0x0E000000, "move"),  # TBL
    (0x9FE08400, 0x0E000400, "move"),  # DUP, INS, UMOV
    (0x9FF80C00, 0x0F000400, "move"),  # MOVI
    (0xBFE0FC00, 0x0EA01C00, "move"),  # MOV (ORR of one register with another)
    (0x9F20C400, 0x0E20C400, "float"),  # three same: FADD, FMUL, FMLA, ...
    (0x9FBE0C00, 0x0E200800, "convert"),  # two registers: SCVTF, FCVTL, SADALP, XTN, ...
    (0xBF80F400, 0x0F809000, "float"),  # FMUL by element
    (0xBF80F400, 0x0F801000, "float"),  # FMLA by element
)


def kind_of(code: int) -> str:
    group = code >> 25 & 15
    if group & 5 == 4:
        if code & 0xFFC00000 == 0xF9800000 or code & 0xFFE00C00 == 0xF8800000:
            return "prefetch"
        single = code & 0x3B000000 != 0x28000000 and code & 0x3A000000 == 0x38000000
        store = code & 0x00C00000 in (0, 0x00800000) if single else not code & 0x00400000
        if single and not code & 0x04000000:
            store = code & 0x00C00000 == 0
        return "store" if store else "load"
    if group & 7 == 7:
        return next((kind for mask, value, kind in VECTOR if code & mask == value), "integer")
    return "scalar"


@dataclass
class Count:
    """Executions by symbol, and by symbol and kind."""

    by_symbol: Counter[str]
    by_kind: Counter[tuple[str, str]]

    @property
    def total(self) -> int:
        return self.by_symbol.total()

    def of(self, prefixes: tuple[str, ...]) -> Counter[str]:
        """Executions by kind in functions with these prefixes."""
        found: Counter[str] = Counter()
        for (symbol, kind), count in self.by_kind.items():
            if symbol.startswith(prefixes):
                found[kind] += count
        return found


class Counting:
    """Compiles the plugin once and runs programs with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plugin = folder / "libcount.so"
        zig = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC"]
        subprocess.run(
            [*zig, "-Wl,-z,undefs", str(HERE / "count_plugin.c"), "-o",
             str(self.plugin)],
            check=True,
        )  # fmt: skip

    def run(self, command: list[str]) -> Count:
        out = self.folder / "counts"
        qemu = ["qemu-aarch64", "-cpu", CPU, "-plugin", f"{self.plugin},out={out}"]
        done = subprocess.run([*qemu, *command], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"error: {' '.join(command)}: {done.stderr.strip()}")
        count = Count(Counter(), Counter())
        for line in out.read_text().splitlines():
            symbol, _, code, executions = line.split()
            count.by_symbol[symbol] += int(executions)
            count.by_kind[symbol, kind_of(int(code, 16))] += int(executions)
        return count


def compile_driver(folder: Path) -> Path:
    """The kernels of linux-aarch64 as the builder compiles them, with arm_counts.c; symbols stay."""
    target = find_target("linux-aarch64")
    tree = toolchain.find_tree()
    sources = [
        source
        for source in toolchain.sources_for(tree, target.arch, windows=False)
        if source.name.startswith("kernels_x86_arm/")
        or source.name == "runtime_c/platform/cpu_features_posix.c"
    ]
    sources.append(toolchain.Source(HERE / "arm_counts.c", "arm_counts.c", ("-O1",)))
    objects = toolchain.compile_all(tree, sources, toolchain.runtime_flags(target))
    link = ("-target", target.triple, "-fPIE", *target.link_flags)
    path = folder / "arm_counts"
    path.write_bytes(toolchain.link(objects, link, path.name))
    path.chmod(0o755)
    return path


def count_kernels(options: argparse.Namespace, counting: Counting, folder: Path) -> None:
    driver = compile_driver(folder)
    product = ("matmul", "sweep", "pair", "dequantize")

    def cost(level: str, kind: cases.WeightType, rows: int) -> Counter[str]:
        shape = [level, str(kind.id), str(rows), str(N), str(K)]
        return counting.run([str(driver), *shape]).of(product)

    print(
        f"{'':14}   prefill: MAC/instr (limit)  pack: instr/weight   decode: MAC/instr", flush=True
    )
    for level in options.levels.split(","):
        for name in options.types.split(","):
            kind = cases.BY_NAME[name]
            limit = MACS[level] if kind.block > 1 else FLOAT_MACS
            few, many = (cost(level, kind, rows) for rows in ROWS)
            one = cost(level, kind, 1)
            macs = (ROWS[1] - ROWS[0]) * N * K
            tile = many.total() - few.total()
            pack = (few.total() - tile * ROWS[0] / (ROWS[1] - ROWS[0])) / (N * K)
            print(
                f"{level:8} {name:5} {macs / tile:16.2f} ({limit:2}) "
                f"{pack:19.3f} {N * K / one.total():20.2f}",
                flush=True,
            )
            if options.detail:
                print(f"{'tile':>14}: {shares(many - few, tile)}")
                print(f"{'decode':>14}: {shares(one, one.total())}", flush=True)


def shares(kinds: Counter[str], total: int) -> str:
    return ", ".join(f"{kind} {100 * n / total:.1f}%" for kind, n in kinds.most_common())


def count_model(options: argparse.Namespace, counting: Counting, folder: Path) -> None:
    made = build.build(plan.make_plan(options.model, folder / "chat", ["linux-aarch64"]))
    for level in options.levels.split(","):
        settings = ["-t", "1", "-r", "1", "--act", options.act, "--cpu", level]
        # bench warms up with the same prompt, and with four tokens of decode.
        for name, flag, other, lengths, runs in (
            ("prefill", "-p", "-n", (32, 96), 2),
            ("decode", "-n", "-p", (4, 8), 1),
        ):
            pattern = [str(made[0].path), "bench", flag, "{}", other, "0", *settings]
            per_token = slope(counting, pattern, *lengths) / runs
            print(f"{level:8} {name:8} {per_token / 1e6:10.2f} million per token", flush=True)


def slope(counting: Counting, pattern: list[str], first: int, last: int) -> float:
    """Instructions per unit, `{}` in the command standing for the number of units."""
    low, high = (
        counting.run([part.replace("{}", str(n)) for part in pattern]).total for n in (first, last)
    )
    return (high - low) / (last - first)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    kernels = commands.add_parser("kernels")
    kernels.add_argument("--levels", default="i8mm,dotprod,neon")
    kernels.add_argument("--types", default="Q4_0,Q4_K,Q6_K,Q8_0")
    kernels.add_argument("--detail", action="store_true")
    model = commands.add_parser("model")
    model.add_argument("model")
    model.add_argument("--levels", default="i8mm,dotprod,neon")
    model.add_argument("--act", default="int8")
    program = commands.add_parser("program")
    program.add_argument("program")
    program.add_argument("--from", dest="first", type=int, required=True)
    program.add_argument("--to", dest="last", type=int, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counting = Counting(Path(folder))
        if options.command == "kernels":
            count_kernels(options, counting, Path(folder))
        elif options.command == "model":
            count_model(options, counting, Path(folder))
        else:
            pattern = shlex.split(options.program)
            per_unit = slope(counting, pattern, options.first, options.last)
            print(f"{per_unit / 1e6:.2f} million instructions per unit")


if __name__ == "__main__":
    main()
