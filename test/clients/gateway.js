// The gateway's side of turn_liveness for Node, to be taken over as it is, with database.js.
// README.md beside this file says how to use it.
//
// A job is what your queue carries to a worker: { deployment, messageId, routing } and whatever
// else it wants. enqueue(db, job) puts one into the queue, in the transaction of db.
// send(payload, signal, reply) pushes a reply to its platform.
'use strict';

const { Connection, createPool, json, processName, repeat, single, transaction, value } = require('./database.js');

const PAGE = 100;

class Gateway {
  constructor(options) {
    Object.assign(this, {
      name: processName,              // holds the claims
      pool: undefined,                // may be a pooler in transaction mode
      direct: {},                     // how LISTEN connects: directly
      platforms: [],                  // those that this gateway pushes to
      claimTimeout: 30_000,           // turn_liveness.claim_timeout
      generations: 5,                 // a turn that was lost that often has failed
      channel: 'turn_liveness',       // turn_liveness.notify_channel
      every: 60_000,
      report: console.error,
      clock: () => performance.now(),
    }, options);
    this.pool ??= createPool({}, this.report);
    this.streams = new Map();         // of each conversation
    this.changed = new Set();         // conversations to read
    this.batch = 10;
    this.feed = single(() => this.#feed(), this.report);
    this.push = single(() => this.#push(), this.report);
    this.rescue = single(() => this.#rescue(), this.report);
  }

  // LISTENs, and looks at everything after each connect and each minute.
  listen() {
    this.listener = new Connection({
      options: this.direct,
      every: this.every,
      report: this.report,
      open: (db) => {
        db.on('notification', ({ payload }) => this.#notified(payload));
        return db.query(`LISTEN "${this.channel}"`);
      },
      tick: (db) => db.query('SELECT').then(() => this.look({})),
    });
  }

  // Any role may notify: a payload that makes no sense means look, as {} does.
  #notified(payload) {
    try {
      this.look(JSON.parse(payload));
    } catch {
      this.look({});
    }
  }

  look({ conversations, platforms, lapsed }) {
    const all = !conversations && !platforms && !lapsed;
    for (const name of all ? this.streams.keys() : conversations ?? []) {
      if (this.streams.has(name)) this.changed.add(name);
    }
    if (this.changed.size > 0) this.feed();
    if (this.platforms.length > 0 && (all || platforms?.some((p) => this.platforms.includes(p)))) this.push();
    if (all || lapsed?.length > 0) this.rescue();
  }

  // In the caller's transaction: owed and enqueued, or neither. answered: it has ended, by a stop
  // that was faster. pending: it is owed already, and its job was enqueued then (a message that
  // came twice, a COMMIT whose answer was lost); the savepoint takes the hand-over back. With again,
  // it goes to another worker, wherever the first one is: the repair of a message whose end was not
  // seen, after a failover that may have lost commits.
  async dispatch(db, job, { admission, silence, duration, rescue, again = false } = {}) {
    await db.query('SAVEPOINT dispatch');
    const armed = await value(db, 'SELECT turn_liveness.arm_turn($1, $2, $3, $4, $5, $6, $7)',
      job.deployment, job.messageId, json(job.routing ?? {}), admission, silence, duration, rescue);
    if (armed === 'armed' || (again && armed === 'pending')) await this.enqueue(db, job);
    else await db.query('ROLLBACK TO SAVEPOINT dispatch');
    await db.query('RELEASE SAVEPOINT dispatch');
    return armed;
  }

  // By the user. It holds also when it overtakes the arm, which then says answered.
  stop({ deployment, messageId, routing = {} }, text = 'Stopped.', code = 'CANCELLED') {
    return repeat(() => value(this.pool, 'SELECT turn_liveness.reject_turn($1, $2, $3, $4, $5)',
      deployment, messageId, json(routing), text, code));
  }

  // In the caller's transaction: the human has answered, the turn goes on with the next worker.
  async resume(db, job) {
    const resumed = await value(db, 'SELECT turn_liveness.resume_turn($1, $2)', job.deployment, job.messageId);
    if (resumed) await this.enqueue(db, job);
    return resumed;
  }

  // A stream gets each reply and update past its cursor (its Last-Event-ID), each once, in order.
  stream(conversation, cursor, write) {
    const stream = { cursor: Number(cursor), write };
    if (!this.streams.has(conversation)) this.streams.set(conversation, new Set());
    const streams = this.streams.get(conversation).add(stream);
    this.look({ conversations: [conversation] });
    return () => {
      streams.delete(stream);
      if (streams.size === 0 && this.streams.get(conversation) === streams) this.streams.delete(conversation);
    };
  }

  async #feed() {
    while (this.changed.size > 0) {
      const names = [...this.changed].filter((name) => this.streams.has(name));
      const cursors = names.map((name) => Math.min(...[...this.streams.get(name)].map((s) => s.cursor)));
      this.changed.clear();
      try {
        const { rows } = await this.pool.query('SELECT * FROM turn_liveness.read_replies($1, $2, $3)',
          [names, cursors, PAGE]);
        for (const row of rows) this.#write(row, Number(row.reply_id));
        if (rows.length === PAGE) names.forEach((name) => this.changed.add(name));
        if (rows.length > 0) await this.#ack(rows);
      } catch (error) {
        names.forEach((name) => this.changed.add(name));
        throw error;
      }
    }
  }

  #write(row, id) {
    for (const stream of this.streams.get(row.conversation_id) ?? []) {
      if (id <= stream.cursor) continue;
      stream.cursor = id;
      try {
        stream.write(row);
      } catch (error) {
        this.report(error);
      }
    }
  }

  // Claims as many as it can send in a quarter of the claim's time, and gives back what it has not
  // begun in half of it: later, another replica would send the same. Autocommit commits the claim.
  async #push() {
    for (;;) {
      const begin = this.clock();
      const { rows } = await this.pool.query(
        'SELECT * FROM turn_liveness.claim_replies($1, platforms => $2, max_replies => $3)',
        [this.name, this.platforms, this.batch]);
      if (rows.length === 0) return;
      let sent = 0;
      for (; sent < rows.length && this.clock() - begin < this.claimTimeout / 2; sent++) {
        await this.#deliver(rows[sent], begin + this.claimTimeout * 0.9 - this.clock());
      }
      if (sent < rows.length) await this.#release(rows.slice(sent), '0');
      const each = (this.clock() - begin) / sent;
      this.batch = Math.max(1, Math.min(PAGE, Math.floor(this.claimTimeout / 4 / each)));
    }
  }

