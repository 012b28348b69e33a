//! One's own account, as pages: a file a page, and what they share. What can be changed here can be changed by the API
//! as well; the same use cases do it.
//!
//! A dangerous change asks for the password when it was last given more than [`FRESH_ON_PAGES`] ago: whoever comes to
//! such a page is sent to confirm first, and comes back; whoever stayed there for too long is asked in the form itself,
//! so that nothing that was typed is lost. What is shown once is the answer to the form that asked for it, and the form
//! bears what makes a second arrival of it do nothing.

pub(super) mod activity;
pub(super) mod deletion;
mod device;
pub(super) mod json;
mod notice;
mod paging;
pub(super) mod password;
pub(super) mod profile;
pub(super) mod recovery_codes;
pub(super) mod sessions;
pub(super) mod tokens;
pub(super) mod two_factor;

use http::{Response, StatusCode};

use self::device::Device;
use self::notice::Notice;
use super::call::{Call, Signed};
use super::error::Failure;
use super::input::Pairs;
use super::languages::Texts;
use super::pages::{FormProblem, Shell};
use super::{reply, return_to};
use crate::auth::Error;
use crate::auth::reauth::{Confirmation, FRESH_ON_PAGES};
use crate::model::{Fitness, Secret, SessionId};
use crate::wire::body::Body;

/// The pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tab {
    Profile,
    Password,
    TwoFactor,
    Sessions,
    Tokens,
    Activity,
    Deletion,
}

impl Tab {
    const ALL: [Self; 7] = [Self::Profile, Self::Password, Self::TwoFactor, Self::Sessions, Self::Tokens, Self::Activity, Self::Deletion];

    const fn path(self) -> &'static str {
        match self {
            Self::Profile => "/account",
            Self::Password => "/account/password",
            Self::TwoFactor => "/account/2fa",
            Self::Sessions => "/account/sessions",
            Self::Tokens => "/account/tokens",
            Self::Activity => "/account/activity",
            Self::Deletion => "/account/delete",
        }
    }

    const fn name(self, t: &Texts) -> &'static str {
        let nav = &t.account.nav;
        match self {
            Self::Profile => nav.profile,
            Self::Password => nav.password,
            Self::TwoFactor => nav.two_factor,
            Self::Sessions => nav.sessions,
            Self::Tokens => nav.tokens,
            Self::Activity => nav.activity,
            Self::Deletion => nav.deletion,
        }
    }
}

/// What is around every page of the account.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Which of them it is.
    tab: Tab,
    /// What was done just before.
    notice: Option<Notice>,
    /// Whether the person may do nothing but set up a second factor: then there is nowhere else to go.
    only_this: bool,
    /// Whether a dangerous form has to ask for the password.
    confirm: bool,
}

impl Frame {
    fn new(call: &Call<'_>, tab: Tab) -> Result<Self, Failure> {
        let session = call.signed()?.session;
        Ok(Self {
            tab,
            notice: Notice::read(call, session.id),
            only_this: session.standing().1 == Fitness::EnrolmentOnly,
            confirm: !session.is_fresh(FRESH_ON_PAGES, call.now()),
        })
    }
}

/// A form of ours that came in: from a page that this session was shown, or not.
#[derive(Debug)]
struct Form<'a> {
    signed: Signed<'a>,
    fields: Pairs,
}

impl<'a> Form<'a> {
    fn read(call: &Call<'a>) -> Result<Self, Failure> {
        Ok(Self { signed: call.signed()?, fields: Pairs::parse(&call.body)? })
    }

    /// The problem, if it is none of this session's.
    fn check(&mut self, call: &Call<'_>, name: &str) -> Result<(), Box<FormProblem>> {
        let session: SessionId = self.signed.session.id;
        call.is_genuine(&mut self.fields, name, Some(session)).map_err(|stale| Box::new(FormProblem::stale(call, stale)))
    }

    fn text(&mut self, name: &str) -> String {
        self.fields.take(name).unwrap_or_default()
    }

    fn secret(&mut self, name: &str) -> Secret<String> {
        Secret::new(self.text(name))
    }

