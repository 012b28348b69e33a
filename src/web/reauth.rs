//! Proving once more who one is: for paths that ask for a fresh password or a second factor.

use askama::Template;
use http::{Response, StatusCode};

use super::api::{fields, issued, proof, wants_cookie};
use super::call::{Call, Stale};
use super::error::Failure;
use super::input::Pairs;
use super::languages::Texts;
use super::login::typed_proof;
use super::pages::{FormProblem, Shell, Shown};
use super::{pages, reply};
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
    problem: Shown<'a>,
}

/// `GET P/reauth?rd=`.
pub(super) fn page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let rd = call.return_to(&mut call.query().unwrap_or_default());
    show(call, &rd, None)
}

fn show(call: &Call<'_>, rd: &str, problem: Option<&FormProblem>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let sealed = call.seal_form(REAUTH, Some(signed.session.id));
    let template = ReauthPage {
        shell: call.shell().scripted(),
        t: call.texts(),
        csrf: &sealed.token,
        rd,
        email: signed.identity.email.as_str(),
        asks_code: signed.identity.has_second_factor && !signed.session.standing().0.second_factor(),
        problem: Shown(problem),
    };
    Ok(pages::leading_on(&template, problem, &sealed))
}

/// `POST P/reauth`.
pub(super) async fn form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut form = Pairs::parse(&call.body)?;
    let rd = call.return_to(&mut form);
    let password = form.filled("password").map(Secret::new);
    let proof = typed_proof(&mut form);
    if let Err(stale) = call.is_genuine(&mut form, REAUTH, Some(signed.session.id)) {
        // Sent twice: the first one has begun this session.
        if stale == Stale::Old && call.now().since(signed.session.auth_time()) <= JUST_NOW {
            return Ok(reply::redirect(StatusCode::SEE_OTHER, &rd));
        }
        return show(call, &rd, Some(&FormProblem::stale(call, stale)));
    }
    if password.is_none() {
        return show(call, &rd, Some(&FormProblem::missing(call, "password")));
    }
    match call.auth().reauthenticate(signed.session, password, proof.as_ref(), true, &call.client, call.now()).await {
        Ok(issued) => {
            let mut response = reply::redirect(StatusCode::SEE_OTHER, &rd);
            call.set_session(&mut response, &issued);
            Ok(response)
        }
        Err(error) => show(call, &rd, Some(&FormProblem::of(call, &error.into()))),
    }
}
