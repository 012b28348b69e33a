//! The fields of a form, read so that a browser sends exactly the same ones again, and which of them hold a password.

use unicode_normalization::UnicodeNormalization as _;

/// More fields than any form has that a person fills in; each costs many times its bytes in a page.
const MOST: usize = 1024;

/// How a page has to write fields for a browser to send the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charset {
    /// All of it is UTF-8.
    Utf8,
    /// Anything else: in this one every byte is a character and the other way round (WHATWG Encoding, section 9.1), so that
    /// what was `Shift_JIS` is sent again byte for byte.
    Windows1252,
}

/// A form's fields, decoded, in their order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) charset: Charset,
    pub(super) all: Vec<Field>,
}

/// A name and a value as a page shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) value: String,
}

/// A body, in its parts: the fields that may be kept, and the names of those that may not, all as they were encoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sorted {
    pub(super) kept: Vec<u8>,
    pub(super) left_out: Vec<Vec<u8>>,
}

/// Reads a body (`application/x-www-form-urlencoded`, WHATWG URL, section 5). `None`: no form of a browser has sent it, or
/// none could send the same again.
pub(super) fn read(body: &[u8]) -> Option<Fields> {
    let mut raw = Vec::new();
    for (name, value) in pairs(body)? {
        raw.push((decode(name)?, decode(value)?));
    }
    let charset = charset_of(&raw)?;
    let text = |bytes: Vec<u8>| match charset {
        Charset::Utf8 => String::from_utf8(bytes).ok(),
        Charset::Windows1252 => Some(bytes.into_iter().map(windows_1252).collect()),
    };
    let mut all = Vec::with_capacity(raw.len());
    for (name, value) in raw {
        all.push(Field { name: text(name)?, value: text(value)? });
    }
    Some(Fields { charset, all })
}

/// Parts a body that [`read`] reads. `None`: it does not, or nothing of it may be kept. Where one field is not UTF-8 all are
/// read as something else, and a name that is UTF-8 all the same must not hide a secret.
pub(super) fn sort(body: &[u8]) -> Option<Sorted> {
    let fields = read(body)?;
    let mut sorted = Sorted { kept: Vec::with_capacity(body.len()), left_out: Vec::new() };
    for (field, (name, value)) in fields.all.iter().zip(pairs(body)?) {
        if is_secret(&field.name) || is_secret(&shown(name)) {
            sorted.left_out.push(name.to_vec());
            continue;
        }
        if !sorted.kept.is_empty() {
            sorted.kept.push(b'&');
        }
        sorted.kept.extend_from_slice(name);
        sorted.kept.push(b'=');
        sorted.kept.extend_from_slice(value);
    }
    (!sorted.kept.is_empty()).then_some(sorted)
}

/// A name of a field that was left out, for people.
pub(super) fn shown(encoded: &[u8]) -> String {
    decode(encoded).map(|name| String::from_utf8_lossy(&name).into_owned()).unwrap_or_default()
}

/// Names and values as they were encoded.
fn pairs(body: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut found = Vec::new();
    for pair in body.split(|byte| *byte == b'&') {
        // Every browser writes the sign, and sends no field without a name.
        let at = pair.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
        if found.len() >= MOST {
            return None;
        }
        found.push((pair.get(..at)?, pair.get(at + 1..)?));
    }
    Some(found)
}

