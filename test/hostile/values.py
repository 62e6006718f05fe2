"""Hostile values: SQL expressions of every type that our functions take.

A call gets somewhere only if most of its arguments are ordinary, so most of them
are, from few names that all sessions share. The rest is what no user sends.
"""

from lists import (
    BIGINTS,
    COLUMNS,
    INTEGERS,
    INTERVALS,
    INT_ARRAYS,
    JSONS,
    JSONS_BIG,
    KEYS,
    MEMBERS,
    ROLES,
    TEXTS,
    TEXT_ARRAYS,
    TEXT_ARRAYS_BIG,
    TIMES,
    TIDS,
)


class Values:
    def __init__(self, rng):
        self.rng = rng
        self.n = 0  # statements so far: the names move on with it
        self.length = 1  # of the latest list of ids, for the list beside it
        self.hostility = 0.12

    def chance(self, p):
        return self.rng.random() < p

    def pick(self, choices):
        return choices[int(self.rng.random() * len(choices))]

    def deployment(self):
        if self.chance(0.03):
            return f"alien{self.rng.randrange(4)}"
        return f"d{self.rng.randrange(6)}"

    def message(self):
        base = (self.n // 100) * 4 if self.chance(0.7) else 0
        return f"m{base + self.rng.randrange(8)}"

    def is_hostile(self):
        return self.chance(self.hostility)

    def of(self, kind, name=""):
        """An SQL expression of the type, for the argument of that name."""
        return getattr(
            self, "v_" + kind.replace(" ", "_").replace("[]", "_array").replace(".", "_")
        )(name)

    def cast(self, kind, name=""):
        return f"({self.of(kind, name)})::{kind}"

    def v_text(self, name):
        if self.is_hostile():
            return self.pick(TEXTS)
        if name == "message_id":
            return f"'{self.message()}'"
        if name == "deployment":
            return f"'{self.deployment()}'"
        if name == "gateway":
            return f"'g{self.rng.randrange(3)}'"
        if name == "verb":
            return self.pick(("'GRANT'", "'REVOKE'"))
        if name == "kind":
            return self.pick(("'gateway'", "'worker'", "'monitor'"))
        return self.pick(("'x'", "NULL", "'CODE'", "'some text'"))

    def v_text_array(self, name):
        if self.is_hostile():
            return self.pick(TEXT_ARRAYS_BIG if self.chance(0.02) else TEXT_ARRAYS)
        if name == "platforms":
            return self.pick(("NULL", "'{web,slack}'", "'{api}'", "'{api,web,slack}'"))
        self.length = self.pick((1, 1, 1, 2, 3, 7))
        if name == "conversations" and self.chance(0.5):
            names = [f"c{self.rng.randrange(3)}" for _ in range(self.length)]
        elif name == "message_ids":
            if self.chance(0.1):
                return "NULL"
            names = [self.message() for _ in range(self.length)]
        else:
            names = [self.deployment() for _ in range(self.length)]
        return "'{" + ",".join(names) + "}'"

    def list_of(self, hostile, one, null):
        if self.is_hostile():
            return self.pick(hostile)
        if self.chance(null):
            return "NULL"
        return "'{" + ",".join(one() for _ in range(self.length)) + "}'"

    def v_integer_array(self, name):
        return self.list_of(INT_ARRAYS, lambda: self.pick(("1", "1", "2", "3", "NULL")), 0.5)

    def v_bigint_array(self, name):
        if name == "reply_ids" and self.chance(0.5):
            return self.pick(
                (
                    f"ARRAY(SELECT reply_id FROM turn_liveness.claim_replies('g{self.rng.randrange(3)}',"
                    f" {self.v_text_array('conversations')}, '{{api,web}}', 3))",
                    "ARRAY(SELECT reply_id FROM turn_liveness.read_replies('{d0,d1,d2,c0,c1,c2}', NULL, 5))",
                    "ARRAY(SELECT reply_id FROM turn_liveness.delivery ORDER BY random() LIMIT 3)",
                )
            )
        return self.list_of(INT_ARRAYS, lambda: str(self.rng.randrange(1 + 2 * self.n)), 0.3)

    def v_integer(self, name):
        if self.is_hostile():
            return self.pick(INTEGERS)
        if name.startswith("max_"):
            return self.pick(("1", "2", "10", "100", "NULL"))
        return self.pick(("1", "1", "2", "3", "NULL"))

    def v_bigint(self, name):
        if self.is_hostile():
            return self.pick(BIGINTS)
        if self.chance(0.5):
            return "(SELECT reply_id FROM turn_liveness.delivery WHERE NOT is_open AND delivered_at IS NULL LIMIT 1)"
        return str(self.rng.randrange(1 + 2 * self.n))

    def v_interval(self, name):
        if self.is_hostile():
            return self.pick(INTERVALS)
        return self.pick(("NULL", "NULL", "'10 s'", "'1 s'", "'50 ms'", "'200 ms'", "'2 min'"))

    def v_boolean(self, name):
        return self.pick(("NULL", "true", "false", "true"))

    def v_timestamp_with_time_zone(self, name):
        return self.pick(TIMES)

    def v_tid(self, name):
        return self.pick(TIDS)

    def v_regrole(self, name):
        if self.is_hostile():
            return self.pick(
                ("NULL", "0", "4294967295", "'-'", "'postgres'", "'pg_monitor'", "10")
            )
        return f"'{self.pick(ROLES)}'"

    def v_jsonb(self, name):
        if self.is_hostile():
            if self.chance(0.02):
                return self.pick(JSONS_BIG)
            if self.chance(0.03):
                return self.deep()
            return self.pick(JSONS)
        members = (
            [f'"{self.pick(KEYS)}": {self.pick(MEMBERS)}' for _ in range(self.pick((0, 0, 1, 2)))]
            if self.chance(0.3)
            else []
        )
        if name == "routing":
            if self.chance(0.5):
                members.append(f'"conversationId": "c{self.rng.randrange(3)}"')
            if self.chance(0.5):
                members.append(f'"platform": "{self.pick(("web", "slack"))}"')
        elif self.chance(0.5):
            members.append(f'"content": "{self.rng.randrange(4)}"')
        return "'{" + ", ".join(members) + "}'"

    def deep(self):
        """Up to 10,000 levels: of which jsonb takes some thousand, by the stack's depth."""
        levels = self.pick((10, 100, 1000, 2000, 4000, 6000, 10000))
        opening, closing = self.pick((('{"a":', "}"), ("[", "]"), ('[{"error":', "}]")))
        middle = f"repeat('{opening}', {levels}) || '1' || repeat('{closing}', {levels})"
        return f"""('{{"x": ' || {middle} || '}}')::jsonb"""

    def turn_members(self, how_many):
        names = self.rng.sample(sorted(COLUMNS), how_many)
        return ", ".join(f'"{name}": {self.pick(COLUMNS[name])}' for name in names)

    def v_turn_liveness_turn(self, name):
        return self.pick(
            (
                "NULL",
                "ROW()",
                "(SELECT t FROM turn_liveness.turn t ORDER BY random() LIMIT 1)",
                "(SELECT t FROM turn_liveness.turn t WHERE outcome IS NULL LIMIT 1)",
                "jsonb_populate_record(NULL::turn_liveness.turn, '{%s}')" % self.turn_members(8),
                "(SELECT jsonb_populate_record(t, '{%s}') FROM turn_liveness.turn t"
                " WHERE outcome IS NULL LIMIT 1)" % self.turn_members(2),
            )
        )

    def alien_row(self):
        """A turn that another wrote: an ordinary one but for one or two columns."""
        now = '"now"'
        row = (
            f'"deployment": "alien{self.rng.randrange(4)}", "message_id": "{self.message()}", "epoch": 0,'
            f' "begun": {now}, "armed": {now}, "next_check": {now}, "armed_at": {now}, "generation": 1,'
            ' "admission_ms": 1000, "silence_ms": 1000, "duration_ms": 60000, "rescue_ms": 0,'
            f' "conversation_id": "alien{self.rng.randrange(4)}", "routing": {{}}, '
        )
        return row + self.turn_members(self.pick((1, 1, 2, 4)))

    def setting(self, name, vartype, low, high):
        if vartype == "bool":
            value = self.pick(("on", "off", "'x'", "NULL"))
        elif vartype == "integer":
            value = self.pick(
                (low, high, "0", "1", "-1", "100", "'1 ms'", "'1 d'", "99999999999")
            )
        else:
            value = self.pick(("''", "'x'", "'%s'", "E'\\u0001'", "'" + "n" * 64 + "'"))
        return f"{name} = {value}"
