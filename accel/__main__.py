"""What `accel` and `python -m accel` run."""

import sys
from io import TextIOWrapper


def main() -> int:
    """Run the command line; return the exit status."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        # Korean words, or a file's name, on a terminal that lacks their letters.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        from accel.cli import main as run
    except KeyboardInterrupt:  # torch takes a second or two to load
        print("accel: cancelled; nothing was begun", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
