//! One password and its hash: argon2id (RFC 9106) in PHC strings. When and how many at a time is in `password`, which has the
//! tests of both.

use std::hint::black_box;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Block, Params, Version};

use super::pace::{self, Pace, Spent};
use super::password::{MAX_BYTES, Verdict};
use super::{digest, random};
use crate::model::Secret;

/// Bytes of a salt (RFC 9106, section 3.1).
const SALT: usize = 16;

/// More than this many bytes at once glibc always takes from the system and gives back; of less it keeps some in each of its
/// arenas once it has had it (mallopt(3), `M_MMAP_THRESHOLD`). Only what is used of them is ever memory.
const GIVEN_BACK: usize = 33 << 20;

/// Memory of a round of further work, which is less than a millisecond of it.
const ROUND_KIB: u32 = 512;

/// Computes a hash into `out`. The memory for it is taken from the system and given back with each: what the allocator keeps
/// of it for next time, it keeps once for every thread that has ever hashed.
fn compute(params: &Params, version: Version, password: &[u8], salt: &[u8], out: &mut [u8]) -> argon2::Result<()> {
    let count = params.block_count();
    let mut blocks: Vec<Block> = Vec::new();
    blocks.try_reserve_exact(count.max(GIVEN_BACK / Block::SIZE)).map_err(|_| argon2::Error::OutOfMemory)?;
    blocks.resize(count, Block::new());
    Argon2::new(Algorithm::Argon2id, version, params.clone()).hash_password_into_with_memory(password, salt, out, &mut blocks)
}

/// The PHC string for a password; `None`: there is no memory for it.
pub(super) fn hash(params: &Params, password: &Secret<String>) -> Option<Secret<String>> {
    let (salt, mut out) = (random::bytes::<SALT>(), [0; Params::DEFAULT_OUTPUT_LEN]);
    let done = compute(params, Version::V0x13, password.expose().as_bytes(), &salt, &mut out);
    let phc = done.map_err(|error| error.to_string()).and_then(|()| written(params, &salt, &out).map_err(|error| error.to_string()));
    zeroize::Zeroize::zeroize(&mut out);
    phc.inspect_err(|error| tracing::error!(%error, "hashing a password failed")).ok()
}

/// The PHC string of a hash.
fn written(params: &Params, salt: &[u8], out: &[u8]) -> argon2::password_hash::Result<Secret<String>> {
    let hash = PasswordHash {
        algorithm: ARGON2ID_IDENT,
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(params)?,
        salt: Some(Salt::new(salt)?),
        hash: Some(Output::new(out)?),
    };
    Ok(Secret::new(hash.to_string()))
}

/// Whether `password` is the one that `phc` was made from, after the same work whether there is one or not; `pace` learns what
/// that takes.
pub(super) fn verify(params: &Params, password: &Secret<String>, phc: Option<&Secret<String>>, pace: &Pace) -> Verdict {
    let password = password.expose().as_bytes();
    let spent = Spent::here();
    let Some(stored) = phc.filter(|_| password.len() <= MAX_BYTES).and_then(|phc| parse_argon2id(phc.expose())) else {
        dummy_work(params);
        pace.learn(spent.so_far());
        return Verdict::Wrong;
    };
    // The parameters are those of the stored string.
    let mut out = [0; Output::MAX_LENGTH];
    let Some(out) = out.get_mut(..stored.hash.len()) else { return Verdict::Wrong };
    if let Err(error) = compute(&stored.params, stored.version, password, &stored.salt, out) {
        tracing::warn!(%error, "a stored password hash can't be used");
        dummy_work(params);
        return Verdict::Wrong;
    }
    if digest::same(out, stored.hash.as_ref()) {
        return Verdict::Right { outdated: weaker(&stored.params, params) };
    }
    // A hash from before the cost was raised would answer sooner than an account that does not exist.
    if let Some(rest) = missing_work(&stored.params, params) {
        make_up(&rest, spent, pace);
    }
    Verdict::Wrong
}

/// Works on for as long as a comparison at the configured cost takes here; as much as `rest` where that is not known.
fn make_up(rest: &Params, spent: Spent, pace: &Pace) {
    let Some(usual) = pace.usual() else { return dummy_work(rest) };
    let most = rest.m_cost().saturating_mul(rest.t_cost()).div_ceil(ROUND_KIB).saturating_mul(2);
    let round = Params::new(ROUND_KIB, 1, 1, None).unwrap_or_default();
    pace::go_on(|| spent.so_far(), usual, most, || dummy_work(&round));
}

/// A whole argon2id PHC string.
struct Stored {
    version: Version,
    params: Params,
    salt: Salt,
    hash: Output,
}

/// A stored hash, if it is a whole argon2id PHC string. Others are named in the log, without the hash.
fn parse_argon2id(phc: &str) -> Option<Stored> {
    let Ok(hash) = PasswordHash::new(phc) else {
        tracing::warn!("a stored password hash is not a PHC string");
        return None;
    };
    if hash.algorithm != ARGON2ID_IDENT {
        tracing::warn!(algorithm = %hash.algorithm, "a stored password hash is of a kind that is not taken");
        return None;
    }
    let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok();
    let (Some(version), Ok(params), Some(salt), Some(hash)) = (version, Params::try_from(&hash), hash.salt, hash.hash) else {
        tracing::warn!("a stored password hash lacks a part, or has parameters that argon2 can't have");
        return None;
    };
    Some(Stored { version, params, salt, hash })
}

/// What a comparison costs, for an attempt that is lost already.
fn dummy_work(params: &Params) {
    let mut out = [0; Params::DEFAULT_OUTPUT_LEN];
    let done = compute(params, Version::V0x13, b"no password", &[0; SALT], &mut out);
    if let Err(error) = done {
        tracing::error!(%error, "hashing a password failed");
    }
    black_box(out);
}

/// What has to be done beside a comparison with `stored` for it to take about as long as one with `wanted`: the time of argon2
/// grows with its memory times its passes, more or less. `None`: nothing, as `stored` costs as much or more.
pub(super) fn missing_work(stored: &Params, wanted: &Params) -> Option<Params> {
    let cost = |params: &Params| u64::from(params.m_cost()) * u64::from(params.t_cost());
    let missing = cost(wanted).checked_sub(cost(stored)).filter(|missing| *missing > 0)?;
    let memory = u32::try_from(missing.div_ceil(wanted.t_cost().into())).ok()?.max(Params::MIN_M_COST * wanted.p_cost());
    Params::new(memory, wanted.t_cost(), wanted.p_cost(), None).ok()
}

/// Whether a hash costs an attacker less than the configuration wants. More lanes don't: memory and passes do.
fn weaker(stored: &Params, wanted: &Params) -> bool {
    stored.m_cost() < wanted.m_cost() || stored.t_cost() < wanted.t_cost()
}
