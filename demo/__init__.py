"""A toy chat model, made from scratch, so that the service can be tried without a model hub."""
