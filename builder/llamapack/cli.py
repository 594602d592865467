"""The `llamapack` command: each subcommand parses, calls one function and prints.

SPDX-License-Identifier: Apache-2.0
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import llamapack
from llamapack import console
from llamapack.errors import LlamapackError, UsageError

if TYPE_CHECKING:
    from llamapack.build import Result
    from llamapack.system_kv import Prepared

app = typer.Typer(
    name="llamapack",
    help="Packs a GGUF language model into one executable that chats.\n\n"
    "llamapack build model.gguf -o chat; then ./chat opens a chat in the browser and "
    './chat -p "question" answers in the terminal.',
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Packed = Annotated[Path, typer.Argument(metavar="FILE", help="An executable made by llamapack.")]


def _show_version(value: bool) -> None:
    if value:
        console.result(f"llamapack {llamapack.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    del version


@app.command()
def build(
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="The executable to write; '.exe' is added for Windows and universal. With "
            "several targets each becomes OUT-TARGET.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A .gguf file, a packed executable, or a name that `llamapack models` lists.",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="System to build for (see `llamapack targets`), or native; may be repeated. "
            "Default: this machine.",
        ),
    ] = None,
    slices: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="The systems that a file of the target universal starts on; windows-x86_64 is "
            "always one. Default: Windows and Linux and macOS on x86_64, the last two also on "
            "aarch64.",
        ),
    ] = "",
    name: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the program calls itself.")
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Default system prompt; evaluated now, so that the program starts from its cache. "
            "Default: that of MODEL, if it is a packed executable that has one.",
        ),
    ] = None,
    embed_kv: Annotated[
        bool | None,
        typer.Option(
            "--embed-kv/--no-embed-kv",
            help="Evaluate the system prompt now, and embed what the cache then holds. "
            "Default: yes, unless MODEL is a packed executable without that.",
        ),
    ] = None,
    live_date: Annotated[
        bool,
        typer.Option(
            "--live-date",
            help="A template that prints a date prints the day's, not the build's; what follows it "
            "in the prompt cannot be evaluated now.",
        ),
    ] = False,
    arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar='"FLAG VALUE"',
            help='A default option of the program, such as "--temp 0.7"; may be repeated. Those of '
            'a packed MODEL stay, but for options given here; "" drops them all.',
        ),
    ] = None,
    license_file: Annotated[
        Path | None,
        typer.Option(metavar="F", help="The model's licence text, to travel with it."),
    ] = None,
    quant: Annotated[
        str,
        typer.Option(
            metavar="TYPE",
            help="Quantize the weights: Q4_0, Q4_K_M, Q5_K_M, Q6_K or Q8_0; best from an F16, "
            "BF16 or F32 model.",
        ),
    ] = "",
    max_size: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="Quantize as little as makes every file fit into SIZE (3.9GiB, 700MB); not at all "
            "if it fits as it is.",
        ),
    ] = "",
    split: Annotated[
        bool,
        typer.Option(
            "--split",
            help="Write the weights to a file of their own, OUT.weights, which the program needs "
            "beside it. Without this option done where the system starts no file so large.",
        ),
    ] = False,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Pack no weights: the program needs -m FILE.")
    ] = False,
    app_bundle: Annotated[
        bool,
        typer.Option(
            "--app", help="For macOS targets, write an application (NAME.app) that can be signed."
        ),
    ] = False,
    desktop: Annotated[
        bool,
        typer.Option(
            "--desktop", help="For Linux targets, write NAME.desktop and NAME.png beside it."
        ),
    ] = False,
    icon: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Icon of Windows programs, --app and --desktop: a .png, best square with 256 or "
            "512 pixels, or an .ico. The file goes into the program as it is, for packing it "
            'again. Default: that of a packed MODEL, else llamapack\'s ("").',
        ),
    ] = None,
    version_string: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="The program's version, shown in the properties of a Windows program and of an "
            'application (--app). Default: that of a packed MODEL, else llamapack\'s ("").',
        ),
    ] = None,
    sign_cmd: Annotated[
        str | None,
        typer.Option(
            metavar="'TOOL {file}'",
            help="Sign each output before any gets its name. {file} is the file; a tool that does "
            "not sign in place writes {out}; {target} is the system. Words are split and quoted "
            "as in a POSIX shell, but no shell runs them.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Pack MODEL into one executable."""
    from llamapack.build import build as run
    from llamapack.plan import make_plan

    plan = make_plan(
        model,
        out,
        target or (),
        slices=slices,
        name=name,
        system=system,
        args=arg or (),
        embed_kv=embed_kv,
        live_date=live_date,
        license_file=license_file,
        quant=quant,
        max_size=max_size,
        split=split,
        no_model=no_model,
        app=app_bundle,
        desktop=desktop,
        icon=icon,
        version=version_string,
        sign_cmd=sign_cmd,
    )
    with console.progress() as progress:
        results = run(plan, progress)
    _show_results(results, as_json=as_json)


