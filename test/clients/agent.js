// A worker: takes tasks that tasks.js has enqueued, and runs a tool for each.
//
// What it does in the name of a task carries the generation under which it took it. Once the
// task was handed over, cancelled or failed, nothing of this process counts any more, and its
// next beat says so.
'use strict';

const { Connection, processName, repeat, single, transaction, value } = require('./database.js');
const { address, complain, pool } = require('./tasks.js');

const BEAT = 1000;                      // a third of the turn deadline, or less
const held = new Map();                 // what this process works on, by id

// --- the session: beats and attach_worker wait for no other query, and where this process ends,
// its session does

let session;

const attend = (look) => new Connection({
  options: { application_name: processName },
  every: BEAT,
  report: complain,
  // A lost session is no death if each task is attached again within reconnect_window (2 s).
  open: async (db) => {
    db.on('notification', look);
    await db.query('LISTEN task_jobs');
    for (const id of held.keys()) await attach(db, 'attach_worker', id);
  },
  tick: (db) => {
    look();
    return beat(db);
  },
});

const attach = (db, verb, id) => db.query(`SELECT turn_liveness.${verb}($1)`, [address(id)]);

// One call for all of them. It returns those that are not ours any more.
async function beat(db) {
  const tasks = [...held.values()];
  const { rows: lost } = await db.query(
    'SELECT message_id FROM turn_liveness.heartbeats($1, $2, $3)',
    [tasks.map((task) => address(task.id)), tasks.map((task) => task.id),
      tasks.map((task) => task.generation)]);
  const ids = new Set(lost.map((row) => row.message_id));
  for (const { id, gone } of tasks) if (ids.has(id)) gone.abort();
}

// --- one task

// The job leaves the queue and the turn is started in one transaction. A job that the queue
// delivers twice, or whose task has ended, starts nothing: start_turn returns NULL.
const take = () => transaction(pool, async (db) => {
  const { rows: [job] } = await db.query(`
    DELETE FROM task_jobs WHERE seq = (
      SELECT seq FROM task_jobs ORDER BY seq FOR UPDATE SKIP LOCKED LIMIT 1)
    RETURNING id`);
  if (!job) return null;
  const { id } = job;
  const generation = await value(db, 'SELECT turn_liveness.start_turn($1, $2, $3)',
    address(id), id, processName);
  const { rows: [{ request, answers }] } = await db.query(
    'SELECT request, answers FROM tasks WHERE id = $1', [id]);
  return { id, generation, request, answers, gone: new AbortController() };
});

// Told twice where the first time was committed and its answer was lost.
const progress = ({ id, generation }, text) => repeat(() => value(pool,
  'SELECT turn_liveness.post_update($1, $2, $3, $4)', address(id), id, { text }, generation));

// won, also when it is repeated; lost: it has ended; stale: another worker has it
const commit = ({ id, generation }, reply) => repeat(() => value(pool,
  'SELECT turn_liveness.commit_terminal_reply($1, $2, $3, $4)',
  address(id), [id], reply, [generation]));

// The question reaches the client if and only if the task waits for the answer. From here on
// this process has no part in it: the answer enqueues it again, for any worker.
const ask = ({ id, generation }, questions) => transaction(pool, async (db) => {
  await db.query('SELECT turn_liveness.post_update($1, $2, $3, $4)',
    [address(id), id, { questions }, generation]);
  await db.query("SELECT turn_liveness.suspend_turn($1, $2, '1 hour', 'waits for the user', $3)",
    [address(id), id, generation]);
});

async function run(task, tools) {
  const { id, request, answers, gone } = task;
  held.get(id)?.gone.abort();           // handed over to this process again
  held.set(id, task);
  await attach(session.db, 'attach_worker', id).catch(complain);        // open() will
  try {
    const result = await tools[request.name](request.arguments ?? {}, {
      answers, signal: gone.signal, progress: (text) => progress(task, text),
    });
    if (result.questions) await ask(task, result.questions);
    else console.log(`${await commit(task, result)} ${id}`);
  } catch (error) {
    if (gone.signal.aborted) console.log(`abandoned ${id}`);
    else await commit(task, { error: error.message, errorCode: 'AGENT_ERROR' });
  }
  if (held.get(id) !== task) return;    // taken again since, after a question
  held.delete(id);
  await attach(session.db, 'detach_worker', id).catch(complain);        // attached no more
}

// --- the process

function main(tools) {
  const look = single(async () => {     // with each beat, and when there is a job
    for (let task = await take(); task; task = await take()) {
      if (task.generation !== null) run(task, tools);
    }
  }, complain);
  session = attend(look);
  console.log(`ready ${processName}`);
}

module.exports = { main };
