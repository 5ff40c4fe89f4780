"""A stage that DVC runs ends with it.

Else a training whose `dvc repro` was killed would run on, beside the one that is started anew.
"""

import os
import signal
import threading
import time
from pathlib import Path

import psutil

from idc.core.errors import StageFailedError
from idc.core.process_ids import ProcessId, identify_process, is_dead

_STAGE_OF_DVC = "DVC_STAGE"  # in the environment of what DVC runs
_POLL_S = 1.0
_END = signal.SIGUSR1  # what a shell starts in the background ignores Ctrl-C's own signal
_GRACE_S = 10.0  # between Ctrl-C and the end


def end_with_dvc() -> None:
    """If DVC started this process, end it soon after a death of DVC, as Ctrl-C would.

    Called in the main thread, it takes the signal USR1 for that.

    Raises:
        StageFailedError: If DVC has died already.
    """
    if _STAGE_OF_DVC not in os.environ:
        return
    for parent in psutil.Process().parents():
        if _is_dvc(parent):
            dvc = identify_process(parent.pid)
            signal.signal(_END, signal.default_int_handler)
            threading.Thread(target=_end_with, args=(dvc,), daemon=True).start()
            return
    # whoever adopts an orphan is of another session; a script that calls DVC's functions is not
    if os.getsid(os.getppid()) != os.getsid(0):
        raise StageFailedError("DVC, which started this stage, has died")


def _is_dvc(process: psutil.Process) -> bool:
    try:
        return "dvc" in (Path(part).name for part in process.cmdline())
    except psutil.Error:  # another user's, on some systems
        return False


def _end_with(process: ProcessId) -> None:
    while not is_dead(process):
        time.sleep(_POLL_S)
    # so that what is half written is removed; sent to that thread, it also ends a wait
    signal.pthread_kill(threading.main_thread().ident or 0, _END)
    time.sleep(_GRACE_S)
    os._exit(1)
