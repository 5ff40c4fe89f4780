"""Leads a process group: runs one command in it, and ends the group when the parent dies.

The parent holds the other end of standard input; however it dies, the system closes that end.
Run as a script by its path: `python -I -S group_leader.py GRACE_S COMMAND …`.
"""

import os
import signal
import subprocess
import sys
import threading
import time

_GRACE_OF_OTHERS_S = 1.0  # for processes left behind by the command after TERM ended it


def main() -> int:
    """Run the command and return its exit code, 128 + n if signal n ended it."""
    grace_s, command = float(sys.argv[1]), sys.argv[2:]
    # a handler instead of SIG_IGN, which the command would inherit
    signal.signal(signal.SIGTERM, lambda *_: None)
    starter_died = threading.Event()
    threading.Thread(target=_watch_starter, args=(starter_died, grace_s), daemon=True).start()
    returncode = subprocess.Popen(command, stdin=subprocess.DEVNULL).wait()
    if starter_died.is_set():
        time.sleep(_GRACE_OF_OTHERS_S)
        os.killpg(os.getpgrp(), signal.SIGKILL)
    return returncode if returncode >= 0 else 128 - returncode


def _watch_starter(died: threading.Event, grace_s: float) -> None:
    os.read(0, 1)  # nothing is ever written, so it returns when the other end is closed
    died.set()
    os.killpg(os.getpgrp(), signal.SIGTERM)
    time.sleep(grace_s)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
