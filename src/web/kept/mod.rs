//! Work is not lost: a small form that meets a session that is over, or too old for its rule, is sealed into the page that
//! asks for the password and offered for sending again afterwards, with a button, never by itself (contract, section 5, "What
//! comes with the rest of HTTP").
//!
//! ```text
//! POST /x, session over -> [`Web::keep_form`]: 401, the sign-in page with the sealed form in a hidden field
//! POST /x, session too old or without a code -> the same: 403, the page that asks for it
//! POST P/login, P/login/2fa, P/reauth -> the hidden field is carried along -> [`offer`]: a page with the fields and a button
//! POST P/kept?t=TICKET -> [`send`]: spends the ticket, 307 -> the browser posts the very same body to /x
//! ```
//!
//! What is sealed opens for the person whose session it was, on the host that it was sent to, for half an hour (`auth::kept`).
//! `fields` says what of a body can be sent again, and what must not be kept.

mod fields;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HeaderValue, REFERER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use url::Url;

use self::fields::{Charset, Field, Fields};
use super::call::{Call, append_cookies, is_kind};
use super::error::Failure;
use super::input::Pairs;
use super::pages::{Link, Shell};
use super::{Caller, Web, languages, login, pages, reauth, reply, return_to};
use crate::auth::Error;
use crate::auth::kept::{Kept, Ticket};
use crate::model::{Sealed, Secret, UserId};
use crate::wire::body::{Body, BodyError, read_limited};
use crate::wire::context::{self, Context, Navigation, Source};
use crate::wire::cookie::{self, Found};

/// The largest form that is kept, in bytes.
const MAX_FORM: usize = 64 * 1024;

/// The longest text of a sealed form: it, the longest address and what sealing adds, in base64.
const MAX_TEXT: usize = (MAX_FORM + return_to::MAX_BYTES + 256) * 4 / 3 + 4;

/// The largest body of the routes that carry a sealed form besides their own fields, in bytes.
pub(super) const MAX_CARRYING: usize = MAX_TEXT + super::call::MAX_BODY;

/// How many forms are held in memory at the same time; further ones are not kept. Each is a few hundred kilobytes from its
/// first byte to the last of its page.
pub(super) const AT_ONCE: usize = 64;

/// How many names of fields are shown, and how many characters of each.
const SHOWN: (usize, usize) = (40, 60);

/// A sealed form on its way through the sign-in, as the browser carries it. Nobody has looked into it.
#[derive(Clone, Debug)]
pub(super) struct Carried {
    /// For the hidden field.
    pub(super) text: String,
    sealed: Sealed,
}

impl Carried {
    /// Takes it out of a form.
    pub(super) fn take(form: &mut Pairs) -> Option<Self> {
        let text = form.filled("kept").filter(|text| text.len() <= MAX_TEXT)?;
        let sealed = Sealed(URL_SAFE_NO_PAD.decode(&text).ok()?);
        Some(Self { text, sealed })
    }

    fn new(sealed: Sealed) -> Self {
        Self { text: URL_SAFE_NO_PAD.encode(&sealed.0), sealed }
    }
}

impl Web {
    /// The page that keeps what this request sends, if it may and can be kept: that of the sign-in, or where `caller` is signed
    /// in, that of the password or code which the rule wants of them once more. The body is read only then. `None`: the
    /// request is answered like any other for which that is needed.
    pub async fn keep_form(&self, head: &Parts, body: Incoming, context: &Context, caller: &Caller) -> Option<Response<Body>> {
        let target = head.uri.path_and_query()?.as_str();
        if !self.may_keep(head, target, context) {
            return None;
        }
        let user = match caller {
            Caller::Session { identity, from_cookie: true, .. } => identity.user,
            Caller::Session { .. } | Caller::ApiToken { .. } | Caller::Basic(_) | Caller::StoreAway | Caller::Refused => return None,
            Caller::Nobody => self.past_user(&head.headers)?,
        };
        let permit = Arc::clone(&self.keeping).try_acquire_owned().ok()?;
        let body = read_limited(body, MAX_FORM, self.settings.body_timeout).await.ok()?;
        let ticket = Ticket::new(context.now, target.to_owned());
        let page = self.keep(&Call::new(self, head, context, caller), user, ticket, &body)?;
        Some(page.map(|body| Body::stream(Held { body, _permit: permit })))
    }

