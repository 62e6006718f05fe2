// The tasks of a gateway, kept by turn_liveness: what a2a.mjs and mcp.mjs have in common.
//
// A task is one turn of a deployment and a conversation of its own, so that its session's end,
// its beats and its cursor are its own. The table "tasks" holds what the protocols add: the
// request, the answers of the user, the webhooks. PGHOST and so on name the server.
'use strict';

const { randomUUID } = require('node:crypto');
const { EventEmitter, once } = require('node:events');
const { Connection, createPool, repeat, transaction, value } = require('./database.js');

const complain = (error) => console.error(error.message);
const pool = createPool({}, complain);

const rows = async (sql, ...args) => (await pool.query(sql, args)).rows;

const setup = () => pool.query(`
  CREATE TABLE IF NOT EXISTS tasks (
    id text PRIMARY KEY,
    context text NOT NULL,
    request jsonb NOT NULL,
    answers jsonb NOT NULL DEFAULT '{}',
    hooks jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now());
  CREATE INDEX IF NOT EXISTS tasks_context ON tasks (context, created_at);
  CREATE TABLE IF NOT EXISTS task_jobs (seq bigserial PRIMARY KEY, id text NOT NULL)`);

// Both deployment and conversation; the message id is the task's id.
const address = (id) => `task/${id}`;

async function enqueue(db, id) {
  await db.query('INSERT INTO task_jobs (id) VALUES ($1)', [id]);
  await db.query('NOTIFY task_jobs');
}

// --- the life of a task

// Owed and enqueued together, or neither. The client learns the id after the commit: what
// MCP demands ("durably created"), and why a cancel cannot overtake the arm.
const create = (platform, request, more) => insert(request, more, async (db, id) => {
  await db.query('SELECT turn_liveness.arm_turn($1, $2, $3)',
    [address(id), id, routing(platform, id)]);
  await enqueue(db, id);
});

// A request that no worker shall see: its one reply is the refusal.
const reject = (platform, request, reason, more) => insert(request, more,
  (db, id) => db.query("SELECT turn_liveness.reject_turn($1, $2, $3, $4, 'REJECTED')",
    [address(id), id, routing(platform, id), reason]));

const routing = (platform, id) => ({ conversationId: address(id), platform });

// Repeated where the answer of the COMMIT was lost: then the task is there already.
function insert(request, { context = '', hooks = {} } = {}, begin) {
  const id = randomUUID();
  return transaction(pool, async (db) => {
    const { rowCount } = await db.query(`INSERT INTO tasks (id, context, request, hooks)
      VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`, [id, context, request, hooks]);
    if (rowCount > 0) await begin(db, id);
    return get(id, db);
  });
}

// The task with its turn, its updates, and the cursor that goes with them: what comes past
// that cursor is not in it yet. Undefined: there is none, or it is past retention.
async function get(id, db = pool) {
  const { rows: [task] } = await db.query(`
    SELECT t.*, turn.*, reply.*
    FROM tasks t, turn_liveness.get_turn($1, t.id) turn, LATERAL (
      SELECT coalesce(max(reply_id), 0)::text AS cursor, coalesce(jsonb_agg(
          jsonb_build_object('reply_id', reply_id::text, 'payload', payload) ORDER BY reply_id)
        FILTER (WHERE outcome = 'update'), '[]') AS updates
      FROM turn_liveness.read_replies(ARRAY[$1], NULL, 10000)) reply
    WHERE t.id = $2`, [address(id), id]);
  return task;
}

const ended = (task) => ['answer', 'error', 'discharged'].includes(task.state);

// The questions that a suspended task waits for, less what has been answered. A task asks under
// a key once.
const questions = (task) => task.state !== 'suspended' ? {} : Object.fromEntries(
  Object.entries(task.last_update.questions).filter(([key]) => !(key in task.answers)));

