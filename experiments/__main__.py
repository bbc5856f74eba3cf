"""``python -m experiments`` lists all experiments."""

import sys

from vision.launch.catalogue import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
