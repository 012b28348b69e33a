// What must hold of every page, whatever it says: valid HTML, no violation that axe-core finds, nothing wider than the
// window, the right language. And the pictures of it.

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import assert from 'node:assert/strict';
import { AXE, CACHE, HtmlValidate, StaticConfigLoader } from './modules.mjs';

const WIDTHS = [320, 768, 1280];
const SCHEMES = ['light', 'dark'];

// A picture of a middle width shows nothing that the others do not.
const PICTURED = [320, 1280];
export const SCREENSHOTS = process.env.NULLPASS_SCREENSHOTS ?? join(CACHE, 'screenshots');

// Web Content Accessibility Guidelines up to 2.2 AA, and what axe-core's authors advise beyond them.
const TAGS = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22a', 'wcag22aa', 'best-practice'];

// Bytes, what a slow line brings in a second or two.
const MAX_WEIGHT = 15_000;

const validator = new HtmlValidate(
  new StaticConfigLoader({
    root: true,
    extends: ['html-validate:recommended'],
    rules: {
      // Taste, not validity.
      'long-title': 'off',
      'doctype-style': 'off',
      'no-trailing-whitespace': 'off',
      // A template's condition leaves `<input >` at worst.
      'no-implicit-button-type': 'error',
      // Two `alert`s or a `nav` of the same kind need names; axe looks at that too.
      'unique-landmark': 'error',
      'require-csp-nonce': 'off',
      'require-sri': 'off',
    },
  }),
);

