"""The lab: a few machines with systemd and SSH, to try and to test freehold on.

Standard library only, and nothing of freehold itself: the lab must come up before anything is installed.
"""
