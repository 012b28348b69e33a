// A WebSocket over HTTP/2 (RFC 8441) by Node's own HTTP/2: node FILE URL TOKEN MESSAGE. Prints one line of JSON for each
// thing that happens.
import http2 from "node:http2";
import crypto from "node:crypto";

const [url, token, message] = process.argv.slice(2);
const { origin, pathname } = new URL(url);
const say = (what) => console.log(JSON.stringify(what));
const session = http2.connect(origin);
session.on("error", (error) => say({ error: error.code }));
session.on("remoteSettings", (settings) => {
  say({ settings: settings.enableConnectProtocol });
  const headers = { ":method": "CONNECT", ":protocol": "websocket", ":path": pathname, "sec-websocket-version": "13" };
  if (token) headers.authorization = `Bearer ${token}`;
  const stream = session.request(headers);
  stream.on("response", (headers) => {
    say({ status: headers[":status"] });
    if (headers[":status"] === 200) stream.write(frame(Buffer.from(message)));
  });
  let bytes = Buffer.alloc(0);
  stream.on("data", (data) => {
    bytes = Buffer.concat([bytes, data]);
    for (let message; (message = take()) !== undefined; ) say(message);
  });
  stream.on("error", (error) => say({ reset: error.code }));
  stream.on("close", () => {
    say({ closed: stream.rstCode });
    session.close();
  });

  function take() {
    if (bytes.length < 2) return undefined;
    const [opcode, length] = [bytes[0] & 15, bytes[1] & 127];
    if (length > 125 || bytes.length < 2 + length) return undefined;
    const payload = bytes.subarray(2, 2 + length);
    bytes = bytes.subarray(2 + length);
    return opcode === 1 ? { message: payload.toString() } : { opcode };
  }
});

// One masked text frame of a short message (RFC 6455, section 5.2).
function frame(payload) {
  const mask = crypto.randomBytes(4);
  return Buffer.concat([Buffer.from([0x81, 0x80 | payload.length]), mask, payload.map((byte, at) => byte ^ mask[at % 4])]);
}
