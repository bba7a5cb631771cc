"""The GPU process: admits jobs in order and generates tokens for many of them at once."""
