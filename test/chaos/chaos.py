"""chaos.py [SECONDS [SEED]]: clients and faults for that long, then the checker's verdict.

A long run is a row of rounds, each of them on a new server and with the next seed.
"""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback

import psycopg2

import check
from common import Client, Log, Session
from faults import Faults, make_plan
from server import Server

HERE = os.path.dirname(os.path.abspath(__file__))
GATEWAYS, WORKERS, LISTENERS, PUSHERS = 2, 4, 2, 2
ROUND = 300
PATIENCE = 150          # until all is ended and delivered after the last fault


class Clients:
    """The processes of the run by name; each life of one is another incarnation."""

    def __init__(self, directory, seed, rate):
        self.directory, self.seed, self.rate = directory, seed, rate
        self.processes, self.lives = {}, {}
        self.path, self.sweep, self.guard = threading.Lock(), threading.Lock(), threading.Lock()
        os.mkdir(directory + "/path")
        self.spawn("proxy")
        self.names = ["w%d" % i for i in range(WORKERS)] + ["l%d" % i for i in range(LISTENERS)] + \
            ["p%d" % i for i in range(PUSHERS)] + ["g%d" % i for i in range(GATEWAYS)]
        self.life = {name: threading.Lock() for name in self.names}
        for name in self.names:
            self.spawn(name)

    def spawn(self, name):
        with self.guard:
            life = self.lives[name] = self.lives.get(name, -1) + 1
            gateways = ",".join("g%d" % i for i in range(GATEWAYS))
            program, host, user, *rest = {
                "g": ("gateway.py", "primary", "gateway", str(self.rate / GATEWAYS), str(WORKERS)),
                "w": ("worker.py", "path", "worker", str(WORKERS)),
                "l": ("reader.py", "primary", "gateway", "listen", gateways, name[1:], str(LISTENERS)),
                "p": ("reader.py", "primary", "gateway", "push"),
            }[name[0]]
            dsn = "host=%s/%s user=%s dbname=postgres" % (self.directory, host, user)
            command = ["%s/%s" % (HERE, program), "%s.%d" % (name, life), self.directory, dsn, str(self.seed)] + rest
            if name == "proxy":
                command = [HERE + "/proxy.py"] + ["%s/%s/.s.PGSQL.5432" % (self.directory, p) for p in ("path", "primary")]
            self.processes[name] = subprocess.Popen(
                [sys.executable] + command, stdin=subprocess.DEVNULL,
                stderr=open("%s/%s.%d.err" % (self.directory, name, life), "w"))

    def kill(self, name):
        self.processes[name].kill()
        self.processes[name].wait()

    def finish(self, first):
        """Ask all of a kind to end, and wait; False if one had to be killed."""
        some = [p for name, p in self.processes.items() if name[0] == first and name != "proxy"]
        for process in some:
            process.send_signal(signal.SIGTERM)
        end = time.time() + 60
        good = True
        for process in some:
            try:
                good &= process.wait(max(0, end - time.time())) == 0
            except subprocess.TimeoutExpired:
                process.kill()
                good = False
        return good


def janitor(server, client, stop):
    """Roll back what was prepared by a session that died."""
    session = Session(client)
    while not stop.wait(2):
        try:
            for gid, in server.query("SELECT gid FROM pg_prepared_xacts WHERE prepared < now() - interval '6 s'"):
                session.call("resolve", [gid, "ROLLBACK"], "ROLLBACK PREPARED '%s'" % gid)
        except psycopg2.Error:
            pass


def settle(server, clients, stop_janitor):
    """After the last fault: everything that is owed ends, everything due is delivered."""
    problems = []
    server.wait_ready()
    if not clients.finish("g"):
        problems.append("a gateway did not end by itself")
    end = time.time() + PATIENCE
    # those that deliver still run, and take again what they released
    while server.query("""
            SELECT 1 FROM turn_liveness.turns
            UNION ALL SELECT 1 FROM turn_liveness.replies WHERE state IN ('due', 'claimed') LIMIT 1""") and time.time() < end:
        time.sleep(0.5)
    for first in "wpl":
        if not clients.finish(first):
            problems.append("a process of kind %s did not end by itself" % first)
    stop_janitor.set()
    clients.kill("proxy")
    return problems


