"""Redis: the connection, the names in it, the scripts that change it, and typed views of what it holds."""
