//! What the command line may ask of the state. The same commands run in a server, where they come over the socket,
//! and in the command line's own process when no server runs.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::audit::{self, AuditAnswer, AuditCommand};
use super::view::{KeyRows, SessionRow, TokenRow, UserRow};
use crate::auth::register::NewAccount;
use crate::auth::rewrap::Rewrapped;
use crate::auth::token::NewToken;
use crate::auth::{Auth, Error};
use crate::clock::Timestamp;
use crate::model::{ApiTokenId, Email, Group, InvalidValue, Secret, SessionId, UserId};
use crate::store::UserQuery;

/// The name in the audit log of what comes from here.
const ACTOR: &str = "cli";

/// The most accounts in one [`Answer::Users`], or audit events in one answer; ask again for more.
pub const PAGE: usize = 500;

/// An account, as people name one: by its address or its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Who {
    /// By id.
    Id(UserId),
    /// By address.
    Email(Email),
}

impl FromStr for Who {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        Email::parse(text).map(Self::Email).map_err(|_| InvalidValue("is neither an e-mail address nor an account's id"))
    }
}

impl TryFrom<String> for Who {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        text.parse()
    }
}

impl From<Who> for String {
    fn from(who: Who) -> Self {
        who.to_string()
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Email(email) => email.fmt(f),
        }
    }
}

/// A question or an order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", rename_all_fields = "snake_case", deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are the arguments of the commands")]
pub enum Command {
    /// Makes an account, whatever `accounts.registration` says.
    UserAdd { email: Email, password: Secret<String>, display_name: Option<String>, groups: BTreeSet<Group>, administrator: bool },
    /// Accounts in the order of making, at most [`PAGE`] of them.
    UserList { search: Option<String>, group: Option<Group>, after: Option<UserId> },
    /// One account.
    UserShow { who: Who },
    /// Sets a password and ends the person's sessions.
    UserSetPassword { who: Who, password: Secret<String> },
    /// Replaces the groups.
    UserSetGroups { who: Who, groups: BTreeSet<Group> },
    /// Keeps a person out.
    UserDisable { who: Who },
    /// Lets them in again.
    UserEnable { who: Who },
    /// Lifts the back-off after wrong passwords and codes.
    UserUnlock { who: Who },
    /// Takes the second factor away.
    UserResetSecondFactor { who: Who },
    /// Deletes an account and what belongs to it.
    UserDelete { who: Who },
    /// A person's sessions.
    SessionList { who: Who },
    /// Ends one session.
    SessionRevoke { id: SessionId },
    /// Ends all of a person's sessions.
    SessionRevokeAll { who: Who },
    /// Makes an API token that ends after `life`, if given.
    TokenCreate { who: Who, name: String, life: Option<Duration>, paths: Vec<String>, methods: Vec<String>, networks: Vec<String> },
    /// A person's API tokens.
    TokenList { who: Who },
    /// Ends an API token, if `who` is given only one of theirs.
    TokenRevoke { who: Option<Who>, id: ApiTokenId },
    /// The signing keys and the storage key, without the keys.
    KeyList {},
    /// Signs with new keys from now on.
    KeyRotate {},
    /// Begins to replace the storage key, or goes on with it.
    StorageKeyRotate {},
    /// Wraps some anew, after this account; ask again with [`Answer::Rewrapped`]'s `next` until it is finished.
    StorageKeyRewrap { after: Option<UserId> },
    /// What concerns the audit log.
    Audit(AuditCommand),
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done, and there is nothing to show.
    Done,
    /// So many sessions were ended.
    Ended(usize),
    /// An account, as it is now.
    User(UserRow),
    /// Accounts.
    Users(Vec<UserRow>),
    /// Sessions, oldest first.
    Sessions(Vec<SessionRow>),
    /// A new API token; its secret is nowhere else.
    NewToken {
        /// The secret.
        secret: Secret<String>,
        /// The record.
        token: TokenRow,
    },
    /// API tokens, oldest first.
    Tokens(Vec<TokenRow>),
    /// Keys.
    Keys(KeyRows),
    /// A rotation of the storage key is under way, and has so much to go through.
    Rotating(u64),
    /// How far it came in one step.
    Rewrapped {
        /// How much was looked at.
        seen: u64,
        /// Where to go on; `None`: from the beginning.
        next: Option<UserId>,
        /// The old key is not needed any more.
        finished: bool,
    },
    /// What is to say about the audit log.
    Audit(AuditAnswer),
}

/// Why a command was not done. The texts are for the operator and say what to do where that is not plain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CommandError {
    /// There is no such account.
    #[error("there is no account {0}: `nullpass user list` shows those there are")]
    NoUser(Who),
    /// There is no such session.
    #[error("there is no session {0}: it may have ended; `nullpass session list` shows a person's")]
    NoSession(SessionId),
    /// There is no such API token, or it is somebody else's.
    #[error("there is no API token {0}: `nullpass token list` shows a person's")]
    NoToken(ApiTokenId),
    /// What was asked breaks a rule.
    #[error("{0}")]
    Refused(String),
    /// The state could not be read or written.
    #[error("{0}")]
    Failed(String),
}

