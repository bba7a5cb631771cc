"""The seam from Redis to the store: the ends of jobs, in order, until the dispatcher has applied them."""
