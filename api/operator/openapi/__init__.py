"""The application described for programs: /openapi.json, which the page at /docs shows."""
