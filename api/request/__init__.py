"""A checked body -> what is enqueued: sampling, constraints, queue options, the answer's wording."""
