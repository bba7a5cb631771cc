"""The command line. Talks HTTP to a running service, and Redis only to manage keys."""
