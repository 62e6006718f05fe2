#!/usr/bin/env node
// Drives two replicas of a2a.mjs, and their workers, with A2A's own client.

import assert from 'node:assert';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import { ListTasksRequest, SendMessageRequest, StreamResponse, Task } from '@a2a-js/sdk';
import { ClientFactory } from '@a2a-js/sdk/client';
import {
  TaskNotCancelableError, TaskNotFoundError, UnsupportedOperationError,
} from '@a2a-js/sdk/errors';
import { clean, dies, prepare, start } from './processes.js';
import { address, pool, rows } from './tasks.js';

// --- the client, in short

function send(part, { taskId = '', contextId = '', ...configuration } = {}) {
  const message = { messageId: randomUUID(), taskId, contextId, role: 'ROLE_USER', parts: [part] };
  return SendMessageRequest.fromJSON({ message, configuration });
}
const request = (name, args, options) => send({ data: { name, arguments: args } }, options);
const say = (text, taskId) => send({ text }, { taskId });
const id = (name) => ({ tenant: '', id: name, metadata: undefined });

const state = ({ status }) => status.state.replace('TASK_STATE_', '');
const text = ({ parts }) => parts.map((part) => part.text).join('\n');

const task = async (call) => Task.toJSON(await call);
const outcome = (json) => [state(json), text(json.artifacts?.[0] ?? json.status.message)];

// An event in short: the state, or the artifact, and what is said.
function brief(event) {
  const { task: snapshot, statusUpdate, artifactUpdate } = StreamResponse.toJSON(event);
  if (artifactUpdate) return `artifact: ${text(artifactUpdate.artifact)}`;
  const { status } = snapshot ?? statusUpdate;
  const said = status.message ? `: ${text(status.message)}` : '';
  return `${snapshot ? 'task ' : ''}${state({ status })}${said}`;
}

async function next(stream) {
  const { value, done } = await stream.next();
  return done ? undefined : brief(value);
}

async function rest(stream) {
  const seen = [];
  for await (const event of stream) seen.push(brief(event));
  return seen;
}

// A stream of a new task, and its id
async function open(client, message) {
  const stream = client.sendMessageStream(message);
  const first = (await stream.next()).value;
  assert.equal(brief(first), 'task SUBMITTED');
  return [stream, StreamResponse.toJSON(first).task.id];
}

const COMPUTES = 'WORKING: computes for 3600 s';
const READY = 'WORKING: ready for orders';

// --- the tests

