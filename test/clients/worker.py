"""The worker's side of turn_liveness for Python, to be taken over as it is, with database.py.
README.md beside this file says how to use it.
"""
import threading
import traceback

from database import PROCESS_NAME, Connection, jsonb, repeat, value


class Stopped(Exception):
    """The turn has ended, or another worker has it: give up."""


class Worker:
    """
    pool    may be a pooler in transaction mode
    direct  conninfo of the beats; a direct one, if attach is set
    attach  the end of this process is noticed at once
    name    no two processes at a time may have the same
    every   a beat, in seconds; a stop takes as long to arrive
    """

    def __init__(self, pool, direct="", attach=False, name=PROCESS_NAME, every=5, report=traceback.print_exception):
        self.pool, self.attach, self.name, self.report = pool, attach, name, report
        self.lock = threading.Lock()
        self.held = {}                          # the turns that this process is on
        self.beating = threading.Lock()
        self.attached = set()
        self.db = None
        self.beats = Connection(direct, every, report=report, open=self._open, tick=self._beat)

    def _open(self, db):
        with self.beating:
            self.db, self.attached = db, set()

    # One call for the whole process, on a connection that waits for no other query. Each beat
    # names its turn and its generation: one that was stopped, or that another has, is given up.
    def _beat(self, db):
        with self.beating:
            with self.lock:
                held = dict(self.held)
            turns = list(held.values())
            for ended in db.execute("SELECT * FROM turn_liveness.heartbeats(%s::text[], %s::text[], %s::int[])",
                                    [[t.deployment for t in turns], [t.message_id for t in turns],
                                     [t.generation for t in turns]]):
                held[ended.deployment, ended.message_id].stopped.set()
            if self.attach:
                wanted = {t.deployment for t in turns}
                for call, deployments in ("attach", wanted - self.attached), ("detach", self.attached - wanted):
                    db.execute(f"SELECT turn_liveness.{call}_worker(d) FROM unnest(%s::text[]) d", [list(deployments)])
                self.attached = wanted

    def run(self, job, work):
        """Runs work(turn), which returns the answer, or None if the turn is suspended; turn.stopped
        says give up, and turn.check() raises then. Returns what became of it: won, lost or stale;
        suspended, stopped; None: the turn is another worker's (a queue that delivers twice), or has
        ended."""
        key = job["deployment"], job["messageId"]
        generation = self._start(key, job.get("takeOver", False))
        if generation is None:
            return None
        turn = Turn(self, job, generation)
        with self.lock:
            earlier = self.held.get(key)
            self.held[key] = turn
        if earlier:
            earlier.stopped.set()
        try:
            return turn.end(work)
        finally:
            with self.lock:
                if self.held.get(key) is turn:
                    del self.held[key]

    def _start(self, key, take_over):
        tries = 0

        def once():
            nonlocal tries
            tries += 1
            with self.pool.connection() as db:
                generation = db.execute("SELECT turn_liveness.start_turn(%s, %s, %s, %s)",
                                        [*key, self.name, take_over]).fetchone()[0]
                if generation is not None or tries == 1 or key in self.held:
                    return generation
                # perhaps an earlier try was committed, and its answer was lost with the connection
                turn = db.execute("SELECT * FROM turn_liveness.get_turn(%s, %s)", key).fetchone()
                return turn.generation if turn and turn.worker == self.name and turn.ended_at is None else None
        return repeat(once)

    def close(self):
        """Before this process ends: gives its turns up, and returns their jobs. Put them back into
        the queue: the next worker takes them over, and later calls of this one count for nothing."""
        with self.lock:
            turns = list(self.held.values())
            self.held.clear()
        try:
            if self.db:
                self._beat(self.db)             # detaches
        except Exception as error:
            self.report(error)
        self.beats.close()
        for turn in turns:
            turn.stopped.set()
        return [{**turn.job, "takeOver": True} for turn in turns]


class Turn:
    def __init__(self, worker, job, generation):
        self.worker, self.job, self.generation = worker, job, generation
        self.deployment, self.message_id = job["deployment"], job["messageId"]
        self.stopped = threading.Event()

    def check(self):
        if self.stopped.is_set():
            raise Stopped

    def end(self, work):
        try:
            reply = work(self)
        except Exception as error:
            if self.stopped.is_set():
                return "stopped"
            self.worker.report(error)
            reply = {"error": "The agent failed.", "errorCode": "AGENT_FAILED"}
        if reply is None:
            return "stopped" if self.stopped.is_set() else "suspended"
        return self.commit(reply)

    def commit(self, reply):
        """Repeated, the same call is won again."""
        return value(self.worker.pool, "SELECT turn_liveness.commit_terminal_reply(%s, %s, %s, %s)",
                     self.deployment, [self.message_id], jsonb(reply), [self.generation])

    def _once(self, db, sql, *args):
        if db is None:
            with self.worker.pool.connection() as db:
                return self._once(db, sql, *args)
        return db.execute(sql, args).fetchone()[0]

    def update(self, payload, db=None):
        """A message before the answer; None: give up. Not repeated by itself: each call stores one."""
        return self._once(db, "SELECT turn_liveness.post_update(%s, %s, %s, %s)",
                          self.deployment, self.message_id, jsonb(payload), self.generation)

    def suspend(self, max_wait, reason=None, db=None):
        """The turn waits for a human; False: give up. Then return None from work()."""
        return self._once(db, "SELECT turn_liveness.suspend_turn(%s, %s, %s, %s, %s)",
                          self.deployment, self.message_id, max_wait, reason, self.generation)
