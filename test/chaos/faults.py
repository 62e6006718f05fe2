"""The faults: the plan of a seed, and what each of them does.

Each is told to faults.log when it has begun and when it is about to end, so that what is certain
lies between the two lines.
"""
import os
import random
import signal
import time

import psycopg2

from common import Session
from server import go_on, send, stop

# how many of each in one bag; the plan draws one bag after the other
BAG = {"kill_backend": 3, "kill_postmaster": 1, "immediate": 1, "fast": 1, "failover": 1, "stop_server": 2,
       "stop_sweeper": 2, "kill_client": 4, "stop_client": 4, "cut": 3, "reset": 2, "sweep_off": 2,
       "rewrite": 5, "lock": 4, "long": 4, "terminate": 3, "sweep_here": 2}

DDL = ["VACUUM FULL turn_liveness.{}", "REINDEX TABLE CONCURRENTLY turn_liveness.{}", "VACUUM (FREEZE) turn_liveness.{}",
       "REINDEX TABLE turn_liveness.{}", "ANALYZE turn_liveness.{}", "CLUSTER turn_liveness.{} USING {}_pkey",
       "CREATE INDEX CONCURRENTLY chaos ON turn_liveness.{} ({}); DROP INDEX CONCURRENTLY turn_liveness.chaos",
       "CREATE INDEX CONCURRENTLY chaos ON turn_liveness.{} ({}) ; DROP INDEX turn_liveness.chaos"]
COLUMN = {"turn": "epoch", "reply": "created_at", "delivery": "attempt", "late_reply": "created_at"}
TABLES = sorted(COLUMN)


def make_plan(seed, seconds):
    draw = random.Random(seed)
    bag, at, plan = [], 4.0, []
    while at < seconds - 4:
        if not bag:
            bag = [kind for kind, n in BAG.items() for _ in range(n)]
            draw.shuffle(bag)
        kind = bag.pop()
        long = draw.choice((0.5, 1, 2, 3, 4, 6, 8))
        plan.append({"at": round(at, 1), "fault": kind, "long": long, "draw": draw.randrange(1 << 30)})
        at += draw.uniform(0.5, 7)
    return plan


