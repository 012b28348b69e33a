//! One request to one of our routes, with everything that handlers ask of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, SET_COOKIE, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, Method, Response};

use super::ask::{Ask, Asker, Form};
use super::bounce::Bounces;
use super::csrf;
use super::error::Failure;
use super::input::{Object, Pairs, Problem};
use super::pages::Link;
use super::routes::{Face, Kind, Needs, Route};
use super::{Caller, Web, pages, reply, return_to};
use crate::auth::live::{Entry, LiveSession};
use crate::auth::{Auth, Client, Error, Issued};
use crate::clock::Timestamp;
use crate::model::{Email, Fitness, Identity, SessionId, UserId};
use crate::wire::body::Body;
use crate::wire::context::{self, Context, Source};
use crate::wire::cookie::{self, Found, Names};

/// The largest body that our routes take, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// The longest `User-Agent` that is kept, in bytes.
const MAX_USER_AGENT: usize = 256;

/// How long a device is known as its owner's after the last sign-in.
const DEVICE_LIFE: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3600);

/// A request.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) web: &'a Web,
    pub(super) head: &'a Parts,
    pub(super) context: &'a Context,
    pub(super) caller: &'a Caller,
    pub(super) client: Client,
    /// The value of the pre-session cookie.
    pub(super) pre: Option<String>,
    /// How many forms have come without one.
    bounces: AtomicU8,
    pub(super) body: Bytes,
}

/// The person who is signed in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signed<'a> {
    pub(super) identity: &'a Arc<Identity>,
    pub(super) session: &'a Arc<LiveSession>,
    pub(super) entry: &'a Entry,
    pub(super) from_cookie: bool,
}

impl<'a> Call<'a> {
    pub(super) fn new(web: &'a Web, head: &'a Parts, context: &'a Context, caller: &'a Caller) -> Self {
        let cookies = &web.settings.cookies;
        let client = client(cookies, &head.headers, context);
        // One that we did not make is not used: its randomness would be somebody else's.
        let pre = found(&head.headers, &cookies.pre).filter(|pre| pre.len() >= 40);
        Self { web, head, context, caller, client, pre, bounces: AtomicU8::new(0), body: Bytes::new() }
    }

