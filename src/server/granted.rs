//! What somebody who was let through gets beside the upstream's answer: a statement that the upstream can verify, an end to
//! their streams when what they asked with ends, and their cookie's next token.

use std::sync::Arc;

use http::header::{CACHE_CONTROL, SET_COOKIE};
use http::{HeaderValue, Method, Response};

use super::gateway::Gateway;
use crate::auth;
use crate::auth::live::Held;
use crate::clock::Timestamp;
use crate::crypto::token::AssertionClaims;
use crate::model::Identity;
use crate::proxy::Ended;
use crate::web::Caller;
use crate::wire::body::Body;
use crate::wire::cache;
use crate::wire::context::Context;

impl Gateway {
    /// The statement about `identity` that `upstream` can verify, for this request alone (`[identity] assertion`).
    pub(super) fn assertion_for(
        &self,
        identity: Option<&Arc<Identity>>,
        upstream: &str,
        method: &Method,
        context: &Context,
        path: &str,
    ) -> Result<Option<HeaderValue>, auth::Error> {
        let (Some(assertion), Some(identity)) = (&self.assertion, identity) else { return Ok(None) };
        let admin_group = self.auth.admin_group();
        let claims = AssertionClaims {
            sub: identity.user,
            email: identity.email.clone(),
            groups: identity.groups.iter().filter(|group| *group != admin_group).cloned().collect(),
            iss: String::new(),
            aud: upstream.to_owned(),
            iat: context.now.as_secs(),
            exp: context.now.plus(assertion.ttl).as_secs(),
            method: method.as_str().to_owned(),
            host: context.host.as_str().to_owned(),
            path: path.to_owned(),
        };
        let token = self.auth.assertion(&claims)?;
        HeaderValue::from_str(token.expose()).map(Some).map_err(|error| auth::Error::Internal(error.to_string()))
    }

    /// Lets streams and upgrades find out that their session has ended.
    pub(super) fn ended(&self, caller: &Caller) -> Option<Ended> {
        let clock = self.clock.clone();
        match caller {
            Caller::Session { session, .. } => {
                let held = Held::session(session);
                Some(Arc::new(move || held.is_over(clock.now())))
            }
            Caller::ApiToken { token, .. } => {
                let held = Held::api_token(token);
                Some(Arc::new(move || held.is_over(clock.now())))
            }
            Caller::Basic(identity) => {
                let (auth, user, proven_at) = (Arc::clone(&self.auth), identity.user, identity.auth_time);
                Some(Arc::new(move || !auth.live().still_takes_password(user, proven_at)))
            }
            Caller::Nobody | Caller::Refused | Caller::StoreAway => None,
        }
    }

    /// Gives a cookie's next token with the answer, when it is time; what carries a token is nobody else's to keep.
    pub(super) fn renew(&self, caller: &Caller, response: &mut Response<Body>, now: Timestamp) {
        let Caller::Session { identity, entry, from_cookie: true, .. } = caller else { return };
        if let Some((token, expires_at)) = self.auth.renew(entry, identity, now) {
            let headers = response.headers_mut();
            headers.append(SET_COOKIE, self.web.renewed_cookie(token.expose(), expires_at, now));
            cache::make_private(headers);
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        }
    }
}
