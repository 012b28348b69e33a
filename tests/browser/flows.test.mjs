// What people do with a browser besides filling in one form after the other: several tabs, an old tab, the back button, a
// double click, a link with a fragment. Never an error about a token, never a detour that was not needed.

import { test } from 'node:test';
import assert from 'node:assert/strict';
import { PREFIX } from './support/nullpass.mjs';
import { PASSWORD, newEmail } from './support/visitor.mjs';
import { crowd, enrol, member } from './support/acts.mjs';
import { World } from './support/world.mjs';

const world = World.forTests();

// Somebody with an account, in a browser where they are not signed in.
async function known(visitor) {
  const email = newEmail();
  await visitor.register(email, PASSWORD);
  await visitor.context.clearCookies();
  return email;
}

// Two clicks as impatient people make them: the form is sent twice, and the browser shows the second answer alone.
async function clickTwice(visitor, values) {
  let posts = 0;
  visitor.page.on('request', (request) => (posts += request.method() === 'POST' ? 1 : 0));
  const form = await visitor.fill(values);
  const { x, y, width, height } = await form.locator('button[type=submit]').first().boundingBox();
  visitor.server.delay = 400;
  for (const wait of [100, 0]) {
    await visitor.page.mouse.click(x + width / 2, y + height / 2);
    await visitor.page.waitForTimeout(wait);
  }
  for (let n = 0; n < 50 && visitor.path !== '/inside'; n += 1) await visitor.page.waitForTimeout(100);
  visitor.server.delay = 0;
  await visitor.settled();
  assert.equal(posts, 2, 'both clicks sent the form');
  assert.equal(visitor.path, '/inside', await visitor.page.locator('body').innerText());
  assert.ok(await isApplication(visitor));
  await visitor.go('/further');
  assert.ok(await isApplication(visitor));
}

const isApplication = async (visitor) => (await visitor.page.locator('#who').count()) === 1;

for (const js of [true, false]) {
  const how = js ? 'with JavaScript' : 'without JavaScript';

  test(`a link is remembered through both steps of signing in, ${how}`, () =>
    world.visit({ js }, async (visitor) => {
      const email = newEmail();
      await visitor.register(email, PASSWORD);
      const { app } = await enrol(visitor);
      await visitor.context.clearCookies();
      await visitor.go('/reports?year=2026&q=a%20b#section');
      assert.ok(visitor.path.startsWith(`${PREFIX}/login`), visitor.path);
      await visitor.submit({ email, password: 'wrong-password' });
      assert.equal(visitor.status, 401);
      await visitor.submit({ email, password: PASSWORD });
      await visitor.submit({ code: app.wrongCode() });
      await visitor.submit({ code: await app.code() });
      assert.ok(await isApplication(visitor), await visitor.page.locator('body').innerText());
      // A fragment never reaches the server (RFC 3986, 3.5): without a script it is lost where a form is sent.
      assert.equal(visitor.path, `/reports?year=2026&q=a%20b${js ? '#section' : ''}`);
      assert.equal(await visitor.page.locator('#who').innerText(), email);
    }));

  test(`several tabs sign in one after the other, and each gets where it was going, ${how}`, () =>
    world.visit({ js }, async (visitor) => {
      const email = await known(visitor);
      const first = visitor.page;
      await visitor.go('/one?a=1');
      const second = await visitor.tab();
      visitor.page = second;
      await visitor.go('/two?b=2');
      visitor.page = first;
      await visitor.submit({ email, password: PASSWORD });
      assert.equal(visitor.path, '/one?a=1');
      // The other tab's page is older than the session.
      visitor.page = second;
      await visitor.submit({ email, password: PASSWORD });
      assert.equal(visitor.path, '/two?b=2');
      visitor.page = first;
      await visitor.go('/three');
      assert.ok(await isApplication(visitor));
    }));

  test(`an old tab still works after signing in, out and in again, ${how}`, () =>
    world.visit({ js }, async (visitor) => {
      const email = await known(visitor);
      const old = visitor.page;
      await visitor.go('/old');
      visitor.page = await visitor.tab();
      await visitor.signIn(email, PASSWORD);
      await visitor.own('/logout');
      await visitor.press('main form button[type=submit]');
      visitor.page = old;
      await visitor.submit({ email, password: PASSWORD });
      assert.equal(visitor.path, '/old', await visitor.page.locator('body').innerText());
    }));

  test(`the back button after signing in leads to no error, ${how}`, () =>
    world.visit({ js }, async (visitor) => {
      const email = await known(visitor);
      await visitor.go('/inside');
      await visitor.submit({ email, password: PASSWORD });
      assert.equal(visitor.path, '/inside');
      await visitor.page.goBack();
      await visitor.settled();
      // Either straight on, or a form that still works.
      if (!(await isApplication(visitor))) await visitor.submit({ email, password: PASSWORD });
      assert.ok(await isApplication(visitor), await visitor.text());
      assert.equal(visitor.path, '/inside');
    }));

  test(`a double click signs in once, ${how}`, () =>
    world.visit({ js, slow: true }, async (visitor) => {
      const email = await known(visitor);
      await visitor.go('/inside');
      await clickTwice(visitor, { email, password: PASSWORD });
    }));

  test(`a double click registers once, and says nothing of an address that is taken, ${how}`, () =>
    world.visit({ js, slow: true }, async (visitor) => {
      await visitor.own('/register?rd=/inside');
      await clickTwice(visitor, { email: newEmail(), password: PASSWORD });
    }));

  test(`a double click on the code's button signs in once, ${how}`, () =>
    world.visit({ js, slow: true }, async (visitor) => {
      const email = newEmail();
      await visitor.register(email, PASSWORD);
      const { app } = await enrol(visitor);
      await visitor.context.clearCookies();
      await visitor.go('/inside');
      await visitor.submit({ email, password: PASSWORD });
      await clickTwice(visitor, { code: await app.code() });
    }));

  test(`who is signed in already goes straight on, ${how}`, () =>
    world.visit({ js }, async (visitor) => {
      await visitor.register(newEmail(), PASSWORD);
      await visitor.own('/login?rd=/wanted?x=1%26y=2');
      assert.equal(visitor.path, '/wanted?x=1&y=2');
      await visitor.own('/login');
      assert.equal(visitor.path, '/');
      await visitor.own('/register?rd=/welcome');
      assert.equal(visitor.path, '/welcome', 'and needs no other account');
    }));

  test(`long lists are turned over page by page, and who ends something stays where they were, ${how}`, () =>
    world.visit({ js }, async (visitor) => {
      const { page } = visitor;
      await crowd(visitor, await member(visitor), 24);
      for (const [list, inAll] of [['sessions', 25], ['tokens', 24]]) {
        await visitor.own(`/account/${list}`);
        const rows = page.locator('.rows > li');
        const where = () => page.locator('.pages span').innerText();
        let seen = await rows.count();
        assert.equal(await page.locator('.pages [rel=prev]').count(), 0);
        while ((await page.locator('.pages [rel=next]').count()) > 0) {
          await visitor.press('.pages [rel=next]');
          seen += await rows.count();
          if (list === 'sessions') assert.equal(await page.locator('[name=others]').count(), 1, 'on every page');
        }
        assert.equal(seen, inAll);
        assert.equal(await where(), '5 / 5');
        await visitor.own(`/account/${list}?page=99`);
        assert.equal(await where(), '5 / 5', 'beyond the end is the last');
        await visitor.press('.pages [rel=prev]');
        await visitor.press(page.locator('button[name=id]').first());
        assert.equal(await where(), '4 / 5', 'ended, and still there');
        assert.equal(await page.locator('.done[role=status]').count(), 1);
      }
      await visitor.own('/account/sessions?page=3');
      await visitor.press('[name=others]');
      assert.equal(await page.locator('.rows > li').count(), 1);
      assert.equal(await page.locator('.pages').count(), 0);
    }));

  test(`signing out ends the session, and everywhere ends all, ${how}`, () =>
    world.visit({ js }, (phone) =>
      world.visit({ js, width: 320 }, async (desk) => {
        const email = newEmail();
        await phone.register(email, PASSWORD);
        for (const visitor of [desk, phone]) await visitor.signIn(email, PASSWORD);
        await desk.own('/logout');
        await desk.press('main form button[type=submit]:not([name])');
        assert.ok(!(await desk.isSignedIn()) && (await phone.isSignedIn()));
        await desk.signIn(email, PASSWORD);
        await desk.own('/logout');
        await desk.press('main form button[name=everywhere]');
        assert.ok(!(await desk.isSignedIn()) && !(await phone.isSignedIn()));
        await phone.go('/inside');
        assert.ok(phone.path.startsWith(`${PREFIX}/login`), phone.path);
      }),
    ));
}

