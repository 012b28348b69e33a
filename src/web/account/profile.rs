//! Who one is: the name and the picture.

use askama::Template;
use http::Response;

use super::{Form, Frame, Notice, Tab, done, problem};
use crate::auth::account::ProfileChange;
use crate::model::User;
use crate::web::call::Call;
use crate::web::error::Failure;
use crate::web::languages::Texts;
use crate::web::pages::{self, FormProblem, Shell, Shown};
use crate::wire::body::Body;

const FORM: &str = "account";

#[derive(Template)]
#[template(path = "account_profile.html")]
struct Page<'a> {
    shell: Shell<'a>,
    t: &'static Texts,
    frame: Frame,
    csrf: &'a str,
    problem: Shown<'a>,
    user: &'a User,
    typed: &'a Typed,
}

/// What stands in the fields.
struct Typed {
    display_name: String,
    avatar: String,
}

impl Typed {
    fn of(user: &User) -> Self {
        Self {
            display_name: user.display_name.as_ref().map_or_else(String::new, |name| name.as_str().to_owned()),
            avatar: user.avatar.as_ref().map_or_else(String::new, |avatar| avatar.as_str().to_owned()),
        }
    }
}

/// `GET P/account`.
pub(in crate::web) async fn page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    show(call, None, None).await
}

async fn show(call: &Call<'_>, typed: Option<Typed>, problem: Option<&FormProblem>) -> Result<Response<Body>, Failure> {
    let session = call.signed()?.session;
    let user = call.auth().profile(session).await?;
    let typed = typed.unwrap_or_else(|| Typed::of(&user));
    let sealed = call.seal_form(FORM, Some(session.id));
    let page = Page {
        shell: super::shell(call),
        t: call.texts(),
        frame: Frame::new(call, Tab::Profile)?,
        csrf: &sealed.token,
        problem: Shown(problem),
        user: &user,
        typed: &typed,
    };
    Ok(pages::form(&page, problem, &sealed))
}

/// `POST P/account`.
pub(in crate::web) async fn form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Form::read(call)?;
    let typed = Typed { display_name: form.text("displayName"), avatar: form.text("avatar") };
    if let Err(stale) = form.check(call, FORM) {
        return show(call, Some(typed), Some(&stale)).await;
    }
    // What was left empty is removed.
    let given = |text: &str| Some(Some(text.trim().to_owned()).filter(|text| !text.is_empty()));
    let change = ProfileChange { display_name: given(&typed.display_name), avatar: given(&typed.avatar) };
    match call.auth().change_profile(form.signed.session, change, &call.client, call.now()).await {
        Ok(_) => Ok(done(call, Notice::Profile, "/account", form.signed.session.id)),
        Err(error) => show(call, Some(typed), Some(&problem(call, error, "password"))).await,
    }
}
