"""SmolLM2 and Gemma 3 against the numpy forward pass, over more than 2,000 positions of English.

The text is Python's own documentation, as the standard library carries it, in four windows of 1,024
tokens of which the second halves are scored: what llama-perplexity does with `-c 1024 --chunks 4`.
Its --save-all-logits, read back and held against the same reference, gives the figures of PEER. It
stores probabilities down to e^-16 of the largest; the tail below was left out of its divergence.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import pydoc_data.topics
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference
from engine_session import F32, INT8, INT16, Session

WINDOW, WINDOWS, PIECE = 1024, 4, 128
MODES = (F32, INT16, INT8)
# llama.cpp b11434, AVX-512, on this text: mean KL, how often the top token is the reference's.
PEER = {"smollm2": (0.00300, 0.9609), "gemma3": (0.00580, 0.9525)}


def text() -> str:
    topics = pydoc_data.topics.topics
    names = ("try", "with", "function", "class", "import", "numbers", "objects", "types")
    return " ".join(
        " ".join(topics[name].replace('"', "").replace("*", "").split()) for name in names
    )


Scores = dict[int, tuple[npt.NDArray[np.float64], float]]  # by activation mode


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
def scores(request: pytest.FixtureRequest, native: Any) -> tuple[str, Scores]:
    """KL(reference || engine) of every position, and how often both name the same token."""
    path = request.getfixturevalue(request.param)
    model = reference.Reference(path)
    kl: dict[int, list[npt.NDArray[np.float64]]] = {act: [] for act in MODES}
    same: dict[int, list[npt.NDArray[np.bool_]]] = {act: [] for act in MODES}
    with ExitStack() as stack:
        size: dict[str, Any] = {
            "n_ctx": WINDOW,
            "n_batch": PIECE,
            "n_logit_rows": PIECE,
            "threads": 2,
        }
        engines = {
            act: stack.enter_context(Session(native, path, act=act, **size)) for act in MODES
        }
        tokens = engines[INT8].tokenize(text(), add_special=False)
        bos = native.lib.lp_vocab_bos(engines[INT8].open_vocab())
        for start in range(0, WINDOW * WINDOWS, WINDOW):
            window = tokens[start : start + WINDOW]
            assert len(window) == WINDOW
            if native.lib.lp_vocab_adds_bos(engines[INT8].open_vocab()):
                window[0] = bos
            hidden = model.hidden(window)
            for engine in engines.values():
                engine.truncate(0)
            for at in range(0, WINDOW, PIECE):
                scored = at >= WINDOW // 2
                logits = {
                    act: e.step(window[at : at + PIECE], want=scored) for act, e in engines.items()
                }
                if not scored:
                    continue
                want = model.logits(hidden[at : at + PIECE])
                p = reference.probabilities(want)
                for act, got in logits.items():
                    kl[act].append(reference.divergence(want, got, p))
                    same[act].append(want.argmax(axis=1) == got.argmax(axis=1))
    return (
        request.param,
        {a: (np.concatenate(kl[a]), float(np.concatenate(same[a]).mean())) for a in kl},
    )


def test_f32_is_the_reference(scores: tuple[str, Scores]) -> None:
    name, by_mode = scores
    kl, same = by_mode[F32]
    print(f"\n{name} f32: KL mean {kl.mean():.2e} max {kl.max():.2e}, same top {same:.4f}")
    assert len(kl) >= 2000
    assert kl.max() < 1e-6


def test_int16_is_all_but_the_reference(scores: tuple[str, Scores]) -> None:
    """What small models run with; its cache is f16, as by default."""
    name, by_mode = scores
    kl, same = by_mode[INT16]
    print(f"\n{name} int16: KL mean {kl.mean():.2e} max {kl.max():.2e}, same top {same:.4f}")
    assert kl.mean() < 2e-6
    assert same > 0.998


def test_int8_is_no_worse_than_llama_cpp(scores: tuple[str, Scores]) -> None:
    name, by_mode = scores
    kl, same = by_mode[INT8]
    peer_kl, peer_same = PEER[name]
    print(f"\n{name} int8: KL mean {kl.mean():.5f} max {kl.max():.3f}, same top {same:.4f}")
    assert kl.mean() <= 1.1 * peer_kl
    assert same >= peer_same - 0.005
