"""The command `freehold`.

gevent must patch the standard library before anything imports `ssl` or `threading`: patched later, TLS ends
in endless recursion; unpatched, machines are handled one after another.
"""

import gevent.monkey

gevent.monkey.patch_all()

import sys  # noqa: E402 - nothing may come before the patch


def main() -> None:
    """Run the command line and exit with its code."""
    from freehold_installer.cli import run
    from freehold_installer.engine.interrupts import interrupts_reach_us

    # A signal ends a run in order, from its first moment on.
    interrupts_reach_us()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