    pub(super) fn auth(&self) -> &'a Arc<Auth> {
        &self.web.auth
    }

    pub(super) const fn now(&self) -> Timestamp {
        self.context.now
    }

    /// A path of ours.
    pub(super) fn own(&self, path: &str) -> String {
        format!("{}{path}", self.web.settings.prefix)
    }

    /// The request as the gateway's answers see it.
    pub(super) fn ask(&self) -> Ask<'_> {
        Ask {
            method: &self.head.method,
            headers: &self.head.headers,
            path_and_query: self.head.uri.path_and_query().map_or("/", |path| path.as_str()),
            context: Some(self.context),
            request_id: &self.context.request_id,
            asker: Asker::Client,
        }
    }

    /// Where the request comes from.
    pub(super) fn source(&self) -> Source {
        context::source(&self.head.headers, self.context, &self.web.settings.context)
    }

    /// The person, or why there is none.
    pub(super) fn signed(&self) -> Result<Signed<'a>, Failure> {
        match self.caller {
            Caller::Session { identity, session, entry, token: _, from_cookie } => {
                Ok(Signed { identity, session, entry, from_cookie: *from_cookie })
            }
            Caller::ApiToken { .. } => Err(Failure::SessionRequired),
            Caller::StoreAway => Err(Failure::StoreAway),
            Caller::Nobody | Caller::Refused | Caller::Basic(_) => Err(Error::SignInRequired.into()),
        }
    }

    /// The session that the browser's cookie stands for.
    pub(super) fn cookie_session(&self) -> Option<&'a Arc<LiveSession>> {
        self.signed().ok().filter(|signed| signed.from_cookie).map(|signed| signed.session)
    }

    /// Lets in whom the route lets in, and the cookie only when its browser says that a page of ours sent it. A person's own
    /// pages are for people: script in the application, which shares our origin, has the API, where changes of credentials
    /// ask for more than the token that stands in a page.
    pub(super) fn admit(&self, route: &Route) -> Result<(), Failure> {
        match route.needs {
            Needs::Nothing => return Ok(()),
            Needs::Credential if matches!(self.caller, Caller::ApiToken { .. }) => return Ok(()),
            Needs::Credential | Needs::AnySession | Needs::Session => {}
        }
        let signed = self.signed()?;
        if signed.from_cookie && route.kind() == Kind::Json {
            let meant = match self.source() {
                Source::Same => true,
                Source::Unknown => route.method == Method::GET,
                Source::Foreign => false,
            };
            if !meant {
                return Err(Failure::CrossSite);
            }
        }
        if signed.from_cookie && route.kind() == Kind::Form && context::is_by_script(&self.head.headers) {
            return Err(Failure::CrossSite);
        }
        if route.needs == Needs::Session && signed.session.standing().1 == Fitness::EnrolmentOnly {
            return Err(Error::EnrolmentRequired.into());
        }
        Ok(())
    }

    /// Checks what the body says it is. By cookie even an empty one must say that it is JSON, which no form of another
    /// site can; otherwise only a body that is there must.
    pub(super) fn check_kind(&self, route: &Route, empty: bool) -> Result<(), Failure> {
        let says_nothing = empty
            && match route.kind() {
                // It has no token either, and is refused for that.
                Kind::Form => true,
                Kind::Json => self.cookie_session().is_none() && !takes_a_body(route),
            };
        if route.method == Method::GET || says_nothing {
            return Ok(());
        }
        let takes = route.kind().takes();
        let mut kinds = self.head.headers.get_all(CONTENT_TYPE).iter();
        let (kind, second) = (kinds.next().and_then(|kind| kind.to_str().ok()), kinds.next());
        if second.is_none() && kind.is_some_and(|kind| is_kind(kind, takes)) { Ok(()) } else { Err(Failure::WrongKind { takes }) }
    }

    /// The body as JSON.
    pub(super) fn object(&self) -> Result<Object, Problem> {
        Object::parse(&self.body, false)
    }

    /// The body as JSON; none is an object without fields.
    pub(super) fn optional_object(&self) -> Result<Object, Problem> {
        Object::parse(&self.body, true)
    }

    /// The query.
    pub(super) fn query(&self) -> Result<Pairs, Problem> {
        Pairs::parse(self.head.uri.query().unwrap_or_default().as_bytes())
    }

    /// Where a page's `rd` leads.
    pub(super) fn return_to(&self, pairs: &mut Pairs) -> String {
        return_to::parse(&pairs.take("rd").unwrap_or_default(), self.web.site.as_ref())
    }

    /// The token for a form of ours in this browser, and the cookie that has to be set for it.
    pub(super) fn seal_form(&self, form: &str, session: Option<SessionId>) -> SealedForm {
        let mut cookies = Vec::new();
        let pre = match &self.pre {
            Some(pre) => pre.clone(),
            None => {
                let pre = self.auth().browser_secret();
                let names = &self.web.settings.cookies;
                cookies.extend(names.set(&names.pre, pre.expose(), None).ok());
                pre.expose().clone()
            }
        };
        let bounces = self.bounces();
        if bounces != Bounces::default() {
            cookies.push(HeaderValue::from_static(cookie::PROBE));
        }
        let token = csrf::token(self.auth(), &pre, form, session);
        SealedForm { token: format!("{token}{}", bounces.text(self.auth(), self.now())), cookies }
    }

    /// How many forms of this browser have come without our cookie, this one included.
    pub(super) fn bounces(&self) -> Bounces {
        Bounces(self.bounces.load(Ordering::Relaxed))
    }

    /// Whether a form was sent from a page of ours that this browser was shown.
    pub(super) fn is_genuine(&self, pairs: &mut Pairs, form: &str, session: Option<SessionId>) -> Result<(), Stale> {
        if self.source() == Source::Foreign {
            return Err(Stale::Foreign);
        }
        let sent = pairs.take("csrf").unwrap_or_default();
        let (sent, counted) = sent.split_once('.').unwrap_or((&sent, ""));
        match &self.pre {
            Some(pre) if csrf::is_genuine(self.auth(), sent, pre, form, session) => Ok(()),
            Some(_) => Err(Stale::Old),
            None => {
                let bounces = Bounces::read(self.auth(), counted, self.now()).and_one();
                self.bounces.store(bounces.0, Ordering::Relaxed);
                Err(Stale::Old)
            }
        }
    }

    /// The person, if this browser is signed in as the one with this address.
    pub(super) fn is_in_as(&self, email: &str) -> Option<UserId> {
        self.cookie_session()?;
        let identity = self.signed().ok()?.identity;
        (Email::parse(email).ok()? == identity.email).then_some(identity.user)
    }

    /// The person whose pending login this is, if this browser has signed in as them since it began.
    pub(super) fn came_in_since(&self, pending: Option<(UserId, Timestamp)>) -> Option<UserId> {
        let (user, begun) = pending?;
        self.cookie_session().filter(|session| session.user() == user && session.auth_time() >= begun).map(|_| user)
    }

    /// Puts a new session's cookie and the device's on an answer.
    pub(super) fn set_session(&self, response: &mut Response<Body>, issued: &Issued) {
        let web = self.web;
        let cookies = &web.settings.cookies;
        let session = web.renewed_cookie(issued.token.expose(), issued.expires_at, self.now());
        let device = cookies.set(&cookies.device, &issued.device, Some(DEVICE_LIFE)).ok();
        append_cookies(response, std::iter::once(session).chain(device));
        response.extensions_mut().insert(issued.session);
    }

    /// Ends the session that this browser had before it signed in again (requirement SES-1).
    pub(super) async fn end_previous(&self, next: &Issued) -> Result<(), Failure> {
        match self.cookie_session() {
            // A form that was sent twice has the first one's session, and gets it again.
            Some(session) if session.id != next.session => Ok(self.auth().log_out(session, &self.client, self.now()).await?),
            Some(_) | None => Ok(()),
        }
    }

    /// The answer to a request that was not done.
    pub(super) fn refuse(&self, face: Face, failure: &Failure) -> Response<Body> {
        failure.log(&self.context.request_id);
        let ask = self.ask();
        if face.is_api() || ask.form() == Form::Json || ask.form() == Form::Grpc {
            let login = matches!(failure, Failure::Auth(Error::SignInRequired)).then(|| self.own("/login"));
            return reply::error(&failure.told(), &self.context.request_id, login.as_deref());
        }
        match failure {
            Failure::Auth(Error::SignInRequired) => self.web.sign_in_required(&ask, false, false),
            Failure::Auth(Error::EnrolmentRequired) => self.web.enrolment_required(&ask),
            Failure::NoRoute => {
                let home = Link { href: "/", text: self.texts().remedies.home, top: ask.form() == Form::Frame };
                pages::message(self.shell(), &failure.told(), Some(home), &self.context.request_id)
            }
            Failure::Auth(_)
            | Failure::Input(_)
            | Failure::TooLarge
            | Failure::BrokenOff
            | Failure::TooSlow
            | Failure::WrongKind { .. }
            | Failure::WrongMethod { .. }
            | Failure::CrossSite
            | Failure::SessionRequired
            | Failure::StoreAway
            | Failure::BadToken
            | Failure::ServiceWorker => pages::message(self.shell(), &failure.told(), None, &self.context.request_id),
        }
    }
}

