//! The first administrator's account, by the one-time link that the log shows.

use http::{Response, StatusCode};

use super::call::Call;
use super::error::Failure;
use super::input::Pairs;
use super::login::signed_in;
use super::pages::{self, FormProblem, Shown};
use super::register::{RegisterPage, Typed, min_length};
use super::reply;
use crate::auth::Error;
use crate::wire::body::Body;

const SETUP: &str = "setup";

/// `GET P/setup?code=`.
pub(super) async fn page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let code = call.query().unwrap_or_default().take("code").unwrap_or_default();
    call.auth().check_setup_code(&code, call.now()).await?;
    Ok(show(call, &code, &Typed::default(), None))
}

fn show(call: &Call<'_>, code: &str, typed: &Typed, problem: Option<&FormProblem>) -> Response<Body> {
    let sealed = call.seal_form(SETUP, None);
    let template = RegisterPage {
        shell: call.shell().at(format!("{}?code={}", call.own("/setup"), pages::encoded(code))).scripted(),
        t: call.texts(),
        csrf: &sealed.token,
        rd: "/",
        code: Some(code),
        typed,
        min_length: min_length(call),
        only_domains: false,
        problem: Shown(problem),
    };
    pages::leading_on(&template, problem, &sealed)
}

/// `POST P/setup`.
pub(super) async fn form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Pairs::parse(&call.body)?;
    let code = form.take("code").unwrap_or_default();
    let (typed, password) = Typed::take(&mut form);
    if let Err(stale) = call.is_genuine(&mut form, SETUP, None) {
        return Ok(show(call, &code, &typed, Some(&FormProblem::stale(call, stale))));
    }
    match call.auth().set_up(&code, typed.account(password), true, &call.client, call.now()).await {
        Ok(issued) => signed_in(call, &issued, "/").await,
        // Sent twice: the first one has made the account and signed it in.
        Err(Error::SetupExpired) if call.is_in_as(&typed.email).is_some() => Ok(reply::redirect(StatusCode::SEE_OTHER, "/")),
        Err(Error::SetupExpired) => Err(Error::SetupExpired.into()),
        Err(error) => Ok(show(call, &code, &typed, Some(&FormProblem::of(call, &error.into())))),
    }
}
