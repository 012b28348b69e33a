//! Where one is signed in, and ending that.

use askama::Template;
use http::Response;

use super::paging::{Paging, same_page};
use super::{Form, Frame, Notice, Tab, device_text, done};
use crate::auth::{Error, SessionView};
use crate::model::SessionId;
use crate::web::call::{Call, append_cookies};
use crate::web::error::Failure;
use crate::web::languages::{Filled, Texts};
use crate::web::pages::{self, FormProblem, Shell, Shown};
use crate::web::reply;
use crate::wire::body::Body;

const FORM: &str = "account/sessions";

/// This page.
const HERE: &str = "/account/sessions";

/// Sessions on a page: in every language it stays below 15 kB with its style and script.
const PER_PAGE: usize = 5;

#[derive(Template)]
#[template(path = "account_sessions.html")]
struct Page<'a> {
    shell: Shell<'a>,
    t: &'static Texts,
    frame: Frame,
    csrf: &'a str,
    problem: Shown<'a>,
    sessions: &'a [Row],
    paging: Paging,
    /// Whether there are sessions beside this one, on whatever page.
    others: bool,
}

/// A session as its owner sees it.
struct Row {
    id: SessionId,
    device: String,
    address: Option<String>,
    current: bool,
    seen: Filled,
    began: Filled,
    began_at: String,
}

/// `GET P/account/sessions`.
pub(in crate::web) async fn page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    show(call, None).await
}

async fn show(call: &Call<'_>, problem: Option<&FormProblem>) -> Result<Response<Body>, Failure> {
    let session = call.signed()?.session;
    let mut views = call.auth().sessions(session.user(), call.now()).await?;
    // This one first, then the latest.
    views.sort_by_key(|view| (view.session.id != session.id, std::cmp::Reverse(view.session.last_seen_at)));
    let others = views.len() > 1;
    let paging = Paging::cut(call, PER_PAGE, &mut views);
    let sessions: Vec<_> = views.into_iter().map(|view| shown(call, view, session.id)).collect();
    let sealed = call.seal_form(FORM, Some(session.id));
    let page = Page {
        shell: super::shell(call),
        t: call.texts(),
        frame: Frame::new(call, Tab::Sessions)?,
        csrf: &sealed.token,
        problem: Shown(problem),
        sessions: &sessions,
        paging,
        others,
    };
    Ok(pages::form(&page, problem, &sealed))
}

fn shown(call: &Call<'_>, view: SessionView, current: SessionId) -> Row {
    let (t, session) = (call.texts(), view.session);
    let current = session.id == current;
    // The request that shows this page has not been written down yet.
    let seen = if current { call.now() } else { session.last_seen_at };
    Row {
        id: session.id,
        device: device_text(t, view.user_agent.as_deref()),
        address: view.ip,
        current,
        seen: t.ago(seen, call.now()),
        began: t.date_time(session.created_at),
        began_at: session.created_at.to_string(),
    }
}

/// `POST P/account/sessions`: ends one by its `id`, or all `others`.
pub(in crate::web) async fn form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Form::read(call)?;
    let (id, others) = (form.text("id"), form.fields.filled("others").is_some());
    if let Err(stale) = form.check(call, FORM) {
        return show(call, Some(&stale)).await;
    }
    let (user, own) = (form.signed.session.user(), form.signed.session.id);
    if others {
        call.auth().end_all_sessions(user, Some(own), &call.client, call.now()).await?;
        return Ok(done(call, Notice::Others, HERE, own));
    }
    // What is somebody else's, has ended or never was can't be told apart.
    let ended = match id.parse() {
        Ok(id) => call.auth().end_own_session(user, id, &call.client, call.now()).await.map(|()| id),
        Err(_) => Err(Error::NotFound),
    };
    match ended {
        Ok(id) if id == own => {
            let mut response = reply::redirect(http::StatusCode::SEE_OTHER, &call.own("/logout"));
            append_cookies(&mut response, call.web.expired_cookies());
            Ok(response)
        }
        Ok(_) => Ok(done(call, Notice::Session, &same_page(call, HERE), own)),
        Err(Error::NotFound) => Ok(done(call, Notice::Gone, &same_page(call, HERE), own)),
        Err(error) => Err(error.into()),
    }
}
