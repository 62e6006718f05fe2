// A gateway and a worker with gateway.js and worker.js, in one process: a message comes, its client
// gets the answer. Wants a table my_jobs (payload jsonb); PGHOST and so on name the server, POOL_HOST
// and POOL_PORT, if given, a pooler in transaction mode before it.
'use strict';

const { createPool, transaction } = require('./database.js');
const { Gateway } = require('./gateway.js');
const { Worker } = require('./worker.js');

const pool = createPool({ host: process.env.POOL_HOST, port: process.env.POOL_PORT });

// --- gateway: one for each process. LISTEN has a connection of its own, past the pooler.
const gateway = new Gateway({
  pool,
  direct: { application_name: 'gateway' },
  enqueue: (db, job) => db.query('INSERT INTO my_jobs VALUES ($1)', [job]),
  platforms: ['slack'],
  send: (payload, signal) => fetch('https://slack.example/', { method: 'POST', body: JSON.stringify(payload), signal }),
});
gateway.listen();

// a message has come; your own rows for it go into the same transaction
const post = (conversation, messageId) => transaction(pool, (db) => gateway.dispatch(db, {
  deployment: conversation,
  messageId,
  routing: { conversationId: conversation, platform: 'web', userId: 'u1' },
}, { rescue: '5 min' }));

// a client has come, or come back with its Last-Event-ID; call what this returns when it has gone
const open = (conversation, lastEventId, response) => gateway.stream(conversation, lastEventId, (reply) =>
  response.write(`id: ${reply.reply_id}\nevent: ${reply.outcome}\ndata: ${JSON.stringify(reply.payload)}\n\n`));

// --- worker: one for each process, however many turns it is on. Its beats have a connection of their own.
const worker = new Worker({ pool, direct: { application_name: 'worker' }, attach: true });

// turn.signal says give up: the user has stopped it, or another worker has it by now
const handle = (job) => worker.run(job, async (turn) => {
  await turn.update({ status: 'thinking' });
  turn.signal.throwIfAborted();
  return { content: `the answer to ${turn.messageId}` };
});

// --- once through
(async () => {
  const conversation = `tenant-1/node-${process.pid}`;
  await post(conversation, 'm1');
  const { rows: [{ payload }] } = await pool.query("DELETE FROM my_jobs WHERE payload->>'deployment' = $1 RETURNING payload", [conversation]);
  console.log(await handle(payload));
  await new Promise((resolve) => {
    open(conversation, '0', { write: (event) => { console.log(event); if (event.includes('answer')) resolve(); } });
  });
  await worker.close();
  await gateway.close();
  await pool.end();
})().catch((error) => { console.error(error); process.exit(1); });
