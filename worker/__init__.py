"""The GPU process: pulls jobs in order and generates tokens for many of them at once."""

import os

# How long OpenMP's threads spin for the next piece of work before they sleep, in turns (about 50 ms): longer than the
# pause between two steps, so that a step does not begin with waking them. Read once, when torch is loaded after this.
os.environ.setdefault("GOMP_SPINCOUNT", "3000000")
