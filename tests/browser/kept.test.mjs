// Work is not lost: a form that meets an ended session is kept in the sign-in page and offered for sending again. And who
// can't get through is told why.

import { test } from 'node:test';
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from './support/checks.mjs';
import { PREFIX } from './support/nullpass.mjs';
import { PASSWORD, launchWithoutCookies, newEmail } from './support/visitor.mjs';
import { enrol, member } from './support/acts.mjs';
import { World } from './support/world.mjs';

const world = World.forTests();
const api = (visitor, path) => `${visitor.server.url}${PREFIX}/api/auth/${path}`;

// Ends every session of a person, from elsewhere.
async function endSessions(visitor, email) {
  const list = JSON.parse(await visitor.server.cli(['session', 'list', email, '--json']));
  for (const { id } of Array.isArray(list) ? list : list.sessions) await visitor.server.cli(['session', 'revoke', id]);
}

// A form of the application is filled in, and sent when the session is over.
async function sendTooLate(visitor, email, values) {
  await visitor.go('/notes');
  const before = world.upstream.seen.length;
  await visitor.fill(values);
  await endSessions(visitor, email);
  await visitor.press('form button');
  assert.deepEqual(world.upstream.seen.slice(before), [], 'nothing arrived');
}

const posts = (title) => world.upstream.seen.filter(({ method, body }) => method === 'POST' && new URLSearchParams(body).get('title') === title);

for (const js of [true, false]) {
  test(`a form that meets an ended session is sent by the button, and by nothing else, ${js ? 'with' : 'without'} JavaScript`, () =>
    world.visit({ js }, async (visitor) => {
      const email = newEmail();
      await visitor.register(email, PASSWORD);
      const { app } = await enrol(visitor);
      const title = `<b>"Ünsent" & 'kept'</b> ${email} 👩‍👩‍👧‍👦`;
      const text = 'first line\n\tsecond\n\n</textarea><script>alert(1)</script>';
      await sendTooLate(visitor, email, { title, text, password: 'never-kept-37' });
      assert.equal(visitor.status, 401);
      await inspect(visitor, `kept-sign-in-${js ? 'js' : 'plain'}`);
      assert.ok(!visitor.source.includes('never-kept-37') && !visitor.source.includes('Ünsent'), 'it is sealed');
      // Through a wrong password, and both steps.
      await visitor.submit({ email, password: 'wrong-password' });
      await visitor.submit({ email, password: PASSWORD });
      await visitor.submit({ code: await app.code() });
      assert.match(await visitor.text(), /Send it now/);
      await inspect(visitor, `kept-offer-${js ? 'js' : 'plain'}`);
      await visitor.page.waitForTimeout(300);
      assert.equal(posts(title).length, 0, 'never by itself');
      await visitor.press('main form button[type=submit]');
      assert.equal(await visitor.page.locator('#line').innerText(), 'POST /notes?draft=1');
      const [sent, ...more] = posts(title);
      assert.equal(more.length, 0);
      const fields = Object.fromEntries(new URLSearchParams(sent.body));
      assert.deepEqual(fields, { title, text: text.replaceAll('\n', '\r\n') });
      assert.equal(sent.headers['x-forwarded-email'], email);
    }));
}

for (const js of [true, false]) {
  test(`a form that a fresh password is asked for is not lost, ${js ? 'with' : 'without'} JavaScript`, () =>
    world.visit({ js }, async (visitor) => {
      const email = newEmail();
      await visitor.register(email, PASSWORD);
      await visitor.go('/fresh/notes');
      if (visitor.path.startsWith(PREFIX)) await visitor.submit({ password: PASSWORD });
      const title = `fresh ${email}`;
      // The rule of `/fresh` wants a password of the last second.
      await visitor.page.locator('form').evaluate((form) => (form.action = '/fresh/notes?draft=2'));
      await visitor.fill({ title, text: 'x', password: 'never-kept-37' });
      await visitor.page.waitForTimeout(1_500);
      await visitor.press('form button');
      assert.equal(visitor.status, 403);
      assert.ok(!visitor.source.includes('never-kept-37') && !visitor.source.includes(title), 'it is sealed');
      await inspect(visitor, `kept-reauth-${js ? 'js' : 'plain'}`);
      await visitor.submit({ password: 'wrong-password' });
      assert.equal(visitor.status, 401);
      await visitor.submit({ password: PASSWORD });
      assert.match(await visitor.text(), /Send it now/);
      assert.equal(posts(title).length, 0, 'never by itself');
      await visitor.press('main form button[type=submit]');
      assert.equal(await visitor.page.locator('#line').innerText(), 'POST /fresh/notes?draft=2');
      assert.deepEqual(Object.fromEntries(new URLSearchParams(posts(title)[0].body)), { title, text: 'x' });
    }));
}

