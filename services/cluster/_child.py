"""Becomes another program that ends when its parent does. Run by path, before anything of ours can be imported.

Arguments: parent's pid, number of the signal to get when the parent ends, uid and gid to become (-1: stay), then the
program with its arguments. PR_SET_PDEATHSIG comes after setuid, which clears it, and is followed by a look at the
parent, who may have ended before. Only Linux has it; elsewhere the program merely starts.
"""

import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Change identity, tie the life to the parent's, become the program. Exit status 126 when one of them fails."""
    parent, signal_number, uid, gid = (int(word) for word in sys.argv[1:5])
    prctl = None
    if sys.platform == "linux":
        import ctypes  # before setuid: the new user may be unable to read the library

        prctl = ctypes.CDLL(None, use_errno=True).prctl
    try:
        if uid >= 0:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
            if os.getppid() != parent:
                sys.exit(126)
        os.execv(sys.argv[5], sys.argv[5:])
    except OSError as error:
        sys.stderr.write(f"{sys.argv[5]}: {error.strerror}\n")
        sys.exit(126)


if __name__ == "__main__":
    main()