/// Who sends a request.
pub(super) fn client(cookies: &Names, headers: &HeaderMap, context: &Context) -> Client {
    Client {
        ip: context.client,
        attributable: !context.client_undeclared,
        user_agent: headers.get(USER_AGENT).and_then(|value| user_agent(value.as_bytes())),
        request_id: Some(context.request_id.clone()),
        device: found(headers, &cookies.device),
    }
}

fn found(headers: &HeaderMap, name: &cookie::Name) -> Option<String> {
    match cookie::find(headers, name) {
        Found::One(value) => Some(value.to_owned()),
        Found::None | Found::Conflict => None,
    }
}

/// What a form needs to be known as ours when it comes back.
#[derive(Debug)]
pub(super) struct SealedForm {
    pub(super) token: String,
    pub(super) cookies: Vec<HeaderValue>,
}

/// Why a form is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stale {
    /// Another site sent it.
    Foreign,
    /// It was made for another browser or another session, or the browser has lost its cookies.
    Old,
}

/// Adds `Set-Cookie`s.
pub(super) fn append_cookies(response: &mut Response<Body>, cookies: impl IntoIterator<Item = HeaderValue>) {
    for cookie in cookies {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
}

/// Whether a route is nothing without a body: then its kind is asked for even where there is none.
fn takes_a_body(route: &Route) -> bool {
    route.needs == Needs::Nothing
}

/// Whether a `Content-Type` is `takes`, in UTF-8 as far as it says.
pub(super) fn is_kind(kind: &str, takes: &str) -> bool {
    let mut parts = kind.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8"),
        Some(_) | None => true,
    };
    essence.eq_ignore_ascii_case(takes) && parts.all(utf8)
}

/// `User-Agent` without control characters, cut to [`MAX_USER_AGENT`] at a character.
fn user_agent(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut kept = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if kept.len() + c.len_utf8() > MAX_USER_AGENT {
            break;
        }
        kept.push(c);
    }
    (!kept.is_empty()).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_compared_whole() {
        for good in ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;charset=\"UTF-8\""] {
            assert!(is_kind(good, "application/json"), "{good}");
        }
        for bad in ["", "application/jsonp", "text/plain", "application/json; charset=utf-7", "application/json, text/plain", "json"] {
            assert!(!is_kind(bad, "application/json"), "{bad}");
        }
    }

    #[test]
    fn user_agents_are_cut_and_cleaned() {
        assert_eq!(user_agent(b"Mozilla\t5\x1b[31m").as_deref(), Some("Mozilla5[31m"));
        assert_eq!(user_agent(b""), None);
        let long = "ü".repeat(300);
        assert_eq!(user_agent(long.as_bytes()).map(|text| text.len()), Some(256));
        assert_eq!(user_agent(b"\xff").as_deref(), Some("\u{fffd}"));
    }
}
