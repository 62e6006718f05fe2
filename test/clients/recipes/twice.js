// A queue that delivers twice, here graphile-worker: a job whose lock is lost while its worker still
// works goes to another one, whose start_turn says that the turn is taken.
'use strict';

const assert = require('node:assert');
const { Logger, runMigrations, runOnce } = require('graphile-worker');
const { Gateway } = require('../gateway.js');
const { Worker } = require('../worker.js');
const { transaction } = require('../database.js');
const { pool, prefix, run, until } = require('../tests/common.js');

run(async () => {
  await runMigrations({ pgPool: pool });
  const gateway = new Gateway({ pool,
    enqueue: (db, job) => db.query('SELECT graphile_worker.add_job($1, $2)', [prefix, job]) });
  const job = { deployment: `${prefix}/c`, messageId: 'm1', routing: {} };
  await transaction(pool, (db) => gateway.dispatch(db, job));

  const results = [];
  let finish;
  const consume = (name) => {
    const worker = new Worker({ pool, name });
    return runOnce({
      pgPool: pool, noHandleSignals: true, noPreparedStatements: true, logger: new Logger(() => () => {}),
      taskList: { [prefix]: async (payload, { job: { locked_by: holder } }) => {
        const result = worker.run(payload, () => new Promise((resolve) => {
          finish = () => resolve({ content: name });
          results.push(holder);
        }));
        results.push([name, await result]);
      } },
    }).then(() => worker.close());
  };

  const first = consume('first');
  const [holder] = await until(() => results.length > 0 && results);
  await pool.query('SELECT graphile_worker.force_unlock_workers($1)', [[holder]]);
  await consume('second');                            // the same job; returns at once
  finish();
  await first;
  assert.deepEqual(results, [holder, ['second', null], ['first', 'won']]);
});
