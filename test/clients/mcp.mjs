#!/usr/bin/env node
// An MCP server with Tasks (the extension io.modelcontextprotocol/tasks, SEP-2663) whose tasks
// are turns: any number of replicas, none with a state.
//
// The SDK speaks MCP 2026-07-28 and leaves the extension's methods to its user; they are here.
//
//   MCP                    turn_liveness
//   tools/call             arm_turn and the job; "durably created", as the extension demands
//   working                waiting, running
//   input_required         suspended; the questions are in the last update
//   completed, failed      the terminal reply, get_turn
//   cancelled              fail_turn with CANCELLED
//   tasks/update           resume_turn and the job, with the last answer
//   tasks/get              get_turn, and ack_replies for what it has told
//
// It knows no users. A gateway with users shows each its own tasks.

import http from 'node:http';
import {
  acceptedContent, CLIENT_CAPABILITIES_META_KEY, createMcpHandler, fromJsonSchema, inputRequired,
  MissingRequiredClientCapabilityError, ProtocolError, ProtocolErrorCode, Server,
} from '@modelcontextprotocol/server';
import {
  localhostHostValidation, localhostOriginValidation, toNodeHandler,
} from '@modelcontextprotocol/node';
import tasks from './tasks.js';

const PLATFORM = 'mcp';
const EXTENSION = 'io.modelcontextprotocol/tasks';

// retention (24 h) counts from a task's end, so that from its creation it lasts at least that
const TTL = 24 * 3600 * 1000;

// --- what it offers

const string = { type: 'string' };
const schema = (properties = {}) => ({ type: 'object', properties });

// A client that knows tasks gets one; any other one waits for the result. required: the tool may
// wait for the user, or for long, so that nothing but a task will do.
const TOOLS = [
  { name: 'greet', description: 'Says hello', inputSchema: schema({ name: string }) },
  { name: 'slow_compute', description: 'Computes for some seconds',
    inputSchema: schema({ seconds: { type: 'number' }, label: string }) },
  { name: 'failing_job', required: true, description: 'Ends with an error of its own' },
  { name: 'protocol_error_job', required: true, description: 'Breaks' },
  { name: 'confirm_delete', required: true, description: 'Deletes a file if you say yes',
    inputSchema: schema({ filename: string }) },
  { name: 'multi_input', required: true, description: 'Asks two questions at once' },
  { name: 'test_tool_with_task', required: true, description: 'Asks first, and works then' },
  { name: 'steps', required: true, description: 'Tells each step' },
];

// --- from our words to MCP's

function statusOf(task) {
  if (task.error_code === 'CANCELLED') return 'cancelled';
  if (task.state === 'error') return 'failed';
  if (tasks.ended(task)) return 'completed';
  return task.state === 'suspended' ? 'input_required' : 'working';
}

const iso = (time) => new Date(time).toISOString();

const taskOf = (task) => ({
  taskId: task.id, status: statusOf(task), ttlMs: TTL, pollIntervalMs: 500,
  createdAt: iso(task.created_at),
  lastUpdatedAt: iso(task.ended_at ?? task.last_beat ?? task.armed_at),
  statusMessage: task.payload?.error ?? task.last_update?.text ?? undefined,
});

const resultOf = ({ content, isError }) => ({ content, isError });

// A tool that says "error" has completed; failed is what kept it from saying anything.
const errorOf = ({ error, errorCode }) =>
  ({ code: ProtocolErrorCode.InternalError, message: error, data: { errorCode } });

const requestedSchema = schema({ confirm: { type: 'boolean' } });
const elicit = ([key, message]) => [key, inputRequired.elicit({ message, requestedSchema })];

const DETAILS = {
  completed: (task) => ({ result: resultOf(task.payload) }),
  failed: (task) => ({ error: errorOf(task.payload) }),
  input_required: (task) => ({
    inputRequests: Object.fromEntries(Object.entries(tasks.questions(task)).map(elicit)),
  }),
};

// --- the requests

const knowsTasks = ({ mcpReq }) =>
  mcpReq.envelope?.[CLIENT_CAPABILITIES_META_KEY]?.extensions?.[EXTENSION] !== undefined;

function demandTasks(ctx) {
  if (knowsTasks(ctx)) return;
  const requiredCapabilities = { extensions: { [EXTENSION]: {} } };
  throw new MissingRequiredClientCapabilityError({ requiredCapabilities });
}

