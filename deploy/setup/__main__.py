# ruff: noqa: UP031 - this file must parse on the Python that is too old, to say so
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - see above
    sys.exit(
        "setup: smolserve needs Python 3.11 or newer, and %s is %d.%d; install one "
        "(sudo apt install python3.11 python3.11-venv) and run: make serve PYTHON=python3.11"
        % (sys.executable, sys.version_info[0], sys.version_info[1])
    )

from deploy.setup.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
