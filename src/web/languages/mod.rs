//! The pages' words in seven languages: which one a person reads, and what only a language can say (numbers, times,
//! one or many).
//!
//! The texts are in one file a language beside this one; `build.rs` makes [`Texts`] of them and holds the files against
//! each other. A new text is a new key in all seven.

mod choice;
mod time;

use std::fmt;
use std::fmt::Write as _;

pub(in crate::web) use self::choice::choose;

include!(concat!(env!("OUT_DIR"), "/texts.rs"));

/// A language that pages are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::web) enum Language {
    /// English.
    En,
    /// German.
    De,
    /// French.
    Fr,
    /// Spanish.
    Es,
    /// Portuguese.
    Pt,
    /// Japanese.
    Ja,
    /// Chinese in simplified characters.
    Zh,
}

impl Language {
    /// All of them, in the order of the switch.
    pub(in crate::web) const ALL: [Self; 7] = [Self::En, Self::De, Self::Fr, Self::Es, Self::Pt, Self::Ja, Self::Zh];

    /// The tag in cookies, queries and the configuration, and in `lang` (BCP 47).
    pub(in crate::web) const fn tag(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::De => "de",
            Self::Fr => "fr",
            Self::Es => "es",
            Self::Pt => "pt",
            Self::Ja => "ja",
            Self::Zh => "zh",
        }
    }

    /// What it calls itself.
    pub(in crate::web) const fn name(self) -> &'static str {
        match self {
            Self::En => "English",
            Self::De => "Deutsch",
            Self::Fr => "Français",
            Self::Es => "Español",
            Self::Pt => "Português",
            Self::Ja => "日本語",
            Self::Zh => "中文",
        }
    }

    /// The language with this tag, whatever the case.
    pub(in crate::web) fn from_tag(tag: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|language| language.tag().eq_ignore_ascii_case(tag))
    }

    /// The texts.
    pub(in crate::web) const fn texts(self) -> &'static Texts {
        match self {
            Self::En => &EN,
            Self::De => &DE,
            Self::Fr => &FR,
            Self::Es => &ES,
            Self::Pt => &PT,
            Self::Ja => &JA,
            Self::Zh => &ZH,
        }
    }

    /// A whole number with the separators that its readers expect.
    pub(in crate::web) fn number(self, number: u64) -> String {
        let digits = number.to_string();
        let (separator, from) = match self {
            Self::En | Self::Ja | Self::Zh => (',', 4),
            Self::De => ('.', 4),
            // Spaces that don't break (Académie, Real Academia); the latter, like Portuguese, leaves four digits alone.
            Self::Fr => ('\u{202f}', 4),
            Self::Es => ('\u{a0}', 5),
            Self::Pt => ('.', 5),
        };
        if digits.len() < from {
            return digits;
        }
        let mut text = String::with_capacity(digits.len() * 2);
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                text.push(separator);
            }
            text.push(digit);
        }
        text
    }
}

/// A text that depends on a number.
#[derive(Debug)]
pub(in crate::web) struct Plural {
    language: Language,
    one: &'static str,
    other: &'static str,
}

/// How many of something there are.
pub(in crate::web) trait Count {
    fn count(self) -> u64;
}

impl Count for u64 {
    fn count(self) -> u64 {
        self
    }
}

impl Count for usize {
    fn count(self) -> u64 {
        u64::try_from(self).unwrap_or(u64::MAX)
    }
}

/// Templates hand out references.
impl<T: Count + Copy> Count for &T {
    fn count(self) -> u64 {
        (*self).count()
    }
}

impl Plural {
    /// The form for `n` (the Unicode CLDR's rules for cardinals, whole numbers).
    const fn form(&self, n: u64) -> &'static str {
        let is_one = match self.language {
            Language::En | Language::De | Language::Es => n == 1,
            Language::Fr | Language::Pt => n <= 1,
            Language::Ja | Language::Zh => false,
        };
        if is_one { self.one } else { self.other }
    }

    fn number(&self, n: u64) -> String {
        self.language.number(n)
    }
}

/// A text with its placeholders filled, safe to stand in a page: what was filled in is escaped, and nothing else in it
/// could be markup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::web) struct Filled(String);

impl fmt::Display for Filled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl askama::filters::HtmlSafe for Filled {}

impl From<&'static str> for Filled {
    /// A text without placeholders; the build has made sure that there is no markup in it.
    fn from(text: &'static str) -> Self {
        Self(text.to_owned())
    }
}

/// `pattern` with every `{name}` replaced. `{*name}` is emphasised, and kept apart from the text around it, whichever
/// way it is written (requirement XSS-2).
fn fill(pattern: &str, values: &[(&str, &dyn fmt::Display)]) -> Filled {
    let mut text = String::with_capacity(pattern.len() + 32);
    let mut parts = pattern.split('{');
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let Some((name, rest)) = part.split_once('}') else { continue };
        let (bare, strong) = name.strip_prefix('*').map_or((name, false), |bare| (bare, true));
        if let Some((_, value)) = values.iter().find(|(known, _)| *known == bare) {
            text.push_str(if strong { "<strong><bdi>" } else { "" });
            escape(&value.to_string(), &mut text);
            text.push_str(if strong { "</bdi></strong>" } else { "" });
        }
        text.push_str(rest);
    }
    Filled(text)
}

/// As askama does.
fn escape(value: &str, text: &mut String) {
    for c in value.chars() {
        match c {
            '<' | '>' | '&' | '"' | '\'' => {
                let _infallible = write!(text, "&#{};", u32::from(c));
            }
            _ => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // XSS-2
    #[test]
    fn what_is_filled_in_is_escaped() {
        let filled = fill("a {x} b {*y}", &[("x", &"<i>&\"'"), ("y", &"<b>")]);
        assert_eq!(filled.to_string(), "a &#60;i&#62;&#38;&#34;&#39; b <strong><bdi>&#60;b&#62;</bdi></strong>");
        assert_eq!(fill("{x}", &[("x", &"{y}"), ("y", &"no")]).to_string(), "{y}", "filled once");
    }

    #[test]
    fn numbers_are_grouped_as_their_readers_do() {
        let all = |number| Language::ALL.map(|language| language.number(number));
        assert_eq!(all(999), ["999"; 7]);
        assert_eq!(all(1234), ["1,234", "1.234", "1\u{202f}234", "1234", "1234", "1,234", "1,234"]);
        assert_eq!(
            all(12_345_678),
            ["12,345,678", "12.345.678", "12\u{202f}345\u{202f}678", "12\u{a0}345\u{a0}678", "12.345.678", "12,345,678", "12,345,678"]
        );
    }

    #[test]
    fn tags_lead_to_their_languages() {
        for language in Language::ALL {
            assert_eq!(Language::from_tag(language.tag()), Some(language));
            assert_eq!(language.texts().language, language);
        }
        assert_eq!(Language::from_tag("DE"), Some(Language::De));
        assert_eq!(Language::from_tag("tlh"), None);
    }

    proptest! {
        // XSS-2
        #[test]
        fn nothing_that_is_filled_in_becomes_markup(value in any::<String>()) {
            let filled = fill("[{x}]", &[("x", &value)]).to_string();
            prop_assert!(!filled.contains(['<', '>', '"', '\'']));
        }
    }
}
