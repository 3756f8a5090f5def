// Node's HTTP clients, one a run: node benign_requests.mjs CLIENT URL, with NODE_PATH-like resolution from $BENIGN_MODULES.
// Prints one JSON object: how many requests were as they should be, and what was wrong with the others.
import { createRequire } from "node:module";
import https from "node:https";

const [client, base] = process.argv.slice(2);
const need = createRequire(process.env.BENIGN_MODULES + "/x.js");
const proxy = process.env.HTTPS_PROXY;
const body = JSON.stringify({ text: "naïve ☃", n: [...Array(500).keys()] });
const targets = ["/", "/a%20b", "/caf%C3%A9", "/a+b", "/~user/x", "/a;v=1", "/a:b@c", "/x?a=1&a=2", "/x?q=%E2%82%AC", "/x?" + "k=v&".repeat(500)];
let good = 0;
const wrong = [];
const check = (what, truth, ...seen) => (truth ? good++ : wrong.push([what, ...seen].join(" ").slice(0, 300)));
const length = Buffer.byteLength(body);

async function viaFetch(get) {
  for (const target of targets) {
    const told = await (await get(base + target)).json();
    check(target.slice(0, 40), told.target === target, told.target);
  }
  for (const method of ["POST", "PUT", "PATCH", "DELETE"]) {
    const told = await (await get(base + "/m", { method, body, headers: { "content-type": "application/json" } })).json();
    check(method, told.method === method && told.length === length);
  }
  const stream = new ReadableStream({ start(c) { for (let n = 0; n < 20; n++) c.enqueue(new Uint8Array(1000)); c.close(); } });
  check("a stream's body", (await (await get(base + "/m", { method: "POST", body: stream, duplex: "half" })).json()).length === 20000);
  check("gzip", (await (await get(base + "/gzip")).json()).packed === "gzip");
  check("redirect", (await (await get(base + "/status/302")).json()).target === "/moved");
  check("big", (await (await get(base + "/big")).arrayBuffer()).byteLength === 5 << 20);
  check("events", (await (await get(base + "/events")).text()).split("data:").length === 6);
  check("in parallel", (await Promise.all([...Array(20).keys()].map((n) => get(`${base}/p/${n}`)))).every((a) => a.status === 200));
}

const viaHttps = (agent) => async () => {
  const ask = (target, method = "GET", data) => new Promise((done, fail) => {
    const request = https.request(base + target, { agent, method }, (answer) => {
      let text = "";
      answer.on("data", (piece) => (text += piece)).on("end", () => done(text));
    });
    request.on("error", fail).end(data);
  });
  for (const target of targets) check(target.slice(0, 40), JSON.parse(await ask(target)).target === target);
  for (const method of ["POST", "PUT", "PATCH"]) check(method, JSON.parse(await ask("/m", method, body)).length === length);
};

const clients = {
  undici: async () => {
    const { fetch, EnvHttpProxyAgent } = need("undici");
    const dispatcher = new EnvHttpProxyAgent();
    await viaFetch((url, how) => fetch(url, { dispatcher, ...how }));
  },
  "https-proxy-agent": async () => {
    const { HttpsProxyAgent } = need("https-proxy-agent");
    await viaHttps(new HttpsProxyAgent(proxy, { keepAlive: true }))();
  },
  axios: async () => {
    const axios = need("axios");
    for (const target of targets) check(target.slice(0, 40), (await axios.get(base + target)).data.target === target);
    for (const method of ["post", "put", "patch"]) check(method, (await axios[method](base + "/m", { a: 1 })).data.length === 7);
  },
  ws: async () => {
    const { WebSocket } = need("ws");
    const { HttpsProxyAgent } = need("https-proxy-agent");
    const socket = new WebSocket(base, { agent: new HttpsProxyAgent(proxy) });
    await new Promise((done, fail) => socket.on("open", done).on("error", fail));
    for (const size of [1, 125, 126, 70000]) {
      const back = new Promise((done) => socket.once("message", done));
      socket.send("x".repeat(size));
      check(`${size} letters back`, (await back).length === size);
    }
    socket.close();
  },
};
try {
  await clients[client]();
} catch (error) {
  if (error.code === "MODULE_NOT_FOUND") {
    console.log(JSON.stringify({ missing: error.message.split("\n")[0] }));
    process.exit(0);
  }
  wrong.push(`${error} ${error.cause ?? ""}`.slice(0, 500));
}
console.log(JSON.stringify({ good, wrong }));
process.exit(0);
