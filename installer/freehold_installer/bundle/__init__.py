"""The release bundle: all that a cluster consists of, made once on the operator's machine and kept by digest.

`lock` says what goes in, `sources` make it, `build` runs them, `store` keeps the results, `archive` and
`zipapps` wrap some of them up. Nothing here knows machines, inventories or SSH.
"""
