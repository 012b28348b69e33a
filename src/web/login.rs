//! Signing in: the password, and the code where there is a second factor.

use askama::Template;
use http::{Response, StatusCode};
use serde_json::json;

use super::api::{fields, issued, proof, wants_cookie};
use super::call::Call;
use super::csrf::browser_binding;
use super::error::Failure;
use super::input::{Pairs, Problem};
use super::pages::{FormProblem, Shell, Shown};
use super::{pages, reply, view};
use crate::auth::login::{Credentials, LoginStep, SecondFactor};
use crate::auth::{Error, Issued};
use crate::model::Secret;
use crate::wire::body::Body;

/// `POST A/auth/login`.
pub(super) async fn api(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut input = call.object()?;
    let credentials =
        Credentials { email: input.text("email")?, password: input.secret("password")?, code: input.optional_text("verificationCode")? };
    let cookie = wants_cookie(call, &mut input)?;
    input.finish()?;
    match call.auth().log_in(credentials, cookie, None, &call.client, call.now()).await? {
        LoginStep::Complete(issued) => complete(call, &issued, cookie).await,
        LoginStep::NeedSecondFactor { pending, methods } => {
            let body = json!({
                "requires2FA": true,
                "pendingToken": pending.expose(),
                "message": "A code of your second factor is needed.",
                "methods": methods,
            });
            Ok(reply::json(StatusCode::OK, &body))
        }
    }
}

/// `POST A/auth/login/2fa`.
pub(super) async fn second_factor_api(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut input = call.object()?;
    let pending = input.secret("pendingToken")?;
    let proof = proof(&mut input)?.ok_or_else(|| Problem::new("verificationCode", "is required"))?;
    let cookie = wants_cookie(call, &mut input)?;
    input.finish()?;
    let issued = call.auth().log_in_second_factor(pending.expose(), &proof, cookie, None, &call.client, call.now()).await?;
    complete(call, &issued, cookie).await
}

async fn complete(call: &Call<'_>, new: &Issued, cookie: bool) -> Result<Response<Body>, Failure> {
    if cookie {
        call.end_previous().await?;
    }
    let body = fields([
        ("user", view::signed_in_user(&new.user)),
        ("services", view::groups(&new.user).into()),
        // Names of Null Pass; who is either gets no session at all (requirement NP-3).
        ("banned", false.into()),
        ("disabled", new.user.is_disabled().into()),
    ]);
    Ok(issued(call, StatusCode::OK, body, new, cookie))
}

/// The form's name in its token.
const LOGIN: &str = "login";
const SECOND_FACTOR: &str = "login/2fa";

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    shell: Shell<'a>,
    csrf: &'a str,
    rd: &'a str,
    email: &'a str,
    signed_in_as: Option<&'a str>,
    may_register: bool,
    problem: Shown<'a>,
}

#[derive(Template)]
#[template(path = "second_factor.html")]
struct SecondFactorPage<'a> {
    shell: Shell<'a>,
    csrf: &'a str,
    rd: &'a str,
    pending: &'a str,
    problem: Shown<'a>,
}

/// `GET P/login`.
pub(super) fn page(call: &Call<'_>) -> Response<Body> {
    // A page is shown whatever else stands in its address.
    let rd = call.return_to(&mut call.query().unwrap_or_default());
    show(call, &rd, "", None)
}

fn show(call: &Call<'_>, rd: &str, email: &str, problem: Option<&FormProblem>) -> Response<Body> {
    let sealed = call.seal_form(LOGIN, None);
    let template = LoginPage {
        shell: call.web.shell(),
        csrf: &sealed.token,
        rd,
        email,
        signed_in_as: call.signed().ok().map(|signed| signed.identity.email.as_str()),
        may_register: call.auth().registration_is_open(),
        problem: Shown(problem),
    };
    pages::form(&template, problem, &sealed)
}

/// `POST P/login`.
pub(super) async fn form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Pairs::parse(&call.body)?;
    let rd = call.return_to(&mut form);
    let email = form.take("email").unwrap_or_default();
    let password = Secret::new(form.take("password").unwrap_or_default());
    if let Err(stale) = call.is_genuine(&mut form, LOGIN, None) {
        return Ok(show(call, &rd, &email, Some(&FormProblem::stale(stale))));
    }
    if password.expose().is_empty() {
        let missing = Failure::Input(Problem::new("password", "is required"));
        return Ok(show(call, &rd, &email, Some(&FormProblem::of(call, &missing))));
    }
    let browser = browser(call);
    let credentials = Credentials { email: email.clone(), password, code: None };
    match call.auth().log_in(credentials, true, browser.as_deref(), &call.client, call.now()).await {
        Ok(LoginStep::Complete(issued)) => signed_in(call, &issued, &rd).await,
        Ok(LoginStep::NeedSecondFactor { pending, methods: _ }) => Ok(show_second_factor(call, &rd, pending.expose(), None)),
        Err(error) => Ok(show(call, &rd, &email, Some(&FormProblem::of(call, &error.into())))),
    }
}

fn show_second_factor(call: &Call<'_>, rd: &str, pending: &str, problem: Option<&FormProblem>) -> Response<Body> {
    let sealed = call.seal_form(SECOND_FACTOR, None);
    let template = SecondFactorPage { shell: call.web.shell(), csrf: &sealed.token, rd, pending, problem: Shown(problem) };
    pages::form(&template, problem, &sealed)
}

/// `POST P/login/2fa`.
pub(super) async fn second_factor_form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Pairs::parse(&call.body)?;
    let rd = call.return_to(&mut form);
    let pending = form.take("pending").unwrap_or_default();
    if let Err(stale) = call.is_genuine(&mut form, SECOND_FACTOR, None) {
        return Ok(show_second_factor(call, &rd, &pending, Some(&FormProblem::stale(stale))));
    }
    let Some(proof) = typed_proof(&mut form) else {
        let missing = Failure::Input(Problem::new("verificationCode", "is required"));
        return Ok(show_second_factor(call, &rd, &pending, Some(&FormProblem::of(call, &missing))));
    };
    let browser = browser(call);
    match call.auth().log_in_second_factor(&pending, &proof, true, browser.as_deref(), &call.client, call.now()).await {
        Ok(issued) => signed_in(call, &issued, &rd).await,
        // There is nothing to try again here: back to the first step.
        Err(error @ Error::PendingExpired) => Ok(show(call, &rd, "", Some(&FormProblem::of(call, &error.into())))),
        Err(error) => Ok(show_second_factor(call, &rd, &pending, Some(&FormProblem::of(call, &error.into())))),
    }
}

/// What ties a pending login to this browser; there is a cookie, or the form would not have been genuine.
fn browser(call: &Call<'_>) -> Option<String> {
    call.pre.as_deref().map(|pre| browser_binding(call.auth(), pre))
}

/// The code or recovery code of a form.
pub(super) fn typed_proof(form: &mut Pairs) -> Option<SecondFactor> {
    let (code, recovery) = (form.filled("code"), form.filled("recoveryCode"));
    code.map(SecondFactor::Code).or_else(|| recovery.map(SecondFactor::Recovery))
}

/// A person has just come in by a form: the cookie is set, the session of before ends, and on they go.
pub(super) async fn signed_in(call: &Call<'_>, issued: &Issued, rd: &str) -> Result<Response<Body>, Failure> {
    call.end_previous().await?;
    let mut response = reply::redirect(StatusCode::SEE_OTHER, rd);
    call.set_session(&mut response, issued);
    Ok(response)
}
