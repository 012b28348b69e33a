// A person with a browser of their own (a browser context): what they do, and everything that goes wrong meanwhile.

import { accessSync, constants } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import assert from 'node:assert/strict';
import { chromium } from './modules.mjs';
import { PREFIX } from './nullpass.mjs';

function program() {
  const names = ['chromium', 'chromium-browser', 'google-chrome'];
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    for (const name of names) {
      try {
        accessSync(join(folder, name), constants.X_OK);
        return join(folder, name);
      } catch {
        // Not here.
      }
    }
  }
  throw new Error(`none of ${names.join(', ')} is in PATH`);
}

function launchOptions() {
  // Chromium's own sandbox does not work for root, which is who runs the tests in a container.
  const args = ['--disable-dev-shm-usage', '--host-resolver-rules=MAP *.test 127.0.0.1', ...(process.getuid() === 0 ? ['--no-sandbox'] : [])];
  return { executablePath: program(), args };
}

export function launch() {
  return chromium.launch(launchOptions());
}

// A browser whose owner allows no cookies; a context of its own, with its profile in `folder`.
export async function launchWithoutCookies(folder, options) {
  await mkdir(join(folder, 'Default'), { recursive: true });
  const BLOCK = 2;
  await writeFile(join(folder, 'Default', 'Preferences'), JSON.stringify({ profile: { default_content_setting_values: { cookies: BLOCK } } }));
  return chromium.launchPersistentContext(folder, { ...launchOptions(), ...options });
}

export class Visitor {
  context;
  page;
  server;
  js;
  // What no page of ours may cause: words on the console, refused by the policy, requests to others.
  faults = [];
  // Every response since the last navigation began.
  traffic = [];
  // The bytes of what came from where, since the visit began: what is cached is not asked for again.
  sizes = new Map();
  // The last document: its status and its text as it was sent.
  status = 0;
  source = '';
  #pending = [];

  // `browser`: or a function that makes the context. `options`: `js`, `width`, `scheme` (light or dark), `locale`, and Playwright's own.
  static async open(browser, server, { js = true, width = 1280, scheme = 'light', locale = 'en-US', ...more } = {}) {
    const visitor = new Visitor();
    visitor.server = server;
    visitor.js = js;
    const options = { baseURL: server.url, javaScriptEnabled: js, viewport: { width, height: 900 }, colorScheme: scheme, locale, ...more };
    visitor.context = typeof browser === 'function' ? await browser(options) : await browser.newContext(options);
    visitor.context.setDefaultTimeout(10_000);
    if (js) {
      await visitor.context.addInitScript(() => {
        addEventListener('securitypolicyviolation', (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
      });
    }
    visitor.page = await visitor.tab();
    return visitor;
  }

  // A further tab of the same browser.
  async tab() {
    const page = await this.context.newPage();
    page.on('console', (message) => {
      if (!['error', 'warning'].includes(message.type())) return;
      // The browser's own word on a page whose status is not 2xx.
      if (/^Failed to load resource: the server responded with a status of \d+/.test(message.text()) && message.location().url === page.url()) return;
      // Nor does it take this header by plain HTTP from anywhere but loopback; it does no harm there.
      if (/^The Cross-Origin-Opener-Policy header has been ignored/.test(message.text()) && !this.server.url.includes('//127.0.0.1')) return;
      this.faults.push(`console: ${message.text()}`);
    });
    page.on('pageerror', (error) => this.faults.push(`script: ${error}`));
    page.on('request', (request) => {
      const { origin, protocol } = new URL(request.url());
      if (protocol !== 'data:' && protocol !== 'blob:' && origin !== this.server.url) this.faults.push(`request to ${request.url()}`);
      if (request.isNavigationRequest() && !request.redirectedFrom()) this.traffic = [];
    });
    page.on('response', (response) => this.#pending.push(this.#note(response)));
    return page;
  }

  async #note(response) {
    const request = response.request();
    if (request.url().startsWith('data:')) return;
    const entry = { url: request.url(), kind: request.resourceType(), status: response.status(), headers: response.headers() };
    this.traffic.push(entry);
    if (entry.status >= 300 && entry.status < 400) return;
    const body = await response.body().catch(() => Buffer.alloc(0));
    this.sizes.set(entry.url, body.length);
    if (request.isNavigationRequest() && request.frame() === this.page.mainFrame()) {
      this.status = entry.status;
      this.source = body.toString();
    }
  }

  // All responses of the present page are noted.
  async settled() {
    await this.page.waitForLoadState('load');
    await Promise.all(this.#pending.splice(0));
  }

  get path() {
    const { pathname, search, hash } = new URL(this.page.url());
    return pathname + search + hash;
  }

  async go(path) {
    await this.page.goto(path);
    await this.settled();
  }

  // A page of ours.
  own(path) {
    return this.go(PREFIX + path);
  }

  // Types into the fields of the form that has them all.
  async fill(values) {
    const form = this.form(Object.keys(values));
    for (const [name, value] of Object.entries(values)) {
      const field = form.locator(`[name="${name}"]`).first();
      await this.#reveal(field);
      const type = await field.getAttribute('type');
      const tag = await field.evaluate((element) => element.tagName);
      if (type === 'checkbox') await field.setChecked(value);
      else if (tag === 'SELECT') await field.selectOption(value);
      else await field.fill(value);
    }
    return form;
  }

  // A field in a closed `<details>` can't be typed into: it is opened as a person would.
  async #reveal(field) {
    if (await field.isVisible()) return;
    await field.locator('xpath=ancestor::details[not(@open)]/summary').first().click();
  }

  // The form of the page that has fields of these names.
  form(names, action) {
    const has = names.map((name) => `:has([name="${name}"])`).join('');
    return this.page.locator(`form${action ? `[action$="${action}"]` : ''}${has}`).first();
  }

  // Fills a form in and presses its button, or the one whose name is given.
  async submit(values, button) {
    const form = await this.fill(values);
    await this.press(button ? form.locator(`button[name="${button}"]`) : form.locator('button[type=submit]').first());
  }

  // Presses what leads to another page, and waits for that page.
  async press(target) {
    const locator = typeof target === 'string' ? this.page.locator(target).first() : target;
    await Promise.all([this.page.waitForEvent('load'), locator.click()]);
    await this.settled();
  }

  async text() {
    return this.page.locator('main').innerText();
  }

  async register(email, password, name) {
    await this.own('/register');
    await this.submit({ email, password, ...(name ? { displayName: name } : {}) });
    assert.ok(!this.path.startsWith(`${PREFIX}/register`), `registering ${email}: ${await this.text()}`);
  }

  // Also when somebody is signed in here already.
  async signIn(email, password) {
    await this.own('/login?prompt=login');
    await this.submit({ email, password });
  }

  async isSignedIn() {
    const answer = await this.context.request.get('/probe', { headers: { accept: 'application/json' }, maxRedirects: 0 });
    return answer.status() === 200;
  }

  // Ends the visit: nothing went wrong that a page of ours may not cause.
  async close() {
    await Promise.all(this.#pending.splice(0));
    await this.context.close();
    assert.deepEqual(this.faults, []);
  }
}

let made = 0;

export function newEmail(name = 'ada') {
  made += 1;
  return `${name}.${process.pid}.${made}@example.com`;
}

export const PASSWORD = 'violet-harbour-42-lantern';
