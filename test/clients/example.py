"""A gateway and a worker with gateway.py and worker.py, in one process: a message comes, its client
gets the answer. Wants a table my_jobs (payload jsonb); PGHOST and so on name the server, POOL_HOST
and POOL_PORT, if given, a pooler in transaction mode before it.
"""
import json
import os
import queue
import urllib.request

from psycopg.types.json import Jsonb

from database import create_pool, rows, transaction
from gateway import Gateway
from worker import Worker

POOLER = {"host": os.environ.get("POOL_HOST"), "port": os.environ.get("POOL_PORT")}
pool = create_pool(" ".join(f"{k}={v}" for k, v in POOLER.items() if v))


# --- gateway: one for each process. LISTEN has a connection of its own, past the pooler.
def enqueue(db, job):
    db.execute("INSERT INTO my_jobs VALUES (%s)", [Jsonb(job)])


def send(payload, timeout, reply):
    urllib.request.urlopen("https://slack.example/", json.dumps(payload).encode(), timeout)


gateway = Gateway(pool, enqueue, send, platforms=["slack"], direct="application_name=gateway")
gateway.listen()


# a message has come; your own rows for it go into the same transaction
def post(conversation, message_id):
    job = {"deployment": conversation, "messageId": message_id,
           "routing": {"conversationId": conversation, "platform": "web", "userId": "u1"}}
    return transaction(pool, lambda db: gateway.dispatch(db, job, rescue="5 min"))


# a client has come, or come back with its Last-Event-ID; call what this returns when it has gone
def open_stream(conversation, last_event_id, write):
    return gateway.stream(conversation, last_event_id, lambda reply: write(
        f"id: {reply.reply_id}\nevent: {reply.outcome}\ndata: {json.dumps(reply.payload)}\n\n"))


# --- worker: one for each process, however many turns it is on, each in a thread. Its beats have a
# connection of their own.
worker = Worker(pool, direct="application_name=worker", attach=True)


# turn.check() raises when it is to be given up: the user has stopped it, or another worker has it
def agent(turn):
    turn.update({"status": "thinking"})
    turn.check()
    return {"content": f"the answer to {turn.message_id}"}


# --- once through
conversation = f"tenant-1/python-{os.getpid()}"
post(conversation, "m1")
jobs = rows(pool, "DELETE FROM my_jobs WHERE payload->>'deployment' = %s RETURNING payload", conversation)
print(worker.run(jobs[0].payload, agent))
events = queue.Queue()
open_stream(conversation, "0", events.put)
while "answer to" not in (event := events.get(timeout=180)):
    print(event)
print(event)
worker.close()      # returns the jobs that are left: put them back into the queue
gateway.close()
pool.close()
