"""The command line of `freehold`: parses, calls the engine and the workflow, turns errors into exit codes."""
