// What people do again and again to get to a page.

import { PREFIX } from './nullpass.mjs';
import { Authenticator } from './totp.mjs';
import { PASSWORD, newEmail } from './visitor.mjs';

// Somebody with an account, who is signed in.
export async function member(visitor, name = 'Ada Lovelace') {
  const email = newEmail();
  await visitor.register(email, PASSWORD, name);
  return email;
}

// With a second factor; answers with the app and the recovery codes.
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
    headers: { 'content-type': 'application/json', 'user-agent': agent },
    body: JSON.stringify({ email, password }),
  });
}

export async function token(visitor, name = 'Calendar') {
  await visitor.own('/account/tokens/new');
  await visitor.submit({ name, expires: '30', paths: '/api/** /calendar/*', methods: 'GET HEAD', networks: '10.0.0.0/8 2001:db8::/32' });
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
