//! A person's account, and the rules for what it may hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use email_address::EmailAddress;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization as _;

use super::{Digest, Sealed, Secret, UserId};
use crate::clock::Timestamp;

/// A value that breaks its rule. The text is for people and never repeats the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub &'static str);

macro_rules! parsed_text {
    ($name:ident) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidValue;

            fn try_from(text: String) -> Result<Self, InvalidValue> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

/// An e-mail address in its one compared and announced form: NFKC, then lower case.
///
/// A strict addr-spec (RFC 5321, section 4.1.2) with exactly one `@`; no quoted local part, no domain literal, no
/// comment, no display name, no control, white-space or comma character; at most 254 bytes (requirement EML-1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Email(String);

impl Email {
    /// Longest address in bytes (RFC 5321 erratum 1690).
    pub const MAX_BYTES: usize = 254;

    /// Normalises and checks an address.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        const INVALID: InvalidValue = InvalidValue("is not a valid e-mail address");
        if text.len() > 4 * Self::MAX_BYTES {
            return Err(InvalidValue("is longer than 254 bytes"));
        }
        // ASCII is its own NFKC; nearly all addresses are, and a start reads very many.
        let text: String = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            text.nfkc().flat_map(char::to_lowercase).collect::<String>().nfkc().collect()
        };
        if text.len() > Self::MAX_BYTES {
            return Err(InvalidValue("is longer than 254 bytes"));
        }
        let odd =
            |c: char| is_unseen(c) || c.is_whitespace() || matches!(c, ',' | ';' | '"' | '(' | ')' | '<' | '>' | '[' | ']' | '\\' | ':');
        if text.chars().filter(|c| *c == '@').count() != 1 || text.chars().any(odd) {
            return Err(INVALID);
        }
        let options = email_address::Options::default().without_display_text().without_domain_literal().with_required_tld();
        // A host name without a dot (`root@localhost`) is accepted for networks that have no public names.
        let relaxed = email_address::Options::default().without_display_text().without_domain_literal();
        if EmailAddress::parse_with_options(&text, options).is_err() && EmailAddress::parse_with_options(&text, relaxed).is_err() {
            return Err(INVALID);
        }
        Ok(Self(text))
    }

    /// What follows the `@`.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

parsed_text!(Email);

/// The name a person goes by: 1 to 128 characters after trimming, without control characters, line separators or
/// bidirectional controls (which could make one name look like another).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DisplayName(String);

impl DisplayName {
    /// Checks a name.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidValue("must not be empty"));
        }
        if text.chars().any(is_unseen) {
            return Err(InvalidValue("must not contain control or text-direction characters"));
        }
        // ASCII is its own NFC. The form that is kept is what is counted, since it is read by this again: some characters
        // become two.
        let text = if text.is_ascii() { text.to_owned() } else { text.nfc().collect() };
        if text.chars().count() > 128 {
            return Err(InvalidValue("must not be longer than 128 characters"));
        }
        Ok(Self(text))
    }
}

parsed_text!(DisplayName);

/// The address of a person's picture: an absolute `http` or `https` URL of at most 1024 bytes. The server never
/// fetches it (requirement NP-12).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AvatarUrl(String);

impl AvatarUrl {
    /// Checks an address and brings it to the form that a browser would use.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        const INVALID: InvalidValue = InvalidValue("must be an absolute http or https URL of at most 1024 bytes");
        if text.len() > 1024 || text.chars().any(is_unseen) {
            return Err(INVALID);
        }
        let url = url::Url::parse(text).map_err(|_| INVALID)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !url.username().is_empty() || url.password().is_some() {
            return Err(INVALID);
        }
        // What a browser would use can be longer, and it is read by this again.
        if url.as_str().len() > 1024 { Err(INVALID) } else { Ok(Self(url.into())) }
    }
}

parsed_text!(AvatarUrl);

/// A group's name: 1 to 64 bytes of letters, digits and `-_.:/@+` and spaces within, so that it holds neither the
/// separator of the groups header nor control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Group(String);

