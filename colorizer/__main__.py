"""`python -m colorizer`: the command `colorizer`."""

import sys

from colorizer.commands.cli import main

sys.exit(main())
