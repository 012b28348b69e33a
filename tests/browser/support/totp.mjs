// An authenticator app: RFC 6238 with SHA-1, six digits and thirty seconds, from the key that the page shows.

import { createHmac } from 'node:crypto';

const STEP = 30_000;
// As the servers here are configured (`two_factor.skew`): so many steps either side are taken.
const SKEW = 2;

function bytesOf(base32) {
  let bits = '';
  for (const letter of base32.toUpperCase().replace(/[^A-Z2-7]/g, '')) {
    bits += 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(letter).toString(2).padStart(5, '0');
  }
  return Buffer.from((bits.match(/.{8}/g) ?? []).map((byte) => Number.parseInt(byte, 2)));
}

export class Authenticator {
  #key;
  #used = 0;

  constructor(shownKey) {
    this.#key = bytesOf(shownKey);
  }

  #at(step) {
    const counter = Buffer.alloc(8);
    counter.writeBigUInt64BE(BigInt(step));
    const mac = createHmac('sha1', this.#key).update(counter).digest();
    const offset = mac[mac.length - 1] & 15;
    return String((mac.readUInt32BE(offset) & 0x7fffffff) % 1_000_000).padStart(6, '0');
  }

  // A code that was not used yet; each is good once, and only later ones than the last. Waits when all are used up.
  async code() {
    for (;;) {
      const now = Math.floor(Date.now() / STEP);
      const step = Math.max(this.#used + 1, now - SKEW + 1);
      if (step <= now + SKEW) {
        this.#used = step;
        return this.#at(step);
      }
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }

  wrongCode() {
    const now = Math.floor(Date.now() / STEP);
    const near = new Set([-3, -2, -1, 0, 1, 2, 3].map((by) => this.#at(now + by)));
    return ['000000', '111111', '222222', '333333', '444444', '555555', '666666', '777777'].find((code) => !near.has(code));
  }
}
