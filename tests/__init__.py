import os

# before anything loads torch, which loads Triton, whose own functions read it too; "0" in a process that compiles
os.environ.setdefault("TRITON_INTERPRET", "1")
