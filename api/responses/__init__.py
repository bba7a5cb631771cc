"""/v1/responses, over the same preparation as chat."""
