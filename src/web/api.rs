//! What several routes of the JSON API share.

use http::{Response, StatusCode};
use serde_json::{Map, Value};

use super::call::Call;
use super::error::Failure;
use super::input::{Object, Problem};
use super::reply;
use crate::auth::Issued;
use crate::auth::login::SecondFactor;
use crate::wire::body::Body;
use crate::wire::context::Source;

/// Takes `"cookie": true` out of a request. A page of another site may not put a session into a browser.
pub(super) fn wants_cookie(call: &Call<'_>, input: &mut Object) -> Result<bool, Failure> {
    let wants = input.optional_truth("cookie")?.unwrap_or(false);
    if wants && call.source() == Source::Foreign { Err(Failure::CrossSite) } else { Ok(wants) }
}

/// Takes `verificationCode` or `recoveryCode` out of a request.
pub(super) fn proof(input: &mut Object) -> Result<Option<SecondFactor>, Problem> {
    let code = input.optional_text("verificationCode")?;
    let recovery = input.optional_text("recoveryCode")?;
    match (code, recovery) {
        (Some(_), Some(_)) => Err(Problem::new("recoveryCode", "can't be sent together with verificationCode")),
        (Some(code), None) => Ok(Some(SecondFactor::Code(code))),
        (None, Some(code)) => Ok(Some(SecondFactor::Recovery(code))),
        (None, None) => Ok(None),
    }
}

/// The answer that hands out a token: in the body, or where it belongs into the cookie only there. A token that came
/// in a cookie never leaves it (requirement XSS-1).
pub(super) fn issued(call: &Call<'_>, status: StatusCode, mut body: Map<String, Value>, issued: &Issued, cookie: bool) -> Response<Body> {
    body.insert("expiresAt".into(), issued.expires_at.to_string().into());
    if cookie || issued.cookie {
        let mut response = reply::json(status, &Value::Object(body));
        call.set_session(&mut response, issued);
        return response;
    }
    body.insert("token".into(), issued.token.expose().as_str().into());
    reply::json(status, &Value::Object(body))
}

/// An object for [`issued`].
pub(super) fn fields<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