// Browsers hold what follows on a form against `form-action`, so also on a redirect of the application's.
test('the switch of languages leads back to an address that leads elsewhere by then', () =>
  world.visit({}, async (visitor) => {
    await member(visitor);
    world.upstream.broken = true;
    await visitor.go('/moved');
    assert.equal(visitor.status, 502);
    await visitor.press('[name=set][value=de]');
    assert.equal(visitor.status, 502);
    assert.equal(await visitor.page.locator('html').getAttribute('lang'), 'de');
    world.upstream.broken = false;
    await visitor.press('[name=set][value=fr]');
    assert.equal(visitor.page.url(), `${world.upstream.url}/elsewhere`);
    assert.deepEqual(visitor.faults.splice(0), [`request to ${world.upstream.url}/elsewhere`]);
    for (const [path, status] of [['/staff/x', 403], [`${PREFIX}/nothing`, 404], ['/gone/x', 502]]) {
      for (const tag of ['es', 'ja']) {
        await visitor.go(path);
        await visitor.press(`[name=set][value=${tag}]`);
        assert.deepEqual([visitor.status, visitor.path, await visitor.page.locator('html').getAttribute('lang')], [status, path, tag]);
      }
    }
  }));

test('where to go after signing in is never another site', () =>
  world.visit({ js: false }, async (visitor) => {
    const email = await known(visitor);
    for (const rd of ['https://evil.example/', '//evil.example/', '/\\evil.example/', 'javascript:alert(1)', '"><script>alert(1)</script>']) {
      await visitor.context.clearCookies();
      await visitor.own(`/login?rd=${encodeURIComponent(rd)}`);
      await visitor.submit({ email, password: PASSWORD });
      assert.equal(visitor.path, '/', rd);
    }
  }));

test('the style is asked for once, and kept for a year', () =>
  world.visit({}, async (visitor) => {
    await visitor.own('/login');
    const style = visitor.traffic.find(({ kind }) => kind === 'stylesheet');
    assert.match(style.headers['cache-control'], /immutable/);
    assert.match(style.headers['cache-control'], /max-age=31536000/);
    await visitor.own('/register');
    const sizes = await visitor.page.evaluate(() => performance.getEntriesByType('resource').map((entry) => entry.transferSize));
    assert.deepEqual(sizes, sizes.map(() => 0), 'nothing but the page itself came over the line');
  }));
