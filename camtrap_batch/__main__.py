"""The `camtrap` command as a process, also `python -m camtrap_batch`."""

from __future__ import annotations

import atexit
import gc
import sys


def main() -> int:
    """Run the command; returns its exit code."""
    # Garbage collection at Python's exit would search all that is loaded, in vain: 0.3 s.
    atexit.register(gc.freeze)
    try:
        # Imported here: this takes a second or two, during which Ctrl-C may come.
        from camtrap_batch.cli import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("camtrap: stopped\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
