"""The gateway's side of turn_liveness for Python, to be taken over as it is, with database.py.
README.md beside this file says how to use it.

A job is what your queue carries to a worker: {"deployment", "messageId", "routing"} and whatever
else it wants. enqueue(db, job) puts one into the queue, in the transaction of db.
send(payload, timeout, reply) pushes a reply to its platform.
"""
import json
import threading
import time
import traceback

from database import PROCESS_NAME, Connection, Single, jsonb, rows, transaction, value

PAGE = 100


class Stream:
    def __init__(self, cursor, write):
        self.cursor, self.write = cursor, write


class Gateway:
    """
    pool           may be a pooler in transaction mode
    direct         conninfo of LISTEN, which connects directly
    platforms      those that this gateway pushes to
    name           holds the claims
    claim_timeout  turn_liveness.claim_timeout, in seconds
    generations    a turn that was lost that often has failed
    """

    def __init__(self, pool, enqueue, send=None, platforms=(), direct="", name=PROCESS_NAME, claim_timeout=30,
                 generations=5, channel="turn_liveness", every=60, clock=time.monotonic,
                 report=traceback.print_exception):
        self.pool, self.enqueue, self.send, self.platforms = pool, enqueue, send, list(platforms)
        self.direct, self.name, self.claim_timeout, self.generations = direct, name, claim_timeout, generations
        self.channel, self.every, self.clock, self.report = channel, every, clock, report
        self.lock = threading.Lock()
        self.streams = {}               # of each conversation
        self.changed = set()            # conversations to read
        self.batch = 10
        self.listener = None
        self.feed = Single(self._feed, report)
        self.push = Single(self._push, report)
        self.rescue = Single(self._rescue, report)

    def listen(self):
        """LISTENs, and looks at everything after each connect and each minute."""
        self.listener = Connection(self.direct, self.every, report=self.report, notified=self._notified,
                                   open=lambda db: db.execute(f'LISTEN "{self.channel}"'),
                                   tick=lambda db: db.execute("SELECT") and self.look())

    # Any role may notify: a payload that makes no sense means look, as {} does.
    def _notified(self, payload):
        try:
            self.look(**json.loads(payload))
        except Exception:
            self.look()

    def look(self, conversations=None, platforms=None, lapsed=None):
        everything = conversations is None and platforms is None and lapsed is None
        with self.lock:
            self.changed |= self.streams.keys() & set(self.streams if everything else conversations or ())
            changed = bool(self.changed)
        if changed:
            self.feed()
        if self.platforms and (everything or set(platforms or ()) & set(self.platforms)):
            self.push()
        if everything or lapsed:
            self.rescue()

    def dispatch(self, db, job, admission=None, silence=None, duration=None, rescue=None, again=False):
        """In the caller's transaction: owed and enqueued, or neither. answered: it has ended, by a
        stop that was faster. pending: it is owed already, and its job was enqueued then (a message
        that came twice, a COMMIT whose answer was lost); the savepoint takes the hand-over back.
        With again, it goes to another worker, wherever the first one is: the repair of a message
        whose end was not seen, after a failover that may have lost commits."""
        db.execute("SAVEPOINT dispatch")
        armed = db.execute("SELECT turn_liveness.arm_turn(%s, %s, %s, %s, %s, %s, %s)",
                           [job["deployment"], job["messageId"], jsonb(job.get("routing", {})),
                            admission, silence, duration, rescue]).fetchone()[0]
        if armed == "armed" or again and armed == "pending":
            self.enqueue(db, job)
        else:
            db.execute("ROLLBACK TO SAVEPOINT dispatch")
        db.execute("RELEASE SAVEPOINT dispatch")
        return armed

    def stop(self, job, text="Stopped.", code="CANCELLED"):
        """By the user. It holds also when it overtakes the arm, which then says answered."""
        return value(self.pool, "SELECT turn_liveness.reject_turn(%s, %s, %s, %s, %s)",
                     job["deployment"], job["messageId"], jsonb(job.get("routing", {})), text, code)

    def resume(self, db, job):
        """In the caller's transaction: the human has answered, the turn goes on with the next worker."""
        resumed = db.execute("SELECT turn_liveness.resume_turn(%s, %s)",
                             [job["deployment"], job["messageId"]]).fetchone()[0]
        if resumed:
            self.enqueue(db, job)
        return resumed

    def stream(self, conversation, cursor, write):
        """Gets each reply and update past its cursor (its Last-Event-ID), each once, in order. Call
        what it returns when the client has gone."""
        stream = Stream(int(cursor), write)
        with self.lock:
            self.streams.setdefault(conversation, []).append(stream)
        self.look(conversations=[conversation])

        def leave():
            with self.lock:
                self.streams[conversation].remove(stream)
                if not self.streams[conversation]:
                    del self.streams[conversation]
        return leave

    def _feed(self):
        while True:
            with self.lock:
                cursors = {name: min(s.cursor for s in self.streams[name])
                           for name in self.changed if name in self.streams}
                self.changed.clear()
            if not cursors:
                return
            try:
                replies = rows(self.pool, "SELECT * FROM turn_liveness.read_replies(%s, %s, %s)",
                               list(cursors), list(cursors.values()), PAGE)
                for reply in replies:
                    self._write(reply)
                if replies:
                    self._ack(replies)
            except Exception:
                self.look(conversations=cursors)
                raise
            if len(replies) == PAGE:
                self.look(conversations=cursors)

    def _write(self, reply):
        with self.lock:
            streams = list(self.streams.get(reply.conversation_id, ()))
        for stream in streams:
            if reply.reply_id > stream.cursor:
                stream.cursor = reply.reply_id
                try:
                    stream.write(reply)
                except Exception as error:
                    self.report(error)

    # Claims as many as it can send in a quarter of the claim's time, and gives back what it has
    # not begun in half of it: later, another replica would send the same.
    def _push(self):
        while True:
            begin = self.clock()
            replies = rows(self.pool, "SELECT * FROM turn_liveness.claim_replies"
                           "(%s, platforms => %s, max_replies => %s)", self.name, self.platforms, self.batch)
            if not replies:
                return
            sent = 0
            while sent < len(replies) and self.clock() - begin < self.claim_timeout / 2:
                self._deliver(replies[sent], begin + self.claim_timeout * 0.9 - self.clock())
                sent += 1
            if sent < len(replies):
                self._release(replies[sent:], "0", None)
            fits = self.claim_timeout / 4 * sent / max(self.clock() - begin, 0.001)
            self.batch = max(1, min(PAGE, int(fits)))

    def _deliver(self, reply, timeout):
        try:
            self.send(reply.payload, timeout, reply)
        except Exception as error:
            self._release([reply], None, str(error))
        else:
            self._ack([reply])

    def _ack(self, replies):
        value(self.pool, "SELECT turn_liveness.ack_replies(%s, %s)", self.name, [r.reply_id for r in replies])

    def _release(self, replies, delay, error):
        value(self.pool, "SELECT turn_liveness.release_replies(%s, %s, %s, %s)",
              self.name, [r.reply_id for r in replies], delay, error)

    # Turns that lost their worker, each taken by one gateway, in one transaction with its new job.
    def _rescue(self):
        def take(db):
            turns = db.execute("SELECT * FROM turn_liveness.rescue_turns(%s)", [PAGE]).fetchall()
            for turn in turns:
                if turn.generation <= self.generations:
                    self.enqueue(db, {"deployment": turn.deployment, "messageId": turn.message_id,
                                      "routing": turn.routing})
                else:
                    db.execute("SELECT turn_liveness.fail_turn(%s, %s, %s, %s)",
                               [turn.deployment, turn.message_id, "The worker was lost too often.", turn.error_code])
            return len(turns)
        while transaction(self.pool, take) == PAGE:
            pass

    def close(self):
        for part in filter(None, (self.listener, self.feed, self.push, self.rescue)):
            part.close()