async function main() {
  await prepare();
  let [one, two, agent] = await Promise.all(['a2a.mjs', 'a2a.mjs', 'agent_tools.js'].map(start));
  const connect = (replica) => new ClientFactory().createFromUrl(replica.address);
  const [first, second] = await Promise.all([one, two].map(connect));

  console.log('a request waits for its end, and the other replica knows the task');
  const inContext = () => request('slow_compute', { seconds: 0 }, { contextId: 'context-1' });
  let made = await task(first.sendMessage(inContext()));
  assert.deepEqual(outcome(made), ['COMPLETED', 'computed for 0 s']);
  assert.equal(made.contextId, 'context-1');
  assert.deepEqual(made.history.map(({ role }) => role), ['ROLE_USER', 'ROLE_AGENT']);
  assert.deepEqual(await task(second.getTask(id(made.id))), made);

  console.log('a stream');
  let [stream, taskId] = await open(first, inContext());
  assert.deepEqual(await rest(stream),
    ['WORKING: computes for 0 s', 'artifact: computed for 0 s', 'COMPLETED']);

  console.log('an error of the worker; a skill that the agent has not');
  made = await task(first.sendMessage(request('protocol_error_job')));
  assert.deepEqual(outcome(made), ['FAILED', 'broke']);
  made = await task(first.sendMessage(request('no_skill')));
  assert.deepEqual(outcome(made), ['REJECTED', 'The agent has no such skill.']);

  console.log('a question is answered by a second message, on the other replica');
  made = await task(first.sendMessage(request('confirm_delete', { filename: 'a.txt' })));
  assert.deepEqual(outcome(made), ['INPUT_REQUIRED', 'Delete a.txt?']);
  stream = first.resubscribeTask(id(made.id));
  assert.equal(await next(stream), 'task INPUT_REQUIRED: Delete a.txt?');
  made = await task(second.sendMessage(say('yes', made.id)));
  assert.deepEqual(outcome(made), ['COMPLETED', 'deleted a.txt']);
  assert.deepEqual(await rest(stream), ['artifact: deleted a.txt', 'COMPLETED']);
  await assert.rejects(second.sendMessage(say('yes', made.id)), UnsupportedOperationError);

  console.log('a wait outlives the worker that asked');
  made = await task(first.sendMessage(request('confirm_delete', { filename: 'b.txt' })));
  await agent.kill();
  agent = await start('agent_tools.js');
  made = await task(first.sendMessage(say('no', made.id)));
  assert.deepEqual(outcome(made), ['COMPLETED', 'kept b.txt']);

  console.log('a cancel reaches the stream and the worker');
  [stream, taskId] = await open(first, request('slow_compute', { seconds: 3600 }));
  assert.equal(await next(stream), COMPUTES);
  made = await task(second.cancelTask(id(taskId)));
  assert.deepEqual(outcome(made), ['CANCELED', 'Cancelled by the client.']);
  assert.deepEqual(await rest(stream), ['CANCELED: Cancelled by the client.']);
  assert.equal(await agent.said(taskId), 'abandoned');
  await assert.rejects(second.cancelTask(id(taskId)), TaskNotCancelableError);
  await assert.rejects(second.cancelTask(id('none')), TaskNotFoundError);
  await assert.rejects(second.getTask(id('none')), TaskNotFoundError);

  console.log('the worker is killed in the middle: failed, and why');
  [stream, taskId] = await open(first, request('slow_compute', { seconds: 3600 }));
  assert.equal(await next(stream), COMPUTES);
  const end = await dies(agent, () => rest(stream));
  made = await task(second.getTask(id(taskId)));
  assert.equal(made.status.message.metadata.errorCode, 'WORKER_DIED');
  assert.deepEqual(end, [`FAILED: ${text(made.status.message)}`]);
  agent = await start('agent_tools.js');

  console.log('a worker that slept while its task was handed over has no say');
  [stream, taskId] = await open(first, request('steps'));
  assert.equal(await next(stream), READY);
  agent.signal('SIGSTOP');
  await pool.query('SELECT turn_liveness.arm_turn($1, $2)', [address(taskId), taskId]);
  await pool.query('INSERT INTO task_jobs (id) VALUES ($1)', [taskId]);
  const successor = await start('agent_tools.js');
  assert.equal(await next(stream), READY);
  agent.order('a late step');
  agent.order('end, too late');
  agent.signal('SIGCONT');
  assert.equal(await agent.said(taskId), 'stale');
  successor.order('end');
  assert.deepEqual(await rest(stream), ['artifact: end', 'COMPLETED']);
  await successor.kill();

  console.log('the replica is killed in the middle: another one goes on where it was');
  [stream, taskId] = await open(first, request('steps'));
  assert.equal(await next(stream), READY);
  agent.order('step 1');
  assert.equal(await next(stream), 'WORKING: step 1');
  await one.kill();
  await assert.rejects(rest(stream));
  agent.order('step 2');
  stream = second.resubscribeTask(id(taskId));
  const { task: { history } } = StreamResponse.toJSON((await stream.next()).value);
  agent.order('end');
  const told = history.slice(1).map((message) => `WORKING: ${text(message)}`);
  assert.deepEqual([...told, ...await rest(stream)],
    [READY, 'WORKING: step 1', 'WORKING: step 2', 'artifact: end', 'COMPLETED']);
  await assert.rejects(rest(second.resubscribeTask(id(taskId))), UnsupportedOperationError);

  console.log('every connection is cut: stream and worker go on, and a death is still noticed');
  [stream, taskId] = await open(second, request('steps'));
  assert.equal(await next(stream), READY);
  await pool.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
      AND backend_type = 'client backend'`);
  agent.order('step 1');
  assert.equal(await next(stream), 'WORKING: step 1');
  const beats = () => rows(`SELECT FROM pg_stat_activity
    WHERE application_name = left($1, 63) AND query LIKE '%heartbeats%'`, agent.address);
  while ((await beats()).length === 0) await new Promise(setImmediate);
  assert.match((await dies(agent, () => rest(stream))).join(), /^FAILED: [^,]*$/);
  made = await task(second.getTask(id(taskId)));
  assert.equal(made.status.message.metadata.errorCode, 'WORKER_DIED');
  agent = await start('agent_tools.js');

  console.log('a webhook gets each message once from two replicas, and again what it refused');
  one = await start('a2a.mjs');
  const posts = [];
  let refusals = 1;
  const webhook = http.createServer(async (req, res) => {
    const chunks = [];
    for await (const chunk of req) chunks.push(chunk);
    const refused = refusals-- > 0;
    if (!refused) {
      const { task: snapshot, statusUpdate } = JSON.parse(Buffer.concat(chunks));
      const name = snapshot?.id ?? statusUpdate.taskId;
      const { 'x-a2a-notification-token': token } = req.headers;
      posts.push(`${name} ${state(snapshot ?? statusUpdate)} ${token}`);
    }
    res.writeHead(refused ? 503 : 204).end(() => webhook.emit('post'));
  }).listen(0, '127.0.0.1');
  await once(webhook, 'listening');
  const posted = async (n) => { while (posts.length < n) await once(webhook, 'post'); };
  const config = { id: 'hook', url: `http://127.0.0.1:${webhook.address().port}`, token: 'secret' };
  const silent = { returnImmediately: true, taskPushNotificationConfig: config };
  made = await task(second.sendMessage(request('steps', {}, silent)));
  await posted(1);
  agent.order('end');
  await posted(2);
  assert.deepEqual(posts, [`${made.id} WORKING secret`, `${made.id} COMPLETED secret`]);
  // twenty tasks at once, with two messages each
  const twenty = await Promise.all(Array.from({ length: 20 }, () =>
    task(second.sendMessage(request('slow_compute', { seconds: 0 }, silent)))));
  await posted(42);
  const due = () => rows(
    "SELECT FROM turn_liveness.replies WHERE deployment = ANY ($1) AND state <> 'delivered'",
    twenty.map((one) => address(one.id)));
  while ((await due()).length > 0) await new Promise(setImmediate);
  assert.deepEqual(posts.slice(2).sort(), twenty.flatMap((one) =>
    [`${one.id} COMPLETED secret`, `${one.id} WORKING secret`]).sort());

  console.log('the configurations of webhooks');
  const ofTask = { tenant: '', taskId: made.id };
  const again = await connect(one);
  const configs = async () => {
    const all = { ...ofTask, pageSize: 0, pageToken: '' };
    return (await again.listTaskPushNotificationConfig(all)).configs.map((one) => one.id);
  };
  const other = { ...ofTask, ...config, id: 'other', authentication: undefined };
  await second.createTaskPushNotificationConfig(other);
  assert.deepEqual(await configs(), ['hook', 'other']);
  assert.deepEqual(await again.getTaskPushNotificationConfig({ ...ofTask, id: 'other' }), other);
  await second.deleteTaskPushNotificationConfig({ ...ofTask, id: 'other' });
  assert.deepEqual(await configs(), ['hook']);

  console.log('the tasks of a context, page by page');
  const list = (pageToken) => second.listTasks(
    ListTasksRequest.fromJSON({ contextId: 'context-1', pageSize: 1, pageToken }));
  const page = await list('');
  const page2 = await list(page.nextPageToken);
  const [newer, older] = [...page.tasks, ...page2.tasks].map(Task.toJSON);
  assert.deepEqual([page.totalSize, state(newer), state(older)], [2, 'COMPLETED', 'COMPLETED']);
  assert.notEqual(newer.id, older.id);

  webhook.close();
  await Promise.all([one, two, agent].map((child) => child.kill()));
  await clean();
}

main().then(() => process.exit(), (error) => { console.error(error); process.exit(1); });
