// JavaScript's clients, one a run: `agent.mjs CLIENT FACTS`, for Node.js, deno and bun. They know URLs and the environment,
// nothing else; where a client needs a setting in code to find the proxy, that is a client of its own here. The last line
// says what version did it. Any failure ends the run with 1.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import process from "node:process";
import tls from "node:tls";

const [client, facts] = [process.argv[2], JSON.parse(process.argv[3])];
const { items, llm, mcp, socket, bucket } = facts;
const { env } = process;
const token = { authorization: `Bearer ${env.ITEMS_TOKEN}` };
const bulk = Buffer.alloc(200_000, "0123456789");
const sum = createHash("sha256").update(bulk).digest("hex");
const question = [{ role: "user", content: "hi" }];
const words = "Hello from the plain API";

function check(what, truth, ...seen) {
  if (!truth) throw new Error(`${what}: ${seen.map((s) => JSON.stringify(s)).join(" ").slice(0, 300)}`);
}

// `ask(method, path, headers, body)` gives status and text. Reading, writing, a large upload, an event stream.
async function fourRequests(ask) {
  let [status, text] = await ask("GET", "/v1/items", token);
  check("GET", status === 200 && JSON.parse(text).items, status, text);
  [status, text] = await ask("POST", "/v1/items", { ...token, "content-type": "application/json" }, '{"name": "x"}');
  check("POST", status === 201 && JSON.parse(text).name === "x", status, text);
  [status, text] = await ask("POST", "/v1/upload", { ...token, "content-type": "application/octet-stream" }, bulk);
  check("upload", status === 200 && JSON.parse(text).sha256 === sum, status, text);
  [status, text] = await ask("GET", "/v1/stream?n=3&ms=20", token);
  check("events", status === 200 && text.split("data: ").length === 4, status, text);
}

const byFetch = (fetch, more = {}) => fourRequests(async (method, path, headers, body) => {
  const answer = await fetch(items + path, { method, headers, body, ...more });
  return [answer.status, await answer.text()];
});

const byHttps = (agent) => fourRequests((method, path, headers, body) => new Promise((done, fail) => {
  const request = https.request(items + path, { method, headers: { ...headers, ...(body && { "content-length": body.length }) }, agent }, (answer) => {
    let text = "";
    answer.on("data", (piece) => (text += piece)).on("end", () => done([answer.statusCode, text])).on("error", fail);
  });
  request.on("error", fail).end(body);
}));

async function byWs(agent) {
  const { WebSocket } = await import("ws");
  const open = new WebSocket(socket, { headers: token, agent });
  await new Promise((done, fail) => open.on("open", done).on("error", fail));
  for (const size of [100, 70_000, 200_000]) {
    const back = new Promise((done) => open.once("message", done));
    open.send("x".repeat(size));
    check("an echo", (await back).length === size);
  }
  open.close();
}

// A tunnel made by hand, for what has no setting for a proxy.
const tunnel = (url, alpn) => new Promise((done, fail) => {
  const [proxy, target] = [new URL(env.HTTPS_PROXY), new URL(url)];
  const credential = Buffer.from(`${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`).toString("base64");
  http.request({
    host: proxy.hostname, port: proxy.port, method: "CONNECT", path: `${target.hostname}:${target.port || 443}`,
    headers: { "proxy-authorization": `Basic ${credential}` },
  }).on("connect", (answer, raw) => {
    if (answer.statusCode !== 200) return fail(new Error(`CONNECT: ${answer.statusCode}`));
    const secure = tls.connect({ socket: raw, servername: target.hostname, ALPNProtocols: [alpn], ca: readFileSync(env.NODE_EXTRA_CA_CERTS) },
      () => done(secure));
    return secure.on("error", fail);
  }).on("error", fail).end();
});

async function byHttp2(how) {
  const http2 = await import("node:http2");
  const session = http2.connect(items, how);
  const failed = new Promise((_, fail) => session.on("error", fail));
  await Promise.race([failed, fourRequests((method, path, headers, body) => new Promise((done, fail) => {
    const stream = session.request({ ":method": method, ":path": path, ...headers });
    let [text, status] = ["", 0];
    stream.on("response", (head) => (status = head[":status"])).on("data", (piece) => (text += piece));
    stream.on("end", () => done([status, text])).on("error", fail).end(body);
  }))]);
  session.close();
}

async function byS3(requestHandler) {
  const { S3Client, PutObjectCommand } = await import("@aws-sdk/client-s3");
  const credentials = { accessKeyId: env.BUCKET_TOKEN, secretAccessKey: env.BUCKET_TOKEN };
  const s3 = new S3Client({ endpoint: bucket, region: "eu-west-1", forcePathStyle: true, maxAttempts: 1, credentials, requestHandler });
  try {
    await s3.send(new PutObjectCommand({ Bucket: "b", Key: "k", Body: "x" }));
  } catch (error) {
    const said = error.$response?.headers["proxy-status"] ?? "";
    check("the refusal", error.$metadata?.httpStatusCode === 403 && said.includes('details="placeholder-required"'), String(error), said);
    return;
  }
  throw new Error("it was not refused");
}

