"""`python -m omni`: the command line, which lives in cli/."""

from cli.main import main

if __name__ == "__main__":
    main(prog_name="omni")
