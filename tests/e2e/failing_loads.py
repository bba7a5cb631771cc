"""A worker is forked for each line that comes on stdin, as a supervisor does; `== its exit status` goes out at its end.

What OMNI_MODEL names may change in between: to import torch for each model that cannot be loaded takes seconds.
"""

import sys
import time

from common.process.template import Template


def main() -> None:
    template = Template([sys.executable, "-m", "worker.main"], ())
    for _ in sys.stdin:
        worker = template.fork(["--device", "cpu"])
        while worker.poll() is None:
            time.sleep(0.01)
        print(f"== {worker.returncode}", flush=True)
    template.end()


if __name__ == "__main__":
    main()
