//! nullpass's own pages and its JSON API, and the answers that the gateway gives instead of an upstream's.
//!
//! `routes` has the whole table on one screen. A feature has one file, named as in `auth`, with its page and its JSON
//! side by side. `error` is the only place that knows which error has which status. Nothing here decides who may do
//! what: that is `auth`'s.

mod account;
mod api;
mod ask;
mod assets;
mod audit;
mod bounce;
mod call;
mod csrf;
mod error;
#[cfg(any(test, fuzzing))]
mod fuzzing;
mod input;
mod kept;
mod keys;
mod language;
mod languages;
mod login;
mod pages;
mod reauth;
mod refuse;
mod register;
mod reply;
mod return_to;
mod routes;
mod said;
mod session;
mod setup;
mod system;
mod token;
mod totp;
mod twice;
mod view;

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderValue, SET_COOKIE};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use url::Url;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use self::fuzzing::{input as fuzz_input, return_target as fuzz_return_target};
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use self::kept::fuzzing::kept_form as fuzz_kept_form;

use self::assets::Assets;
use self::bounce::Straight;
use self::call::{Call, MAX_BODY};
use self::error::Failure;
use self::languages::Language;
use self::return_to::Site;
use self::routes::{Endpoint, Face, Kind};
use crate::auth::live::{Entry, LiveApiToken, LiveSession};
use crate::auth::{Auth, Client, Error};
use crate::clock::Timestamp;
use crate::config;
use crate::model::{Identity, SessionId};
use crate::wire::body::{Body, ReadError, read_limited};
use crate::wire::context::{self, Context};
use crate::wire::cookie::{self, Found, Names};

pub use self::ask::{Ask, Asker, Form};
pub use self::refuse::Reader;

/// The parts of the configuration that the pages and the API read.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The prefix of our own routes, without a slash at the end.
    pub prefix: String,
    /// `server.public_url`.
    pub public_url: Option<Url>,
    /// What is believed of a request's head: it says what our own origin is.
    pub context: context::Settings,
    /// The cookies' names and attributes.
    pub cookies: Names,
    /// The domain that sessions are good for, if it is more than one host.
    pub domain: Option<String>,
    /// How pages look.
    pub ui: config::Ui,
    /// How long a body may take to arrive: as long as a head, since it is hardly longer.
    pub body_timeout: Duration,
}

impl Settings {
    /// From the sections that matter here.
    pub fn new(config: &config::Config) -> Self {
        Self {
            prefix: config.server.prefix.clone(),
            public_url: config.server.public_url.clone(),
            context: context::Settings::from(&config.server),
            cookies: Names::from(&config.sessions.cookie, config.server.is_https()),
            domain: config.sessions.cookie.domain.clone(),
            ui: config.ui.clone(),
            body_timeout: config.server.header_timeout,
        }
    }
}

/// Who sends a request, as the gateway found out.
#[derive(Debug)]
pub enum Caller {
    /// No credential of ours.
    Nobody,
    /// A credential of ours that is malformed, expired or ended.
    Refused,
    /// A credential that can't be looked up, because the store does not answer.
    StoreAway,
    /// A person with a session.
    Session {
        /// Who.
        identity: Arc<Identity>,
        /// The session.
        session: Arc<LiveSession>,
        /// What the token's digest led to.
        entry: Arc<Entry>,
        /// The token as it was sent.
        token: String,
        /// Whether it came in our cookie, which a browser sends without being asked.
        from_cookie: bool,
    },
    /// A program with a personal API token.
    ApiToken {
        /// Who.
        identity: Arc<Identity>,
        /// The token.
        token: Arc<LiveApiToken>,
    },
    /// A person by Basic authentication with their password, which a rule allows for its paths only: nobody here.
    Basic(Arc<Identity>),
}

impl Caller {
    /// Who it is, when that is known.
    pub const fn identity(&self) -> Option<&Arc<Identity>> {
        match self {
            Self::Session { identity, .. } | Self::ApiToken { identity, .. } | Self::Basic(identity) => Some(identity),
            Self::Nobody | Self::Refused | Self::StoreAway => None,
        }
    }

    /// The session's token.
    pub fn token(&self) -> Option<&str> {
        match self {
            Self::Session { token, .. } => Some(token),
            Self::ApiToken { .. } | Self::Basic(_) | Self::Nobody | Self::Refused | Self::StoreAway => None,
        }
    }

