//! What happened to one's account, in plain words.

use askama::Template;
use http::{Response, StatusCode};

use super::paging::Paging;
use super::{Frame, Tab, device_text};
use crate::auth::audit::EventView;
use crate::model::{Action, Outcome};
use crate::web::call::Call;
use crate::web::error::Failure;
use crate::web::languages::{Filled, Texts};
use crate::web::pages::Shell;
use crate::web::reply;
use crate::wire::body::Body;

/// Events on a page: a page with its style and script stays below 15 kB.
const PER_PAGE: usize = 10;

#[derive(Template)]
#[template(path = "account_activity.html")]
struct Page<'a> {
    shell: Shell<'a>,
    t: &'static Texts,
    frame: Frame,
    events: &'a [Row],
    paging: Paging,
}

/// An event as the person it is about sees it.
struct Row {
    text: &'static str,
    failed: bool,
    by_others: bool,
    device: Option<String>,
    address: Option<String>,
    at: String,
    when: Filled,
}

/// `GET P/account/activity?page=`.
pub(in crate::web) async fn page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let session = call.signed()?.session;
    let (offset, limit) = Paging::window(call, PER_PAGE);
    let mut views = call.auth().own_events(session.user(), None, offset, limit).await?;
    let paging = Paging::of_window(call, PER_PAGE, &mut views);
    let rows: Vec<_> = views.into_iter().map(|view| row(call.texts(), view)).collect();
    let page = Page { shell: super::shell(call), t: call.texts(), frame: Frame::new(call, Tab::Activity)?, events: &rows, paging };
    Ok(reply::page(StatusCode::OK, &page))
}

fn row(t: &Texts, view: EventView) -> Row {
    let event = view.event;
    // What others do for a person is done at a terminal of theirs.
    let by_others = event.actor.is_some();
    Row {
        text: text(t, event.action),
        failed: event.outcome == Outcome::Failure,
        by_others,
        device: view.user_agent.filter(|_| !by_others).map(|user_agent| device_text(t, Some(&user_agent))),
        address: view.ip.filter(|_| !by_others),
        at: event.at.to_string(),
        when: t.date_time(event.at),
    }
}

/// Every action, so that a new one has to be put into words.
const fn text(t: &Texts, action: Action) -> &'static str {
    let events = &t.account.activity.events;
    match action {
        Action::UserRegister => events.user_register,
        Action::UserLogin => events.user_login,
        Action::UserLogout => events.user_logout,
        Action::UserUpdate => events.user_update,
        Action::UserDelete => events.user_delete,
        Action::UserDisable => events.user_disable,
        Action::UserEnable => events.user_enable,
        Action::UserUnlock => events.user_unlock,
        Action::SessionCreate => events.session_create,
        Action::SessionDelete => events.session_delete,
        Action::SessionRefresh => events.session_refresh,
        Action::PasswordChange => events.password_change,
        Action::TwoFactorEnable => events.two_factor_enable,
        Action::TwoFactorDisable => events.two_factor_disable,
        Action::RecoveryCodesCreate => events.recovery_codes_create,
        Action::RecoveryCodeUse => events.recovery_code_use,
        Action::TokenCreate => events.token_create,
        Action::TokenDelete => events.token_delete,
        Action::LoginFailed => events.login_failed,
        Action::TwoFactorFailed => events.two_factor_failed,
        Action::ReauthFailed => events.reauth_failed,
        Action::TokenReuse => events.token_reuse,
        Action::SetupComplete => events.setup_complete,
        Action::SigningKeyRotate => events.signing_key_rotate,
        Action::StorageKeyRotate => events.storage_key_rotate,
    }
}
