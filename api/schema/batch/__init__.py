"""Files and batches: requests and answers."""
