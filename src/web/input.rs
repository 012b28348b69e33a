//! Reading what clients send: JSON objects, forms and queries, all strict. A reader takes one field after the other and
//! reports the first that is wrong by its name; [`Object::finish`] then refuses what nobody asked for. Problems never
//! repeat what was sent.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::model::Secret;

/// What is wrong with what was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The field's name, or `body`.
    pub(super) field: String,
    /// For people; reads on after the field's name.
    pub(super) text: String,
}

impl Problem {
    /// A problem of one field.
    pub(super) fn new(field: impl Into<String>, text: impl Into<String>) -> Self {
        Self { field: field.into(), text: text.into() }
    }
}

/// A JSON object whose fields are taken out one by one.
#[derive(Debug, Default)]
pub(super) struct Object(Vec<(String, Value)>);

impl Object {
    /// Reads a body. `allow_empty`: no bytes are an object without fields.
    pub(super) fn parse(body: &[u8], allow_empty: bool) -> Result<Self, Problem> {
        if body.is_empty() && allow_empty {
            return Ok(Self::default());
        }
        let text = std::str::from_utf8(body).map_err(|_| Problem::new("body", "is not valid UTF-8"))?;
        let object: Self = serde_json::from_str(text).map_err(|error| {
            // serde_json's own words can repeat what was sent; only our own word about duplicates is passed on.
            match error.to_string().strip_prefix(DUPLICATE).and_then(|rest| rest.split('\u{0}').next()) {
                Some(name) => Problem::new(name, "is there twice"),
                None => Problem::new("body", "must be a JSON object"),
            }
        })?;
        Ok(object)
    }

    fn take(&mut self, field: &str) -> Option<Value> {
        let place = self.0.iter().position(|(name, _)| name == field)?;
        Some(self.0.swap_remove(place).1)
    }

    /// A text that must be there.
    pub(super) fn text(&mut self, field: &str) -> Result<String, Problem> {
        match self.take(field) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(Problem::new(field, "must be a string")),
            None => Err(Problem::new(field, "is required")),
        }
    }

    /// A text that may be absent or `null`.
    pub(super) fn optional_text(&mut self, field: &str) -> Result<Option<String>, Problem> {
        Ok(self.nullable_text(field)?.flatten())
    }

    /// A text that may be absent (`None`), or `null` (`Some(None)`).
    #[expect(clippy::option_option, reason = "absent, null and a text mean three things in a PATCH (RFC 7396)")]
    pub(super) fn nullable_text(&mut self, field: &str) -> Result<Option<Option<String>>, Problem> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(Value::String(text)) => Ok(Some(Some(text))),
            Some(_) => Err(Problem::new(field, "must be a string")),
        }
    }

    /// A secret text that must be there.
    pub(super) fn secret(&mut self, field: &str) -> Result<Secret<String>, Problem> {
        self.text(field).map(Secret::new)
    }

    /// A secret text that may be absent or `null`.
    pub(super) fn optional_secret(&mut self, field: &str) -> Result<Option<Secret<String>>, Problem> {
        Ok(self.optional_text(field)?.map(Secret::new))
    }

    /// A truth value that must be there.
    pub(super) fn truth(&mut self, field: &str) -> Result<bool, Problem> {
        self.optional_truth(field)?.ok_or_else(|| Problem::new(field, "is required"))
    }

    /// A truth value that may be absent.
    pub(super) fn optional_truth(&mut self, field: &str) -> Result<Option<bool>, Problem> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(truth)),
            Some(_) => Err(Problem::new(field, "must be true or false")),
        }
    }

    /// A list of texts; absent or `null` is empty.
    pub(super) fn texts(&mut self, field: &str) -> Result<Vec<String>, Problem> {
        let problem = || Problem::new(field, "must be a list of strings");
        match self.take(field) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text),
                    Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Err(problem()),
                })
                .collect(),
            Some(_) => Err(problem()),
        }
    }

    /// A time (RFC 3339) that may be absent or `null`.
    pub(super) fn optional_time(&mut self, field: &str) -> Result<Option<Timestamp>, Problem> {
        let Some(text) = self.optional_text(field)? else { return Ok(None) };
        let time = text.parse::<jiff::Timestamp>().map_err(|_| Problem::new(field, "must be a time such as 2030-01-31T12:00:00Z"))?;
        Ok(Some(Timestamp::from_millis(time.as_millisecond())))
    }

    /// Refuses fields that were not taken.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => Err(unknown(&name)),
        }
    }
}

/// An unknown field; a name that is too odd to be shown is not.
fn unknown(name: &str) -> Problem {
    Problem::new(shown(name), "is not a field of this request")
}

fn shown(name: &str) -> String {
    let plain = name.len() <= 64 && !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if plain { name.to_owned() } else { "body".to_owned() }
}