  async #deliver(reply, time) {
    try {
      await this.send(reply.payload, AbortSignal.timeout(Math.max(0, Math.floor(time))), reply);
    } catch (error) {
      return this.#release([reply], null, error.message);
    }
    return this.#ack([reply]);
  }

  #ack(replies) {
    return repeat(() => value(this.pool, 'SELECT turn_liveness.ack_replies($1, $2)',
      this.name, replies.map((r) => r.reply_id)));
  }

  #release(replies, delay, error) {
    return repeat(() => value(this.pool, 'SELECT turn_liveness.release_replies($1, $2, $3, $4)',
      this.name, replies.map((r) => r.reply_id), delay, error));
  }

  // Turns that lost their worker, each taken by one gateway, in one transaction with its new job.
  async #rescue() {
    for (let taken = PAGE; taken === PAGE;) {
      taken = await transaction(this.pool, async (db) => {
        const { rows } = await db.query('SELECT * FROM turn_liveness.rescue_turns($1)', [PAGE]);
        for (const { deployment, message_id: messageId, routing, generation, error_code: code } of rows) {
          if (generation <= this.generations) await this.enqueue(db, { deployment, messageId, routing });
          else await value(db, 'SELECT turn_liveness.fail_turn($1, $2, $3, $4)', deployment, messageId,
            'The worker was lost too often.', code);
        }
        return rows.length;
      });
    }
  }

  async close() {
    await this.listener?.close();
    await Promise.all([this.feed, this.push, this.rescue].map((part) => part.idle()));
  }
}

module.exports = { Gateway };
