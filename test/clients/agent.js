// A worker: takes tasks that tasks.js has enqueued, and runs a tool for each.
//
// What it does in the name of a task carries the generation under which it took it. Once the
// task was handed over, cancelled or failed, nothing of this process counts any more, and its
// next beat says so.
'use strict';

const { setTimeout: wait } = require('node:timers/promises');
const { Client } = require('pg');
const { address, complain, insist, pool, transaction, value } = require('./tasks.js');

const BEAT = 1000;                      // a third of the turn deadline, or less
const worker = `agent-${process.pid}`;
const held = new Map();                 // what this process works on, by id

// --- the session: beats and attach_worker wait for no other query, and where this process ends,
// its session does

let session;

async function attend(look) {
  for (;;) {
    session = new Client({ keepAlive: true, application_name: worker });
    const gone = new Promise((resolve) => { session.once('end', resolve); });
    session.on('error', complain);
    session.on('notification', look);
    try {
      await session.connect();
      await session.query('LISTEN task_jobs');
      // A lost session is no death if each task is attached again within reconnect_window (2 s).
      for (const id of held.keys()) await attach('attach_worker', id);
      for (let alive = true; alive; alive = await Promise.race([gone, wait(BEAT, true)])) {
        look();
        await beat();
      }
    } catch (error) {
      complain(error);
      session.end().catch(() => {});
    }
    await wait(200);
  }
}

const attach = (verb, id) => session.query(`SELECT turn_liveness.${verb}($1)`, [address(id)]);

// One call for all of them. It returns those that are not ours any more.
async function beat() {
  const tasks = [...held.values()];
  const { rows: lost } = await session.query(
    'SELECT message_id FROM turn_liveness.heartbeats($1, $2, $3)',
    [tasks.map((task) => address(task.id)), tasks.map((task) => task.id),
      tasks.map((task) => task.generation)]);
  const ids = new Set(lost.map((row) => row.message_id));
  for (const { id, gone } of tasks) if (ids.has(id)) gone.abort();
}

// --- one task

// The job leaves the queue and the turn is started in one transaction. A job that the queue
// delivers twice, or whose task has ended, starts nothing: start_turn returns NULL.
const take = () => transaction(async (db) => {
  const { rows: [job] } = await db.query(`
    DELETE FROM task_jobs WHERE seq = (
      SELECT seq FROM task_jobs ORDER BY seq FOR UPDATE SKIP LOCKED LIMIT 1)
    RETURNING id`);
  if (!job) return null;
  const { id } = job;
  const generation = await value(db, 'SELECT turn_liveness.start_turn($1, $2, $3)',
    address(id), id, worker);
  const { rows: [{ request, answers }] } = await db.query(
    'SELECT request, answers FROM tasks WHERE id = $1', [id]);
  return { id, generation, request, answers, gone: new AbortController() };
});

// Told twice where the first time was committed and its answer was lost.
const progress = ({ id, generation }, text) => insist(() => value(pool,
  'SELECT turn_liveness.post_update($1, $2, $3, $4)', address(id), id, { text }, generation));

// won, also when it is repeated; lost: it has ended; stale: another worker has it
const commit = ({ id, generation }, reply) => insist(() => value(pool,
  'SELECT turn_liveness.commit_terminal_reply($1, $2, $3, $4)',
  address(id), [id], reply, [generation]));

// The question reaches the client if and only if the task waits for the answer. From here on
// this process has no part in it: the answer enqueues it again, for any worker.
const ask = ({ id, generation }, questions) => insist(() => transaction(async (db) => {
  await db.query('SELECT turn_liveness.post_update($1, $2, $3, $4)',
    [address(id), id, { questions }, generation]);
  await db.query("SELECT turn_liveness.suspend_turn($1, $2, '1 hour', 'waits for the user', $3)",
    [address(id), id, generation]);
}));

async function run(task, tools) {
  const { id, request, answers, gone } = task;
  held.get(id)?.gone.abort();           // handed over to this process again
  held.set(id, task);
  await attach('attach_worker', id).catch(complain);       // attend() will
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
  await attach('detach_worker', id).catch(complain);       // lost, and attached no more
}

// --- the process

function main(tools) {
  let wanted = false;
  let looking = false;
  const look = async () => {            // with each beat, and when there is a job
    wanted = true;
    if (looking) return;
    looking = true;
    try {
      while (wanted) {
        wanted = false;
        for (let task = await take(); task; task = await take()) {
          if (task.generation !== null) run(task, tools);
        }
      }
    } catch (error) {
      complain(error);             // the next look tries again
    } finally {
      looking = false;
    }
  };
  attend(look);
  console.log(`ready ${worker}`);
}

module.exports = { main };
