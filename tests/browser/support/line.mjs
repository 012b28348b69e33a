// A line to a server that can be made slow: what the server says arrives later. So a second click certainly comes before
// the first one's answer.

import { connect, createServer } from 'node:net';

export class Line {
  // Milliseconds until what the server says arrives.
  delay = 0;
  #listener;
  #sockets = new Set();

  static async to(server) {
    const line = new Line();
    line.#listener = createServer((client) => line.#join(client, connect(server.port, '127.0.0.1')));
    await new Promise((resolve) => line.#listener.listen(0, '127.0.0.1', resolve));
    return line;
  }

  #join(client, server) {
    for (const [socket, other] of [[client, server], [server, client]]) {
      this.#sockets.add(socket);
      socket.on('close', () => {
        this.#sockets.delete(socket);
        other.destroy();
      });
      // A line that breaks is what is wanted here.
      socket.on('error', () => other.destroy());
    }
    client.pipe(server);
    server.on('data', (bytes) => setTimeout(() => client.writable && client.write(bytes), this.delay));
  }

  get url() {
    return `http://127.0.0.1:${this.#listener.address().port}`;
  }

  async stop() {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#listener.close(resolve));
  }
}