@app.command()
def repack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An executable made by llamapack.")],
    out: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="The executable to write.")
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="System to pack it for (see `llamapack targets`); may be repeated. "
            "Default: that of FILE.",
        ),
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar='"FLAG VALUE"',
            help='A default option instead of the one that FILE has; "" drops all of its options.',
        ),
    ] = None,
    split: Annotated[
        bool,
        typer.Option("--split", help="Write the weights to a file of their own, OUT.weights."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Pack what is in FILE again, with this llamapack's runtime, for the same or another system.

    Everything that its builder decided stays: name, icon, version, system prompt with what was
    evaluated of it, options, licences. `llamapack build FILE` does the same with other options."""
    from llamapack.build import build as run
    from llamapack.plan import repack_plan

    plan = repack_plan(file, out, target or (), args=arg or (), split=split)
    with console.progress() as progress:
        results = run(plan, progress)
    _show_results(results, as_json=as_json)


def _show_results(results: "list[Result]", *, as_json: bool) -> None:
    for note in dict.fromkeys(n for made in results for n in made.notes):
        console.note(note)
    for warning in dict.fromkeys(w for made in results for w in made.warnings):
        console.note(f"warning: {warning}")
    for text in dict.fromkeys(t for made in results for t in made.license_texts):
        console.note(f"licence text: {text}")
    if as_json:
        rows = [
            {"target": r.target, "path": str(r.path), "size": r.size, "model_size": r.model_size,
             "runtime_size": r.runtime_size, "quant": r.quant, "warnings": list(r.warnings),
             "system_kv": _kv_row(r.prepared), "notes": list(r.notes),
             "weights": {"path": str(r.weights), "size": r.weights_size} if r.weights else None}
            for r in results
        ]  # fmt: skip
        console.print_json({"outputs": rows})
    else:
        for r in results:
            kv_size = len(r.prepared.data) if r.prepared else 0
            inside = 0 if r.weights else r.model_size
            extra = console.size_text(r.size - inside - kv_size)
            if r.prepared:
                extra += f" + {console.size_text(kv_size)} of {r.prepared.tokens} prepared tokens"
            what = extra if r.weights else f"model + {extra}"
            console.result(f"{r.path}  {r.target}  {console.size_text(r.size)} ({what})")
        for path, size in {r.weights: r.weights_size for r in results if r.weights}.items():
            console.result(f"{path}  {console.size_text(size)} (model)")


def _kv_row(prepared: "Prepared | None") -> dict[str, Any] | None:
    if prepared is None:
        return None
    return {"size": len(prepared.data), "date": prepared.date, **prepared.facts}


@app.command()
def targets(as_json: Json = False) -> None:
    """List the systems that can be built for."""
    from llamapack.targets import TARGETS, UNIVERSAL, host_target

    try:
        host = host_target().name
    except LlamapackError:
        host = ""
    if as_json:
        console.print_json(
            [
                {"name": t.name, "description": t.description, "state": t.state,
                 "experimental": t.experimental, "host": t.name == host}
                for t in (*TARGETS, UNIVERSAL)
            ]
        )  # fmt: skip
        return
    wide = max(len(t.description) for t in TARGETS)
    for t in (*TARGETS, UNIVERSAL):
        mark = "  (this machine)" if t.name == host else ""
        console.result(f"{t.name:16} {t.description:{wide}}  {t.state}{mark}")
    console.result(f"{'native':16} this machine's, as without --target")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A packed executable or a .gguf.")],
    as_json: Json = False,
) -> None:
    """Show what is inside FILE; reads headers only."""
    from llamapack.inspect import describe, lines

    facts = describe(file)
    if as_json:
        console.print_json(facts)
    else:
        for line in lines(facts):
            console.result(line)


@app.command()
def extract(
    file: Packed,
    folder: Annotated[
        Path, typer.Option("-d", "--directory", metavar="DIR", help="Where to; made if missing.")
    ] = Path(),
    everything: Annotated[
        bool, typer.Option("--all", help="Also the manifest, the licences and the page.")
    ] = False,
) -> None:
    """Get the GGUF back out of FILE, bit for bit."""
    from llamapack.inspect import extract_files

    with console.progress() as progress:
        paths = extract_files(file, folder, progress, everything=everything)
    for path in paths:
        console.result(str(path))


@app.command()
def verify(file: Packed, as_json: Json = False) -> None:
    """Check every byte of FILE, and of the file with its weights, against the hashes they carry."""
    from llamapack import payload

    opened = payload.open_payload(file)
    with console.progress() as progress:
        show = (lambda done, total: progress("verifying", done, total)) if progress else None
        size = payload.verify(opened, show)
    files = [one for one in (opened, opened.partner) if one]
    if as_json:
        rows = [{"path": str(one.path), "verified": one.covered} for one in files]
        console.print_json({"files": rows})
    else:
        names = " and ".join(str(one.path) for one in files)
        console.result(f"{names}: ok, {size:,} bytes verified")
    for one in files:
        if behind := one.file_size - one.covered:
            console.note(f"{one.path}: {behind:,} bytes behind the archive (a signature?) are not "
                         "covered")  # fmt: skip


@app.command()
def models(as_json: Json = False) -> None:
    """List the models that `build` knows by name."""
    from llamapack.sources import MODELS

    rows: list[dict[str, Any]] = []
    for model in MODELS:
        path = model.locate()
        rows.append(
            {
                "name": model.name,
                "description": model.description,
                "path": str(path) if path else None,
                "install": model.install,
            }
        )
    if as_json:
        console.print_json(rows)
        return
    for row in rows:
        where = row["path"] or f"not installed: {row['install']}"
        console.result(f"{row['name']:10} {row['description']}\n{'':10} {where}")


def _terminate(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)


def main() -> None:
    """Entry point: any failure is one line on stderr and an exit code, never a traceback."""
    # As an exception, so that half-written files are removed on the way out.
    signal.signal(signal.SIGTERM, _terminate)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, _terminate)
    try:
        code = app(standalone_mode=False)
        if isinstance(code, int) and code:
            sys.exit(code)
    except LlamapackError as error:
        if error.details and os.environ.get("LLAMAPACK_VERBOSE"):
            console.note(error.details)
        console.note("error: " + " ".join(str(error).split()))
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except BrokenPipeError:
        # The reader of our output has gone; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        console.note("stopped")
        sys.exit(130)
    except MemoryError:
        console.note("error: out of memory")
        sys.exit(1)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        _refuse_call(error)


def _refuse_call(error: Any) -> NoReturn:
    """What the parser of the command line has to say, as one line like every other refusal."""
    text = str(error.format_message())
    if not text.startswith("Usage:"):  # without any argument it is the whole help
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "llamapack"
        text = f"error: {' '.join(text.split()).rstrip('.')} (see {path} --help)"
    console.note(text)
    sys.exit(2)
