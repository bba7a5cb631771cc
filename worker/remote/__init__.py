"""An engine behind HTTP: a vLLM server that generates for our queue."""
