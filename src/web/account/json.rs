//! One's own account by the JSON API: the profile, the password, and its end.

use http::{Response, StatusCode};
use serde_json::json;

use crate::auth::account::ProfileChange;
use crate::model::User;
use crate::web::api::{fields, issued, proof, wants_cookie};
use crate::web::call::{Call, append_cookies};
use crate::web::error::Failure;
use crate::web::register::display_name;
use crate::web::{Caller, reply, view};
use crate::wire::body::Body;

/// `GET A/auth/me`.
pub(in crate::web) async fn show(call: &Call<'_>) -> Result<Response<Body>, Failure> {
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
pub(in crate::web) async fn change(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut input = call.object()?;
    let change = ProfileChange { display_name: display_name(&mut input)?, avatar: input.nullable_text("avatar")? };
    input.finish()?;
    let user = call.auth().change_profile(signed.session, change, &call.client, call.now()).await?;
    Ok(profile(&user))
}

/// `DELETE A/auth/me`.
pub(in crate::web) async fn delete(call: &Call<'_>) -> Result<Response<Body>, Failure> {
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
pub(in crate::web) async fn password(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut input = call.object()?;
    let (current, new) = (input.secret("currentPassword")?, input.secret("newPassword")?);
    let proof = proof(&mut input)?;
    let cookie = wants_cookie(call, &mut input)? || signed.from_cookie;
    input.finish()?;
    let new = call.auth().change_password(signed.session, current, new, proof.as_ref(), cookie, &call.client, call.now()).await?;
    Ok(issued(call, StatusCode::OK, fields([]), &new, cookie))
}
