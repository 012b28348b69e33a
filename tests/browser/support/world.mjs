// What the tests of one file share: one Chromium, one application, and a nullpass for each configuration, made when it
// is first asked for.

import { after, before } from 'node:test';
import { createServer } from 'node:net';
import { Line } from './line.mjs';
import { Nullpass } from './nullpass.mjs';
import { Upstream } from './upstream.mjs';
import { Visitor, launch } from './visitor.mjs';

const RULES = [
  { path: '/staff/**', policy: 'authenticated', groups: ['staff'] },
  { path: '/strong/**', policy: 'two_factor' },
  { path: '/fresh/**', policy: 'authenticated', max_auth_age: '1s' },
  { path: '/public/**', policy: 'public' },
];

export class World {
  browser;
  upstream;
  #servers = new Map();

  // A world for the tests of this file.
  static forTests() {
    const world = new World();
    before(() => world.start());
    after(() => world.stop());
    return world;
  }

  async start() {
    this.upstream = await Upstream.start();
    this.browser = await launch();
  }

  async stop() {
    await this.browser?.close();
    await Promise.all([...this.#servers.values()].map(async (server) => (await server).stop()));
    await this.upstream?.stop();
  }

  // The server of a configuration, by its name.
  server(name = 'open', config) {
    if (!this.#servers.has(name)) this.#servers.set(name, this.#start(config ?? CONFIGS[name]));
    return this.#servers.get(name);
  }

  async #start(config) {
    const { url } = this.upstream;
    const upstreams = [
      { name: 'app', url, response_timeout: '700ms' },
      { name: 'gone', url: await deaf(), path: '/gone' },
      { name: 'sick', url, path: '/sick', health: { path: '/broken', interval: '1s' } },
    ];
    return Nullpass.start(url, { upstreams, rules: RULES, ...config });
  }

  // Runs `act` with a visitor in a new browser context, and ends the visit, which fails when a page caused what it may
  // not. `options` as for `Visitor.open`; `on`: the server's name; `slow`: by a line that can be made slow; `at`: under
  // this name instead of its address; `context`: makes another context than one of this browser.
  async visit({ on = 'open', slow = false, at, context, ...options }, act) {
    let server = await this.server(on);
    if (at) server = { url: `http://${at}:${server.port}`, port: server.port };
    const line = slow ? await Line.to(server) : undefined;
    const visitor = await Visitor.open(context ?? this.browser, line ?? server, options);
    let done = false;
    try {
      await act(visitor);
      done = true;
    } finally {
      // What failed first is what is told.
      await visitor.close().catch((error) => {
        if (done) throw error;
      });
      await line?.stop();
    }
  }
}

const CONFIGS = {
  open: {},
  closed: { accounts: { registration: 'closed' } },
  always: { two_factor: { required: 'always', skew: 2 } },
  strict: { limits: { auth_per_ip: '3/m' } },
  // What goes wrong where cookies are for https, or for another domain, than the browser is at.
  https: { server: { public_url: 'https://app.example.test' } },
  domain: { server: { public_url: 'http://app.example.test' }, sessions: { cookie: { domain: 'example.test' } } },
  // A proxy in front says where people come from, and a session is good at one address.
  bound: { server: { trusted_proxies: ['127.0.0.1/32'] }, sessions: { bind_ip: 'exact' } },
  throttled: { limits: { requests_per_ip: '3/m' } },
};

// The address of a port that nobody listens on any more.
function deaf() {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address();
      probe.close(() => resolve(`http://127.0.0.1:${port}`));
    });
  });
}
