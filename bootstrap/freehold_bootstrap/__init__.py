"""Trust: certificates, tokens, kubeconfigs, the admission of nodes and the services new machines talk to."""
