"""Connections to the server that survive its restart and their own loss. gateway.py and worker.py
beside this file share them. For psycopg 3 and psycopg_pool.
"""
import os
import random
import re
import select
import socket
import threading
import time

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

PROCESS_NAME = f"{socket.gethostname()}-{os.getpid()}"

# prepare_threshold=None: psycopg prepares what it executes for the sixth time,
# and in a pool the next execution may meet a server that knows nothing of it.
# autocommit: a claim that is not committed is undone by a crash.
SETTINGS = dict(prepare_threshold=None, autocommit=True, row_factory=namedtuple_row, connect_timeout=10,
                keepalives_idle=10, keepalives_interval=5, keepalives_count=3, tcp_user_timeout=20000)


# reconnect_timeout: a pool tries again after 1, 2, 4 … seconds; one that gives up does when it is
# asked, not long after an outage has ended.
def create_pool(conninfo="", **options):
    return ConnectionPool(conninfo, kwargs=SETTINGS, **{"min_size": 1, "max_size": 8, "timeout": 5,
                                                        "reconnect_timeout": 5, **options})


# jsonb refuses a NUL and half of a surrogate pair, and a model's text may hold them.
def clean(value):
    if isinstance(value, dict):
        return {clean(k): clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(v) for v in value]
    return re.sub("[\0\ud800-\udfff]", "", value) if isinstance(value, str) else value


def jsonb(value):
    return Jsonb(clean(value))


# Worth another try: a conflict, a deadlock, a lock_timeout, no free connection, a server that
# stops or starts, a connection that ended. Any other error is a mistake, and stays.
def worth_repeating(error):
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return re.match("08|40001|40P01|53300|55P03|57P0[1235]", error.sqlstate) is not None


def repeat(work, patience=120):
    end = time.monotonic() + patience
    wait = 0.05
    while True:
        try:
            return work()
        except psycopg.Error as error:
            if not worth_repeating(error) or time.monotonic() > end:
                raise
        time.sleep(wait * (0.5 + random.random() / 2))
        wait = min(2 * wait, 2)


def transaction(pool, body):
    """body(db) in one transaction, and all of it again where that is worth it."""
    def once():
        with pool.connection() as db, db.transaction():
            result = body(db)
            if db.info.transaction_status == TransactionStatus.INERROR:
                raise RuntimeError("rolled back: body() kept an error of the transaction to itself")
            return result
    return repeat(once)


def rows(pool, sql, *args):
    """One statement in autocommit, repeated where that is worth it: its rows."""
    def once():
        with pool.connection() as db:
            return db.execute(sql, args).fetchall()
    return repeat(once)


def value(pool, sql, *args):
    """The one value of such a statement."""
    return rows(pool, sql, *args)[0][0]


def readable(seconds, *files):
    poll = select.poll()                    # select() knows no more than 1,024 sockets
    for file in files:
        poll.register(file, select.POLLIN)
    return [fd for fd, _ in poll.poll(seconds * 1000)]


class Connection(threading.Thread):
    """One connection outside of any pool, made again when it is lost: open(db) after each connect,
    then tick(db) at once and every so many seconds. Its notifications come to notified(payload)."""

    def __init__(self, conninfo, every, tick, report, open=None, notified=None):
        super().__init__(daemon=True)
        self.conninfo, self.every, self.tick, self.report = conninfo, every, tick, report
        self.open, self.notified = open, notified
        self.closed = False
        self.alarm, self.bell = socket.socketpair()
        self.start()

    def run(self):
        wait = 0.05
        while not self.closed:
            try:
                with psycopg.connect(self.conninfo, **SETTINGS) as db:
                    if self.notified:
                        db.add_notify_handler(lambda notify: self.notified(notify.payload))
                    if self.open:
                        self.open(db)
                    while not self.closed:
                        self.tick(db)
                        wait = 0.05
                        self._pause(db)
            except Exception as error:
                self.report(error)
                readable(wait, self.alarm)
                wait = min(2 * wait, 2)

    def _pause(self, db):
        end = time.monotonic() + self.every
        while not self.closed and (left := end - time.monotonic()) > 0:
            if db.fileno() in readable(left, db, self.alarm):
                db.execute("SELECT")        # fetches the notifications, or finds the connection lost

    def close(self):
        self.closed = True
        self.bell.send(b".")
        self.join()


class Single(threading.Thread):
    """One run of work at a time, in a thread of its own; asked for meanwhile, it runs once more."""

    def __init__(self, work, report):
        super().__init__(daemon=True)
        self.work, self.report = work, report
        self.asked = threading.Event()
        self.closed = False
        self.start()

    def __call__(self):
        self.asked.set()

    def run(self):
        while self.asked.wait() and not self.closed:
            self.asked.clear()
            try:
                repeat(self.work)
            except Exception as error:
                self.report(error)

    def close(self):
        self.closed = True
        self.asked.set()
        self.join()
