//! Personal API tokens of one's own account.

use http::{Response, StatusCode};
use serde_json::json;

use super::call::Call;
use super::error::Failure;
use super::input::Problem;
use super::{reply, view};
use crate::auth::Error;
use crate::auth::token::NewToken;
use crate::model::ApiTokenId;
use crate::wire::body::Body;

/// `GET A/auth/tokens`.
pub(super) async fn list(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    call.query()?.finish()?;
    let tokens = call.auth().api_tokens(call.signed()?.session).await?;
    let tokens: Vec<_> = tokens.iter().map(view::api_token).collect();
    Ok(reply::json(StatusCode::OK, &json!({ "tokens": tokens })))
}

/// `POST A/auth/tokens`: the only answer that ever holds the secret.
pub(super) async fn create(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut input = call.object()?;
    let new = NewToken {
        id: ApiTokenId::new(),
        name: input.text("name")?,
        expires_at: input.optional_time("expiresAt")?,
        paths: input.texts("paths")?,
        methods: input.texts("methods")?,
        networks: input.texts("networks")?,
    };
    let password = input.optional_secret("currentPassword")?;
    input.finish()?;
    let (secret, token) = call.auth().create_api_token(signed.session, new, password.into(), &call.client, call.now()).await?;
    let mut body = view::api_token(&token);
    if let Some(fields) = body.as_object_mut() {
        fields.remove("lastUsedAt");
        fields.insert("token".into(), secret.expose().as_str().into());
    }
    Ok(reply::json(StatusCode::CREATED, &body))
}

/// `DELETE A/auth/tokens?id=`.
pub(super) async fn delete(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut query = call.query()?;
    let id = query.take("id").ok_or_else(|| Problem::new("id", "is required"))?;
    query.finish()?;
    let mut input = call.optional_object()?;
    let password = input.optional_secret("currentPassword")?;
    input.finish()?;
    let id = id.parse().map_err(|_| Error::NotFound)?;
    call.auth().delete_api_token(signed.session, id, password.into(), &call.client, call.now()).await?;
    Ok(reply::json(StatusCode::OK, &json!({ "deleted": true })))
}
