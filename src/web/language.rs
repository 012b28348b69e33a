//! The switch of the language: a cookie that changes nothing but the words, so a link may set it.

use std::time::Duration;

use http::{Response, StatusCode};

use super::call::{Call, append_cookies};
use super::languages::Language;
use super::reply;
use crate::wire::body::Body;

/// How long a choice is remembered.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// `GET P/language?set=de&rd=/…`: remembers the language and goes back. One that there is not changes nothing.
pub(super) fn choose(call: &Call<'_>) -> Response<Body> {
    let mut query = call.query().unwrap_or_default();
    let rd = call.return_to(&mut query);
    let mut response = reply::redirect(StatusCode::SEE_OTHER, &rd);
    if let Some(language) = query.take("set").as_deref().and_then(Language::from_tag) {
        let cookies = &call.web.settings.cookies;
        append_cookies(&mut response, cookies.set(&cookies.language, language.tag(), Some(YEAR)).ok());
    }
    response
}
