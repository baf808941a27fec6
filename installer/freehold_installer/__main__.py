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
    from freehold_installer.errors import EXIT_INTERRUPTED

    # A signal ends a run in order from here on.
    interrupts_reach_us()
    try:
        code = guarded(sys.argv[1:])
    except KeyboardInterrupt:  # once more, while the end was told
        code = EXIT_INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    main()
