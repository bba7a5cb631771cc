"""Lines of the Procfile runner: printed, kept in a file, and the greeting at the end of the start."""
