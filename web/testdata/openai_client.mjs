// Drives a server with OpenAI's own client: node openai_client.mjs PATH_OF_THE_PACKAGE BASE TOKEN. It prints what the client made of the answers, as JSON.
import { createRequire } from "node:module";
const { default: OpenAI, ...errors } = createRequire(process.argv[2] + "/")("openai");
const client = new OpenAI({ baseURL: process.argv[3] + "/v1", apiKey: process.argv[4], maxRetries: 0 });
const out = {};

out.models = [];
for await (const m of await client.models.list()) out.models.push(m.id);
out.model = (await client.models.retrieve(out.models[1])).id;

const video = { type: "video_url", video_url: { url: "stream://front_door?last=10m" } };
const messages = [
  { role: "system", content: "Be brief." },
  { role: "user", content: [video, { type: "text", text: "Is there a car?" }] },
];
const first = await client.chat.completions.create({ model: "afterimage", messages, max_completion_tokens: 50, temperature: 0, seed: 1, user: "me" });
out.text = first.choices[0].message.content;
out.finish = first.choices[0].finish_reason;
out.usage = first.usage;
out.evidence = first.x_evidence.map((e) => e.stream);
out.requestID = first._request_id ?? null;

// The answer's message goes back as it came, as in a conversation.
messages.push(first.choices[0].message, { role: "user", content: "And what colour was it?" });
const stream = await client.chat.completions.create({ model: "afterimage", messages, stream: true, stream_options: { include_usage: true } });
out.deltas = [];
for await (const chunk of stream) {
  const delta = chunk.choices[0]?.delta?.content;
  if (delta) out.deltas.push(delta);
  if (chunk.usage) out.streamUsage = chunk.usage;
}

// The helper that gathers a stream into one completion.
const gathered = await client.chat.completions.stream({ model: "stream://front_door", messages: [{ role: "user", content: "What is there?" }] }).finalChatCompletion();
out.gathered = gathered.choices[0].message.content;

out.errors = {};
async function fails(name, f) {
  try {
    await f();
    out.errors[name] = null;
  } catch (e) {
    out.errors[name] = { class: e.constructor.name, status: e.status, code: e.code, param: e.param, retryAfter: e.headers?.get("retry-after") ?? null };
  }
}
const ask = (more) => client.chat.completions.create({ model: "afterimage", messages: [{ role: "user", content: [video, { type: "text", text: "What?" }] }], ...more });
await fails("tools", () => ask({ tools: [{ type: "function", function: { name: "f" } }] }));
await fails("model", () => ask({ model: "gpt-4o" }));
await fails("url", () => ask({ messages: [{ role: "user", content: [{ type: "video_url", video_url: { url: "http://192.0.2.1/a.mp4" } }, { type: "text", text: "What?" }] }] }));
await fails("busy", () => ask({ messages: [{ role: "user", content: [video, { type: "text", text: "busy" }] }] }));
await fails("late", async () => {
  const s = await ask({ stream: true, messages: [{ role: "user", content: [video, { type: "text", text: "break" }] }] });
  for await (const _ of s);
});
await fails("token", () => new OpenAI({ baseURL: process.argv[3] + "/v1", apiKey: "wrong", maxRetries: 0 }).models.list());

// A stream that the client leaves.
const left = await ask({ stream: true, messages: [{ role: "user", content: [video, { type: "text", text: "slow" }] }] });
for await (const _ of left) break;
left.controller.abort();

console.log(JSON.stringify(out));
