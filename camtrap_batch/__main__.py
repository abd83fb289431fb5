"""`python -m camtrap_batch` is the `camtrap` command."""

import sys

from camtrap_batch.cli import main

sys.exit(main())
