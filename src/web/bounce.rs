//! Nobody is sent round and round. When the sign-in does not get anywhere, the third page says why: which of the reasons for
//! which a cookie does not come back, is not taken, or does not reach the place it is for.
//!
//! - A form comes without any cookie of ours: what is counted stands in the form itself, behind its token, since a cookie
//!   can't be counted on ([`Bounces`]). The page for it is shown to nobody else: another site's form is not counted.
//! - A cookie comes back and the session in it, which began a moment ago, is not taken: the gateway says so in the address of
//!   the sign-in page, for this browser alone ([`reason`], [`note`]).
//! - A person is signed in here, and whatever is at their destination sends them here all the same: counted for their
//!   session in memory ([`straight_on`]).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{COOKIE, FORWARDED, HeaderName, ORIGIN, REFERER, VIA};
use http::{HeaderMap, Response, StatusCode};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::ask::Ask;
use super::call::{Call, append_cookies};
use super::input::Pairs;
use super::kept::Carried;
use super::pages::Shell;
use super::{Web, languages, reply};
use crate::auth::Auth;
use crate::auth::recognise::Refusal;
use crate::clock::Timestamp;
use crate::model::{Digest, SessionId};
use crate::wire::body::Body;
use crate::wire::context::Context;
use crate::wire::cookie::{self, Found};

/// The page that is shown the so-manieth time explains itself.
const PATIENCE: u8 = 2;

/// How long a count and a reason are good for.
const LIFE: Duration = Duration::from_secs(600);

/// How soon somebody must come back for it to be a loop and no wish.
const SOON: Duration = Duration::from_secs(10);

/// How many sessions are counted at a time.
const MOST: usize = 1024;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Why nobody gets in by the cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Cookies are for https, and the browser is on plain HTTP. Where it should be.
    PlainHttp { instead: String },
    /// Cookies are for a domain that the browser's host is not in.
    WrongDomain { domain: String, host: String },
    /// There are two cookies of one name with different values.
    TwoCookies,
    /// A plain cookie comes back and ours do not: the browser refuses their attributes.
    Refused,
    /// The application's cookies come back, ours do not: something on the way takes them out.
    Stripped,
    /// No cookie at all comes back; with a proxy in between, it may be that.
    Off { proxied: bool },
    /// Signed by a clock that is ahead of this one.
    Clock,
    /// Ended at once, or known to another server.
    Unknown,
    /// Tied to an address that changes.
    Address,
}

/// How many forms in a row came without a cookie; in a form's token, behind a full stop: `3.SECONDS.MAC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounces(pub(super) u8);

impl Bounces {
    /// What stands behind a token; nothing where nothing was counted.
    pub(super) fn text(self, auth: &Auth, now: Timestamp) -> String {
        if self.0 == 0 { String::new() } else { format!(".{}", signed(auth, "bounces", &self.0.to_string(), "", now)) }
    }

    /// What stood behind a token, if we wrote it a short while ago.
    pub(super) fn read(auth: &Auth, text: &str, now: Timestamp) -> Self {
        Self(verified(auth, "bounces", text, "", now).and_then(|count| count.parse().ok()).unwrap_or_default())
    }

    pub(super) const fn and_one(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Whether it is time to say why.
    pub(super) const fn is_enough(self) -> bool {
        self.0 >= PATIENCE
    }
}

/// `what.SECONDS.MAC`; `to`: the browser it is for.
fn signed(auth: &Auth, label: &str, what: &str, to: &str, now: Timestamp) -> String {
    let text = format!("{what}.{}", now.as_secs());
    let mac = auth.browser_mac(label, format!("{text}\n{to}").as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac.as_bytes()))
}

fn verified<'t>(auth: &Auth, label: &str, text: &'t str, to: &str, now: Timestamp) -> Option<&'t str> {
    let (what, rest) = text.split_once('.')?;
    let (secs, _) = rest.split_once('.')?;
    let at = Timestamp::from_secs(secs.parse().ok()?);
    let expected = signed(auth, label, what, to, at);
    let genuine: bool = subtle::ConstantTimeEq::ct_eq(expected.as_bytes(), text.as_bytes()).into();
    (genuine && now.since(at) <= LIFE).then_some(what)
}

/// What a request shows of what became of our cookies.
#[derive(Clone, Debug)]
struct Evidence {
    /// Our cookies are for https.
    https: bool,
    public_url: Option<Url>,
    domain: Option<String>,
    /// Scheme and host as the browser sees them.
    scheme: String,
    host: String,
    two: bool,
    probe: bool,
    any: bool,
    proxied: bool,
}