    /// Whether a browser sent the credential by itself.
    pub const fn is_from_cookie(&self) -> bool {
        matches!(self, Self::Session { from_cookie: true, .. })
    }
}

/// The pages and the API.
#[derive(Debug)]
pub struct Web {
    auth: Arc<Auth>,
    settings: Settings,
    twice: twice::Twice,
    site: Option<Site>,
    assets: Assets,
    language: Language,
    openapi: String,
    /// Bounds the forms that are kept at this moment.
    keeping: Arc<Semaphore>,
    straight: Straight,
}

/// Says that a script is fetched for a service worker (Service Workers, section 6.4).
const SERVICE_WORKER: HeaderName = HeaderName::from_static("service-worker");

/// Stands for a path that is ours in every reading, and so never forwarded, but not as it is spelled: no route of ours
/// is spelled so.
const SPELLED_OTHERWISE: &str = "//";

impl Web {
    /// Puts the pages together.
    pub fn new(auth: Arc<Auth>, settings: Settings) -> Self {
        Self {
            twice: twice::Twice::default(),
            site: Site::new(settings.public_url.as_ref(), settings.domain.as_deref()),
            assets: Assets::new(&settings.ui),
            // The configuration takes no other.
            language: Language::from_tag(&settings.ui.default_locale).unwrap_or(Language::En),
            openapi: system::openapi(&settings.prefix),
            keeping: Arc::new(Semaphore::new(kept::AT_ONCE)),
            straight: Straight::default(),
            auth,
            settings,
        }
    }

