//! A request of the corpus as bytes. What a text can't hold stands in braces: `{0xE9}` is a byte, `{300*a}` three hundred of
//! them, `{token}` a word that whoever sends the request has a value for. Other braces mean themselves.

use std::collections::BTreeMap;

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The target, as it stands in the request line.
    pub target: String,
    /// `Host`; `None`: there is none.
    pub host: Option<String>,
    /// The other field lines.
    pub fields: Vec<String>,
    /// The body, with its `Content-Length`.
    pub body: String,
    /// All of it, in the place of the above.
    pub raw: Option<String>,
    /// What the sign-in page is asked to lead to: the target is then that page's.
    pub rd: Option<String>,
}

impl Request {
    /// Every byte of it.
    pub fn bytes(&self, values: &Values) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return values.bytes(raw);
        }
        let mut bytes = Vec::new();
        for part in [&values.bytes(&self.method), &b" "[..], &self.target(values), b" HTTP/1.1\r\n"] {
            bytes.extend_from_slice(part);
        }
        for line in self.host.iter().map(|host| format!("Host: {host}")).chain(self.fields.iter().cloned()).chain(self.length(values)) {
            bytes.extend(values.bytes(&line));
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend(values.bytes(&self.body));
        bytes
    }

    /// The target's bytes.
    pub fn target(&self, values: &Values) -> Vec<u8> {
        match &self.rd {
            None => values.bytes(&self.target),
            Some(rd) => {
                let rd = values.bytes(rd);
                let encoded = percent_encoding::percent_encode(&rd, percent_encoding::NON_ALPHANUMERIC);
                values.bytes(&format!("/_auth/login?rd={encoded}"))
            }
        }
    }

    /// The field that frames the body, if there is one.
    pub fn length(&self, values: &Values) -> Option<String> {
        (!self.body.is_empty()).then(|| format!("Content-Length: {}", values.bytes(&self.body).len()))
    }
}

/// What the words in braces mean, and what stands for the names that the corpus is written with.
#[derive(Clone, Debug, Default)]
pub struct Values {
    words: BTreeMap<String, String>,
    names: Vec<(String, String)>,
}

impl Values {
    /// `{word}` means `value`.
    pub fn set(&mut self, word: &str, value: &str) {
        self.words.insert(word.to_owned(), value.to_owned());
    }

    /// `name` is written as `other`.
    pub fn rename(&mut self, name: &str, other: &str) {
        self.names.push((name.to_owned(), other.to_owned()));
    }

    /// Whether every word of the request has a value.
    pub fn suffice(&self, request: &Request) -> bool {
        let texts = [Some(&request.target), request.raw.as_ref(), request.rd.as_ref(), Some(&request.body)];
        let mut texts = texts.into_iter().flatten().chain(&request.fields);
        texts.all(|text| WORDS.iter().all(|word| self.words.contains_key(*word) || !text.contains(&format!("{{{word}}}"))))
    }

    /// The bytes that `text` stands for.
    pub fn bytes(&self, text: &str) -> Vec<u8> {
        let renamed = self.names.iter().fold(text.to_owned(), |text, (name, other)| text.replace(name, other));
        let mut rest = renamed.as_str();
        let mut bytes = Vec::with_capacity(rest.len());
        while let Some((before, after)) = rest.split_once('{') {
            bytes.extend_from_slice(before.as_bytes());
            match after.split_once('}').and_then(|(inner, rest)| Some((self.meant(inner)?, rest))) {
                Some((meant, behind)) => {
                    bytes.extend(meant);
                    rest = behind;
                }
                None => {
                    bytes.push(b'{');
                    rest = after;
                }
            }
        }
        bytes.extend_from_slice(rest.as_bytes());
        bytes
    }

    fn meant(&self, inner: &str) -> Option<Vec<u8>> {
        if let Some(hex) = inner.strip_prefix("0x") {
            return u8::from_str_radix(hex, 16).ok().map(|byte| vec![byte]);
        }
        if let Some((count, text)) = inner.split_once('*')
            && let Ok(count) = count.parse::<usize>()
            && count.saturating_mul(text.len()) <= MOST_REPEATED
        {
            return Some(text.repeat(count).into_bytes());
        }
        self.words.get(inner).map(|value| value.clone().into_bytes())
    }
}

/// The words that only somebody with an account has values for.
pub const WORDS: [&str; 6] = ["token", "other", "api", "broken", "basic", "basic_api"];

/// More bytes than this are no honest request and no useful attack.
const MOST_REPEATED: usize = 1 << 17;

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str) -> Request {
        let empty = String::new();
        Request { method: "GET".to_owned(), target: target.to_owned(), host: None, fields: Vec::new(), body: empty, raw: None, rd: None }
    }

    #[test]
    fn words_become_bytes() {
        let mut values = Values::default();
        values.set("token", "t.o.k");
        values.rename("app.example.com", "127.0.0.1:8080");
        let mut sent = request("/{a}/{0xE9}{3*ab}");
        sent.host = Some("app.example.com".to_owned());
        sent.fields = vec!["Authorization: Bearer {token}".to_owned()];
        sent.body = "x{0x00}".to_owned();
        let expected =
            b"GET /{a}/\xe9ababab HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAuthorization: Bearer t.o.k\r\nContent-Length: 2\r\n\r\nx\0";
        assert_eq!(sent.bytes(&values), expected);
        sent.raw = Some("x\r\n".to_owned());
        assert_eq!(sent.bytes(&values), b"x\r\n");
        assert_eq!(values.bytes("{{token}"), b"{t.o.k");
    }

    #[test]
    fn where_to_go_is_encoded_whole() {
        let mut sent = request("/");
        sent.rd = Some("//a?b".to_owned());
        assert_eq!(sent.target(&Values::default()), b"/_auth/login?rd=%2F%2Fa%3Fb");
    }

    #[test]
    fn it_is_known_what_can_not_be_said() {
        let mut values = Values::default();
        let sent = request("/?token={token}");
        assert!(!values.suffice(&sent) && values.suffice(&request("/{a}")));
        values.set("token", "x");
        assert!(values.suffice(&sent));
    }
}
