"""`python -m accel` is `accel`."""

import sys

from accel.cli import main

sys.exit(main())