class Faults:
    def __init__(self, server, clients, client, log):
        self.server, self.clients, self.client, self.log = server, clients, client, log

    def strike(self, fault):
        tell = lambda phase, **more: self.log.write(**{**fault, "phase": phase, **more})
        try:
            getattr(self, fault["fault"])(tell, random.Random(fault["draw"]), fault["long"])
        except (psycopg2.Error, OSError, RuntimeError) as error:
            # another fault was in its way
            tell("missed", why=str(error).strip()[:200])

    # --- the server's processes

    def kill_backend(self, tell, draw, long):
        kinds = ["client backend"] * 4 + ["turn_liveness worker", "turn_liveness launcher", "walwriter",
                                          "checkpointer", "autovacuum launcher"]
        kind = draw.choice(kinds)
        with self.server.lock:
            pids = self.server.query("""
                SELECT pid FROM pg_stat_activity
                WHERE backend_type = %s AND pid <> pg_backend_pid() ORDER BY pid""", kind)
            children = self.server.processes()[1:]
            pid = draw.choice(pids)[0] if pids else children[0]
            tell("begin", what=kind)
            send(signal.SIGKILL, [pid])
            # a server that is ready before the postmaster has ended all others is the old one,
            # or the process had ended by itself
            until = time.time() + 20
            while time.time() < until and any(os.path.exists("/proc/%d" % child) for child in [pid] + children):
                time.sleep(0.01)
            self.server.wait_ready()
            tell("end")

    def down(self, tell, draw, end):
        with self.server.lock:
            if draw.random() < 0.4:
                self.server.query("ALTER SYSTEM SET turn_liveness.lease_capacity = %s" % draw.choice((16, 256, 131072)))
            tell("begin")
            end()
            time.sleep(draw.uniform(0, 2))
            if not self.server.start():
                raise RuntimeError("the server does not start")
            tell("end")

    def kill_postmaster(self, tell, draw, long):
        self.down(tell, draw, lambda: send(signal.SIGKILL, [self.server.postmaster()]))

    def immediate(self, tell, draw, long):
        self.down(tell, draw, lambda: self.server.ctl("stop", "-m", "immediate"))

    def fast(self, tell, draw, long):
        self.down(tell, draw, lambda: self.server.ctl("stop", "-m", "fast"))

    def failover(self, tell, draw, long):
        with self.server.lock:
            tell("base backup")
            self.server.fail_over(draw.uniform(1, 4), lambda: tell("begin"))
            self.server.wait_ready()
            tell("end")

    def pause(self, pids, tell, long):
        stop(pids)
        tell("begin")
        time.sleep(long)
        tell("end")
        go_on(pids)

    def stop_server(self, tell, draw, long):
        with self.server.lock:
            self.pause(self.server.processes(), tell, long)

    def stop_sweeper(self, tell, draw, long):
        with self.server.lock:
            pids = self.server.query("""
                SELECT pid FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker'""")
            self.pause([pid for pid, in pids], tell, long)

    def terminate(self, tell, draw, long):
        with self.server.lock:
            tell("begin")
            self.server.query("""
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE pid <> pg_backend_pid() AND (backend_type LIKE 'turn_liveness %%' AND random() < 0.5
                      OR backend_type = 'client backend' AND random() < 0.4)""")
            tell("end")

    # --- our processes, and the workers' path

    def kill_client(self, tell, draw, long):
        name = draw.choice(sorted(self.clients.processes))
        # a second life beside this one would escape the faults to come, and the end
        with self.clients.path if name == "proxy" else self.clients.life[name]:
            tell("begin", what=name)
            self.clients.kill(name)
            time.sleep(draw.uniform(0, 3))
            self.clients.spawn(name)
            tell("end")

    def stop_client(self, tell, draw, long):
        name = draw.choice(sorted(self.clients.processes))
        process = self.clients.processes[name]
        if name != "proxy":
            self.pause([process.pid], tell, long)

    def cut(self, tell, draw, long):
        with self.clients.path:
            self.pause([self.clients.processes["proxy"].pid], tell, long)

    def reset(self, tell, draw, long):
        with self.clients.path:
            tell("begin")
            self.clients.kill("proxy")
            time.sleep(long / 2)
            tell("end")
            self.clients.spawn("proxy")

    # --- administrators

    def sweep_off(self, tell, draw, long):
        with self.clients.sweep:
            self.server.query("ALTER DATABASE postgres SET turn_liveness.sweep = off")
            tell("begin")
            try:
                time.sleep(long + 3)
            finally:
                tell("end")
                self.sweep_on()

    def sweep_on(self):
        for _ in range(100):
            self.server.wait_ready()
            try:
                return self.server.query("ALTER DATABASE postgres RESET turn_liveness.sweep")
            except psycopg2.Error:
                pass

    def administrator(self):
        """A session that does not stop all others for long while it waits behind a transaction."""
        db = self.server.connect()
        db.cursor().execute("SET lock_timeout = '2 s'")
        return db

    def rewrite(self, tell, draw, long):
        table = draw.choice(TABLES)
        command = draw.choice(DDL).replace("{}_pkey", table + "_pkey").replace("({})", "(%s)" % COLUMN[table])
        db = self.administrator()
        tell("begin", what=command.format(table))
        for part in command.format(table).split(";"):
            db.cursor().execute(part)
        tell("end")

    def lock(self, tell, draw, long):
        db = self.administrator()
        db.cursor().execute("BEGIN")
        mode = draw.choice(("ACCESS EXCLUSIVE", "ACCESS EXCLUSIVE", "SHARE"))
        table = draw.choice(TABLES)
        db.cursor().execute("LOCK turn_liveness.%s IN %s MODE" % (table, mode))
        tell("begin", what=table)
        time.sleep(min(long, 4))
        tell("end")
        db.cursor().execute("ROLLBACK")

    def sweep_here(self, tell, draw, long):
        """A session sweeps beside the worker; it keeps the setting of its own begin."""
        with self.clients.sweep:
            db = self.server.connect()
            db.cursor().execute("SET lock_timeout = '500 ms'")
            tell("begin")
            end = time.time() + long
            while time.time() < end:
                db.cursor().execute("SELECT turn_liveness.sweep_expired_turns()")
                time.sleep(0.05)
            tell("end")

    def long(self, tell, draw, long):
        """A transaction arms turns, or ends those of others, and stays open."""
        session = Session(self.client)
        tell("begin")
        key = "driver-%d" % draw.randrange(1 << 30)
        fate = draw.choice(("commit", "rollback", "prepare", "prepare"))
        if draw.random() < 0.5:
            keys = ["%s/%d" % (key, i) for i in range(5)]
            session.call("arm", [[k, 4, 3, 60, 0] for k in keys], """
                SELECT %s || '/' || m, turn_liveness.arm_turn(%s, m::text)::text
                FROM generate_series(0, 4) m""", (key, key), fate=fate, hold=long, gid=key)
        else:
            turns = self.server.query("SELECT deployment, message_id FROM turn_liveness.turns LIMIT 20")
            turns.sort()
            session.call("commit", [key] + [[["%s/%s" % t], [None]] for t in turns], """
                SELECT d, turn_liveness.commit_terminal_reply(d, ARRAY[m], jsonb_build_object('content', %s::text))::text
                FROM unnest(%s::text[], %s::text[]) AS t(d, m)""",
                         (key, [d for d, _ in turns], [m for _, m in turns]), fate=fate, hold=long, gid=key)
        session.drop()
        tell("end")
