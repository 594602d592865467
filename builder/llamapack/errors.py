"""The one root exception. Its text is one line that says what, where and the next step.

The command line prints it as `error: ...` and exits 1; no traceback reaches a user.

SPDX-License-Identifier: Apache-2.0
"""


class LlamapackError(Exception):
    """Something the user can act on; `str()` of it is the line to show."""

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message)
        self.details = details
        """More lines for the curious (a compiler's output); may be empty."""


class UsageError(LlamapackError):
    """A wrong option or argument: exit code 2."""