/// The bytes that stand behind `+` and `%`. `None`: no browser writes this, or none would write it again: it makes CRLF of
/// every other line end, and a page can't hold NUL (HTML, sections 4.10.21.8 and 13.2.5).
fn decode(encoded: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.iter();
    while let Some(&byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(*rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    let mut before = 0;
    for &byte in bytes.iter().chain(&[0x20]) {
        if byte == 0 || (before == b'\r') != (byte == b'\n') {
            return None;
        }
        before = byte;
    }
    Some(bytes)
}

/// A hidden field of the name `_charset_` gets the charset's name from the browser, whatever stands in it: then it must be
/// what it was (HTML, section 4.10.21.5).
fn charset_of(raw: &[(Vec<u8>, Vec<u8>)]) -> Option<Charset> {
    let all = || raw.iter().flat_map(|(name, value)| [name, value]);
    let said = raw.iter().find(|(name, _)| name.eq_ignore_ascii_case(b"_charset_")).map(|(_, value)| value.to_ascii_lowercase());
    let utf8 = all().all(|bytes| std::str::from_utf8(bytes).is_ok());
    match said.as_deref() {
        None if utf8 => Some(Charset::Utf8),
        None | Some(b"windows-1252") => Some(Charset::Windows1252),
        Some(b"utf-8") if utf8 => Some(Charset::Utf8),
        Some(_) => None,
    }
}

pub(super) fn windows_1252(byte: u8) -> char {
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•',
        '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    match byte {
        0x80..=0x9f => HIGH.get(usize::from(byte - 0x80)).copied().unwrap_or_default(),
        byte => char::from(byte),
    }
}

/// Whether a field is named like a password or another secret. One too many is typed again, which is shown; one too few
/// would be carried around.
pub(super) fn is_secret(name: &str) -> bool {
    /// Nothing harmless has these in it.
    const ANYWHERE: &[&str] = &[
        "password",
        "passwd",
        "passwort",
        "passwrd",
        "passphrase",
        "passcode",
        "kennwort",
        "pwd",
        "contrasena",
        "contraseña",
        "motdepasse",
        "senha",
        "wachtwoord",
        "パスワード",
        "暗証番号",
        "密码",
        "密碼",
        "口令",
        "apikey",
        "privatekey",
        "pincode",
        "securitycode",
        "verificationcode",
        "recoverycode",
        "backupcode",
        "onetimecode",
    ];
    const WORDS: &[&str] = &[
        "pass", "pw", "psw", "passw", "pswd", "userpass", "mypass", "newpass", "oldpass", "dbpass", "pin", "newpin", "oldpin", "otp",
        "totp", "hotp", "tan", "mfa", "2fa", "cvv", "cvc", "csc", "cvn", "mdp", "secret", "secrets", "token", "tokens", "clave", "geheim",
    ];
    let name: String = name.nfkc().collect();
    if is_guard(&name) {
        return false;
    }
    let letters: String = name.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
    let secretary = letters.contains("secretar");
    ANYWHERE.iter().any(|part| letters.contains(part))
        || (letters.contains("secret") && !secretary)
        || words(&name).any(|word| {
            let bare = word.trim_end_matches(|c: char| c.is_ascii_digit());
            WORDS.contains(&word.as_str()) || WORDS.contains(&bare)
        })
}

/// Whether a field is what an application recognises its own pages by. Without it every application refuses the form, and
/// it is worth nothing elsewhere.
fn is_guard(name: &str) -> bool {
    let letters: String = name.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    let last = name.rsplit(['[', '.']).next().unwrap_or_default().trim_end_matches(']');
    ["csrf", "xsrf", "authenticitytoken", "requestverificationtoken", "antiforgery", "formtoken"].iter().any(|part| letters.contains(part))
        || last == "_token"
}

/// The words of `newPassword`, `user[new_pass]` and `card-CVV`.
fn words(name: &str) -> impl Iterator<Item = String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for c in name.chars() {
        if (c.is_uppercase() && before.is_lowercase()) || !c.is_alphanumeric() {
            words.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
        before = c;
    }
    words.into_iter().filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fuzzing::sent;
    use super::*;

    fn all(body: &str) -> Vec<(String, String)> {
        read(body.as_bytes()).unwrap().all.into_iter().map(|field| (field.name, field.value)).collect()
    }

    #[test]
    fn fields_keep_their_order_and_bytes() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(all("b=2&a=1&a=+%26%3D&c="), [pair("b", "2"), pair("a", "1"), pair("a", " &="), pair("c", "")]);
        assert_eq!(all("text=one%0D%0Atwo"), [pair("text", "one\r\ntwo")]);
        let latin = read(b"name=M%FCller&x=%81%80").unwrap();
        assert_eq!((latin.charset, latin.all[1].value.as_str()), (Charset::Windows1252, "\u{81}€"));
        assert_eq!(sent(&latin), b"name=M%FCller&x=%81%80");
        assert_eq!(read(b"name=M%C3%BCller").unwrap().charset, Charset::Utf8);
        assert_eq!(read(b"_charset_=UTF-8&x=%C3%BC").unwrap().charset, Charset::Utf8);
        assert_eq!(read(b"_charset_=windows-1252&x=a").unwrap().charset, Charset::Windows1252);
    }

    #[test]
    fn what_no_browser_sends_again_is_not_kept() {
        for body in [
            "",
            "a",
            "=a",
            "a=1&",
            "&a=1",
            "a=1&&b=2",
            "a=1&b",
            "a=%",
            "a=%4",
            "a=%zz",
            "a=%00",
            "a=%0A",
            "a=%0D",
            "a=%0A%0D",
            "a=x%0D",
            "_charset_=Shift_JIS&a=b",
            "_charset_=utf-8&a=%FC",
        ] {
            assert_eq!(read(body.as_bytes()), None, "{body}");
        }
        assert!(read("a=1&".repeat(MOST).trim_end_matches('&').as_bytes()).is_some());
        assert!(read("a=1&".repeat(MOST + 1).trim_end_matches('&').as_bytes()).is_none());
    }

    // KEPT-2
    #[test]
    fn secrets_are_known_by_their_names() {
        for name in [
            "password",
            "PASSWORD",
            "Passwd",
            "user[password]",
            "user[password_confirmation]",
            "newPassword",
            "new-password",
            "pwd",
            "userPwd",
            "pass",
            "Pass",
            "pass1",
            "pass_2",
            "login[pass]",
            "db.pass",
            "secret",
            "clientSecret",
            "client_secret",
            "clientsecret",
            "token",
            "apiToken",
            "api_token",
            "access-token",
            "otp",
            "OTP",
            "otpCode",
            "totp",
            "pin",
            "PIN",
            "cardPin",
            "cvv",
            "CVV",
            "card[cvv]",
            "cardCVC",
            "cvv2",
            "mot_de_passe",
            "contraseña",
            "Kennwort",
            "ｐａｓｓｗｏｒｄ",
            "pass word",
            "api_key",
            "apiKey",
            "パスワード",
            "2fa",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "passenger",
            "compass",
            "passport_number",
            "shipping",
            "opinion",
            "secretary",
            "tokenizer",
            "email",
            "spin",
            "comment",
            "title",
            "csrf_token",
            "csrfmiddlewaretoken",
            "authenticity_token",
            "_token",
            "form[_token]",
            "__RequestVerificationToken",
            "X-XSRF-TOKEN",
            "standard",
            "important",
            "company",
            "",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn secrets_are_left_out_and_named() {
        let sorted = sort(b"title=a&user%5Bpassword%5D=hunter2&text=b&PIN=1").unwrap();
        assert_eq!(sorted.kept, b"title=a&text=b");
        assert_eq!(sorted.left_out.iter().map(|name| shown(name)).collect::<Vec<_>>(), ["user[password]", "PIN"]);
        assert_eq!(sort(b"password=x"), None);
        let odd =
            sort("%E3%83%91%E3%82%B9%E3%83%AF%E3%83%BC%E3%83%89=hunter2&contrase%C3%B1a=x&Contrase%F1a=y&text=%FF".as_bytes()).unwrap();
        assert_eq!(odd.kept, b"text=%FF");
    }

    proptest! {
        #[test]
        fn a_browser_sends_the_same_again(fields in proptest::collection::vec((proptest::collection::vec(1u8.., 1..8), proptest::collection::vec(1u8.., 0..16)), 1..6)) {
            let encoded = |bytes: &[u8]| form_urlencoded::byte_serialize(bytes).collect::<String>();
            let body = fields.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect::<Vec<_>>().join("&");
            if let Some(read) = read(body.as_bytes()) {
                prop_assert_eq!(sent(&read), body.into_bytes());
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(sorted) = sort(&body) {
                prop_assert!(read(&sorted.kept).is_some());
            }
        }
    }
}
