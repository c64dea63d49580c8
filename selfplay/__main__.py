"""`python -m selfplay …`, and for several processes `torchrun … -m selfplay …`."""

import sys

from selfplay.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
