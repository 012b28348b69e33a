//! Which language a person reads: the one they chose, else one that their browser asks for, else the operator's.

use http::HeaderMap;
use http::header::ACCEPT_LANGUAGE;

use super::Language;
use crate::wire::cookie::{self, Found, Names};

/// Bytes of `Accept-Language` that are looked at; browsers send less than a hundred.
const MAX_BYTES: usize = 512;

/// The language for whoever sends these header fields.
pub(in crate::web) fn choose(headers: &HeaderMap, cookies: &Names, default: Language) -> Language {
    if let Found::One(tag) = cookie::find(headers, &cookies.language)
        && let Some(chosen) = Language::from_tag(tag)
    {
        return chosen;
    }
    let wished = headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    wish(wished, default).unwrap_or(default)
}

/// The best of what `Accept-Language` lists (RFC 9110, section 12.5.4; RFC 4647, section 3.4, "Lookup": `de-AT` is served
/// with `de`, and so are all kinds of Chinese with the one there is). Of two with the same weight the first wins, `*`
/// stands for the operator's language, and what can't be read is passed over.
fn wish(header: &str, default: Language) -> Option<Language> {
    let mut best: Option<(Language, u16)> = None;
    for range in header.get(..MAX_BYTES).unwrap_or(header).split(',').take(32) {
        let mut parts = range.split(';').map(str::trim);
        let tag = parts.next().unwrap_or_default();
        let primary = tag.split('-').next().unwrap_or_default();
        let language = if tag == "*" { Some(default) } else { Language::from_tag(primary) };
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="))).map_or(Some(1000), weight);
        if let (Some(language), Some(weight @ 1..)) = (language, weight)
            && best.is_none_or(|(_, known)| weight > known)
        {
            best = Some((language, weight));
        }
    }
    best.map(|(language, _)| language)
}

/// A weight in thousandths: `0.5` is 500.
fn weight(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{fraction:0<3}").parse().ok()?;
    match (whole, thousandths) {
        ("0", thousandths) => Some(thousandths),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config;

    #[test]
    fn the_browsers_wish_is_read_by_its_weights() {
        for (header, expected) in [
            ("de", Some(Language::De)),
            ("de-AT, en;q=0.8", Some(Language::De)),
            ("tlh, pt-BR;q=0.3, fr;q=0.9", Some(Language::Fr)),
            ("en;q=0, es", Some(Language::Es)),
            ("EN-us;Q=0.5,JA;q=0.500", Some(Language::En)),
            ("zh-Hant-TW", Some(Language::Zh)),
            ("nl, *;q=0.1", Some(Language::Pt)),
            ("", None),
            ("nl", None),
            ("deutsch", None),
            ("de;q=7", None),
            ("de;q=0.0001, fr;q=0.001", Some(Language::Fr)),
            (";;;,,,;q=", None),
        ] {
            assert_eq!(wish(header, Language::Pt), expected, "{header:?}");
        }
    }

    #[test]
    fn what_the_person_chose_comes_first() {
        let cookies = Names::from(&config::Cookie::default(), false);
        let choose = |fields: &[(&'static str, &'static str)]| {
            let headers = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            choose(&headers, &cookies, Language::Es)
        };
        assert_eq!(choose(&[("cookie", "nullpass-lang=ja"), ("accept-language", "de")]), Language::Ja);
        assert_eq!(choose(&[("cookie", "nullpass-lang=xx"), ("accept-language", "de")]), Language::De);
        assert_eq!(choose(&[("cookie", "nullpass-lang=ja; nullpass-lang=fr")]), Language::Es);
        assert_eq!(choose(&[]), Language::Es);
    }

    proptest! {
        #[test]
        fn any_header_is_survived(header in any::<String>()) {
            prop_assert!(wish(&header, Language::En).is_none_or(|language| Language::ALL.contains(&language)));
        }
    }
}
