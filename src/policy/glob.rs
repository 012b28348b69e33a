//! The paths that a rule selects. A glob is anchored at both ends and knows two wildcards: `*` for any characters
//! within a segment (none, too), `**` for any number of whole segments (none, too). No regular expressions: one that
//! is not anchored, or that takes exponential time, is a hole (requirement PATH-2).
//!
//! `/admin` selects `/admin` alone, not `/admin/`; `/admin/**` selects both and everything below.

use std::borrow::Cow;

use thiserror::Error;
use unicode_normalization::UnicodeNormalization as _;

/// A path pattern. It is matched against a reading of a path ([`super::path::Readings`]), which is decoded text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    exact: Vec<Segment>,
    folded: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// `**`.
    AnyDepth,
    /// Everything else; each `*` in it is a wildcard.
    Text(String),
}

/// Why a text is no glob. What could only ever match nothing is refused, so that a rule is never silently void
/// (requirement CFG-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GlobError {
    /// A glob is anchored.
    #[error("a path begins with a slash")]
    NotAbsolute,
    /// As in `/a**`.
    #[error("** stands for whole segments: write /**/ or a single *")]
    PartialDepth,
    /// Such a path never gets as far as the rules.
    #[error("a path with a dot segment, a backslash or a control character is refused before any rule is asked")]
    NeverSeen,
    /// `//` in the middle.
    #[error("an empty segment matches nothing, since // is also read as /")]
    EmptySegment,
    /// `;` begins a parameter.
    #[error("a parameter (;…) matches nothing, since paths are also read without it")]
    Parameter,
    /// `%41`; only `%2F` has a meaning.
    #[error("paths are matched decoded: write the character itself")]
    Encoded,
    /// `?`, `[`, `]`, `{`, `}`: wildcards elsewhere, and a query is never matched.
    #[error("only * and ** are wildcards, and the query is never matched")]
    UnknownWildcard,
}

impl Glob {
    /// Reads a pattern.
    pub fn parse(pattern: &str) -> Result<Self, GlobError> {
        let rest = pattern.strip_prefix('/').ok_or(GlobError::NotAbsolute)?;
        check_characters(pattern)?;
        let texts: Vec<&str> = rest.split('/').collect();
        for (at, text) in texts.iter().enumerate() {
            match *text {
                "" if at + 1 < texts.len() => return Err(GlobError::EmptySegment),
                "." | ".." => return Err(GlobError::NeverSeen),
                "**" => {}
                text if text.contains("**") => return Err(GlobError::PartialDepth),
                _ => {}
            }
        }
        let segments = |fold: fn(&str) -> String| {
            let segment = |text: &&str| if *text == "**" { Segment::AnyDepth } else { Segment::Text(fold(text)) };
            texts.iter().map(segment).collect()
        };
        Ok(Self { exact: segments(str::to_owned), folded: segments(|text| fold(text).into_owned()) })
    }

    /// Whether this selects `path`, a reading. Time grows with the product of both lengths, no faster.
    ///
    /// `ignore_case` also ignores the difference between composed, decomposed and wide characters and characters
    /// without width, as file systems and databases do that find `ADMIN`, `ａｄｍｉｎ` or `ad\u{200d}min` when asked for
    /// `admin`. It errs on the side of selecting more, which is right for rules that ask for something.
    pub fn matches(&self, path: &str, ignore_case: bool) -> bool {
        if !ignore_case {
            return select(&self.exact, path.split('/').skip(1), |pattern, byte| pattern == byte);
        }
        let equal = |pattern: u8, byte: u8| pattern == byte.to_ascii_lowercase();
        if path.is_ascii() {
            return select(&self.folded, path.split('/').skip(1), equal);
        }
        // Segment by segment: folding may make a `/` of another character, which separates nothing.
        let segments: Vec<Cow<'_, str>> = path.split('/').skip(1).map(fold).collect();
        select(&self.folded, segments.iter(), equal)
    }
}

/// Whether `pattern` stands for all of `path`. Going back to the last `**` is enough: an earlier one could only
/// leave less of the path to what follows.
fn select<S: AsRef<str>>(pattern: &[Segment], mut path: impl Iterator<Item = S> + Clone, equal: impl Fn(u8, u8) -> bool) -> bool {
    let mut rest = pattern;
    let mut retry = None;
    loop {
        match rest.split_first() {
            Some((Segment::AnyDepth, [])) => return true,
            Some((Segment::AnyDepth, tail)) => {
                rest = tail;
                retry = Some((tail, path.clone()));
                continue;
            }
            Some((Segment::Text(text), tail)) => {
                let mut ahead = path.clone();
                if ahead.next().is_some_and(|segment| wildcard(text.as_bytes(), segment.as_ref().as_bytes(), &equal)) {
                    (rest, path) = (tail, ahead);
                    continue;
                }
            }
            None if path.clone().next().is_none() => return true,
            None => {}
        }
        // The last `**` takes one segment more.
        let Some((tail, from)) = &mut retry else { return false };
        if from.next().is_none() {
            return false;
        }
        (rest, path) = (*tail, from.clone());
    }
}