const DUPLICATE: &str = "duplicate field\u{0}";

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields: Vec<(String, Value)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    // Two readers could take different ones of the two.
                    if fields.iter().any(|(known, _)| *known == name) {
                        return Err(A::Error::custom(format!("{DUPLICATE}{}\u{0}", shown(&name))));
                    }
                    if fields.len() >= MAX_FIELDS {
                        return Err(A::Error::custom("too many fields"));
                    }
                    fields.push((name, value));
                }
                Ok(Object(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// No request of ours has as many fields; comparing every name with every other must stay cheap.
const MAX_FIELDS: usize = 64;

/// The pairs of a form or a query (`application/x-www-form-urlencoded`), decoded. No name is there twice.
#[derive(Debug, Default)]
pub(super) struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Reads a form's body or a query. Percent-encoded bytes that are no UTF-8 are refused rather than replaced.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in bytes.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
                Some(place) => (pair.get(..place).unwrap_or_default(), pair.get(place + 1..).unwrap_or_default()),
                None => (pair, &[][..]),
            };
            let (name, value) = (decode(name)?, decode(value)?);
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(Problem::new(shown(&name), "is there twice"));
            }
            if pairs.len() >= MAX_FIELDS {
                return Err(Problem::new("body", "has too many fields"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// A value, which is then no longer there.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let place = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(place).1)
    }

    /// A value that is not empty.
    pub(super) fn filled(&mut self, name: &str) -> Option<String> {
        self.take(name).filter(|value| !value.is_empty())
    }

    /// A number between 0 and `max`.
    pub(super) fn number(&mut self, name: &str, max: usize) -> Result<Option<usize>, Problem> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let number = if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None };
        match number {
            Some(number) if number <= max => Ok(Some(number)),
            Some(_) | None => Err(Problem::new(name, format!("must be a number from 0 to {max}"))),
        }
    }

    /// Refuses parameters that were not taken.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => Err(Problem { text: "is not a parameter of this request".into(), ..unknown(&name) }),
        }
    }
}

fn decode(bytes: &[u8]) -> Result<String, Problem> {
    let spaced: Vec<u8> = bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    match percent_encoding::percent_decode(&spaced).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Problem::new("body", "is not valid UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object(text: &str) -> Result<Object, Problem> {
        Object::parse(text.as_bytes(), false)
    }

    fn field<T: fmt::Debug>(result: Result<T, Problem>) -> String {
        result.unwrap_err().field
    }

    #[test]
    fn what_is_no_object_is_named_body() {
        for bad in ["", "{", "nul", "[]", "\"x\"", "1", r#"{"a":1,}"#, "{'a':1}", r#"{"a":1} x"#, "\0", &"[".repeat(100_000)] {
            assert_eq!(field(object(bad)), "body", "{bad:.20}");
        }
        assert_eq!(Object::parse(b"{\"a\":\"\xff\"}", false).unwrap_err(), Problem::new("body", "is not valid UTF-8"));
        assert!(Object::parse(b"", true).unwrap().finish().is_ok());
    }

    #[test]
    fn wrong_missing_unknown_and_doubled_fields_are_named() {
        let mut input = object(r#"{"a":7,"b":null,"c":["x",1],"d":"tomorrow","e":"yes","f":"2030-01-31T12:00:00+02:00","z":{}}"#).unwrap();
        assert_eq!(field(input.text("a")), "a");
        assert_eq!(field(input.text("a")), "a");
        assert_eq!(input.nullable_text("b"), Ok(Some(None)));
        assert_eq!(input.nullable_text("b"), Ok(None));
        assert_eq!(field(input.texts("c")), "c");
        assert_eq!(field(input.optional_time("d")), "d");
        assert_eq!(field(input.truth("e")), "e");
        assert_eq!(input.optional_time("f").unwrap().unwrap().to_string(), "2030-01-31T10:00:00.000Z");
        assert_eq!(field(input.finish()), "z");
        assert_eq!(object(r#"{"a":"1","a":"2"}"#).unwrap_err(), Problem::new("a", "is there twice"));
        assert_eq!(field(object(r#"{"<script>":1}"#).unwrap().finish()), "body");
    }

    #[test]
    fn null_is_no_text_where_one_is_required() {
        assert_eq!(field(object(r#"{"email":null}"#).unwrap().text("email")), "email");
    }

    #[test]
    fn forms_are_decoded_strictly() {
        let mut form = Pairs::parse(b"email=a%40b.de&password=a+b%2B&empty=&flag").unwrap();
        assert_eq!(form.take("email").as_deref(), Some("a@b.de"));
        assert_eq!(form.take("password").as_deref(), Some("a b+"));
        assert_eq!(form.filled("empty"), None);
        assert_eq!(form.take("flag").as_deref(), Some(""));
        assert_eq!(field(Pairs::parse(b"a=%ff")), "body");
        assert_eq!(field(Pairs::parse(b"a=1&a=2")), "a");
        assert_eq!(field(Pairs::parse(b"limit=many").unwrap().number("limit", 100)), "limit");
        assert_eq!(field(Pairs::parse(b"limit=%2B1").unwrap().number("limit", 100)), "limit");
        assert_eq!(field(Pairs::parse(b"limit=101").unwrap().number("limit", 100)), "limit");
        assert_eq!(Pairs::parse(b"limit=100").unwrap().number("limit", 100), Ok(Some(100)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(object) = Object::parse(&bytes, true) {
                drop(object.finish());
            }
            drop(Pairs::parse(&bytes));
        }

        #[test]
        fn forms_round_trip(name in "[a-z]{1,8}", value in any::<String>()) {
            let body: String = form_urlencoded::Serializer::new(String::new()).append_pair(&name, &value).finish();
            prop_assert_eq!(Pairs::parse(body.as_bytes()).unwrap().take(&name), Some(value));
        }
    }
}
