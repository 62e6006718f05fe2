"""What the clients of a chaos run share: their log, their connection, and the life of each turn.

A log is a file of JSON lines, appended to by one write each, so what a client knew when it was
killed is there. Each call of the database is one transaction and two lines, one before and one
after it, which the checker joins by the number "n".
"""
import json
import os
import random
import signal
import sys
import threading
import time

import psycopg2

PARENT = os.getppid()


class Log:
    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, **line):
        line["w"] = time.time()
        line["m"] = time.monotonic()
        os.write(self.fd, (json.dumps(line, separators=(",", ":")) + "\n").encode())


class Client:
    """One process; each of its sessions (one a thread) has a connection of its own."""

    def __init__(self, log, dsn):
        self.log, self.dsn, self.serial, self.guard = log, dsn, 0, threading.Lock()
        self.stopping = False
        signal.signal(signal.SIGTERM, self.stop)

    def stop(self, *_):
        self.stopping = True

    def number(self):
        with self.guard:
            self.serial += 1
            return self.serial


class Session:
    def __init__(self, client, on_connect=None, lock_timeout=0):
        self.client, self.db, self.id = client, None, 0
        self.on_connect, self.lock_timeout = on_connect, lock_timeout

    def connect(self):
        if os.getppid() != PARENT:
            os._exit(1)         # the run is over
        while self.db is None or self.db.closed:
            if os.getppid() != PARENT:
                os._exit(1)
            try:
                self.db = psycopg2.connect(self.client.dsn)
                self.db.autocommit = True
                self.db.cursor().execute("SET lock_timeout = %s", (self.lock_timeout,))
                self.id = self.client.number()
                if self.on_connect:
                    self.on_connect(self)
            except psycopg2.Error:
                self.db = None
                time.sleep(0.1)     # until the server is back: a fault lasts as long as it lasts

    def call(self, op, items, sql, args=(), fate="commit", hold=0, gid=None):
        """One transaction: its rows, or None if it is not known to be committed.

        fate: commit; rollback; savepoint (the call in a savepoint that is rolled back, then once
        more); prepare, under the name gid.
        """
        self.connect()
        n, log = self.client.number(), self.client.log
        log.write(n=n, c=self.id, o=op, i=items, **({"g": gid} if gid else {}))
        committing = fate == "commit"
        try:
            cursor = self.db.cursor()
            if fate != "commit" or hold:
                cursor.execute("BEGIN")
                committing = False
            if fate == "savepoint":
                cursor.execute("SAVEPOINT a")
                cursor.execute(sql, args)
                cursor.execute("ROLLBACK TO a")
            cursor.execute(sql, args)
            rows = cursor.fetchall() if cursor.description else []
            if hold:
                time.sleep(hold)
            if fate == "rollback":
                cursor.execute("ROLLBACK")
            elif fate != "commit" or hold:
                committing = True
                cursor.execute("PREPARE TRANSACTION '%s'" % gid if fate == "prepare" else "COMMIT")
        except psycopg2.Error as error:
            code = error.pgcode or ""
            gone = self.db.closed or code[:2] in ("", "08", "57") and code != "57014"
            # a session that ends before it was told to commit has rolled back
            log.write(n=n, f="lost" if gone and committing else "error", x=code, e=str(error).strip()[:300])
            try:
                if not gone:
                    self.db.cursor().execute("ROLLBACK")
            except psycopg2.Error:
                gone = True
            if gone:
                self.drop()
            return None
        log.write(n=n, f={"rollback": "rolled", "prepare": "prepared"}.get(fate, "ok"), r=rows)
        return rows

    def drop(self):
        if self.db is not None:
            self.client.log.write(o="gone", c=self.id)
            try:
                self.db.close()
            except psycopg2.Error:
                pass
            self.db = None


def arguments():
    """chaos's command line for a client: name, directory, dsn, seed, then its own."""
    name, directory, dsn, seed = sys.argv[1:5]
    random.seed("%s %s" % (seed, name))
    return name, directory, Client(Log("%s/%s.log" % (directory, name)), dsn), sys.argv[5:]
