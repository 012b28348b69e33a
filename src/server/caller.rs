//! Who asks: the one place that finds a credential of ours in a request and says what it is worth.

use std::sync::Arc;

use http::request::Parts;

use crate::auth::Auth;
use crate::auth::live::Entry;
use crate::auth::recognise::Recognised;
use crate::model::{Identity, Secret};
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
    /// `caller` is by Basic: a browser that was told a password sends it without being asked, like a cookie.
    pub(super) by_basic: bool,
    /// The browser was made to send it by a page of another site, so nobody counts as having asked.
    pub(super) foreign: bool,
    /// Basic credentials, for a rule that takes them.
    pub(super) basic: Option<(String, Secret<String>)>,
}

impl Called {
    /// No credential of ours, or nobody has looked.
    pub(super) const fn nobody() -> Self {
        Self { caller: Caller::Nobody, ours_in_header: false, expire_cookies: false, by_basic: false, foreign: false, basic: None }
    }

    /// Whether a browser sent the credential by itself.
    pub(super) fn is_ambient(&self) -> bool {
        self.caller.is_from_cookie() || (self.by_basic && self.caller.identity().is_some())
    }

    /// Who counts as having asked.
    pub(super) fn identity(&self) -> Option<&Arc<Identity>> {
        self.caller.identity().filter(|_| !self.foreign)
    }
}

/// Finds out who asks: without waiting for anybody, unless others share the store and this process has not seen the
/// credential. A credential of ours in `Authorization` counts alone, even when it is bad and a cookie is good
/// (contract, section 4).
pub(super) async fn find(auth: &Arc<Auth>, names: &Names, head: &Parts, context: &Context) -> Called {
    let nobody = Called::nobody();
    let mut basic = None;
    match context::bearer(head) {
        Credential::Bearer(token) => match caller(auth, token, false, context).await {
            Some(caller) => return Called { caller, ours_in_header: true, ..nobody },
            None if auth.is_ours(token) => return Called { caller: Caller::Refused, ours_in_header: true, ..nobody },
            None => {}
        },
        Credential::MalformedBearer(text) | Credential::MalformedBasic(text) | Credential::Other(text) => {
            if holds_ours(auth, text) {
                return Called { caller: Caller::Refused, ours_in_header: true, ..nobody };
            }
        }
        Credential::Basic { user, password } => {
            if auth.is_ours(password.expose()) {
                let basic = Some((user, password));
                return Called { caller: Caller::Refused, ours_in_header: true, basic, ..nobody };
            }
            // Some programs put a token into the name and leave the password empty.
            if auth.is_ours(&user) {
                return Called { caller: Caller::Refused, ours_in_header: true, ..nobody };
            }
            basic = Some((user, password));
        }
        Credential::None => {}
    }
    // What script fetches in the background may have been sent before the person got a newer cookie, and its answer would
    // take that one away: a page's own answer does it.
    let expire_cookies = !context::is_by_script(&head.headers);
    match cookie::find(&head.headers, &names.session) {
        Found::None => Called { basic, ..nobody },
        Found::Conflict => Called { expire_cookies, basic, ..nobody },
        Found::One(token) => match caller(auth, token, true, context).await {
            Some(caller) => Called { caller, basic, ..nobody },
            None => Called { expire_cookies, basic, ..nobody },
        },
    }
}

/// Whether a token of ours stands anywhere in `text`, which is not written as one should be: `Token np_…`, `key="np_…"`.
fn holds_ours(auth: &Auth, text: &[u8]) -> bool {
    let in_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    text.split(|byte| !in_token(byte)).filter_map(|word| std::str::from_utf8(word).ok()).any(|word| auth.is_ours(word))
}

/// What a token is worth as a caller; `None`: nothing.
async fn caller(auth: &Arc<Auth>, token: &str, from_cookie: bool, context: &Context) -> Option<Caller> {
    match auth.recognise(token, context.client, context.now).await {
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
