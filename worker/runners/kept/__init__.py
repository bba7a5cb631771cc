"""Runners on kept weights, made without reading, packing, probing and measuring."""
