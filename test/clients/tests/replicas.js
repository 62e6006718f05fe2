// Two replicas push 100 replies that take 400 ms each: 100 are sent. The time is the server's
// liveness clock and the gateways' own, which each message moves on.
'use strict';

const assert = require('node:assert');
const { Gateway } = require('../gateway.js');
const { advance, pool, prefix, run, until, value } = require('./common.js');

const N = 100;

run(async () => {
  let passed = 0;
  const sent = [];
  const replicas = ['a', 'b'].map((name) => new Gateway({
    pool,
    name: `${prefix}-${name}`,
    platforms: [prefix],
    clock: () => performance.now() + passed,
    send: async (payload) => {
      passed += 400;
      await advance('400 ms');
      sent.push(payload.n);
    } }));

  await pool.query(`SELECT turn_liveness.reject_turn($1, i::text, jsonb_build_object('platform', $1::text), i::text)
    FROM generate_series(1, $2::int) i`, [prefix, N]);
  await Promise.all(replicas.map(async (replica) => {
    // a reply that one gives back while the other looks is there at the next look
    await until(() => replica.push().then(() => sent.length >= N));
    await replica.push();
  }));

  assert.equal(sent.length, N);
  assert.equal(await value(pool, `SELECT count(*)::int FROM turn_liveness.replies
    WHERE platform = $1 AND state = 'delivered'`, prefix), N);
  assert.equal(passed, N * 400);
});