/// The same within a segment, where `*` stands for any bytes. A pattern is UTF-8, so it can't match half a character.
fn wildcard(pattern: &[u8], text: &[u8], equal: impl Fn(u8, u8) -> bool) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), text.split_first()) {
            (Some((b'*', [])), _) => return true,
            (Some((b'*', tail)), _) => {
                pattern = tail;
                retry = Some((tail, text));
                continue;
            }
            (Some((&wanted, tail)), Some((&found, after))) if equal(wanted, found) => {
                (pattern, text) = (tail, after);
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        match retry {
            Some((tail, [_, after @ ..])) => {
                (pattern, text) = (tail, after);
                retry = Some((tail, after));
            }
            _ => return false,
        }
    }
}

fn check_characters(pattern: &str) -> Result<(), GlobError> {
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => return Err(GlobError::NeverSeen),
            c if c.is_control() => return Err(GlobError::NeverSeen),
            ';' => return Err(GlobError::Parameter),
            '?' | '[' | ']' | '{' | '}' => return Err(GlobError::UnknownWildcard),
            '%' => {
                let mut digits = rest.clone();
                match (digits.next(), digits.next()) {
                    (Some('2'), Some('F')) => {}
                    (Some(high), Some(low)) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => return Err(GlobError::Encoded),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// One form for everything that a case-insensitive file system or database takes for the same name: compatibility
/// decomposition, without invisible characters, lower case (`ẞ` and `ß` meet there), upper case (`ſ` and `s`, `ß` and `ss`)
/// and then lower case.
fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return if text.bytes().any(|byte| byte.is_ascii_uppercase()) { text.to_ascii_lowercase().into() } else { text.into() };
    }
    let lower = text.nfkd().filter(|&c| !is_ignorable(c)).flat_map(char::to_lowercase);
    lower.flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfkd().collect::<String>().into()
}

/// Unicode's `Default_Ignorable_Code_Point`.
fn is_ignorable(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    fn selects(pattern: &str, path: &str) -> bool {
        Glob::parse(pattern).unwrap().matches(path, false)
    }

    fn selects_any_case(pattern: &str, path: &str) -> bool {
        Glob::parse(pattern).unwrap().matches(path, true)
    }

    // PATH-2: anchored, whole segments, nothing but the path.
    #[test]
    fn globs_are_anchored_and_know_segments() {
        for (pattern, yes, no) in [
            ("/", vec!["/"], vec!["/a", "//"]),
            ("/admin", vec!["/admin"], vec!["/admin/", "/admin/x", "/admi", "/adminx", "/x/admin", "/Admin"]),
            ("/admin/", vec!["/admin/"], vec!["/admin", "/admin/x"]),
            ("/admin/**", vec!["/admin", "/admin/", "/admin/x", "/admin/x/y/", "/admin//x"], vec!["/administrator", "/x/admin", "/"]),
            ("/**", vec!["/", "/a", "/a/b/", "//"], vec![]),
            ("/*", vec!["/", "/a"], vec!["/a/", "/a/b"]),
            ("/a/*/c", vec!["/a/b/c", "/a//c"], vec!["/a/c", "/a/b/b/c"]),
            ("/*.css", vec!["/a.css", "/.css"], vec!["/a.css/", "/a.cssx", "/a/b.css"]),
            ("/a*b*c", vec!["/abc", "/axbxc", "/abbcc"], vec!["/ab", "/acb", "/abcx"]),
            ("/**/x", vec!["/x", "/a/x", "/a/b/x", "/x/x"], vec!["/", "/x/", "/a/xx"]),
            ("/a/**/b/**/c", vec!["/a/b/c", "/a/x/b/y/c", "/a/b/b/c/c"], vec!["/a/c", "/a/c/b"]),
            ("/a/**/", vec!["/a/", "/a/b/"], vec!["/a", "/a/b"]),
            ("/api/projects/*%2F*", vec!["/api/projects/a%2Fb"], vec!["/api/projects/a/b"]),
            ("/100%", vec!["/100%"], vec![]),
            ("/é", vec!["/é"], vec!["/É", "/e\u{301}"]),
        ] {
            for path in yes {
                assert!(selects(pattern, path), "{pattern} {path}");
            }
            for path in no {
                assert!(!selects(pattern, path), "{pattern} {path}");
            }
        }
    }

    #[test]
    fn what_can_never_match_is_refused() {
        for (pattern, error) in [
            ("", GlobError::NotAbsolute),
            ("admin", GlobError::NotAbsolute),
            ("**", GlobError::NotAbsolute),
            ("/a**", GlobError::PartialDepth),
            ("/a/***", GlobError::PartialDepth),
            ("/a/../b", GlobError::NeverSeen),
            ("/./b", GlobError::NeverSeen),
            ("/a\\b", GlobError::NeverSeen),
            ("/a\n", GlobError::NeverSeen),
            ("/a//b", GlobError::EmptySegment),
            ("//", GlobError::EmptySegment),
            ("/a;x", GlobError::Parameter),
            ("/a%20b", GlobError::Encoded),
            ("/a%2fb", GlobError::Encoded),
            ("/a?b", GlobError::UnknownWildcard),
            ("/[ab]", GlobError::UnknownWildcard),
            ("/{a,b}", GlobError::UnknownWildcard),
        ] {
            assert_eq!(Glob::parse(pattern), Err(error), "{pattern}");
        }
    }

    #[test]
    fn case_is_ignored_as_file_systems_ignore_it() {
        for path in ["/admin", "/ADMIN", "/aDmIn", "/ａｄｍｉｎ", "/ad\u{200d}min", "/Ａdmin"] {
            assert!(selects_any_case("/admin", path), "{path}");
            assert!(selects_any_case("/Admin/**", path), "{path}");
        }
        assert!(selects_any_case("/kiss", "/\u{212a}I\u{17f}S"));
        assert!(selects_any_case("/café", "/CAFE\u{301}"));
        assert!(selects_any_case("/straße", "/STRASSE"));
        assert!(selects_any_case("/ΣΑΣ", "/σας"));
        assert!(selects_any_case("/a%2Fb", "/A%2Fb"));
        assert!(!selects_any_case("/a/b", "/a／b"));
        assert!(!selects_any_case("/admin", "/admin1"));
    }

    fn segments(text: &str) -> Vec<&str> {
        text.split('/').skip(1).collect()
    }

    /// The definition, by trying everything.
    fn reference(pattern: &[&str], path: &[&str]) -> bool {
        fn text(pattern: &[char], segment: &[char]) -> bool {
            match (pattern, segment) {
                ([], rest) => rest.is_empty(),
                (['*', tail @ ..], rest) => (0..=rest.len()).any(|taken| text(tail, &rest[taken..])),
                ([wanted, tail @ ..], [found, rest @ ..]) => wanted == found && text(tail, rest),
                (_, []) => false,
            }
        }
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        match (pattern, path) {
            ([], rest) => rest.is_empty(),
            (["**", tail @ ..], rest) => (0..=rest.len()).any(|taken| reference(tail, &rest[taken..])),
            ([wanted, tail @ ..], [found, rest @ ..]) => text(&chars(wanted), &chars(found)) && reference(tail, rest),
            (_, []) => false,
        }
    }

    #[test]
    fn every_character_is_one_in_any_case() {
        for c in (char::MIN..=char::MAX).map(String::from) {
            let folded = fold(&c).into_owned();
            for other in [c.to_uppercase(), c.to_lowercase(), c.to_uppercase().to_lowercase(), c.to_lowercase().to_uppercase()] {
                assert_eq!(fold(&other), folded, "{c} {other}");
            }
            assert_eq!(fold(&folded), folded, "{c}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn matching_is_what_its_definition_says(pattern in "(/(\\*\\*|[ab*]{1,4})){1,5}/?", path in "(/[ab]{0,4}){1,6}") {
            if let Ok(glob) = Glob::parse(&pattern) {
                let expected = reference(&segments(&pattern), &segments(&path));
                prop_assert_eq!(glob.matches(&path, false), expected);
                prop_assert_eq!(glob.matches(&path.to_uppercase(), true), expected);
            }
        }

        // The number of comparisons is bounded, whatever pattern and path.
        #[test]
        fn no_pattern_takes_more_than_quadratic_work(pattern in "(/(\\*\\*|[a*]{1,6})){1,8}", path in "(/a{0,12}){1,12}b?") {
            if let Ok(glob) = Glob::parse(&pattern) {
                let compared = Cell::new(0_usize);
                select(&glob.exact, path.split('/').skip(1), |wanted, found| {
                    compared.set(compared.get() + 1);
                    wanted == found
                });
                prop_assert!(compared.get() <= pattern.len() * path.len());
            }
        }

        #[test]
        fn a_glob_without_wildcards_selects_itself_in_any_case(path in "(/[\\p{L}\\p{N} _~-]{1,6}){1,3}") {
            let glob = Glob::parse(&path).unwrap();
            prop_assert!(glob.matches(&path, false));
            prop_assert!(glob.matches(&path.to_uppercase(), true));
            prop_assert!(glob.matches(&path.to_lowercase(), true));
            prop_assert!(glob.matches(&path.nfd().collect::<String>(), true));
        }
    }
}
