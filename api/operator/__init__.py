"""Pages and endpoints for the operator: metrics, board, dashboard, OpenAPI, the access log."""
