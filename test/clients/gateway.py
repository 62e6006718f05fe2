#!/usr/bin/python3
"""The whole gateway side in Python (psycopg 3), and a worker, in one process.

PGHOST and so on name the server. POOL_HOST and POOL_PORT, if given, name a
pooler in transaction mode before it: everything goes through that but LISTEN
and attach_worker, which need a session. Wants a table my_jobs (payload jsonb).
"""
import json
import os
import queue
import threading

import psycopg
from psycopg.types.json import Jsonb

POOL = {"host": os.environ.get("POOL_HOST"), "port": os.environ.get("POOL_PORT")}
conversation = f"tenant-1/python-{os.getpid()}"

# prepare_threshold=None: psycopg prepares what it executes for the sixth time,
# and in a pool the next execution may meet a server that knows nothing of it.
# autocommit: a claim that is not committed is undone by a crash.
db = psycopg.connect(**{k: v for k, v in POOL.items() if v},
                     prepare_threshold=None, autocommit=True)
session = psycopg.connect(autocommit=True)


def call(sql, *args):
    """The one value of a statement."""
    return db.execute(sql, args).fetchone()[0]


def expect(what, got, want):
    if got != want:
        raise SystemExit(f"{what}: {got!r} instead of {want!r}")


def routing(platform):
    return Jsonb({"conversationId": conversation, "platform": platform, "userId": "u1"})


# --- gateway: a message has come. Owed and enqueued together, or neither.
# answered: it has ended already, by a stop that was faster.
def dispatch(message_id, platform):
    with db.transaction():
        armed = call("SELECT turn_liveness.arm_turn(%s, %s, %s)",
                     conversation, message_id, routing(platform))
        if armed != "answered":
            db.execute("INSERT INTO my_jobs VALUES (%s)", [Jsonb({"messageId": message_id})])
    return armed


# --- gateway: the user presses stop, perhaps before the arm is committed
def stop(message_id, platform):
    return call("SELECT turn_liveness.reject_turn(%s, %s, %s, 'Stopped.', 'CANCELLED')",
                conversation, message_id, routing(platform))


# --- worker: every few seconds, a beat that names its turns; 0 means give up
def beat(message_ids):
    return call("SELECT turn_liveness.heartbeat(%s, %s)", conversation, message_ids)


# --- worker: the answer: won, lost or unknown
def commit(message_ids, reply):
    return call("SELECT turn_liveness.commit_terminal_reply(%s, %s, %s)",
                conversation, message_ids, Jsonb(reply))


# --- gateway: what a stream has not seen yet; cursor is its Last-Event-ID
def read(cursor):
    return db.execute("SELECT reply_id, payload FROM turn_liveness.read_replies(%s, %s)",
                      [[conversation], [cursor]]).fetchall()


def ack(reply_ids):
    return call("SELECT turn_liveness.ack_replies('gateway-py', %s)", reply_ids)


# --- gateway: push what no other replica has claimed, and acknowledge it. Claim no more
# than can be sent within claim_timeout (30 s): what is late goes to another replica, too.
def push(send):
    claimed = db.execute("SELECT reply_id, payload FROM turn_liveness.claim_replies"
                         "('gateway-py', platforms => '{slack}', max_replies => 10)").fetchall()
    for reply_id, payload in claimed:
        try:
            send(payload)
            ack([reply_id])
        except OSError as error:
            call("SELECT turn_liveness.release_replies('gateway-py', %s, error => %s)",
                 [reply_id], str(error))


# --- gateway: LISTEN first, then read; a notification says where to look again
def listen(events):
    listener = psycopg.connect(autocommit=True)
    listener.execute("LISTEN turn_liveness")
    events.put({})
    for notify in listener.notifies():
        events.put(json.loads(notify.payload))


events = queue.Queue()
threading.Thread(target=listen, args=[events], daemon=True).start()


def wait():
    """Until something may have come for our conversation; {} means look."""
    while conversation not in events.get(timeout=10).get("conversations", [conversation]):
        pass


wait()
cursor = 0
expect("arm", dispatch("m1", "web"), "armed")

# --- worker: its session's end would be its death, so it must be a real one
pid = session.execute("SELECT turn_liveness.attach_worker(%s)", [conversation]).fetchone()[0]
expect("server process of the session", pid, session.info.backend_pid)
if POOL["host"]:
    with db.transaction():      # one server for both
        pid = call("SELECT turn_liveness.attach_worker('nobody')")
        call("SELECT turn_liveness.detach_worker('nobody')")
    expect("the pooler shows", pid != db.info.backend_pid, True)

for _ in range(12):
    expect("beat", beat(["m1"]), 1)
expect("commit", commit(["m1"], {"content": "42"}), "won")
expect("the same again", commit(["m1"], {"content": "42"}), "won")
expect("another", commit(["m1"], {"content": "43"}), "lost")

# --- gateway: to the stream
while not (replies := read(cursor)):
    wait()
expect("read", [payload["content"] for _, payload in replies], ["42"])
cursor = replies[-1][0]
expect("ack", ack([cursor]), 1)

# --- stopped by the user: the client hears it, and the worker with its next beat
dispatch("m2", "web")
expect("stop", stop("m2", "web"), "won")
expect("beat", beat(["m2"]), 0)
while not (replies := read(cursor)):
    wait()
expect("read", [payload["errorCode"] for _, payload in replies], ["CANCELLED"])

# --- a stop that overtakes its arm
expect("early stop", stop("m4", "web"), "won")
expect("arm after it", dispatch("m4", "web"), "answered")

# --- pushed: one replica alone sends
sent = []
dispatch("m3", "slack")
commit(["m3"], {"content": "42"})
push(sent.append)
expect("sent", [p["content"] for p in sent if p["conversationId"] == conversation], ["42"])
push(lambda payload: expect("sent twice", payload["conversationId"] != conversation, True))

expect("detach", session.execute("SELECT turn_liveness.detach_worker(%s)",
                                 [conversation]).fetchone()[0], True)
