// Every form with empty, too long, wrong and hostile values answers with the form, the kept values and the error by the
// field; nothing is lost but the password, and nothing that was typed is ever more than text.

import { test } from 'node:test';
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

const FOR_PASSWORDS = ['nothing', 'script', 'attribute', 'emoji', 'long', 'a control'];

for (const form of FORMS) {
  test(`what is typed into the form ${form.name} stays text, and stays there`, () =>
    world.visit({ on: form.on }, async (visitor) => {
      const { page } = visitor;
      page.on('dialog', (dialog) => {
        visitor.faults.push(`dialog: ${dialog.message()}`);
        dialog.dismiss();
      });
      await form.reach(visitor);
      for (const field of form.fields) {
        for (const [kind, value] of Object.entries(HOSTILE)) {
          // A password never comes back, whatever it is: a few are enough.
          if (/password/i.test(field) && !FOR_PASSWORDS.includes(kind)) continue;
          const what = `${field} with ${kind}`;
          const values = { ...form.good(), [field]: value };
          await withoutChecks(visitor);
          await visitor.submit(values, form.button);
          if (await taken(visitor, form)) {
            // Too many wrong codes lead back to the beginning.
            const refused = visitor.status >= 400 && (form.ends ?? false);
            assert.ok(refused || form.takes?.includes(field), `${what} was taken: ${visitor.path}`);
            await form.again(visitor);
            continue;
          }
          assert.ok(visitor.status >= 400 && visitor.status < 500, `${what}: ${visitor.status}`);
          await checkHtml(visitor.source);
          assert.equal(await page.locator('[role=alert]').count(), 1, `${what}: an error summary`);
          await kept(visitor, form, values, what);
          if (value !== '' || !form.optional?.includes(field)) await byTheField(visitor, form, what);
        }
      }
    }));

  test(`a NUL and bytes that are no text in the form ${form.name} are told, not passed on`, () =>
    world.visit({ on: form.on }, async (visitor) => {
      await form.reach(visitor);
      for (const field of form.fields) {
        for (const bytes of ['a%00b', 'a%FFb', 'a%ED%A0%80b', 'a%0D%0ASet-Cookie:%20x=y']) {
          const locator = visitor.form(form.fields, form.action);
          const action = await locator.getAttribute('action');
          const hidden = await locator.locator('input[type=hidden]').evaluateAll((all) => all.map((input) => [input.name, input.value]));
          const body = [...hidden, ...Object.entries(form.good())]
            .map(([name, value]) => `${name}=${name === field ? bytes : encodeURIComponent(value)}`)
            .join('&');
          const answer = await visitor.context.request.post(action, {
            data: body,
            headers: { 'content-type': 'application/x-www-form-urlencoded', origin: visitor.server.url, 'sec-fetch-site': 'same-origin', accept: 'text/html' },
            maxRedirects: 0,
          });
          const what = `${field}=${bytes}`;
          const text = await answer.text();
          assert.ok(answer.status() < 500, `${what}: ${answer.status()}`);
          assert.equal(answer.headers()['x'], undefined);
          assert.ok(!text.includes('\0'), what);
          if (answer.status() >= 300 && answer.status() < 400) {
            assert.ok(form.takes?.includes(field), `${what} was taken`);
            await form.again(visitor);
          } else {
            await checkHtml(text);
          }
        }
      }
    }));
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
    if (type === 'password') assert.equal(shown, '', `${what}: the password came back`);
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
