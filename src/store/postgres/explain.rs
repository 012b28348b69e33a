//! What the client's errors mean. Texts name the place, the role and the server's own words; never the password, which no
//! error of the client holds, and never a server's DETAIL, which may hold a stored value.

use std::error::Error as _;

use tokio_postgres::error::SqlState;

use crate::config::Postgres;
use crate::store::Error;

/// What to do after an error of a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// The same again: two transactions met.
    Again,
    /// The connection is of no use any more, and nor are those that were made when it was. The server said that nothing
    /// was done.
    Elsewhere,
    /// The connection broke off: what was under way may have been done.
    Lost,
    /// That was it.
    Over,
}

/// What to do after this error.
pub(super) fn next(error: &tokio_postgres::Error) -> Next {
    let Some(code) = error.code() else {
        // What is no answer of the server's is the connection's end, or a value that does not fit.
        let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>()).is_some();
        return if error.is_closed() || io { Next::Lost } else { Next::Over };
    };
    match code.code() {
        "40001" | "40P01" => Next::Again,
        // A standby, or a primary that was replaced; shutting down; starting; and what only poolers say.
        "25006" | "57P01" | "57P03" | "57P05" | "25P03" => Next::Elsewhere,
        // There was no connection to do anything with.
        "08001" | "08004" => Next::Elsewhere,
        // A server that crashes, and what a pooler says when the server's connection broke behind it: perhaps after
        // the commit.
        "57P02" => Next::Lost,
        code if code.starts_with("08") => Next::Lost,
        // Somebody changed a table, or took our prepared statements away: a new connection knows better. It is said
        // before anything is done.
        "26000" => Next::Elsewhere,
        "0A000" if is_outdated_plan(error) => Next::Elsewhere,
        _ => Next::Over,
    }
}

/// By the place in the server that says so, since the words differ with its language.
fn is_outdated_plan(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().and_then(tokio_postgres::error::DbError::routine) == Some("RevalidateCachedQuery")
}

/// Whether the server has no place for one more connection.
pub(super) fn is_full(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS)
}

/// Whether somebody else's value is in the way.
pub(super) fn is_unique_violation(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::UNIQUE_VIOLATION)
}

/// The error of a statement.
pub(super) fn running(error: &tokio_postgres::Error) -> Error {
    match error.code() {
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => Error::Rights(chain(error)),
        Some(_) | None => Error::Unavailable(chain(error)),
    }
}

/// Why there is no connection.
pub(super) fn connecting(error: &tokio_postgres::Error, settings: &Postgres) -> Error {
    let text = format!("{}: {}", place(settings), chain(error));
    match error.code().map(SqlState::code) {
        // Too many connections; shutting down; starting; out of memory or disk: all of that passes.
        Some(code) if code.starts_with("53") || code.starts_with("57") || code.starts_with("08") => Error::Unavailable(text),
        Some("42501") => Error::Rights(text),
        Some(code) if code.starts_with("28") || code.starts_with("3D") || code.starts_with("0A") => Error::Refused(text),
        Some(_) => Error::Unavailable(text),
        None => match error.to_string().as_str() {
            "error performing TLS handshake" if is_about_tls(error) => Error::Tls(text),
            "authentication error" | "invalid configuration" => Error::Refused(text),
            _ => Error::Unavailable(text),
        },
    }
}

/// Not when the connection broke while TLS was being agreed on.
fn is_about_tls(error: &tokio_postgres::Error) -> bool {
    match error.source().and_then(|source| source.downcast_ref::<std::io::Error>()) {
        Some(io) => io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some(),
        None => true,
    }
}

/// Where the database is and who we are there.
pub(super) fn place(settings: &Postgres) -> String {
    let hosts: Vec<String> = settings.hosts.iter().map(ToString::to_string).collect();
    format!("database {:?} at {} as role {:?}", settings.database, hosts.join(", "), settings.user)
}

/// An error with its causes, or the server's words with their code.
pub(super) fn chain(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", db.message(), db.code().code());
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
