//! What an open stream looks at to find out that it must close. As long as it is there, its session stays in the table:
//! what is not in the table is not told of its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{LiveApiToken, LiveSession};
use crate::clock::Timestamp;

/// A session or an API token that something open belongs to.
#[derive(Debug)]
pub struct Held(Credential);

#[derive(Debug)]
enum Credential {
    Session(Arc<LiveSession>),
    ApiToken(Arc<LiveApiToken>),
}

impl Held {
    /// Holds a session.
    pub fn session(session: &Arc<LiveSession>) -> Self {
        session.held.fetch_add(1, Ordering::SeqCst);
        Self(Credential::Session(Arc::clone(session)))
    }

    /// Holds an API token.
    pub fn api_token(token: &Arc<LiveApiToken>) -> Self {
        token.held.fetch_add(1, Ordering::SeqCst);
        Self(Credential::ApiToken(Arc::clone(token)))
    }

    /// Whether what is open must close.
    pub fn is_over(&self, now: Timestamp) -> bool {
        match &self.0 {
            Credential::Session(session) => session.is_over(now),
            Credential::ApiToken(token) => token.is_over(now),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let held = match &self.0 {
            Credential::Session(session) => &session.held,
            Credential::ApiToken(token) => &token.held,
        };
        held.fetch_sub(1, Ordering::SeqCst);
    }
}
