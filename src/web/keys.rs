//! The public keys that tokens and assertions can be verified with.

use http::{Response, StatusCode};

use super::call::Call;
use super::reply;
use crate::wire::body::Body;

/// `GET P/.well-known/jwks.json` (RFC 7517).
pub(super) fn jwks(call: &Call<'_>) -> Response<Body> {
    reply::json(StatusCode::OK, &call.auth().jwks())
}
