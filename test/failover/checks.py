"""Compares what the clients were told (load.py) with what the database holds at the end."""
import collections

from load import HANDED, MUTE, PUSHED, RESCUED, STOPPED, SUSPENDED

passed = failed = 0


def check(good, what, *examples):
    """One line of TAP."""
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print(f"{'ok' if good else 'not ok'} {passed + failed} - {what}", flush=True)
    for example in [] if good else list(examples)[:20]:
        print(f"#   {example}", flush=True)


def none(what, examples):
    examples = list(examples)
    check(not examples, f"{what}: {len(examples)}", *examples)


class Story:
    def __init__(self, events, replies):
        self.events = events
        self.of = collections.defaultdict(list)         # events by what they are
        for event in events:
            self.of[event["what"]].append(event)
        self.sent = {e["n"]: e for e in self.of["sent"]}
        self.accepted = {e["n"] for e in self.of["accepted"]}
        # an id may have been given out again: it is another reply then
        self.kept = {(r.reply_id, int(n)) for r in replies for n in r.message_ids}
        self.ends = collections.defaultdict(list)       # of each message, in the database
        for reply in replies:
            if reply.outcome != "update":
                for n in reply.message_ids:
                    self.ends[int(n)].append(reply)
        self.heard = collections.defaultdict(list)      # of each message, by its client
        for event in self.of["heard"]:
            if event["outcome"] != "update":
                self.heard[event["n"]].append(event)
        self.lost = [e for e in self.of["heard"] if (e["reply"], e["n"]) not in self.kept]

    def kind(self, n):
        return self.sent[n]["kind"]

    def deaf(self):
        """Replies of the database that the stream, or the platform, of their conversation never got."""
        return self.kept - {(e["reply"], e["n"]) for e in self.of["heard"]}

    def backwards(self):
        """Streams hear ids in their order, each once."""
        last = collections.defaultdict(int)
        for event in self.of["heard"]:
            if self.kind(event["n"]) != PUSHED:
                if event["reply"] <= last[event["conversation"]]:
                    yield event
                last[event["conversation"]] = event["reply"]

    def won_and_lost(self):
        """Answers that were told won, and are not what the database holds."""
        for event in self.of["verdict"]:
            kept = [reply.payload.get("content") for reply in self.ends[event["n"]]]
            if event["verdict"] == "won" and event["content"] not in kept:
                yield event

    def wrong_ends(self):
        """Ends that are not what became of the message: an error although its worker lived."""
        for n, replies in self.ends.items():
            for reply in replies:
                kind, code = self.kind(n), reply.payload.get("errorCode")
                fine = {MUTE: code in ("WORKER_UNRESPONSIVE", "WORKER_NEVER_STARTED"),
                        STOPPED: code in (None, "CANCELLED")}.get(kind, code is None)
                if not fine:
                    yield reply


def common(story):
    print(f"# {len(story.accepted)} turns, {len(story.of['error'])} errors of connections,",
          "sqlstates", dict(collections.Counter(e["sqlstate"] or e["type"] for e in story.of["error"])))
    print("# verdicts", dict(collections.Counter(e["verdict"] for e in story.of["verdict"])))
    check(len(story.accepted) > 100, "there was something to lose")
    none("two terminal replies in the database", (n for n, replies in story.ends.items() if len(replies) > 1))
    none("messages whose client heard no end", (n for n in story.accepted if not story.heard[n]))
    none("deaf: replies that their stream or platform never got", story.deaf())
    none("ids that came to a stream out of order, or twice", story.backwards())
    none("errors that are not worth repeating", (e for e in story.of["error"] if not e["repeated"]))


def synchronous(story):
    common(story)
    none("accepted and without an end in the database", (n for n in story.accepted if not story.ends[n]))
    none("heard and not in the database", story.lost)
    none("clients that heard two ends", (n for n, heard in story.heard.items() if len({e["reply"] for e in heard}) > 1))
    none("told won, and not in the database", story.won_and_lost())
    none("false failures", story.wrong_ends())
    none("answers of a worker whose turn had been handed over",
         (r for n, replies in story.ends.items() for r in replies
          if story.kind(n) in (HANDED, RESCUED, SUSPENDED) and r.payload.get("content", "").endswith(" by 1")))
    asked = {e["n"] for e in story.of["heard"] if e["outcome"] == "update"}
    none("questions that were not asked", (n for n in story.accepted - asked if story.kind(n) == SUSPENDED))
    pushes = set()
    again = []
    for event in story.of["pushed"]:
        if event["reply"] in pushes and event["attempt"] == 1:
            again.append(event)
        pushes.add(event["reply"])
    none("pushed twice and not marked as such", again)


def asynchronous(story, blows):
    """What the README says is lost, and no more: what was told between a cut and the new primary."""
    common(story)

    def in_air(event):
        return any(blow["cut"] <= event["t"] <= blow["back"] for blow in blows)
    lost_wins = list(story.won_and_lost())
    repaired = [e for e in story.of["accepted"] if e["again"] and e["armed"] == "armed"]
    seen = {e["n"] for e in story.lost if e["outcome"] != "update"}
    print(f"# lost: {len(story.lost)} replies that were heard, {len(lost_wins)} answers that were told won,"
          f" {len(repaired)} arms, which were repaired")
    check(story.lost and lost_wins and repaired, "something was lost")
    none("heard, and lost at another time than in the air", (e for e in story.lost if not in_air(e)))
    none("told won, and lost at another time", (e for e in lost_wins if not in_air(e)))
    none("without an end in the database, which its client has not seen",
         (n for n in story.accepted if not story.ends[n] and n not in seen))
    none("clients that heard two ends, none of which was lost",
         (n for n, heard in story.heard.items() if len({e["reply"] for e in heard}) > 1 and n not in seen))
    none("errors of living workers for clients that had not seen an end",
         (r for r in story.wrong_ends() if not any(int(n) in seen for n in r.message_ids)))