    /// Whether a path is one of ours: the prefix itself or something below it, in whole segments (requirement RTE-1).
    pub fn is_own(&self, path: &str) -> bool {
        path.strip_prefix(self.settings.prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether a path is that of a style, script or picture of the present pages, as they spell it.
    pub fn is_asset(&self, path: &str) -> bool {
        path.strip_prefix(self.settings.prefix.as_str())
            .and_then(|rest| rest.strip_prefix("/static/"))
            .is_some_and(|name| self.assets.find(name).is_some())
    }

    /// The sender of a request, as sign-in cares.
    pub fn client(&self, headers: &HeaderMap, context: &Context) -> Client {
        call::client(&self.settings.cookies, headers, context)
    }

    /// Answers a request for one of our own paths.
    pub async fn handle(&self, request: Request<Incoming>, context: &Context, caller: Caller) -> Response<Body> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().strip_prefix(self.settings.prefix.as_str()).unwrap_or(SPELLED_OTHERWISE);
        let face = routes::face(path);
        let mut call = Call::new(self, &head, context, &caller);
        let mut response = match self.answer(&mut call, path, body).await {
            Ok(response) => response,
            Err(failure) => call.refuse(face, &failure),
        };
        if call.bounces().is_enough() {
            response = bounce::explain(&call);
        }
        self.expire_worthless_cookie(&call, &mut response);
        response
    }

    async fn answer(&self, call: &mut Call<'_>, path: &str, body: Incoming) -> Result<Response<Body>, Failure> {
        if call.head.headers.get(SERVICE_WORKER).is_some() {
            return Err(Failure::ServiceWorker);
        }
        if let Some(name) = path.strip_prefix("/static/") {
            return self.asset(call, name);
        }
        let known = routes::methods(path);
        if known.is_empty() {
            return Err(Failure::NoRoute);
        }
        if call.head.method == Method::OPTIONS {
            // Never a CORS header: other origins have no business here (requirement NP-12).
            let mut response = reply::empty(StatusCode::NO_CONTENT);
            response.headers_mut().insert(http::header::ALLOW, reply::allow(&known));
            return Ok(response);
        }
        let route = routes::find(&call.head.method, path).ok_or(Failure::WrongMethod { allow: known })?;
        // Who may not is told so before a byte of the body is read; only a form that replaces its session may be one that did.
        let replaces = twice::replaces_its_session(route.endpoint);
        let admitted = call.admit(route);
        let replaced = replaces && matches!(admitted, Err(Failure::Auth(Error::SignInRequired)));
        if !replaced {
            admitted?;
        }
        call.check_kind(route, body.is_end_stream())?;
        call.body = read_limited(body, limit(route.endpoint), self.settings.body_timeout).await.map_err(|error| match error {
            ReadError::TooLarge => Failure::TooLarge,
            ReadError::Broken => Failure::BrokenOff,
            ReadError::TooSlow => Failure::TooSlow,
        })?;
        if replaces { self.replace_session(route.endpoint, call, replaced).await } else { self.dispatch(route.endpoint, call).await }
    }

    /// Answers a form that begins a session in place of the one it came with. `replaced`: that one is over.
    async fn replace_session(&self, endpoint: Endpoint, call: &Call<'_>, replaced: bool) -> Result<Response<Body>, Failure> {
        let place = self.twice.place(call);
        let mut done = match &place {
            Some(place) => Some(place.lock().await),
            None => None,
        };
        if let Some(again) = done.as_ref().and_then(|done| done.as_ref()).and_then(|done| done.again(call)) {
            return Ok(again);
        }
        if replaced {
            return login::in_place_of(call).ok_or_else(|| Error::SignInRequired.into());
        }
        let response = self.dispatch(endpoint, call).await?;
        if let (Some(done), Some(session)) = (&mut done, response.extensions().get::<SessionId>()) {
            **done = Some(twice::Done::of(&response, *session, call.now()));
        }
        Ok(response)
    }

    async fn dispatch(&self, endpoint: Endpoint, call: &Call<'_>) -> Result<Response<Body>, Failure> {
        match endpoint {
            Endpoint::Register => register::api(call).await,
            Endpoint::Login => login::api(call).await,
            Endpoint::LoginSecondFactor => login::second_factor_api(call).await,
            Endpoint::Reauth => reauth::api(call).await,
            Endpoint::Refresh => session::refresh(call).await,
            Endpoint::Logout => session::log_out(call).await,
            Endpoint::Verify => session::verify(call).await,
            Endpoint::Me => account::json::show(call).await,
            Endpoint::ChangeMe => account::json::change(call).await,
            Endpoint::DeleteMe => account::json::delete(call).await,
            Endpoint::Password => account::json::password(call).await,
            Endpoint::SecondFactor => totp::api(call).await,
            Endpoint::RecoveryCodes => totp::recovery_codes(call).await,
            Endpoint::Sessions => session::list(call).await,
            Endpoint::EndSessions => session::end(call).await,
            Endpoint::Tokens => token::list(call).await,
            Endpoint::CreateToken => token::create(call).await,
            Endpoint::DeleteToken => token::delete(call).await,
            Endpoint::Audit => audit::list(call).await,
            Endpoint::Health => Ok(system::health()),
            Endpoint::Jwks => Ok(keys::jwks(call)),
            Endpoint::OpenApi => Ok(reply::json_text(self.openapi.clone())),
            Endpoint::Home => Ok(reply::redirect(StatusCode::SEE_OTHER, &call.own("/account"))),
            Endpoint::Language => Ok(language::choose(call)),
            Endpoint::LoginPage => Ok(login::page(call)),
            Endpoint::LoginForm => login::form(call).await,
            Endpoint::SecondFactorPage => Ok(login::first_step(call)),
            Endpoint::SecondFactorForm => login::second_factor_form(call).await,
            Endpoint::KeptPage => Ok(kept::page()),
            Endpoint::KeptForm => kept::send(call).await,
            Endpoint::RegisterPage => register::page(call),
            Endpoint::RegisterForm => register::form(call).await,
            Endpoint::SetupPage => setup::page(call).await,
            Endpoint::SetupForm => setup::form(call).await,
            Endpoint::ReauthPage => reauth::page(call),
            Endpoint::ReauthForm => reauth::form(call).await,
            Endpoint::LogoutPage => session::page(call),
            Endpoint::LogoutForm => session::form(call).await,
            Endpoint::ProfilePage => account::profile::page(call).await,
            Endpoint::ProfileForm => account::profile::form(call).await,
            Endpoint::PasswordPage => account::password::page(call),
            Endpoint::PasswordForm => account::password::form(call).await,
            Endpoint::TwoFactorPage => account::two_factor::page(call).await,
            Endpoint::TwoFactorForm => account::two_factor::form(call).await,
            Endpoint::TwoFactorOffPage => account::two_factor::off_page(call),
            Endpoint::TwoFactorOffForm => account::two_factor::off_form(call).await,
            Endpoint::RecoveryCodesPage => account::recovery_codes::page(call).await,
            Endpoint::RecoveryCodesForm => account::recovery_codes::form(call).await,
            Endpoint::RecoveryCodesFile => account::recovery_codes::file(call),
            Endpoint::SessionsPage => account::sessions::page(call).await,
            Endpoint::SessionsForm => account::sessions::form(call).await,
            Endpoint::TokensPage => account::tokens::page(call).await,
            Endpoint::NewTokenPage => account::tokens::new_page(call),
            Endpoint::NewTokenForm => account::tokens::new_form(call).await,
            Endpoint::EndTokenPage => Ok(account::tokens::end_page(call)),
            Endpoint::EndTokenForm => account::tokens::end_form(call).await,
            Endpoint::ActivityPage => account::activity::page(call).await,
            Endpoint::DeletionPage => account::deletion::page(call),
            Endpoint::DeletionForm => account::deletion::form(call).await,
        }
    }

    fn asset(&self, call: &Call<'_>, name: &str) -> Result<Response<Body>, Failure> {
        let asset = self.assets.find(name).ok_or(Failure::NoRoute)?;
        if !matches!(call.head.method, Method::GET | Method::HEAD) {
            return Err(Failure::WrongMethod { allow: vec![Method::GET, Method::HEAD] });
        }
        Ok(asset.answer())
    }

    /// A session cookie that is worth nothing is taken away, so that the browser stops sending it (requirement FAIL-1).
    fn expire_worthless_cookie(&self, call: &Call<'_>, response: &mut Response<Body>) {
        // Anybody may keep a style, with all that comes along, and give it to others; nor was it asked whose cookie it is. And
        // what script asked may be older than the cookie that the browser has by now.
        if self.is_asset(call.head.uri.path()) || context::is_by_script(&call.head.headers) {
            return;
        }
        let worthless = match call.caller {
            Caller::Nobody => true,
            // Was it the cookie, or a header that a program sent along?
            Caller::Refused => !call.head.headers.contains_key(AUTHORIZATION),
            Caller::StoreAway | Caller::Session { .. } | Caller::ApiToken { .. } | Caller::Basic(_) => false,
        };
        let there = match cookie::find(&call.head.headers, &self.settings.cookies.session) {
            Found::None => false,
            Found::One(_) | Found::Conflict => true,
        };
        let name = format!("{}=", self.settings.cookies.session.as_str());
        let set = response.headers().get_all(SET_COOKIE).iter().any(|value| value.as_bytes().starts_with(name.as_bytes()));
        if worthless && there && !set {
            for value in self.expired_cookies() {
                response.headers_mut().append(SET_COOKIE, value);
            }
        }
    }

    /// The session cookie with a token; for a renewal, and for every new session.
    pub fn renewed_cookie(&self, token: &str, expires_at: Timestamp, now: Timestamp) -> HeaderValue {
        let cookies = &self.settings.cookies;
        cookies.set(&cookies.session, token, Some(expires_at.since(now))).unwrap_or_else(|error| {
            tracing::error!(%error, "a session's token can't stand in a cookie");
            HeaderValue::from_static("")
        })
    }

    /// What makes a browser forget the session cookie, in all its variants.
    pub fn expired_cookies(&self) -> Vec<HeaderValue> {
        self.settings.cookies.expire(&self.settings.cookies.session)
    }
}

/// The largest body that a route takes, in bytes: those that a sealed form comes by take it besides their own.
fn limit(endpoint: Endpoint) -> usize {
    let carries = matches!(endpoint, Endpoint::LoginForm | Endpoint::SecondFactorForm | Endpoint::ReauthForm | Endpoint::KeptForm);
    if carries { kept::MAX_CARRYING } else { MAX_BODY }
}

/// How far the body's kind is checked: see [`Call::check_kind`].
impl Kind {
    const fn takes(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Form => "application/x-www-form-urlencoded",
        }
    }
}

/// Whether a failure is told as a page or as JSON: see [`Call::refuse`].
impl Face {
    const fn is_api(self) -> bool {
        matches!(self, Self::Api)
    }
}
