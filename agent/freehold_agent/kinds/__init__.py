"""What the agent can do with each kind of resource: look at it, bring it about, take it back.

One file per family. They know one resource at a time; order, records and progress are `converge`'s business.
"""
