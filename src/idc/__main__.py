"""`python -m idc`: the same as the command `idc`."""

import sys

from idc.cli import main

sys.exit(main())
