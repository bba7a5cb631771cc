"""/v1/files: uploads in bounded memory, and their content in ranges."""
