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
import { enrol } from './support/acts.mjs';
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
    if (visitor.path.startsWith(PREFIX)) await inspect(visitor, 'kept-for-another');
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
    assert.equal(await visitor.page.locator('main a[href^="https://app.example.test"]').count(), 1);
    await inspect(visitor, 'loop-plain-http');
  }));

test('who comes under a name that the cookies are not for is told which they are for', () =>
  world.visit({ on: 'domain', at: 'elsewhere.test' }, async (visitor) => {
    visitor.email = newEmail('loop');
    await (await world.server('domain')).cli(['user', 'add', visitor.email, '--password-stdin'], PASSWORD);
    await signInUntilTold(visitor, /Use an address of that domain/);
    await inspect(visitor, 'loop-wrong-domain');
  }));
