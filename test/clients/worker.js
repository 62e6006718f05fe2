// The worker's side of turn_liveness for Node, to be taken over as it is, with database.js.
// README.md beside this file says how to use it.
'use strict';

const { Connection, createPool, json, processName, repeat, value } = require('./database.js');

const key = (deployment, messageId) => JSON.stringify([deployment, messageId]);

class Worker {
  constructor(options) {
    Object.assign(this, {
      name: processName,              // no two processes at a time may have the same
      pool: undefined,                // may be a pooler in transaction mode
      direct: {},                     // how the beats connect; directly, if attach is set
      attach: false,                  // the end of this process is noticed at once
      every: 5_000,                   // a beat; a stop takes as long to arrive
      report: console.error,
    }, options);
    this.pool ??= createPool({}, this.report);
    this.held = new Map();            // the turns that this process is on
    this.attached = new Set();
    this.beats = new Connection({
      options: this.direct,
      every: this.every,
      report: this.report,
      open: () => this.attached.clear(),
      tick: (db) => this.#beat(db),
    });
  }

  // One call for the whole process, on a connection that waits for no other query. Each beat names
  // its turn and its generation: a turn that was stopped, or that another worker has, is given up.
  async #beat(db) {
    const held = new Map(this.held);
    const turns = [...held.values()];
    const { rows } = await db.query('SELECT * FROM turn_liveness.heartbeats($1, $2, $3)',
      [turns.map((t) => t.deployment), turns.map((t) => t.messageId), turns.map((t) => t.generation)]);
    for (const row of rows) held.get(key(row.deployment, row.message_id)).abort();
    if (this.attach) await this.#attach(db, new Set(turns.map((t) => t.deployment)));
  }

  async #attach(db, wanted) {
    const call = (name, deployments) =>
      db.query(`SELECT turn_liveness.${name}(d) FROM unnest($1::text[]) d`, [deployments]);
    await call('attach_worker', [...wanted].filter((d) => !this.attached.has(d)));
    await call('detach_worker', [...this.attached].filter((d) => !wanted.has(d)));
    this.attached = wanted;
  }

  // Runs work(turn), which returns the answer, or nothing if the turn is suspended. turn.signal
  // says give up. Returns what became of it: won, lost or stale; suspended, stopped; null: the turn
  // is another worker's (a queue that delivers twice), or has ended.
  async run(job, work) {
    const generation = await this.#start(job);
    if (generation === null) return null;
    const turn = new Turn(this, job, generation);
    const name = key(turn.deployment, turn.messageId);
    this.held.get(name)?.abort();
    this.held.set(name, turn);
    try {
      return await turn.end(work);
    } finally {
      if (this.held.get(name) === turn) this.held.delete(name);
    }
  }

  async #start({ deployment, messageId, takeOver = false }) {
    let tries = 0;
    return repeat(async () => {
      tries++;
      const generation = await value(this.pool, 'SELECT turn_liveness.start_turn($1, $2, $3, $4)',
        deployment, messageId, this.name, takeOver);
      if (generation !== null || tries === 1 || this.held.has(key(deployment, messageId))) return generation;
      // perhaps an earlier try was committed, and its answer was lost with the connection
      const { rows: [turn] } = await this.pool.query('SELECT * FROM turn_liveness.get_turn($1, $2)',
        [deployment, messageId]);
      return turn?.worker === this.name && turn.ended_at === null ? turn.generation : null;
    });
  }

  // Before this process ends: gives its turns up, and returns their jobs. Put them back into the
  // queue: the next worker takes them over, and later calls of this one count for nothing.
  async close() {
    const turns = [...this.held.values()];
    this.held.clear();
    if (this.beats.db) await this.#beat(this.beats.db).catch(this.report);
    await this.beats.close();
    turns.forEach((turn) => turn.abort());
    return turns.map((turn) => ({ ...turn.job, takeOver: true }));
  }
}

class Turn {
  #stop = new AbortController();

  constructor(worker, job, generation) {
    Object.assign(this, { worker, job, generation, deployment: job.deployment, messageId: job.messageId });
    this.signal = this.#stop.signal;
  }

  abort() {
    this.#stop.abort();
  }

  async end(work) {
    let reply;
    try {
      reply = await work(this);
    } catch (error) {
      if (this.signal.aborted) return 'stopped';
      this.worker.report(error);
      reply = { error: 'The agent failed.', errorCode: 'AGENT_FAILED' };
    }
    if (reply === undefined) return this.signal.aborted ? 'stopped' : 'suspended';
    return this.commit(reply);
  }

  // Repeated, the same call is won again.
  commit(reply) {
    return repeat(() => value(this.worker.pool, 'SELECT turn_liveness.commit_terminal_reply($1, $2, $3, $4)',
      this.deployment, [this.messageId], json(reply), [this.generation]));
  }

  // A message before the answer; null: give up. Not repeated by itself: each call stores one.
  update(payload, db = this.worker.pool) {
    return value(db, 'SELECT turn_liveness.post_update($1, $2, $3, $4)',
      this.deployment, this.messageId, json(payload), this.generation);
  }

  // The turn waits for a human; false: give up. Then return nothing from work().
  suspend(maxWait, reason, db = this.worker.pool) {
    return value(db, 'SELECT turn_liveness.suspend_turn($1, $2, $3, $4, $5)',
      this.deployment, this.messageId, maxWait, reason, this.generation);
  }
}

module.exports = { Worker };
