//! Whether a form that changes something was meant by the person whose cookies it carries: a token that only a page of
//! ours, shown in this browser, has. Where a request comes from is `wire::context`'s to say.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

use crate::auth::Auth;
use crate::model::SessionId;

/// The token of a form: good in the browser with this pre-session cookie, for this form and, where the form is about a
/// session, for that session. There is nothing to keep and nothing that runs out (requirement: login CSRF too).
pub(super) fn token(auth: &Auth, pre: &str, form: &str, session: Option<SessionId>) -> String {
    let session = session.map(|id| id.to_string()).unwrap_or_default();
    let mac = auth.browser_mac("csrf", format!("{form}\n{session}\n{pre}").as_bytes());
    URL_SAFE_NO_PAD.encode(mac.as_bytes())
}

/// Whether `sent` is [`token`].
pub(super) fn is_genuine(auth: &Auth, sent: &str, pre: &str, form: &str, session: Option<SessionId>) -> bool {
    token(auth, pre, form, session).as_bytes().ct_eq(sent.as_bytes()).into()
}

/// What ties a pending login to the browser that began it. The cookie itself would not do: the pending token can be
/// read by whoever reads the page (requirement JWT-2).
pub(super) fn browser_binding(auth: &Auth, pre: &str) -> String {
    URL_SAFE_NO_PAD.encode(auth.browser_mac("pending", pre.as_bytes()).as_bytes())
}
