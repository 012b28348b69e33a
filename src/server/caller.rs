//! Who asks: the one place that finds a credential of ours in a request and says what it is worth.

use std::sync::Arc;

use http::request::Parts;

use crate::auth::Auth;
use crate::auth::live::Entry;
use crate::auth::session::Recognised;
use crate::model::Secret;
use crate::web::Caller;
use crate::wire::context::{self, Context, Credential};
use crate::wire::cookie::{self, Found, Names};

/// The caller, and what the gateway must do about the credentials.
#[derive(Debug)]
pub(super) struct Called {
    /// Who.
    pub(super) caller: Caller,
    /// `Authorization` carries a credential of ours and must not be forwarded.
    pub(super) ours_in_header: bool,
    /// A session cookie came that is worth nothing: the answer expires it.
    pub(super) expire_cookies: bool,
    /// Basic credentials, for a rule that takes them.
    pub(super) basic: Option<(String, Secret<String>)>,
}

/// Finds out who asks. A credential of ours in `Authorization` counts alone, even when it is bad and a cookie is good
/// (contract, section 4).
pub(super) fn find(auth: &Arc<Auth>, names: &Names, head: &Parts, context: &Context) -> Called {
    let nobody = Called { caller: Caller::Nobody, ours_in_header: false, expire_cookies: false, basic: None };
    let mut basic = None;
    match context::bearer(head) {
        Credential::Bearer(token) => match caller(auth, token, false, context) {
            Some(caller) => return Called { caller, ours_in_header: true, ..nobody },
            None if auth.is_ours(token) => return Called { caller: Caller::Refused, ours_in_header: true, ..nobody },
            None => {}
        },
        Credential::MalformedBearer(rest) => {
            let looks_ours = std::str::from_utf8(rest)
                .is_ok_and(|text| text.split_ascii_whitespace().any(|word| auth.is_ours(word.trim_matches([',', '"', '\'']))));
            if looks_ours {
                return Called { caller: Caller::Refused, ours_in_header: true, ..nobody };
            }
        }
        Credential::Basic { user, password } => {
            if auth.is_ours(password.expose()) {
                let basic = Some((user, password));
                return Called { caller: Caller::Refused, ours_in_header: true, basic, ..nobody };
            }
            basic = Some((user, password));
        }
        // Basic that can't be read can't be ours.
        Credential::None | Credential::MalformedBasic | Credential::Other => {}
    }
    match cookie::find(&head.headers, &names.session) {
        Found::None => Called { basic, ..nobody },
        Found::Conflict => Called { expire_cookies: true, basic, ..nobody },
        Found::One(token) => match caller(auth, token, true, context) {
            Some(caller) => Called { caller, basic, ..nobody },
            None => Called { expire_cookies: true, basic, ..nobody },
        },
    }
}

/// What a token is worth as a caller; `None`: nothing.
fn caller(auth: &Arc<Auth>, token: &str, from_cookie: bool, context: &Context) -> Option<Caller> {
    match auth.recognise(token, context.client, context.now) {
        Recognised::No => None,
        Recognised::StoreAway => Some(Caller::StoreAway),
        Recognised::Good(identity, entry) => match &*entry {
            // The cookie is for sessions; an API token in it would let a page act with it.
            Entry::Api(_) if from_cookie => None,
            Entry::Api(token) => Some(Caller::ApiToken { identity, token: Arc::clone(token) }),
            Entry::Session { session, .. } => {
                let session = Arc::clone(session);
                Some(Caller::Session { identity, session, entry, token: token.to_owned(), from_cookie })
            }
        },
    }
}
