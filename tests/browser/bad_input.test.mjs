// Every form with empty, too long, wrong and hostile values answers with the form, the kept values and the error by the
// field; nothing is lost but the password, and nothing that was typed is ever more than text.

import { describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { checkHtml } from './support/checks.mjs';
import { FORMS } from './support/forms.mjs';
import { withoutChecks } from './support/acts.mjs';
import { World } from './support/world.mjs';

const world = World.forTests();

const HOSTILE = {
  nothing: '',
  spaces: '   ',
  script: '<script>alert(1)</script>',
  'end of a tag': '"><img src=x onerror=alert(1)>',
  attribute: '" onload="alert(1)',
  quotes: `' autofocus onfocus='alert(1)' x="`,
  entity: '&lt;b&gt; &amp;quot; &#34;',
  'other templates': '{{7*7}}${7*7}<%= 7*7 %>',
  'bidirectional marks': 'a\u202Egpj.exe\u2066b\u2069',
  'zero width': 'a\u200B\u200D\uFEFFb',
  emoji: '👩‍👩‍👧‍👦💥🏳️‍🌈',
  'combining marks': `Z${'\u0351'.repeat(300)}`,
  long: 'ä'.repeat(5_000),
  'a control': 'a\u0008\u001bb',
};

// What no field can hold: it comes from no browser.
const BYTES = ['a%00b', 'a%FFb', 'a%ED%A0%80b', 'a%0D%0ASet-Cookie:%20x=y'];

const isPassword = (field) => /password/i.test(field);

describe('hostile values', { concurrency: 2 }, () => {
  for (const form of FORMS) {
    // All fields at once, as a browser fills them in: one page a value.
    test(`what is typed into the form ${form.name} stays text, and stays there`, () =>
      world.visit({ on: form.on }, async (visitor) => {
        const { page } = visitor;
        page.on('dialog', (dialog) => {
          visitor.faults.push(`dialog: ${dialog.message()}`);
          dialog.dismiss();
        });
        const typed = form.fields.filter((field) => !isPassword(field));
        await form.reach(visitor);
        for (const [kind, value] of Object.entries(HOSTILE)) {
          const values = form.good();
          // All of them together fit into a body.
          for (const field of form.fields) values[field] = value.slice(0, 2_000);
          await withoutChecks(visitor);
          await visitor.submit(values, form.button);
          if (await taken(visitor, form)) {
            // Too many wrong codes lead back to the beginning.
            const refused = visitor.status >= 400 && (form.ends ?? false);
            assert.ok(refused || form.fields.every((field) => form.takes?.includes(field)), `${kind} was taken: ${visitor.path}`);
            await form.again(visitor);
            continue;
          }
          assert.ok(visitor.status >= 400 && visitor.status < 500, `${kind}: ${visitor.status}`);
          await checkHtml(visitor.source);
          assert.equal(await page.locator('[role=alert]').count(), 1, `${kind}: an error summary`);
          await kept(visitor, form, values, kind);
          if (value !== '' || !typed.every((field) => form.optional?.includes(field))) await byTheField(visitor, form, kind);
        }
      }));

    // One field after the other, all others good, and without a browser in between.
    test(`each field of the form ${form.name} answers for itself`, () =>
      world.visit({ on: form.on }, async (visitor) => {
        await form.reach(visitor);
        let hidden = await hiddenOf(visitor, form);
        const again = async () => {
          await form.again(visitor);
          hidden = await hiddenOf(visitor, form);
        };
        // What is no text is told by a page without the form: nothing in it can be told apart.
        const noText = (bytes) => BYTES.includes(bytes);
        const values = [...Object.entries(HOSTILE).map(([kind, value]) => [kind, encodeURIComponent(value)]), ...BYTES.map((bytes) => [bytes, bytes])];
        for (const field of form.fields) {
          for (const [kind, value] of values) {
            const what = `${field} with ${kind}`;
            const { status, headers, text } = await send(visitor, form, hidden, field, value);
            assert.ok(status < 500, `${what}: ${status}`);
            assert.equal(headers.x, undefined);
            assert.ok(!text.includes('\0'), what);
            const isThere = text.includes(`name="${field}"`);
            if (status < 400 || (!isThere && !noText(kind))) {
              assert.ok((status >= 400 && form.ends) || form.takes?.includes(field), `${what} was taken: ${status}`);
              await again();
              continue;
            }
            await checkHtml(text);
            if (!isThere) continue;
            assert.equal(text.match(/role="alert"/g)?.length, 1, `${what}: an error summary`);
            if (value === '' && form.optional?.includes(field)) continue;
            assert.match(text, /aria-invalid="true"/, `${what}: no field is marked`);
            const [, target] = /role="alert"[^]*?<a href="#([^"]+)"/.exec(text) ?? assert.fail(`${what}: the summary leads nowhere`);
            assert.ok(text.includes(`id="${target}"`), `${what}: ${target}`);
          }
        }
      }));
  }
});

async function hiddenOf(visitor, form) {
  const locator = visitor.form(form.fields, form.action);
  const action = await locator.getAttribute('action');
  const fields = await locator.locator('input[type=hidden]').evaluateAll((all) => all.map((input) => [input.name, input.value]));
  return { action, fields };
}

// The form with this value, as it stands in the body, and good ones in its other fields.
async function send(visitor, form, { action, fields }, field, value) {
  const body = [...fields, ...Object.entries({ ...form.good(), [field]: '' })]
    .map(([name, text]) => `${name}=${name === field ? value : encodeURIComponent(text)}`)
    .join('&');
  const answer = await visitor.context.request.post(action, {
    data: body,
    headers: { 'content-type': 'application/x-www-form-urlencoded', origin: visitor.server.url, 'sec-fetch-site': 'same-origin', accept: 'text/html' },
    maxRedirects: 0,
  });
  return { status: answer.status(), headers: answer.headers(), text: await answer.text() };
}

// Whether what was sent has been done: the form is gone, or the page says so.
async function taken(visitor, form) {
  if (form.stays) return visitor.status === 200;
  return (await visitor.form(form.fields, form.action).count()) === 0;
}

// What was typed stands there again, but for passwords and codes.
async function kept(visitor, form, values, what) {
  const again = visitor.form(form.fields, form.action);
  for (const [name, value] of Object.entries(values)) {
    const field = again.locator(`[name="${name}"]`).first();
    const type = await field.getAttribute('type');
    const shown = await field.inputValue();
    if (type === 'password') assert.equal(shown, '', `${what}: ${name} came back`);
    else if (!form.forgets?.includes(name)) assert.equal(shown, asItIsShown(value, type), `${what}: ${name} is kept`);
  }
}

// A field of the type `email` has its spaces taken off by the browser (HTML, "value sanitization algorithm"); a page
// can't hold a control, and says so.
function asItIsShown(value, type) {
  return (type === 'email' ? value.trim() : value).replace(/[\0-\x08\x0e-\x1f]/g, '\uFFFD');
}

// One field at least is marked, says why, and is where the summary's link leads.
async function byTheField(visitor, form, what) {
  const { page } = visitor;
  const again = visitor.form(form.fields, form.action);
  assert.ok((await again.locator('[aria-invalid=true], [aria-invalid=""]').count()) > 0, `${what}: no field is marked`);
  const links = page.locator('[role=alert] a');
  assert.ok((await links.count()) > 0, `${what}: the summary leads nowhere`);
  const target = await links.first().getAttribute('href');
  assert.match(target, /^#/);
  assert.equal(await page.locator(`[id="${target.slice(1)}"]`).count(), 1, `${what}: ${target}`);
}
