//! One's own account: the profile, the password, and its end.

use askama::Template;
use http::{Response, StatusCode};
use serde_json::json;

use super::api::{fields, issued, proof, wants_cookie};
use super::call::{Call, append_cookies};
use super::error::Failure;
use super::pages::Shell;
use super::register::display_name;
use super::{Caller, reply, view};
use crate::auth::account::ProfileChange;
use crate::model::User;
use crate::wire::body::Body;

/// `GET A/auth/me`.
pub(super) async fn show(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    call.query()?.finish()?;
    let user = match call.caller {
        Caller::ApiToken { identity, .. } => call.auth().user(identity.user).await?,
        Caller::Session { session, .. } => call.auth().profile(session).await?,
        Caller::Nobody | Caller::Refused | Caller::StoreAway | Caller::Basic(_) => call.auth().user(call.signed()?.identity.user).await?,
    };
    Ok(profile(&user))
}

fn profile(user: &User) -> Response<Body> {
    reply::json(StatusCode::OK, &json!({ "user": view::profile(user) }))
}

/// `PATCH A/auth/me`.
pub(super) async fn change(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut input = call.object()?;
    let change = ProfileChange { display_name: display_name(&mut input)?, avatar: input.nullable_text("avatar")? };
    input.finish()?;
    let user = call.auth().change_profile(signed.session, change, &call.client, call.now()).await?;
    Ok(profile(&user))
}

/// `DELETE A/auth/me`.
pub(super) async fn delete(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut input = call.object()?;
    let password = input.secret("password")?;
    let proof = proof(&mut input)?;
    input.finish()?;
    call.auth().delete_account(signed.session, password, proof.as_ref(), &call.client, call.now()).await?;
    let mut response = reply::json(StatusCode::OK, &json!({ "deleted": true }));
    if signed.from_cookie {
        append_cookies(&mut response, call.web.expired_cookies());
    }
    Ok(response)
}

/// `POST A/auth/password`.
pub(super) async fn password(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut input = call.object()?;
    let (current, new) = (input.secret("currentPassword")?, input.secret("newPassword")?);
    let proof = proof(&mut input)?;
    let cookie = wants_cookie(call, &mut input)? || signed.from_cookie;
    input.finish()?;
    let new = call.auth().change_password(signed.session, current, new, proof.as_ref(), cookie, &call.client, call.now()).await?;
    Ok(issued(call, StatusCode::OK, fields([]), &new, cookie))
}

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage<'a> {
    shell: Shell<'a>,
    user: &'a User,
}

/// `GET P/account`.
pub(super) async fn page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let user = call.auth().profile(call.signed()?.session).await?;
    Ok(reply::page(StatusCode::OK, &AccountPage { shell: call.web.shell(), user: &user }))
}
