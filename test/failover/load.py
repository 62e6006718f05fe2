"""Gateways, workers and their users, with the client modules for Python: what each was told, and
when, goes to a file outside of the database, which checks.py reads.

Of each eight messages one is SLOW, one QUICK, and so on; which it is stands in the routing.
"""
import collections
import itertools
import json
import logging
import pathlib
import sys
import threading
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "clients"))
sys.dont_write_bytecode = True

from psycopg.types.json import Jsonb  # noqa: E402
import database  # noqa: E402
from database import Connection, create_pool, rows, transaction  # noqa: E402
from gateway import Gateway  # noqa: E402
from worker import Worker  # noqa: E402

from cluster import PATIENCE, trouble, until  # noqa: E402

logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)     # lost connections are no news here

SLOW, QUICK, PUSHED, MUTE, RESCUED, HANDED, SUSPENDED, STOPPED = KINDS = (
    "slow", "quick", "pushed", "mute", "rescued", "handed", "suspended", "stopped")
CONVERSATIONS = 12
PLATFORM = "slack"

# A worker that falls silent is found out soon, also after a failover, which makes a turn that has
# not beaten since wait for a worker again; one that beats has the default minute.
TIMES = {MUTE: {"admission": "15 s", "silence": "3 s"},
         RESCUED: {"admission": "15 s", "silence": "3 s", "rescue": "1 h"}}

# An outage may be long on a busy machine.
database.repeat.__defaults__ = (PATIENCE,)


def spawn(work, *args):
    """A thread whose error ends the test."""
    def guarded():
        try:
            work(*args)
        except BaseException:
            trouble.append(traceback.format_exc())
    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    return thread


class Log:
    """Lines of JSON, each with the monotonic time at which its call had returned."""

    def __init__(self, path):
        self.file, self.lock = open(path, "w"), threading.Lock()
        self.begin = time.monotonic()

    def now(self):
        return time.monotonic() - self.begin

    def __call__(self, what, **facts):
        with self.lock:
            self.file.write(json.dumps({"t": self.now(), "what": what, **facts}) + "\n")

    def read(self):
        with self.lock:
            self.file.flush()
            with open(self.file.name) as lines:
                return [json.loads(line) for line in lines]


