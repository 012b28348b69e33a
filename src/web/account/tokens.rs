//! Personal API tokens: what there is, making one that is shown once, and ending one.

use std::time::Duration;

use askama::Template;
use http::{Response, StatusCode};

use super::paging::{Paging, same_page};
use super::{Form, Frame, Notice, Tab, done, problem, shown_once, to, to_reauth};
use crate::auth::Error;
use crate::auth::token::NewToken;
use crate::model::{ApiToken, ApiTokenId};
use crate::web::call::Call;
use crate::web::error::Failure;
use crate::web::languages::{Filled, Texts};
use crate::web::pages::{self, FormProblem, Shell, Shown, brief};
use crate::wire::body::Body;

const NEW: &str = "account/tokens/new";
const END: &str = "account/tokens/end";

/// The list.
const LIST: &str = "/account/tokens";

/// Tokens on a page: in every language, and with limits as long as they may be, it stays below 15 kB with its style.
const PER_PAGE: usize = 5;

/// Characters of each kind of a token's limits that are shown.
const SHOWN: usize = 60;

/// Days that a new token can be good for; 0: until it is ended.
const DAYS: [u64; 5] = [7, 30, 90, 365, 0];

/// What is proposed.
const USUAL_DAYS: u64 = 90;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Template)]
#[template(path = "account_tokens.html")]
struct ListPage<'a> {
    shell: Shell<'a>,
    t: &'static Texts,
    frame: Frame,
    csrf: &'a str,
    problem: Shown<'a>,
    tokens: &'a [Row],
    paging: Paging,
}

/// A token as its owner sees it.
struct Row {
    id: ApiTokenId,
    name: String,
    made: Filled,
    expires: Option<Filled>,
    used: Option<Filled>,
    paths: Limits,
    methods: Limits,
    networks: Limits,
}

/// A list of a token's limits, as far as there is room for it.
struct Limits {
    shown: String,
    more: usize,
}

impl Limits {
    /// The first, and of the others those that fit.
    fn new(all: &[String]) -> Self {
        let mut room = SHOWN;
        let fits = |entry: &&String| {
            let length = entry.chars().count() + 1;
            let fits = length <= room;
            room = room.saturating_sub(length);
            fits
        };
        let most = all.iter().take_while(fits).count().max(1);
        let shown: Vec<_> = all.iter().take(most).map(|entry| brief(entry, SHOWN)).collect();
        Self { more: all.len() - shown.len(), shown: shown.join(" ") }
    }
}

impl Row {
    fn new(call: &Call<'_>, token: &ApiToken) -> Self {
        let t = call.texts();
        let networks: Vec<_> = token.scope.networks.iter().map(ToString::to_string).collect();
        Self {
            id: token.id,
            name: token.name.as_str().to_owned(),
            made: t.date(token.created_at),
            expires: token.expires_at.map(|end| t.date_time(end)),
            used: token.last_used_at.map(|used| t.ago(used, call.now())),
            paths: Limits::new(&token.scope.paths),
            methods: Limits::new(&token.scope.methods),
            networks: Limits::new(&networks),
        }
    }
}

/// `GET P/account/tokens`.
pub(in crate::web) async fn page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    show_list(call, None).await
}

async fn show_list(call: &Call<'_>, problem: Option<&FormProblem>) -> Result<Response<Body>, Failure> {
    let session = call.signed()?.session;
    let mut tokens = call.auth().api_tokens(session).await?;
    tokens.retain(|token| token.expires_at.is_none_or(|end| end > call.now()));
    tokens.sort_by_key(|token| std::cmp::Reverse(token.created_at));
    let paging = Paging::cut(call, PER_PAGE, &mut tokens);
    let rows: Vec<_> = tokens.iter().map(|token| Row::new(call, token)).collect();
    let sealed = call.seal_form(END, Some(session.id));
    let page = ListPage {
        // There is nothing for the script to do.
        shell: call.shell(),
        t: call.texts(),
        frame: Frame::new(call, Tab::Tokens)?,
        csrf: &sealed.token,
        problem: Shown(problem),
        tokens: &rows,
        paging,
    };
    Ok(pages::form(&page, problem, &sealed))
}

/// Where in making a token the person is.
enum Step<'a> {
    /// What it is to be, under this identifier.
    Ask(&'a Typed, ApiTokenId),
    /// It is made, and this is it.
    Done(&'a ApiToken, &'a str),
    /// It was made and shown before.
    Shown,
}

/// What was typed.
struct Typed {
    name: String,
    days: u64,
    paths: String,
    methods: String,
    networks: String,
}

impl Typed {
    fn take(form: &mut Form<'_>) -> Self {
        let days = form.text("expires").parse().ok().filter(|days| DAYS.contains(days)).unwrap_or(USUAL_DAYS);
        let [name, paths, methods, networks] = ["name", "paths", "methods", "networks"].map(|field| form.text(field));
        Self { name, days, paths, methods, networks }
    }

