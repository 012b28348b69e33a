//! What must hold for wherever a sign-in may lead and whatever is sent to our own routes: for the fuzzer, and for the tests
//! that replay its corpus.

use std::sync::LazyLock;

use http::HeaderValue;
use serde_json::Value;
use url::Url;

use super::input::{Object, Pairs, Problem};
use super::return_to::{self, Site};

static HERE: LazyLock<Option<(Url, Site)>> = LazyLock::new(|| {
    let url = Url::parse("https://auth.example.com/_nullpass/login").ok()?;
    let site = Site::new(Some(&url), Some("example.com"))?;
    Some((url, site))
});

/// Reads where to go after signing in: it is a path of the same origin for every reader, or where the cookie is good for a
/// whole site a page of that; and it stays what it is.
///
/// # Panics
///
/// If something that must hold does not.
pub fn return_target(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Some((here, site)) = HERE.as_ref() else { return assert!(HERE.is_some(), "the site is good") };
    for site in [None, Some(site)] {
        let target = return_to::parse(text, site);
        assert!(HeaderValue::from_str(&target).is_ok(), "{target:?} is no header");
        assert!(target.is_ascii() && !target.bytes().any(|byte| byte.is_ascii_control() || byte == b' ' || byte == b'\\'), "{target:?}");
        assert_eq!(return_to::parse(&target, site), target, "it leads elsewhere the second time");
        let Ok(led) = here.join(&target) else { return assert!(target.is_empty(), "{target:?} leads nowhere") };
        assert!(led.username().is_empty() && led.password().is_none(), "{led}");
        let Some(path) = target.split(['?', '#']).next().filter(|path| path.starts_with('/')) else {
            let host = led.host_str().unwrap_or_default();
            assert!(site.is_some() && led.scheme() == "https" && led.port().is_none(), "{led}");
            assert!(host == "example.com" || host.ends_with(".example.com"), "{led}");
            continue;
        };
        assert_eq!(led.origin(), here.origin(), "{target:?} leads away");
        // Who decodes it first, or twice, stays too, and so does who reads `\` as `/`.
        let mut reading = path.to_owned();
        for _ in 0..3 {
            let bare: String = reading.chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect::<String>().replace('\\', "/");
            assert!(bare.starts_with('/') && !bare.starts_with("//"), "{target:?} leads away for who reads {reading:?}");
            reading = percent_encoding::percent_decode_str(&reading).decode_utf8_lossy().into_owned();
        }
    }
}

/// Reads a body as JSON and as a form: what is read is what another reader finds there, all of it, and a problem says
/// nothing of what was sent but a harmless name.
///
/// # Panics
///
/// If something that must hold does not.
pub fn input(data: &[u8]) {
    match Object::parse(data, true) {
        Ok(object) => fields(object, data),
        Err(problem) => harmless(&problem),
    }
    match Pairs::parse(data) {
        Ok(mut pairs) => {
            for (name, value) in form_urlencoded::parse(data) {
                assert_eq!(pairs.take(&name).as_deref(), Some(value.as_ref()), "{name:?} is read otherwise");
            }
            assert_eq!(pairs.finish(), Ok(()), "something is there that nobody sent");
        }
        Err(problem) => harmless(&problem),
    }
}

fn fields(mut object: Object, data: &[u8]) {
    if data.is_empty() {
        return assert_eq!(object.finish(), Ok(()));
    }
    let Ok(Value::Object(expected)) = serde_json::from_slice::<Value>(data) else { return assert!(data.is_empty(), "no object") };
    for (name, value) in &expected {
        match value {
            Value::String(text) => assert_eq!(object.text(name).as_ref(), Ok(text)),
            Value::Bool(truth) => assert_eq!(object.truth(name), Ok(*truth)),
            Value::Null => assert_eq!(object.nullable_text(name), Ok(Some(None))),
            Value::Array(items) => {
                let texts: Option<Vec<String>> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
                assert_eq!(object.texts(name).ok(), texts);
            }
            Value::Number(_) | Value::Object(_) => assert!(object.optional_time(name).is_err()),
        }
    }
    assert_eq!(object.finish(), Ok(()), "something is there that nobody sent");
}

fn harmless(problem: &Problem) {
    let plain = problem.field.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    assert!(plain && problem.field.len() <= 64, "{problem:?}");
    assert!(problem.text.len() < 80, "{problem:?}");
}
