// For the tests and the recipes. PGHOST and so on name the server; POOL_HOST and POOL_PORT,
// if given, a pooler in transaction mode before it. The queue is a table, my_jobs (payload jsonb).
'use strict';

const { setTimeout: sleep } = require('node:timers/promises');
const { createPool, repeat, value } = require('../database.js');

// An error of a connection is no news in tests that end connections.
const quiet = () => {};
const pool = createPool({ host: process.env.POOL_HOST, port: process.env.POOL_PORT, max: 8 }, quiet);
const prefix = `${require('node:path').basename(process.argv[1], '.js')}-${process.pid}`;

const enqueue = (db, job) => db.query('INSERT INTO my_jobs VALUES ($1)', [job]);

// The next job of this program, which is then in the queue no more; undefined if there is none.
const dequeue = () => repeat(() => pool.query(`DELETE FROM my_jobs WHERE ctid = (SELECT ctid FROM my_jobs
  WHERE starts_with(payload->>'deployment', $1) LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING payload`, [prefix]))
  .then(({ rows: [job] }) => job?.payload);

// Until the condition gives something, which may take as long as it takes on a slow machine.
async function until(condition, name = condition) {
  const end = performance.now() + 180_000;
  for (;;) {
    const result = await condition();
    if (result) return result;
    if (performance.now() > end) throw new Error(`never came: ${name}`);
    await sleep(10);
  }
}

// The liveness clock goes on by so much, as it does by itself.
let stepper;
async function advance(interval) {
  stepper ??= pool.query(`CREATE OR REPLACE FUNCTION public.tl_advance(interval) RETURNS void
    AS '$libdir/turn_liveness', 'turn_liveness_clock_advance' LANGUAGE C STRICT`);
  await stepper;
  await pool.query('SELECT public.tl_advance($1)', [interval]);
}

const turnOf = (deployment, messageId) =>
  pool.query('SELECT * FROM turn_liveness.get_turn($1, $2)', [deployment, messageId]).then(({ rows: [turn] }) => turn);

// Ends the program as main() ends.
function run(main) {
  main().then(() => pool.end(), (error) => { console.error(error); process.exit(1); });
}

module.exports = { advance, dequeue, enqueue, pool, prefix, quiet, run, sleep, turnOf, until, value };
