"""The node agent: converges one machine from its document and keeps it so.

Standard library only, Python 3.9 or newer: it ships as a zipapp to machines of any distribution.
"""

__version__ = "0.1.0"
