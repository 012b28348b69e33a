// How pages look to who has set up their system otherwise, or their nullpass.

import { test } from 'node:test';
import assert from 'node:assert/strict';
import { writeFile, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SCREENSHOTS, inspect } from './support/checks.mjs';
import { member } from './support/acts.mjs';
import { World } from './support/world.mjs';

const world = World.forTests();
const OUTSIDE = ['/login', '/register'];
const INSIDE = ['/account', '/account/tokens/new', '/account/delete'];

// Looks at each page, those for everybody first.
async function each(visitor, look) {
  for (const path of [...OUTSIDE, ...INSIDE]) {
    if (path === INSIDE[0]) await member(visitor);
    await visitor.own(path);
    await look(path);
  }
}

test('nothing moves for who wants that', () =>
  world.visit({ reducedMotion: 'reduce' }, async (visitor) => {
    await each(visitor, async (path) => {
      const moving = await visitor.page.evaluate(() =>
        [...document.querySelectorAll('*')].filter((element) => {
          const { transitionDuration, animationName } = getComputedStyle(element);
          return animationName !== 'none' || transitionDuration.split(', ').some((time) => Number.parseFloat(time) > 0);
        }).length,
      );
      assert.equal(moving, 0, path);
    });
  }));

test('with the colours of the system every control still has its edge', () =>
  world.visit({ forcedColors: 'active' }, async (visitor) => {
    await each(visitor, async (path) => {
      const bare = await visitor.page.evaluate(() =>
        [...document.querySelectorAll('main input:not([type=hidden]), main select, main textarea, main button[type=submit], .button')]
          .filter((element) => element.checkVisibility() && Number.parseFloat(getComputedStyle(element).borderTopWidth) < 1)
          .map((element) => element.outerHTML),
      );
      assert.deepEqual(bare, [], path);
      await visitor.page.screenshot({ path: join(SCREENSHOTS, 'forced-colors', `${path.slice(1).replaceAll('/', '-')}.png`), fullPage: true });
    });
  }));

// The name is text, and what stands on the accent can be read whatever colour that is.
for (const [what, accent] of [['a light accent', '#ffe066'], ['a dark accent', '#101040'], ['a middle accent', '#808080']]) {
  test(`a page with a name, a logo and ${what} of the operator's`, async () => {
    const folder = await mkdtemp(join(tmpdir(), 'nullpass-browser-'));
    try {
      const logo = join(folder, 'logo.svg');
      await writeFile(logo, '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 90 30"><rect width="90" height="30" fill="#c33"/></svg>');
      await world.server(accent, { ui: { name: 'Müller & <b>Söhne</b> "GmbH"', accent, logo } });
      await world.visit({ on: accent }, async (visitor) => {
        await visitor.own('/login');
        assert.equal(await visitor.page.locator('.brand').innerText(), 'Müller & <b>Söhne</b> "GmbH"');
        assert.ok(await visitor.page.locator('.brand img').evaluate((image) => image.complete && image.naturalWidth > 0));
        await inspect(visitor, `branded-${accent.slice(1)}`);
        await member(visitor);
        await visitor.own('/account/delete');
        await inspect(visitor, `branded-${accent.slice(1)}-delete`);
      });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
}
