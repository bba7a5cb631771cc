"""The command line: HTTP to a running service, and Redis to manage keys."""
