//! Proving once more who one is: for paths that ask for a fresh password or a second factor.

use askama::Template;
use http::{Response, StatusCode};

use super::api::{fields, issued, proof, wants_cookie};
use super::call::{Call, Stale};
use super::error::Failure;
use super::input::Pairs;
use super::kept::Carried;
use super::languages::Texts;
use super::login::{Way, typed_proof};
use super::pages;
use super::pages::{FormProblem, Shell, Shown};
use crate::model::Secret;
use crate::wire::body::Body;

/// `POST A/auth/reauth`.
pub(super) async fn api(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut input = call.object()?;
    let password = input.optional_secret("password")?;
    let proof = proof(&mut input)?;
    let cookie = wants_cookie(call, &mut input)? || signed.from_cookie;
    input.finish()?;
    let new = call.auth().reauthenticate(signed.session, password, proof.as_ref(), cookie, &call.client, call.now()).await?;
    Ok(issued(call, StatusCode::OK, fields([]), &new, cookie))
}

const REAUTH: &str = "reauth";

/// How soon after it began a session was begun by the same form, sent twice.
const JUST_NOW: std::time::Duration = std::time::Duration::from_secs(30);

#[derive(Template)]
#[template(path = "reauth.html")]
struct ReauthPage<'a> {
    shell: Shell<'a>,
    t: &'static Texts,
    csrf: &'a str,
    rd: &'a str,
    email: &'a str,
    /// Whether the account has a second factor that this session was begun without.
    asks_code: bool,
    kept: Option<&'a Carried>,
    problem: Shown<'a>,
}

/// `GET P/reauth?rd=`.
pub(super) fn page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    show(call, &Way { rd: call.return_to(&mut call.query().unwrap_or_default()), kept: None }, None)
}

/// The page with a form in it that was sent to where a fresher session is asked for.
pub(super) fn show_keeping(call: &Call<'_>, rd: &str, kept: Carried) -> Result<Response<Body>, Failure> {
    let mut page = show(call, &Way { rd: rd.to_owned(), kept: Some(kept) }, None)?;
    *page.status_mut() = StatusCode::FORBIDDEN;
    Ok(page)
}

fn show(call: &Call<'_>, way: &Way, problem: Option<&FormProblem>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let sealed = call.seal_form(REAUTH, Some(signed.session.id));
    let template = ReauthPage {
        shell: way.shell(call, "/reauth").scripted(),
        t: call.texts(),
        csrf: &sealed.token,
        rd: &way.rd,
        email: signed.identity.email.as_str(),
        asks_code: signed.identity.has_second_factor && !signed.session.standing().0.second_factor(),
        kept: way.kept.as_ref(),
        problem: Shown(problem),
    };
    Ok(pages::leading_on(&template, problem, &sealed))
}

/// `POST P/reauth`.
pub(super) async fn form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut form = Pairs::parse(&call.body)?;
    let way = Way::take(call, &mut form);
    let password = form.filled("password").map(Secret::new);
    let proof = typed_proof(&mut form);
    if let Err(stale) = call.is_genuine(&mut form, REAUTH, Some(signed.session.id)) {
        // Sent twice: the first one has begun this session.
        if stale == Stale::Old && call.now().since(signed.session.auth_time()) <= JUST_NOW {
            return Ok(way.on(call, signed.identity.user));
        }
        return show(call, &way, Some(&FormProblem::stale(call, stale)));
    }
    if password.is_none() {
        return show(call, &way, Some(&FormProblem::missing(call, "password")));
    }
    match call.auth().reauthenticate(signed.session, password, proof.as_ref(), true, &call.client, call.now()).await {
        Ok(issued) => {
            let mut response = way.on(call, issued.user.id);
            call.set_session(&mut response, &issued);
            Ok(response)
        }
        Err(error) => show(call, &way, Some(&FormProblem::of(call, &error.into()))),
    }
}
