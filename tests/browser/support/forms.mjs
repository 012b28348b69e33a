// Every form: how to get to it, what good values look like, and what it takes that looks hostile.
//
// `fields`: what is tried. `takes`: free text, where anything printable may be good. `forgets`: what does not come back
// although it is no password: codes. `ends`: it goes away
// after too many wrong values. `stays`: it is shown again when
// it has been taken. `again`: to the form once more, after it took something or went away.

import { PASSWORD, newEmail } from './visitor.mjs';
import { enrolled, member, setupLink } from './acts.mjs';

async function scan(visitor) {
  await member(visitor);
  await visitor.own('/account/2fa');
  await visitor.press('main form button[type=submit]');
}

export const FORMS = [
  {
    name: 'login',
    action: '/login',
    reach: (v) => v.own('/login?rd=/x'),
    good: () => ({ email: newEmail('nobody'), password: PASSWORD }),
    fields: ['email', 'password'],
  },
  {
    name: 'register',
    action: '/register',
    reach: (v) => v.own('/register'),
    good: () => ({ email: newEmail(), displayName: 'Ada', password: PASSWORD }),
    fields: ['email', 'displayName', 'password'],
    // An odd password may be strong; a name is whatever its owner says that is text.
    takes: ['displayName', 'password'],
    again: async (v) => {
      await v.context.clearCookies();
      await v.own('/register');
    },
  },
  {
    name: 'second-factor',
    action: '/login/2fa',
    reach: async (v) => {
      v.email = await member(v);
      await enrolled(v);
      await v.context.clearCookies();
      await v.signIn(v.email, PASSWORD);
    },
    good: () => ({ code: '000000' }),
    fields: ['code', 'recoveryCode'],
    forgets: ['code', 'recoveryCode'],
    ends: true,
    again: (v) => v.signIn(v.email, PASSWORD),
  },
  {
    name: 'reauth',
    action: '/reauth',
    reach: async (v) => {
      await member(v);
      await v.own('/reauth');
    },
    good: () => ({ password: 'wrong-password' }),
    fields: ['password'],
  },
  {
    name: 'setup',
    on: 'closed',
    action: '/setup',
    reach: (v) => v.own(setupLink(v)),
    // Never taken: the link is good once.
    good: () => ({ email: 'no address', displayName: 'Ada', password: PASSWORD }),
    fields: ['email', 'displayName', 'password'],
  },
  {
    name: 'profile',
    action: '/account',
    reach: async (v) => {
      await member(v);
      await v.own('/account');
    },
    good: () => ({ displayName: 'Mallory', avatar: 'https://example.com/m.png' }),
    fields: ['displayName', 'avatar'],
    optional: ['displayName', 'avatar'],
    stays: true,
    takes: ['displayName', 'avatar'],
    again: (v) => v.own('/account'),
  },
  {
    name: 'password',
    action: '/account/password',
    reach: async (v) => {
      await member(v);
      await v.own('/account/password');
    },
    good: () => ({ currentPassword: 'wrong-password', newPassword: PASSWORD }),
    fields: ['currentPassword', 'newPassword'],
  },
  {
    name: 'token',
    action: '/account/tokens/new',
    reach: async (v) => {
      await member(v);
      await v.own('/account/tokens/new');
    },
    good: () => ({ name: 'Calendar', paths: '/api/**', methods: 'GET', networks: '10.0.0.0/8' }),
    fields: ['name', 'paths', 'methods', 'networks'],
    optional: ['paths', 'methods', 'networks'],
    takes: ['name', 'paths', 'methods', 'networks'],
    again: (v) => v.own('/account/tokens/new'),
  },
  {
    name: 'two-factor-confirm',
    action: '/account/2fa',
    reach: scan,
    good: () => ({ code: '000000' }),
    fields: ['code'],
    forgets: ['code'],
    ends: true,
    again: scan,
  },
  {
    name: 'two-factor-off',
    action: '/account/2fa/off',
    reach: async (v) => {
      await member(v);
      await enrolled(v);
      await v.own('/account/2fa/off');
    },
    good: () => ({ code: '000000' }),
    fields: ['code', 'recoveryCode'],
    forgets: ['code', 'recoveryCode'],
  },
  {
    name: 'delete',
    action: '/account/delete',
    reach: async (v) => {
      await member(v);
      await v.own('/account/delete');
    },
    good: () => ({ password: 'wrong-password' }),
    fields: ['password'],
  },
];
