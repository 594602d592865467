"""llamapack: packs a GGUF language model into one executable that chats.

SPDX-License-Identifier: Apache-2.0
"""

__all__ = ["LlamapackError", "__version__"]

from llamapack.errors import LlamapackError

__version__ = "0.1.0"
