"""`python -m tune_core.cli`: the same as `prefect-tune`."""

import sys

from tune_core.cli.app import main

sys.exit(main())
