//! The end of an account.

use askama::Template;
use http::Response;

use super::{Form, Frame, Tab, problem, shown_once};
use crate::auth::Error;
use crate::web::call::{Call, append_cookies};
use crate::web::error::Failure;
use crate::web::languages::Texts;
use crate::web::login::typed_proof;
use crate::web::pages::{self, FormProblem, Shell, Shown};
use crate::wire::body::Body;

const FORM: &str = "account/delete";

#[derive(Template)]
#[template(path = "account_delete.html")]
struct Page<'a> {
    shell: Shell<'a>,
    t: &'static Texts,
    frame: Frame,
    csrf: &'a str,
    problem: Shown<'a>,
    email: &'a str,
    asks_code: bool,
}

/// `GET P/account/delete`.
pub(in crate::web) fn page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    show(call, None)
}

fn show(call: &Call<'_>, problem: Option<&FormProblem>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let sealed = call.seal_form(FORM, Some(signed.session.id));
    let page = Page {
        shell: super::shell(call),
        t: call.texts(),
        frame: Frame::new(call, Tab::Deletion)?,
        csrf: &sealed.token,
        problem: Shown(problem),
        email: signed.identity.email.as_str(),
        asks_code: signed.identity.has_second_factor,
    };
    Ok(pages::form(&page, problem, &sealed))
}

/// `POST P/account/delete`: by the password and, where there is a second factor, a code, however fresh the session is.
pub(in crate::web) async fn form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Form::read(call)?;
    let (password, proof) = (form.secret("password"), typed_proof(&mut form.fields));
    if let Err(stale) = form.check(call, FORM) {
        return show(call, Some(&stale));
    }
    if password.expose().is_empty() {
        return show(call, Some(&FormProblem::missing(call, "password")));
    }
    if form.signed.identity.has_second_factor && proof.is_none() {
        return show(call, Some(&problem(call, Error::SecondFactorRequired, "password")));
    }
    match call.auth().delete_account(form.signed.session, password, proof.as_ref(), &call.client, call.now()).await {
        Ok(()) => {
            let t = &call.texts().account.deletion;
            let mut response = pages::notice(shown_once(call), t.done_title, t.done_text.into(), None);
            append_cookies(&mut response, call.web.expired_cookies());
            Ok(response)
        }
        Err(error) => show(call, Some(&problem(call, error, "password"))),
    }
}