impl Evidence {
    fn of(call: &Call<'_>) -> Self {
        let (headers, settings) = (&call.head.headers, &call.web.settings);
        let (scheme, host) = as_seen(headers, call.context);
        let has = |names: &[&HeaderName]| names.iter().any(|name| headers.contains_key(*name));
        Self {
            https: settings.cookies.is_https(),
            public_url: settings.public_url.clone(),
            domain: settings.domain.as_ref().map(|domain| domain.trim_start_matches('.').to_ascii_lowercase()),
            scheme,
            host,
            two: matches!(cookie::find(headers, &settings.cookies.pre), Found::Conflict),
            probe: cookie::has_probe(headers),
            any: headers.contains_key(COOKIE),
            proxied: has(&[&VIA, &FORWARDED, &X_FORWARDED_FOR, &X_FORWARDED_PROTO]),
        }
    }

    /// What is certain comes first.
    fn why(self) -> Why {
        if self.https && self.scheme == "http" {
            let public = self.public_url.filter(|url| url.scheme() == "https").map(|url| url.origin().ascii_serialization());
            return Why::PlainHttp { instead: public.unwrap_or_else(|| format!("https://{}", self.host)) };
        }
        match self.domain {
            Some(domain) if self.host != domain && !self.host.ends_with(&format!(".{domain}")) => {
                return Why::WrongDomain { domain, host: self.host };
            }
            Some(_) | None => {}
        }
        if self.two {
            return Why::TwoCookies;
        }
        if self.probe {
            return Why::Refused;
        }
        if self.any { Why::Stripped } else { Why::Off { proxied: self.proxied } }
    }
}

/// Scheme and host as the browser says that it sees them: a proxy that nobody declared hides them from us.
fn as_seen(headers: &HeaderMap, context: &Context) -> (String, String) {
    let said = [ORIGIN, REFERER].iter().find_map(|name| Url::parse(headers.get(name)?.to_str().ok()?).ok());
    let said = said.and_then(|url| Some((url.scheme().to_owned(), url.host_str()?.to_owned())));
    said.unwrap_or_else(|| (context.scheme.as_str().to_owned(), context.host.as_str().to_owned()))
}

#[derive(Template)]
#[template(path = "bounce.html")]
struct BouncePage<'a> {
    shell: Shell<'a>,
    why: &'a Why,
    rd: &'a str,
    csrf: &'a str,
    kept: Option<&'a Carried>,
    request_id: &'a str,
}

/// The page for somebody whose forms come without our cookies.
pub(super) fn explain(call: &Call<'_>) -> Response<Body> {
    let why = Evidence::of(call).why();
    tracing::info!(request_id = %call.context.request_id, ?why, "a browser does not bring our cookies back: its page says so");
    let mut form = Pairs::parse(&call.body).unwrap_or_default();
    let (rd, kept) = (call.return_to(&mut form), Carried::take(&mut form));
    let sealed = call.seal_form(super::login::LOGIN, None);
    let template = BouncePage {
        shell: call.shell().once(),
        why: &why,
        rd: &rd,
        csrf: &sealed.token,
        kept: kept.as_ref(),
        request_id: &call.context.request_id,
    };
    let mut response = reply::page(StatusCode::FORBIDDEN, &template);
    append_cookies(&mut response, sealed.cookies);
    response
}

/// For the address of the sign-in page: why the session that this browser has just begun is not taken. `None`: it is over as
/// sessions are, or nobody knows whose browser it is.
pub(super) fn reason(web: &Web, ask: &Ask<'_>) -> Option<String> {
    let (cookies, context) = (&web.settings.cookies, ask.context?);
    let Found::One(pre) = cookie::find(ask.headers, &cookies.pre) else { return None };
    let refusal = |token: &str| web.auth.why_refused(token, context.client, context.now);
    let name = match cookie::find(ask.headers, &cookies.session) {
        Found::None => return None,
        Found::One(token) => match refusal(token)? {
            Refusal::Clock => "clock",
            Refusal::Unknown => "unknown",
            Refusal::Address => "address",
            Refusal::None => return None,
        },
        Found::Conflict => {
            let mut fresh = cookie::all(ask.headers, &cookies.session).filter(|token| refusal(token).is_some());
            fresh.next().map(|_| "cookies")?
        }
    };
    Some(signed(&web.auth, "why", name, pre, context.now))
}

/// What the sign-in page's address says, if it was written for this browser a short while ago.
pub(super) fn note(call: &Call<'_>, said: Option<&str>) -> Option<Why> {
    match verified(call.auth(), "why", said?, call.pre.as_deref()?, call.now())? {
        "clock" => Some(Why::Clock),
        "unknown" => Some(Why::Unknown),
        "address" => Some(Why::Address),
        "cookies" => Some(Why::TwoCookies),
        _ => None,
    }
}

/// Who was sent straight on, how often and since when.
#[derive(Debug, Default)]
pub(super) struct Straight(Mutex<HashMap<(SessionId, Digest), (Timestamp, u8)>>);

