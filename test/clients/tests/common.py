"""For the tests. PGHOST and so on name the server; POOL_HOST and POOL_PORT, if given, a
pooler in transaction mode before it. The queue is a table, my_jobs (payload jsonb).
"""
import os
import pathlib
import sys
import threading
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from psycopg.types.json import Jsonb  # noqa: E402
from database import create_pool, rows, value  # noqa: E402

PREFIX = f"{pathlib.Path(sys.argv[0]).stem}-{os.getpid()}"


def make_pool(**options):
    pooler = {"host": os.environ.get("POOL_HOST"), "port": os.environ.get("POOL_PORT")}
    return create_pool(" ".join(f"{k}={v}" for k, v in pooler.items() if v), **options)


def quiet(error):
    """An error of a connection is no news in tests that end connections."""


def enqueue(db, job):
    db.execute("INSERT INTO my_jobs VALUES (%s)", [Jsonb(job)])


def dequeue(pool):
    """The next job of this program, which is then in the queue no more; None if there is none."""
    jobs = rows(pool, "DELETE FROM my_jobs WHERE ctid = (SELECT ctid FROM my_jobs WHERE starts_with"
                "(payload->>'deployment', %s) LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING payload", PREFIX)
    return jobs[0].payload if jobs else None


def until(condition, name="condition"):
    """Until the condition gives something, which may take as long as it takes on a slow machine."""
    end = time.monotonic() + 180
    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"never came: {name}")
        time.sleep(0.01)
    return result


def expect(what, got, want):
    if got != want:
        raise AssertionError(f"{what}: {got!r} instead of {want!r}")


def make_stepper(pool):
    """A function that moves the liveness clock on."""
    with pool.connection() as db:
        db.execute("CREATE OR REPLACE FUNCTION public.tl_advance(interval) RETURNS void "
                   "AS '$libdir/turn_liveness', 'turn_liveness_clock_advance' LANGUAGE C STRICT")
    return lambda interval: value(pool, "SELECT public.tl_advance(%s)", interval)


def spawn(work, *args):
    """A thread whose error ends the program."""
    def guarded():
        try:
            work(*args)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    return thread
