"""Steps of fixed shapes, recorded once as CUDA graphs and replayed: one call for some hundred launches."""
