// The application behind nullpass: pages that say what arrived, a form, and paths that fail in each way.

import { createServer } from 'node:http';

const MAX_BODY = 1 << 20;

export class Upstream {
  // What arrived, newest last: method, url, headers, body.
  seen = [];
  // Whether `/moved` breaks off; otherwise it leads to another site.
  broken = false;
  #server;

  static async start() {
    const upstream = new Upstream();
    upstream.#server = createServer((request, response) => upstream.#answer(request, response));
    await new Promise((resolve) => upstream.#server.listen(0, '127.0.0.1', resolve));
    return upstream;
  }

  get url() {
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  async stop() {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #answer(request, response) {
    const chunks = [];
    let size = 0;
    request.on('data', (chunk) => {
      size += chunk.length;
      if (size <= MAX_BODY) chunks.push(chunk);
    });
    request.on('end', () => {
      const body = Buffer.concat(chunks).toString();
      const { method, url, headers } = request;
      // What nullpass asks for to see how its upstream is does not count.
      if (url !== '/broken') this.seen.push({ method, url, headers, body });
      if (url.startsWith('/broken')) return request.socket.destroy();
      if (url === '/moved' && this.broken) return request.socket.destroy();
      if (url === '/moved') return response.writeHead(302, { location: `${this.url}/elsewhere` }).end();
      // An application that sends everybody to sign in, also who has.
      if (url === '/loop') return response.writeHead(302, { location: '/_auth/login?rd=/loop' }).end();
      // Never answered: nullpass gives up first.
      if (url.startsWith('/slow')) return undefined;
      response.setHeader('content-type', 'text/html; charset=utf-8');
      response.end(page(method, url, headers, body));
    });
  }
}

function page(method, url, headers, body) {
  const who = headers['x-forwarded-email'] ?? 'nobody';
  return `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>The application</title><link rel="icon" href="data:,"></head>
<body><main><h1>The application</h1>
<p id="who">${escaped(who)}</p><p id="line">${escaped(`${method} ${url}`)}</p><pre id="body">${escaped(body)}</pre>
<form method="post" action="/notes?draft=1"><label>Title <input name="title"></label><label>Text <textarea name="text"></textarea></label>
<label>Password <input name="password" type="password"></label><button>Save</button></form>
<p id="section">A section</p></main></body></html>`;
}

function escaped(text) {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}