    fn token(&self, call: &Call<'_>, id: ApiTokenId) -> NewToken {
        let list =
            |text: &str| text.split(|c: char| c.is_whitespace() || c == ',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        NewToken {
            id,
            name: self.name.clone(),
            expires_at: u32::try_from(self.days).ok().filter(|days| *days > 0).map(|days| call.now().plus(DAY * days)),
            paths: list(&self.paths),
            methods: list(&self.methods.to_ascii_uppercase()),
            networks: list(&self.networks),
        }
    }
}

#[derive(Template)]
#[template(path = "account_token.html")]
struct NewPage<'a> {
    shell: Shell<'a>,
    t: &'static Texts,
    frame: Frame,
    csrf: &'a str,
    problem: Shown<'a>,
    step: Step<'a>,
}

/// `GET P/account/tokens/new`.
pub(in crate::web) fn new_page(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    if Frame::new(call, Tab::Tokens)?.confirm {
        return Ok(to_reauth(call, &call.own("/account/tokens/new")));
    }
    let typed = Typed { name: String::new(), days: USUAL_DAYS, paths: String::new(), methods: String::new(), networks: String::new() };
    show_new(call, Step::Ask(&typed, ApiTokenId::new()), None)
}

fn show_new(call: &Call<'_>, step: Step<'_>, problem: Option<&FormProblem>) -> Result<Response<Body>, Failure> {
    let sealed = call.seal_form(NEW, Some(call.signed()?.session.id));
    let shell = if matches!(step, Step::Done(..)) { shown_once(call) } else { super::shell(call) };
    let page =
        NewPage { shell, t: call.texts(), frame: Frame::new(call, Tab::Tokens)?, csrf: &sealed.token, problem: Shown(problem), step };
    Ok(pages::form(&page, problem, &sealed))
}

/// `POST P/account/tokens/new`: the only answer that ever shows the token.
pub(in crate::web) async fn new_form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Form::read(call)?;
    let typed = Typed::take(&mut form);
    // The form's own identifier makes its second arrival do nothing. Nobody gains by naming another: those that are
    // taken are refused.
    let id = form.text("id").parse().unwrap_or_else(|_| ApiTokenId::new());
    let confirmation = form.confirmation();
    if let Err(stale) = form.check(call, NEW) {
        return show_new(call, Step::Ask(&typed, id), Some(&stale));
    }
    let made = call.auth().create_api_token(form.signed.session, typed.token(call, id), confirmation, &call.client, call.now()).await;
    match made {
        Ok((secret, token)) => show_new(call, Step::Done(&token, secret.expose()), None),
        Err(Error::Conflict) => {
            let mut response = show_new(call, Step::Shown, None)?;
            *response.status_mut() = StatusCode::CONFLICT;
            Ok(response)
        }
        // A session that was begun without the second factor: there is a page for that.
        Err(Error::SecondFactorRequired) => Ok(to_reauth(call, &call.own("/account/tokens/new"))),
        Err(error) => show_new(call, Step::Ask(&typed, id), Some(&problem(call, error, "password"))),
    }
}

#[derive(Template)]
#[template(path = "account_token_end.html")]
struct EndPage<'a> {
    shell: Shell<'a>,
    t: &'static Texts,
    frame: Frame,
    csrf: &'a str,
    problem: Shown<'a>,
    token: &'a Row,
    /// Of the list's page that the token is on.
    query: &'a str,
}

/// `POST P/account/tokens/end`.
pub(in crate::web) async fn end_form(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let mut form = Form::read(call)?;
    let (id, confirmation) = (form.text("id"), form.confirmation());
    if let Err(stale) = form.check(call, END) {
        return show_list(call, Some(&stale)).await;
    }
    let session = form.signed.session;
    let gone = || Ok(done(call, Notice::Gone, &same_page(call, LIST), session.id));
    let Ok(id) = id.parse() else { return gone() };
    match call.auth().delete_api_token(session, id, confirmation, &call.client, call.now()).await {
        Ok(()) => Ok(done(call, Notice::Token, &same_page(call, LIST), session.id)),
        Err(Error::NotFound) => gone(),
        Err(error) => {
            let tokens = call.auth().api_tokens(session).await?;
            let Some(token) = tokens.iter().find(|token| token.id == id) else { return gone() };
            show_end(call, &Row::new(call, token), &problem(call, error, "password"))
        }
    }
}

/// Asks for the password before a token is ended.
fn show_end(call: &Call<'_>, token: &Row, problem: &FormProblem) -> Result<Response<Body>, Failure> {
    let sealed = call.seal_form(END, Some(call.signed()?.session.id));
    let page = EndPage {
        shell: super::shell(call),
        t: call.texts(),
        frame: Frame::new(call, Tab::Tokens)?,
        csrf: &sealed.token,
        problem: Shown(Some(problem)),
        token,
        query: &same_page(call, ""),
    };
    Ok(pages::form(&page, Some(problem), &sealed))
}

/// `GET P/account/tokens/end`: there is nothing to see, only to send.
pub(in crate::web) fn end_page(call: &Call<'_>) -> Response<Body> {
    to(call, &same_page(call, LIST))
}
