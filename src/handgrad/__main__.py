"""`python -m handgrad` is the program `handgrad`."""

import sys

from handgrad.app.cli import main

sys.exit(main())
