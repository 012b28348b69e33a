//! Randomness: all of it, from the operating system (requirement RND-1). Nothing else in the crate makes secrets from
//! any other source.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::model::Secret;

/// `N` random bytes.
///
/// The process is aborted when the operating system has none. There is nothing safe to go on with: a key, a nonce or a
/// token that can be guessed is worse than no service, and a panic would be caught and end a single connection only.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::error!(%error, "the operating system has no randomness: giving up");
        std::process::abort();
    }
    bytes
}

/// A full-strength secret as text: 32 random bytes as unpadded base64url, 43 characters.
pub fn token_text() -> Secret<String> {
    Secret::new(URL_SAFE_NO_PAD.encode(Zeroizing::new(bytes::<32>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_alike() {
        assert_ne!(bytes::<16>(), bytes::<16>());
        let (a, b) = (token_text(), token_text());
        assert_ne!(a, b);
        assert_eq!(a.expose().len(), 43);
        assert_eq!(URL_SAFE_NO_PAD.decode(a.expose()).map(|bytes| bytes.len()), Ok(32));
    }
}
