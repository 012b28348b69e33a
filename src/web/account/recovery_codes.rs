//! Recovery codes: shown once, to be printed, downloaded or copied, and made anew.

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use subtle::ConstantTimeEq as _;

use super::{Form, Frame, Tab, problem, shown_once, to, to_reauth};
use crate::auth::Error;
use crate::model::{Digest, Secret, SessionId};
use crate::web::call::Call;
use crate::web::error::Failure;
use crate::web::languages::Texts;
use crate::web::pages::{self, FormProblem, Shell, Shown};
use crate::web::reply;
use crate::wire::body::Body;

const FORM: &str = "account/2fa/recovery-codes";

/// Codes that are being shown, with what gets them back as a file: they are no longer known to us, so the page hands
/// them over, sealed for this session so that nobody else can have us write a file.
#[derive(Debug)]
struct Codes {
    list: Vec<Secret<String>>,
    /// One after the other, for the field.
    joined: Secret<String>,
    seal: String,
}

impl Codes {
    fn new(call: &Call<'_>, session: SessionId, codes: &[Secret<String>]) -> Self {
        let joined = codes.iter().map(|code| code.expose().as_str()).collect::<Vec<_>>().join(" ");
        Self { list: codes.to_vec(), seal: seal(call, session, &joined), joined: Secret::new(joined) }
    }
}

fn seal(call: &Call<'_>, session: SessionId, joined: &str) -> String {
    let mac = call.auth().browser_mac("recovery file", format!("{session}\n{joined}").as_bytes());
    URL_SAFE_NO_PAD.encode(mac.as_bytes())
}

/// What the page says.
enum Step<'a> {
    /// Whether new ones are wanted; so many are left.
    Ask(u64, &'a str),
    /// The new ones.
    Done(&'a Codes),
    /// They were shown before.
    Shown,
}

#[derive(Template)]
#[template(path = "account_codes.html")]
struct Page<'a> {
    shell: Shell<'a>,
    t: &'static Texts,
    frame: Frame,
    csrf: &'a str,
    problem: Shown<'a>,
    rd: &'a str,
    step: Step<'a>,
}

fn show(call: &Call<'_>, rd: &str, step: Step<'_>, problem: Option<&FormProblem>) -> Result<Response<Body>, Failure> {
    let sealed = call.seal_form(FORM, Some(call.signed()?.session.id));
    let page = Page {
        shell: if matches!(step, Step::Done(_)) { shown_once(call) } else { super::shell(call) },
        t: call.texts(),
        frame: Frame::new(call, Tab::TwoFactor)?,
        csrf: &sealed.token,
        problem: Shown(problem),
        rd,
        step,
    };
    Ok(pages::form(&page, problem, &sealed))
}

/// Codes that were made a moment ago, and where to go on to when they are kept.
pub(super) fn show_new(call: &Call<'_>, codes: &[Secret<String>], rd: &str) -> Result<Response<Body>, Failure> {
    let codes = Codes::new(call, call.signed()?.session.id, codes);
    show(call, rd, Step::Done(&codes), None)
}

/// The answer to a form that arrives a second time.
pub(super) fn shown_already(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut response = show(call, &call.own("/account/2fa"), Step::Shown, None)?;
    *response.status_mut() = StatusCode::CONFLICT;
    Ok(response)
}

/// `GET P/account/2fa/recovery-codes`.
pub(in crate::web) async fn page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    if !call.signed()?.identity.has_second_factor {
        return Ok(to(call, "/account/2fa"));
    }
    if Frame::new(call, Tab::TwoFactor)?.confirm {
        return Ok(to_reauth(call, &call.own("/account/2fa/recovery-codes")));
    }
    ask(call, None).await
}

async fn ask(call: &Call<'_>, problem: Option<&FormProblem>) -> Result<Response<Body>, Failure> {
    let user = call.auth().profile(call.signed()?.session).await?;
    let seen = URL_SAFE_NO_PAD.encode(call.auth().recovery_state(&user).as_bytes());
    show(call, &call.own("/account/2fa"), Step::Ask(user.two_factor.recovery.len() as u64, &seen), problem)
}

/// `POST P/account/2fa/recovery-codes`: the only answer that ever shows them.
pub(in crate::web) async fn form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Form::read(call)?;
    let (seen, confirmation) = (form.text("seen"), form.confirmation());
    if let Err(stale) = form.check(call, FORM) {
        return ask(call, Some(&stale)).await;
    }
    let seen = URL_SAFE_NO_PAD.decode(seen).ok().and_then(|bytes| bytes.try_into().ok()).map(Digest);
    let Some(seen) = seen else { return shown_already(call) };
    let session = form.signed.session;
    match call.auth().replace_recovery_codes(session, Some(&seen), confirmation, &call.client, call.now()).await {
        Ok(codes) => show_new(call, &codes, &call.own("/account/2fa")),
        Err(Error::Conflict) => shown_already(call),
        Err(error) => ask(call, Some(&problem(call, error, "password"))).await,
    }
}

/// `POST P/account/2fa/recovery-codes/file`: the codes that a page just showed, as a text file.
pub(in crate::web) fn file(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Form::read(call)?;
    let (codes, sealed) = (form.secret("codes"), form.text("seal"));
    let genuine: bool = seal(call, form.signed.session.id, codes.expose()).as_bytes().ct_eq(sealed.as_bytes()).into();
    if form.check(call, FORM).is_err() || !genuine {
        return shown_already(call);
    }
    let t = call.texts();
    let ui = &call.web.settings.ui.name;
    let mut text = format!("{ui}\n{}\n\n", t.account.codes.file);
    for code in codes.expose().split(' ') {
        text.push_str(code);
        text.push('\n');
    }
    let mut response = reply::empty(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"recovery-codes.txt\""));
    *response.body_mut() = Body::full(text);
    Ok(response)
}
