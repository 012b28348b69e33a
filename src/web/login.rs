//! Signing in: the password, and the code where there is a second factor.

use askama::Template;
use http::{Response, StatusCode};
use serde_json::json;
use url::Url;

use super::api::{fields, issued, proof, wants_cookie};
use super::bounce::{self, Why};
use super::call::{Call, Stale};
use super::csrf::browser_binding;
use super::error::Failure;
use super::input::{Pairs, Problem};
use super::kept::{self, Carried};
use super::languages::Texts;
use super::pages::{FormProblem, Shell, Shown};
use super::{pages, reply, return_to, view};
use crate::auth::login::{Credentials, LoginStep, SecondFactor};
use crate::auth::{Error, Issued};
use crate::model::{Secret, UserId};
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
        call.end_previous(new).await?;
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
pub(super) const LOGIN: &str = "login";
const SECOND_FACTOR: &str = "login/2fa";

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    shell: Shell<'a>,
    t: &'static Texts,
    /// The host of the application that the person goes on to.
    place: &'a str,
    csrf: &'a str,
    rd: &'a str,
    email: &'a str,
    signed_in_as: Option<&'a str>,
    may_register: bool,
    kept: Option<&'a Carried>,
    /// Why the sign-in of a moment ago did not help.
    why: Option<&'a Why>,
    problem: Shown<'a>,
}

#[derive(Template)]
#[template(path = "second_factor.html")]
struct SecondFactorPage<'a> {
    shell: Shell<'a>,
    t: &'static Texts,
    csrf: &'a str,
    rd: &'a str,
    pending: &'a str,
    kept: Option<&'a Carried>,
    problem: Shown<'a>,
}

/// What a person takes with them through the sign-in.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// Where they were going.
    pub(super) rd: String,
    /// The form that they had sent.
    pub(super) kept: Option<Carried>,
}

impl Way {
    /// Takes it out of a form.
    pub(super) fn take(call: &Call<'_>, form: &mut Pairs) -> Self {
        Self { rd: call.return_to(form), kept: Carried::take(form) }
    }

    /// The frame of the pages on the way, which `page` shows again. A form that is carried along has no address, so it would be
    /// lost by the switch of languages.
    pub(super) fn shell<'c>(&self, call: &'c Call<'_>, page: &str) -> Shell<'c> {
        match self.kept {
            Some(_) => call.shell().once(),
            None => call.shell().at(here(call, page, &self.rd)),
        }
    }

    /// On they go: they are `user`.
    pub(super) fn on(&self, call: &Call<'_>, user: UserId) -> Response<Body> {
        match &self.kept {
            Some(kept) => kept::offer(call, user, kept, &self.rd),
            None => reply::redirect(StatusCode::SEE_OTHER, &self.rd),
        }
    }

    /// The same after a sign-in: the cookie is set, the session of before ends.
    async fn in_and_on(&self, call: &Call<'_>, issued: &Issued) -> Result<Response<Body>, Failure> {
        call.end_previous(issued).await?;
        let mut response = self.on(call, issued.user.id);
        call.set_session(&mut response, issued);
        Ok(response)
    }
}

/// `GET P/login`. Who is signed in goes straight on, unless they ask to sign in again (`prompt=login`).
pub(super) fn page(call: &Call<'_>) -> Response<Body> {
    // A page is shown whatever else stands in its address.
    let mut query = call.query().unwrap_or_default();
    let way = Way { rd: call.return_to(&mut query), kept: None };
    if query.take("prompt").as_deref() != Some("login")
        && let Some(on) = bounce::straight_on(call, &way.rd)
    {
        return on;
    }
    let why = bounce::note(call, query.take("why").as_deref());
    show(call, &way, "", why.as_ref(), None)
}

/// `GET P/login/2fa`: there is no second step without the first.
pub(super) fn first_step(call: &Call<'_>) -> Response<Body> {
    let rd = call.return_to(&mut call.query().unwrap_or_default());
    reply::redirect(StatusCode::SEE_OTHER, &here(call, "/login", &rd))
}

/// The page with a form in it that was sent when the session was over.
pub(super) fn show_keeping(call: &Call<'_>, rd: &str, kept: Carried) -> Response<Body> {
    show(call, &Way { rd: rd.to_owned(), kept: Some(kept) }, "", None, None)
}

/// The page for a form of ours whose session is over, if it carries one that was kept: that is not lost either.
pub(super) fn in_place_of(call: &Call<'_>) -> Option<Response<Body>> {
    let Way { rd, kept } = Way::take(call, &mut Pairs::parse(&call.body).ok()?);
    kept.map(|kept| show_keeping(call, &rd, kept))
}

