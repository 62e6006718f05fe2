// Retry: a worker is killed in the middle of a turn. Within the turn's rescue window a gateway takes
// it and enqueues its job again; the client sees the second worker's answer and no error.
'use strict';

const assert = require('node:assert');
const { fork } = require('node:child_process');
const { once } = require('node:events');
const { Gateway } = require('../gateway.js');
const { Worker } = require('../worker.js');
const { transaction } = require('../database.js');
const { advance, dequeue, enqueue, pool, prefix, run, turnOf, until } = require('../tests/common.js');

// The worker that is killed: it takes the job and never answers.
function doomed() {
  const worker = new Worker({ pool, name: 'first', attach: true, every: 50 });
  process.once('message', (job) => worker.run(job, async () => {
    await until(() => worker.attached.has(job.deployment));
    process.send('working');
    return new Promise(() => {});
  }));
}

async function main() {
  const seen = [];
  const gateway = new Gateway({ pool, enqueue, generations: 2 });
  const job = { deployment: `${prefix}/c`, messageId: 'm1', routing: { userId: 'u1' } };
  gateway.listen();
  gateway.stream(job.deployment, '0', (reply) => seen.push(reply.payload));

  // takes the next job, dies, and is missed: here by the end of its session, else by its silence
  const lose = async () => {
    const child = fork(__filename);
    child.send(await until(dequeue));
    await once(child, 'message');
    child.kill('SIGKILL');
    await until(async () => {
      await advance('30 s');
      return (await turnOf(job.deployment, job.messageId)).state !== 'running';
    });
  };
  const limits = { silence: '1 hour', rescue: '10 min' };

  await transaction(pool, (db) => gateway.dispatch(db, job, limits));
  await lose();
  const second = await until(dequeue);
  assert.deepEqual(second, job);
  const worker = new Worker({ pool, name: 'second' });
  assert.equal(await worker.run(second, async (turn) => ({ content: `by generation ${turn.generation}` })), 'won');
  await until(() => seen.length === 1);
  assert.equal(seen[0].content, 'by generation 2');
  await worker.close();

  // a turn that kills each of its workers is given up
  job.messageId = 'm2';
  await transaction(pool, (db) => gateway.dispatch(db, job, limits));
  await lose();
  await lose();
  await until(() => seen.length === 2);
  assert.equal(seen[1].errorCode, 'WORKER_DIED');
  assert.equal((await turnOf(job.deployment, 'm2')).decided_by, 'fail');
  assert.equal(await dequeue(), undefined);
  await gateway.close();
}

if (process.send) doomed();
else run(main);
