//! Sessions: exchanging a token, asking what one is worth, seeing and ending sessions, signing out.

use askama::Template;
use http::{Response, StatusCode};
use serde_json::json;

use super::api::{fields, issued, wants_cookie};
use super::call::{Call, append_cookies};
use super::error::Failure;
use super::input::{Pairs, Problem};
use super::languages::Texts;
use super::pages::{FormProblem, Link, Shell, Shown};
use super::{pages, reply, view};
use crate::auth::Error;
use crate::auth::live::Entry;
use crate::auth::recognise::Recognised;
use crate::model::{Fitness, SessionId};
use crate::wire::body::Body;

/// `POST A/auth/refresh`.
pub(super) async fn refresh(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut input = call.optional_object()?;
    let cookie = wants_cookie(call, &mut input)? || signed.from_cookie;
    input.finish()?;
    let new = call.auth().refresh(signed.entry, &call.client, call.now()).await?;
    Ok(issued(call, StatusCode::OK, fields([]), &new, cookie))
}

/// `POST A/auth/verify`. A token of a session that may do nothing but enrol is none to whoever asks, nor is an API
/// token, whose limits they could not keep.
pub(super) async fn verify(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut input = call.object()?;
    let token = input.secret("token")?;
    input.finish()?;
    let recognised = call.auth().recognise(token.expose(), call.client.ip, call.now()).await;
    // Afterwards: it may have brought the key that the token was signed with.
    match (recognised, call.auth().claims(token.expose(), call.now())) {
        (Recognised::Good(identity, entry), Some(claims))
            if identity.fitness == Fitness::Full && matches!(*entry, Entry::Session { .. }) =>
        {
            let payload = json!({
                "userId": claims.user_id.to_string(),
                // As it is now, not as it was when the token was signed (requirement SES-2).
                "email": identity.email.as_str(),
                "iat": claims.iat,
                "exp": claims.exp,
                "iss": claims.iss,
                "aud": claims.aud,
                "sub": claims.sub.to_string(),
                "jti": claims.jti,
                "sid": claims.sid.to_string(),
                "amr": identity.amr.names(),
                "auth_time": claims.auth_time,
            });
            Ok(reply::json(StatusCode::OK, &json!({ "valid": true, "payload": payload })))
        }
        (Recognised::StoreAway, _) => Err(Failure::StoreAway),
        (Recognised::Good(..) | Recognised::No, _) => Err(Failure::BadToken),
    }
}

/// `GET A/auth/sessions`.
pub(super) async fn list(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    call.query()?.finish()?;
    let sessions = call.auth().sessions(signed.session.user(), call.now()).await?;
    let sessions: Vec<_> = sessions.iter().map(|session| view::session(session, signed.session.id)).collect();
    Ok(reply::json(StatusCode::OK, &json!({ "sessions": sessions })))
}

/// `DELETE A/auth/sessions`: one by its `id`, or all, but for this one with `except=current`.
pub(super) async fn end(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut query = call.query()?;
    let (id, except) = (query.take("id"), query.take("except"));
    query.finish()?;
    call.optional_object()?.finish()?;
    let (user, current) = (signed.session.user(), signed.session.id);
    let (ended, own_too) = match (id, except.as_deref()) {
        (Some(_), Some(_)) => return Err(Problem::new("except", "can't be sent together with id").into()),
        (Some(id), None) => {
            let id: SessionId = id.parse().map_err(|_| Error::NotFound)?;
            call.auth().end_own_session(user, id, &call.client, call.now()).await?;
            (1, id == current)
        }
        (None, Some("current")) => (call.auth().end_all_sessions(user, Some(current), &call.client, call.now()).await?, false),
        (None, Some(_)) => return Err(Problem::new("except", "must be \"current\"").into()),
        (None, None) => (call.auth().end_all_sessions(user, None, &call.client, call.now()).await?, true),
    };
    let mut response = reply::json(StatusCode::OK, &json!({ "ended": ended }));
    if own_too && signed.from_cookie {
        append_cookies(&mut response, call.web.expired_cookies());
    }
    Ok(response)
}

/// `POST A/auth/logout`.
pub(super) async fn log_out(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    call.optional_object()?.finish()?;
    call.auth().log_out(signed.session, &call.client, call.now()).await?;
    let mut response = reply::json(StatusCode::OK, &json!({ "loggedOut": true }));
    if signed.from_cookie {
        append_cookies(&mut response, call.web.expired_cookies());
    }
    Ok(response)
}

const LOGOUT: &str = "logout";

#[derive(Template)]
#[template(path = "logout.html")]
struct LogoutPage<'a> {
    shell: Shell<'a>,
    t: &'static Texts,
    csrf: &'a str,
    /// Where to go on, signed in or not.
    rd: &'a str,
    email: &'a str,
    problem: Shown<'a>,
}

/// `GET P/logout`: asks; a link or an image of another site signs nobody out.
pub(super) fn page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    // Nobody is told that they are signed out while that is not known.
    if let Err(away @ Failure::StoreAway) = call.signed() {
        return Err(away);
    }
    Ok(show(call, &call.return_to(&mut call.query().unwrap_or_default()), None))
}

fn show(call: &Call<'_>, rd: &str, problem: Option<&FormProblem>) -> Response<Body> {
    let Ok(signed) = call.signed() else { return signed_out(call, rd, false) };
    let sealed = call.seal_form(LOGOUT, Some(signed.session.id));
    let template = LogoutPage {
        shell: call.shell().at(format!("{}?rd={}", call.own("/logout"), pages::encoded(rd))),
        t: call.texts(),
        csrf: &sealed.token,
        rd,
        email: signed.identity.email.as_str(),
        problem: Shown(problem),
    };
    pages::form(&template, problem, &sealed)
}

/// `POST P/logout`.
pub(super) async fn form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Pairs::parse(&call.body)?;
    let rd = call.return_to(&mut form);
    let signed = match call.signed() {
        Ok(signed) => signed,
        Err(Failure::StoreAway) => return Err(Failure::StoreAway),
        Err(_) => return Ok(signed_out(call, &rd, false)),
    };
    let everywhere = form.filled("everywhere").is_some();
    if let Err(stale) = call.is_genuine(&mut form, LOGOUT, Some(signed.session.id)) {
        return Ok(show(call, &rd, Some(&FormProblem::stale(call, stale))));
    }
    let (auth, now) = (call.auth(), call.now());
    if everywhere {
        auth.end_all_sessions(signed.session.user(), None, &call.client, now).await?;
    } else {
        auth.log_out(signed.session, &call.client, now).await?;
    }
    let mut response = signed_out(call, &rd, everywhere);
    append_cookies(&mut response, call.web.expired_cookies());
    Ok(response)
}

fn signed_out(call: &Call<'_>, rd: &str, everywhere: bool) -> Response<Body> {
    let login = format!("{}?rd={}", call.own("/login"), pages::encoded(rd));
    let t = call.texts();
    let link = Link { href: &login, text: t.signed_out.sign_in, top: false };
    let text = if everywhere { t.signed_out.text_everywhere } else { t.signed_out.text };
    let shell = call.shell().at(format!("{}?rd={}", call.own("/logout"), pages::encoded(rd)));
    pages::notice(shell, t.signed_out.title, text.into(), Some(link))
}