test('what one person had sent is not offered to another', () =>
  world.visit({}, async (visitor) => {
    const [first, second] = [newEmail('first'), newEmail('second')];
    await visitor.register(second, PASSWORD);
    await visitor.context.clearCookies();
    await visitor.register(first, PASSWORD);
    await sendTooLate(visitor, first, { title: 'for one person', text: 'x' });
    await visitor.submit({ email: second, password: PASSWORD });
    assert.ok(await visitor.isSignedIn());
    assert.ok(!visitor.source.includes('for one person'));
    assert.equal(posts('for one person').length, 0);
    assert.match(await visitor.text(), /This can't be sent again/);
    await inspect(visitor, 'kept-gone');
    await visitor.press('main a.button');
    assert.equal(visitor.path, '/notes', 'back to the page that the form was on');
  }));

// How often one signs in before the page explains itself: at the third time at the latest.
async function signInUntilTold(visitor, words) {
  await visitor.go('/inside');
  for (let n = 1; n <= 3; n += 1) {
    await visitor.submit({ email: visitor.email, password: PASSWORD });
    if (words.test(await visitor.text())) return;
  }
  assert.match(await visitor.text(), words);
}

async function account(visitor) {
  visitor.email = newEmail('loop');
  const answer = await fetch(api(visitor, 'register'), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ email: visitor.email, password: PASSWORD }),
  });
  assert.equal(answer.status, 201, await answer.text());
}

test('a browser that keeps no cookies is told so', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'nullpass-browser-'));
  try {
    await world.visit({ context: (options) => launchWithoutCookies(folder, options) }, async (visitor) => {
      await account(visitor);
      await signInUntilTold(visitor, /sends no cookie back/);
      await inspect(visitor, 'loop-no-cookies');
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test('who comes by plain HTTP to a place of https is told where to go', () =>
  world.visit({ on: 'https', at: 'app.example.test' }, async (visitor) => {
    visitor.email = newEmail('loop');
    await (await world.server('https')).cli(['user', 'add', visitor.email, '--password-stdin'], PASSWORD);
    await signInUntilTold(visitor, /by plain HTTP/);
    // To where they were going.
    assert.equal(await visitor.page.locator('main a[href^="https:"]').getAttribute('href'), 'https://app.example.test/inside');
    await inspect(visitor, 'loop-plain-http');
  }));

test('who comes under a name that the cookies are not for is told which they are for', () =>
  world.visit({ on: 'domain', at: 'elsewhere.test' }, async (visitor) => {
    visitor.email = newEmail('loop');
    await (await world.server('domain')).cli(['user', 'add', visitor.email, '--password-stdin'], PASSWORD);
    await signInUntilTold(visitor, /Use an address of that domain/);
    await inspect(visitor, 'loop-wrong-domain');
  }));

test('whose browser sends two cookies of one name is told to delete them', () =>
  world.visit({}, async (visitor) => {
    await account(visitor);
    await visitor.own('/login');
    // Beside ours one that something else has left behind, for a path of ours alone.
    await visitor.context.addCookies([{ name: 'nullpass-pre', value: 'b'.repeat(43), domain: '127.0.0.1', path: PREFIX }]);
    await signInUntilTold(visitor, /two different cookies of the same name/);
    await inspect(visitor, 'loop-two-cookies');
    await visitor.context.clearCookies();
    await visitor.go('/inside');
    await visitor.submit({ email: visitor.email, password: PASSWORD });
    assert.equal(visitor.path, '/inside', 'and that helps');
  }));

test('whose session is unknown a moment after it began is told so', () =>
  world.visit({}, async (visitor) => {
    await account(visitor);
    await visitor.signIn(visitor.email, PASSWORD);
    await endSessions(visitor, visitor.email);
    await visitor.go('/inside');
    assert.match(await visitor.text(), /that session is not known here/);
    await inspect(visitor, 'loop-unknown');
    await visitor.submit({ email: visitor.email, password: PASSWORD });
    assert.equal(visitor.path, '/inside');
  }));

test('who comes from another address than they signed in at is told so', () =>
  world.visit({ on: 'bound' }, async (visitor) => {
    const from = (address) => visitor.context.setExtraHTTPHeaders({ 'x-forwarded-for': address });
    await account(visitor);
    await from('203.0.113.7');
    await visitor.signIn(visitor.email, PASSWORD);
    await visitor.go('/inside');
    assert.equal(visitor.path, '/inside');
    await from('203.0.113.9');
    await visitor.go('/inside');
    assert.match(await visitor.text(), /you come from another network address/);
    await inspect(visitor, 'loop-address');
    await visitor.submit({ email: visitor.email, password: PASSWORD });
    assert.equal(visitor.path, '/inside');
  }));

test('whom the application sends back again and again is told so', () =>
  world.visit({}, async (visitor) => {
    await member(visitor);
    await visitor.go('/loop');
    assert.equal(visitor.status, 403);
    assert.match(await visitor.text(), /the page that you want sends you back here each time/);
    await inspect(visitor, 'loop-round');
    await visitor.press('main .aside a');
    assert.equal(visitor.path, `${PREFIX}/account`);
  }));
