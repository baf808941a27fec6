"""`python3 freehold-agent.pyz` and `python3 -m freehold_agent`."""

import sys


def main() -> int:
    """Run the command line.

    The service's own verb goes past it: what reads arguments would stay in memory for years.
    """
    if sys.argv[1:] == ["run"]:
        from freehold_agent.keep import run

        return run()
    from freehold_agent import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
