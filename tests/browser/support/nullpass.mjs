// The real binary with a configuration, a data folder and ports of its own, on loopback; ended by its process id.

import { execFile, spawn } from 'node:child_process';
import { existsSync, openSync, closeSync, readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ROOT } from './modules.mjs';

export const PREFIX = '/_auth';
const START_MS = 30_000;
const STOP_MS = 30_000;

function binary() {
  if (process.env.NULLPASS_BIN) return process.env.NULLPASS_BIN;
  const places = ['x86_64-unknown-linux-gnu/release', 'release', 'debug'].map((kind) => join(ROOT, 'target', kind, 'nullpass'));
  const found = places.find((place) => existsSync(place));
  if (!found) throw new Error('no nullpass binary: run `tests/run build`, or set NULLPASS_BIN');
  return found;
}

function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer().once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

// Neither what would configure nullpass nor what would send it through a proxy.
function environment() {
  const kept = Object.entries(process.env).filter(([name]) => !/^(NULLPASS|HTTPS?_PROXY|ALL_PROXY)/i.test(name));
  return { ...Object.fromEntries(kept), NO_COLOR: '1' };
}

// One value on one line; JSON strings without surrogates are TOML's basic strings.
function inline(value) {
  if (Array.isArray(value)) return `[${value.map(inline).join(', ')}]`;
  if (typeof value === 'object') return `{ ${Object.entries(value).map(([key, inner]) => `${JSON.stringify(key)} = ${inline(inner)}`).join(', ')} }`;
  return JSON.stringify(value);
}

function toml(config) {
  const isTable = (value) => typeof value === 'object' && !Array.isArray(value);
  const isTables = (value) => Array.isArray(value) && value.length > 0 && isTable(value[0]);
  const entries = Object.entries(config);
  const lines = entries.filter(([, value]) => !isTable(value) && !isTables(value)).map(([key, value]) => `${key} = ${inline(value)}`);
  for (const [name, section] of entries) {
    for (const body of isTables(section) ? section : isTable(section) ? [section] : []) {
      lines.push(isTables(section) ? `[[${name}]]` : `[${name}]`, ...Object.entries(body).map(([key, value]) => `${key} = ${inline(value)}`));
    }
  }
  return `${lines.join('\n')}\n`;
}

export class Nullpass {
  folder;
  port;
  #process;
  #orphan;

  // `config`: sections that are laid over a configuration with open registration and limits that no test meets.
  static async start(upstream, config = {}) {
    const server = new Nullpass();
    server.folder = await mkdtemp(join(tmpdir(), 'nullpass-browser-'));
    server.port = await freePort();
    const base = {
      server: { listen: [`127.0.0.1:${server.port}`], shutdown_grace: '1s' },
      admin: { listen: '' },
      upstreams: [{ name: 'app', url: upstream }],
      accounts: { registration: 'open' },
      two_factor: { skew: 2 },
      limits: { auth_per_ip: '100000/m', register_per_ip: '100000/h', account_backoff: { after: 100000, base: '1s', max: '1s' } },
      storage: { path: join(server.folder, 'data') },
    };
    for (const [name, section] of Object.entries(config)) {
      base[name] = Array.isArray(section) || typeof section !== 'object' ? section : { ...base[name], ...section };
    }
    await writeFile(join(server.folder, 'nullpass.toml'), toml(base));
    await server.#spawn();
    return server;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  get log() {
    return readFileSync(join(this.folder, 'nullpass.log'), 'utf8');
  }

  async #spawn() {
    const log = openSync(join(this.folder, 'nullpass.log'), 'a');
    this.#process = spawn(binary(), ['serve', '--config', join(this.folder, 'nullpass.toml')], { stdio: ['ignore', log, log], env: environment() });
    closeSync(log);
    // Whatever becomes of the tests: nothing is left behind.
    const { pid } = this.#process;
    this.#orphan = () => {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It has ended already.
      }
    };
    process.once('exit', this.#orphan);
    const until = Date.now() + START_MS;
    for (;;) {
      if (this.#process.exitCode !== null) throw new Error(`nullpass ended at once:\n${this.log}`);
      try {
        await fetch(`${this.url}${PREFIX}/api/health`);
        return;
      } catch (error) {
        if (Date.now() > until) throw new Error(`nullpass does not answer:\n${this.log}`, { cause: error });
        await new Promise((resolve) => setTimeout(resolve, 30));
      }
    }
  }

  // Runs `nullpass ARGS --config FILE`; answers with what it printed.
  cli(args, stdin = '') {
    return new Promise((resolve, reject) => {
      const child = execFile(binary(), [...args, '--config', join(this.folder, 'nullpass.toml')], { env: environment(), cwd: this.folder }, (error, out, err) =>
        error ? reject(new Error(`nullpass ${args.join(' ')}: ${out}${err}`)) : resolve(out),
      );
      child.stdin.end(stdin);
    });
  }

  async stop() {
    const child = this.#process;
    process.off('exit', this.#orphan);
    if (child.exitCode === null && child.signalCode === null) {
      const ended = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
      await ended;
      clearTimeout(timer);
    }
    await rm(this.folder, { recursive: true, force: true });
  }
}
