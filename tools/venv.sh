#!/bin/sh
# Finds a Python that will do, and has it set up .venv (tools/venv.py). PYTHON=... names one.
set -eu
cd "$(dirname "$0")/.."

seen=
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    # A shim may be there for a version that is not.
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        exec "$candidate" tools/venv.py "$@"
    fi
    seen="$seen $candidate is $version;"
done
echo "make: TaskFlow needs Python 3.11 or newer;${seen:- found none;} install one, or name it: make PYTHON=/path/to/python3" >&2
exit 1
