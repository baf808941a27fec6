"""What running components leave behind, which no record names: processes, mounts, links, tables, state.

Only `leave` uses this, and only on a machine whose records say that freehold was here.
"""
