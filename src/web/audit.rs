//! What happened to one's own account.

use http::{Response, StatusCode};
use serde_json::json;

use super::call::Call;
use super::error::Failure;
use super::input::Problem;
use super::{reply, view};
use crate::model::Action;
use crate::wire::body::Body;

/// How many events an answer has at most, and without `limit`.
const MAX: usize = 200;
const USUAL: usize = 50;

/// How far back `offset` reaches.
const MAX_OFFSET: usize = 1_000_000;

/// `GET A/audit`.
pub(super) async fn list(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut query = call.query()?;
    let limit = query.number("limit", MAX)?.unwrap_or(USUAL);
    let offset = query.number("offset", MAX_OFFSET)?.unwrap_or(0);
    let action = match query.take("action") {
        Some(name) => Some(name.parse::<Action>().map_err(|_| Problem::new("action", "is not the name of an action"))?),
        None => None,
    };
    query.finish()?;
    let events = call.auth().own_events(signed.session.user(), action, offset, limit).await?;
    let events: Vec<_> = events.iter().map(view::event).collect();
    Ok(reply::json(StatusCode::OK, &json!({ "events": events })))
}
