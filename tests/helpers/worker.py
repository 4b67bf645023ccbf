"""One of several test processes of pytest-xdist, forked from the server of warm processes, see `warm.worker`.

It becomes what execnet's command makes of a Python that starts anew, in an environment of the same variables.
"""

from __future__ import annotations

import os
import sys

from helpers.warm_python import SERVER_VARIABLE, WARM_VARIABLE

if __name__ == "__main__":
    for name in (WARM_VARIABLE, SERVER_VARIABLE, "PYTHON_EXEC"):
        del os.environ[name]
    exec(sys.argv[-1])
