"""``python -m bench`` is the command ``bench``."""

import sys

from bench.cli.main import main

sys.exit(main())
