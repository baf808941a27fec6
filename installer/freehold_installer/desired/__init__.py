"""What a control-plane machine should be, as resources. Pure: inventory + lock + PKI -> resources.

Nodes are the agent's business (`freehold_agent.desired`); the installer only ships it their document.
"""
