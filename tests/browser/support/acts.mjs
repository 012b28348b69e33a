// What people do again and again to get to a page.

import assert from 'node:assert/strict';
import { PREFIX } from './nullpass.mjs';
import { Authenticator } from './totp.mjs';
import { PASSWORD, newEmail } from './visitor.mjs';

const JSON_TYPE = 'application/json';

// Asks the API as script on the visitor's page would: with their cookies, and what is set is theirs.
export async function ask(visitor, method, path, data) {
  const headers = { accept: JSON_TYPE, origin: visitor.server.url, 'sec-fetch-site': 'same-origin' };
  const answer = await visitor.context.request.fetch(`${PREFIX}/api/auth/${path}`, { method, data, headers });
  assert.ok(answer.ok(), `${method} ${path}: ${answer.status()} ${await answer.text()}`);
  return answer.json();
}

// Somebody with an account, who is signed in: by the API, since the page for it is looked at elsewhere.
export async function member(visitor, name = 'Ada Lovelace') {
  const email = newEmail();
  await ask(visitor, 'POST', 'register', { email, password: PASSWORD, displayName: name, cookie: true });
  return email;
}

// With a second factor; answers with the app and the recovery codes.
export async function enrolled(visitor) {
  const { secret } = await ask(visitor, 'POST', '2fa', { enable: true });
  const app = new Authenticator(secret);
  const { recoveryCodes } = await ask(visitor, 'POST', '2fa', { enable: true, verificationCode: await app.code() });
  return { app, codes: recoveryCodes };
}

// The same by its pages.
export async function enrol(visitor) {
  await visitor.own('/account/2fa');
  await visitor.press('main form button[type=submit]');
  const key = await visitor.page.locator('.key').first().textContent();
  const app = new Authenticator(key);
  await visitor.submit({ code: await app.code() });
  return { app, codes: await visitor.page.locator('.codes code').allTextContents() };
}

// From another device.
export async function logIn(visitor, email, password, agent) {
  await fetch(`${visitor.server.url}${PREFIX}/api/auth/login`, {
    method: 'POST',
    headers: { 'content-type': JSON_TYPE, 'user-agent': agent },
    body: JSON.stringify({ email, password }),
  });
}

export function token(visitor, name = 'Calendar') {
  const limits = { paths: ['/api/**', '/calendar/*'], methods: ['GET', 'HEAD'], networks: ['10.0.0.0/8', '2001:db8::/32'] };
  return ask(visitor, 'POST', 'tokens', { name, expiresAt: new Date(Date.now() + 30 * 86_400_000).toISOString(), ...limits });
}

// As many sessions and tokens as fill several pages, with names and limits as long as they may be.
export async function crowd(visitor, email, count) {
  const numbers = [...Array(count).keys()];
  const many = (entry) => [...Array(32).keys()].map(entry);
  const limits = { paths: many((n) => `/${n}${'p'.repeat(200)}/**`), methods: many((n) => `M${'X'.repeat(n)}`), networks: many((n) => `2001:db8:1111:2222:3333:4444:5555:66${n + 10}/128`) };
  for (const n of numbers) {
    await logIn(visitor, email, PASSWORD, `${'x'.repeat(30)}${n % 10}/1 (Windows Phone)`);
    await ask(visitor, 'POST', 'tokens', { name: `"${'W'.repeat(60)}${n}`, expiresAt: '2099-12-31T23:59:59Z', ...limits });
  }
}

// The link that the start printed into its log.
export function setupLink(visitor) {
  const found = /\/setup\?code=[\w-]+/.exec(visitor.server.log);
  if (!found) throw new Error(`no set-up link in the log:\n${visitor.server.log}`);
  return found[0];
}

// What the browser would check by itself is left to the server.
export async function withoutChecks(visitor) {
  await visitor.page.evaluate(() => {
    document.querySelectorAll('form').forEach((form) => (form.noValidate = true));
    document.querySelectorAll('[maxlength]').forEach((field) => field.removeAttribute('maxlength'));
  });
}
