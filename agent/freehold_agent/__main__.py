"""`python3 freehold-agent.pyz` and `python3 -m freehold_agent`."""

import sys

from freehold_agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
