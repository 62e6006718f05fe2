"""The server under chaos: start, crash, stop, and fail over to a standby."""
import os
import shutil
import signal
import subprocess
import threading
import time

import psycopg2

from life import ADMISSION, CLAIM, DURATION, HOLD, RECONNECT, SILENCE

CONF = """
listen_addresses = ''
log_line_prefix = '%n [%p] %b %e '
max_connections = 60
max_prepared_transactions = 50
max_wal_senders = 4
shared_buffers = 256MB
checkpoint_timeout = 60s
max_wal_size = 2GB
deadlock_timeout = 200ms
wal_receiver_status_interval = 1s
"""
TIMES = {"turn_deadline": SILENCE, "admission_deadline": ADMISSION, "max_turn_duration": DURATION,
         "reconnect_window": RECONNECT, "mass_silence_hold": HOLD, "claim_timeout": CLAIM, "retry_delay": 1}


def run(*command):
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT).returncode == 0


class Server:
    """The primary, at the socket "primary/", whichever directory it is in."""

    def __init__(self, directory):
        self.directory, self.number, self.lock = directory, 0, threading.RLock()
        self.dsn = "host=%s/primary dbname=postgres user=" % directory
        data = self.data()
        subprocess.run(["initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
                        "--locale=C", "--no-sync"], check=True, stdout=subprocess.DEVNULL)
        with open(data + "/postgresql.conf", "a") as conf:
            conf.write(open(os.environ["TL_CONF"]).read() + CONF)
            conf.write("".join("turn_liveness.%s = '%d s'\n" % pair for pair in TIMES.items()))
        self.prepare(data)
        assert self.start(), "the server does not start"
        with self.connect() as db:
            db.cursor().execute("""
                CREATE EXTENSION turn_liveness;
                CREATE ROLE gateway LOGIN;
                CREATE ROLE worker LOGIN;
                SELECT turn_liveness.grant_gateway('gateway'), turn_liveness.grant_worker('worker')""")
        db.close()

    def data(self):
        return "%s/data.%d" % (self.directory, self.number)

    def prepare(self, data):
        """Its socket is in a directory of its own."""
        sockets = "%s/s%d" % (self.directory, self.number)
        os.makedirs(sockets)
        with open(data + "/postgresql.conf", "a") as conf:
            conf.write("unix_socket_directories = '%s'\n" % sockets)

    def point(self):
        link = self.directory + "/primary"
        os.symlink("s%d" % self.number, link + ".new")
        os.rename(link + ".new", link)

    def connect(self, user="postgres"):
        db = psycopg2.connect(self.dsn + user)
        db.autocommit = True
        return db

    def query(self, sql, *args):
        db = self.connect()
        try:
            cursor = db.cursor()
            cursor.execute(sql, args)
            return cursor.fetchall() if cursor.description else None
        finally:
            db.close()

    def ctl(self, *args):
        return run("pg_ctl", "-D", self.data(), "-s", "-w", "-t", "60", "-l",
                   "%s/server.%d.log" % (self.directory, self.number), *args)

    def start(self):
        """A predecessor's processes may still be there."""
        end = time.time() + 60
        while not self.ctl("start"):
            if time.time() > end:
                return False
            time.sleep(0.2)
        self.point()
        return True

    def postmaster(self):
        return int(open(self.data() + "/postmaster.pid").readline())

    def processes(self):
        main = self.postmaster()
        children = open("/proc/%d/task/%d/children" % (main, main)).read().split()
        return [main] + [int(pid) for pid in children]

    def wait_ready(self):
        for _ in range(600):
            try:
                return self.query("SELECT 1")
            except psycopg2.Error:
                time.sleep(0.1)
        raise RuntimeError("the server does not come back")

    def fail_over(self, soak, tell):
        """Make a standby, wait until it is synchronous, crash the primary, promote the standby."""
        old, sockets = self.data(), "%s/s%d" % (self.directory, self.number)
        self.number += 1
        new = self.data()
        try:
            if not run("pg_basebackup", "-D", new, "-h", sockets, "-U", "postgres", "-R", "-c", "fast"):
                raise RuntimeError("no base backup")
            self.prepare(new)
            if not self.ctl("start"):
                raise RuntimeError("no standby")
            self.query("ALTER SYSTEM SET synchronous_standby_names = '*'")
            self.query("SELECT pg_reload_conf()")
            for _ in range(300):
                # what was committed before must have arrived, too
                if self.query("""SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync' AND
                                 flush_lsn >= pg_current_wal_flush_lsn() - 100000"""):
                    break
                time.sleep(0.1)
            else:
                raise RuntimeError("the standby does not follow")
            lsn = self.query("SELECT pg_current_wal_insert_lsn()")[0][0]
            while not self.query("SELECT 1 FROM pg_stat_replication WHERE flush_lsn >= %s", lsn):
                time.sleep(0.1)
            time.sleep(soak)
        except Exception:
            self.ctl("stop", "-m", "immediate")
            self.number -= 1
            for command in ("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"):
                self.wait_ready()
                self.query(command)
            self.number += 1
            shutil.rmtree(new, ignore_errors=True)
            shutil.rmtree("%s/s%d" % (self.directory, self.number), ignore_errors=True)
            self.number -= 1
            raise
        self.number -= 1
        self.ctl("stop", "-m", "immediate")
        self.number += 1
        tell()
        if not self.ctl("promote"):
            raise RuntimeError("the standby is not promoted")
        self.point()
        shutil.rmtree(old, ignore_errors=True)


def send(number, pids):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def stop(pids):
    send(signal.SIGSTOP, pids)


def go_on(pids):
    send(signal.SIGCONT, pids)
