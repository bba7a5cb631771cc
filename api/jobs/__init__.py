"""A job's life in the API process: enqueue it, receive its events, respond with them."""