def tables(server):
    """What the checker needs of the tables, as they are in the end."""
    got = {
        "replies": server.query("""
            SELECT reply_id, deployment, message_ids, conversation_id, platform, outcome, error_code, decided_by,
                   generation, extract(epoch FROM created_at)::float8, payload->>'content', payload->>'status',
                   state, attempt
            FROM turn_liveness.replies ORDER BY reply_id"""),
        "turns": server.query("SELECT deployment || '/' || message_id, state, blocked_by FROM turn_liveness.turns"),
        "prepared": server.query("SELECT gid FROM pg_prepared_xacts"),
        "locks": server.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")[0][0],
    }
    columns = "attach_used, leases_used, lease_capacity, worker_state, worker_problem, sweep_errors, beats_in_rows"
    for _ in range(50):     # the sessions that attached have only just ended
        got["stat"] = dict(zip(columns.split(", "), server.query("SELECT %s FROM turn_liveness.stat" % columns)[0]))
        if got["stat"]["attach_used"] == 0 and got["stat"]["worker_state"] == "running":
            break
        time.sleep(0.1)
    server.query("CREATE EXTENSION IF NOT EXISTS amcheck")
    amcheck = subprocess.run(["pg_amcheck", "-h", server.directory + "/primary", "-U", "postgres", "-d", "postgres",
                              "-s", "turn_liveness", "--heapallindexed"], capture_output=True, text=True)
    got["amcheck"] = (amcheck.stdout + amcheck.stderr).strip() if amcheck.returncode else ""
    return got


def rounds(seconds, seed):
    good = [subprocess.call([sys.executable, __file__, str(min(ROUND, seconds - at)), str(seed + at // ROUND)]) == 0
            for at in range(0, seconds, ROUND)]
    print("# of %d rounds:" % len(good))
    print("%d passed, %d failed" % (good.count(True), good.count(False)))
    return 0 if all(good) else 1


def main():
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUND
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 31)
    if seconds > ROUND:
        return rounds(seconds, seed)
    directory = "%s/chaos.%d" % (os.environ["TL_TMP"], seed)
    os.mkdir(directory)
    try:
        bad = one_round(seconds, seed, directory)
    except Exception:
        traceback.print_exc()
        print("0 passed, 1 failed")
        bad = 1
    if bad:
        subprocess.run(["tar", "-C", directory, "--exclude=data.*", "--exclude=jobs.*", "-czf",
                        "%s/chaos.%d.tar.gz" % (os.environ["TL_OUT"], seed), "."], stderr=subprocess.DEVNULL)
    return 1 if bad else 0


def one_round(seconds, seed, directory):
    rate = float(os.environ.get("CHAOS_RATE", 500))
    print("# %d seconds, seed %d" % (seconds, seed), flush=True)
    plan = make_plan(seed, seconds)
    server = Server(directory)
    clients = Clients(directory, seed, rate)
    client = Client(Log(directory + "/driver.log"), "host=%s/path user=postgres dbname=postgres" % directory)
    log = Log(directory + "/faults.log")
    faults = Faults(server, clients, client, log)
    stop_janitor = threading.Event()
    cleaner = Client(Log(directory + "/janitor.log"), server.dsn + "postgres")
    threading.Thread(target=janitor, args=(server, cleaner, stop_janitor), daemon=True).start()
    began = time.time()
    threads = []
    for fault in plan:
        time.sleep(max(0, began + fault["at"] - time.time()))
        threads.append(threading.Thread(target=faults.strike, args=(fault,), daemon=True))
        threads[-1].start()
        if client.stopping:
            break
    time.sleep(max(0, began + seconds - time.time()))
    for thread in threads:
        thread.join(120)
    log.write(fault="none", phase="begin")
    problems = settle(server, clients, stop_janitor)
    problems += ["a fault has not ended" for thread in threads if thread.is_alive()]
    with open(directory + "/tables.json", "w") as out:
        json.dump({"problems": problems, **tables(server)}, out)
    server.ctl("stop", "-m", "fast")
    bad = check.report(check.History(directory))
    if not bad and os.environ.get("KEEP") != "1":
        shutil.rmtree(directory)
    return bad


sys.exit(main())
