//! Finding accounts by a part of their address or name, with an index and without an extension of the database: beside
//! the text stands the set of its groups of three characters, hashed. What has all groups of a search may still lack the
//! search itself, so the text is looked at as well.

use crate::model::User;

/// What a search looks at, in lower case; address and name are apart by a line end, which neither can hold.
pub(super) fn searched(user: &User) -> String {
    let name = user.display_name.as_ref().map_or_else(String::new, |name| name.as_str().to_lowercase());
    format!("{}\n{name}", user.email.as_str())
}

/// The groups of three characters in a text, as a sorted set of hashes; empty for a shorter text.
pub(super) fn trigrams(text: &str) -> Vec<i32> {
    let characters: Vec<char> = text.chars().collect();
    let mut hashes: Vec<i32> = characters.windows(3).map(hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

/// FNV-1a: stored, so it must never change.
fn hash(characters: &[char]) -> i32 {
    let bytes = characters.iter().flat_map(|c| u32::from(*c).to_be_bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    i32::from_be_bytes(hash.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hashes_stay_as_they_are() {
        assert_eq!(trigrams("ab"), [0; 0]);
        assert_eq!(trigrams("abc"), [-1_801_009_963]);
        assert_eq!(trigrams("aaaa").len(), 1);
    }

    proptest! {
        #[test]
        fn a_text_has_the_trigrams_of_each_part(text in "\\PC{0,20}", from in 0..20usize, length in 0..20usize) {
            let part: String = text.chars().skip(from).take(length).collect();
            let all = trigrams(&text);
            prop_assert!(trigrams(&part).iter().all(|trigram| all.contains(trigram)));
        }
    }
}