async function find(id) {
  const task = await tasks.get(id);
  if (!task) throw new ProtocolError(ProtocolErrorCode.InvalidParams, `Task not found: ${id}`);
  return task;
}

async function call({ params }, ctx) {
  const { name, arguments: args = {} } = params;
  const tool = TOOLS.find((known) => known.name === name);
  if (!tool) throw new ProtocolError(ProtocolErrorCode.InvalidParams, `Unknown tool: ${name}`);
  if (name === 'greet') return { content: [{ type: 'text', text: `Hello, ${args.name}!` }] };
  if (tool.required) demandTasks(ctx);

  // Asks before there is a task: what the client calls again with is all the state.
  const request = { name, arguments: args };
  if (name === 'test_tool_with_task') {
    const wanted = schema({ name: string });
    const { inputResponses } = ctx.mcpReq;
    request.arguments = acceptedContent(inputResponses, 'user_name', fromJsonSchema(wanted));
    if (!request.arguments) {
      const user_name = inputRequired.elicit({ message: 'Your name?', requestedSchema: wanted });
      return inputRequired({ inputRequests: { user_name } });
    }
  }
  const task = await tasks.create(PLATFORM, request);
  return knowsTasks(ctx) ? { resultType: 'task', ...taskOf(task) } : result(task.id, ctx);
}

// For a client that knows no tasks. The end of its request is its cancellation.
async function result(id, ctx) {
  ctx.mcpReq.signal.addEventListener('abort', () => tasks.cancel(id).catch(tasks.complain));
  for await (const { outcome, payload } of tasks.follow(id, 0)) {
    if (outcome === 'answer') return resultOf(payload);
    if (outcome === 'error') {
      const { code, message, data } = errorOf(payload);
      throw new ProtocolError(code, message, data);
    }
  }
}

// Polled until it has ended: then the client has had all that there is.
async function get({ taskId }, ctx) {
  demandTasks(ctx);
  const task = await find(taskId);
  if (tasks.ended(task)) {
    await tasks.rows(`SELECT turn_liveness.ack_replies('mcp', array_agg(reply_id))
      FROM turn_liveness.read_replies(ARRAY[$1], NULL, 10000)`, tasks.address(taskId));
  }
  return { ...taskOf(task), ...DETAILS[statusOf(task)]?.(task) };
}

// The SDK takes inputResponses out of the parameters, whatever the method.
async function update({ taskId }, ctx) {
  demandTasks(ctx);
  await find(taskId);
  await tasks.answer(taskId, () => ctx.mcpReq.inputResponses ?? {});
  return {};
}

// Cooperative for MCP, and more here: the task is cancelled, or had ended before. A client knows
// only an id whose arm is committed, so fail_turn cannot come before it.
async function cancel({ taskId }, ctx) {
  demandTasks(ctx);
  if (await tasks.cancel(taskId) === 'unknown') await find(taskId);
  return {};
}

// --- the process

const ofTask = { params: fromJsonSchema({ ...schema({ taskId: string }), required: ['taskId'] }) };

const handler = createMcpHandler(() => {
  const server = new Server({ name: 'turn_liveness example', version: '1.0.0' },
    { capabilities: { tools: {}, extensions: { [EXTENSION]: {} } } });
  server.setRequestHandler('tools/list', () => ({
    tools: TOOLS.map(({ required, ...tool }) => ({ inputSchema: schema(), ...tool })),
  }));
  server.setRequestHandler('tools/call', call);
  server.setRequestHandler('tasks/get', ofTask, get);
  server.setRequestHandler('tasks/cancel', ofTask, cancel);
  server.setRequestHandler('tasks/update', ofTask, update);
  return server;
}, { onerror: tasks.complain });

const serve = toNodeHandler(handler);
const hostIsLocal = localhostHostValidation();
const originIsLocal = localhostOriginValidation();

const server = http.createServer((req, res) => {
  if (hostIsLocal(req, res) && originIsLocal(req, res)) serve(req, res);
}).listen(Number(process.env.PORT ?? 0), '127.0.0.1', () => {
  tasks.listen();
  console.log(`ready http://127.0.0.1:${server.address().port}/mcp`);
});
