"""`python -m llamapack` is the same as the `llamapack` command.

SPDX-License-Identifier: Apache-2.0
"""

from llamapack.cli import main

if __name__ == "__main__":
    main()
