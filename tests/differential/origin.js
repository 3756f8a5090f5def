// An origin with Node's parser (llhttp). Writes one line of JSON for each request that it has read to its end.
//     node origin.js PORT CERT KEY LOG
const crypto = require("crypto"), fs = require("fs"), https = require("https");
const [port, cert, key, file] = process.argv.slice(2);
const log = fs.openSync(file, "a");

// What a program behind this server takes for the path: WHATWG's reading, escapes decoded byte by byte.
function reading(target) {
  try {
    const path = new URL("http://origin.test" + target).pathname;
    return path.replace(/%([0-9A-Fa-f]{2})/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
  } catch { return null; }
}

const options = { cert: fs.readFileSync(cert), key: fs.readFileSync(key), maxHeaderSize: 1 << 18, ALPNProtocols: ["http/1.1"],
  keepAliveTimeout: 36e5, requestTimeout: 0, headersTimeout: 0, connectionsCheckingInterval: 36e5 };
const server = https.createServer(options, (request, response) => {
  const hash = crypto.createHash("sha256");
  let length = 0;
  request.on("data", (piece) => { hash.update(piece); length += piece.length; });
  request.on("end", () => {
    if (!request.complete) return;
    const socket = request.socket;
    socket.count = (socket.count || 0) + 1;
    const fields = [];
    for (let i = 0; i < request.rawHeaders.length; i += 2) fields.push([request.rawHeaders[i].toLowerCase(), request.rawHeaders[i + 1]]);
    const line = { method: request.method, target: request.url, reading: reading(request.url), fields, length,
      body: hash.digest("hex"), count: socket.count };
    fs.writeSync(log, JSON.stringify(line) + "\n");
    response.writeHead(200, { "content-length": 2 });
    response.end("ok");
  });
});
server.setTimeout(0);
server.listen(+port, "127.0.0.1");
