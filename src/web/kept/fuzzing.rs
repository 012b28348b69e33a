//! What must hold for any form that meets a session that is over: for the fuzzer, and for the tests that replay its corpus.

use super::fields::{self, Charset, Fields, is_secret, windows_1252};

/// Reads a form's body. A browser that gets what was read sends the same again; what is kept holds no field with the name of
/// a secret, whichever way names are read, and nothing is lost: it is kept, or it is named.
///
/// # Panics
///
/// If something that must hold does not.
pub fn kept_form(body: &[u8]) {
    let Some(read) = fields::read(body) else { return assert!(fields::sort(body).is_none(), "kept, though it can't be read") };
    assert_eq!(read.all.len(), decoded(body).len(), "fields are lost");
    assert_eq!(decoded(&sent(&read)), decoded(body), "a browser sends something else");
    let Some(sorted) = fields::sort(body) else {
        return assert!(decoded(body).iter().all(|(name, _)| readings(name).iter().any(|name| is_secret(name))), "nothing is kept");
    };
    let (kept, all) = (decoded(&sorted.kept), decoded(body));
    assert_eq!(kept.len() + sorted.left_out.len(), all.len(), "fields are lost");
    let mut rest = all.iter();
    assert!(kept.iter().all(|field| rest.any(|other| other == field)), "in another order, or with another value");
    // As the application reads them, which is told the charset or takes UTF-8 for granted.
    for (name, _) in &kept {
        assert!(!is_secret(&String::from_utf8_lossy(name)), "{:?} is kept", String::from_utf8_lossy(name));
    }
    let named = fields::read(&sorted.kept);
    assert!(named.is_some_and(|named| !named.all.iter().any(|field| is_secret(&field.name))), "a secret is kept");
    assert!(sorted.left_out.iter().all(|name| !name.contains(&b'=') && !name.contains(&b'&')), "a value is kept");
    let again = fields::sort(&sorted.kept);
    assert!(again.is_some_and(|again| again.kept == sorted.kept && again.left_out.is_empty()), "it is read otherwise afterwards");
}

/// The name as UTF-8 and byte by byte.
fn readings(name: &[u8]) -> [String; 2] {
    [String::from_utf8_lossy(name).into_owned(), name.iter().copied().map(windows_1252).collect()]
}

/// Names and values as every server decodes them.
fn decoded(body: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let decode = |text: &[u8]| {
        let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
        percent_encoding::percent_decode(&spaced).collect()
    };
    let pairs = body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            (decode(parts.next().unwrap_or_default()), decode(parts.next().unwrap_or_default()))
        })
        .collect()
}

/// What a browser sends for these fields in this charset.
pub(super) fn sent(fields: &Fields) -> Vec<u8> {
    let bytes = |text: &str| -> Vec<u8> {
        let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
        match fields.charset {
            Charset::Utf8 => text.into_bytes(),
            Charset::Windows1252 => text.chars().filter_map(|c| (0..=255).find(|byte| windows_1252(*byte) == c)).collect(),
        }
    };
    let encoded = |text: &str| form_urlencoded::byte_serialize(&bytes(text)).collect::<String>();
    let pairs: Vec<String> = fields.all.iter().map(|field| format!("{}={}", encoded(&field.name), encoded(&field.value))).collect();
    pairs.join("&").into_bytes()
}