impl Group {
    /// Checks a name.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let allowed = |c: char| c.is_alphanumeric() || "-_.:/@+ ".contains(c);
        if text.is_empty() || text.len() > 64 || text.trim() != text || !text.chars().all(allowed) {
            return Err(InvalidValue("must be 1 to 64 bytes of letters, digits, spaces and -_.:/@+"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The administrators' group unless the configuration names another.
    pub fn default_admin() -> Self {
        Self("nullpass-admin".to_owned())
    }
}

parsed_text!(Group);

/// Control characters, line and paragraph separators, and the characters that turn the direction of text or have no
/// width: what a reader can't see and so can be fooled by.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// The second factor of an account.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TwoFactor {
    /// The secret that codes are checked with, sealed under the user's data key. `None`: no second factor.
    #[serde(default)]
    pub totp: Option<TotpState>,
    /// A secret that was shown but not confirmed by a code yet.
    #[serde(default)]
    pub pending: Option<TotpState>,
    /// HMACs (under the user's data key) of the recovery codes that have not been used.
    #[serde(default)]
    pub recovery: Vec<Digest>,
}

/// A sealed TOTP secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TotpState {
    /// 20 random bytes, sealed.
    pub secret: Sealed,
    /// When it was made (pending) or confirmed.
    pub since: Timestamp,
}

/// A person's account. Never serialised towards a client: `web` has views of its own (requirement NP-7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Who.
    pub id: UserId,
    /// Counts the writes; `replace_user` refuses a write that is based on an older one.
    pub revision: u64,
    /// The sign-in name, unique among all accounts.
    pub email: Email,
    /// What people call the person.
    #[serde(default)]
    pub display_name: Option<DisplayName>,
    /// The person's picture.
    #[serde(default)]
    pub avatar: Option<AvatarUrl>,
    /// What rules and upstreams decide by.
    #[serde(default)]
    pub groups: BTreeSet<Group>,
    /// Free facts that `[identity] headers` can announce as `attr.KEY`.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// The password's hash as a PHC string.
    pub password: Secret<String>,
    /// When the password was set.
    pub password_changed_at: Timestamp,
    /// The second factor.
    #[serde(default)]
    pub two_factor: TwoFactor,
    /// Since when an administrator keeps the person out.
    #[serde(default)]
    pub disabled_at: Option<Timestamp>,
    /// The user's own random data key, sealed under the storage key. What it sealed dies with it.
    pub data_key: Sealed,
    /// When the account was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl User {
    /// Whether a second factor is asked for at sign-in.
    pub const fn has_second_factor(&self) -> bool {
        self.two_factor.totp.is_some()
    }

    /// Whether an administrator keeps the person out.
    pub const fn is_disabled(&self) -> bool {
        self.disabled_at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // EML-1: one `@`, a strict addr-spec, one spelling.
    #[test]
    fn addresses_are_strict_and_have_one_spelling() {
        assert_eq!(Email::parse("John.Doe@Example.COM").map(String::from), Ok("john.doe@example.com".to_owned()));
        assert_eq!(Email::parse("ａ@example.com").map(String::from), Ok("a@example.com".to_owned()));
        for bad in [
            "",
            "a",
            "@",
            "a@",
            "@b.c",
            "a@evil@corp.com",
            "a b@c.de",
            "a@c.de ",
            " a@c.de",
            "a@b,c.de",
            "a@b.de,",
            "a\n@b.de",
            "a@b.de\0",
            "\"a@x\"@b.de",
            "Joe <a@b.de>",
            "a@[127.0.0.1]",
            "a\u{202e}@b.de",
            "a@b..de",
            "a@-",
            "a@b.de\r\nX: y",
            ".a@b.de",
        ] {
            assert!(Email::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Email::parse(&format!("{}@b.de", "a".repeat(300))).is_err());
        assert!(Email::parse("root@localhost").is_ok());
        assert!(Email::parse("ünï@bücher.example").is_ok());
    }

    #[test]
    fn names_hide_nothing() {
        assert!(DisplayName::parse("  Ada Lovelace ").is_ok_and(|n| n.as_str() == "Ada Lovelace"));
        for bad in ["", "  ", "a\u{202e}b", "a\r\nb", "a\0b", "a\u{200b}b"] {
            assert!(DisplayName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(DisplayName::parse(&"x".repeat(129)).is_err());
    }

    // What was accepted once is read again with every record: it must not have become too long on the way.
    #[test]
    fn what_is_kept_is_accepted_again() {
        for text in [&"\u{958}".repeat(64), &"é".repeat(128), "e\u{301}"] {
            assert!(DisplayName::parse(text).is_ok_and(|name| DisplayName::parse(name.as_str()) == Ok(name)));
        }
        assert!(DisplayName::parse(&"\u{958}".repeat(128)).is_err() && DisplayName::parse(&"e\u{301}".repeat(128)).is_ok());
        let picture = |length| AvatarUrl::parse(&format!("https://example.com/{}", "é".repeat(length)));
        assert!(picture(500).is_err() && picture(160).is_ok_and(|url| AvatarUrl::parse(url.as_str()) == Ok(url)));
    }

    // NP-12: only http and https pictures.
    #[test]
    fn pictures_are_web_addresses() {
        assert!(AvatarUrl::parse("https://example.com/a.png").is_ok());
        for bad in ["javascript:alert(1)", "data:text/html,x", "//x/y", "/a.png", "https://u:p@x/", "https://x/\u{202e}", "ftp://x/y"] {
            assert!(AvatarUrl::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn groups_never_hold_the_separator() {
        assert_eq!(Group::parse("nullpass-admin"), Ok(Group::default_admin()));
        for bad in ["", "a,b", "a;b", "a|b", "a\nb", " a", "a "] {
            assert!(Group::parse(bad).is_err(), "{bad:?}");
        }
    }
}