// The user answers some of the questions, or all; with the last answer the task goes on. The
// lock on its row makes of two answers at once a first and a second. Returns the task;
// undefined: it did not wait, or there is none.
const answer = (id, answersOf) => transaction(pool, async (db) => {
  await db.query('SELECT FROM tasks WHERE id = $1 FOR UPDATE', [id]);
  const task = await get(id, db);
  const open = task ? Object.keys(questions(task)) : [];
  if (open.length === 0) return undefined;
  const given = Object.entries(answersOf(open)).filter(([key]) => open.includes(key));
  await db.query('UPDATE tasks SET answers = answers || $2 WHERE id = $1',
    [id, Object.fromEntries(given)]);
  if (given.length === open.length) {
    const resumed = await value(db, 'SELECT turn_liveness.resume_turn($1, $2)', address(id), id);
    if (!resumed) return undefined;
    await enqueue(db, id);
  }
  return get(id, db);
});

// won, lost (it has ended before), or unknown. The worker hears it with its next beat.
const cancel = (id) => value(pool,
  "SELECT turn_liveness.fail_turn($1, $2, 'Cancelled by the client.', 'CANCELLED')",
  address(id), id);

// --- streams

// One LISTEN for the whole process. It says only where to look. Each connection begins with a
// look at everything, and each minute does: what was missed is found by its cursor.
const events = new EventEmitter().setMaxListeners(0);

// Any role may forge a notification: what is not as it should be means look, as {} does.
function look(payload) {
  let names = ['*'];
  try {
    const { conversations = ['*'], platforms = [] } = JSON.parse(payload);
    names = [...conversations, ...platforms];
  } catch (error) {
    complain(error);
  }
  for (const name of names) events.emit(`at ${name}`);
}

const listen = () => new Connection({
  every: 60_000,
  report: complain,
  open: (db) => {
    db.on('notification', ({ payload }) => look(payload));
    return db.query('LISTEN turn_liveness');
  },
  tick: (db) => db.query('SELECT').then(() => look('{}')),
});

// Resolves when there may be something new under that name.
function news(name) {
  const over = new AbortController();
  const at = (place) => once(events, `at ${place}`, { signal: over.signal });
  const first = Promise.race([at(name), at('*')]);
  first.catch(() => {}).finally(() => over.abort());
  return { first, forget: () => over.abort() };
}

// What comes past the cursor, in order and up to the terminal reply, on any replica.
async function* follow(id, cursor) {
  for (;;) {
    const { first, forget } = news(address(id));        // before the look, so that none is missed
    try {
      const replies = await repeat(() => rows('SELECT * FROM turn_liveness.read_replies($1, $2)',
        [address(id)], [cursor]));
      for (const reply of replies) {
        cursor = reply.reply_id;
        yield reply;
        if (reply.outcome !== 'update') return;
      }
      if (replies.length === 0) await first;
    } finally {
      forget();
    }
  }
}

// --- pushes

// Sends what no other replica has claimed, and acknowledges it. Ten at a time, for what is not
// acknowledged within claim_timeout (30 s) goes to another replica, too. Two replicas, or a
// second try, may turn the order of a task's messages.
async function push(gateway, platform, send) {
  for (;;) {
    const { first, forget } = news(platform);
    const claimed = await repeat(() => rows(
      'SELECT * FROM turn_liveness.claim_replies($1, platforms => $2, max_replies => 10)',
      gateway, [platform])).catch((error) => { complain(error); return []; });
    await Promise.all(claimed.map((reply) => send(reply)
      .then(() => rows('SELECT turn_liveness.ack_replies($1, $2)', gateway, [reply.reply_id]))
      .catch((error) => rows('SELECT turn_liveness.release_replies($1, $2, error => $3)',
        gateway, [reply.reply_id], error.message))
      .catch(complain)));                               // the claim runs out, and it is sent again
    if (claimed.length === 0) await first;
    forget();
  }
}

module.exports = {
  address, answer, cancel, complain, create, ended, follow, get, listen, pool, push, questions,
  reject, rows, setup,
};
