"""Judges nodes' requests for certificates (design: docs, "How a machine joins", step 5).

`request_parser` reads the request, `approval_rules` judges it (pure), `cluster_reader` fetches what the rules
look at, `approver` watches, spends tokens and writes the verdicts. Every other signer is left alone.
"""
