// The pages of one's own account in all their states: see `states.mjs`.

import { ask, crowd, enrol, enrolled, logIn, member, token, withoutChecks } from './acts.mjs';
import { PASSWORD } from './visitor.mjs';

const AGENTS = [
  'Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1',
  'Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0',
  'curl/8.14.1',
  `${'x'.repeat(300)}`,
];

let number = 0;

function made() {
  number += 1;
  return `${process.pid}x${number}`;
}

export const ACCOUNT_STATES = [
  ...[
    ['account', '/account'],
    ['account-password', '/account/password'],
    ['account-sessions', '/account/sessions'],
    ['account-tokens', '/account/tokens'],
    ['account-token-new', '/account/tokens/new'],
    ['account-activity', '/account/activity'],
    ['account-delete', '/account/delete'],
    ['two-factor-off', '/account/2fa'],
  ].map(([name, path]) => ({
    name,
    reach: async (v) => {
      await member(v);
      await v.own(path);
    },
  })),
  {
    name: 'account-long',
    reach: async (v) => {
      // As long as they may be, and without a place where a line could end.
      const email = `${'w'.repeat(64)}@${'m'.repeat(60)}.${'m'.repeat(60)}.example${made()}`;
      await v.register(email, PASSWORD, 'W'.repeat(128));
      await v.own('/account');
    },
  },
  {
    name: 'account-changed',
    reach: async (v) => {
      await member(v);
      await v.own('/account');
      await v.submit({ displayName: 'Ada, Countess of Lovelace' });
    },
  },
  {
    name: 'account-wrong',
    status: 400,
    problem: true,
    reach: async (v) => {
      await member(v);
      await v.own('/account');
      await withoutChecks(v);
      await v.submit({ avatar: 'javascript:alert(1)' });
    },
  },
  {
    name: 'account-password-wrong',
    status: 401,
    problem: true,
    reach: async (v) => {
      await member(v);
      await v.own('/account/password');
      await v.submit({ currentPassword: 'wrong-password', newPassword: 'copper-meadow-17-thimble' });
    },
  },
  {
    name: 'account-password-weak',
    status: 400,
    problem: true,
    reach: async (v) => {
      await member(v);
      await v.own('/account/password');
      await v.submit({ currentPassword: PASSWORD, newPassword: 'password' });
    },
  },
  {
    name: 'account-password-changed',
    reach: async (v) => {
      await member(v);
      await v.own('/account/password');
      await v.submit({ currentPassword: PASSWORD, newPassword: 'copper-meadow-17-thimble' });
    },
  },
  {
    name: 'account-sessions-several',
    reach: async (v) => {
      const email = await member(v);
      for (const agent of AGENTS) await logIn(v, email, PASSWORD, agent);
      await v.own('/account/sessions');
    },
  },
  ...['sessions', 'tokens'].map((list) => ({
    name: `account-${list}-many`,
    reach: async (v) => {
      await crowd(v, await member(v), 25);
      await v.own(`/account/${list}?page=3`);
    },
  })),
  {
    name: 'account-token-wrong',
    status: 400,
    problem: true,
    reach: async (v) => {
      await member(v);
      await v.own('/account/tokens/new');
      await v.submit({ name: 'Calendar', paths: '/api/**\nnot-a-path' });
    },
  },
  {
    name: 'account-token-made',
    reach: async (v) => {
      await member(v);
      await v.own('/account/tokens/new');
      await v.submit({ name: 'Calendar', expires: '30', paths: '/api/** /calendar/*', methods: 'GET HEAD', networks: '10.0.0.0/8 2001:db8::/32' });
    },
  },
  {
    name: 'account-tokens-several',
    reach: async (v) => {
      await member(v);
      for (const name of ['Calendar', 'W'.repeat(64)]) await token(v, name);
      await v.own('/account/tokens');
    },
  },
  {
    name: 'account-token-end',
    reach: async (v) => {
      await member(v);
      await token(v);
      await v.own('/account/tokens');
      await v.press('form[action$="/tokens/end"] button');
    },
  },
  {
    name: 'account-activity-long',
    reach: async (v) => {
      const email = await member(v);
      for (const agent of AGENTS) await logIn(v, email, 'wrong-password', agent);
      for (let n = 0; n < 60; n += 1) await ask(v, 'PATCH', 'me', { displayName: `Ada ${n}` });
      for (let n = 0; n < 2; n += 1) await token(v, `Token ${n}`);
      await v.own('/account/activity');
    },
  },
  {
    name: 'account-delete-wrong',
    status: 401,
    problem: true,
    reach: async (v) => {
      await member(v);
      await v.own('/account/delete');
      await v.submit({ password: 'wrong-password' });
    },
  },
  {
    name: 'account-deleted',
    reach: async (v) => {
      await member(v);
      await v.own('/account/delete');
      await v.submit({ password: PASSWORD });
    },
  },
  {
    name: 'two-factor-scan',
    reach: async (v) => {
      await member(v);
      await v.own('/account/2fa');
      await v.press('main form button[type=submit]');
    },
  },
  {
    name: 'two-factor-scan-by-hand',
    reach: async (v) => {
      await member(v);
      await v.own('/account/2fa');
      await v.press('main form button[type=submit]');
      await v.page.locator('main summary').first().click();
    },
  },
  {
    name: 'two-factor-scan-wrong',
    status: 401,
    problem: true,
    reach: async (v) => {
      await member(v);
      await v.own('/account/2fa');
      await v.press('main form button[type=submit]');
      await v.submit({ code: '000000' });
    },
  },
  {
    name: 'two-factor-done',
    reach: async (v) => {
      await member(v);
      await enrol(v);
    },
  },
  ...[
    ['two-factor-on', '/account/2fa'],
    ['two-factor-end', '/account/2fa/off'],
    ['recovery-codes-ask', '/account/2fa/recovery-codes'],
    ['account-password-code', '/account/password'],
    ['account-delete-code', '/account/delete'],
  ].map(([name, path]) => ({
    name,
    reach: async (v) => {
      await member(v);
      await enrolled(v);
      await v.own(path);
    },
  })),
  {
    name: 'two-factor-end-wrong',
    status: 401,
    problem: true,
    reach: async (v) => {
      await member(v);
      const { app } = await enrolled(v);
      await v.own('/account/2fa/off');
      await v.submit({ code: app.wrongCode() });
    },
  },
  {
    name: 'recovery-codes-new',
    reach: async (v) => {
      await member(v);
      await enrolled(v);
      await v.own('/account/2fa/recovery-codes');
      await v.press('main form button[type=submit]');
    },
  },
  {
    name: 'two-factor-demanded',
    on: 'always',
    reach: async (v) => {
      await member(v);
      await v.go('/');
    },
  },
];
