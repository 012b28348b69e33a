// Every page in every state: its HTML is valid, axe-core finds nothing, nothing is wider than the window in any width,
// and there is a picture of it to look at.

import { describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { inspect } from './support/checks.mjs';
import { STATES } from './support/states.mjs';
import { World } from './support/world.mjs';

const world = World.forTests();

describe('every page in every state', { concurrency: 2 }, () => {
  for (const state of STATES) {
    test(`the page in the state ${state.name}`, () =>
      world.visit({ on: state.on }, async (visitor) => {
        await state.reach(visitor);
        assert.equal(visitor.status, state.status ?? 200, await visitor.text());
        if (state.problem) await checkSummary(visitor.page);
        await inspect(visitor, state.name);
      }));
  }
});

// What is wrong is said first: the focus is there, and from there it goes to the field.
async function checkSummary(page) {
  const summary = page.locator('[role=alert]');
  assert.equal(await summary.count(), 1, 'an error summary');
  assert.ok(await summary.evaluate((element) => element === document.activeElement), 'it has the focus');
  for (const link of await summary.locator('a').all()) {
    const target = (await link.getAttribute('href')).slice(1);
    await link.press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement.id), target, 'a link of the summary leads to its field');
    assert.ok(await page.locator(`[id="${target}"]`).evaluate((field) => field.getAttribute('aria-invalid') === 'true'), `${target} is marked`);
  }
}
