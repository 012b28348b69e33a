//! What the command line is shown of records: never a hash, a key, a token or a digest (requirement NP-7).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::auth::SessionView;
use crate::auth::keys::{KeyStatus, KeyView};
use crate::auth::rewrap::StorageKeyView;
use crate::clock::Timestamp;
use crate::config::Algorithm;
use crate::model::{ApiToken, ApiTokenId, DisplayName, Email, Group, Kid, SessionId, User, UserId};

/// An account. Times are RFC 3339 in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of model::User")]
pub struct UserRow {
    pub id: UserId,
    pub email: Email,
    pub display_name: Option<DisplayName>,
    pub groups: BTreeSet<Group>,
    pub attributes: BTreeMap<String, String>,
    pub disabled_at: Option<String>,
    /// Whether a second factor is asked for.
    pub two_factor: bool,
    /// How many recovery codes have not been used.
    pub recovery_codes: usize,
    pub password_changed_at: String,
    pub created_at: String,
    pub updated_at: String,
}

impl From<&User> for UserRow {
    fn from(user: &User) -> Self {
        Self {
            id: user.id,
            email: user.email.clone(),
            display_name: user.display_name.clone(),
            groups: user.groups.clone(),
            attributes: user.attributes.clone(),
            disabled_at: text(user.disabled_at),
            two_factor: user.has_second_factor(),
            recovery_codes: user.two_factor.recovery.len(),
            password_changed_at: user.password_changed_at.to_string(),
            created_at: user.created_at.to_string(),
            updated_at: user.updated_at.to_string(),
        }
    }
}

/// A session. The client's address is for its owner alone and is not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of model::Session")]
pub struct SessionRow {
    pub id: SessionId,
    pub user_agent: Option<String>,
    /// How the person proved who they are (RFC 8176).
    pub amr: Vec<String>,
    pub created_at: String,
    pub last_seen_at: String,
    pub expires_at: String,
}

impl From<SessionView> for SessionRow {
    fn from(view: SessionView) -> Self {
        let SessionView { session, user_agent, .. } = view;
        Self {
            id: session.id,
            user_agent,
            amr: session.amr.names().into_iter().map(str::to_owned).collect(),
            created_at: session.created_at.to_string(),
            last_seen_at: session.last_seen_at.to_string(),
            expires_at: session.expires_at.to_string(),
        }
    }
}

/// An API token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of model::ApiToken")]
pub struct TokenRow {
    pub id: ApiTokenId,
    pub name: String,
    /// Empty: any path.
    pub paths: Vec<String>,
    /// Empty: any method.
    pub methods: Vec<String>,
    /// Empty: any network.
    pub networks: Vec<String>,
    pub created_at: String,
    pub expires_at: Option<String>,
    pub last_used_at: Option<String>,
}

impl From<&ApiToken> for TokenRow {
    fn from(token: &ApiToken) -> Self {
        Self {
            id: token.id,
            name: token.name.as_str().to_owned(),
            paths: token.scope.paths.clone(),
            methods: token.scope.methods.clone(),
            networks: token.scope.networks.iter().map(ToString::to_string).collect(),
            created_at: token.created_at.to_string(),
            expires_at: text(token.expires_at),
            last_used_at: text(token.last_used_at),
        }
    }
}

/// The keys of an installation, without the keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub struct KeyRows {
    /// Newest first.
    pub signing: Vec<SigningKeyRow>,
    pub storage: StorageKeyRow,
}

/// A signing key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of auth::keys::KeyView")]
pub struct SigningKeyRow {
    pub kid: Kid,
    pub algorithm: Algorithm,
    pub created_at: String,
    /// `signing` or `verifying`.
    pub status: String,
    /// When the last token that it signed has run out, and it is removed.
    pub verifies_until: Option<String>,
}

/// The storage key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of auth::rewrap::StorageKeyView")]
pub struct StorageKeyRow {
    pub version: u8,
    pub fingerprint: String,
    pub since: Option<String>,
    /// `current`, or `rotating` while something is still wrapped with the key before it.
    pub status: String,
    /// How much that is.
    pub left: Option<u64>,
    /// Whether a rotation could begin: there is a key to rotate to.
    pub can_rotate: bool,
}

impl KeyRows {
    pub(super) fn new(signing: &[KeyView], storage: StorageKeyView) -> Self {
        let StorageKeyView { version, fingerprint, since, left, has_next } = storage;
        let status = if left.is_some() { "rotating" } else { "current" }.to_owned();
        let storage = StorageKeyRow { version, fingerprint, since: text(since), status, left, can_rotate: has_next };
        Self { signing: signing.iter().map(SigningKeyRow::from).collect(), storage }
    }
}

impl From<&KeyView> for SigningKeyRow {
    fn from(view: &KeyView) -> Self {
        let (status, until) = match view.status {
            KeyStatus::Signing => ("signing", None),
            KeyStatus::Verifying(until) => ("verifying", Some(until)),
        };
        Self {
            kid: view.kid.clone(),
            algorithm: view.algorithm,
            created_at: view.created_at.to_string(),
            status: status.to_owned(),
            verifies_until: text(until),
        }
    }
}

fn text(time: Option<Timestamp>) -> Option<String> {
    time.map(|time| time.to_string())
}
