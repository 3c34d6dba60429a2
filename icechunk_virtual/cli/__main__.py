"""``python -m icechunk_virtual.cli``."""

import sys

from icechunk_virtual.cli.main import main

sys.exit(main())