async function byOpenai() {
  const { default: OpenAI } = await import("openai");
  const api = new OpenAI({ apiKey: env.LLM_API_KEY, baseURL: `${llm}/v1`, maxRetries: 0 });
  const answer = await api.chat.completions.create({ model: "tiny", messages: question });
  check("an answer", answer.choices[0].message.content === words, answer);
  let streamed = "";
  for await (const piece of await api.chat.completions.create({ model: "tiny", messages: question, stream: true })) streamed += piece.choices[0].delta.content;
  check("a stream", streamed === words, streamed);
}

async function byAnthropic() {
  const { default: Anthropic } = await import("@anthropic-ai/sdk");
  const api = new Anthropic({ apiKey: env.LLM_API_KEY, baseURL: llm, maxRetries: 0 });
  const ask = { model: "tiny", max_tokens: 10, messages: question };
  check("an answer", (await api.messages.create(ask)).content[0].text === words);
  let streamed = "";
  for await (const event of await api.messages.create({ ...ask, stream: true })) streamed += event.delta?.text ?? "";
  check("a stream", streamed === words, streamed);
}

async function byMcp() {
  const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
  const { StreamableHTTPClientTransport } = await import("@modelcontextprotocol/sdk/client/streamableHttp.js");
  const agent = new Client({ name: "interop", version: "1.0.0" });
  await agent.connect(new StreamableHTTPClientTransport(new URL(mcp), { requestInit: { headers: token } }));
  const tools = (await agent.listTools()).tools.map((tool) => tool.name);
  check("tools", tools.includes("search") && tools.includes("read_file"), tools);
  const found = (await agent.callTool({ name: "search", arguments: { query: "beta" } })).content[0].text;
  check("a call", found === "notes/a.txt\nnotes/b.txt", found);
  await agent.close();
}

async function byAxios() {
  const { default: axios } = await import("axios");
  await fourRequests(async (method, path, headers, data) => {
    const answer = await axios.request({ method, url: items + path, headers, data, responseType: "text", transformResponse: (text) => text });
    return [answer.status, answer.data];
  });
}

async function byGot() {
  const { default: got } = await import("got");
  await fourRequests(async (method, path, headers, body) => {
    const answer = await got(items + path, { method, headers, body, retry: { limit: 0 } });
    return [answer.statusCode, answer.body];
  });
}

const proxyAgent = async () => new (await import("https-proxy-agent")).HttpsProxyAgent(env.HTTPS_PROXY);
const envAgent = async () => {
  const { EnvHttpProxyAgent, setGlobalDispatcher } = await import("undici");
  setGlobalDispatcher(new EnvHttpProxyAgent());
};

const clients = {
  fetch: () => byFetch(fetch),
  https: () => byHttps(),
  axios: byAxios,
  got: byGot,
  "node-fetch": async () => byFetch((await import("node-fetch")).default),
  ws: () => byWs(),
  openai: byOpenai,
  "@anthropic-ai/sdk": byAnthropic,
  "@modelcontextprotocol/sdk": byMcp,
  http2: () => byHttp2(),
  "@aws-sdk/client-s3": () => byS3(),
  // With a setting in code.
  "ws, agent": async () => byWs(await proxyAgent()),
  "https, agent": async () => byHttps(await proxyAgent()),
  "http2, tunnel": async () => {
    const secure = await tunnel(items, "h2");
    await byHttp2({ createConnection: () => secure });
  },
  "@aws-sdk/client-s3, agent": async () => {
    const { NodeHttpHandler } = await import("@smithy/node-http-handler");
    await byS3(new NodeHttpHandler({ httpsAgent: await proxyAgent() }));
  },
  "undici, EnvHttpProxyAgent": async () => {
    const { fetch: own, EnvHttpProxyAgent } = await import("undici");
    await byFetch(own, { dispatcher: new EnvHttpProxyAgent() });
  },
  undici: async () => byFetch((await import("undici")).fetch),
  "fetch, global dispatcher": async () => {
    await envAgent();
    await byFetch(fetch);
  },
  "openai, global dispatcher": async () => {
    await envAgent();
    await byOpenai();
  },
  "@modelcontextprotocol/sdk, global dispatcher": async () => {
    await envAgent();
    await byMcp();
  },
};

try {
  await clients[client]();
} catch (error) {
  console.error(error.message, error.cause ?? "", error.errors ?? "");
  process.exit(1);
}
const name = client.split(",")[0];
let version = globalThis.Deno?.version.deno ?? globalThis.Bun?.version ?? process.versions.node;
try {
  version = JSON.parse(readFileSync(new URL(`./node_modules/${name}/package.json`, import.meta.url), "utf8")).version;
} catch {
  // Part of the runtime.
}
console.log(JSON.stringify({ version }));
process.exit(0);