/// Does what `command` says, at `now`.
pub async fn execute(auth: &Auth, command: Command, now: Timestamp) -> Result<Answer, CommandError> {
    match command {
        Command::UserAdd { email, password, display_name, mut groups, administrator } => {
            if administrator {
                groups.insert(auth.admin_group().clone());
            }
            let new = NewAccount { email: email.into(), password, display_name };
            let user = auth.add_user(new, groups, ACTOR, now).await.map_err(refusal)?;
            Ok(Answer::User((&user).into()))
        }
        Command::UserList { search, group, after } => {
            let users = auth.list_users(&UserQuery { search, group, after, limit: PAGE }).await.map_err(refusal)?;
            Ok(Answer::Users(users.iter().map(UserRow::from).collect()))
        }
        Command::UserShow { who } => {
            let user = match &who {
                Who::Id(id) => auth.user(*id).await,
                Who::Email(email) => auth.user_by_email(email).await,
            };
            Ok(Answer::User((&user.map_err(|error| no_user(&who, error))?).into()))
        }
        Command::UserSetPassword { who, password } => {
            let user = auth.reset_password(find(auth, &who).await?, password, ACTOR, now).await;
            user_answer(&who, user)
        }
        Command::UserSetGroups { who, groups } => user_answer(&who, auth.set_groups(find(auth, &who).await?, groups, ACTOR, now).await),
        Command::UserDisable { who } => user_answer(&who, auth.disable_user(find(auth, &who).await?, ACTOR, now).await),
        Command::UserEnable { who } => user_answer(&who, auth.enable_user(find(auth, &who).await?, ACTOR, now).await),
        Command::UserUnlock { who } => user_answer(&who, auth.unlock_user(find(auth, &who).await?, ACTOR, now).await),
        Command::UserResetSecondFactor { who } => user_answer(&who, auth.reset_second_factor(find(auth, &who).await?, ACTOR, now).await),
        Command::UserDelete { who } => {
            auth.remove_user(find(auth, &who).await?, ACTOR, now).await.map_err(|error| no_user(&who, error))?;
            Ok(Answer::Done)
        }
        Command::SessionList { who } => {
            let sessions = auth.list_sessions(find(auth, &who).await?, now).await.map_err(|error| no_user(&who, error))?;
            Ok(Answer::Sessions(sessions.into_iter().map(SessionRow::from).collect()))
        }
        Command::SessionRevoke { id } => match auth.revoke_session(id, ACTOR, now).await {
            Ok(()) => Ok(Answer::Ended(1)),
            Err(Error::NotFound) => Err(CommandError::NoSession(id)),
            Err(error) => Err(refusal(error)),
        },
        Command::SessionRevokeAll { who } => {
            let ended = auth.revoke_sessions(find(auth, &who).await?, ACTOR, now).await;
            Ok(Answer::Ended(ended.map_err(|error| no_user(&who, error))?))
        }
        Command::TokenCreate { who, name, life, paths, methods, networks } => {
            let new = NewToken { id: ApiTokenId::new(), name, expires_at: life.map(|life| now.plus(life)), paths, methods, networks };
            let made = auth.create_token_for(find(auth, &who).await?, new, ACTOR, now).await;
            let (secret, token) = made.map_err(|error| no_user(&who, error))?;
            Ok(Answer::NewToken { secret, token: (&token).into() })
        }
        Command::TokenList { who } => {
            let tokens = auth.list_tokens_of(find(auth, &who).await?).await.map_err(|error| no_user(&who, error))?;
            Ok(Answer::Tokens(tokens.iter().map(TokenRow::from).collect()))
        }
        Command::TokenRevoke { who, id } => {
            let no_token = |error| if matches!(error, Error::NotFound) { CommandError::NoToken(id) } else { refusal(error) };
            let owner = match &who {
                Some(who) => find(auth, who).await?,
                None => auth.owner_of_token(id).await.map_err(no_token)?,
            };
            auth.revoke_token_of(owner, id, ACTOR, now).await.map_err(no_token)?;
            Ok(Answer::Done)
        }
        Command::KeyList {} => {
            let signing = auth.signing_keys().await.map_err(refusal)?;
            Ok(Answer::Keys(KeyRows::new(&signing, auth.storage_key().await.map_err(refusal)?)))
        }
        Command::KeyRotate {} => {
            let signing = auth.rotate_signing_keys(ACTOR, now).await.map_err(refusal)?;
            Ok(Answer::Keys(KeyRows::new(&signing, auth.storage_key().await.map_err(refusal)?)))
        }
        Command::StorageKeyRotate {} => Ok(Answer::Rotating(auth.begin_storage_rotation(ACTOR, now).await.map_err(refusal)?)),
        Command::StorageKeyRewrap { after } => {
            let Rewrapped { seen, next, finished } = auth.rewrap_some(after, ACTOR, now).await.map_err(refusal)?;
            Ok(Answer::Rewrapped { seen, next, finished })
        }
        Command::Audit(command) => audit::execute(auth, command).await.map(Answer::Audit),
    }
}

/// The id of the account that is meant. An id is taken as it is: the use case says when it is nobody's.
pub(super) async fn find(auth: &Auth, who: &Who) -> Result<UserId, CommandError> {
    match who {
        Who::Id(id) => Ok(*id),
        Who::Email(email) => auth.user_by_email(email).await.map(|user| user.id).map_err(|error| no_user(who, error)),
    }
}

fn user_answer(who: &Who, result: Result<crate::model::User, Error>) -> Result<Answer, CommandError> {
    result.map(|user| Answer::User((&user).into())).map_err(|error| no_user(who, error))
}

fn no_user(who: &Who, error: Error) -> CommandError {
    if matches!(error, Error::NotFound | Error::SignInRequired) { CommandError::NoUser(who.clone()) } else { refusal(error) }
}

/// The use case's own words, which are for people. What is behind a failure is added: the reader runs this server, and
/// where no server runs there is no log to look into.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn refusal(error: Error) -> CommandError {
    if !matches!(error, Error::Unavailable(_) | Error::Internal(_)) {
        return CommandError::Refused(error.to_string());
    }
    let text = match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    tracing::error!(error = %text, "a command of the command line failed");
    CommandError::Failed(text)
}
