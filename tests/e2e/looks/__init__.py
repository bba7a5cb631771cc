"""Each state of the pages, in light and dark, on a desk and on a phone: `python -m tests.e2e.looks OUT`."""