class Load:
    def __init__(self, cluster, repairs):
        self.log = Log(cluster.dir / "clients.log")
        self.repairs = repairs                  # after an asynchronous failover
        self.numbers = itertools.count()
        self.lock = threading.Lock()
        self.open = {}                          # messages whose end no client has seen, by number
        self.heard = collections.defaultdict(list)      # of each message, the ends that its client got
        self.accepted = 0
        self.ended = 0
        self.on_it = set()                      # (n, generation) that a worker is on
        self.slow = set()                       # turns that wait for the next blow
        self.questions = set()
        self.again = set()                      # messages that their gateway has handed over
        self.blows = 0
        self.hurry = False                      # as many ends as can be
        self.last_blow, self.over = threading.Event(), threading.Event()
        self.note_errors()

        info = {role: cluster.conninfo(role) for role in ("gateway", "worker")}
        self.pools = [create_pool(info[role], max_size=6) for role in ("gateway", "gateway", "worker", "worker")]
        # no look but at a connect: what a stream hears, a notification has told
        self.gateways = [Gateway(pool, self.enqueue, self.send, [PLATFORM], info["gateway"], f"gateway-{i}",
                                 generations=10**6, every=10**6, report=self.report)
                         for i, pool in enumerate(self.pools[:2])]
        self.workers = [Worker(pool, info["worker"], attach=True, name=f"worker-{i}", every=1, report=self.report)
                        for i, pool in enumerate(self.pools[2:])]
        for gateway in self.gateways:
            gateway.listen()
        for c in range(CONVERSATIONS):
            self.gateways[c % 2].stream(f"conv-{c}", "0", self.see)
        self.timeline = {}
        self.watches = [Connection(info["gateway"], 1, report=self.report, tick=lambda db, g=g: self.watch(db, g))
                        for g in self.gateways] if repairs else []
        self.working = [spawn(self.work, w) for w in self.workers for _ in range(CONVERSATIONS)]
        self.feeding = [spawn(self.feed, c) for c in range(CONVERSATIONS)]

    # --- what the log has beside the calls of the clients

    def note_errors(self):
        judge = database.worth_repeating

        def noting(error):
            judged = judge(error)
            self.log("error", type=type(error).__name__, sqlstate=getattr(error, "sqlstate", None),
                     text=str(error).split("\n")[0], repeated=judged)
            return judged
        database.worth_repeating = noting

    def report(self, error):
        database.worth_repeating(error)

    # --- gateways

    @staticmethod
    def enqueue(db, job):
        db.execute("INSERT INTO my_jobs (payload) VALUES (%s)", [Jsonb(job)])

    def send(self, payload, timeout, reply):
        self.log("pushed", reply=reply.reply_id, attempt=reply.attempt)
        self.see(reply)

    def see(self, reply):
        content = reply.payload.get("content")
        for n in map(int, reply.message_ids):
            self.log("heard", n=n, reply=reply.reply_id, outcome=reply.outcome, content=content,
                     code=reply.payload.get("errorCode"), conversation=reply.conversation_id)
            if reply.outcome == "update":
                self.questions.add(n)
                continue
            with self.lock:
                self.heard[n].append(reply.reply_id)
                self.ended += 1
                self.open.pop(n, None)

    def watch(self, db, gateway):
        """Another timeline: the server was promoted, and may lack what the last one had told. The
        messages of this gateway whose end was not seen go to a worker again."""
        timeline = db.execute("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)").fetchone()[0]
        last = self.timeline.setdefault(gateway, timeline)
        if timeline == last:
            return
        self.timeline[gateway] = timeline
        with self.lock:
            jobs = [(n, job) for n, (job, its) in self.open.items() if its is gateway]
        for n, job in jobs:
            self.dispatch(gateway, n, job, again=True)
        self.log("repaired", timeline=timeline, turns=len(jobs))

    def dispatch(self, gateway, n, job, again=False):
        armed = transaction(gateway.pool, lambda db: gateway.dispatch(
            db, job, again=again, **TIMES.get(job["routing"]["kind"], {})))
        self.log("accepted", n=n, armed=armed, again=again)
        return armed

    # --- users: the next message when the last one has ended

    def feed(self, c):
        gateway, conversation = self.gateways[c % 2], f"conv-{c}"
        while not self.last_blow.is_set():
            n = next(self.numbers)
            kind = QUICK if self.hurry else KINDS[n % len(KINDS)]
            job = {"deployment": conversation, "messageId": str(n), "routing": {
                "kind": kind, "conversationId": f"{conversation}/{PLATFORM}" if kind == PUSHED else conversation,
                "platform": PLATFORM if kind == PUSHED else "web"}}
            with self.lock:
                self.open[n] = job, gateway
            self.log("sent", n=n, kind=kind, conversation=job["routing"]["conversationId"])
            self.dispatch(gateway, n, job)
            self.accepted += 1
            getattr(self, f"feed_{kind}", lambda *_: None)(gateway, n, job)
            until(lambda: self.heard[n], f"the end of message {n} ({kind})")

    def feed_handed(self, gateway, n, job):
        """Its gateway gives it to another worker while the first one is on it."""
        until(lambda: (n, 1) in self.on_it or self.heard[n], f"a worker on message {n}")
        self.dispatch(gateway, n, job, again=True)
        self.again.add(n)

    def feed_suspended(self, gateway, n, job):
        until(lambda: n in self.questions or self.heard[n], f"the question of message {n}")
        resumed = transaction(gateway.pool, lambda db: gateway.resume(db, job))
        self.log("resumed", n=n, resumed=resumed)
        if self.repairs and not resumed:
            self.dispatch(gateway, n, job, again=True)      # the wait was lost

    def feed_stopped(self, gateway, n, job):
        self.log("verdict", n=n, generation=None, verdict=gateway.stop(job), content=None)

    # --- workers: a queue that delivers at least once; a job stays until its turn has ended

    def work(self, worker):
        while not self.over.wait(0.2):
            for job in rows(worker.pool, "SELECT * FROM my_jobs ORDER BY random() LIMIT 1"):
                self.do(worker, job.id, job.payload)

    def do(self, worker, job_id, job):
        said = {}
        verdict = worker.run(job, lambda turn: self.answer(turn, said))
        if said:
            self.log("verdict", n=int(job["messageId"]), verdict=verdict, **said)
        turn = rows(worker.pool, "SELECT ended_at FROM turn_liveness.get_turn(%s, %s)",
                    job["deployment"], job["messageId"])
        if verdict in ("won", "lost", "stale", "suspended") or not turn or turn[0].ended_at:
            rows(worker.pool, "DELETE FROM my_jobs WHERE id = %s RETURNING 1", job_id)

    def answer(self, turn, said):
        n, generation, kind = int(turn.message_id), turn.generation, turn.job["routing"]["kind"]
        self.log("started", n=n, generation=generation)
        self.on_it.add((n, generation))
        if kind == MUTE or kind == RESCUED and generation == 1:
            return None                         # no beat, no answer
        if kind == SUSPENDED and generation == 1:
            transaction(turn.worker.pool, lambda db: self.ask(turn, db))
            return None
        if kind == SLOW and len(self.slow) < CONVERSATIONS / 3:
            begun = self.blows
            self.slow.add(n)
            until(lambda: self.blows > begun or self.last_blow.is_set() or turn.stopped.is_set(), "a blow")
            self.slow.discard(n)
        if kind == HANDED and generation == 1:
            until(lambda: n in self.again or self.heard[n], f"the hand-over of message {n}")
        self.on_it.discard((n, generation))
        said.update(generation=generation, content=f"{n} by {generation}")
        return {"content": said["content"]}

    def ask(self, turn, db):
        update = turn.update({"content": f"{turn.message_id}?"}, db)
        turn.suspend("1 h", "a question", db)
        return update

    # --- the end

    def finish(self):
        """Every message has ended."""
        for thread in self.feeding:
            thread.join()

    def close(self):
        self.over.set()
        for thread in self.working:
            thread.join()
        for part in [*self.watches, *self.workers, *self.gateways, *self.pools]:
            part.close()
