"""``python -m immiscible.cli``, for launchers such as torchrun."""

import sys

from immiscible.cli import main

sys.exit(main())
