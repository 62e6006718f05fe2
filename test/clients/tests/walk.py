"""The life of a few turns, by gateway.py and worker.py, each call in its place."""
import contextlib
import json

import psycopg

from common import PREFIX, dequeue, enqueue, expect, make_pool, until
from database import rows, transaction, value
from gateway import Gateway
from worker import Worker

pool = make_pool(max_size=4)
conversation = f"{PREFIX}/c1"
sent = []
seen = []


def job(message_id):
    return {"deployment": conversation, "messageId": message_id,
            "routing": {"conversationId": conversation, "userId": "u1", "platform": "web"}}


def refuse_first(payload, timeout, reply):
    sent.append(payload["content"])
    if len(sent) == 1:
        raise OSError("429")


def dispatch(job, **options):
    return transaction(pool, lambda db: gateway.dispatch(db, job, **options))


def terminal(n):
    return until(lambda: len(seen) >= n and seen[n - 1], f"reply {n}")


gateway = Gateway(pool, enqueue, send=refuse_first, platforms=[PREFIX])
worker = Worker(pool, every=0.05, attach=True)
gateway.listen()
leave = gateway.stream(conversation, "0", seen.append)


def detach():
    return worker.db.execute("SELECT turn_liveness.detach_worker(%s)", [conversation]).fetchone()[0]


# --- a message is answered, without the characters that jsonb refuses
def answer(turn):
    with pool.connection() as db:
        for _ in range(12):             # which a pooler gives to several servers
            expect("live", db.execute("SELECT turn_liveness.has_live_turn(%s, %s)",
                                      [conversation, "m1"]).fetchone()[0], True)
    until(lambda: conversation in worker.attached)

    # the beats' session ends: the next one is attached, too
    lost = worker.db
    rows(pool, "SELECT pg_terminate_backend(%s)", lost.info.backend_pid)
    until(lambda: worker.db is not lost and conversation in worker.attached)
    with worker.beating:
        expect("detach", detach(), True)
        worker.attached.discard(conversation)
    until(lambda: conversation in worker.attached)
    turn.check()
    return {"content": "4\x002", "text": "half \ud800"}


expect("arm", dispatch(job("m1")), "armed")
expect("answer", worker.run(dequeue(pool), answer), "won")
expect("content", terminal(1).payload["content"], "42")
expect("routing", seen[0].payload["userId"], "u1")
until(lambda: not worker.attached)
with worker.beating:
    expect("detached", detach(), False)

# --- the same message again, owed or ended, enqueues nothing
expect("ended", dispatch(job("m1")), "answered")
expect("arm", dispatch(job("m2")), "armed")
expect("owed", dispatch(job("m2")), "pending")
taken = dequeue(pool)
expect("job", taken["messageId"], "m2")
expect("no job", dequeue(pool), None)

# --- unless it is to go to a worker again
expect("ended", dispatch(job("m1"), again=True), "answered")
expect("no job", dequeue(pool), None)
expect("again", dispatch(job("m2"), again=True), "pending")
taken = dequeue(pool)
expect("job", taken["messageId"], "m2")


# --- the user stops it: the client hears it, and the worker with its next beat
def stopped(turn):
    expect("generation", turn.generation, 2)
    expect("stop", gateway.stop(job("m2")), "won")
    until(turn.stopped.is_set)
    turn.check()


expect("stopped", worker.run(taken, stopped), "stopped")
expect("code", terminal(2).payload["errorCode"], "CANCELLED")

# --- a stop that overtakes its arm
expect("early stop", gateway.stop(job("m3")), "won")
expect("arm after it", dispatch(job("m3")), "answered")
expect("no job", dequeue(pool), None)
expect("code", terminal(3).payload["errorCode"], "CANCELLED")


# --- an agent that raises
def fail(turn):
    raise RuntimeError("the model is away")


dispatch(job("m4"))
expect("failed", worker.run(dequeue(pool), fail), "won")
expect("code", terminal(4).payload["errorCode"], "AGENT_FAILED")

# --- pushed: to the platform, once; a message that it refuses comes again
dispatch({"deployment": f"{PREFIX}/c2", "messageId": "m5", "routing": {"platform": PREFIX}})
expect("pushed", worker.run(dequeue(pool), lambda turn: {"content": "43"}), "won")
until(lambda: len(sent) == 2)
until(lambda: value(pool, "SELECT state FROM turn_liveness.replies WHERE platform = %s", PREFIX) == "delivered")


# --- an answer that is lost with its connection: once is enough
class Losing:
    """A pool that runs the statement, and loses its answer once, with the connection."""

    def __init__(self, statement):
        self.statement = statement

    @contextlib.contextmanager
    def connection(self):
        ran = []
        with pool.connection() as db:
            db.execute = lambda sql, *args: ran.append(sql) or type(db).execute(db, sql, *args)
            yield db
            del db.execute
        if self.statement and any(self.statement in sql for sql in ran):
            self.statement = None
            raise psycopg.OperationalError("server closed the connection unexpectedly")


def lose_answer(turn):
    worker.pool = Losing("commit_terminal_reply")
    return {"generation": turn.generation}


lost = {"deployment": f"{PREFIX}/c3", "messageId": "m7"}
expect("twice", transaction(Losing("arm_turn"), lambda db: gateway.dispatch(db, lost)), "pending")
worker.pool = Losing("start_turn")
expect("once", worker.run(dequeue(pool), lose_answer), "won")
worker.pool = pool
expect("no job", dequeue(pool), None)
expect("generation", value(pool, "SELECT payload->>'generation' FROM turn_liveness.get_turn(%s, 'm7')",
                           lost["deployment"]), "1")


# --- an error in the caller's transaction: neither owed nor enqueued
def swallow(db):
    gateway.dispatch(db, job("m6"))
    try:
        db.execute("SELECT 1 / 0")
    except Exception:
        pass


try:
    transaction(pool, swallow)
    raise AssertionError("committed")
except RuntimeError:
    pass
expect("no job", dequeue(pool), None)
expect("arm", dispatch(job("m6")), "armed")


# --- the first error is the one that is told, also where ROLLBACK has one
def lose_connection(db):
    try:
        db.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    except psycopg.OperationalError:
        raise KeyError("the first") from None


try:
    transaction(pool, lose_connection)
    raise AssertionError("committed")
except KeyError:
    pass

# --- notifications that are forged, and none at all: the next look finds the reply
for payload in None, [], {"conversations": 5}, {"lapsed": {}}, {"more": 1}:
    rows(pool, "SELECT pg_notify('turn_liveness', %s)", json.dumps(payload))
deaf = []
late = Gateway(pool, enqueue, channel="other", every=0.05)
late.listen()
late.stream(conversation, seen[3].reply_id, deaf.append)
gateway.stop(job("m6"))
until(lambda: deaf)
expect("looked", [reply.message_ids for reply in deaf], [["m6"]])
late.close()

# --- nothing more came than was due
terminal(5)
expect("all", [reply.message_ids[0] for reply in seen], ["m1", "m2", "m3", "m4", "m6"])
expect("sent", sent, ["43", "43"])
leave()

# --- a client that comes later gets them at once, with no notification
gateway.listener.close()
again = []
part = gateway.stream(conversation, seen[1].reply_id, again.append)
until(lambda: len(again) == 3)
expect("again", [reply.message_ids[0] for reply in again], ["m3", "m4", "m6"])
part()
expect("streams", gateway.streams, {})
worker.close()
gateway.close()
pool.close()
