"""/v1/usage: what keys used, from the ledger."""