    /// What can be said before the body is read (requirement KEPT-1).
    fn may_keep(&self, head: &Parts, target: &str, context: &Context) -> bool {
        let headers = &head.headers;
        let mut kinds = headers.get_all(CONTENT_TYPE).iter();
        let (kind, second) = (kinds.next().and_then(|kind| kind.to_str().ok()), kinds.next());
        head.method == Method::POST
            && context::navigation(&head.method, headers) == Navigation::OtherMethodNavigation
            // Stricter than for the cookie: who does not say where it comes from may be anybody.
            && context::source(headers, context, &self.settings.context) == Source::Same
            && second.is_none()
            && kind.is_some_and(|kind| is_kind(kind, "application/x-www-form-urlencoded"))
            && !headers.contains_key(CONTENT_ENCODING)
            // No form of a browser waits for a 100, and our refusals come before one.
            && !headers.contains_key(EXPECT)
            && is_address(target)
    }

    /// Whose work it is: the person of the session that is over, or who signed in last with this browser, which throws a
    /// session's cookie away when its time is over. Others are not told apart from nobody, and nothing is kept for nobody.
    fn past_user(&self, headers: &HeaderMap) -> Option<UserId> {
        let cookies = &self.settings.cookies;
        let session = match cookie::find(headers, &cookies.session) {
            Found::One(token) => self.auth.owner_of_past_session(token),
            Found::None | Found::Conflict => None,
        };
        session.or_else(|| match cookie::find(headers, &cookies.device) {
            Found::One(device) => self.auth.owner_of_device(device),
            Found::None | Found::Conflict => None,
        })
    }

    fn keep(&self, call: &Call<'_>, user: UserId, ticket: Ticket, body: &[u8]) -> Option<Response<Body>> {
        let (sorted, context) = (fields::sort(body)?, call.context);
        let kept = Kept { ticket, left_out: sorted.left_out, fields: Secret::new(sorted.kept) };
        let carried = Carried::new(self.auth.seal_kept(user, &context.authority, &kept));
        let rd = page_before(&call.head.headers, context);
        if call.signed().is_ok() {
            return reauth::show_keeping(call, &rd, carried).ok();
        }
        let mut page = login::show_keeping(call, &rd, carried);
        *page.status_mut() = StatusCode::UNAUTHORIZED;
        page.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        append_cookies(&mut page, self.expired_cookies());
        Some(page)
    }
}

/// The path of the page that a form was on, as its browser says; otherwise `/`. It leads to our own origin whatever it says.
pub(super) fn page_before(headers: &HeaderMap, context: &Context) -> String {
    let url = headers.get(REFERER).and_then(|referer| referer.to_str().ok()).and_then(|referer| Url::parse(referer).ok());
    let Some(url) = url.filter(|url| url.host_str() == Some(context.host.as_str())) else { return "/".to_owned() };
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    return_to::parse(&format!("{}{query}", url.path()), None)
}

/// Whether a target is one that a form may have as its action: it leads to our own origin, and a browser writes it as it is.
fn is_address(target: &str) -> bool {
    target.len() <= return_to::MAX_BYTES && return_to::parse(target, None) == target
}

#[derive(Template)]
#[template(path = "kept.html")]
struct OfferPage<'a> {
    shell: Shell<'a>,
    t: &'static languages::KeptTexts,
    /// The path and query that the form goes to.
    target: &'a str,
    /// Ours, which leads there.
    action: &'a str,
    windows_1252: bool,
    fields: &'a [Field],
    /// The names of what is sent, and how many more there are.
    names: &'a [String],
    more: usize,
    left_out: &'a [String],
    /// It was sent already.
    again: bool,
    /// It could not be sent just now.
    unavailable: bool,
    rd: &'a str,
}

/// Why the page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The person has just signed in.
    SignedIn,
    /// They have sent it before.
    SentBefore,
    /// The store does not answer.
    StoreAway,
}

/// The page that offers a form to `user`, who has just signed in; if it is not theirs, or too old, the page that says that
/// it can't be sent.
pub(super) fn offer(call: &Call<'_>, user: UserId, carried: &Carried, rd: &str) -> Response<Body> {
    let (auth, authority) = (call.auth(), &call.context.authority);
    let opened = auth.open_kept(user, authority, &carried.sealed, call.now());
    let Some((kept, fields)) = opened.and_then(|kept| fields::read(kept.fields.expose()).map(|fields| (kept, fields))) else {
        return gone(call, rd);
    };
    let ticket = auth.seal_ticket(user, authority, &kept.ticket);
    let longest = SHOWN.1;
    let left_out: Vec<String> = kept.left_out.iter().map(|name| pages::brief(&fields::shown(name), longest)).collect();
    show(call, (&kept.ticket.target, &ticket), &fields, &left_out, (Why::SignedIn, rd))
}

