//! The second factor: setting it up, what there is of it, and turning it off. A session that is fit for enrolment only
//! sees the first of these and nothing else of the account.

use askama::Template;
use http::Response;

use super::recovery_codes;
use super::{Form, Frame, Notice, Tab, done, problem, return_to_or, to, to_reauth};
use crate::auth::Error;
use crate::auth::reauth::Confirmation;
use crate::auth::totp::Enrolment;
use crate::model::Fitness;
use crate::web::call::Call;
use crate::web::error::Failure;
use crate::web::languages::Texts;
use crate::web::login::typed_proof;
use crate::web::pages::{self, FormProblem, Shell, Shown};
use crate::wire::body::Body;

const FORM: &str = "account/2fa";
const OFF: &str = "account/2fa/off";

/// Where in setting it up the person is.
#[derive(Debug)]
enum Step<'a> {
    /// The account has a second factor and so many unused recovery codes.
    On(u64),
    /// Nothing has begun.
    Begin,
    /// The secret is shown.
    Scan(&'a Enrolment),
    /// The secret was shown; a code was wrong. It can't be shown again, but need not be.
    Retry,
}

#[derive(Template)]
#[template(path = "account_2fa.html")]
struct Page<'a> {
    shell: Shell<'a>,
    t: &'static Texts,
    frame: Frame,
    csrf: &'a str,
    problem: Shown<'a>,
    rd: &'a str,
    step: Step<'a>,
}

/// `GET P/account/2fa?rd=`.
pub(in crate::web) async fn page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let rd = going_to(call, &mut call.query().unwrap_or_default())?;
    let step = present(call).await?;
    show(call, &rd, step, None)
}

/// Where the person goes on to: who came for this alone stays, who was sent here goes on.
fn going_to(call: &Call<'_>, pairs: &mut crate::web::input::Pairs) -> Result<String, Failure> {
    let only_this = call.signed()?.session.standing().1 == Fitness::EnrolmentOnly;
    let here = call.own("/account/2fa");
    Ok(return_to_or(call, pairs, if only_this { "/" } else { &here }))
}

async fn present<'s>(call: &Call<'_>) -> Result<Step<'s>, Failure> {
    let user = call.auth().profile(call.signed()?.session).await?;
    Ok(if user.has_second_factor() { Step::On(user.two_factor.recovery.len() as u64) } else { Step::Begin })
}

fn show(call: &Call<'_>, rd: &str, step: Step<'_>, problem: Option<&FormProblem>) -> Result<Response<Body>, Failure> {
    let sealed = call.seal_form(FORM, Some(call.signed()?.session.id));
    let frame = Frame::new(call, Tab::TwoFactor)?;
    // There is nothing for the script to do but with a password, and the QR code weighs enough.
    let shell = Shell { scripted: frame.confirm, ..super::shell(call) };
    let page = Page {
        shell: if matches!(step, Step::Scan(_) | Step::Retry) { Shell { here: None, ..shell } } else { shell },
        t: call.texts(),
        frame,
        csrf: &sealed.token,
        problem: Shown(problem),
        rd,
        step,
    };
    Ok(pages::form(&page, problem, &sealed))
}

/// `POST P/account/2fa`: shows a new secret, or confirms it by its first code.
pub(in crate::web) async fn form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Form::read(call)?;
    let session = form.signed.session;
    let rd = going_to(call, &mut form.fields)?;
    let (code, confirmation) = (form.fields.take("code"), form.confirmation());
    let again = || if code.is_some() { Step::Retry } else { Step::Begin };
    if let Err(stale) = form.check(call, FORM) {
        return show(call, &rd, again(), Some(&stale));
    }
    let (auth, client, now) = (call.auth(), &call.client, call.now());
    let Some(code) = &code else {
        return match auth.begin_enrolment(session, confirmation, client, now).await {
            Ok(made) => show(call, &rd, Step::Scan(&made), None),
            // Nothing was typed yet that could be lost.
            Err(Error::FreshPasswordRequired) => Ok(to_reauth(call, &here(call, &rd))),
            Err(Error::Conflict) => show(call, &rd, present(call).await?, None),
            Err(error) => show(call, &rd, Step::Begin, Some(&problem(call, error, "password"))),
        };
    };
    match auth.confirm_enrolment(session, code, None, confirmation, client, now).await {
        Ok(codes) => recovery_codes::show_new(call, &codes, &rd),
        // It is on: this is a second arrival of the form that turned it on, and the codes are shown once.
        Err(Error::Conflict) => recovery_codes::shown_already(call),
        Err(error) => show(call, &rd, Step::Retry, Some(&problem(call, error, "password"))),
    }
}

/// This page, and then where the person was going.
fn here(call: &Call<'_>, rd: &str) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("rd", rd).finish();
    format!("{}?{query}", call.own("/account/2fa"))
}

#[derive(Template)]
#[template(path = "account_2fa_off.html")]
struct OffPage<'a> {
    shell: Shell<'a>,
    t: &'static Texts,
    frame: Frame,
    csrf: &'a str,
    problem: Shown<'a>,
    /// Whether nobody gets in here without one.
    required: bool,
}

/// `GET P/account/2fa/off`.
pub(in crate::web) fn off_page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    if !call.signed()?.identity.has_second_factor {
        return Ok(to(call, "/account/2fa"));
    }
    if Frame::new(call, Tab::TwoFactor)?.confirm {
        return Ok(to_reauth(call, &call.own("/account/2fa/off")));
    }
    show_off(call, None)
}

fn show_off(call: &Call<'_>, problem: Option<&FormProblem>) -> Result<Response<Body>, Failure> {
    let sealed = call.seal_form(OFF, Some(call.signed()?.session.id));
    let page = OffPage {
        shell: super::shell(call),
        t: call.texts(),
        frame: Frame::new(call, Tab::TwoFactor)?,
        csrf: &sealed.token,
        problem: Shown(problem),
        required: call.auth().settings().two_factor.always_required,
    };
    Ok(pages::form(&page, problem, &sealed))
}

/// `POST P/account/2fa/off`.
pub(in crate::web) async fn off_form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Form::read(call)?;
    let (proof, confirmation) = (typed_proof(&mut form.fields), form.confirmation());
    if let Err(stale) = form.check(call, OFF) {
        return show_off(call, Some(&stale));
    }
    // Asked for together, so that nobody is told of one after the other; a code that is right is not spent in vain.
    let session = form.signed.session;
    if let Confirmation::Within(age) = confirmation
        && !session.is_fresh(age, call.now())
    {
        return show_off(call, Some(&problem(call, Error::FreshPasswordRequired, "password")));
    }
    let Some(proof) = proof else {
        return show_off(call, Some(&problem(call, Error::SecondFactorRequired, "password")));
    };
    match call.auth().end_enrolment(session, &proof, confirmation, &call.client, call.now()).await {
        Ok(()) => Ok(done(call, Notice::SecondFactorOff, "/account/2fa", session.id)),
        // It is off already.
        Err(Error::Conflict) => Ok(to(call, "/account/2fa")),
        Err(error) => show_off(call, Some(&problem(call, error, "password"))),
    }
}
