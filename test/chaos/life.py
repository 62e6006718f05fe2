"""What becomes of each turn of a chaos run: the clients and the checker go by it."""
import zlib

# defaults of the server in the run, in seconds (server.py sets them)
ADMISSION, SILENCE, DURATION, RECONNECT, HOLD, CLAIM = 4, 3, 30, 1, 15, 3

DEPLOYMENTS = 60        # of each gateway


def number(text):
    return zlib.crc32(text.encode())


# The life of a turn goes by its name, so that the gateway and the workers agree on it. One of a
# thousand, and how many of them.
KINDS = [("quick", 613), ("update", 80), ("slow", 40), ("silent", 20), ("never", 15), ("suspend", 40),
         ("rollback", 20), ("savepoint", 10), ("prepare", 15), ("dup", 20), ("again", 30), ("fail", 15),
         ("reject", 10), ("discharge", 10), ("too_long", 10), ("take_over", 15), ("pair", 30),
         ("undone", 5), ("provider", 2)]
assert sum(n for _, n in KINDS) == 1000
BY_NUMBER = [kind for kind, n in KINDS for _ in range(n)]


def kind_of(key):
    return BY_NUMBER[number(key) % 1000]


def silence_of(key):
    return (SILENCE, SILENCE, 2, 5)[number("s" + key) % 4]


def rescue_of(key):
    return (0, 0, 3)[number("r" + key) % 3]


def beats_whole(deployment):
    """Its worker beats for the deployment, without names and numbers."""
    return number("b" + deployment) % 20 == 0


def is_attached(deployment):
    return number("a" + deployment) % 5 == 0


def is_pushed(deployment):
    return number("p" + deployment) % 5 == 0


def split(key):
    return key.rsplit("/", 1)


def columns(items, n):
    return [list(column) for column in zip(*items)] if items else [[] for _ in range(n)]
