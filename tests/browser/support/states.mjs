// Every page in every state that a person can see it in: how to get there.

import { ACCOUNT_STATES } from './account_states.mjs';
import { enrolled, member, setupLink, withoutChecks } from './acts.mjs';
import { PASSWORD, newEmail } from './visitor.mjs';

async function withSecondFactor(visitor) {
  const email = await member(visitor);
  const { app } = await enrolled(visitor);
  await visitor.context.clearCookies();
  await visitor.signIn(email, PASSWORD);
  return app;
}

// `status`: of the document. `on`: the configuration. `problem`: an error summary stands there.
export const STATES = [
  { name: 'login', reach: (v) => v.own('/login') },
  { name: 'login-on-the-way', reach: (v) => v.go('/reports?year=2026#totals') },
  {
    name: 'login-wrong',
    status: 401,
    problem: true,
    reach: (v) => v.signIn('nobody@example.com', 'wrong-password'),
  },
  {
    name: 'login-empty',
    status: 400,
    problem: true,
    reach: async (v) => {
      await v.own('/login');
      await withoutChecks(v);
      await v.press('main form button[type=submit]');
    },
  },
  {
    name: 'login-stale',
    status: 403,
    problem: true,
    reach: async (v) => {
      await v.own('/login');
      await v.page.locator('[name=csrf]').evaluate((field) => (field.value = 'x'));
      await v.submit({ email: 'ada@example.com', password: PASSWORD });
    },
  },
  {
    name: 'login-429',
    on: 'strict',
    status: 429,
    problem: true,
    reach: async (v) => {
      for (let n = 0; n < 5; n += 1) await v.signIn('nobody@example.com', 'wrong-password');
    },
  },
  { name: 'second-factor', reach: withSecondFactor },
  {
    name: 'second-factor-wrong',
    status: 401,
    problem: true,
    reach: async (v) => {
      const app = await withSecondFactor(v);
      await v.submit({ code: app.wrongCode() });
    },
  },
  {
    name: 'second-factor-wrong-recovery',
    status: 401,
    problem: true,
    reach: async (v) => {
      await withSecondFactor(v);
      await v.submit({ recoveryCode: 'aaaaa-bbbbb' });
    },
  },
  { name: 'register', reach: (v) => v.own('/register') },
  {
    name: 'register-weak',
    status: 400,
    problem: true,
    reach: async (v) => {
      await v.own('/register');
      await v.submit({ email: newEmail(), displayName: 'Ada', password: 'password1' });
    },
  },
  {
    name: 'register-taken',
    status: 409,
    problem: true,
    reach: async (v) => {
      const email = await member(v);
      await v.context.clearCookies();
      await v.own('/register');
      // With the right one they would be signed in.
      await v.submit({ email, password: `not ${PASSWORD}` });
    },
  },
  { name: 'register-closed', on: 'closed', status: 403, reach: (v) => v.own('/register') },
  {
    name: 'setup',
    on: 'closed',
    reach: (v) => v.own(setupLink(v)),
  },
  {
    name: 'setup-weak',
    on: 'closed',
    status: 400,
    problem: true,
    reach: async (v) => {
      await v.own(setupLink(v));
      await v.submit({ email: newEmail(), password: 'password1' });
    },
  },
  { name: 'setup-void', on: 'closed', status: 403, reach: (v) => v.own('/setup?code=x') },
  {
    name: 'reauth',
    reach: async (v) => {
      await member(v);
      await v.own('/reauth?rd=/fresh/page');
    },
  },
  {
    name: 'reauth-wrong',
    status: 401,
    problem: true,
    reach: async (v) => {
      await member(v);
      await v.own('/reauth');
      await v.submit({ password: 'wrong-password' });
    },
  },
  {
    name: 'reauth-enrolled',
    reach: async (v) => {
      await member(v);
      await enrolled(v);
      await v.own('/reauth');
    },
  },
  {
    name: 'logout',
    reach: async (v) => {
      await member(v);
      await v.own('/logout');
    },
  },
  {
    name: 'logout-done',
    reach: async (v) => {
      await member(v);
      await v.own('/logout');
      await v.press('main form button[type=submit]');
    },
  },
  { name: 'logout-signed-out', reach: (v) => v.own('/logout') },
  ...ACCOUNT_STATES,
  {
    name: '403',
    status: 403,
    reach: async (v) => {
      await member(v);
      await v.go('/staff/rota');
    },
  },
  { name: '404', status: 404, reach: (v) => v.own('/nothing') },
  { name: '400', status: 400, reach: (v) => v.go('/a%2e%2e/b%00') },
  {
    name: '429',
    on: 'throttled',
    status: 429,
    reach: async (v) => {
      for (let n = 0; n < 5 && v.status !== 429; n += 1) await v.go('/page');
    },
  },
  {
    name: '502',
    status: 502,
    reach: async (v) => {
      await member(v);
      await v.go('/gone/page');
    },
  },
  {
    name: '503',
    status: 503,
    reach: async (v) => {
      await member(v);
      for (let n = 0; n < 40 && v.status !== 503; n += 1) {
        await v.go('/sick/page');
        if (v.status !== 503) await v.page.waitForTimeout(250);
      }
    },
  },
  {
    name: '504',
    status: 504,
    reach: async (v) => {
      await member(v);
      await v.go('/slow');
    },
  },
];
