"""Local volumes: from a claim with a selected node to a directory there and a PersistentVolume, and back.

`volume_rules` decides (pure), `provisioner` looks and writes, `volume_objects` reads and makes Kubernetes objects,
`room` tells the scheduler which nodes are full.
"""
