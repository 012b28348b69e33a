//! The second factor of one's own account.

use askama::Template;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::api::proof;
use super::call::Call;
use super::error::Failure;
use super::input::{Pairs, Problem};
use super::pages::{FormProblem, Shell, Shown};
use super::{pages, reply};
use crate::auth::Error;
use crate::auth::login::SecondFactor;
use crate::auth::totp::Enrolment;
use crate::model::Secret;
use crate::wire::body::Body;

/// `POST A/auth/2fa`: asks for a secret, confirms it, or turns the second factor off.
pub(super) async fn api(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut input = call.object()?;
    let enable = input.truth("enable")?;
    let proof = proof(&mut input)?;
    let sent = input.optional_secret("secret")?;
    let password = input.optional_secret("currentPassword")?;
    input.finish()?;
    let (auth, session, client, now) = (call.auth(), signed.session, &call.client, call.now());
    let body = match (enable, proof) {
        (true, None) => {
            let made = auth.begin_enrolment(session, password, client, now).await?;
            json!({
                "qrCode": made.qr_code,
                "secret": made.secret.expose(),
                "manualEntryKey": made.manual_key,
                "otpauthUrl": made.otpauth_url,
            })
        }
        (true, Some(SecondFactor::Code(code))) => {
            let sent = sent.as_ref().map(|secret| secret.expose().as_str());
            let codes = auth.confirm_enrolment(session, &code, sent, password, client, now).await?;
            json!({ "twoFactorEnabled": true, "recoveryCodes": shown(&codes) })
        }
        (true, Some(SecondFactor::Recovery(_))) => {
            return Err(Problem::new("recoveryCode", "can't turn a second factor on").into());
        }
        (false, Some(proof)) => {
            auth.end_enrolment(session, &proof, password, client, now).await?;
            json!({ "twoFactorEnabled": false })
        }
        (false, None) => return Err(Problem::new("verificationCode", "is required").into()),
    };
    Ok(reply::json(StatusCode::OK, &body))
}

/// `POST A/auth/2fa/recovery-codes`.
pub(super) async fn recovery_codes(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut input = call.optional_object()?;
    let password = input.optional_secret("currentPassword")?;
    input.finish()?;
    let codes = call.auth().replace_recovery_codes(signed.session, password, &call.client, call.now()).await?;
    Ok(reply::json(StatusCode::OK, &json!({ "recoveryCodes": shown(&codes) })))
}

fn shown(codes: &[Secret<String>]) -> Vec<Value> {
    codes.iter().map(|code| code.expose().as_str().into()).collect()
}

const ENROL: &str = "account/2fa";

/// Where in setting it up the person is.
#[derive(Debug)]
enum Step<'a> {
    /// The account has a second factor.
    On,
    /// Nothing has begun.
    Begin,
    /// The secret is shown.
    Scan(&'a Enrolment),
    /// The secret was shown; a code was wrong. It can't be shown again, but need not be.
    Retry,
    /// It is on, and these are the recovery codes.
    Done(&'a [Secret<String>]),
}

#[derive(Template)]
#[template(path = "totp.html")]
struct EnrolPage<'a> {
    shell: Shell<'a>,
    csrf: &'a str,
    rd: &'a str,
    step: Step<'a>,
    problem: Shown<'a>,
}

/// `GET P/account/2fa`.
pub(super) async fn page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let rd = call.return_to(&mut call.query().unwrap_or_default());
    let user = call.auth().profile(call.signed()?.session).await?;
    show(call, &rd, if user.has_second_factor() { Step::On } else { Step::Begin }, None)
}

fn show(call: &Call<'_>, rd: &str, step: Step<'_>, problem: Option<&FormProblem>) -> Result<Response<Body>, Failure> {
    let sealed = call.seal_form(ENROL, Some(call.signed()?.session.id));
    let template = EnrolPage { shell: call.web.shell(), csrf: &sealed.token, rd, step, problem: Shown(problem) };
    Ok(pages::form(&template, problem, &sealed))
}

/// `POST P/account/2fa`: shows a new secret, or confirms it by its first code.
pub(super) async fn form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let session = call.signed()?.session;
    let mut form = Pairs::parse(&call.body)?;
    let rd = call.return_to(&mut form);
    let code = form.take("code");
    let again = || if code.is_some() { Step::Retry } else { Step::Begin };
    if let Err(stale) = call.is_genuine(&mut form, ENROL, Some(session.id)) {
        return show(call, &rd, again(), Some(&FormProblem::stale(stale)));
    }
    let (auth, client, now) = (call.auth(), &call.client, call.now());
    let done = match &code {
        None => match auth.begin_enrolment(session, None, client, now).await {
            Ok(made) => return show(call, &rd, Step::Scan(&made), None),
            Err(error) => Err(error),
        },
        Some(code) => auth.confirm_enrolment(session, code, None, None, client, now).await,
    };
    match done {
        Ok(codes) => show(call, &rd, Step::Done(&codes), None),
        Err(Error::FreshPasswordRequired) => Ok(reply::redirect(StatusCode::SEE_OTHER, &to_reauth(call, &rd))),
        Err(Error::Conflict) => show(call, &rd, Step::On, None),
        Err(error) => show(call, &rd, again(), Some(&FormProblem::of(call, &error.into()))),
    }
}

/// The password first, then here again, then where the person was going.
fn to_reauth(call: &Call<'_>, rd: &str) -> String {
    let query = |rd: &str| form_urlencoded::Serializer::new(String::new()).append_pair("rd", rd).finish();
    let here = format!("{}?{}", call.own("/account/2fa"), query(rd));
    format!("{}?{}", call.own("/reauth"), query(&here))
}
