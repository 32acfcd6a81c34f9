"""Speaks the lock-file protocol as the TypeScript @relayburn/ledger 1.x does: no heartbeat, no look at whose file it is.

    reference_lock.py hold PATH SECONDS      take the lock, say "took", sleep, let go, say "done"
    reference_lock.py count PATH FILE TIMES  add 1 to the number in FILE under the lock, TIMES times, say "done"

Says "gave up" when the lock stayed taken.
"""

import os
import sys
import time

STALE_SECONDS = 5.0


def say(text):
    print("> " + text, flush=True)


def acquire(path):
    for attempt in range(90):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            return True
        except FileExistsError:
            pass
        try:
            if time.time() - os.stat(path).st_mtime > STALE_SECONDS:
                os.unlink(path)
                continue
        except FileNotFoundError:
            continue
        time.sleep(0.02 if attempt < 50 else 0.25)
    return False


def release(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def hold(path, seconds):
    if not acquire(path):
        return say("gave up")
    say("took")
    time.sleep(float(seconds))
    release(path)
    say("done")


def count(path, counter, times):
    for _ in range(int(times)):
        while not acquire(path):
            pass
        with open(counter) as file:
            number = int(file.read())
        with open(counter, "w") as file:
            file.write(str(number + 1))
        release(path)
    say("done")


{"hold": hold, "count": count}[sys.argv[1]](*sys.argv[2:])