export async function checkHtml(source) {
  assert.match(source, /^<!doctype html>/i, `not a page: ${source.slice(0, 200)}`);
  const report = await validator.validateString(source);
  const lines = source.split('\n');
  const faults = report.results.flatMap((result) => result.messages).map(({ line, ruleId, message }) => `${ruleId}: ${message}: ${lines[line - 1]}`);
  assert.deepEqual(faults, []);
  // Everything of a page is in files of their own, so that the policy needs no `unsafe-inline`.
  assert.doesNotMatch(source, /<style|<script(?![^>]*\ssrc=)|\sstyle\s*=|\son[a-z]+\s*=\s*["']/i);
}

// `rules`: these alone.
export async function checkAccess(page, rules) {
  await page.evaluate(AXE);
  const runOnly = rules ? { type: 'rule', values: rules } : { type: 'tag', values: TAGS };
  const violations = await page.evaluate(
    (only) => globalThis.axe.run(document, { runOnly: only, resultTypes: ['violations'] }).then((result) => result.violations),
    runOnly,
  );
  const told = violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => `${node.html} (${node.failureSummary})`).join('; ')}`);
  assert.deepEqual(told, []);
}

// Nothing sticks out of the window sideways.
export async function checkWidth(page, what = '') {
  const out = await page.evaluate(() => {
    const width = document.documentElement.clientWidth;
    const found = [...document.body.querySelectorAll('*')].filter((element) => {
      const box = element.getBoundingClientRect();
      return box.width > 1 && box.height > 1 && (box.right > width + 0.5 || box.left < -0.5);
    });
    return { scroll: document.scrollingElement.scrollWidth - width, found: found.map((element) => element.outerHTML.slice(0, 200)) };
  });
  assert.ok(out.scroll <= 0 && out.found.length === 0, `${what}wider than the window by ${out.scroll}px: ${out.found.join('\n')}`);
}

// Every control is large enough for a finger or has room around it (WCAG 2.2, 2.5.8), and has a name.
export async function checkForms(page) {
  const faults = await page.evaluate(() => {
    const wrong = [];
    const autocomplete = { email: 'username', code: 'one-time-code' };
    for (const field of document.querySelectorAll('input:not([type=hidden]), select, textarea')) {
      // For password managers alone: whose password it is.
      if (field.hidden) continue;
      const name = field.getAttribute('name');
      const token = field.getAttribute('autocomplete');
      if (!field.labels?.length && !field.getAttribute('aria-label')) wrong.push(`${name}: no label`);
      if (field.type === 'password' && !['current-password', 'new-password'].includes(token)) wrong.push(`${name}: autocomplete ${token}`);
      if (autocomplete[name] && token !== autocomplete[name]) wrong.push(`${name}: autocomplete ${token}`);
      if (name === 'code' && field.inputMode !== 'numeric') wrong.push(`${name}: inputmode ${field.inputMode}`);
      if (field.getAttribute('onpaste') || field.readOnly) wrong.push(`${name}: paste does not work`);
      if (field.getAttribute('aria-invalid') === 'true') {
        const words = (field.getAttribute('aria-describedby') ?? '').split(' ').map((id) => document.getElementById(id)?.textContent.trim() ?? '');
        if (!words.some(Boolean)) wrong.push(`${name}: invalid, and nobody says why`);
      }
    }
    // What a button does is told apart by its name, which may be made of several elements' words.
    const named = (id) => document.getElementById(id)?.textContent.trim();
    const names = [...document.querySelectorAll('button[type=button]')]
      .filter((button) => button.checkVisibility())
      .map((button) => button.getAttribute('aria-labelledby')?.split(' ').map(named).join(' ') ?? button.textContent.trim());
    if (new Set(names).size < names.length) wrong.push(`buttons of the same name: ${names.join(', ')}`);
    return wrong;
  });
  assert.deepEqual(faults, []);
}

// With the keyboard alone: every control is reached, in the order of the page, and one sees where one is (WCAG 2.1.1,
// 2.1.2, 2.4.3, 2.4.7, 2.4.11).
export async function checkKeyboard(page) {
  const expected = await page.evaluate(() => {
    const all = [...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex="0"]')];
    const reachable = all.filter((element) => !element.disabled && element.checkVisibility({ visibilityProperty: true }));
    reachable.forEach((element, index) => element.setAttribute('data-stop', index));
    // From the very top, wherever the page put the focus.
    document.activeElement?.blur();
    document.body.tabIndex = -1;
    document.body.focus();
    document.body.removeAttribute('tabindex');
    return reachable.map((element) => element.outerHTML.slice(0, 120));
  });
  for (const [index, what] of expected.entries()) {
    await page.keyboard.press('Tab');
    const seen = await page.evaluate(() => {
      const element = document.activeElement;
      const { outlineStyle, outlineWidth } = getComputedStyle(element);
      const box = element.getBoundingClientRect();
      const inWindow = box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
      return { at: element.getAttribute('data-stop'), html: element.outerHTML.slice(0, 120), outline: outlineStyle === 'none' ? 0 : Number.parseFloat(outlineWidth), inWindow };
    });
    assert.equal(seen.at, String(index), `Tab ${index + 1} should lead to ${what}, and leads to ${seen.html}`);
    assert.ok(seen.outline >= 2, `nobody sees that the focus is at ${what}`);
    assert.ok(seen.inWindow, `the focus is out of sight at ${what}`);
  }
  await page.evaluate(() => document.querySelectorAll('[data-stop]').forEach((element) => element.removeAttribute('data-stop')));
}

// One document, one style, one script and one logo at most; without the logo less than 15 kB, without compression.
export function checkWeight(visitor) {
  const counts = { document: 0, stylesheet: 0, script: 0, image: 0 };
  for (const { kind, status, url } of visitor.traffic) {
    assert.ok(kind in counts, `${kind}: ${url}`);
    if (status < 300 || status >= 400) counts[kind] += 1;
  }
  assert.equal(counts.document, 1);
  assert.ok(counts.stylesheet <= 1 && counts.script <= 1 && counts.image <= (visitor.source.includes('<img') ? 1 : 0), JSON.stringify(counts));
  const wanted = visitor.js ? /<(?:link rel="stylesheet" href|script[^>]* src)="([^"]+)"/g : /<link rel="stylesheet" href="([^"]+)"/g;
  const parts = [...visitor.source.matchAll(wanted)].map(([, url]) => new URL(url, visitor.server.url).href);
  const bytes = parts.map((url) => visitor.sizes.get(url));
  assert.ok(bytes.every((size) => size > 0), `not all came: ${parts.join(', ')}`);
  const total = Buffer.byteLength(visitor.source) + bytes.reduce((sum, size) => sum + size, 0);
  assert.ok(total < MAX_WEIGHT, `${total} bytes`);
  return total;
}

// The page as it stands, in every width and both schemes: pictures, and what must hold.
export async function inspect(visitor, name) {
  const { page } = visitor;
  await visitor.settled();
  await checkHtml(visitor.source);
  checkWeight(visitor);
  await checkForms(page);
  assert.equal(await page.locator('h1').count(), 1, 'one h1');
  const folder = join(SCREENSHOTS, name);
  mkdirSync(folder, { recursive: true });
  const before = page.viewportSize();
  for (const width of WIDTHS) {
    await page.setViewportSize({ width, height: 900 });
    for (const colorScheme of PICTURED.includes(width) ? SCHEMES : []) {
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: join(folder, `${width}-${colorScheme}.png`), fullPage: true });
      // Nothing but contrast hangs on the scheme; the size of targets hangs on the width.
      // axe-core waits for timers, which do not run where scripts are off.
      if (width === 320 && visitor.js) await checkAccess(page, colorScheme === 'light' ? undefined : ['color-contrast', 'link-in-text-block']);
    }
    if (width === 320) await checkKeyboard(page);
    await checkWidth(page, `${width} px: `);
  }
  await page.emulateMedia({ colorScheme: 'light' });
  // Text of twice the size (WCAG 1.4.4) in the window of a browser that is zoomed to 200 %.
  await page.setViewportSize({ width: 640, height: 450 });
  await page.evaluate(() => (document.documentElement.style.fontSize = '200%'));
  await checkWidth(page, 'text of 200 %: ');
  await page.evaluate(() => (document.documentElement.style.fontSize = ''));
  await page.setViewportSize(before);
}
