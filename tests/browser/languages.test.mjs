// Every page in every language: said to be in it, really in it, and nowhere wider than a small phone.

import { test } from 'node:test';
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { SCREENSHOTS, checkAccess, checkForms, checkHtml, checkWeight, checkWidth } from './support/checks.mjs';
import { PREFIX } from './support/nullpass.mjs';
import { crowd, enrol } from './support/acts.mjs';
import { PASSWORD, newEmail } from './support/visitor.mjs';
import { World } from './support/world.mjs';

const world = World.forTests();

// By the browser's setting, as people have it.
const LOCALES = { en: 'en-GB', de: 'de-AT', fr: 'fr-CA', es: 'es-MX', pt: 'pt-BR', ja: 'ja-JP', zh: 'zh-CN' };
const OUTSIDE = ['/login', '/register', '/logout', '/nothing'];
const INSIDE = [
  '/logout', '/reauth', '/account', '/account/password', '/account/2fa', '/account/sessions', '/account/tokens', '/account/tokens/new', '/account/activity',
  '/account/delete',
];
const FAILING = ['/staff/x', '/gone/x', '/slow'];

// What each page says in English, to see that the others say something else.
const english = new Map();

// What no two languages say alike: a word or a name may be the same in both.
const sentences = (text) => text.split('\n').filter((line) => line.trim().split(/\s+/).length > 3 && !/@|np_|\d{2}:\d{2}/.test(line));

for (const [tag, locale] of Object.entries(LOCALES)) {
  test(`the pages in the language ${tag}`, () =>
    world.visit({ locale, width: 320 }, async (visitor) => {
      const { page } = visitor;
      const look = async (name) => {
        assert.equal(await page.locator('html').getAttribute('lang'), tag, name);
        await checkHtml(visitor.source);
        await checkForms(page);
        await checkWidth(page, `${tag} ${name}: `);
        checkWeight(visitor);
        await page.screenshot({ path: join(SCREENSHOTS, `language-${tag}`, `${name.replaceAll('/', '-').slice(1) || 'home'}.png`), fullPage: true });
        const text = await visitor.text();
        const title = await page.title();
        if (tag === 'en') english.set(name, new Set(sentences(text)));
        else assert.deepEqual(sentences(text).filter((line) => english.get(name).has(line)), [], `${tag} ${name} is in English`);
        assert.ok(title.includes(await page.locator('h1').innerText()), title);
        assert.doesNotMatch(text, /\{\*?[a-z_]+\}/, 'a placeholder that nobody filled in');
      };
      for (const path of OUTSIDE) {
        await visitor.own(path);
        await look(path);
      }
      await checkAccess(page);
      await visitor.signIn('nobody@example.com', 'wrong-password');
      await look('/login-wrong');
      await visitor.own('/register');
      await visitor.submit({ email: newEmail(), password: 'password' });
      await look('/register-weak');
      const email = newEmail();
      await visitor.register(email, PASSWORD, 'Ada');
      await crowd(visitor, email, 7);
      for (const path of INSIDE) {
        await visitor.own(path);
        await look(`${path}-in`);
      }
      for (const path of FAILING) {
        await visitor.go(path);
        await look(path);
      }
      await enrol(visitor);
      await look('/recovery-codes');
      await visitor.own('/account/2fa');
      await look('/account/2fa-on');
      await visitor.context.clearCookies();
      await visitor.signIn(email, PASSWORD);
      await look('/second-factor');
    }));
}

test('the switch is remembered, and comes before what the browser asks for', () =>
  world.visit({ locale: 'fr-FR' }, async (visitor) => {
    const { page } = visitor;
    const language = () => page.locator('html').getAttribute('lang');
    await visitor.own('/login?rd=/inbox?a=1');
    assert.equal(await language(), 'fr');
    await visitor.press('[name=set][value=de]');
    assert.equal(await language(), 'de');
    assert.ok(visitor.path.startsWith(`${PREFIX}/login`), 'on the same page');
    await visitor.own('/register');
    assert.equal(await language(), 'de');
    await visitor.own('/login?rd=/inbox?a=1');
    await visitor.press('[name=set][value=ja]');
    const email = newEmail();
    await visitor.press('main a[href*="/register"]');
    await visitor.submit({ email, password: PASSWORD });
    assert.equal(visitor.path, '/inbox?a=1', 'and where one was going is still known');
    const cookie = (await visitor.context.cookies()).find(({ name }) => name.endsWith('nullpass-lang'));
    assert.ok(cookie.expires > Date.now() / 1000 + 300 * 24 * 3600, 'for a year');
    assert.ok(!world.upstream.seen.some(({ headers }) => (headers.cookie ?? '').includes('nullpass')), 'ours never reach the application');
  }));

test('what a browser asks for is weighed, and what nobody speaks is the default', () =>
  world.visit({}, async (visitor) => {
    const cases = {
      'de;q=0.5, fr;q=0.9': 'fr',
      'nl, pt-PT;q=0.8, en;q=0.7': 'pt',
      'zh-Hant-TW, ja;q=0.5': 'zh',
      'nl': 'en',
      '*': 'en',
      'de;q=0, es': 'es',
      '': 'en',
      ',;q=,, DE-de': 'de',
      [`${'x'.repeat(3000)},es`]: undefined,
    };
    for (const [asked, spoken] of Object.entries(cases)) {
      const answer = await visitor.context.request.get(`${PREFIX}/login`, { headers: { 'accept-language': asked, accept: 'text/html' } });
      assert.equal(answer.status(), 200, asked);
      const [, lang] = /<html lang="([^"]+)"/.exec(await answer.text());
      if (spoken) assert.equal(lang, spoken, asked);
      assert.match(answer.headers().vary ?? 'accept-language', /accept-language/i);
    }
  }));
