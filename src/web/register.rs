//! Making an account.

use askama::Template;
use http::{Response, StatusCode};

use super::api::{fields, issued, wants_cookie};
use super::call::Call;
use super::error::Failure;
use super::input::{Object, Pairs, Problem};
use super::languages::Texts;
use super::login::signed_in;
use super::pages::{FormProblem, Shell, Shown};
use super::{bounce, pages, reply, view};
use crate::auth::Error;
use crate::auth::login::{Credentials, LoginStep};
use crate::auth::register::NewAccount;
use crate::config::Registration;
use crate::model::Secret;
use crate::wire::body::Body;

/// `POST A/auth/register`.
pub(super) async fn api(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut input = call.object()?;
    let new =
        NewAccount { email: input.text("email")?, password: input.secret("password")?, display_name: display_name(&mut input)?.flatten() };
    let cookie = wants_cookie(call, &mut input)?;
    input.finish()?;
    let made = call.auth().register(new, cookie, &call.client, call.now()).await?;
    if cookie {
        call.end_previous(&made).await?;
    }
    Ok(issued(call, StatusCode::CREATED, fields([("user", view::new_user(&made.user))]), &made, cookie))
}

/// Takes `displayName`: absent, `null`, or a name. Programs say `null` when they mean none; an empty one is a mistake.
#[expect(clippy::option_option, reason = "absent, null and a text mean three things in a PATCH (RFC 7396)")]
pub(super) fn display_name(input: &mut Object) -> Result<Option<Option<String>>, Problem> {
    match input.nullable_text("displayName")? {
        Some(Some(name)) if name.trim().is_empty() => Err(Problem::new("displayName", "must not be empty")),
        name => Ok(name),
    }
}

const REGISTER: &str = "register";

/// The page for registering, and for the first administrator's account.
#[derive(Template)]
#[template(path = "register.html")]
pub(super) struct RegisterPage<'a> {
    pub(super) shell: Shell<'a>,
    pub(super) t: &'static Texts,
    pub(super) csrf: &'a str,
    pub(super) rd: &'a str,
    /// The set-up code; `None`: an ordinary registration.
    pub(super) code: Option<&'a str>,
    pub(super) typed: &'a Typed,
    /// Characters that a password must have.
    pub(super) min_length: u64,
    /// Whether only addresses of certain domains can register.
    pub(super) only_domains: bool,
    pub(super) problem: Shown<'a>,
}

/// What a person typed, to be shown again; never the password.
#[derive(Debug, Default)]
pub(super) struct Typed {
    pub(super) email: String,
    pub(super) display_name: String,
}

impl Typed {
    /// Takes the fields of an account out of a form.
    pub(super) fn take(form: &mut Pairs) -> (Self, Secret<String>) {
        let typed = Self { email: form.take("email").unwrap_or_default(), display_name: form.take("displayName").unwrap_or_default() };
        (typed, Secret::new(form.take("password").unwrap_or_default()))
    }

    /// As the use cases want it.
    pub(super) fn account(&self, password: Secret<String>) -> NewAccount {
        NewAccount { email: self.email.clone(), password, display_name: Some(self.display_name.clone()) }
    }
}

/// `GET P/register`. Who is signed in has an account, and goes straight on.
pub(super) fn page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let rd = call.return_to(&mut call.query().unwrap_or_default());
    if let Some(on) = bounce::straight_on(call, &rd) {
        return Ok(on);
    }
    if !call.auth().registration_is_open() {
        return Err(Error::RegistrationClosed.into());
    }
    Ok(show(call, &rd, &Typed::default(), None))
}

fn show(call: &Call<'_>, rd: &str, typed: &Typed, problem: Option<&FormProblem>) -> Response<Body> {
    let sealed = call.seal_form(REGISTER, None);
    let template = RegisterPage {
        shell: call.shell().at(format!("{}?rd={}", call.own("/register"), pages::encoded(rd))).scripted(),
        t: call.texts(),
        csrf: &sealed.token,
        rd,
        code: None,
        typed,
        min_length: min_length(call),
        only_domains: call.auth().settings().accounts.registration == Registration::Domains,
        problem: Shown(problem),
    };
    pages::leading_on(&template, problem, &sealed)
}

/// Characters that a new password must have.
pub(super) fn min_length(call: &Call<'_>) -> u64 {
    u64::try_from(call.auth().settings().accounts.password.min_length).unwrap_or(u64::MAX)
}

/// `POST P/register`.
pub(super) async fn form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Pairs::parse(&call.body)?;
    let rd = call.return_to(&mut form);
    let (typed, password) = Typed::take(&mut form);
    if let Err(stale) = call.is_genuine(&mut form, REGISTER, None) {
        return Ok(show(call, &rd, &typed, Some(&FormProblem::stale(call, stale))));
    }
    let again = Credentials { email: typed.email.clone(), password: password.clone(), code: None };
    match call.auth().register(typed.account(password), true, &call.client, call.now()).await {
        Ok(issued) => signed_in(call, &issued, &rd).await,
        // Sent twice: the first one has made the account and signed it in.
        Err(Error::AddressTaken) if call.is_in_as(&typed.email).is_some() => Ok(reply::redirect(StatusCode::SEE_OTHER, &rd)),
        // Or its cookie was lost with its answer. Whoever knows the password is the one who made the account.
        Err(taken @ Error::AddressTaken) => match call.auth().log_in(again, true, None, &call.client, call.now()).await {
            Ok(LoginStep::Complete(issued)) => signed_in(call, &issued, &rd).await,
            Ok(LoginStep::NeedSecondFactor { .. }) | Err(_) => Ok(show(call, &rd, &typed, Some(&FormProblem::of(call, &taken.into())))),
        },
        Err(Error::RegistrationClosed) => Err(Error::RegistrationClosed.into()),
        Err(error) => Ok(show(call, &rd, &typed, Some(&FormProblem::of(call, &error.into())))),
    }
}