/// `POST P/kept?t=`: the person has pressed the button. The body is the form's own, and goes on as it is.
pub(super) async fn send(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    if call.source() == Source::Foreign {
        return Err(Failure::CrossSite);
    }
    let text = call.query()?.take("t").unwrap_or_default();
    let sealed = Sealed(URL_SAFE_NO_PAD.decode(text).unwrap_or_default());
    let open = |user| call.auth().open_ticket(user, &call.context.authority, &sealed, call.now());
    let signed = match call.signed() {
        Ok(signed) => signed,
        Err(Failure::Auth(Error::SignInRequired)) => return Ok(keep_again(call, open)),
        Err(failure) => return Err(failure),
    };
    let Some(ticket) = open(signed.identity.user) else { return Ok(gone(call, "/")) };
    let why = match call.auth().spend_ticket(&ticket).await {
        Ok(true) => return Ok(reply::redirect(StatusCode::TEMPORARY_REDIRECT, &ticket.target)),
        Ok(false) => Why::SentBefore,
        Err(error) => {
            Failure::from(error).log(&call.context.request_id);
            Why::StoreAway
        }
    };
    // The browser may have given the first answer up, as it does when a button is pressed twice: only the person can tell.
    let Some(fields) = fields::read(&call.body) else { return Ok(gone(call, "/")) };
    let next = match why {
        Why::SentBefore => {
            let another = Ticket::new(ticket.at, ticket.target.clone());
            call.auth().seal_ticket(signed.identity.user, &call.context.authority, &another)
        }
        Why::SignedIn | Why::StoreAway => sealed,
    };
    Ok(show(call, (&ticket.target, &next), &fields, &[], (why, "/")))
}

/// `GET P/kept`: there is nothing to see, as after going back to it.
pub(super) fn page() -> Response<Body> {
    reply::redirect(StatusCode::SEE_OTHER, "/")
}

/// The session has ended since the page was shown: the same way once more, within the same half hour and by the same right,
/// so that what was sent stays sent.
fn keep_again(call: &Call<'_>, open: impl Fn(UserId) -> Option<Ticket>) -> Response<Body> {
    let user = call.web.past_user(&call.head.headers);
    let ticket = user.and_then(|user| open(user).map(|ticket| (user, ticket)));
    let page = ticket.and_then(|(user, ticket)| call.web.keep(call, user, ticket, &call.body));
    page.unwrap_or_else(|| call.web.sign_in_required(&call.ask(), false, false))
}

fn show(
    call: &Call<'_>,
    (target, ticket): (&str, &Sealed),
    fields: &Fields,
    left_out: &[String],
    (why, rd): (Why, &str),
) -> Response<Body> {
    let (most, longest) = SHOWN;
    let names: Vec<String> = fields.all.iter().take(most).map(|field| pages::brief(&field.name, longest)).collect();
    let template = OfferPage {
        shell: call.shell().once(),
        t: &call.texts().kept,
        target,
        action: &format!("{}?t={}", call.own("/kept"), URL_SAFE_NO_PAD.encode(&ticket.0)),
        windows_1252: fields.charset == Charset::Windows1252,
        fields: &fields.all,
        more: fields.all.len().saturating_sub(names.len()),
        names: &names,
        left_out,
        again: why == Why::SentBefore,
        unavailable: why == Why::StoreAway,
        rd,
    };
    let status = match why {
        Why::SignedIn => StatusCode::OK,
        Why::SentBefore => StatusCode::CONFLICT,
        Why::StoreAway => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut page = reply::exact_page(status, &template);
    // The application's answer to the form may lead anywhere.
    reply::let_forms_lead_on(&mut page);
    page
}

/// It can't be sent again: it is older than half an hour, or somebody else's.
fn gone(call: &Call<'_>, rd: &str) -> Response<Body> {
    let t = &call.texts().kept;
    pages::notice(call.shell().once(), t.gone_title, t.gone.into(), Some(Link { href: rd, text: t.gone_go_on, top: false }))
}

/// A page that holds somebody's form: its place is free when its last byte is through.
struct Held {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_they_are_or_not_at_all() {
        for good in ["/", "/a?b=c&d=%20", "/a//b", "/%C3%BC", "/a;b"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["//evil.example", "/%2fevil.example", "/a/../b", "/a\"b", "*", "", "http://x/", "/.//x", "/%09/x"] {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
