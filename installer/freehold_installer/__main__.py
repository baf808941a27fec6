"""The command `freehold`.

gevent must patch the standard library before anything imports `ssl` or `threading`: patched later, TLS ends
in endless recursion; unpatched, machines are handled one after another.
"""

import gevent.monkey

gevent.monkey.patch_all()

import signal  # noqa: E402 - nothing may come before the patch
import sys  # noqa: E402


def main() -> None:
    """Run the command line and exit with its code."""
    from freehold_installer.cli import run

    # Both end a run in order, from its first moment on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