    /// The password that a dangerous form asked for, or that it was given not long ago.
    fn confirmation(&mut self) -> Confirmation {
        match self.fields.filled("password") {
            Some(password) => Confirmation::Password(Secret::new(password)),
            None => Confirmation::Within(FRESH_ON_PAGES),
        }
    }
}

/// Where the page leads when it is done; without a word about it, `otherwise`.
fn return_to_or(call: &Call<'_>, pairs: &mut Pairs, otherwise: &str) -> String {
    match pairs.filled("rd") {
        Some(rd) => return_to::parse(&rd, call.web.site.as_ref()),
        None => otherwise.to_owned(),
    }
}

/// To the password first, and then to this page of ours.
fn to_reauth(call: &Call<'_>, page: &str) -> Response<Body> {
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("rd", page).finish();
    reply::redirect(StatusCode::SEE_OTHER, &format!("{}?{query}", call.own("/reauth")))
}

/// To one of these pages.
fn to(call: &Call<'_>, page: &str) -> Response<Body> {
    reply::redirect(StatusCode::SEE_OTHER, &call.own(page))
}

/// To one of these pages, which says what was done.
fn done(call: &Call<'_>, notice: Notice, page: &str, session: SessionId) -> Response<Body> {
    reply::redirect(StatusCode::SEE_OTHER, &notice.address(call, page, session))
}

/// What is wrong with a form of these pages. `password`: the field that the present password was typed into.
fn problem(call: &Call<'_>, error: Error, password: &'static str) -> FormProblem {
    let (t, ours) = (call.texts(), &call.texts().account.problems);
    let told = match &error {
        Error::WrongCredentials => Some((Some(password), ours.password_wrong)),
        Error::FreshPasswordRequired => Some((Some(password), t.errors.fresh_password_required)),
        Error::SecondFactorRequired => Some((Some("code"), ours.code_required)),
        Error::Conflict => Some((None, t.errors.conflict)),
        Error::Invalid { field: "name", problem } if problem.to_string().contains("100 API tokens") => {
            Some((Some("name"), ours.token_many))
        }
        Error::Invalid { field, .. } => match *field {
            "avatar" => Some((Some("avatar"), ours.avatar)),
            "name" => Some((Some("name"), ours.token_name)),
            "expiresAt" => Some((Some("expires"), ours.token_expires)),
            "paths" => Some((Some("paths"), ours.token_paths)),
            "methods" => Some((Some("methods"), ours.token_methods)),
            "networks" => Some((Some("networks"), ours.token_networks)),
            _ => None,
        },
        Error::WrongCode
        | Error::PendingExpired
        | Error::AccountDisabled
        | Error::SignInRequired
        | Error::EnrolmentRequired
        | Error::AddressTaken
        | Error::RegistrationClosed
        | Error::SetupExpired
        | Error::TooManyAttempts { .. }
        | Error::NotFound
        | Error::Busy
        | Error::Unavailable(_)
        | Error::Keys(_)
        | Error::Internal(_) => None,
    };
    let problem = FormProblem::of(call, &error.into());
    match told {
        Some((field, text)) => FormProblem { field, text: text.into(), ..problem },
        None if problem.field == Some("password") => FormProblem { field: Some(password), ..problem },
        None => problem,
    }
}

/// The frame of these pages: on most of them the script does something.
fn shell<'a>(call: &'a Call<'_>) -> Shell<'a> {
    call.shell().scripted()
}

/// The frame of a page that can't be shown again, and so must not offer to be in another language.
fn shown_once<'a>(call: &'a Call<'_>) -> Shell<'a> {
    Shell { here: None, ..shell(call) }
}

/// A device for people: "Firefox on Windows".
fn device_text(t: &Texts, user_agent: Option<&str>) -> String {
    let words = &t.account.device;
    match Device::read(user_agent.unwrap_or_default()) {
        Device { program: Some(program), system: Some(system) } => words.both(program, system).to_string(),
        Device { program: Some(program), system: None } => program,
        Device { program: None, system: Some(system) } => words.only_system(system).to_string(),
        Device { program: None, system: None } => words.unknown.to_owned(),
    }
}
