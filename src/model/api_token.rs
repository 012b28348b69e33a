//! Personal API tokens: long-lived secrets that a person makes for a program.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{ApiTokenId, Digest, InvalidValue, UserId};
use crate::clock::Timestamp;

/// A token's name, for its owner: 1 to 64 characters without control characters.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenName(String);

impl TokenName {
    /// Checks a name.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text = text.trim();
        if text.is_empty() || text.chars().count() > 64 || text.chars().any(char::is_control) {
            return Err(InvalidValue("must be 1 to 64 characters without control characters"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenName({:?})", self.0)
    }
}

impl TryFrom<String> for TokenName {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        Self::parse(&text)
    }
}

impl From<TokenName> for String {
    fn from(name: TokenName) -> Self {
        name.0
    }
}

/// What a token may be used for. Every empty list means "any"; all given must hold.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TokenScope {
    /// Path globs, as in `[[rules]]`.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Request methods.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Client networks.
    #[serde(default)]
    pub networks: Vec<IpNet>,
}

/// A personal API token's record; the secret itself is shown once and not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// Which.
    pub id: ApiTokenId,
    /// Whose.
    pub user: UserId,
    /// What its owner calls it.
    pub name: TokenName,
    /// SHA-256 of the secret.
    pub digest: Digest,
    /// What it may be used for.
    #[serde(default)]
    pub scope: TokenScope,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends; `None`: not by itself.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to about a minute.
    #[serde(default)]
    pub last_used_at: Option<Timestamp>,
}
