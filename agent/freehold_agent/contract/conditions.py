"""What an agent says of its Node, by the names that others read."""

DRIFT = "FreeholdDrift"
"""Condition: True while something differs that the agent may not, or cannot, put back; its message says what."""
