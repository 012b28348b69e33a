//! What happened, for the audit log.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{EventId, ParseIdError, Sealed, UserId};
use crate::clock::Timestamp;

macro_rules! actions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// What was done or tried. The names are those of Null Pass, with failures added.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
        pub enum Action {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Action {
            /// Every action.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name in the log and the API.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }

        impl FromStr for Action {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                match text {
                    $($name => Ok(Self::$variant),)*
                    _ => Err(ParseIdError),
                }
            }
        }
    };
}

actions! {
    /// An account was made.
    UserRegister = "USER_REGISTER",
    /// Somebody signed in.
    UserLogin = "USER_LOGIN",
    /// Somebody signed out.
    UserLogout = "USER_LOGOUT",
    /// A profile, group or attribute was changed.
    UserUpdate = "USER_UPDATE",
    /// An account was deleted.
    UserDelete = "USER_DELETE",
    /// An account was disabled.
    UserDisable = "USER_DISABLE",
    /// An account was enabled again.
    UserEnable = "USER_ENABLE",
    /// A back-off was lifted by an administrator.
    UserUnlock = "USER_UNLOCK",
    /// A session began.
    SessionCreate = "SESSION_CREATE",
    /// A session was ended.
    SessionDelete = "SESSION_DELETE",
    /// A session's token was exchanged for a successor.
    SessionRefresh = "SESSION_REFRESH",
    /// A password was changed.
    PasswordChange = "PASSWORD_CHANGE",
    /// The second factor was turned on.
    TwoFactorEnable = "TWO_FACTOR_ENABLE",
    /// The second factor was turned off.
    TwoFactorDisable = "TWO_FACTOR_DISABLE",
    /// New recovery codes were made.
    RecoveryCodesCreate = "RECOVERY_CODES_CREATE",
    /// A recovery code was used.
    RecoveryCodeUse = "RECOVERY_CODE_USE",
    /// An API token was made.
    TokenCreate = "TOKEN_CREATE",
    /// An API token was ended.
    TokenDelete = "TOKEN_DELETE",
    /// A sign-in failed.
    LoginFailed = "LOGIN_FAILED",
    /// A second factor failed.
    TwoFactorFailed = "TWO_FACTOR_FAILED",
    /// A password was asked for again and was wrong.
    ReauthFailed = "REAUTH_FAILED",
    /// A token was used after its successor: theft.
    TokenReuse = "TOKEN_REUSE",
    /// The first administrator was made by a set-up link or from the configuration.
    SetupComplete = "SETUP_COMPLETE",
    /// New signing keys took the place of those before.
    SigningKeyRotate = "SIGNING_KEY_ROTATE",
    /// The storage key began to be replaced, or was.
    StorageKeyRotate = "STORAGE_KEY_ROTATE",
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether what was tried was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Success,
    /// It was refused.
    Failure,
}

/// One entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Which; sorts by time.
    pub id: EventId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub action: Action,
    /// Whether it was done.
    pub outcome: Outcome,
    /// The account it is about, when there is one.
    #[serde(default)]
    pub user: Option<UserId>,
    /// Who did it, when that is somebody else: `cli`, `config`, or an administrator's id.
    #[serde(default)]
    pub actor: Option<String>,
    /// The client's address and user agent as JSON, sealed under the user's data key, or under the server's when
    /// there is no user.
    #[serde(default)]
    pub client: Option<Sealed>,
    /// The request that asked for it.
    #[serde(default)]
    pub request_id: Option<String>,
    /// Small facts for people: a session's id, the name of a changed field. Never a secret, never an address.
    #[serde(default)]
    pub details: BTreeMap<String, String>,
}