fn show(call: &Call<'_>, way: &Way, email: &str, why: Option<&Why>, problem: Option<&FormProblem>) -> Response<Body> {
    let sealed = call.seal_form(LOGIN, None);
    let template = LoginPage {
        shell: way.shell(call, "/login").scripted(),
        t: call.texts(),
        place: &place(call, &way.rd),
        csrf: &sealed.token,
        rd: &way.rd,
        email,
        signed_in_as: call.signed().ok().map(|signed| signed.identity.email.as_str()),
        may_register: call.auth().registration_is_open(),
        kept: way.kept.as_ref(),
        why,
        problem: Shown(problem),
    };
    pages::leading_on(&template, problem, &sealed)
}

/// The address of a page that leads to `rd`.
fn here(call: &Call<'_>, page: &str, rd: &str) -> String {
    format!("{}?rd={}", call.own(page), pages::encoded(rd))
}

/// The host that `rd` leads to: another one of this site, or this one. What a client says its host is counts only where
/// nothing of ours says better (requirement FWD-4).
fn place(call: &Call<'_>, rd: &str) -> String {
    let absolute = Url::parse(rd).ok();
    if let Some(host) = absolute.as_ref().and_then(Url::host_str) {
        return host.to_owned();
    }
    let (settings, context) = (&call.web.settings, call.context);
    let here = || format!("{}://{}/", context.scheme.as_str(), context.authority);
    let is_ours = || !settings.context.allowed_hosts.is_empty() || return_to::parse(&here(), call.web.site.as_ref()) != "/";
    match settings.public_url.as_ref().and_then(Url::host_str) {
        Some(public) if public != context.host.as_str() && !is_ours() => public.to_owned(),
        Some(_) | None => context.host.as_str().to_owned(),
    }
}

/// `POST P/login`.
pub(super) async fn form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Pairs::parse(&call.body)?;
    let way = Way::take(call, &mut form);
    let email = form.take("email").unwrap_or_default();
    let password = Secret::new(form.take("password").unwrap_or_default());
    if let Err(stale) = call.is_genuine(&mut form, LOGIN, None) {
        // The form was sent twice, or in two tabs: the other one has signed this person in.
        if let (Stale::Old, Some(user)) = (stale, call.is_in_as(&email)) {
            return Ok(way.on(call, user));
        }
        return Ok(show(call, &way, &email, None, Some(&FormProblem::stale(call, stale))));
    }
    if password.expose().is_empty() {
        return Ok(show(call, &way, &email, None, Some(&FormProblem::missing(call, "password"))));
    }
    let browser = browser(call);
    let credentials = Credentials { email: email.clone(), password, code: None };
    match call.auth().log_in(credentials, true, browser.as_deref(), &call.client, call.now()).await {
        Ok(LoginStep::Complete(issued)) => way.in_and_on(call, &issued).await,
        Ok(LoginStep::NeedSecondFactor { pending, methods: _ }) => Ok(show_second_factor(call, &way, pending.expose(), None)),
        Err(error) => Ok(show(call, &way, &email, None, Some(&FormProblem::of(call, &error.into())))),
    }
}

fn show_second_factor(call: &Call<'_>, way: &Way, pending: &str, problem: Option<&FormProblem>) -> Response<Body> {
    let sealed = call.seal_form(SECOND_FACTOR, None);
    let template = SecondFactorPage {
        // The second step can't be shown again by its address alone; the first can.
        shell: way.shell(call, "/login"),
        t: call.texts(),
        csrf: &sealed.token,
        rd: &way.rd,
        pending,
        kept: way.kept.as_ref(),
        problem: Shown(problem),
    };
    pages::leading_on(&template, problem, &sealed)
}

/// `POST P/login/2fa`.
pub(super) async fn second_factor_form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Pairs::parse(&call.body)?;
    let way = Way::take(call, &mut form);
    let pending = form.take("pending").unwrap_or_default();
    let came_in = || call.came_in_since(call.auth().pending_login(&pending, call.now()));
    if let Err(stale) = call.is_genuine(&mut form, SECOND_FACTOR, None) {
        if let (Stale::Old, Some(user)) = (stale, came_in()) {
            return Ok(way.on(call, user));
        }
        return Ok(show_second_factor(call, &way, &pending, Some(&FormProblem::stale(call, stale))));
    }
    let Some(proof) = typed_proof(&mut form) else {
        return Ok(show_second_factor(call, &way, &pending, Some(&FormProblem::missing(call, "verificationCode"))));
    };
    let browser = browser(call);
    let done = call.auth().log_in_second_factor(&pending, &proof, true, browser.as_deref(), &call.client, call.now()).await;
    // It was sent before, with a code that was right then.
    if let (Err(Error::PendingExpired | Error::WrongCode), Some(user)) = (&done, came_in()) {
        return Ok(way.on(call, user));
    }
    match done {
        Ok(issued) => way.in_and_on(call, &issued).await,
        // There is nothing to try again here: back to the first step.
        Err(error @ Error::PendingExpired) => Ok(show(call, &way, "", None, Some(&FormProblem::of(call, &error.into())))),
        Err(error) => Ok(show_second_factor(call, &way, &pending, Some(&FormProblem::of(call, &error.into())))),
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
    Way { rd: rd.to_owned(), kept: None }.in_and_on(call, issued).await
}
