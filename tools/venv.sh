#!/bin/sh
# Finds a Python that will do, and has it set up .venv (tools/venv.py). PYTHON=... names one.
set -eu
cd "$(dirname "$0")/.."

named=${PYTHON:-}
if [ "$named" ]; then set -- "$named"; else set -- python3 python3.14 python3.13 python3.12 python3.11 python; fi
seen=
for candidate; do
    # It may be absent, or a shim for a version that is.
    if ! version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
        [ -z "$named" ] || seen=" $named does not run;"
    elif "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        exec "$candidate" tools/venv.py
    else
        seen="$seen $candidate is $version;"
    fi
done
echo "make: TaskFlow needs Python 3.11 or newer;${seen:- found none;} install one, or name it: make PYTHON=/path/to/python3" >&2
exit 1
