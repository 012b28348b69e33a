// The npm packages, which lie where nothing is committed: `.cache/browser`, filled by `tests/run browser`.

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
export const CACHE = process.env.NULLPASS_BROWSER_CACHE ?? `${ROOT}.cache/browser`;

const require = createRequire(`${CACHE}/package.json`);

export const { chromium } = require('playwright-core');
export const { HtmlValidate, StaticConfigLoader } = require('html-validate');
export const AXE = require('axe-core').source;
