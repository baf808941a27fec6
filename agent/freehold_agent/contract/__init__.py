"""What every program of freehold agrees on: paths, documents, artifacts, resources and their difference.

The reader with the least power owns the contract, so it lives in the agent and everyone else imports it.
Nothing here touches a machine.
"""
