#!/usr/bin/env node
// Drives two replicas of mcp.mjs, and their workers, with MCP's own client.

import assert from 'node:assert';
import {
  Client, fromJsonSchema, ProtocolErrorCode, StreamableHTTPClientTransport,
} from '@modelcontextprotocol/client';
import { clean, dies, prepare, start } from './processes.js';
import { address, rows } from './tasks.js';

const EXTENSION = 'io.modelcontextprotocol/tasks';
const any = fromJsonSchema({ type: 'object' });

// The client knows no result of the type "task" yet, and refuses it: hand it on as the
// structured content of one that it knows.
async function fetchTask(url, init) {
  const response = await fetch(url, init);
  if (!response.headers.get('content-type')?.startsWith('application/json')) return response;
  const body = await response.json();
  if (body.result?.resultType === 'task') {
    body.result = { resultType: 'complete', content: [], structuredContent: body.result };
  }
  return new Response(JSON.stringify(body), response);
}

async function connect(replica, extensions = { [EXTENSION]: {} }) {
  const client = new Client({ name: 'test', version: '1' }, {
    versionNegotiation: { mode: { pin: '2026-07-28' } },
    capabilities: { elicitation: {}, extensions },
  });
  const url = new URL(replica.address);
  await client.connect(new StreamableHTTPClientTransport(url, { fetch: fetchTask }));
  return client;
}

async function call(client, name, args = {}) {
  return (await client.callTool({ name, arguments: args })).structuredContent;
}
const ask = (client, method, params) => client.request({ method, params }, any);
const get = (client, taskId) => ask(client, 'tasks/get', { taskId });
const cancel = (client, taskId) => ask(client, 'tasks/cancel', { taskId });
const answer = (client, taskId, inputResponses) =>
  ask(client, 'tasks/update', { taskId, inputResponses });

async function until(client, taskId, fits) {
  for (;;) {
    const task = await get(client, taskId);
    if (fits(task)) return task;
    assert(['working', 'input_required'].includes(task.status), task.status);
    await new Promise(setImmediate);
  }
}
const status = (wanted) => (task) => task.status === wanted;
const telling = (text) => (task) => task.statusMessage === text;

const accept = (content) => ({ action: 'accept', content });

async function main() {
  await prepare();
  let [one, two, agent] = await Promise.all(['mcp.mjs', 'mcp.mjs', 'agent_tools.js'].map(start));
  const [first, second, plain] = await Promise.all([connect(one), connect(two), connect(one, {})]);
  assert.deepEqual(first.getServerCapabilities().extensions, { [EXTENSION]: {} });

  console.log('a task that another replica knows too, and its result');
  let task = await call(first, 'slow_compute', { seconds: 0 });
  assert.equal(task.status, 'working');
  let { taskId } = task;
  task = await until(second, taskId, status('completed'));
  assert.deepEqual(task.result.content, [{ type: 'text', text: 'computed for 0 s' }]);
  assert.deepEqual(await get(first, taskId), task);
  assert.deepEqual(await rows(
    'SELECT DISTINCT state FROM turn_liveness.replies WHERE deployment = $1', address(taskId)),
    [{ state: 'delivered' }]);

  console.log('a tool that says error has completed, one that breaks has failed');
  ({ taskId } = await call(first, 'failing_job'));
  task = await until(first, taskId, status('completed'));
  assert.equal(task.result.isError, true);
  ({ taskId } = await call(first, 'protocol_error_job'));
  task = await until(first, taskId, status('failed'));
  assert.deepEqual(task.error,
    { code: -32603, message: 'broke', data: { errorCode: 'AGENT_ERROR' } });

  console.log('a client that knows no tasks waits for the result, or is told what it lacks');
  const { MissingRequiredClientCapability: lacking, InvalidParams: invalid } = ProtocolErrorCode;
  const waited = await plain.callTool({ name: 'slow_compute', arguments: { seconds: 0 } });
  assert.deepEqual(waited.content, [{ type: 'text', text: 'computed for 0 s' }]);
  await assert.rejects(plain.callTool({ name: 'failing_job' }), { code: lacking });
  await assert.rejects(get(plain, taskId), { code: lacking });
  await assert.rejects(get(first, 'none'), { code: invalid });

  console.log('a question, answered on the other replica');
  ({ taskId } = await call(first, 'confirm_delete', { filename: 'a.txt' }));
  task = await until(first, taskId, status('input_required'));
  assert.equal(task.inputRequests.confirm.params.message, 'Delete a.txt?');
  await answer(second, taskId, { confirm: accept({ confirm: true }) });
  task = await until(first, taskId, status('completed'));
  assert.equal(task.result.content[0].text, 'deleted a.txt');

  console.log('two questions, one answered at a time, while the worker that asked is gone');
  ({ taskId } = await call(first, 'multi_input'));
  task = await until(first, taskId, status('input_required'));
  assert.deepEqual(Object.keys(task.inputRequests), ['first', 'second']);
  await agent.kill();
  agent = await start('agent_tools.js');
  await answer(second, taskId, { second: accept({ name: 'B' }), third: accept({}) });
  task = await get(first, taskId);
  assert.equal(task.status, 'input_required');
  assert.deepEqual(Object.keys(task.inputRequests), ['first']);
  await answer(first, taskId, { first: accept({ name: 'A' }) });
  task = await until(first, taskId, status('completed'));
  assert.equal(task.result.content[0].text, 'first: A, second: B');

  console.log('a cancel reaches the worker, and is acknowledged as often as it comes');
  ({ taskId } = await call(first, 'slow_compute', { seconds: 3600 }));
  await until(first, taskId, telling('computes for 3600 s'));
  await cancel(second, taskId);
  assert.equal((await get(first, taskId)).status, 'cancelled');
  await cancel(first, taskId);
  assert.equal(await agent.said(taskId), 'abandoned');
  await assert.rejects(cancel(first, 'none'), { code: invalid });

  console.log('a client that knows no tasks cancels by going away');
  const gone = new AbortController();
  const lost = plain.callTool({ name: 'slow_compute', arguments: { seconds: 3600 } },
    { signal: gone.signal });
  const running = () => rows(
    "SELECT message_id FROM turn_liveness.turns WHERE platform = 'mcp' AND state = 'running'");
  let [turn] = await running();
  while (!turn) [turn] = await running();
  gone.abort();
  await assert.rejects(lost);
  assert.equal(await agent.said(turn.message_id), 'abandoned');

  console.log('the worker is killed in the middle: failed, and why');
  ({ taskId } = await call(first, 'slow_compute', { seconds: 3600 }));
  await until(first, taskId, telling('computes for 3600 s'));
  task = await dies(agent, () => until(second, taskId, status('failed')));
  assert.equal(task.error.code, -32603);
  assert.equal(task.error.data.errorCode, 'WORKER_DIED');
  assert.equal(task.error.message, task.statusMessage);
  agent = await start('agent_tools.js');

  console.log('the replica is killed in the middle: another one goes on');
  ({ taskId } = await call(first, 'steps'));
  await until(first, taskId, telling('ready for orders'));
  agent.order('step 1');
  await until(first, taskId, telling('step 1'));
  await one.kill();
  await assert.rejects(get(first, taskId));
  agent.order('end');
  task = await until(second, taskId, status('completed'));
  assert.equal(task.result.content[0].text, 'end');

  await Promise.all([two, agent].map((child) => child.kill()));
  await clean();
}

main().then(() => process.exit(), (error) => { console.error(error); process.exit(1); });
