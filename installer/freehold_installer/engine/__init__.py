"""What drives machines: connections, lanes, journal, lock. It knows nothing of Kubernetes."""
