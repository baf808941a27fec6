"""The command `freehold`.

gevent must patch the standard library before anything imports `ssl` or `threading`: patched later, TLS ends
in endless recursion; unpatched, machines are handled one after another.
"""

import signal

# Ctrl-C before the command line can say that it was interrupted: end at once, without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import gevent.monkey  # noqa: E402 - the signal comes first

gevent.monkey.patch_all()

import sys  # noqa: E402 - nothing else may come before the patch


def main() -> None:
    """Run the command line and exit with its code."""
    from freehold_installer.cli.outcome import guarded
    from freehold_installer.engine.interrupts import interrupts_reach_us

    # A signal ends a run in order from here on.
    interrupts_reach_us()
    sys.exit(guarded(sys.argv[1:]))


if __name__ == "__main__":
    main()
