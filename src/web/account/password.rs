//! The change of the password, which ends all other sessions.

use askama::Template;
use http::Response;

use super::{Form, Frame, Notice, Tab, done, problem};
use crate::auth::Error;
use crate::web::call::Call;
use crate::web::error::Failure;
use crate::web::languages::Texts;
use crate::web::login::typed_proof;
use crate::web::pages::{self, FormProblem, Shell, Shown};
use crate::wire::body::Body;

const FORM: &str = "account/password";

#[derive(Template)]
#[template(path = "account_password.html")]
struct Page<'a> {
    shell: Shell<'a>,
    t: &'static Texts,
    frame: Frame,
    csrf: &'a str,
    problem: Shown<'a>,
    email: &'a str,
    min_length: u64,
    /// Whether the account has a second factor that this session was begun without.
    asks_code: bool,
}

/// `GET P/account/password`.
pub(in crate::web) fn page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    show(call, None)
}

fn show(call: &Call<'_>, problem: Option<&FormProblem>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let sealed = call.seal_form(FORM, Some(signed.session.id));
    let page = Page {
        shell: super::shell(call),
        t: call.texts(),
        frame: Frame::new(call, Tab::Password)?,
        csrf: &sealed.token,
        problem: Shown(problem),
        email: signed.identity.email.as_str(),
        min_length: call.auth().settings().accounts.password.min_length as u64,
        asks_code: signed.identity.has_second_factor && !signed.session.standing().0.second_factor(),
    };
    Ok(pages::form(&page, problem, &sealed))
}

/// `POST P/account/password`.
pub(in crate::web) async fn form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Form::read(call)?;
    let (current, new) = (form.secret("currentPassword"), form.secret("newPassword"));
    let proof = typed_proof(&mut form.fields);
    if let Err(stale) = form.check(call, FORM) {
        return show(call, Some(&stale));
    }
    for (field, password) in [("currentPassword", &current), ("newPassword", &new)] {
        if password.expose().is_empty() {
            return show(call, Some(&FormProblem::missing(call, field)));
        }
    }
    let changed = call.auth().change_password(form.signed.session, current, new, proof.as_ref(), true, &call.client, call.now()).await;
    match changed {
        Ok(issued) => {
            let mut response = done(call, Notice::Password, "/account/password", issued.session);
            call.set_session(&mut response, &issued);
            Ok(response)
        }
        Err(error) => {
            let field = if matches!(error, Error::Invalid { .. }) { "newPassword" } else { "currentPassword" };
            show(call, Some(&problem(call, error, field)))
        }
    }
}