impl Straight {
    /// Counts one more; false: it is enough. When all places are taken nobody new is counted: one person must not be able to
    /// hold everybody else up, and a loop that goes on is ended by the browser itself.
    fn count(&self, session: SessionId, rd: &str, now: Timestamp) -> bool {
        let key = (session, Digest(Sha256::digest(rd.as_bytes()).into()));
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.retain(|_, (since, _)| now.since(*since) <= SOON);
        if counts.len() >= MOST && !counts.contains_key(&key) {
            return true;
        }
        let (_, count) = counts.entry(key).or_insert((now, 0));
        *count = count.saturating_add(1);
        *count <= PATIENCE
    }
}

#[derive(Template)]
#[template(path = "round.html")]
struct RoundPage<'a> {
    shell: Shell<'a>,
    t: &'static languages::RoundTexts,
    email: &'a str,
    rd: &'a str,
    /// The other host that the browser was going to.
    host: Option<&'a str>,
}

/// Somebody who is signed in already goes on; `None`: nobody is. The third time within ten seconds they are told that
/// something there sends them back.
pub(super) fn straight_on(call: &Call<'_>, rd: &str) -> Option<Response<Body>> {
    let session = call.cookie_session()?;
    if call.web.straight.count(session.id, rd, call.now()) {
        return Some(reply::redirect(StatusCode::SEE_OTHER, rd));
    }
    let identity = call.signed().ok()?.identity;
    let elsewhere = Url::parse(rd).ok();
    let host = elsewhere.as_ref().and_then(Url::host_str);
    let template = RoundPage { shell: call.shell(), t: &call.texts().round, email: identity.email.as_str(), rd, host };
    let mut response = reply::page(StatusCode::FORBIDDEN, &template);
    reply::let_forms_lead_on(&mut response);
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> Evidence {
        Evidence {
            https: true,
            public_url: Url::parse("https://app.example.com").ok(),
            domain: None,
            scheme: "https".into(),
            host: "app.example.com".into(),
            two: false,
            probe: false,
            any: false,
            proxied: false,
        }
    }

    #[test]
    fn what_is_certain_is_said_first() {
        assert_eq!(evidence().why(), Why::Off { proxied: false });
        assert_eq!(Evidence { proxied: true, ..evidence() }.why(), Why::Off { proxied: true });
        assert_eq!(Evidence { any: true, ..evidence() }.why(), Why::Stripped);
        assert_eq!(Evidence { probe: true, any: true, ..evidence() }.why(), Why::Refused);
        assert_eq!(Evidence { two: true, any: true, ..evidence() }.why(), Why::TwoCookies);
        let plain = Evidence { scheme: "http".into(), any: true, probe: true, ..evidence() };
        assert_eq!(plain.clone().why(), Why::PlainHttp { instead: "https://app.example.com".into() });
        assert_eq!(Evidence { public_url: None, ..plain.clone() }.why(), Why::PlainHttp { instead: "https://app.example.com".into() });
        assert_ne!(Evidence { https: false, ..plain }.why(), Why::PlainHttp { instead: "https://app.example.com".into() });
    }

    #[test]
    fn a_domain_holds_its_own_hosts() {
        let at = |domain: &str, host: &str| Evidence { domain: Some(domain.into()), host: host.into(), ..evidence() }.why();
        assert_eq!(at("example.com", "app.example.com"), Why::Off { proxied: false });
        assert_eq!(at("example.com", "example.com"), Why::Off { proxied: false });
        for host in ["example.org", "notexample.com", "10.0.0.1"] {
            assert_eq!(at("example.com", host), Why::WrongDomain { domain: "example.com".into(), host: host.into() });
        }
    }

    #[test]
    fn the_third_time_is_enough() {
        let (straight, session, now) = (Straight::default(), SessionId::new(), Timestamp::from_secs(1_800_000_000));
        assert!(straight.count(session, "/a", now) && straight.count(session, "/a", now));
        assert!(straight.count(session, "/b", now), "another tab");
        assert!(straight.count(SessionId::new(), "/a", now), "somebody else");
        assert!(!straight.count(session, "/a", now));
        assert!(straight.count(session, "/a", now.plus(SOON + Duration::from_secs(1))));
    }

    #[test]
    fn one_person_who_takes_all_places_holds_nobody_up() {
        let (straight, session, now) = (Straight::default(), SessionId::new(), Timestamp::from_secs(1_800_000_000));
        for number in 0..2 * MOST {
            assert!(straight.count(session, &format!("/{number}"), now));
        }
        for _ in 0..=PATIENCE {
            assert!(straight.count(SessionId::new(), "/", now));
        }
        assert_eq!(straight.0.lock().unwrap().len(), MOST);
    }
}
