// An origin that is Node's own parser: node node.js ADDRESS PORT CERTIFICATE KEY. One JSON line for each request.
"use strict";
const fs = require("fs");
const https = require("https");

const [address, port, certificate, key] = process.argv.slice(2);
let connections = 0;
const tell = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const server = https.createServer({ cert: fs.readFileSync(certificate), key: fs.readFileSync(key) }, (request, response) => {
  const chunks = [];
  const told = { connection: request.socket.number, method: request.method, url: request.url, raw: request.rawHeaders };
  const end = (complete) => tell({ ...told, body: Buffer.concat(chunks).toString("hex"), complete });
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("error", () => end(false));
  request.on("end", () => {
    end(true);
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ origin: "node", method: request.method, target: request.url, host: request.headers.host }));
  });
});
server.on("secureConnection", (socket) => { socket.number = ++connections; });
server.listen(+port, address, () => tell({ port: server.address().port }));
// It ends with who started it.
process.stdin.on("end", () => process.exit(0)).resume();
