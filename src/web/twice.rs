//! Forms that begin a new session in place of the one that they were sent with. Who clicks twice sends such a form twice,
//! and the browser shows the second answer alone. The second one may come with the old session's cookie when that session
//! has ended already: the same bytes from the same browser, so for a moment it gets what the first one got.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{LOCATION, SET_COOKIE};
use http::{HeaderValue, Response};

use super::Endpoint;
use super::call::{Call, append_cookies};
use super::input::Pairs;
use super::login::Way;
use super::reply;
use crate::clock::Timestamp;
use crate::model::{Digest, SessionId};
use crate::wire::body::Body;
use crate::wire::cookie::{self, Found};

/// How long after the first answer the second form is still the same request.
const MOMENT: Duration = Duration::from_secs(15);

/// How many are remembered; beyond it a second click is told to sign in.
const MOST: usize = 1024;

/// The forms of this moment.
#[derive(Debug, Default)]
pub(super) struct Twice(Mutex<HashMap<Digest, (Timestamp, Place)>>);

/// What became of a form. Held while it is looked at: the second click waits for the first.
pub(super) type Place = Arc<tokio::sync::Mutex<Option<Done>>>;

/// The first answer, as far as it is said again.
#[derive(Debug)]
pub(super) struct Done {
    at: Timestamp,
    session: SessionId,
    /// `None`: it offered a form that was kept, as the same bytes will again.
    location: Option<HeaderValue>,
    cookies: Vec<HeaderValue>,
}

/// Whether an endpoint's form is such a one.
pub(super) const fn replaces_its_session(endpoint: Endpoint) -> bool {
    matches!(endpoint, Endpoint::ReauthForm | Endpoint::PasswordForm)
}

impl Twice {
    /// The place of the form that a call has read; `None`: it came without a session's cookie, or there are too many.
    pub(super) fn place(&self, call: &Call<'_>) -> Option<Place> {
        let Found::One(token) = cookie::find(&call.head.headers, &call.web.settings.cookies.session) else { return None };
        let pre = call.pre.as_deref()?;
        let told = [call.head.uri.path(), token, pre].join("\n");
        let key = call.auth().browser_mac("twice", &[told.as_bytes(), b"\n", &call.body].concat());
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, (begun, _)| call.now().since(*begun) <= MOMENT);
        if places.len() >= MOST && !places.contains_key(&key) {
            return None;
        }
        let (begun, place) = places.entry(key).or_insert_with(|| (call.now(), Place::default()));
        *begun = call.now();
        Some(Arc::clone(place))
    }
}

impl Done {
    /// An answer that began `session`.
    pub(super) fn of(response: &Response<Body>, session: SessionId, now: Timestamp) -> Self {
        let location = response.headers().get(LOCATION).cloned();
        let cookies = response.headers().get_all(SET_COOKIE).iter().cloned().collect();
        Self { at: now, session, location, cookies }
    }

    /// The same answer, while its session lives.
    pub(super) fn again(&self, call: &Call<'_>) -> Option<Response<Body>> {
        let recent = call.now().since(self.at) <= MOMENT;
        let live = call.auth().live().session(self.session).filter(|session| recent && !session.is_over(call.now()))?;
        let mut response = match &self.location {
            Some(location) => reply::redirect(http::StatusCode::SEE_OTHER, location.to_str().ok()?),
            None => Way::take(call, &mut Pairs::parse(&call.body).ok()?).on(call, live.user()),
        };
        append_cookies(&mut response, self.cookies.iter().cloned());
        Some(response)
    }
}
