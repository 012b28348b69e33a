// The whole life of a person here, in one browser and a second one: with JavaScript and without, wide and narrow, light
// and dark.

import { describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { checkWidth } from './support/checks.mjs';
import { PREFIX } from './support/nullpass.mjs';
import { Authenticator } from './support/totp.mjs';
import { PASSWORD, newEmail } from './support/visitor.mjs';
import { World } from './support/world.mjs';

const world = World.forTests();
const NEW_PASSWORD = 'copper-meadow-17-thimble';

const LIVES = [
  { js: true, width: 1280, scheme: 'light' },
  { js: true, width: 320, scheme: 'dark' },
  { js: false, width: 768, scheme: 'dark' },
  { js: false, width: 320, scheme: 'light' },
];

// Two at a time, but never two with scripts: all of a machine share its clipboard.
describe('a whole life', { concurrency: 2 }, () => {
  for (const js of [true, false]) {
    describe(`${js ? 'with' : 'without'} JavaScript`, { concurrency: 1 }, () => {
      for (const options of LIVES.filter((life) => life.js === js)) {
        test(`${options.width} px, ${options.scheme}`, () =>
          world.visit({ ...options, permissions: js ? ['clipboard-read', 'clipboard-write'] : [] }, (desk) =>
            world.visit(options, (phone) => new Life(desk, phone, options).live()),
          ));
      }
    });
  }
});

class Life {
  email = newEmail('grace');

  constructor(desk, phone, { js }) {
    Object.assign(this, { desk, phone, js });
  }

  async live() {
    await this.#register();
    await this.#profile();
    await this.#secondFactorOn();
    await this.#signInWithCode();
    await this.#signInWithRecoveryCode();
    await this.#endTheOtherSession();
    await this.#apiToken();
    await this.#newRecoveryCodes();
    await this.#activity();
    await this.#changePassword();
    await this.#secondFactorOff();
    await this.#deleteAccount();
  }

  async #register() {
    const { desk } = this;
    await desk.go('/inbox?folder=1');
    assert.ok(desk.path.startsWith(`${PREFIX}/login`));
    await desk.press(desk.page.locator('main a[href*="/register"]'));
    await desk.submit({ email: this.email, displayName: 'Grace', password: PASSWORD });
    assert.equal(desk.path, '/inbox?folder=1', 'registering leads to where the person was going');
    assert.equal(await desk.page.locator('#who').innerText(), this.email);
  }

  async #profile() {
    const { desk } = this;
    await desk.own('/account');
    assert.ok((await desk.text()).includes(this.email));
    await desk.submit({ displayName: 'Grace <b>Hopper</b> & Co' });
    assert.equal(await desk.page.locator('.done[role=status]').count(), 1, await desk.text());
    assert.equal(await desk.page.locator('[name=displayName]').inputValue(), 'Grace <b>Hopper</b> & Co');
    await checkWidth(desk.page);
  }

  async #secondFactorOn() {
    const { desk } = this;
    await desk.own('/account/2fa');
    await desk.press('main form button[type=submit]');
    const key = (await desk.page.locator('.key').textContent()).trim();
    assert.match(key, /^([A-Z2-7]{4} )+[A-Z2-7]{1,4}$/, 'the key in groups of four');
    assert.ok(await desk.page.locator('[role=img] svg, img.qr').first().isVisible());
    this.app = new Authenticator(key);
    await desk.submit({ code: this.app.wrongCode() });
    assert.equal(desk.status, 401);
    await desk.submit({ code: await this.app.code() });
    await this.#recoveryCodes();
  }

  // Shown, and to take along: with a script by a button, without one as a file.
  async #recoveryCodes() {
    const { desk } = this;
    this.codes = await desk.page.locator('.codes code').allTextContents();
    assert.equal(this.codes.length, 10);
    const copy = desk.page.locator('[data-copy]');
    assert.equal(await copy.isVisible(), this.js, 'what needs a script is there only with one');
    assert.equal(await desk.page.locator('[data-print]').isVisible(), this.js);
    if (this.js) {
      await copy.click();
      assert.deepEqual((await desk.page.evaluate(() => navigator.clipboard.readText())).trim().split(/\s+/), this.codes);
    }
    const [download] = await Promise.all([desk.page.waitForEvent('download'), desk.page.locator('form[action$="/file"] button').click()]);
    const file = await readFile(await download.path(), 'utf8');
    assert.ok(this.codes.every((code) => file.includes(code)), file);
    await desk.own('/account/2fa');
    assert.ok(!this.codes.some((code) => desk.source.includes(code)), 'they are shown once');
  }

  async #signOut(visitor) {
    await visitor.own('/logout');
    await visitor.press('main form button[type=submit]:not([name])');
    assert.ok(!(await visitor.isSignedIn()));
  }

  async #signInWithCode() {
    const { desk } = this;
    await this.#signOut(desk);
    await desk.go('/inbox');
    await desk.submit({ email: this.email, password: PASSWORD });
    assert.ok(!(await desk.isSignedIn()), 'half a sign-in is none');
    await desk.submit({ code: await this.app.code() });
    assert.equal(desk.path, '/inbox');
  }

  async #signInWithRecoveryCode() {
    const { phone } = this;
    await phone.signIn(this.email, PASSWORD);
    await phone.submit({ recoveryCode: this.codes[0] });
    assert.ok(await phone.isSignedIn());
    await this.#signOut(phone);
    await phone.signIn(this.email, PASSWORD);
    await phone.submit({ recoveryCode: this.codes[0] });
    assert.equal(phone.status, 401, 'each is good once');
    await phone.submit({ recoveryCode: this.codes[1].toUpperCase().replaceAll('-', ' ') });
    assert.ok(await phone.isSignedIn(), 'as people write them');
  }

  async #endTheOtherSession() {
    const { desk, phone } = this;
    await phone.go('/inbox');
    await desk.own('/account/sessions');
    const rows = desk.page.locator('.rows > li');
    assert.equal(await rows.count(), 2);
    assert.match(await desk.text(), /Chrom/, 'the device in words');
    assert.match(await desk.text(), /127\.0\.0\.1/);
    await desk.press(desk.page.locator('button[name=id]'));
    assert.equal(await rows.count(), 1);
    await phone.page.reload();
    await phone.settled();
    assert.ok(phone.path.startsWith(`${PREFIX}/login`), 'thrown out at the next click');
    await phone.submit({ email: this.email, password: PASSWORD });
    await phone.submit({ recoveryCode: this.codes[2] });
    assert.equal(phone.path, '/inbox');
    await desk.own('/account/sessions');
    await desk.press('button[name=others]');
    assert.equal(await rows.count(), 1);
    assert.ok(!(await phone.isSignedIn()) && (await desk.isSignedIn()));
  }

  async #apiToken() {
    const { desk } = this;
    await desk.own('/account/tokens/new');
    await desk.submit({ name: 'Calendar <sync>', expires: '30', paths: '/api/**', methods: 'GET HEAD' });
    const token = (await desk.page.locator('#token').textContent()).trim();
    assert.match(token, /^np_/);
    const asks = async (path) => (await fetch(`${desk.server.url}${path}`, { headers: { authorization: `Bearer ${token}` } })).status;
    assert.deepEqual([await asks('/api/events'), await asks('/other')], [200, 403]);
    await desk.own('/account/tokens');
    assert.ok(!desk.source.includes(token), 'it is shown once');
    assert.match(await desk.text(), /Calendar <sync>/);
    await desk.press(desk.page.locator('form[action$="/tokens/end"] button'));
    if ((await desk.page.locator('button.danger').count()) > 0) await desk.press('button.danger');
    assert.doesNotMatch(await desk.page.locator('main').innerText(), /api\/\*\*/);
    assert.equal(await asks('/api/events'), 401);
  }

  async #newRecoveryCodes() {
    const { desk } = this;
    await desk.own('/account/2fa/recovery-codes');
    await desk.press('main form button[type=submit]');
    const old = this.codes;
    await this.#recoveryCodes();
    assert.ok(!this.codes.some((code) => old.includes(code)));
  }

  async #activity() {
    const { desk } = this;
    await desk.own('/account/activity');
    const rows = await desk.page.locator('.events > li').allInnerTexts();
    assert.ok(rows.length >= 10, `${rows.length} events`);
    for (const row of rows) {
      assert.doesNotMatch(row, /[A-Z]+_[A-Z]+/, 'plain words');
      assert.match(row, /127\.0\.0\.1/);
    }
    await checkWidth(desk.page);
  }

  async #changePassword() {
    const { desk, phone } = this;
    await phone.signIn(this.email, PASSWORD);
    await phone.submit({ recoveryCode: this.codes[0] });
    await desk.own('/account/password');
    await desk.submit({ currentPassword: 'wrong-password', newPassword: NEW_PASSWORD });
    assert.equal(desk.status, 401);
    await desk.submit({ currentPassword: PASSWORD, newPassword: 'password' });
    assert.equal(desk.status, 400);
    await desk.submit({ currentPassword: PASSWORD, newPassword: NEW_PASSWORD });
    assert.equal(desk.status, 200, await desk.text());
    assert.equal(await desk.page.locator('.done[role=status]').count(), 1, await desk.text());
    assert.ok(await desk.isSignedIn(), 'this browser stays signed in');
    assert.ok(!(await phone.isSignedIn()), 'all others do not');
    await phone.signIn(this.email, PASSWORD);
    assert.equal(phone.status, 401, 'the old password is worth nothing');
  }

  async #secondFactorOff() {
    const { desk, phone } = this;
    await desk.own('/account/2fa/off');
    await desk.submit({ recoveryCode: this.codes[1] });
    assert.equal(await desk.page.locator('.done[role=status]').count(), 1, await desk.text());
    await phone.signIn(this.email, NEW_PASSWORD);
    assert.ok(await phone.isSignedIn(), 'the password is enough');
  }

  async #deleteAccount() {
    const { desk, phone } = this;
    await desk.own('/account/delete');
    await desk.submit({ password: PASSWORD });
    assert.equal(desk.status, 401);
    await desk.submit({ password: NEW_PASSWORD });
    assert.ok(!(await desk.isSignedIn()) && !(await phone.isSignedIn()));
    await desk.signIn(this.email, NEW_PASSWORD);
    assert.equal(desk.status, 401);
  }
}
