"""`python -m deployments.cli`: the same as `prefect-tune`."""

import sys

from deployments.cli.app import main

sys.exit(main())
