//! Finding accounts by a part of their address or name, with an index and without an extension of the database: beside
//! the text stands the set of its groups of one, two and three characters, hashed. What has all groups of a search may still
//! lack the search itself, so the text is looked at as well.

use crate::model::User;

/// What a search looks at, in lower case; address and name are apart by a line end, which neither can hold.
pub(super) fn searched(user: &User) -> String {
    let name = user.display_name.as_ref().map_or_else(String::new, |name| name.as_str().to_lowercase());
    format!("{}\n{name}", user.email.as_str())
}

/// The longest group; what is searched for and shorter is one group itself.
const LONGEST: usize = 3;

/// All groups of a text that is looked at, as a sorted set of hashes.
pub(super) fn grams(text: &str) -> Vec<i32> {
    let characters: Vec<char> = text.chars().collect();
    set((1..=LONGEST).flat_map(|length| characters.windows(length).map(hash)))
}

/// The groups that whatever holds this text must have, the longest that say the most; empty for an empty text.
pub(super) fn grams_of_search(text: &str) -> Vec<i32> {
    let characters: Vec<char> = text.chars().collect();
    set(characters.windows(characters.len().clamp(1, LONGEST)).map(hash))
}

fn set(hashes: impl Iterator<Item = i32>) -> Vec<i32> {
    let mut hashes: Vec<i32> = hashes.collect();
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
        assert_eq!(grams_of_search(""), [0; 0]);
        assert_eq!(grams_of_search("abc"), [-1_801_009_963]);
        assert_eq!((grams("aaaa").len(), grams("abc").len()), (3, 6));
        assert!(grams("abc").contains(&-1_801_009_963));
    }

    proptest! {
        #[test]
        fn a_text_has_the_groups_of_each_part(text in "\\PC{0,20}", from in 0..20usize, length in 0..20usize) {
            let part: String = text.chars().skip(from).take(length).collect();
            let all = grams(&text);
            prop_assert!(grams_of_search(&part).iter().all(|gram| all.contains(gram)));
            prop_assert_eq!(grams_of_search(&part).is_empty(), part.is_empty());
        }
    }
}
