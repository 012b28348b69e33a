//! What is the same for everybody: whether we are here, and what the API looks like.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::reply;
use crate::wire::body::Body;

/// `GET A/health`.
pub(super) fn health() -> Response<Body> {
    reply::json(StatusCode::OK, &json!({ "service": "nullpass", "version": env!("CARGO_PKG_VERSION"), "status": "ok" }))
}

const OPENAPI: &str = include_str!("openapi.json");

/// The API's description with the prefix that is in use.
pub(super) fn openapi(prefix: &str) -> String {
    OPENAPI.replace("\"/_auth\"", &Value::from(prefix).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_names_the_prefix_in_use() {
        let described: Value = serde_json::from_str(&openapi("/_sso")).unwrap();
        assert_eq!(described["servers"][0]["url"], "/_sso");
        assert_eq!(described["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
